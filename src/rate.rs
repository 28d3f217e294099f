//! How often something may happen: a bucket that fills at a rate, up to a burst. It is told the time, and counts in whole
//! numbers: a unit is a billionth of a token, of which a nanosecond brings as many as a second brings tokens, so that nothing is
//! lost to rounding however often somebody looks.

mod line;

use std::num::NonZeroU64;

pub(crate) use self::line::{Line, Ticket};

/// Units of one token.
const TOKEN: u64 = 1_000_000_000;

/// The most that a bucket counts, tokens: a second of ten gigabytes.
const BURST_MAX: u64 = 10_000_000_000;

/// A rate, and how much of it may come at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Allowance {
    /// Tokens a second.
    pub per_second: NonZeroU64,
    /// Tokens that have gathered when nothing was taken for long.
    pub burst: NonZeroU64,
}

impl Allowance {
    /// With a burst of what a second brings, unless another one is given.
    #[must_use]
    pub fn new(per_second: NonZeroU64, burst: Option<NonZeroU64>) -> Self {
        Self { per_second, burst: burst.unwrap_or(per_second) }
    }
}

/// A moment, nanoseconds since some beginning, the same for one bucket.
pub(crate) type Nanos = u64;

/// A bucket of tokens, full at first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bucket {
    allowance: Allowance,
    /// Units that were there at `at`.
    units: u64,
    at: Nanos,
}

impl Bucket {
    pub(crate) fn new(allowance: Allowance, now: Nanos) -> Self {
        Self { allowance, units: units_of(allowance.burst.get()), at: now }
    }

    /// What it was made with.
    pub(crate) const fn allowance(&self) -> Allowance {
        self.allowance
    }

    /// From now on it fills at another rate: what is in it stays, as far as there is room.
    pub(crate) fn change(&mut self, allowance: Allowance, now: Nanos) {
        self.units = self.units(now).min(units_of(allowance.burst.get()));
        (self.at, self.allowance) = (now, allowance);
    }

    /// Whole tokens that are there.
    pub(crate) fn tokens(&self, now: Nanos) -> u64 {
        self.units(now) / TOKEN
    }

    /// Whether nothing was taken for so long that nothing more gathers.
    pub(crate) fn is_full(&self, now: Nanos) -> bool {
        self.units(now) == units_of(self.allowance.burst.get())
    }

    /// Takes so many, or all that are there.
    pub(crate) fn spend(&mut self, tokens: u64, now: Nanos) {
        // Time that goes back brings nothing, and takes nothing.
        (self.units, self.at) = (self.units(now).saturating_sub(units_of(tokens)), self.at.max(now));
    }

    /// Takes one, if it is there.
    pub(crate) fn take(&mut self, now: Nanos) -> bool {
        let is_there = self.tokens(now) > 0;
        if is_there {
            self.spend(1, now);
        }
        is_there
    }

    /// How long it is until so many are there, or all that ever will be; `None`: they are.
    pub(crate) fn until(&self, tokens: u64, now: Nanos) -> Option<Nanos> {
        let wanted = units_of(tokens.min(self.allowance.burst.get()));
        let missing = wanted.checked_sub(self.units(now)).filter(|missing| *missing > 0)?;
        Some(missing.div_ceil(self.allowance.per_second.get()))
    }

    fn units(&self, now: Nanos) -> u64 {
        let brought = now.saturating_sub(self.at).saturating_mul(self.allowance.per_second.get());
        self.units.saturating_add(brought).min(units_of(self.allowance.burst.get()))
    }
}

const fn units_of(tokens: u64) -> u64 {
    let most = if tokens < BURST_MAX { tokens } else { BURST_MAX };
    most * TOKEN
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{RngExt as _, SeedableRng as _};

    use super::*;

    const SECOND: Nanos = 1_000_000_000;

    fn allowance(per_second: u64, burst: u64) -> Allowance {
        Allowance::new(NonZeroU64::new(per_second).unwrap(), NonZeroU64::new(burst))
    }

    #[test]
    fn a_burst_is_there_at_once_and_then_the_rate() {
        assert_eq!(allowance(5, 0).burst.get(), 5, "what a second brings");
        let mut bucket = Bucket::new(allowance(5, 3), 7);
        assert_eq!([0; 4].map(|_| bucket.take(7)), [true, true, true, false]);
        assert_eq!(bucket.until(1, 7), Some(SECOND / 5));
        assert!(!bucket.take(7 + SECOND / 5 - 1) && bucket.take(7 + SECOND / 5));
        assert_eq!(bucket.until(100, 7 + SECOND / 5), Some(3 * SECOND / 5), "more than there will ever be");
        assert!(!bucket.is_full(7 + 4 * SECOND / 5 - 1) && bucket.is_full(7 + 4 * SECOND / 5));
        assert_eq!(bucket.tokens(u64::MAX), 3);
        assert_eq!(bucket.until(3, u64::MAX), None);
    }

    #[test]
    fn a_clock_that_goes_back_brings_nothing_and_neither_does_its_way_forward() {
        let mut bucket = Bucket::new(allowance(1, 1), 10 * SECOND);
        assert!(bucket.take(10 * SECOND) && !bucket.take(0) && !bucket.take(10 * SECOND));
        assert!(bucket.take(11 * SECOND));
    }

    #[test]
    fn another_rate_counts_from_now_on() {
        let mut bucket = Bucket::new(allowance(10, 10), 0);
        bucket.spend(8, 0);
        bucket.change(allowance(1, 1), 0);
        assert_eq!(bucket.tokens(0), 1, "what was there, as far as there is room");
        bucket.spend(1, 0);
        bucket.change(allowance(10, 10), 0);
        assert_eq!((bucket.tokens(0), bucket.tokens(SECOND)), (0, 10));
    }

    /// Whoever takes whatever is there, whenever it looks, has had what the rate brings, to the token.
    #[test]
    fn nothing_is_lost_to_rounding() {
        for seed in 0..200 {
            let mut rng = StdRng::seed_from_u64(seed);
            let per_second = rng.random_range(1..5_000_000);
            let mut bucket = Bucket::new(allowance(per_second, BURST_MAX), 0);
            bucket.spend(BURST_MAX, 0);
            let (mut now, mut taken) = (0, 0);
            for _ in 0..400 {
                now += rng.random_range(1..70_000_000);
                let there = bucket.tokens(now);
                bucket.spend(there, now);
                taken += there;
            }
            let brought = u128::from(now) * u128::from(per_second) / u128::from(SECOND);
            assert_eq!(u128::from(taken), brought, "seed {seed}");
        }
    }

    /// Who waits as it is told gets what it waited for, and not a nanosecond sooner.
    #[test]
    fn a_wait_is_as_long_as_it_has_to_be() {
        for seed in 0..2_000 {
            let mut rng = StdRng::seed_from_u64(seed);
            let burst = rng.random_range(1..10_000);
            let mut bucket = Bucket::new(allowance(rng.random_range(1..5_000_000), burst), 0);
            bucket.spend(rng.random_range(1..20_000), 0);
            let wanted = rng.random_range(1..10_000).min(burst);
            match bucket.until(wanted, 0) {
                Some(wait) => {
                    assert!(bucket.tokens(wait) >= wanted && bucket.tokens(wait - 1) < wanted, "seed {seed}");
                }
                None => assert!(bucket.tokens(0) >= wanted, "seed {seed}"),
            }
        }
    }
}
