//! What the client publishes, from its PUBLISH to the last acknowledgement.
//!
//! Acknowledgements leave in the order in which the publishes came [MQTT-4.6.0-2, -3], each made in [`release`] from a
//! completion and nowhere else. A QoS 2 packet id is remembered from PUBLISH to PUBREL [MQTT-4.3.3-10]:
//!
//! ```text
//! PUBLISH -> Storing -> (stored) PUBREC -> Received -> PUBREL/PUBCOMP -> forgotten
//!                    -> (failed) PUBREC with an error -> forgotten
//! ```

use std::collections::{HashMap, VecDeque};

use mqtt_codec::{Ack, Delivery, Packet, PacketId, ReasonCode, Version};

/// Names one QoS 1 or 2 publish of one connection towards the caller; ascending in the order of arrival.
pub type Token = u64;

/// What to do with a publish that came in.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// It is new: have it stored under this token.
    Store(Token),
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
    /// MQTT 3.x cannot say that it failed: the connection ends, so that the client publishes again.
    Unsayable(ReasonCode),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Qos2 {
    Storing,
    Received,
}

#[derive(Debug)]
struct Pending {
    delivery: Delivery,
    result: Option<Result<ReasonCode, ReasonCode>>,
}

/// The publishes of one connection that are not acknowledged in full.
#[derive(Debug, Default)]
pub(crate) struct Inbound {
    /// Token of the first entry of `pending`.
    base: Token,
    pending: VecDeque<Pending>,
    qos2: HashMap<PacketId, Qos2>,
}

impl Inbound {
    /// How many publishes wait to be stored.
    pub(crate) fn storing(&self) -> usize {
        self.pending.len()
    }

    /// A QoS 1 or 2 PUBLISH came. `limit`: refuse more unacknowledged ones than this (strict only).
    pub(crate) fn arrive(&mut self, delivery: Delivery, limit: Option<usize>) -> Arrival {
        if let Delivery::ExactlyOnce(id) = delivery {
            match self.qos2.get(&id) {
                Some(Qos2::Storing) => return Arrival::Wait,
                Some(Qos2::Received) => return Arrival::Again(Packet::PubRec(ack(id, ReasonCode::Success))),
                None => {}
            }
        }
        let received = self.qos2.values().filter(|q| **q == Qos2::Received);
        if limit.is_some_and(|limit| self.pending.len() + received.count() >= limit) {
            return Arrival::TooMany;
        }
        if let Delivery::ExactlyOnce(id) = delivery {
            self.qos2.insert(id, Qos2::Storing);
        }
        let token = self.base + self.pending.len() as Token;
        self.pending.push_back(Pending { delivery, result: None });
        Arrival::Store(token)
    }

    /// The publish `token` was stored, or was not. An unknown token is ignored.
    pub(crate) fn stored(&mut self, token: Token, result: Result<ReasonCode, ReasonCode>) {
        let index = token.checked_sub(self.base).and_then(|i| usize::try_from(i).ok());
        if let Some(pending) = index.and_then(|i| self.pending.get_mut(i)) {
            pending.result = Some(result);
        }
    }

    /// The next acknowledgement that may leave, if any.
    pub(crate) fn release(&mut self, version: Version) -> Option<Released> {
        let result = self.pending.front()?.result?;
        let pending = self.pending.pop_front()?;
        self.base += 1;
        let reason = match result {
            Ok(reason) | Err(reason) => reason,
        };
        if let Delivery::ExactlyOnce(id) = pending.delivery {
            match result {
                Ok(_) => self.qos2.insert(id, Qos2::Received),
                Err(_) => self.qos2.remove(&id),
            };
        }
        if result.is_err() && version != Version::V5 {
            return Some(Released::Unsayable(reason));
        }
        match pending.delivery {
            Delivery::AtMostOnce => None,
            Delivery::AtLeastOnce(id) => Some(Released::Ack(Packet::PubAck(ack(id, reason)))),
            Delivery::ExactlyOnce(id) => Some(Released::Ack(Packet::PubRec(ack(id, reason)))),
        }
    }

    /// A PUBREL came: the answer. An unknown id is answered as well, so that a client that lost our PUBCOMP can go on
    /// [MQTT 5, 3.7.2.1].
    pub(crate) fn pubrel(&mut self, id: PacketId) -> Packet {
        let reason = match self.qos2.get(&id) {
            Some(Qos2::Received) => {
                self.qos2.remove(&id);
                ReasonCode::Success
            }
            Some(Qos2::Storing) | None => ReasonCode::PacketIdentifierNotFound,
        };
        Packet::PubComp(ack(id, reason))
    }
}

/// An acknowledgement without properties.
pub(crate) fn ack(packet_id: PacketId, reason: ReasonCode) -> Ack {
    Ack { packet_id, reason, properties: None }
}
