//! Bytes that wait in memory, of all accounts, and how many more one queue may have.
//!
//! A queue may grow while it has less than its share, and the share is a part of what is left: the more is taken, the less each may
//! have. So a few hundred readers that do not read get about the same each, and what is left for everybody else is never
//! nothing. Nobody has to be found and punished for that, and no queue has to be told: who wants to grow asks.
//!
//! **Invariant:** what asks before it grows ([`Held::grow`](super::Held::grow)) never brings the whole above the limit.

use std::cell::Cell;
use std::sync::atomic::{AtomicIsize, AtomicUsize, Ordering::Relaxed};

use super::system::Memory;

/// Counters that are added up: who counts often does not wait for others who do.
const STRIPES: usize = 8;

/// Memory that is in use when all that may wait waits, in thousandths of the limit. Below where levels begin: the allocator needs
/// some more than what is asked of it, and so does the kernel for sockets.
const AIM_PERMILLE: usize = 600;

/// These parts of the limit may wait at most, and at least. What waits can come within less time than it takes to look at memory, and the
/// allocator takes up to twice of it until it has given back what it can; whatever else takes memory, something has to wait for clients.
const MOST_PART: usize = 3;
const LEAST_PART: usize = 32;

/// The share is this part of what is left.
const SHARE_PART: usize = 8;

/// A share is never larger than what nobody needs.
const UNLIMITED: usize = usize::MAX / 2;

/// One of several counters, on a cache line of its own.
#[derive(Debug)]
#[repr(align(64))]
struct Stripe(AtomicIsize);

thread_local! {
    /// Which of the counters this thread uses.
    static STRIPE: Cell<usize> = const { Cell::new(usize::MAX) };
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Budget {
    stripes: [Stripe; STRIPES],
    max: AtomicUsize,
    /// As it was found last by somebody who grew.
    share: AtomicUsize,
    /// Bytes of large packets that are being read.
    large: AtomicUsize,
    /// Who waits for a place to read one.
    large_waiting: AtomicUsize,
}

/// A place for a large packet that is being read, until it is dropped.
#[derive(Debug)]
pub(crate) struct Large {
    budget: &'static Budget,
    bytes: usize,
}

impl Large {
    /// Whether somebody waits for a place.
    pub(crate) fn is_wanted(&self) -> bool {
        self.budget.large_waiting.load(Relaxed) > 0
    }
}

impl Drop for Large {
    fn drop(&mut self) {
        self.budget.large.fetch_sub(self.bytes, Relaxed);
    }
}

/// Somebody waits for a place for a large packet, until this is dropped.
#[derive(Debug)]
pub(crate) struct WaitsForLarge(&'static Budget);

impl Drop for WaitsForLarge {
    fn drop(&mut self) {
        self.0.large_waiting.fetch_sub(1, Relaxed);
    }
}

impl Budget {
    /// One without a limit.
    pub(crate) const fn new() -> Self {
        Self {
            stripes: [const { Stripe(AtomicIsize::new(0)) }; STRIPES],
            max: AtomicUsize::new(UNLIMITED),
            share: AtomicUsize::new(UNLIMITED / SHARE_PART),
            large: AtomicUsize::new(0),
            large_waiting: AtomicUsize::new(0),
        }
    }

    /// Bytes that wait.
    pub(crate) fn held(&self) -> usize {
        let sum: isize = self.stripes.iter().map(|stripe| stripe.0.load(Relaxed)).sum();
        // What one thread takes another may give back before the first is read.
        usize::try_from(sum).unwrap_or(0)
    }

    /// Bytes that may wait.
    pub(crate) fn max(&self) -> usize {
        self.max.load(Relaxed)
    }

    /// So many may wait from now on. What waits already stays.
    pub(crate) fn set_max(&self, max: usize) {
        self.max.store(max.min(UNLIMITED), Relaxed);
        self.look();
    }

    /// Keeps what is in use at [`AIM_PERMILLE`] of the limit: what waits gets what is left beside everything else that takes memory.
    pub(crate) fn keep_to(&self, memory: Memory) {
        let (used, limit) = (as_size(memory.used), as_size(memory.limit));
        let others = used.saturating_sub(self.held());
        let aim = limit / 1_000 * AIM_PERMILLE;
        self.set_max(aim.saturating_sub(others).clamp(limit / LEAST_PART, limit / MOST_PART));
    }

    /// Bytes that one queue may have now. What was found a moment ago: good enough for whoever asks often.
    pub(crate) fn share(&self) -> usize {
        self.share.load(Relaxed)
    }

    /// A place for a packet of so many bytes that comes in pieces. While more than half of the budget is taken, such packets may have a
    /// quarter of it, and one of them always has a place: so they do not wait for each other, each with a part of what it needs.
    pub(crate) fn take_large(&'static self, bytes: usize) -> Option<Large> {
        let others = self.large.fetch_add(bytes, Relaxed);
        let large = Large { budget: self, bytes };
        let fits = others == 0 || others.saturating_add(bytes) <= self.max() / 4;
        (fits || !self.is_short()).then_some(large)
    }

    /// Somebody waits who got none.
    pub(crate) fn wait_for_large(&'static self) -> WaitsForLarge {
        self.large_waiting.fetch_add(1, Relaxed);
        WaitsForLarge(self)
    }

    /// Whether less than half of it is left.
    pub(crate) fn is_short(&self) -> bool {
        self.share() <= self.max() / (SHARE_PART * 2)
    }

    /// Whether there is no room for anything more.
    pub(crate) fn is_full(&self) -> bool {
        // Less than a sixteenth is left.
        self.share() <= self.max() / (SHARE_PART * 16)
    }

    /// Counts bytes that are there, whether there is room for them or not. See [`Held`](super::Held).
    pub(super) fn add(&self, bytes: usize) {
        self.stripe().fetch_add(signed(bytes), Relaxed);
    }

    /// They are gone.
    pub(super) fn subtract(&self, bytes: usize) {
        self.stripe().fetch_sub(signed(bytes), Relaxed);
    }

    /// Finds the share anew, and returns how many bytes wait.
    pub(super) fn look(&self) -> usize {
        let held = self.held();
        self.share.store(self.max().saturating_sub(held) / SHARE_PART, Relaxed);
        held
    }

    fn stripe(&self) -> &AtomicIsize {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let index = STRIPE.get();
        let index = if index < STRIPES {
            index
        } else {
            let next = NEXT.fetch_add(1, Relaxed) % STRIPES;
            STRIPE.set(next);
            next
        };
        &self.stripes[index].0
    }
}

fn as_size(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(UNLIMITED).min(UNLIMITED)
}

fn signed(bytes: usize) -> isize {
    isize::try_from(bytes).unwrap_or(isize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_packets_have_a_quarter_when_memory_is_short_and_one_always_has_a_place() {
        let budget: &'static Budget = Box::leak(Box::new(Budget::new()));
        budget.set_max(100);
        let all: Vec<_> = (0..20).map(|_| budget.take_large(30)).collect();
        assert!(all.iter().all(Option::is_some), "it is not short");
        drop(all);
        budget.add(60);
        budget.look();
        let first = budget.take_large(90);
        assert!(first.is_some() && budget.take_large(1).is_none());
        drop(first);
        let several: Vec<_> = (0..3).map(|_| budget.take_large(10)).collect();
        assert_eq!(several.iter().map(Option::is_some).collect::<Vec<_>>(), [true, true, false]);
        drop(several);
        assert_eq!(budget.large.load(Relaxed), 0);
    }

    #[test]
    fn what_waits_gets_what_is_left_beside_everything_else() {
        const MIB: u64 = 1 << 20;
        let max = |used: u64, held: usize| {
            let budget = Budget::new();
            budget.add(held);
            budget.keep_to(Memory { used: used * MIB, limit: 256 * MIB });
            budget.max() as u64 / MIB
        };
        assert_eq!(max(40, 0), 85, "a third of it at most");
        assert_eq!(max(100, 0), 53);
        assert_eq!(max(150, 50 << 20), 53, "what waits is not counted twice");
        assert_eq!(max(250, 0), 8, "something always may");
    }
}
