//! When the socket is read, if not at once: later while its client sends more than others and there is too much to do, and not
//! while there is no memory for a large packet. What is not read waits in the client: nothing is lost, and it is not silent (`life`).

use std::time::Duration;

use tokio::time::Instant;

use crate::overload::{Budget, Large};

/// What may come at once of a client that has a cap, in the time that it takes at that pace.
const BURST: Duration = Duration::from_millis(250);

/// So long nobody is left unread.
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// A packet of which this much is there, and not all, needs a place among the large ones, bytes.
const LARGE: usize = 64 * 1024;

/// How often it is tried to get one.
const RETRY: Duration = Duration::from_millis(50);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Reads {
    not_before: Option<Instant>,
    /// At the pace of the cap, what has come lasts until then.
    spent_until: Option<Instant>,
    large: Option<Large>,
    /// There was no place at the last look.
    waits_for_place: bool,
}

impl Reads {
    /// Nothing is read before this; `None`: at once.
    pub(super) const fn not_before(&self) -> Option<Instant> {
        self.not_before
    }

    /// Looks whether it may be read again.
    pub(super) fn begin_turn(&mut self) {
        if self.not_before.is_some_and(|at| at <= Instant::now()) {
            self.not_before = None;
        }
    }

    /// So many bytes wait of a packet that is not complete, and has so many in all if that is known: when it is a large one, it is
    /// read on with a place among those. Returns whether it has begun to wait for one.
    pub(super) fn ask_for_place(
        &mut self,
        waiting: usize,
        size: impl FnOnce() -> Option<usize>,
        budget: &'static Budget,
    ) -> bool {
        if waiting < LARGE {
            (self.large, self.waits_for_place) = (None, false);
            return false;
        }
        if self.large.is_some() || self.not_before.is_some() {
            return false;
        }
        self.large = budget.take_large(size().unwrap_or(LARGE));
        let waited = std::mem::replace(&mut self.waits_for_place, self.large.is_none());
        if self.waits_for_place {
            self.not_before = Some(Instant::now() + RETRY);
        }
        self.waits_for_place && !waited
    }

    /// Bytes came of a client that is to send so many a second. Returns whether the next are read later.
    pub(super) fn took(&mut self, bytes: u64, per_second: u64, now: Instant) -> bool {
        let lasting = Duration::from_micros(bytes.saturating_mul(1_000_000) / per_second.max(1));
        let spent_until = self.spent_until.map_or(now, |until| until.max(now)) + lasting;
        let ahead = spent_until.saturating_duration_since(now).saturating_sub(BURST).min(PAUSE_MAX);
        // What is more than the longest pause is forgotten.
        self.spent_until = Some(spent_until.min(now + BURST + PAUSE_MAX));
        if ahead.is_zero() {
            return false;
        }
        self.not_before = Some(self.not_before.map_or(now + ahead, |at| at.max(now + ahead)));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_sends_more_than_the_cap_is_read_at_the_cap_and_who_sends_less_at_once() {
        const CAP: u64 = 100_000;
        let began = Instant::now();
        let (mut heavy, mut light, mut now, mut came) = (Reads::default(), Reads::default(), began, 0);
        while came < 20 * CAP {
            if heavy.took(32_768, CAP, now) {
                now = heavy.not_before().unwrap();
                heavy.not_before = None;
            }
            came += 32_768;
            // As a client that says something now and then.
            assert!(!light.took(10_000, CAP, now));
        }
        let seconds = now.duration_since(began).as_secs_f64();
        assert!((18.0..21.0).contains(&seconds), "{seconds}");
    }

    #[test]
    fn nobody_is_left_unread_for_long_and_what_was_long_ago_is_forgotten() {
        let now = Instant::now();
        let mut reads = Reads::default();
        assert!(reads.took(1 << 30, 1_000, now));
        assert_eq!(reads.not_before(), Some(now + PAUSE_MAX));
        let mut rested = Reads { spent_until: Some(now), ..Reads::default() };
        assert!(!rested.took(100, 1_000, now + Duration::from_secs(60)));
    }

    #[test]
    fn a_large_packet_without_a_place_waits_and_asks_again() {
        let budget: &'static Budget = Box::leak(Box::new(Budget::new()));
        budget.set_max(0);
        let (mut first, mut second) = (Reads::default(), Reads::default());
        let size = || Some(1 << 20);
        assert!(!first.ask_for_place(LARGE - 1, size, budget) && first.large.is_none());
        assert!(!first.ask_for_place(LARGE, size, budget) && first.not_before().is_none());
        assert!(second.ask_for_place(LARGE, size, budget) && second.not_before().is_some());
        assert!(!second.ask_for_place(LARGE, size, budget), "it waits already");
        second.not_before = None;
        assert!(!second.ask_for_place(LARGE, size, budget) && second.not_before().is_some(), "it is counted once");
        // The packet of the first one is complete.
        first.ask_for_place(0, size, budget);
        second.not_before = None;
        assert!(!second.ask_for_place(LARGE, size, budget) && second.large.is_some());
    }
}
