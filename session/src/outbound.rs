//! What the client is sent at QoS 1 and 2, from PUBLISH to its last acknowledgement. Nothing is sent twice while a
//! connection lives [MQTT-4.4.0-1].
//!
//! ```text
//! QoS 1: PUBLISH -> Sent -> PUBACK -> done
//! QoS 2: PUBLISH -> Sent -> PUBREC/PUBREL -> Released -> PUBCOMP -> done
//! ```

use std::collections::HashMap;
use std::num::NonZeroU16;

use mqtt_codec::{Packet, PacketId, QoS, ReasonCode, Version};

use crate::inbound::ack;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Sent,
    Released,
}

#[derive(Debug)]
struct InFlight {
    qos: QoS,
    state: State,
}

/// The deliveries of one connection that are not acknowledged in full.
#[derive(Debug)]
pub(crate) struct Outbound {
    window: usize,
    next: PacketId,
    in_flight: HashMap<PacketId, InFlight>,
    /// Acknowledgements for packet ids that were not in flight: ignored [BEHAVIOUR: clients that acknowledge what
    /// nobody sent must not lose their connection], but counted.
    pub(crate) unknown_acks: u64,
}

impl Outbound {
    pub(crate) fn new(window: u16) -> Self {
        Self {
            window: usize::from(window),
            next: PacketId(NonZeroU16::MIN),
            in_flight: HashMap::new(),
            unknown_acks: 0,
        }
    }

    /// How many more messages the client takes now.
    pub(crate) fn room(&self) -> usize {
        self.window.saturating_sub(self.in_flight.len())
    }

    /// Takes a packet id for a message of this QoS, or `None` when the window is full.
    pub(crate) fn send(&mut self, qos: QoS) -> Option<PacketId> {
        if self.room() == 0 {
            return None;
        }
        // The window is below 65,535, so a free id exists.
        while self.in_flight.contains_key(&self.next) {
            self.next = successor(self.next);
        }
        let id = self.next;
        self.next = successor(id);
        self.in_flight.insert(id, InFlight { qos, state: State::Sent });
        Some(id)
    }

    /// PUBACK: ends QoS 1.
    pub(crate) fn puback(&mut self, id: PacketId) {
        match self.in_flight.get(&id) {
            Some(InFlight { qos: QoS::AtLeastOnce, .. }) => {
                self.in_flight.remove(&id);
            }
            _ => self.unknown_acks += 1,
        }
    }

    /// PUBREC: answered by PUBREL, unless it carries an error, which ends the delivery [MQTT-4.3.3-4].
    pub(crate) fn pubrec(&mut self, id: PacketId, reason: ReasonCode, version: Version) -> Option<Packet> {
        match self.in_flight.get_mut(&id) {
            Some(entry) if entry.qos == QoS::ExactlyOnce => {
                if reason.is_error() {
                    self.in_flight.remove(&id);
                    return None;
                }
                entry.state = State::Released;
                Some(Packet::PubRel(ack(id, ReasonCode::Success)))
            }
            _ => {
                self.unknown_acks += 1;
                let known = if version == Version::V5 {
                    ReasonCode::PacketIdentifierNotFound
                } else {
                    ReasonCode::Success
                };
                (!reason.is_error()).then(|| Packet::PubRel(ack(id, known)))
            }
        }
    }

    /// PUBCOMP: ends QoS 2.
    pub(crate) fn pubcomp(&mut self, id: PacketId) {
        match self.in_flight.get(&id) {
            Some(InFlight { qos: QoS::ExactlyOnce, state: State::Released }) => {
                self.in_flight.remove(&id);
            }
            _ => self.unknown_acks += 1,
        }
    }
}

fn successor(id: PacketId) -> PacketId {
    PacketId(id.0.checked_add(1).unwrap_or(NonZeroU16::MIN))
}
