//! A rate that many share. What is taken counts at once, also beyond what is there; whoever has taken more than that gets a ticket,
//! and takes nothing before its ticket is due. So everybody waits in the order in which it took, each for its own, and nobody looks
//! again and again.
//!
//! **Invariant:** what all together have taken is at most what the rate has brought, its burst, and what each took last.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::{Allowance, Nanos, TOKEN, units_of};

/// See the module.
#[derive(Debug)]
pub(crate) struct Line {
    began: Instant,
    state: Mutex<State>,
}

/// A place in a line: it is due when everything up to it has been brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticket(u128);

/// Units of tokens, since the beginning.
#[derive(Debug)]
struct State {
    /// `None`: everything is due.
    allowance: Option<Allowance>,
    /// Brought until `at`; never more than is taken and a burst.
    brought: u128,
    taken: u128,
    at: Nanos,
}

impl State {
    fn look_at(&mut self, now: Nanos) {
        self.brought = self.brought_until(now);
        self.at = self.at.max(now);
    }

    fn brought_until(&self, now: Nanos) -> u128 {
        let Some(Allowance { per_second, burst }) = self.allowance else { return self.brought.max(self.taken) };
        // Time that goes back brings nothing.
        let more = u128::from(now.saturating_sub(self.at)) * u128::from(per_second.get());
        (self.brought + more).min(self.taken + u128::from(units_of(burst.get())))
    }
}

impl Line {
    /// With its burst.
    pub(crate) fn new(allowance: Allowance, now: Instant) -> Self {
        let brought = units_of(allowance.burst.get()).into();
        Self { began: now, state: Mutex::new(State { allowance: Some(allowance), brought, taken: 0, at: 0 }) }
    }

    fn since(&self, now: Instant) -> Nanos {
        Nanos::try_from(now.saturating_duration_since(self.began).as_nanos()).unwrap_or(Nanos::MAX)
    }

    /// From now on it moves at another rate, or at none: then all that wait are let go.
    pub(crate) fn allow(&self, allowance: Option<Allowance>, now: Instant) {
        let mut state = self.state.lock();
        state.look_at(self.since(now));
        state.allowance = allowance;
        state.look_at(self.since(now));
    }

    /// The most that is worth taking at once, tokens.
    pub(crate) fn burst(&self) -> u64 {
        self.state.lock().allowance.map_or(u64::MAX, |allowance| allowance.burst.get())
    }

    /// So many are taken. A ticket, where that is more than there were.
    pub(crate) fn take(&self, tokens: u64, now: Instant) -> Option<Ticket> {
        let mut state = self.state.lock();
        state.look_at(self.since(now));
        state.taken += u128::from(units_of(tokens));
        (state.allowance.is_some() && state.brought < state.taken).then_some(Ticket(state.taken))
    }

    /// How long it is until a ticket is due; `None`: it is.
    pub(crate) fn until(&self, Ticket(place): Ticket, now: Instant) -> Option<Duration> {
        let (state, now) = (self.state.lock(), self.since(now));
        let missing = place.checked_sub(state.brought_until(now)).filter(|missing| *missing > 0)?;
        let nanos = missing.div_ceil(state.allowance?.per_second.get().into());
        Some(Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)))
    }

    /// Whether nothing was taken for so long that nothing more gathers.
    pub(crate) fn is_full(&self, now: Instant) -> bool {
        let (state, now) = (self.state.lock(), self.since(now));
        let burst = state.allowance.map_or(0, |allowance| units_of(allowance.burst.get()));
        state.brought_until(now) >= state.taken + u128::from(burst)
    }
}

/// A token is as much here as in a bucket.
const _: () = assert!(units_of(1) == TOKEN);

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;

    use super::*;

    fn allowance(per_second: u64, burst: u64) -> Allowance {
        Allowance::new(NonZeroU64::new(per_second).unwrap(), NonZeroU64::new(burst))
    }

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn whoever_takes_more_than_there_is_waits_for_its_own_and_for_those_before_it() {
        let began = Instant::now();
        let line = Line::new(allowance(10, 2), began);
        assert_eq!([line.take(1, began), line.take(1, began)], [None, None]);
        let (first, second) = (line.take(1, began).unwrap(), line.take(3, began).unwrap());
        let until = |ticket, after| line.until(ticket, began + after);
        assert_eq!((until(first, Duration::ZERO), until(second, Duration::ZERO)), (Some(100 * MS), Some(400 * MS)));
        assert_eq!((until(first, 100 * MS), until(second, 100 * MS)), (None, Some(300 * MS)));
        // It looks late: what has come since is its own, as far as there is room.
        assert_eq!(until(second, 9_000 * MS), None);
        let later = began + 9_000 * MS;
        assert!(line.is_full(later) && !line.is_full(began + 599 * MS) && line.is_full(began + 600 * MS));
        assert_eq!([line.take(2, later), line.take(0, later)], [None, None]);
        assert!(line.take(1, later).is_some());
    }

    #[test]
    fn a_hundred_take_turns_and_together_they_have_what_the_rate_brings() {
        let began = Instant::now();
        let line = Line::new(allowance(100, 1), began);
        let (mut tickets, mut counts) = ([None; 100], [0_u32; 100]);
        for after in 0..10_000 {
            let now = began + after * MS;
            for (ticket, count) in tickets.iter_mut().zip(&mut counts) {
                if ticket.is_none_or(|ticket| line.until(ticket, now).is_none()) {
                    (*ticket, *count) = (line.take(1, now), *count + 1);
                }
            }
        }
        let all: u32 = counts.iter().sum();
        assert!((1_000..=1_101).contains(&all), "{all} in ten seconds, a burst, and one of each");
        assert!(counts.iter().all(|count| (10..=12).contains(count)), "{counts:?}");
    }

    #[test]
    fn another_rate_counts_for_those_who_wait() {
        let began = Instant::now();
        let line = Line::new(allowance(1, 1), began);
        line.take(1, began);
        let ticket = line.take(100, began).unwrap();
        assert_eq!(line.until(ticket, began), Some(100_000 * MS));
        line.allow(Some(allowance(1_000, 1)), began + 50_000 * MS);
        assert_eq!(line.until(ticket, began + 50_000 * MS), Some(50 * MS));
        line.allow(None, began + 50_001 * MS);
        assert_eq!(line.until(ticket, began + 50_001 * MS), None);
        assert_eq!(line.take(1_000_000, began + 50_001 * MS), None);
        line.allow(Some(allowance(1, 5)), began + 50_002 * MS);
        assert!(line.take(1, began + 50_002 * MS).is_some(), "what was free was not saved");
    }
}
