//! Who published what, and what each durable subscriber got of it.

use std::collections::HashMap;

use super::order::{Fault, TopicOrder};

/// What is known of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It was sent, nobody knows more.
    Sent,
    /// It was acknowledged.
    Acknowledged,
    /// It was refused.
    Refused,
}

/// A message on its way to a subscriber.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrival {
    pub(crate) publisher: usize,
    pub(crate) topic: usize,
    pub(crate) number: usize,
    /// RETAIN is 1: the state of the topic, which a SUBSCRIBE brought.
    pub(crate) is_retained: bool,
}

/// Everything that was published by some, and received by others.
#[derive(Debug, Default)]
pub(crate) struct Deliveries {
    publishers: Vec<(u8, Vec<Fate>)>,
    subscribers: Vec<Subscriber>,
}

#[derive(Debug, Default)]
struct Subscriber {
    qos: u8,
    topics: HashMap<(usize, usize), TopicOrder>,
    /// What came as the state of a topic, which may stand for the message itself.
    states: HashMap<(usize, usize), Vec<usize>>,
    repeats: [u64; 3],
    /// Of each publisher, what was sent before the session began; what came before is over.
    since: Vec<usize>,
}

/// Sums of one QoS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sums {
    pub(crate) sent: usize,
    pub(crate) acknowledged: usize,
    pub(crate) refused: usize,
    /// Copies that came again, at all subscribers together.
    pub(crate) repeats: u64,
}

impl Deliveries {
    pub(crate) fn add_publisher(&mut self, qos: u8) -> usize {
        self.publishers.push((qos, Vec::new()));
        self.publishers.len() - 1
    }

    pub(crate) fn add_subscriber(&mut self, qos: u8) -> usize {
        self.subscribers.push(Subscriber { qos, ..Subscriber::default() });
        self.subscribers.len() - 1
    }

    /// A publisher is about to send its next message: its number.
    pub(crate) fn sent(&mut self, publisher: usize) -> usize {
        let fates = &mut self.publishers[publisher].1;
        fates.push(Fate::Sent);
        fates.len() - 1
    }

    pub(crate) fn settled(&mut self, publisher: usize, number: usize, fate: Fate) {
        self.publishers[publisher].1[number] = fate;
    }

    /// The QoS at which a publisher's messages reach a subscriber.
    pub(crate) fn qos(&self, subscriber: usize, publisher: usize) -> u8 {
        self.subscribers[subscriber].qos.min(self.publishers[publisher].0)
    }

    /// A subscriber's session was lost, and it has subscribed again: what was for the lost one does not count, as the loss
    /// itself is what is wrong.
    pub(crate) fn begin_anew(&mut self, subscriber: usize) {
        let subscriber = &mut self.subscribers[subscriber];
        subscriber.since = self.publishers.iter().map(|(_, fates)| fates.len()).collect();
        subscriber.topics.values_mut().for_each(TopicOrder::begin_anew);
    }

    /// A subscriber has connected again: what it has not acknowledged comes once more.
    pub(crate) fn connected(&mut self, subscriber: usize) {
        self.subscribers[subscriber].topics.values_mut().for_each(TopicOrder::connected);
    }

    pub(crate) fn got(&mut self, subscriber: usize, arrival: Arrival) -> Option<Fault> {
        let Arrival { publisher, topic, number, is_retained } = arrival;
        let qos = self.qos(subscriber, publisher);
        let subscriber = &mut self.subscribers[subscriber];
        if subscriber.since.get(publisher).is_some_and(|since| number < *since) {
            return None;
        }
        if is_retained {
            subscriber.states.entry((publisher, topic)).or_default().push(number);
            return None;
        }
        let order = subscriber.topics.entry((publisher, topic)).or_default();
        if order.has(number) {
            subscriber.repeats[usize::from(qos)] += 1;
        }
        order.take(number, qos == 2)
    }

    /// What was acknowledged and has not come: subscriber, publisher, number.
    pub(crate) fn missing(&self, topic_of: fn(usize) -> usize) -> Vec<(usize, usize, usize)> {
        let mut missing = Vec::new();
        for (n, subscriber) in self.subscribers.iter().enumerate() {
            for (publisher, (_, fates)) in self.publishers.iter().enumerate() {
                let has = |number: usize| {
                    let key = (publisher, topic_of(number));
                    subscriber.topics.get(&key).is_some_and(|order| order.has(number))
                        || subscriber.states.get(&key).is_some_and(|states| states.contains(&number))
                };
                let since = subscriber.since.get(publisher).copied().unwrap_or(0);
                let is_missing =
                    |(number, fate): &(usize, &Fate)| *number >= since && **fate == Fate::Acknowledged && !has(*number);
                let all = fates.iter().enumerate().filter(is_missing);
                missing.extend(all.map(|(number, _)| (n, publisher, number)));
            }
        }
        missing
    }

    /// Replays that are not complete though nothing more comes: subscriber, publisher, topic.
    pub(crate) fn unfinished(&self) -> Vec<(usize, usize, usize, Fault)> {
        let mut unfinished = Vec::new();
        for (n, subscriber) in self.subscribers.iter().enumerate() {
            for ((publisher, topic), order) in &subscriber.topics {
                unfinished.extend(order.finish().map(|fault| (n, *publisher, *topic, fault)));
            }
        }
        unfinished
    }

    pub(crate) fn sums(&self, qos: u8) -> Sums {
        let fates = || self.publishers.iter().filter(|(of, _)| *of == qos).flat_map(|(_, fates)| fates);
        let count = |wanted: Fate| fates().filter(|fate| **fate == wanted).count();
        Sums {
            sent: fates().count(),
            acknowledged: count(Fate::Acknowledged),
            refused: count(Fate::Refused),
            repeats: self.subscribers.iter().map(|subscriber| subscriber.repeats[usize::from(qos)]).sum(),
        }
    }

    pub(crate) fn acknowledged(&self) -> usize {
        [0, 1, 2].map(|qos| self.sums(qos).acknowledged).iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrival(number: usize, is_retained: bool) -> Arrival {
        Arrival { publisher: 0, topic: 0, number, is_retained }
    }

    /// One publisher at QoS 2 and one subscriber, with that many messages that were sent.
    fn world(sent: usize, qos: u8) -> Deliveries {
        let mut all = Deliveries::default();
        all.add_publisher(2);
        all.add_subscriber(qos);
        (0..sent).for_each(|_| _ = all.sent(0));
        all
    }

    #[test]
    fn only_what_was_acknowledged_can_be_lost() {
        let mut all = world(4, 2);
        all.settled(0, 0, Fate::Acknowledged);
        all.settled(0, 1, Fate::Acknowledged);
        all.settled(0, 2, Fate::Refused);
        assert_eq!(all.got(0, arrival(0, false)), None);
        assert_eq!(all.missing(|_| 0), [(0, 0, 1)]);
        assert_eq!(all.sums(2), Sums { sent: 4, acknowledged: 2, refused: 1, repeats: 0 });
    }

    #[test]
    fn the_state_of_a_topic_stands_for_a_message_and_is_none_too_many() {
        let mut all = world(3, 2);
        all.settled(0, 2, Fate::Acknowledged);
        assert_eq!(all.got(0, arrival(2, true)), None);
        assert_eq!(all.missing(|_| 0), []);
        // What was queued for it comes all the same.
        for number in 0..3 {
            assert_eq!(all.got(0, arrival(number, false)), None);
        }
        assert_eq!(all.got(0, arrival(2, false)), Some(Fault::Twice));
    }

    #[test]
    fn what_a_subscriber_gets_at_qos_1_may_come_again() {
        let mut all = world(2, 1);
        for number in [0, 1, 0, 1] {
            assert_eq!(all.got(0, arrival(number, false)), None);
        }
        assert_eq!(all.sums(1).repeats, 2);
        assert_eq!(all.unfinished(), []);
        assert_eq!(all.got(0, arrival(0, false)), None);
        assert_eq!(all.unfinished(), [(0, 0, 0, Fault::Stale { repeated: 0 })]);
    }

    #[test]
    fn what_was_for_a_lost_session_does_not_count() {
        let mut all = world(2, 2);
        all.settled(0, 0, Fate::Acknowledged);
        all.begin_anew(0);
        assert_eq!(all.sent(0), 2);
        all.settled(0, 2, Fate::Acknowledged);
        assert_eq!(all.missing(|_| 0), [(0, 0, 2)]);
        assert_eq!([2, 1].map(|number| all.got(0, arrival(number, false))), [None, None]);
        assert_eq!(all.missing(|_| 0), []);
    }
}
