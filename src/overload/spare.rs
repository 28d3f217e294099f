//! Memory that has been given back and is still ours: the allocator keeps it for the next time. It counts as in use for the system,
//! and is not: without this, a process that was nearly full once would take itself for full from then on.

/// How much of the limit may be in use, in thousandths, spare memory or not: nobody knows for sure how much of it there is.
const SURE_PERMILLE: u64 = 920;

/// An estimate, from one reading to the next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Spare {
    bytes: u64,
    used: u64,
    held: u64,
}

impl Spare {
    /// What is in use, and what of it waits, is this much now. What waits no more is spare, until it is used again or the system has it.
    pub(crate) fn read(&mut self, used: u64, held: u64) {
        let freed = self.held.saturating_sub(held);
        let taken = held.saturating_sub(self.held) + self.used.saturating_sub(used);
        let bytes = (self.bytes + freed).saturating_sub(taken);
        *self = Self { bytes: bytes.min(used.saturating_sub(held)), used, held };
    }

    /// What is in use without it, of this limit.
    pub(crate) const fn used(&self, limit: u64) -> u64 {
        if self.used / 1_000 * 1_000 >= limit / 1_000 * SURE_PERMILLE { self.used } else { self.used - self.bytes }
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
}
