//! The end of a connection: the last packet, the will, and what is still on its way to JetStream, which is not given up
//! because the client left.

use std::sync::Arc;
use std::time::Duration;

use mqtt_codec::{Disconnect, Packet, ReasonCode, Version, Will};
use mqtt_session::Publication;
use tokio::io::{AsyncRead, AsyncWrite};

use super::durable::Written;
use super::io::Io;
use super::{Connection, End};
use crate::broker::{Broker, Due, Owned, due, now_ms, progress_record};
use crate::listener::Peer;
use crate::metrics::{DisconnectReason, WillCause};
use crate::store::{ProgressRecord, WriteError};

/// How long the last packets may take to leave.
const GOODBYE: Duration = Duration::from_secs(2);

/// How long a goodbye waits for the will to be taken out of the record.
const DISARM: Duration = Duration::from_millis(500);

/// How long to wait before a write is tried again that JetStream did not take.
const RETRY: Duration = Duration::from_secs(1);

/// How often the last write of a session is tried.
const TRIES: usize = 60;

/// Writes what is left, and closes.
pub(super) async fn close_socket<S>(io: Io<S>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    // A peer that is gone is no news here.
    let _ = tokio::time::timeout(GOODBYE, io.finish()).await;
}

impl<S> Connection<S>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    /// Ends the connection: when this returns, what it published is settled, and its session is in JetStream or over.
    pub(super) async fn finish(mut self, end: End, will: Option<Box<Will>>, peer: &Peer) {
        self.log_end(end, peer);
        if let End::ByServer(reason) = end
            && self.version == Version::V5
        {
            let (session_expiry_interval_s, server_reference, properties) = (None, None, None);
            self.send(&Packet::Disconnect(Disconnect {
                reason,
                session_expiry_interval_s,
                server_reference,
                properties,
            }));
        }
        self.disarm_will(end).await;
        self.pass_what_is_read();
        let (_, progress) = self.session.progress();
        let last_progress =
            self.owned.as_ref().map(|owned| progress_record(owned.record.epoch, &progress, &self.broker.logs));
        self.mailbox.hand_over(last_progress.clone().filter(|_| self.session.is_durable()));
        self.broker.forget_subscriptions(&self.mailbox, self.filters.drain());
        if self.owned.is_none()
            && let (Some(will), Some(cause)) = (will, will_cause(end))
        {
            self.publish_will(*will, cause);
        }
        self.wakes.wake_all();
        let Connection { io, broker, mailbox, mut publishing, waiting, writing, mut owned, session, .. } = self;
        let settle = async {
            // One write at a time: what is under way goes first.
            if let Some(writing) = writing
                && let (Written::Record(Ok(sequence), _), Some(owned)) = (writing.await, &mut owned)
            {
                owned.sequence = sequence;
            }
            publishing.settle(&broker, &mailbox, waiting).await.is_some()
        };
        let (_, is_settled) = tokio::join!(close_socket(io), settle);
        if !is_settled {
            tracing::warn!(client_id = &*mailbox.client_id, "publishes of a client that left were given up");
        }
        if let (Some(owned), Some(progress)) = (owned, last_progress) {
            let expiry_s = session.parameters().session_expiry_s;
            let last = LastWrite { broker: &broker, end, expiry_s, progress };
            last.write(owned).await;
        }
        broker.detach(&mailbox);
    }

    /// A client that said goodbye has no will any more. That is written before the connection is closed, so that nobody
    /// publishes it who finds us dead; a goodbye does not wait for long, though.
    async fn disarm_will(&mut self, end: End) {
        let Some(owned) = self.owned.as_mut().filter(|owned| owned.record.will.is_some()) else { return };
        if end != (End::ByClient { with_will: false }) || self.writing.is_some() {
            return;
        }
        owned.record.will = None;
        let write = self.broker.store().sessions();
        let record = owned.record();
        if let Ok(Ok(sequence)) = tokio::time::timeout(DISARM, write.put_record(&record, owned.sequence, None)).await {
            owned.sequence = sequence;
        }
    }

    fn log_end(&self, end: End, peer: &Peer) {
        let client_id = self.mailbox.client_id.escape_debug().to_string();
        let remote = peer.addr;
        let reason = match end {
            End::ByClient { .. } => DisconnectReason::Client,
            End::Lost => DisconnectReason::ConnectionLost,
            End::ByServer(reason) => DisconnectReason::Server(reason),
        };
        tracing::debug!(client_id, %remote, ?reason, "disconnected");
        self.broker.metrics.disconnect(reason);
    }

    /// Publishes the will as the client's last message, behind what it has published [MQTT-3.1.2-8].
    fn publish_will(&mut self, will: Will, cause: WillCause) {
        self.broker.metrics.will(cause);
        let publication = Publication {
            token: None,
            once: None,
            topic: will.topic,
            qos: will.qos,
            retain: will.retain,
            payload: will.payload,
            properties: will.properties,
        };
        if let Err(refusal) = self.publishing.publish(publication, &mut self.wakes) {
            let (publication, refused) = *refusal;
            let client_id = self.mailbox.client_id.escape_debug().to_string();
            let topic = publication.topic.as_str().escape_debug().to_string();
            tracing::info!(client_id, topic, ?refused, "a will was refused");
        }
    }
}

/// The last writes of a connection: its progress, its will, and its record without an owner, or the end of the session.
struct LastWrite<'a> {
    broker: &'a Arc<Broker>,
    end: End,
    expiry_s: u32,
    progress: ProgressRecord,
}

impl LastWrite<'_> {
    /// Writes until it is done, or somebody else owns the session.
    async fn write(&self, mut owned: Owned) {
        let client_id = owned.record.client_id.clone();
        for _ in 0..TRIES {
            match self.try_write(&mut owned).await {
                Ok(()) => return,
                Err(WriteError::TooLarge) => return tracing::error!(client_id, "a session is too large to be kept"),
                // Fenced by somebody else, or by a write of ours that was not answered and was done all the same.
                Err(WriteError::Fenced) => {}
                Err(WriteError::Unavailable { reason }) => {
                    tracing::debug!(client_id, reason, "the end of a connection waits for JetStream");
                    tokio::time::sleep(RETRY).await;
                }
            }
            if let Ok(loaded) = self.broker.store().sessions().load(&client_id).await {
                // Who owns the session now takes care of the rest.
                let Some(record) = loaded.record.filter(|record| record.epoch == owned.record.epoch) else { return };
                owned.record.will = record.will;
                owned.record.last_wills = record.last_wills;
                owned.sequence = loaded.sequence;
            }
        }
        tracing::error!(client_id, "the end of a connection could not be written; its session looks connected");
    }

    async fn try_write(&self, owned: &mut Owned) -> Result<(), WriteError> {
        let sessions = self.broker.store().sessions();
        let client_id = owned.record.client_id.clone();
        owned.record.expiry_s = self.expiry_s;
        let mut record = owned.record();
        record.connected = false;
        record.disconnected_at_ms = Some(now_ms());
        if self.expiry_s > 0 {
            let ttl_s = Broker::progress_ttl(&record);
            sessions.put_progress(&client_id, &self.progress, owned.sequence, ttl_s).await?;
        }
        let cause = will_cause(self.end);
        let wait = record.will.as_ref().filter(|_| cause.is_some()).map(|will| due(will, self.expiry_s));
        match (wait, cause) {
            (Some(Due::Now), Some(cause)) => {
                (owned.record, owned.sequence) = self.broker.fire(record, owned.sequence, cause).await?;
            }
            (Some(Due::InMs(ms)), _) => {
                if let Some(will) = &mut record.will {
                    will.due_at_ms = Some(now_ms() + ms);
                }
                // Whose timer it is: when we are gone, somebody else's.
                owned.sequence = sessions.put_record(&record, owned.sequence, Broker::ttl(&record)).await?;
                self.broker.put_in_order(client_id, record.epoch, ms, WillCause::ConnectionLost);
                return Ok(());
            }
            _ if self.expiry_s > 0 => {
                record.will = None;
                record.owner = None;
                owned.sequence = sessions.put_record(&record, owned.sequence, Broker::ttl(&record)).await?;
            }
            _ => {}
        }
        if self.expiry_s == 0 {
            sessions.end(&client_id, owned.sequence).await?;
        }
        Ok(())
    }
}

/// Why the will is published; `None` when it is not [MQTT-3.1.2-10].
fn will_cause(end: End) -> Option<WillCause> {
    match end {
        End::ByClient { with_will: false } => None,
        End::ByClient { with_will: true } => Some(WillCause::Requested),
        End::Lost => Some(WillCause::ConnectionLost),
        End::ByServer(ReasonCode::KeepAliveTimeout) => Some(WillCause::KeepAlive),
        End::ByServer(ReasonCode::SessionTakenOver) => Some(WillCause::TakenOver),
        End::ByServer(_) => Some(WillCause::ServerClosed),
    }
}
