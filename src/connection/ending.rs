//! The end of a connection: the last packet, the will, and what is still on its way to JetStream, which is not given up
//! because the client left.

use std::time::Duration;

use mqtt_codec::{Disconnect, Packet, ReasonCode, Version, Will};
use mqtt_session::Publication;
use tokio::io::{AsyncRead, AsyncWrite};

use super::io::Io;
use super::{Connection, Done, End};
use crate::broker::Mail;
use crate::listener::Peer;
use crate::metrics::{DisconnectReason, WillCause};

/// How long the last packets may take to leave.
const GOODBYE: Duration = Duration::from_secs(2);

/// How long publishes of a client that left are followed. The store gives up on each before that.
const LINGER: Duration = Duration::from_secs(60);

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
    /// Ends the session: nothing of it is left when this returns.
    pub(super) async fn finish(mut self, end: End, will: Option<Box<Will>>, peer: &Peer) {
        self.log_end(end, peer);
        if let End::ByServer(reason) = end
            && self.version == Version::V5
        {
            let (session_expiry_interval_s, server_reference, properties) = (None, None, None);
            self.send(&Packet::Disconnect(Disconnect { reason, session_expiry_interval_s, server_reference, properties }));
        }
        self.broker.forget_subscriptions(&self.mailbox, self.filters.drain());
        if let (Some(will), Some(cause)) = (will, will_cause(end)) {
            self.publish_will(*will, cause);
        }
        self.wakes.wake_all();
        let Connection { io, broker, mailbox, mut publishing, mut waiting, .. } = self;
        let follow = async {
            let mut mail = Mail::default();
            let mut answers = Vec::new();
            let mut wakes = crate::broker::Wakes::default();
            loop {
                mailbox.take(&mut mail);
                for (token, result) in mail.stored.drain(..) {
                    publishing.stored(token, result, &mut answers, &mut wakes);
                }
                wakes.wake_all();
                if let Some(wait) = waiting.take() {
                    if let Done::Permit(permit) = wait.await {
                        publishing.resume(permit);
                    }
                    continue;
                }
                waiting = super::wait_for(&broker, publishing.wanted());
                if waiting.is_none() {
                    if publishing.is_idle() {
                        return;
                    }
                    mailbox.notified().await;
                }
            }
        };
        let (_, followed) = tokio::join!(close_socket(io), tokio::time::timeout(LINGER, follow));
        if followed.is_err() {
            tracing::warn!(client_id = &*mailbox.client_id, "publishes of a client that left were given up");
        }
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

    /// Publishes the will as the client's last message, behind what it has published [MQTT-3.1.2-8].
    fn publish_will(&mut self, will: Will, cause: WillCause) {
        self.broker.metrics.will(cause);
        let publication = Publication {
            token: None,
            topic: will.topic,
            qos: will.qos,
            retain: will.retain,
            payload: will.payload,
            properties: will.properties,
        };
        if let Err((publication, refused)) = self.publishing.publish(publication, &mut self.wakes) {
            let client_id = self.mailbox.client_id.escape_debug().to_string();
            let topic = publication.topic.as_str().escape_debug().to_string();
            tracing::info!(client_id, topic, ?refused, "a will was refused");
        }
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
