//! Messages that the leader is to store, kept by those who stand by: one that is seen in the log is forgotten, and what is
//! left when the leader dies is stored by the next one. Two messages are the same when subject and payload are.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::BuildHasher;
use std::time::{Duration, Instant};

use foldhash::fast::FixedState;
use serde::{Deserialize, Serialize};

use crate::store::CoreMessage;

/// Messages that are kept, and their bytes. What is beyond is forgotten, the oldest first.
pub(super) const MESSAGES_MAX: usize = 16_384;
pub(super) const BYTES_MAX: usize = 32 << 20;
/// What was not seen in the log for so long is not to be expected there: nobody wanted it but we.
const AGE_MAX: Duration = Duration::from_secs(30);

/// What is told apart.
type Print = u64;

/// Names a message that is kept: ascends in the order in which they came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct StandbyNumber(pub(super) u64);

#[derive(Debug)]
struct Kept {
    print: Print,
    message: CoreMessage,
    since: Instant,
}

/// Messages that are not in the log yet, as far as is known.
#[derive(Debug, Default)]
pub(super) struct Standby {
    next: StandbyNumber,
    kept: BTreeMap<StandbyNumber, Kept>,
    by_print: HashMap<Print, VecDeque<StandbyNumber>>,
    /// Seen in the log before they came.
    ahead: HashMap<Print, (usize, Instant)>,
    bytes: usize,
}

fn print(subject: &str, payload: &[u8]) -> Print {
    FixedState::default().hash_one((subject, payload))
}

/// What two have heard, as one would have heard it: each message as often as the one who heard it more often. What only
/// they have heard comes before what both heard next.
pub(super) fn merge(ours: Vec<CoreMessage>, theirs: Vec<CoreMessage>) -> Vec<CoreMessage> {
    let print_of = |message: &CoreMessage| print(&message.subject, &message.payload);
    let (mut of_both, mut all) = (HashMap::<Print, usize>::new(), Vec::with_capacity(ours.len()));
    for message in &ours {
        *of_both.entry(print_of(message)).or_default() += 1;
    }
    let mut rest = of_both.clone();
    let mut ours = ours.into_iter();
    for message in theirs {
        let print = print_of(&message);
        match of_both.get_mut(&print) {
            Some(count) if *count > 0 => *count -= 1,
            _ => {
                all.push(message);
                continue;
            }
        }
        // Up to where we have it; it may have come already.
        while rest.get(&print).is_some_and(|count| *count > *of_both.get(&print).unwrap_or(&0)) {
            let Some(next) = ours.next() else { break };
            rest.entry(print_of(&next)).and_modify(|count| *count -= 1);
            all.push(next);
        }
    }
    all.extend(ours);
    all
}

impl Standby {
    /// A message that the leader is to store.
    pub(super) fn push(&mut self, message: CoreMessage, now: Instant) {
        let print = print(&message.subject, &message.payload);
        if let Some((count, _)) = self.ahead.get_mut(&print) {
            *count -= 1;
            if *count == 0 {
                self.ahead.remove(&print);
            }
            return;
        }
        self.bytes += message.weight();
        self.kept.insert(self.next, Kept { print, message, since: now });
        self.by_print.entry(print).or_default().push_back(self.next);
        self.next.0 += 1;
        self.trim(now);
    }

    /// A message was seen in the log.
    pub(super) fn stored(&mut self, subject: &str, payload: &[u8], now: Instant) {
        let print = print(subject, payload);
        match self.by_print.get(&print).and_then(|numbers| numbers.front().copied()) {
            Some(number) => self.forget(number),
            None => {
                let ahead = self.ahead.entry(print).or_insert((0, now));
                *ahead = (ahead.0 + 1, now);
            }
        }
        if self.ahead.len() > MESSAGES_MAX {
            self.ahead.retain(|_, (_, since)| now.saturating_duration_since(*since) < AGE_MAX / 2);
        }
    }

    /// Whether all that came was seen in the log.
    pub(super) fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// What is left from a number on, in the order in which it came, with its numbers.
    pub(super) fn from(&self, number: StandbyNumber) -> impl Iterator<Item = (StandbyNumber, &CoreMessage)> {
        self.kept.range(number..).map(|(number, kept)| (*number, &kept.message))
    }

    /// Takes what is left, in the order in which it came.
    pub(super) fn take(&mut self) -> impl Iterator<Item = CoreMessage> + use<> {
        let Self { kept, .. } = std::mem::take(self);
        kept.into_values().map(|kept| kept.message)
    }

    fn trim(&mut self, now: Instant) {
        while let Some((number, kept)) = self.kept.first_key_value() {
            let is_old = now.saturating_duration_since(kept.since) > AGE_MAX;
            if !is_old && self.kept.len() <= MESSAGES_MAX && self.bytes <= BYTES_MAX {
                return;
            }
            self.forget(*number);
        }
    }

    fn forget(&mut self, number: StandbyNumber) {
        let Some(kept) = self.kept.remove(&number) else { return };
        self.bytes -= kept.message.weight();
        if let Some(numbers) = self.by_print.get_mut(&kept.print) {
            numbers.retain(|other| *other != number);
            if numbers.is_empty() {
                self.by_print.remove(&kept.print);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(payload: &str) -> CoreMessage {
        CoreMessage {
            subject: "a.b".into(),
            headers: None,
            payload: payload.to_owned().into(),
            reply: None,
            status: None,
        }
    }

    fn left(standby: &mut Standby) -> Vec<String> {
        standby.take().map(|m| String::from_utf8_lossy(&m.payload).into_owned()).collect()
    }

    #[test]
    fn what_was_not_seen_in_the_log_is_left_in_its_order_whoever_is_first() {
        let now = Instant::now();
        let mut standby = Standby::default();
        standby.stored("a.b", b"early", now);
        for payload in ["one", "same", "early", "same", "two"] {
            standby.push(message(payload), now);
        }
        standby.stored("a.b", b"same", now);
        standby.stored("a.c", b"one", now);
        assert_eq!(left(&mut standby), ["one", "same", "two"]);
        assert_eq!(left(&mut standby), [""; 0]);
    }

    #[test]
    fn what_two_have_heard_is_merged_in_order_and_nothing_comes_twice() {
        let merged = |ours: &str, theirs: &str| {
            let [ours, theirs] =
                [ours, theirs].map(|text| text.chars().map(|c| message(&c.to_string())).collect::<Vec<_>>());
            let all = merge(ours, theirs).into_iter().map(|m| String::from_utf8_lossy(&m.payload).into_owned());
            all.collect::<String>()
        };
        assert_eq!(merged("", "abc"), "abc");
        assert_eq!(merged("abc", ""), "abc");
        assert_eq!(merged("cd", "abc"), "abcd", "we came later");
        assert_eq!(merged("ad", "abcd"), "abcd", "we were cut off");
        assert_eq!(merged("abcd", "bd"), "abcd");
        assert_eq!(merged("ab", "ba"), "ab", "ours is the order");
        assert_eq!(merged("aba", "aab"), "aba");
        assert_eq!(merged("a", "aab"), "aab", "as often as the one who heard it more often");
        assert_eq!(merged("aab", "ab"), "aab");
    }

    #[test]
    fn what_is_old_or_too_much_is_forgotten() {
        let now = Instant::now();
        let mut standby = Standby::default();
        standby.push(message("old"), now);
        standby.push(message("new"), now + AGE_MAX + Duration::from_secs(1));
        assert_eq!(left(&mut standby), ["new"]);
        for n in 0..MESSAGES_MAX + 3 {
            standby.push(message(&n.to_string()), now);
        }
        assert_eq!(left(&mut standby)[0], "3");
        assert_eq!(standby.bytes, 0);
    }
}
