//! How fast a client is heard together with the others of its user and of its account. What it sends counts at once, and what was
//! more than there is has it wait for its turn before it is heard again.

use std::time::{Duration, Instant};

use super::io::READ_SIZE;
use crate::accounts::Shared;
use crate::metrics::Limit;
use crate::rate::Ticket;

/// Who waits looks again after so long at most: the rate may be another one by then.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// The rates that a client shares, and its places in them.
#[derive(Debug)]
pub(super) struct SharedRates {
    messages: Vec<Place>,
    bytes: Vec<Place>,
}

#[derive(Debug)]
struct Place {
    shared: Shared,
    /// It waits until this one is due.
    ticket: Option<Ticket>,
    /// It has waited, and the rate was not left alone for long enough to gather its burst since.
    is_reached: bool,
}

impl Place {
    fn new(shared: &Shared) -> Self {
        Self { shared: shared.clone(), ticket: None, is_reached: false }
    }

    fn until(&self, now: Instant) -> Option<Duration> {
        self.shared.line.until(self.ticket?, now)
    }

    fn take(&mut self, tokens: u64, now: Instant) {
        self.ticket = self.shared.line.take(tokens, now);
    }

    /// What is to be said of it, the first time.
    fn note(&mut self, is_held: bool, now: Instant) -> Option<Limit> {
        let is_reached = is_held && self.until(now).is_some();
        let is_news = is_reached && !self.is_reached;
        self.is_reached = is_reached || self.is_reached && !self.shared.line.is_full(now);
        is_news.then_some(self.shared.limit)
    }
}

impl SharedRates {
    /// `None`: it shares none.
    pub(super) fn of(shared: &[Shared]) -> Option<Box<Self>> {
        let (bytes, messages): (Vec<_>, Vec<_>) = shared.iter().partition(|shared| shared.is_of_bytes());
        let places = |of: Vec<&Shared>| of.into_iter().map(Place::new).collect();
        (!shared.is_empty()).then(|| Box::new(Self { messages: places(messages), bytes: places(bytes) }))
    }

    /// Whether one more message is taken now.
    pub(super) fn takes_message(&self, now: Instant) -> bool {
        self.messages.iter().all(|place| place.until(now).is_none())
    }

    /// How many bytes are read now; 0: it is read later.
    pub(super) fn readable(&self, now: Instant) -> usize {
        if self.bytes.iter().any(|place| place.until(now).is_some()) {
            return 0;
        }
        let bursts = self.bytes.iter().map(|place| usize::try_from(place.shared.line.burst()).unwrap_or(READ_SIZE));
        bursts.min().map_or(READ_SIZE, |burst| burst.min(READ_SIZE))
    }

    /// A message was taken.
    pub(super) fn spend_message(&mut self, now: Instant) {
        self.messages.iter_mut().for_each(|place| place.take(1, now));
    }

    /// So many bytes were read.
    pub(super) fn spend_bytes(&mut self, bytes: usize, now: Instant) {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        self.bytes.iter_mut().for_each(|place| place.take(bytes, now));
    }

    /// Which of them were reached. `is_waiting`: a message waits.
    pub(super) fn news(&mut self, is_waiting: bool, now: Instant) -> impl Iterator<Item = Limit> {
        let messages = self.messages.iter_mut().filter_map(move |place| place.note(is_waiting, now));
        messages.chain(self.bytes.iter_mut().filter_map(move |place| place.note(true, now)))
    }

    /// How long it is until more is taken of one who waits.
    pub(super) fn due_in(&self, now: Instant) -> Option<Duration> {
        let all = |places: &[Place]| places.iter().filter_map(|place| place.until(now)).max();
        let due = [all(&self.messages), all(&self.bytes)].into_iter().flatten().min()?;
        Some(due.min(LOOK_EVERY))
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;
    use std::sync::Arc;

    use super::*;
    use crate::rate::{Allowance, Line};

    const SECOND: Duration = Duration::from_secs(1);

    /// Rates that clients share, with bursts of one message and of a thousand bytes.
    fn shared(messages: u64, bytes: u64, now: Instant) -> Vec<Shared> {
        let rates = [(Limit::MessageRatePerUser, messages, 1), (Limit::ByteRatePerAccount, bytes, 1_000)];
        let of = |(limit, rate, burst)| {
            let allowance = Allowance::new(NonZeroU64::new(rate).unwrap(), NonZeroU64::new(burst));
            Shared { limit, line: Arc::new(Line::new(allowance, now)) }
        };
        rates.map(of).to_vec()
    }

    #[test]
    fn two_clients_take_turns_and_neither_is_woken_for_nothing() {
        let now = Instant::now();
        let shared = shared(10, 1_000, now);
        let mut clients = [SharedRates::of(&shared).unwrap(), SharedRates::of(&shared).unwrap()];
        let [one, other] = &mut clients;
        one.spend_message(now);
        assert!(one.takes_message(now), "a burst was there");
        one.spend_message(now);
        assert!(!one.takes_message(now) && other.takes_message(now), "who has taken nothing does not wait");
        other.spend_message(now);
        assert_eq!((one.due_in(now), other.due_in(now)), (Some(SECOND / 10), Some(SECOND / 5)));
        let due = now + SECOND / 10;
        assert!(one.takes_message(due) && !other.takes_message(due) && one.due_in(due).is_none());
        assert_eq!(one.news(true, now).collect::<Vec<_>>(), [Limit::MessageRatePerUser]);
        assert_eq!(one.news(true, now).count(), 0, "said once");
    }

    #[test]
    fn bytes_that_were_read_are_waited_for_and_an_idle_client_waits_for_nothing() {
        let now = Instant::now();
        let shared = shared(10, 1_000, now);
        let mut clients = [SharedRates::of(&shared).unwrap(), SharedRates::of(&shared).unwrap()];
        let [one, idle] = &mut clients;
        assert_eq!(one.readable(now), 1_000, "no more than a burst at once");
        one.spend_bytes(1_000, now);
        one.spend_bytes(500, now);
        assert_eq!((one.readable(now), one.due_in(now)), (0, Some(SECOND / 2)));
        assert_eq!((idle.readable(now), idle.due_in(now)), (1_000, None));
        one.spend_bytes(100_000, now);
        assert_eq!(one.due_in(now), Some(LOOK_EVERY), "the rate may be another one before");
    }
}
