//! What one owner holds of the budget.

use super::budget::Budget;

/// So much of a connection, an inbox or a message is not counted, and nobody asks for it: whoever reads what it is sent
/// gets along with it.
const FREE: usize = 8 * 1024;

/// More than that is counted in pieces of this, so that it is not counted at every packet.
const PIECE: usize = 8 * 1024;

/// What comes in pieces of this or more changes the share at once.
const NOTICED: usize = 64 * 1024;

/// Bytes that one owner holds; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Held {
    budget: &'static Budget,
    /// What is counted.
    counted: usize,
}

impl Held {
    /// Nothing yet.
    pub(crate) const fn of(budget: &'static Budget) -> Self {
        Self { budget, counted: 0 }
    }

    /// So many bytes, counted as they are and for as long as this is there.
    pub(crate) fn exactly(budget: &'static Budget, bytes: usize) -> Self {
        budget.add(bytes);
        if bytes >= NOTICED {
            budget.look();
        }
        Self { budget, counted: bytes }
    }

    /// Bytes that are counted for it.
    #[cfg(test)]
    pub(crate) const fn counted(&self) -> usize {
        self.counted
    }

    /// Of which budget.
    pub(crate) const fn budget(&self) -> &'static Budget {
        self.budget
    }

    /// It is so many bytes now: there already, or fewer than before.
    #[inline]
    pub(crate) fn set(&mut self, bytes: usize) {
        // Back and forth within two pieces is not counted.
        if bytes > self.counted + FREE || self.counted > bytes + 2 * PIECE || bytes <= FREE && self.counted > 0 {
            self.count(pieces(bytes));
            self.budget.look();
        }
    }

    /// Whether it may be so many bytes: then it is.
    #[inline]
    pub(crate) fn grow(&mut self, bytes: usize) -> bool {
        bytes <= self.counted + FREE || self.ask(bytes)
    }

    #[cold]
    fn ask(&mut self, bytes: usize) -> bool {
        let counted = pieces(bytes);
        let more = counted.saturating_sub(self.counted);
        let before = self.counted;
        self.count(counted);
        let held = self.budget.look();
        // Counted first: of two who ask at the same time for the last of it, nobody gets it, or one.
        if held <= self.budget.max() && bytes <= self.budget.share().saturating_add(more / 8) {
            return true;
        }
        self.count(before);
        self.budget.look();
        false
    }

    fn count(&mut self, counted: usize) {
        if counted > self.counted {
            self.budget.add(counted - self.counted);
        } else {
            self.budget.subtract(self.counted - counted);
        }
        self.counted = counted;
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.counted > 0 {
            self.budget.subtract(self.counted);
        }
    }
}

/// What is counted for so many bytes.
const fn pieces(bytes: usize) -> usize {
    bytes.saturating_sub(FREE).div_ceil(PIECE) * PIECE
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(max: usize) -> &'static Budget {
        let budget = Box::leak(Box::new(Budget::new()));
        budget.set_max(max);
        budget
    }

    #[test]
    fn what_is_small_is_not_counted_and_what_is_counted_is_given_back() {
        let budget = budget(1 << 20);
        let mut held = Held::of(budget);
        assert!(held.grow(FREE));
        assert_eq!(budget.held(), 0);
        assert!(held.grow(FREE + 1));
        assert_eq!(budget.held(), PIECE);
        held.set(100_000);
        assert!((90_000..110_000).contains(&budget.held()), "{}", budget.held());
        held.set(95_000);
        assert!(budget.held() > 90_000, "not counted anew for a little less");
        held.set(10);
        assert_eq!(budget.held(), 0);
        held.set(50_000);
        drop(held);
        assert_eq!(budget.held(), 0);
    }

    #[test]
    fn who_does_not_read_leaves_room_for_everybody_else() {
        const MAX: usize = 100 << 20;
        for hogs in [1, 10, 300, 3_000] {
            let budget = budget(MAX);
            let mut all: Vec<(Held, usize)> = (0..hogs).map(|_| (Held::of(budget), 0)).collect();
            // As much as each gets, in turn.
            for _ in 0..MAX / PIECE {
                let mut has_grown = false;
                for (held, bytes) in &mut all {
                    if held.grow(*bytes + 1_000) {
                        (*bytes, has_grown) = (*bytes + 1_000, true);
                    }
                }
                if !has_grown {
                    break;
                }
            }
            let (least, most) = all.iter().fold((usize::MAX, 0), |(least, most), (_, n)| (least.min(*n), most.max(*n)));
            assert!(budget.held() <= MAX && budget.held() > 0);
            assert!(most - least <= 3 * PIECE, "{hogs}: {least} to {most}");
            let mut other = Held::of(budget);
            assert!(other.grow(FREE), "{hogs}");
            if hogs <= 300 {
                assert!(other.grow(least / 2), "{hogs}: {} left", MAX - budget.held());
            }
        }
    }

    #[test]
    fn nothing_that_asks_brings_it_above_the_limit_whoever_asks_at_the_same_time() {
        const MAX: usize = 4 << 20;
        let budget = budget(MAX);
        let ask = move |seed: u64| {
            let mut state = seed;
            let mut all: Vec<Held> = (0..64).map(|_| Held::of(budget)).collect();
            for _ in 0..20_000 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let (which, bytes) = ((state >> 33) as usize % all.len(), (state >> 40) as usize % 200_000);
                if (state >> 20).is_multiple_of(3) {
                    all[which].set(0);
                } else if all[which].grow(bytes) {
                    // Others who ask at this moment have counted what they will not get.
                    assert!(budget.held() <= MAX + 8 * 208_000);
                }
            }
        };
        let threads: Vec<_> = (1..5).map(|seed| std::thread::spawn(move || ask(seed))).collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(budget.held(), 0);
    }
}
