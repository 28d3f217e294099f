//! What a publisher has sent and not been told that it is done. On the next connection it is sent again, in its order.

use std::collections::VecDeque;

use mqtt_codec::{Ack, Packet, PacketId, Publish, QoS, ReasonCode};

use crate::harness::{Client, Message, shown};
use crate::trace::Trace;
use crate::witness::delivery::Fate;

/// A message under way.
struct InFlight {
    id: PacketId,
    number: usize,
    message: Message,
    is_released: bool,
}

/// Messages under way, and their packet ids.
pub(crate) struct Outbox {
    in_flight: VecDeque<InFlight>,
    next_id: u16,
    trace: Trace,
}

impl Outbox {
    pub(crate) fn new(trace: Trace) -> Self {
        Self { in_flight: VecDeque::new(), next_id: 0, trace }
    }

    pub(crate) fn len(&self) -> usize {
        self.in_flight.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.in_flight.is_empty()
    }

    /// A new connection: everything again, with DUP and the old packet ids.
    pub(crate) fn send_again(&self, client: &mut Client) {
        for m in &self.in_flight {
            self.trace.packet(format!(
                "again #{} {} {}",
                m.id.get(),
                m.number,
                if m.is_released { "pubrel" } else { "dup" }
            ));
            let again = || Packet::Publish(Publish { dup: true, ..m.message.packet(Some(m.id)) });
            client.write(&if m.is_released { pubrel(m.id) } else { again() });
        }
    }

    /// Sends a message. At QoS 0 nothing more is known of it.
    pub(crate) fn send(&mut self, client: &mut Client, message: Message, number: usize) {
        if message.qos == QoS::AtMostOnce {
            let packet = message.packet(None);
            self.trace.packet(format!("sends {}", shown(&packet)));
            return client.write(&Packet::Publish(packet));
        }
        let id = self.free_id();
        let packet = message.packet(Some(id));
        self.trace.packet(format!("sends #{} {}", id.get(), shown(&packet)));
        client.write(&Packet::Publish(packet));
        self.in_flight.push_back(InFlight { id, number, message, is_released: false });
    }

    fn free_id(&mut self) -> PacketId {
        loop {
            self.next_id = self.next_id.checked_add(1).unwrap_or(1);
            if let Some(id) = PacketId::new(self.next_id)
                && self.in_flight.iter().all(|m| m.id != id)
            {
                return id;
            }
        }
    }

    /// A packet came: what it says of which message.
    pub(crate) fn take(&mut self, client: &mut Client, packet: &Packet) -> Option<(usize, Fate)> {
        let (id, is_over, reason, what) = match packet {
            Packet::PubAck(ack) => (ack.packet_id, true, ack.reason, "puback"),
            Packet::PubRec(ack) => (ack.packet_id, ack.reason.is_error(), ack.reason, "pubrec"),
            Packet::PubComp(ack) => (ack.packet_id, true, ReasonCode::Success, "pubcomp"),
            Packet::Disconnect(disconnect) => {
                self.trace.event(format!("got DISCONNECT {:?}", disconnect.reason));
                return None;
            }
            _ => return None,
        };
        let index = self.in_flight.iter().position(|m| m.id == id)?;
        let number = self.in_flight[index].number;
        self.trace.packet(format!("{what} #{} {number} {reason:?}", id.get()));
        if is_over {
            self.in_flight.remove(index);
        } else {
            self.in_flight[index].is_released = true;
            client.write(&pubrel(id));
        }
        let fate = if reason.is_error() { Fate::Refused } else { Fate::Acknowledged };
        (what != "pubcomp").then_some((number, fate))
    }
}

fn pubrel(id: PacketId) -> Packet {
    Packet::PubRel(Ack::new(id, ReasonCode::Success))
}
