//! What one subscriber gets of one topic of one publisher, and in which order it may come.
//!
//! # The order of a topic [MQTT-4.6.0]
//! The publisher numbers what it sends. A *first copy* is a message that this subscriber had not got before, a *repeat* is one
//! that it had. RETAIN=1 is left out here: such a copy is the state of the topic, which a SUBSCRIBE brought.
//!
//! 1. First copies come in the order in which they were sent [MQTT-4.6.0-5], at every QoS. A number may be missing (it was
//!    never acknowledged, so it may not have reached the server); then it never comes behind a later one: [`Fault::Late`].
//! 2. At QoS 2 there are no repeats: [`Fault::Twice`].
//! 3. At QoS 1 a repeat is the beginning of a *replay*. Publisher and server send again in order what was not acknowledged,
//!    which is always the end of what they had sent [MQTT-4.6.0-1], since acknowledgements come in order as well
//!    [MQTT-4.6.0-2]. So a replay goes on from message to message, through all that the subscriber has, before anything new
//!    comes. It may break off with its connection and begin again, at the same message or an earlier or later one of those
//!    that it went through and the next: `1 2 3 | 2 3 4`, `1 2 3 | 2 | 2 3 4`, `1 2 3 | 2 | 3 4`. So the last copies of all
//!    messages are in order, as section 4.6 says. Both may replay, one amid the other: when a connection ends amid what the
//!    publisher has sent again, the server may have to begin before that, `1 2 3 4 1 2 | 4 1 2 3 4`: behind a new connection
//!    a replay may be one of all copies that came, as they came, from any of them to the last. `1 2 3 | 2 4` and `1 2 3 | 1 3` are none: somebody sent a message again
//!    that the messages behind it had overtaken: [`Fault::Stale`].
//!
//! What the first copies are and whether a replay is complete is decided by what came, not by DUP, which says how often *one*
//! connection's packet was tried, and is 0 when the publisher was the one who repeated.

/// What was wrong with a message that came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It came for the first time, behind a later one.
    Late {
        /// The latest that came before it.
        behind: usize,
    },
    /// It came again at QoS 2.
    Twice,
    /// An earlier message had come again, and this one is not the one behind it.
    Stale {
        /// The one that had come again.
        repeated: usize,
    },
}

/// The messages of one topic that one subscriber got, by their numbers.
#[derive(Clone, Debug, Default)]
pub(crate) struct TopicOrder {
    seen: Vec<bool>,
    /// The latest that came.
    highest: Option<usize>,
    /// The last one that came.
    last: Option<usize>,
    /// All copies as they came, but for those that the server itself has sent again.
    tape: Vec<usize>,
    /// Where in there the server may be that sends them again; none when it does not.
    replayed: Vec<usize>,
    /// Nothing has come yet over this connection.
    is_connected_anew: bool,
}

impl TopicOrder {
    /// A message came. `is_once`: at QoS 2 on both ways.
    pub(crate) fn take(&mut self, number: usize, is_once: bool) -> Option<Fault> {
        let is_first = std::mem::take(&mut self.is_connected_anew);
        if !is_first && !self.replayed.is_empty() {
            return self.replay(number);
        }
        self.replayed.clear();
        let (last, highest) = (self.last, self.highest);
        let is_repeat = self.has(number);
        if let (Some(last), Some(highest), true, false) = (last, highest, is_repeat && is_first, is_once)
            && self.next_seen(last, highest).is_some_and(|next| number > next)
        {
            self.last = Some(number);
            self.replayed = (0..self.tape.len()).filter(|at| self.tape[*at] == number).collect();
            return None;
        }
        self.tape.push(number);
        if self.seen.len() <= number {
            self.seen.resize(number + 1, false);
        }
        self.seen[number] = true;
        self.last = Some(number);
        self.highest = highest.max(Some(number));
        let (last, highest) = (last?, highest?);
        if is_repeat && is_once {
            // What comes twice is one mistake, not the beginning of more.
            self.last = Some(last);
            return Some(Fault::Twice);
        }
        if !is_repeat && number < highest {
            self.last = Some(last.max(number));
            return Some(Fault::Late { behind: highest });
        }
        // Inside a replay: the next one, or back again.
        match self.next_seen(last, highest) {
            Some(next) if number > next => Some(Fault::Stale { repeated: last }),
            _ => None,
        }
    }

    /// The server sends again what had come.
    fn replay(&mut self, number: usize) -> Option<Fault> {
        let next = self.replayed.iter().map(|at| at + 1).filter(|at| self.tape.get(*at) == Some(&number));
        let next: Vec<usize> = next.collect();
        let repeated = self.last.replace(number)?;
        // With the last one it may be through.
        let is_through = next.iter().any(|at| at + 1 == self.tape.len());
        self.replayed = if is_through { Vec::new() } else { next };
        (!is_through && self.replayed.is_empty()).then_some(Fault::Stale { repeated })
    }

    /// The subscriber has connected again.
    pub(crate) const fn connected(&mut self) {
        self.is_connected_anew = true;
    }

    /// Nothing more comes: a replay that is not complete is a message that came too late.
    pub(crate) fn finish(&self) -> Option<Fault> {
        let (last, highest) = (self.last?, self.highest?);
        if !self.replayed.is_empty() {
            return Some(Fault::Stale { repeated: last });
        }
        self.next_seen(last, highest).map(|_| Fault::Stale { repeated: last })
    }

    /// The session ended, and a replay with it.
    pub(crate) fn begin_anew(&mut self) {
        self.last = self.highest;
        self.tape.clear();
        self.replayed.clear();
    }

    pub(crate) fn has(&self, number: usize) -> bool {
        self.seen.get(number).copied().unwrap_or(false)
    }

    /// The next one behind `number` that had come, up to `highest`.
    fn next_seen(&self, number: usize, highest: usize) -> Option<usize> {
        (number + 1..=highest).find(|n| self.has(*n))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plays messages that came, and shows what was wrong.
    fn check(came: &[usize], is_once: bool) -> Vec<(usize, Fault)> {
        let mut order = TopicOrder::default();
        let faults: Vec<_> = came.iter().filter_map(|n| order.take(*n, is_once).map(|fault| (*n, fault))).collect();
        faults.into_iter().chain(order.finish().map(|fault| (usize::MAX, fault))).collect()
    }

    #[test]
    fn first_copies_in_order_are_right_and_may_have_gaps() {
        assert_eq!(check(&[0, 3, 6, 12, 15], true), []);
        assert_eq!(check(&[0, 3, 6, 12, 15], false), []);
    }

    #[test]
    fn a_first_copy_behind_a_later_message_is_late_at_every_qos() {
        for is_once in [false, true] {
            assert_eq!(check(&[0, 2, 1, 3], is_once), [(1, Fault::Late { behind: 2 })]);
        }
    }

    #[test]
    fn at_qos_2_nothing_comes_twice() {
        assert_eq!(check(&[0, 1, 1, 2], true), [(1, Fault::Twice)]);
        assert_eq!(check(&[0, 1, 2, 0, 3], true), [(0, Fault::Twice)]);
    }

    #[test]
    fn a_replay_that_goes_through_all_is_right_also_when_it_breaks_off() {
        assert_eq!(check(&[1, 2, 3, 2, 3, 4], false), []);
        assert_eq!(check(&[1, 2, 3, 3, 4], false), []);
        assert_eq!(check(&[1, 2, 3, 2, 2, 3, 4], false), []);
        assert_eq!(check(&[1, 2, 3, 2, 3, 1, 2, 3, 4], false), []);
        assert_eq!(check(&[1, 2, 3, 1, 2, 3], false), []);
        // 4 never came, so no replay has it.
        assert_eq!(check(&[1, 2, 5, 2, 5, 6], false), []);
    }

    /// Plays what came over connections, one after the other.
    fn check_all(connections: &[&[usize]]) -> Vec<(usize, Fault)> {
        let mut order = TopicOrder::default();
        let mut faults = Vec::new();
        for came in connections {
            order.connected();
            faults.extend(came.iter().filter_map(|n| order.take(*n, false).map(|fault| (*n, fault))));
        }
        faults.extend(order.finish().map(|fault| (usize::MAX, fault)));
        faults
    }

    #[test]
    fn the_server_may_send_again_what_it_had_sent_before_a_replay_of_the_publisher() {
        assert_eq!(check_all(&[&[1, 2, 3, 4, 1, 2], &[4, 1, 2, 3, 4, 5]]), []);
        // It breaks off as well.
        assert_eq!(check_all(&[&[1, 2, 3, 4, 1, 2], &[4, 1], &[4, 1, 2, 3, 4, 5]]), []);
        assert_eq!(check_all(&[&[1, 2, 3, 4, 1, 2], &[4, 2]])[0], (2, Fault::Stale { repeated: 4 }));
        let unfinished = (usize::MAX, Fault::Stale { repeated: 4 });
        assert_eq!(check_all(&[&[1, 2, 3, 4, 1, 2], &[4]]), [unfinished], "the publisher's is not complete");
        assert_eq!(check_all(&[&[1, 2, 3, 1], &[2, 4]]), [(4, Fault::Stale { repeated: 2 })]);
        // Without a new connection it has no reason.
        assert_eq!(check_all(&[&[1, 2, 3, 4, 1, 3]])[0], (3, Fault::Stale { repeated: 1 }));
    }

    #[test]
    fn a_repeat_that_others_have_overtaken_is_stale() {
        assert_eq!(check(&[1, 2, 3, 2, 4], false), [(4, Fault::Stale { repeated: 2 })]);
        assert_eq!(check(&[1, 2, 3, 1, 3], false), [(3, Fault::Stale { repeated: 1 })]);
        assert_eq!(check(&[1, 2, 3, 1], false), [(usize::MAX, Fault::Stale { repeated: 1 })]);
    }
}
