//! What NATS is told about this client: see `broker::events`.

use std::time::Duration;

use bytestring::ByteString;
use mqtt_codec::{ReasonCode, TopicFilter};
use tokio::io::{AsyncRead, AsyncWrite};

use super::handshake::Greeted;
use super::{Connection, End};
use crate::broker::{Attached, Broker, Event, EventConnect, EventDisconnect, EventSubscription, protocol};
use crate::listener::Peer;
use crate::store::StoredSubscription;

/// A client was accepted.
pub(super) fn tell_connected(broker: &Broker, greeted: &Greeted, attached: &Attached, peer: &Peer) {
    let Greeted { connect, negotiated, .. } = greeted;
    broker.events.tell(&negotiated.client_id, broker.node(), || {
        Event::Connect(EventConnect {
            remote: peer.addr,
            listener: peer.listener.to_string(),
            protocol: protocol(connect.version),
            username: connect.username.as_ref().map(ToString::to_string),
            clean_start: connect.clean_start,
            session_present: attached.is_present,
            session_expiry_s: negotiated.parameters.session_expiry_s,
            keep_alive_s: negotiated.parameters.keep_alive_s,
        })
    });
}

impl<S> Connection<S>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    fn tell_event(&self, event: impl FnOnce() -> Event) {
        self.broker.events.tell(&self.mailbox.client_id, self.broker.node(), event);
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

    pub(super) fn tell_disconnected(&self, end: End, peer: &Peer) {
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
                remote: Some(peer.addr),
                cause,
                reason_code: reason_code.map(|reason| reason as u8),
                connected_ms: u64::try_from(connected.as_millis()).ok(),
            })
        });
    }
}
