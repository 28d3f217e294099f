//! A number that there may be at most.

/// The most there may be of something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Limit {
    /// Any number.
    Unlimited,
    /// So many.
    Max(u64),
}

impl Limit {
    /// As a claim has it: -1 is any number. Nothing else below 0 has a meaning, and is none.
    #[must_use]
    pub fn of_claim(claim: i64) -> Self {
        match claim {
            -1 => Self::Unlimited,
            claim => Self::Max(u64::try_from(claim).unwrap_or(0)),
        }
    }

    /// The smaller one.
    #[must_use]
    pub fn min(self, other: Self) -> Self {
        match (self, other) {
            (Self::Unlimited, limit) | (limit, Self::Unlimited) => limit,
            (Self::Max(one), Self::Max(other)) => Self::Max(one.min(other)),
        }
    }

    /// Whether one more is too many, when there are so many already.
    #[must_use]
    pub const fn is_reached(self, count: u64) -> bool {
        matches!(self, Self::Max(max) if count >= max)
    }

    /// Whether something of this size is too large.
    #[must_use]
    pub const fn is_exceeded(self, size: u64) -> bool {
        matches!(self, Self::Max(max) if size > max)
    }
}

#[cfg(test)]
mod tests {
    use super::Limit;

    #[test]
    fn limits() {
        use Limit::{Max, Unlimited};
        for (claim, expected) in [(-1, Unlimited), (0, Max(0)), (5, Max(5)), (-2, Max(0)), (i64::MIN, Max(0))] {
            assert_eq!(Limit::of_claim(claim), expected, "{claim}");
        }
        for (one, other, expected) in [
            (Unlimited, Unlimited, Unlimited),
            (Max(3), Unlimited, Max(3)),
            (Unlimited, Max(3), Max(3)),
            (Max(3), Max(2), Max(2)),
        ] {
            assert_eq!(one.min(other), expected, "{one:?} {other:?}");
        }
        assert!(
            Max(2).is_reached(2) && !Max(2).is_reached(1) && Max(0).is_reached(0) && !Unlimited.is_reached(u64::MAX)
        );
        assert!(!Max(2).is_exceeded(2) && Max(2).is_exceeded(3) && !Unlimited.is_exceeded(u64::MAX));
    }
}
