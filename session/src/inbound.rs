//! What the client publishes, from its PUBLISH to the last acknowledgement.
//!
//! Acknowledgements leave in the order in which the publishes came [MQTT-4.6.0-2, -3], each made in [`Inbound::release`]
//! from a completion and nowhere else [MQTT-4.3.2-4], [MQTT-4.3.3-8]. A QoS 1 packet id is not remembered [MQTT-4.3.2-5]. One of
//! QoS 2 is, from before its message is stored until PUBREL [MQTT-4.3.3-10] or a PUBREC with an error [MQTT-4.3.3-9], whatever
//! becomes of the message [MQTT-4.3.3-13], durably in a session that is durable:
//!
//! ```text
//! PUBLISH -> Storing -> (stored) PUBREC -> Received -> PUBREL/PUBCOMP -> forgotten
//!               ^    -> (failed) PUBREC with an error -> forgotten
//!               |    -> (nobody knows) the connection ends, Recorded
//!               |
//! resumed: Recorded (stored or not, nobody knows) -> PUBREL/PUBCOMP -> forgotten
//! ```

use std::collections::{HashMap, VecDeque};

use mqtt_codec::{Ack, Delivery, Packet, PacketId, PacketType, ReasonCode, Role, Version};
use mqtt_ownership::Epoch;

use crate::position::Sequence;
use crate::progress::{Durability, MessageId, MessageNumber, ReceivedState};

/// Names one QoS 1 or 2 publish of one connection towards the caller; ascending in the order of arrival.
pub type Token = u64;

/// How a QoS 2 message is kept from being stored twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Once {
    /// Names the message.
    pub message: MessageId,
    /// `Some`: it may be in the log already, above this sequence; look before storing it.
    pub maybe_above: Option<Sequence>,
}

/// What to do with a publish that came in.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// It is new: have it stored under this token.
    Store(Token, Option<Once>),
    /// It is a repetition of one that is being stored: its acknowledgement will come.
    Wait,
    /// It is a repetition of one that is stored: acknowledge again.
    Again(Packet),
    /// More unacknowledged publishes than allowed.
    TooMany,
}

/// How one acknowledgement came out, in the order of arrival.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Released {
    /// Send this.
    Ack(Packet),
    /// No acknowledgement can say what happened: the connection ends, so that the client publishes again
    /// [MQTT-4.8.0-2 of 3.1.1].
    Unsayable(ReasonCode),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Recorded,
    Storing,
    Received,
}

#[derive(Clone, Copy, Debug)]
struct Qos2 {
    stage: Stage,
    message: MessageId,
    after: Sequence,
}

#[derive(Debug)]
struct Pending {
    delivery: Delivery,
    result: Option<Result<ReasonCode, ReasonCode>>,
}

/// The publishes of one session that are not acknowledged in full.
#[derive(Debug)]
pub(crate) struct Inbound {
    epoch: Epoch,
    /// [`MessageId::key`] of what comes on this connection.
    pub(crate) key: u32,
    next_number: MessageNumber,
    /// Token of the first entry of `pending`.
    base: Token,
    pending: VecDeque<Pending>,
    qos2: HashMap<PacketId, Qos2>,
    /// How many came on this connection and are in [`Stage::Received`]. The receive maximum begins anew with every
    /// connection [MQTT 5, 4.9], so what is recorded of older ones does not count.
    received: usize,
}

impl Inbound {
    /// What was in flight from the client when its last connection ended.
    pub(crate) fn resume(epoch: Epoch, received: &[ReceivedState]) -> Self {
        let recorded =
            |r: &ReceivedState| (r.packet_id, Qos2 { stage: Stage::Recorded, message: r.message, after: r.after });
        Self {
            epoch,
            key: 0,
            next_number: MessageNumber(0),
            base: 0,
            pending: VecDeque::new(),
            qos2: received.iter().map(recorded).collect(),
            received: 0,
        }
    }

    /// The log goes on with the sequence `next`: what is stored now is above what is before that.
    pub(crate) fn log_restarted(&mut self, next: Sequence) {
        self.qos2.values_mut().for_each(|q| q.after = q.after.min(next.before()));
    }

    /// What must not be forgotten.
    pub(crate) fn states(&self) -> Vec<ReceivedState> {
        let state = |(id, q): (&PacketId, &Qos2)| ReceivedState { packet_id: *id, message: q.message, after: q.after };
        let mut states: Vec<ReceivedState> = self.qos2.iter().map(state).collect();
        states.sort_unstable_by_key(|s| (s.message.epoch, s.message.number));
        states
    }

    /// How many publishes wait to be stored.
    pub(crate) fn storing(&self) -> usize {
        self.pending.len()
    }

    /// A QoS 1 or 2 PUBLISH came, while the log stood at `log_sequence`. `limit`: refuse more unacknowledged ones than
    /// this (strict only).
    pub(crate) fn arrive(
        &mut self,
        delivery: Delivery,
        log_sequence: Sequence,
        limit: Option<usize>,
        durability: &mut Durability,
    ) -> Arrival {
        let known = match delivery {
            Delivery::ExactlyOnce(id) => self.qos2.get(&id).copied(),
            Delivery::AtMostOnce | Delivery::AtLeastOnce(_) => None,
        };
        match (delivery, known.map(|q| q.stage)) {
            (_, Some(Stage::Storing)) => return Arrival::Wait,
            (Delivery::ExactlyOnce(id), Some(Stage::Received)) => {
                return Arrival::Again(Packet::PubRec(ack(id, ReasonCode::Success)));
            }
            _ => {}
        }
        if known.is_none() && limit.is_some_and(|limit| self.pending.len() + self.received >= limit) {
            return Arrival::TooMany;
        }
        let once = match (delivery, known) {
            (Delivery::ExactlyOnce(id), Some(recorded)) => {
                self.qos2.insert(id, Qos2 { stage: Stage::Storing, ..recorded });
                Some(Once { message: recorded.message, maybe_above: Some(recorded.after) })
            }
            (Delivery::ExactlyOnce(id), None) => {
                let message = MessageId { epoch: self.epoch, number: self.next_number, key: self.key };
                self.next_number.0 += 1;
                self.qos2.insert(id, Qos2 { stage: Stage::Storing, message, after: log_sequence });
                durability.change();
                Some(Once { message, maybe_above: None })
            }
            (Delivery::AtMostOnce | Delivery::AtLeastOnce(_), _) => None,
        };
        let token = self.base + self.pending.len() as Token;
        self.pending.push_back(Pending { delivery, result: None });
        Arrival::Store(token, once)
    }

    /// The publish `token` was stored, or was not. An unknown token is ignored.
    pub(crate) fn stored(&mut self, token: Token, result: Result<ReasonCode, ReasonCode>) {
        let index = token.checked_sub(self.base).and_then(|i| usize::try_from(i).ok());
        if let Some(pending) = index.and_then(|i| self.pending.get_mut(i)) {
            pending.result = Some(result);
        }
    }

    /// Nothing of the publish `token` went anywhere: when the client repeats it, it is new.
    pub(crate) fn not_published(&mut self, token: Token, durability: &mut Durability) {
        let index = token.checked_sub(self.base).and_then(|i| usize::try_from(i).ok());
        if let Some(Pending { delivery: Delivery::ExactlyOnce(id), .. }) = index.and_then(|i| self.pending.get(i))
            && self.qos2.remove(id).is_some()
        {
            durability.change();
        }
    }

    /// The next acknowledgement that may leave, if any: that of the QoS [MQTT-3.3.4-1], with the packet id of the publish
    /// [MQTT-2.2.1-5].
    pub(crate) fn release(&mut self, version: Version, durability: &mut Durability) -> Option<Released> {
        let result = self.pending.front()?.result?;
        let pending = self.pending.pop_front()?;
        self.base += 1;
        let reason = match result {
            Ok(reason) => reason,
            Err(reason) if is_sayable(reason, version) => reason,
            // A QoS 2 publish stays recorded, so that it is looked for when the client repeats it.
            Err(reason) => return Some(Released::Unsayable(reason)),
        };
        if let Delivery::ExactlyOnce(id) = pending.delivery {
            if result.is_ok()
                && let Some(qos2) = self.qos2.get_mut(&id)
            {
                qos2.stage = Stage::Received;
                self.received += 1;
            } else {
                self.qos2.remove(&id);
                durability.change();
            }
        }
        match pending.delivery {
            Delivery::AtMostOnce => None,
            Delivery::AtLeastOnce(id) => Some(Released::Ack(Packet::PubAck(ack(id, reason)))),
            Delivery::ExactlyOnce(id) => Some(Released::Ack(Packet::PubRec(ack(id, reason)))),
        }
    }

    /// A PUBREL came: the answer [MQTT-4.3.3-11], behind which the id is free [MQTT-4.3.3-12]. An unknown id is answered as well,
    /// so that a client that lost our PUBCOMP can go on [MQTT 5, 3.7.2.1].
    pub(crate) fn pubrel(&mut self, id: PacketId, durability: &mut Durability) -> Packet {
        let reason = match self.qos2.get(&id).map(|q| q.stage) {
            Some(stage @ (Stage::Received | Stage::Recorded)) => {
                self.qos2.remove(&id);
                self.received -= usize::from(stage == Stage::Received);
                durability.change();
                ReasonCode::Success
            }
            Some(Stage::Storing) | None => ReasonCode::PacketIdentifierNotFound,
        };
        Packet::PubComp(ack(id, reason))
    }
}

/// Whether an acknowledgement can carry this error: none can in 3.x, and not every code has a place in PUBACK and PUBREC
/// [MQTT 5, 3.4.2.1, 3.5.2.1].
const fn is_sayable(reason: ReasonCode, version: Version) -> bool {
    version.is_v5() && reason.is_allowed_in(PacketType::PubAck, Role::Server)
}

/// An acknowledgement without properties.
pub(crate) const fn ack(packet_id: PacketId, reason: ReasonCode) -> Ack {
    Ack { packet_id, reason, properties: None }
}
