//! Packets that were decoded and have to wait: for JetStream, for a SUBSCRIBE before them, for the client to read what we
//! have for it. They wait in their order, and what need not wait overtakes them: PINGREQ, acknowledgements of what is
//! delivered, and QoS 0 on topics on which nothing waits.
//!
//! **Invariant:** what waits is at most [`AHEAD_MAX`] bytes and one packet. Beyond that the socket is not read, and while it
//! is not, nobody judges whether the client is silent (`life`).

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;
use mqtt_codec::{Packet, Publish, PublishTopic, TopicName, Violation};

/// Bytes of packets that may wait before the socket is not read any more.
const AHEAD_MAX: usize = 64 * 1024;

/// What a packet costs beside its bytes.
const PACKET_COST: usize = 128;

/// Payloads below this are copied: they would keep the whole buffer alive that they were read in.
const COPIED_BELOW: usize = 16 * 1024;

/// A packet, or what the client did wrong in its place.
pub(super) type Received = Result<Packet, Violation>;

/// What waits.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    received: VecDeque<(Received, usize)>,
    cost: usize,
    /// How many publishes wait, by topic.
    topics: HashMap<TopicName, usize>,
    /// How many packets wait that nothing at QoS 0 overtakes: they are no publishes, or their topic is an alias.
    barriers: usize,
    /// The last packet of the client waits.
    is_complete: bool,
}

impl Ahead {
    pub(super) fn is_empty(&self) -> bool {
        self.received.is_empty()
    }

    /// Whether more may be read.
    pub(super) const fn has_room(&self) -> bool {
        self.cost < AHEAD_MAX && !self.is_complete
    }

    /// Whether the last packet of the client is among them.
    pub(super) const fn is_complete(&self) -> bool {
        self.is_complete
    }

    /// Bytes that wait, about.
    pub(super) const fn cost(&self) -> usize {
        self.cost
    }

    /// What is next.
    pub(super) fn front(&self) -> Option<&Received> {
        self.received.front().map(|(received, _)| received)
    }

    /// Whether a publish on a topic may overtake what waits.
    pub(super) fn lets_pass(&self, topic: &TopicName) -> bool {
        self.barriers == 0 && !self.topics.contains_key(topic)
    }

    /// One more waits, which took so many bytes.
    pub(super) fn push(&mut self, received: Received, bytes: usize) {
        let received = received.map(owning_itself);
        self.is_complete |= matches!(received, Ok(Packet::Disconnect(_)) | Err(_));
        match topic_of(&received) {
            Some(topic) => *self.topics.entry(topic.clone()).or_default() += 1,
            None => self.barriers += 1,
        }
        let cost = bytes.max(weight_of(&received)) + PACKET_COST;
        self.cost += cost;
        self.received.push_back((received, cost));
    }

    /// What is next waits no more.
    pub(super) fn pop(&mut self) -> Option<Received> {
        let (received, cost) = self.received.pop_front()?;
        self.cost -= cost;
        match topic_of(&received) {
            Some(topic) => {
                if let Some(count) = self.topics.get_mut(topic) {
                    *count -= 1;
                    if *count == 0 {
                        self.topics.remove(topic);
                    }
                }
            }
            None => self.barriers -= 1,
        }
        if self.received.is_empty() {
            // An idle connection has no buffer of its own.
            self.received = VecDeque::new();
            self.topics = HashMap::new();
        }
        Some(received)
    }
}

/// The topic of a publish that says it.
const fn topic_of(received: &Received) -> Option<&TopicName> {
    match received {
        Ok(Packet::Publish(Publish { topic: PublishTopic::Name(topic), .. })) => Some(topic),
        _ => None,
    }
}

/// Bytes of memory of what can take more of it than it was sent in.
fn weight_of(received: &Received) -> usize {
    match received {
        Ok(Packet::Publish(publish)) => {
            publish.payload.len() + publish.properties.as_ref().map_or(0, |all| all.weight())
        }
        Ok(Packet::Subscribe(subscribe)) => size_of_val(&*subscribe.entries),
        Ok(Packet::Unsubscribe(unsubscribe)) => size_of_val(&*unsubscribe.filters),
        _ => 0,
    }
}

fn owning_itself(packet: Packet) -> Packet {
    match packet {
        Packet::Publish(mut publish) if publish.payload.len() < COPIED_BELOW => {
            publish.payload = Bytes::copy_from_slice(&publish.payload);
            if let PublishTopic::Name(topic) | PublishTopic::Define(topic, _) = &mut publish.topic {
                *topic = topic.to_owned_copy();
            }
            Packet::Publish(publish)
        }
        packet => packet,
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU16;

    use bytestring::ByteString;
    use mqtt_codec::{Delivery, Disconnect, MessageProperties, PacketId, ReasonCode};

    use super::*;

    fn topic(name: &str) -> TopicName {
        TopicName::new(name).unwrap()
    }

    fn publish(topic: PublishTopic) -> Received {
        Ok(Packet::Publish(Publish {
            dup: false,
            delivery: Delivery::AtLeastOnce(PacketId(NonZeroU16::MIN)),
            retain: false,
            topic,
            subscription_ids: Vec::new(),
            properties: None,
            payload: Bytes::new(),
        }))
    }

    #[test]
    fn what_waits_is_overtaken_on_other_topics_only() {
        let mut ahead = Ahead::default();
        ahead.push(publish(PublishTopic::Name(topic("a"))), 10);
        assert!(ahead.lets_pass(&topic("b")) && !ahead.lets_pass(&topic("a")));
        ahead.pop();
        assert!(ahead.lets_pass(&topic("a")));
        ahead.push(publish(PublishTopic::Alias(NonZeroU16::MIN)), 10);
        assert!(!ahead.lets_pass(&topic("b")), "the alias may be of its topic");
    }

    #[test]
    fn what_takes_more_memory_than_it_was_sent_in_counts_for_that() {
        let user_properties = vec![(ByteString::new(), ByteString::new()); 2_000];
        let Ok(Packet::Publish(plain)) = publish(PublishTopic::Name(topic("a"))) else { unreachable!() };
        let properties = Some(Box::new(MessageProperties { user_properties, ..MessageProperties::default() }));
        let mut ahead = Ahead::default();
        ahead.push(Ok(Packet::Publish(Publish { properties, ..plain })), 10_000);
        assert!(!ahead.has_room(), "{} bytes", ahead.cost());
        ahead.pop();
        assert_eq!(ahead.cost(), 0);
    }

    #[test]
    fn what_waits_is_limited_and_nothing_is_behind_a_goodbye() {
        let mut ahead = Ahead::default();
        ahead.push(publish(PublishTopic::Name(topic("a"))), AHEAD_MAX - 2 * PACKET_COST);
        assert!(ahead.has_room());
        ahead.push(publish(PublishTopic::Name(topic("a"))), 1_000_000);
        assert!(!ahead.has_room());
        ahead.pop();
        ahead.pop();
        assert!(ahead.has_room() && ahead.is_empty() && ahead.cost == 0);
        ahead.push(Ok(Packet::Disconnect(Disconnect::new(ReasonCode::Success))), 2);
        assert!(!ahead.has_room());
    }
}
