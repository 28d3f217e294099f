//! What the client is sent at QoS 1 and 2, from PUBLISH to its last acknowledgement. Nothing is sent twice while a
//! connection lives [MQTT-4.4.0-1]; on the next connection of the session it is sent again, in its order [MQTT-4.6.0-1]:
//! PUBLISH until PUBACK or PUBREC has come [MQTT-4.3.2-3], [MQTT-4.3.3-3], and then PUBREL until PUBCOMP [MQTT-4.3.3-5, -6].
//!
//! ```text
//! QoS 1: PUBLISH -> Sent -> PUBACK -> done
//! QoS 2: (saved) PUBLISH -> Sent -> PUBREC, (saved) PUBREL -> Released -> PUBCOMP -> done
//! ```

use std::collections::{HashMap, VecDeque};
use std::num::NonZeroU16;

use mqtt_codec::{Packet, PacketId, QoS, ReasonCode, Version};

use crate::inbound::ack;
use crate::position::{Cursors, Position, Sequence};
use crate::progress::{Durability, InFlightState, ProgressVersion};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Sent,
    /// Its PUBREL depends on this version being saved.
    Released(ProgressVersion),
}

#[derive(Debug)]
struct InFlight {
    qos: QoS,
    position: Position,
    /// Ascends in the order of sending.
    order: u64,
    state: State,
    /// It was sent on this connection, so it takes a place in the window.
    is_active: bool,
}

/// What of the last connection is repeated on this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resend {
    /// PUBLISH with DUP: the message at this position.
    Publish(QoS, PacketId, Position),
    /// PUBREL.
    PubRel(PacketId),
}

impl Resend {
    /// The packet id that it has, and had.
    #[must_use]
    pub const fn packet_id(&self) -> PacketId {
        match self {
            Self::Publish(_, packet_id, _) | Self::PubRel(packet_id) => *packet_id,
        }
    }

    /// The sequence in the bucket of retained messages, of one of these.
    #[must_use]
    pub const fn retained(&self) -> Option<Sequence> {
        match self {
            Self::Publish(_, _, position) => position.retained(),
            Self::PubRel(_) => None,
        }
    }
}

/// The deliveries of one session that are not acknowledged in full.
#[derive(Debug)]
pub(crate) struct Outbound {
    window: usize,
    next_id: PacketId,
    next_order: u64,
    in_flight: HashMap<PacketId, InFlight>,
    active: usize,
    /// In the order of sending; to be repeated before anything new is sent.
    resends: VecDeque<PacketId>,
    pub(crate) cursors: Cursors,
    /// Acknowledgements for packet ids that were not in flight. They are ignored, but counted: clients that
    /// acknowledge what nobody sent must not lose their connection.
    pub(crate) unknown_acks: u64,
}

impl Outbound {
    pub(crate) fn resume(window: u16, cursors: Cursors, states: &[InFlightState]) -> Self {
        let mut in_flight = HashMap::new();
        let mut next_id = PacketId(NonZeroU16::MIN);
        for (order, s) in (0..).zip(states) {
            let state = if s.is_released { State::Released(ProgressVersion::UNCHANGED) } else { State::Sent };
            in_flight
                .insert(s.packet_id, InFlight { qos: s.qos, position: s.position, order, state, is_active: false });
            next_id = successor(s.packet_id);
        }
        Self {
            window: usize::from(window),
            next_id,
            next_order: states.len() as u64,
            in_flight,
            active: 0,
            resends: states.iter().map(|s| s.packet_id).collect(),
            cursors,
            unknown_acks: 0,
        }
    }

    /// What must not be forgotten. What a shared subscription gave at QoS 1 is not of it: when the connection breaks it
    /// goes to another member.
    pub(crate) fn states(&self) -> Vec<InFlightState> {
        let mut all: Vec<(u64, InFlightState)> = self
            .in_flight
            .iter()
            .filter(|(_, m)| m.qos == QoS::ExactlyOnce || !m.position.is_shared())
            .map(|(id, m)| {
                let is_released = matches!(m.state, State::Released(_));
                (m.order, InFlightState { packet_id: *id, position: m.position, qos: m.qos, is_released })
            })
            .collect();
        all.sort_unstable_by_key(|(order, _)| *order);
        all.into_iter().map(|(_, state)| state).collect()
    }

    /// How many more messages the client takes now: none while something is to be repeated.
    pub(crate) fn room(&self) -> usize {
        if self.resends.is_empty() { self.window.saturating_sub(self.active) } else { 0 }
    }

    /// The next thing to repeat, as far as the window goes.
    pub(crate) fn next_resend(&mut self) -> Option<Resend> {
        while self.active < self.window {
            let id = self.resends.pop_front()?;
            // It may have been acknowledged meanwhile, by a client that remembers more than we expect.
            let Some(m) = self.in_flight.get_mut(&id) else { continue };
            m.is_active = true;
            self.active += 1;
            return Some(match m.state {
                State::Sent => Resend::Publish(m.qos, id, m.position),
                State::Released(_) => Resend::PubRel(id),
            });
        }
        None
    }

    /// Takes a packet id for a message of this QoS at this place, one that is not in use [MQTT-2.2.1-4], [MQTT-4.3.2-1],
    /// [MQTT-4.3.3-1], or `None` when the window is full [MQTT-3.3.4-9], [MQTT-4.9.0-2].
    pub(crate) fn send(&mut self, qos: QoS, position: Position) -> Option<PacketId> {
        if self.room() == 0 {
            return None;
        }
        // The window is below 65,535, so a free id exists.
        while self.in_flight.contains_key(&self.next_id) {
            self.next_id = successor(self.next_id);
        }
        let id = self.next_id;
        self.next_id = successor(id);
        let order = self.next_order;
        self.next_order += 1;
        self.in_flight.insert(id, InFlight { qos, position, order, state: State::Sent, is_active: true });
        self.active += 1;
        if position.is_in_log() {
            self.cursors.raise(position);
        }
        Some(id)
    }

    /// The message cannot be sent. At QoS 2 the client may have got it before, and would take the next message with this packet
    /// id for a repetition [MQTT-4.3.3-10]: PUBREL goes in its place. It waits for the version that comes with it to be saved, or
    /// the message could be sent once more behind it, to a client that has forgotten it by then.
    pub(crate) fn unsendable(
        &mut self,
        id: PacketId,
        durability: &mut Durability,
    ) -> Option<(ProgressVersion, Packet)> {
        match self.in_flight.get_mut(&id) {
            Some(m) if m.qos == QoS::ExactlyOnce => {
                // One that is released already is on its way.
                let needs = (m.state == State::Sent).then(|| durability.change())?;
                m.state = State::Released(needs);
                Some((needs, Packet::PubRel(ack(id, ReasonCode::Success))))
            }
            _ => {
                self.forget(id, durability);
                None
            }
        }
    }

    /// A log goes on with the sequence `next`. What was sent of what it had from there on cannot be sent again.
    pub(crate) fn log_restarted(&mut self, log: u16, next: Sequence) {
        self.cursors.restart(log, next);
        self.in_flight.values_mut().for_each(|m| m.position = m.position.after_restart(log, next));
    }

    /// Ends a delivery. Returns whether a shared subscription gave it.
    fn forget(&mut self, id: PacketId, durability: &mut Durability) -> bool {
        let Some(m) = self.in_flight.remove(&id) else { return false };
        self.active -= usize::from(m.is_active);
        let is_shared = m.position.is_shared();
        if m.qos == QoS::ExactlyOnce || !is_shared {
            durability.change();
        }
        is_shared
    }

    /// A message of a shared subscription that was not sent yet is not this session's any more. Returns whether it is one.
    pub(crate) fn withdraw(&mut self, id: PacketId, durability: &mut Durability) -> bool {
        let is_shared = self.in_flight.get(&id).is_some_and(|m| m.position.is_shared());
        if is_shared {
            self.forget(id, durability);
        }
        is_shared
    }

    /// PUBACK: ends QoS 1, also with an error [MQTT-4.4.0-2]. Returns whether a shared subscription gave the message, of which
    /// that is the end as well [MQTT-4.8.2-6].
    pub(crate) fn puback(&mut self, id: PacketId, durability: &mut Durability) -> bool {
        match self.in_flight.get(&id) {
            Some(m) if m.qos == QoS::AtLeastOnce => return self.forget(id, durability),
            _ => self.unknown_acks += 1,
        }
        false
    }

    /// PUBREC: answered by PUBREL [MQTT-4.3.3-4], in the order of arrival [MQTT-4.6.0-4], unless it carries an error, which ends
    /// the delivery [MQTT-4.4.0-2]. With the answer comes the version that has to be saved before.
    pub(crate) fn pubrec(
        &mut self,
        id: PacketId,
        reason: ReasonCode,
        version: Version,
        durability: &mut Durability,
    ) -> Option<(ProgressVersion, Packet)> {
        match self.in_flight.get_mut(&id) {
            Some(m) if m.qos == QoS::ExactlyOnce => {
                if reason.is_error() {
                    self.forget(id, durability);
                    return None;
                }
                let needs = match m.state {
                    State::Sent => durability.change(),
                    State::Released(needs) => needs,
                };
                m.state = State::Released(needs);
                Some((needs, Packet::PubRel(ack(id, ReasonCode::Success))))
            }
            _ => {
                self.unknown_acks += 1;
                let is_v5 = version == Version::V5;
                let answer = if is_v5 { ReasonCode::PacketIdentifierNotFound } else { ReasonCode::Success };
                (!reason.is_error()).then(|| (ProgressVersion::UNCHANGED, Packet::PubRel(ack(id, answer))))
            }
        }
    }

    /// PUBCOMP: ends QoS 2.
    pub(crate) fn pubcomp(&mut self, id: PacketId, durability: &mut Durability) {
        match self.in_flight.get(&id) {
            Some(InFlight { qos: QoS::ExactlyOnce, state: State::Released(_), .. }) => {
                self.forget(id, durability);
            }
            _ => self.unknown_acks += 1,
        }
    }
}

fn successor(id: PacketId) -> PacketId {
    PacketId(id.0.checked_add(1).unwrap_or(NonZeroU16::MIN))
}
