//! The end of a connection: the last packet, the will, and what is still on its way to JetStream, which is not given up
//! because the client left.

use std::sync::Arc;
use std::time::Duration;

use mqtt_codec::{Disconnect, Packet, ReasonCode, Version};
use tokio::io::{AsyncRead, AsyncWrite};

use super::durable::Written;
use super::io::Io;
use super::{Connection, End, Eventual};
use crate::broker::{Broker, Due, Mailbox, Owned, Share, due, progress_record};
use crate::listener::Peer;
use crate::metrics::{DisconnectReason, Metrics, WillCause};
use crate::store::{ProgressRecord, SessionRecord, WriteError};

/// How long the last packets may take to leave.
const GOODBYE: Duration = Duration::from_secs(2);

/// How long a connection stays open whose client has said goodbye, until its will is taken back. Longer than a leader takes
/// to be elected.
const TAKE_BACK: Duration = Duration::from_secs(30);

/// How long to wait before a write is tried again that JetStream did not take; doubled each time.
const RETRY: Duration = Duration::from_millis(250);

/// The longest of these pauses.
const RETRY_MAX: Duration = Duration::from_secs(8);

/// Writes what is left, and closes.
pub(super) async fn close_socket<S>(mut io: Io<S>, metrics: &Metrics)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    // A peer that is gone is no news here.
    let _ = tokio::time::timeout(GOODBYE, io.finish()).await;
    let [received, sent] = io.uncounted;
    metrics.bytes(received, sent);
}

impl<S> Connection<S>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    /// Ends the connection: when this returns, what it published is settled, and its session is in JetStream or over.
    pub(super) async fn finish(mut self, end: End, peer: &Peer) {
        self.log_end(end, peer);
        self.tell_disconnected(end, peer);
        if end == End::ByServer(ReasonCode::SessionTakenOver) {
            self.mailbox.withdraw();
        }
        if let End::ByServer(reason) = end
            && self.version == Version::V5
        {
            let (session_expiry_interval_s, server_reference) = (None, None);
            let properties = self.reason_string(reason);
            self.send(&Packet::Disconnect(Disconnect {
                reason,
                session_expiry_interval_s,
                server_reference,
                properties,
            }));
        }
        self.pass_what_is_read();
        // What is saved may say that these are the session's, until it is saved once more without them.
        let doubtful: Vec<Share> = self.session.leave().into_iter().filter_map(|m| m.share).collect();
        doubtful.iter().for_each(Share::doubt);
        let claims = self.claims();
        let (_, progress) = self.session.progress();
        let last_progress = self.owned.as_ref().map(|owned| ProgressRecord {
            retained: self.retained.progress(),
            rest: owned.progress_rest.clone(),
            ..progress_record(owned.record.epoch, &progress, &claims, &self.broker.logs)
        });
        self.mailbox.hand_over(last_progress.clone().filter(|_| self.session.is_durable()));
        self.broker.forget_subscriptions(&self.mailbox, self.filters.drain());
        self.wakes.wake_all();
        let Connection { io, broker, mailbox, mut publishing, waiting, writing, owned, session, .. } = self;
        let expiry_s = session.parameters().session_expiry_s;
        let settle = async {
            if publishing.settle(&broker, &mailbox, waiting).await.is_none() {
                tracing::warn!(client_id = &*mailbox.client_id, "publishes of a client that left were given up");
            }
        };
        let last = owned.zip(last_progress).map(|(owned, progress)| LastWrite {
            broker: &broker,
            mailbox: &mailbox,
            end,
            expiry_s,
            progress,
            owned,
            writing,
        });
        let is_saved = match last {
            Some(last) if last.takes_back_a_will() => {
                tokio::join!(settle, close_behind(last.write(), io, &broker.metrics)).1
            }
            // A will comes behind what the client has published [MQTT-3.1.2-8].
            Some(mut last) => {
                tokio::join!(close_socket(io, &broker.metrics), settle, last.finish_writing());
                last.write().await
            }
            None => {
                tokio::join!(close_socket(io, &broker.metrics), settle);
                true
            }
        };
        // When somebody else owns the session now, what it saves decides, when they come again.
        doubtful.iter().for_each(if is_saved { Share::give_back } else { Share::settled });
        broker.detach(&mailbox);
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
}

/// Writes, and closes behind that: who waits for the connection to be closed knows that its will is off. A client that does
/// not wait loses nothing by it, and JetStream may be away for long, so the write goes on behind the closed socket then.
async fn close_behind<S>(write: impl Future<Output = bool>, io: Io<S>, metrics: &Metrics) -> bool
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut write = std::pin::pin!(write);
    let written = tokio::time::timeout(TAKE_BACK, &mut write).await;
    close_socket(io, metrics).await;
    match written {
        Ok(is_saved) => is_saved,
        Err(_) => write.await,
    }
}

/// The last writes of a connection: its progress, its will, and its record without an owner, or the end of the session.
struct LastWrite<'a> {
    broker: &'a Arc<Broker>,
    mailbox: &'a Mailbox,
    end: End,
    expiry_s: u32,
    progress: ProgressRecord,
    owned: Owned,
    /// A write that is under way: there is one at a time, so it goes first.
    writing: Option<Eventual<Written>>,
}

impl LastWrite<'_> {
    /// A client that said goodbye has no will any more [MQTT-3.14.4-3]. Until that is written, whoever finds us dead
    /// publishes it.
    fn takes_back_a_will(&self) -> bool {
        self.end == (End::ByClient { with_will: false }) && self.owned.record.will.is_some()
    }

    async fn finish_writing(&mut self) {
        if let Some(writing) = self.writing.take()
            && let Written::Record(Ok(sequence), _) = writing.await
        {
            self.owned.sequence = sequence;
        }
    }

    /// Writes until it is done, or somebody else owns the session. There are no more of these than connections that were
    /// there when JetStream went away, since those that need a record are refused meanwhile. Returns whether it is done.
    async fn write(mut self) -> bool {
        self.finish_writing().await;
        let client_id = self.owned.record.client_id.clone();
        let mut pause = RETRY;
        loop {
            match self.try_write().await {
                Ok(()) => return true,
                Err(WriteError::TooLarge) => {
                    tracing::error!(client_id, "a session is too large to be kept");
                    return false;
                }
                // Fenced by somebody else, or by a write of ours that was not answered and was done all the same.
                Err(WriteError::Fenced) => {}
                Err(WriteError::Unavailable { reason }) => {
                    tracing::debug!(client_id, reason, "the end of a connection waits for JetStream");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(RETRY_MAX);
                }
            }
            if let Ok(loaded) = self.broker.store().sessions().load(&client_id).await {
                let owned = &self.owned.record;
                let is_ours = |record: &SessionRecord| record.epoch == owned.epoch && record.owner == owned.owner;
                let Some(record) = loaded.record.filter(is_ours) else {
                    self.mailbox.withdraw();
                    // Who owns the session now, or has adopted it, takes care of the rest.
                    if self.expiry_s > 0 {
                        self.broker.keep_for_successor(self.mailbox).await;
                    }
                    return false;
                };
                self.owned.record.will = record.will;
                self.owned.record.last_wills = record.last_wills;
                self.owned.sequence = loaded.sequence;
            }
        }
    }

    async fn try_write(&mut self) -> Result<(), WriteError> {
        let owned = &mut self.owned;
        let sessions = self.broker.store().sessions();
        let client_id = owned.record.client_id.clone();
        owned.record.expiry_s = self.expiry_s;
        let mut record = owned.record();
        record.connected = false;
        let now_ms = self.broker.store().clock().now_ms();
        record.disconnected_at_ms = now_ms;
        if self.expiry_s > 0 {
            let ttl_s = self.broker.progress_ttl(&record);
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
                    will.due_at_ms = now_ms.map(|now_ms| now_ms + ms);
                }
                // Whose timer it is: when we are gone, somebody else's.
                owned.sequence = sessions.put_record(&record, owned.sequence, self.broker.ttl(&record)).await?;
                self.broker.put_in_order(client_id, record.epoch, ms, WillCause::ConnectionLost);
                return Ok(());
            }
            _ if self.expiry_s > 0 => {
                record.will = None;
                record.owner = None;
                owned.sequence = sessions.put_record(&record, owned.sequence, self.broker.ttl(&record)).await?;
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
