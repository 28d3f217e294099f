//! What NATS is told about this client, see `account::events`, and what the log is.

use std::time::Duration;

use bytestring::ByteString;
use mqtt_codec::{PacketId, ReasonCode, SubscribeEntry, TopicFilter};
use mqtt_session::{Publication, SubscribeRequest};
use tokio::io::{AsyncRead, AsyncWrite};

use super::Connection;
use super::parts::End;
use crate::account::{Event, EventDisconnect, EventSubscription, Refused, TooLarge};
use crate::store::StoredSubscription;

impl<S> Connection<S>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    fn tell_event(&self, event: impl FnOnce() -> Event) {
        self.account.events.tell(&self.control.client_id, self.account.node(), event);
    }

    /// A publish is refused.
    pub(super) fn log_refused(&self, publication: &Publication, refused: Refused) {
        tracing::info!(
            client_id = &*self.control.client_id,
            remote = %self.remote,
            topic = publication.topic.as_str().escape_debug().to_string(),
            reason_code = ?refused.reason_code(),
            why = refused.why(),
            "a publish was refused"
        );
        if refused == Refused::TooLarge {
            let too_large = TooLarge::Message(publication.payload.len());
            self.account.tell_size_refusal(&self.control.client_id, too_large);
        }
    }

    pub(super) fn log_subscribes(&self, requests: &[SubscribeRequest]) {
        if !tracing::enabled!(tracing::Level::DEBUG) {
            return;
        }
        for request in requests {
            let shown = |entry: &SubscribeEntry| match &entry.filter {
                Ok(filter) => format!("{} QoS {}", filter.as_str(), entry.options.qos as u8),
                Err(text) => format!("{text} (no filter)"),
            };
            let filters: Vec<String> = request.entries.iter().map(shown).collect();
            tracing::debug!(client_id = &*self.control.client_id, packet_id = %request.packet_id, ?filters, "SUBSCRIBE");
        }
    }

    pub(super) fn log_granted(&self, answers: &[(PacketId, Vec<ReasonCode>)]) {
        for (packet_id, reasons) in answers {
            tracing::debug!(client_id = &*self.control.client_id, %packet_id, ?reasons, "SUBACK");
        }
    }

    pub(super) fn tell_subscribed(&self, made: &[(TopicFilter, StoredSubscription)]) {
        if made.is_empty() {
            return;
        }
        self.tell_event(|| {
            let subscription = |(filter, stored): &(TopicFilter, StoredSubscription)| EventSubscription {
                filter: filter.as_str().to_owned(),
                qos: stored.qos,
            };
            Event::Subscribe { subscriptions: made.iter().map(subscription).collect() }
        });
    }

    pub(super) fn tell_unsubscribed(&self, filters: &[Result<TopicFilter, ByteString>], reasons: &[ReasonCode]) {
        let ended = filters.iter().zip(reasons).filter(|(_, reason)| **reason == ReasonCode::Success);
        let filters: Vec<String> =
            ended.filter_map(|(filter, _)| Some(filter.as_ref().ok()?.as_str().to_owned())).collect();
        if !filters.is_empty() {
            self.tell_event(|| Event::Unsubscribe { filters });
        }
    }

    pub(super) fn tell_disconnected(&self, end: End) {
        let (cause, reason_code) = match end {
            End::ByClient { with_will: false } => ("client", Some(ReasonCode::Success)),
            End::ByClient { with_will: true } => ("client", Some(ReasonCode::DisconnectWithWill)),
            End::Lost => ("connection_lost", None),
            End::ByServer(ReasonCode::KeepAliveTimeout) => ("keep_alive", Some(ReasonCode::KeepAliveTimeout)),
            End::ByServer(ReasonCode::SessionTakenOver) => ("taken_over", Some(ReasonCode::SessionTakenOver)),
            End::ByServer(reason) => ("server", Some(reason)),
        };
        let connected: Duration = self.started.elapsed();
        self.tell_event(|| {
            Event::Disconnect(EventDisconnect {
                remote: Some(self.remote),
                cause,
                reason_code: reason_code.map(|reason| reason as u8),
                connected: Some(connected),
            })
        });
    }
}
