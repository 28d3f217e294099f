//! How fast a client is heard: messages that it may publish and bytes that it may send in a second.

use std::num::NonZeroU64;
use std::time::{Duration, Instant};

use mqtt_access::{DeviceRules, Limit as Most};

use super::io::READ_SIZE;
use super::shared_rates::SharedRates;
use crate::accounts::Shared;
use crate::config::Limits;
use crate::metrics::Limit;
use crate::rate::{Allowance, Bucket, Nanos};

/// Reads of one client in a second, at most, while it sends more than it may: each takes what has gathered until then.
const READS_PER_SECOND: u64 = 10;

/// The rates of one client.
#[derive(Debug)]
pub(super) struct Rates {
    /// All moments are since then.
    began: Instant,
    /// The moment at which everything is judged until the next one, so that whoever is held back is woken by what it was judged by.
    turn: Nanos,
    messages: Option<Rate>,
    bytes: Option<Rate>,
    /// What it shares with others.
    shared: Option<Box<SharedRates>>,
    /// From then on messages are taken without a rate: there are no more to come.
    ends: Option<Nanos>,
}

#[derive(Debug)]
struct Rate {
    bucket: Bucket,
    /// It was reached, and has not been left alone for long enough to gather its burst since.
    is_reached: bool,
}

impl Rate {
    fn new(allowance: Allowance, now: Nanos) -> Self {
        Self { bucket: Bucket::new(allowance, now), is_reached: false }
    }

    /// What is to be said of it, the first time.
    fn note(&mut self, is_reached: bool, now: Nanos) -> bool {
        let is_news = is_reached && !self.is_reached;
        self.is_reached = is_reached || self.is_reached && !self.bucket.is_full(now);
        is_news
    }
}

/// What counts: what the tags of its user say, or else its listener.
fn allowances(limits: &Limits, rules: &DeviceRules) -> [Option<Allowance>; 2] {
    let counts = |tag: Option<Most>, configured| match tag {
        None => configured,
        Some(Most::Unlimited) => None,
        Some(Most::Max(most)) => NonZeroU64::new(most).map(|most| Allowance::new(most, None)),
    };
    [counts(rules.message_rate, limits.message_rate), counts(rules.byte_rate, limits.byte_rate)]
}

impl Rates {
    /// Of a client at a listener with these limits, and what it shares with others; `None` when it may send as fast as it likes.
    pub(super) fn of(limits: &Limits, rules: &DeviceRules, shared: &[Shared], began: Instant) -> Option<Box<Self>> {
        let [messages, bytes] = allowances(limits, rules).map(|allowance| allowance.map(|of| Rate::new(of, 0)));
        let rates = Self { began, turn: 0, messages, bytes, shared: SharedRates::of(shared), ends: None };
        (!rates.are_none()).then(|| Box::new(rates))
    }

    const fn are_none(&self) -> bool {
        self.messages.is_none() && self.bytes.is_none() && self.shared.is_none()
    }

    /// The rates that count now, in place of others: what was gathered or taken stays so, and what it shares is the same.
    pub(super) fn changed(
        before: Option<Box<Self>>,
        limits: &Limits,
        rules: &DeviceRules,
        shared: &[Shared],
    ) -> Option<Box<Self>> {
        let Some(mut rates) = before else { return Self::of(limits, rules, shared, Instant::now()) };
        let now = rates.turn;
        let change = |rate: &mut Option<Rate>, allowance: Option<Allowance>| match (rate.as_mut(), allowance) {
            (Some(rate), Some(allowance)) if rate.bucket.allowance() != allowance => rate.bucket.change(allowance, now),
            (Some(_), Some(_)) => {}
            (_, allowance) => *rate = allowance.map(|allowance| Rate::new(allowance, now)),
        };
        let [messages, bytes] = allowances(limits, rules);
        change(&mut rates.messages, messages);
        change(&mut rates.bytes, bytes);
        (!rates.are_none()).then_some(rates)
    }

    /// From now on it is this late.
    pub(super) fn begin_turn(&mut self, now: Instant) {
        let since = now.saturating_duration_since(self.began);
        self.turn = Nanos::try_from(since.as_nanos()).unwrap_or(Nanos::MAX);
    }

    /// The moment of this turn.
    fn at(&self) -> Instant {
        self.began + Duration::from_nanos(self.turn)
    }

    /// The client has said its last word: what of it waits does so for this long at most.
    pub(super) fn end_within(&mut self, within: Duration) {
        let within = Nanos::try_from(within.as_nanos()).unwrap_or(Nanos::MAX);
        self.ends.get_or_insert(self.turn.saturating_add(within));
    }

    /// Whether one more message is taken now.
    pub(super) fn takes_message(&self) -> bool {
        if self.ends.is_some_and(|ends| ends <= self.turn) {
            return true;
        }
        self.messages.as_ref().is_none_or(|rate| rate.bucket.tokens(self.turn) > 0)
            && self.shared.as_ref().is_none_or(|shared| shared.takes_message(self.at()))
    }

    /// How many bytes are read now; 0: it is read later.
    pub(super) fn readable(&self) -> usize {
        let shared = self.shared.as_ref().map_or(usize::MAX, |shared| shared.readable(self.at()));
        self.readable_of_its_own().min(shared)
    }

    fn readable_of_its_own(&self) -> usize {
        let Some(Rate { bucket, .. }) = &self.bytes else { return READ_SIZE };
        let there = bucket.tokens(self.turn);
        if there < worth_reading(bucket) { 0 } else { usize::try_from(there).unwrap_or(READ_SIZE) }
    }

    /// A message was taken.
    pub(super) fn spend_message(&mut self) {
        if let Some(rate) = &mut self.messages {
            rate.bucket.spend(1, self.turn);
        }
        let now = self.at();
        if let Some(shared) = &mut self.shared {
            shared.spend_message(now);
        }
    }

    /// So many bytes were read.
    pub(super) fn spend_bytes(&mut self, bytes: usize) {
        if let Some(rate) = &mut self.bytes {
            rate.bucket.spend(u64::try_from(bytes).unwrap_or(u64::MAX), self.turn);
        }
        let now = self.at();
        if let Some(shared) = &mut self.shared {
            shared.spend_bytes(bytes, now);
        }
    }

    /// Which rates were reached that had not been for as long as it takes to gather their bursts. `is_waiting`: a message waits.
    pub(super) fn news(&mut self, is_waiting: bool) -> impl Iterator<Item = Limit> {
        let (now, at) = (self.turn, self.at());
        let is_held = |rate: &Rate| is_waiting && rate.bucket.tokens(now) == 0;
        let messages = self.messages.as_mut().is_some_and(|rate| rate.note(is_held(rate), now));
        let is_unread = self.readable_of_its_own() == 0;
        let bytes = self.bytes.as_mut().is_some_and(|rate| rate.note(is_unread, now));
        let shared = self.shared.as_mut().into_iter().flat_map(move |shared| shared.news(is_waiting, at));
        [messages.then_some(Limit::MessageRate), bytes.then_some(Limit::ByteRate)].into_iter().flatten().chain(shared)
    }

    /// When what was not taken will be.
    pub(super) fn due_at(&self) -> Option<Instant> {
        let now = self.turn;
        let messages = self.messages.as_ref().and_then(|rate| rate.bucket.until(1, now));
        let bytes = self.bytes.as_ref().and_then(|rate| rate.bucket.until(worth_reading(&rate.bucket), now));
        let ends = self.ends.and_then(|ends| ends.checked_sub(now)).filter(|ends| *ends > 0);
        let shared = self.shared.as_ref().and_then(|shared| shared.due_in(self.at()));
        let shared = shared.map(|due| Nanos::try_from(due.as_nanos()).unwrap_or(Nanos::MAX));
        let due = messages.into_iter().chain(bytes).chain(ends).chain(shared).min()?;
        Some(self.began + Duration::from_nanos(now.saturating_add(due)))
    }
}

/// Bytes for which the socket is read again.
fn worth_reading(bucket: &Bucket) -> u64 {
    let Allowance { per_second, burst } = bucket.allowance();
    (per_second.get() / READS_PER_SECOND).clamp(1, READ_SIZE as u64).min(burst.get())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowance(per_second: u64, burst: u64) -> Option<Allowance> {
        Some(Allowance::new(NonZeroU64::new(per_second)?, NonZeroU64::new(burst)))
    }

    #[test]
    fn a_tag_stands_in_place_of_what_is_configured() {
        let configured = Limits { message_rate: allowance(50, 100), ..Limits::default() };
        let none = Limits::default();
        for (limits, tag, expected) in [
            (&none, None, None),
            (&configured, None, allowance(50, 100)),
            (&configured, Some(Most::Max(7)), allowance(7, 7)),
            (&none, Some(Most::Max(7)), allowance(7, 7)),
            (&configured, Some(Most::Unlimited), None),
        ] {
            let rules = DeviceRules { message_rate: tag, ..DeviceRules::default() };
            let rates = Rates::of(limits, &rules, &[], Instant::now());
            assert_eq!(rates.and_then(|rates| rates.messages).map(|rate| rate.bucket.allowance()), expected, "{tag:?}");
        }
    }

    #[test]
    fn a_rate_that_changes_gives_nothing_back() {
        let rules = DeviceRules::default();
        let limits = |rate| Limits { message_rate: rate, ..Limits::default() };
        let mut rates = Rates::of(&limits(allowance(1, 5)), &rules, &[], Instant::now()).unwrap();
        (0..5).for_each(|_| rates.spend_message());
        let rates = Rates::changed(Some(rates), &limits(allowance(1, 50)), &rules, &[]).unwrap();
        assert!(!rates.takes_message());
        let rates = Rates::changed(Some(rates), &limits(allowance(1, 50)), &rules, &[]);
        assert!(Rates::changed(rates, &limits(None), &rules, &[]).is_none());
        assert!(Rates::changed(None, &limits(allowance(1, 1)), &rules, &[]).unwrap().takes_message());
    }

    #[test]
    fn who_is_held_back_is_woken_when_it_is_not_any_more_whatever_the_time_is_by_then() {
        let (limits, began) = (Limits { message_rate: allowance(100, 1), ..Limits::default() }, Instant::now());
        let mut rates = Rates::of(&limits, &DeviceRules::default(), &[], began).unwrap();
        assert!(rates.takes_message() && rates.due_at().is_none());
        rates.spend_message();
        for late_ms in [10, 0, 25, 1_000] {
            assert!(!rates.takes_message());
            // A token may have come since; it was not there when it was looked for.
            let due = rates.due_at().unwrap();
            rates.begin_turn(due + Duration::from_millis(late_ms));
            assert!(rates.takes_message(), "{late_ms} ms late");
            rates.spend_message();
        }
    }

    #[test]
    fn bytes_are_read_in_pieces_that_are_worth_it_and_a_wait_has_an_end() {
        for (rate, burst, piece) in
            [(100_000, 100_000, 10_000), (5, 5, 1), (1 << 30, 1 << 30, 32 * 1024), (1_000, 7, 7)]
        {
            let (limits, began) = (Limits { byte_rate: allowance(rate, burst), ..Limits::default() }, Instant::now());
            let mut rates = Rates::of(&limits, &DeviceRules::default(), &[], began).unwrap();
            assert_eq!((rates.readable() as u64, rates.due_at()), (burst, None));
            rates.spend_bytes(usize::try_from(burst).unwrap());
            let due = rates.due_at().unwrap();
            assert_eq!(due - began, Duration::from_nanos((piece * 1_000_000_000_u64).div_ceil(rate)), "{rate}/s");
            assert_eq!(rates.readable(), 0, "{rate}/s");
            rates.begin_turn(due);
            assert_eq!((rates.readable() as u64, rates.due_at()), (piece, None), "{rate}/s");
        }
    }

    #[test]
    fn it_is_said_once_until_the_burst_has_gathered_again() {
        let mut rate = Rate::new(Allowance::new(NonZeroU64::MIN, NonZeroU64::new(2)), 0);
        rate.bucket.spend(2, 0);
        assert_eq!([true, true, false, true].map(|is_reached| rate.note(is_reached, 0)), [true, false, false, false]);
        assert!(!rate.note(false, 1_000_000_000) && !rate.note(true, 1_000_000_000));
        assert!(!rate.note(false, 2_000_000_000) && rate.note(true, 2_000_000_000));
    }
}
