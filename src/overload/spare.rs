//! Memory that has been given back and is still ours: the allocator keeps it for the next time. It counts as in use for the system,
//! and is not: without this, a process that was nearly full once would take itself for full from then on.

/// How much of the limit may be in use, in thousandths, spare memory or not: nobody knows for sure how much of it there is.
const SURE_PERMILLE: u64 = 920;

/// Until so little of it is in use again, nothing is taken for spare. What goes up and down around one number would go from nearly
/// full to half empty and back.
const UNSURE_PERMILLE: u64 = 880;

/// An estimate, from one reading to the next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Spare {
    bytes: u64,
    used: u64,
    held: u64,
    /// So much is in use that nothing is taken for spare.
    is_tight: bool,
}

impl Spare {
    /// What is in use, and what of it waits, is this much now. What waits no more is spare, until it is used again or the system has it.
    pub(crate) fn read(&mut self, used: u64, held: u64) {
        let freed = self.held.saturating_sub(held);
        let taken = held.saturating_sub(self.held) + self.used.saturating_sub(used);
        let bytes = (self.bytes + freed).saturating_sub(taken);
        *self = Self { bytes: bytes.min(used.saturating_sub(held)), used, held, ..*self };
    }

    /// What is in use without it, of this limit.
    pub(crate) const fn used(&mut self, limit: u64) -> u64 {
        let most = if self.is_tight { UNSURE_PERMILLE } else { SURE_PERMILLE };
        self.is_tight = self.used >= limit / 1_000 * most;
        if self.is_tight { self.used } else { self.used - self.bytes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_no_more_is_spare_until_it_is_used_again_or_given_back() {
        let mut spare = Spare::default();
        let mut used = |used, held| {
            spare.read(used, held);
            spare.used(1_000_000)
        };
        assert_eq!(used(100_000, 0), 100_000);
        assert_eq!(used(700_000, 500_000), 700_000);
        assert_eq!(used(850_000, 500_000), 850_000, "something else has grown");
        assert_eq!(used(850_000, 0), 350_000, "the allocator keeps it");
        assert_eq!(used(850_000, 400_000), 750_000, "and uses it again");
        assert_eq!(used(850_000, 0), 350_000);
        assert_eq!(used(450_000, 0), 350_000, "the system has most of it");
        assert_eq!(used(350_000, 0), 350_000);
        assert_eq!(used(920_000, 500_000), 920_000);
        assert_eq!(used(920_000, 0), 920_000, "nobody knows for sure");
        assert_eq!(used(0, 0), 0);
    }

    #[test]
    fn around_where_nothing_is_spare_any_more_it_does_not_go_up_and_down() {
        let mut spare = Spare::default();
        let mut used = |used, held| {
            spare.read(used, held);
            spare.used(1_000_000)
        };
        used(900_000, 500_000);
        assert_eq!(used(919_000, 0), 419_000);
        assert_eq!(used(920_000, 0), 920_000);
        let flickering = (0..20_u64).map(|n| 915_000 + n % 2 * 10_000);
        assert!(flickering.into_iter().all(|now| used(now, 0) == now));
        assert_eq!(used(880_000, 0), 880_000);
        assert!(used(879_000, 0) < 600_000, "the system has some of it");
        assert!(used(915_000, 0) < 600_000);
    }
}
