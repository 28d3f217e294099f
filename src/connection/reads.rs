//! When the socket is read, if not at once: later while its client sends more than others and there is too much to do, and not
//! while there is no memory for a large packet. What is not read waits in the client: nothing is lost, and it is not silent (`life`).
//!
//! **Invariant:** a place among the large packets that somebody waits for is free after a time that its packet's size says, of which
//! only that counts in which its client was read: one that sends slowly does not keep it for ever.
//!
//! **Invariant:** of a connection that ends, what has come is read at once.

use std::time::Duration;

use tokio::time::Instant;

use crate::overload::{Budget, Large, WaitsForLarge};

/// What may come at once of a client that has a cap, in the time that it takes at that pace.
const BURST: Duration = Duration::from_millis(250);

/// So long nobody is left unread.
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// A packet of which this much is there, and not all, needs a place among the large ones, bytes.
const LARGE: usize = 64 * 1024;

/// How often it is tried to get one.
const RETRY: Duration = Duration::from_millis(50);

/// So long a packet may take that has a place which others wait for, and as much longer as it takes at this pace, in bytes a second.
const PLACE_FOR: Duration = Duration::from_secs(5);
const PLACE_PACE: u64 = 128 * 1024;

/// How often it is looked whether others wait, when that time is over.
const PLACE_LOOK: Duration = Duration::from_secs(1);

/// A place, and for how long.
#[derive(Debug)]
struct Place {
    large: Large,
    /// So long its client may still be read for this packet, when others wait.
    left: Duration,
    /// The client has been read since then.
    since: Option<Instant>,
}

/// What became of the place that a packet asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// It needs none, has one, or waits for one as before.
    Fine,
    /// It has begun to wait.
    Waits,
    /// It had one for too long, and others wait.
    Overdue,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Reads {
    not_before: Option<Instant>,
    /// At the pace of the cap, what has come lasts until then.
    spent_until: Option<Instant>,
    place: Option<Place>,
    /// There was no place at the last look.
    waits_for_place: Option<WaitsForLarge>,
    /// The connection ends.
    is_ending: bool,
}

impl Place {
    /// For a packet of this size.
    fn new(large: Large, size: usize) -> Self {
        let at_pace = Duration::from_millis((size as u64).saturating_mul(1_000) / PLACE_PACE);
        Self { large, left: PLACE_FOR + at_pace, since: None }
    }

    /// Time went by, in which the client was read or not; from now on it is, or not. Returns whether its time is over.
    fn spend(&mut self, now: Instant, is_read: bool) -> bool {
        if let Some(since) = self.since {
            self.left = self.left.saturating_sub(now.saturating_duration_since(since));
        }
        self.since = is_read.then_some(now);
        self.left.is_zero()
    }
}

impl Reads {
    /// The connection ends: what has come is read at once.
    pub(super) fn end(&mut self) {
        *self = Self { is_ending: true, ..Self::default() };
    }

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
    /// read on with a place among those. `is_read`: its client is read, or would be with a place.
    pub(super) fn ask_for_place(
        &mut self,
        waiting: usize,
        size: impl FnOnce() -> Option<usize>,
        is_read: bool,
        budget: &'static Budget,
    ) -> Asked {
        if waiting < LARGE || self.is_ending {
            (self.place, self.waits_for_place) = (None, None);
            return Asked::Fine;
        }
        if let Some(place) = &mut self.place {
            let is_overdue = place.spend(Instant::now(), is_read) && place.large.is_wanted();
            return if is_overdue { Asked::Overdue } else { Asked::Fine };
        }
        if self.not_before.is_some() {
            return Asked::Fine;
        }
        let size = size().unwrap_or(LARGE);
        if let Some(large) = budget.take_large(size) {
            (self.place, self.waits_for_place) = (Some(Place::new(large, size)), None);
            return Asked::Fine;
        }
        self.not_before = Some(Instant::now() + RETRY);
        if self.waits_for_place.is_some() {
            return Asked::Fine;
        }
        self.waits_for_place = Some(budget.wait_for_large());
        Asked::Waits
    }

    /// When it is to be looked whether its place is wanted.
    pub(super) fn place_due_at(&self) -> Option<Instant> {
        let Place { left, since, .. } = self.place.as_ref()?;
        since.map(|since| since + if left.is_zero() { PLACE_LOOK } else { *left })
    }

    /// Bytes came of a client that is to send so many a second. Returns whether the next are read later.
    pub(super) fn took(&mut self, bytes: u64, per_second: u64, now: Instant) -> bool {
        if self.is_ending {
            return false;
        }
        let lasting = Duration::from_micros(bytes.saturating_mul(1_000_000) / per_second.max(1));
        let spent_until = self.spent_until.map_or(now, |until| until.max(now)) + lasting;
        let ahead = spent_until.saturating_duration_since(now).saturating_sub(BURST).min(PAUSE_MAX);
        // What is more than the longest pause is forgotten.
        self.spent_until = Some(spent_until.min(now + BURST + PAUSE_MAX));
        // What others wait for is read on, to be done with it.
        if ahead.is_zero() || self.place.as_ref().is_some_and(|place| place.large.is_wanted()) {
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

    fn scarce() -> &'static Budget {
        let budget: &'static Budget = Box::leak(Box::new(Budget::new()));
        budget.set_max(0);
        budget
    }

    fn is_wanted(reads: &Reads) -> bool {
        reads.place.as_ref().is_some_and(|place| place.large.is_wanted())
    }

    /// One more look at a client that has sent so many bytes of a packet of a megabyte, and is read.
    fn look(reads: &mut Reads, waiting: usize, budget: &'static Budget) -> Asked {
        reads.not_before = None;
        reads.ask_for_place(waiting, || Some(1 << 20), true, budget)
    }

    #[test]
    fn a_large_packet_without_a_place_waits_and_asks_again() {
        let (budget, mut first, mut second) = (scarce(), Reads::default(), Reads::default());
        assert_eq!((look(&mut first, LARGE - 1, budget), first.place.is_some()), (Asked::Fine, false));
        assert_eq!((look(&mut first, LARGE, budget), first.not_before()), (Asked::Fine, None));
        assert_eq!(look(&mut second, LARGE, budget), Asked::Waits);
        assert!(second.not_before().is_some() && is_wanted(&first));
        let again = second.ask_for_place(LARGE, || Some(1 << 20), true, budget);
        assert_eq!(again, Asked::Fine, "it waits already");
        assert_eq!(look(&mut second, LARGE, budget), Asked::Fine, "it is counted once");
        assert!(second.not_before().is_some());
        // The packet of the first one is complete.
        look(&mut first, 0, budget);
        assert_eq!(look(&mut second, LARGE, budget), Asked::Fine);
        assert!(second.place.is_some() && !is_wanted(&second));
    }

    #[tokio::test(start_paused = true)]
    async fn who_sends_a_large_packet_slowly_loses_its_place_when_others_wait_for_it() {
        let (budget, mut slow, mut other) = (scarce(), Reads::default(), Reads::default());
        let time = PLACE_FOR + Duration::from_secs(8);
        assert_eq!(look(&mut slow, LARGE, budget), Asked::Fine);
        assert_eq!(look(&mut slow, LARGE, budget), Asked::Fine);
        assert_eq!(slow.place_due_at(), Some(Instant::now() + time));
        tokio::time::advance(2 * time).await;
        assert_eq!(look(&mut slow, LARGE, budget), Asked::Fine, "nobody waits");
        assert_eq!(slow.place_due_at(), Some(Instant::now() + PLACE_LOOK), "but somebody may");
        assert_eq!(look(&mut other, LARGE, budget), Asked::Waits);
        assert_eq!(look(&mut slow, LARGE, budget), Asked::Overdue);
        drop(slow);
        assert_eq!(look(&mut other, LARGE, budget), Asked::Fine);
        assert!(other.place.is_some());
    }

    #[test]
    fn who_has_what_others_wait_for_is_read_on_and_later_afterwards() {
        let (budget, now) = (scarce(), Instant::now());
        let (mut first, mut second) = (Reads::default(), Reads::default());
        look(&mut first, LARGE, budget);
        assert_eq!(look(&mut second, LARGE, budget), Asked::Waits);
        assert!(!first.took(1 << 30, 1_000, now) && first.not_before().is_none());
        look(&mut first, 0, budget);
        assert!(first.took(1, 1_000, now) && first.not_before().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn while_we_do_not_read_nobody_is_slow() {
        let (budget, mut held_back, mut other) = (scarce(), Reads::default(), Reads::default());
        look(&mut held_back, LARGE, budget);
        assert_eq!(look(&mut other, LARGE, budget), Asked::Waits);
        for _ in 0..60 {
            assert_eq!(held_back.ask_for_place(LARGE, || None, false, budget), Asked::Fine);
            assert_eq!(held_back.place_due_at(), None);
            tokio::time::advance(Duration::from_secs(10)).await;
        }
        assert_eq!(held_back.ask_for_place(LARGE, || None, true, budget), Asked::Fine);
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(held_back.ask_for_place(LARGE, || None, true, budget), Asked::Overdue);
    }

    #[test]
    fn of_who_is_gone_what_has_come_is_read_at_once() {
        let (budget, now) = (scarce(), Instant::now());
        let (mut first, mut reads) = (Reads::default(), Reads::default());
        look(&mut first, LARGE, budget);
        assert_eq!(look(&mut reads, LARGE, budget), Asked::Waits);
        assert!(reads.took(1 << 30, 1_000, now));
        reads.end();
        assert!(reads.not_before().is_none() && !is_wanted(&first));
        assert!(!reads.took(1 << 30, 1_000, now) && reads.not_before().is_none());
        assert_eq!((look(&mut reads, LARGE, budget), reads.not_before()), (Asked::Fine, None));
    }
}
