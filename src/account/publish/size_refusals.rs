//! What is refused for its size: who runs this is told once of each client, with what to set where. The same message comes again
//! and again otherwise, since no client does anything else with a message that is too large than to send it once more.

use std::collections::HashSet;

use bytestring::ByteString;
use parking_lot::Mutex;

use crate::metrics::Limit;

/// Room that a packet leaves in `max_payload` for what we add to its message: headers, mostly.
pub(crate) const HEADER_ROOM: usize = 8 * 1024;

/// Clients that are remembered; when there are more, all are forgotten.
const CLIENTS_MAX: usize = 1_000;

/// Clients that were told of.
#[derive(Debug, Default)]
pub(crate) struct SizeRefusals(Mutex<HashSet<ByteString>>);

impl SizeRefusals {
    fn is_first(&self, client_id: &ByteString) -> bool {
        let mut told = self.0.lock();
        if told.len() >= CLIENTS_MAX {
            told.clear();
        }
        told.insert(client_id.clone())
    }

    /// Something of a client was refused for its size. `packet_max`: the largest packet that is taken. `payload_max`: the
    /// largest message that nats-server takes.
    pub(crate) fn tell(&self, client_id: &ByteString, what: TooLarge, packet_max: usize, payload_max: usize) {
        if self.is_first(client_id) {
            let (raise, now) = what.remedy(packet_max, payload_max);
            let bytes = what.bytes();
            tracing::warn!(
                client_id = &**client_id,
                bytes,
                now,
                raise,
                "refused for its size; what has to be raised is named"
            );
        }
    }
}

/// What was too large.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TooLarge {
    /// A packet of this size, for `mqtt.max_packet_size`.
    Packet(usize),
    /// A message of about this size, for NATS.
    Message(usize),
}

impl TooLarge {
    /// What has to be larger, and what it is now. `packet_max`: the largest packet that is taken. `payload_max`: the largest
    /// message that nats-server takes.
    fn remedy(self, packet_max: usize, payload_max: usize) -> (&'static str, usize) {
        match self {
            Self::Packet(_) if packet_max + HEADER_ROOM < payload_max => {
                ("mqtt.max_packet_size of nats-mqtt", packet_max)
            }
            Self::Message(bytes) if bytes + HEADER_ROOM < payload_max => ("max_msg_size of the stream", bytes),
            Self::Packet(_) | Self::Message(_) => {
                ("max_payload in the configuration of nats-server; then restart nats-mqtt", payload_max)
            }
        }
    }

    /// The limit that it is beyond.
    pub(crate) const fn limit(self) -> Limit {
        match self {
            Self::Packet(_) => Limit::PacketSize,
            Self::Message(_) => Limit::MessageSize,
        }
    }

    const fn bytes(self) -> usize {
        match self {
            Self::Packet(bytes) | Self::Message(bytes) => bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_small_is_named() {
        let raise = |what: TooLarge, packet_max, payload_max| what.remedy(packet_max, payload_max).0;
        let (kib, mib) = (1 << 10, 1 << 20);
        // By default a packet may be what max_payload leaves.
        assert!(raise(TooLarge::Packet(1_100_000), mib - HEADER_ROOM, mib).starts_with("max_payload"));
        assert!(raise(TooLarge::Packet(1_100_000), 8 * mib, mib).starts_with("max_payload"));
        assert!(raise(TooLarge::Packet(300 * kib), 256 * kib, mib).starts_with("mqtt.max_packet_size"));
        assert!(raise(TooLarge::Message(1_100_000), 8 * mib, mib).starts_with("max_payload"));
        assert!(raise(TooLarge::Message(100 * kib), mib - HEADER_ROOM, mib).starts_with("max_msg_size"));
    }

    #[test]
    fn each_client_is_told_of_once() {
        let refusals = SizeRefusals::default();
        let id = |number: usize| ByteString::from(number.to_string());
        assert!(refusals.is_first(&id(0)));
        assert!(!refusals.is_first(&id(0)));
        (1..CLIENTS_MAX).for_each(|number| assert!(refusals.is_first(&id(number))));
        assert!(refusals.is_first(&id(CLIENTS_MAX)), "and then from the beginning");
        assert!(refusals.0.lock().len() <= CLIENTS_MAX);
    }
}
