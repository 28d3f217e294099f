//! Where clients are told to go that this sidecar lets go.

use bytestring::ByteString;
use mqtt_codec::ReasonCode;
use parking_lot::RwLock;

/// What clients are told when the process ends, or the listener that they came to. It may change while they are connected.
#[derive(Debug, Default)]
pub struct Redirect(RwLock<Option<Elsewhere>>);

/// Another server.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Elsewhere {
    server: ByteString,
    /// For ever, and not only this time.
    is_moved: bool,
}

impl Redirect {
    /// Names another server, or none. `is_moved`: clients are to remember it.
    pub fn set(&self, server: Option<&str>, is_moved: bool) {
        *self.0.write() = server.map(|server| Elsewhere { server: server.into(), is_moved });
    }

    /// Why clients are let go, as DISCONNECT says it.
    #[must_use]
    pub fn reason(&self) -> ReasonCode {
        match &*self.0.read() {
            None => ReasonCode::ServerShuttingDown,
            Some(Elsewhere { is_moved: false, .. }) => ReasonCode::UseAnotherServer,
            Some(Elsewhere { is_moved: true, .. }) => ReasonCode::ServerMoved,
        }
    }

    /// The Server Reference beside a reason.
    #[must_use]
    pub fn reference(&self, reason: ReasonCode) -> Option<ByteString> {
        if !matches!(reason, ReasonCode::UseAnotherServer | ReasonCode::ServerMoved) {
            return None;
        }
        self.0.read().as_ref().map(|elsewhere| elsewhere.server.clone())
    }
}

/// Whether a connection that ends for this reason finishes first what is in flight.
pub(crate) const fn is_drain(reason: ReasonCode) -> bool {
    matches!(reason, ReasonCode::ServerShuttingDown | ReasonCode::UseAnotherServer | ReasonCode::ServerMoved)
}

/// The same reason in CONNACK, which has none for a server that shuts down [MQTT-3.2.2-8].
pub(crate) const fn of_connack(reason: ReasonCode) -> ReasonCode {
    match reason {
        ReasonCode::ServerShuttingDown => ReasonCode::ServerUnavailable,
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use mqtt_codec::{PacketType, Role};

    use super::*;

    #[test]
    fn whoever_is_let_go_is_told_where_to_go() {
        let redirect = Redirect::default();
        for (server, is_moved, reason) in [
            (None, false, ReasonCode::ServerShuttingDown),
            (Some("b.example:8883"), false, ReasonCode::UseAnotherServer),
            (Some("b.example:8883"), true, ReasonCode::ServerMoved),
        ] {
            redirect.set(server, is_moved);
            assert_eq!(redirect.reason(), reason);
            assert_eq!(redirect.reference(reason).as_deref(), server);
            assert_eq!(redirect.reference(ReasonCode::ServerBusy), None);
            assert!(is_drain(reason) && reason.is_allowed_in(PacketType::Disconnect, Role::Server));
            let refusal = of_connack(reason);
            assert!(refusal.is_allowed_in(PacketType::ConnAck, Role::Server), "{refusal:?}");
            assert_eq!(refusal.connect_return_code(), 3);
        }
    }
}
