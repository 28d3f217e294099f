//! Rates that all clients of a user share, and all clients of an account, on this sidecar. Whoever comes back finds them as they
//! were left.
//!
//! **Invariant:** there are as many of them as there are users and accounts connected, and at most [`LEFT_MAX`] more of each, of which
//! nobody is connected; those that nothing was taken of for long are forgotten.

use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use foldhash::HashMap;
use mqtt_access::AccountId;
use parking_lot::{Mutex, RwLock};

use crate::config::CommonLimits;
use crate::metrics::Limit;
use crate::rate::{Allowance, Line};

/// Those that are kept although nobody is connected: what they have taken is not paid for yet.
const LEFT_MAX: usize = 65_536;

/// As many more than after the last look have to be there before it is looked again.
const LOOK_AFTER: usize = 1_024;

/// What a client shares with others.
#[derive(Clone, Debug)]
pub(crate) struct Shared {
    /// Which limit it is.
    pub(crate) limit: Limit,
    /// Those who share it.
    pub(crate) line: Arc<Line>,
}

impl Shared {
    /// Of bytes, and not of messages.
    pub(crate) const fn is_of_bytes(&self) -> bool {
        matches!(self.limit, Limit::ByteRatePerUser | Limit::ByteRatePerAccount)
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct CommonRates {
    /// There are any: without, a client costs a look at this.
    has_some: AtomicBool,
    limits: RwLock<CommonLimits>,
    users: Mutex<Lines<(AccountId, Box<str>)>>,
    accounts: Mutex<Lines<AccountId>>,
}

/// Messages and bytes, as far as there are rates for them.
type Pair = [Option<Arc<Line>>; 2];

#[derive(Debug)]
struct Lines<K> {
    of: HashMap<K, Pair>,
    /// So many are left alone.
    enough: usize,
}

impl<K> Default for Lines<K> {
    fn default() -> Self {
        Self { of: HashMap::default(), enough: LOOK_AFTER }
    }
}

impl CommonRates {
    /// These count from now on: also for who is connected, unless there was no rate when it came.
    pub(crate) fn set(&self, limits: CommonLimits) {
        let now = Instant::now();
        *self.limits.write() = limits;
        self.has_some.store(limits != CommonLimits::default(), Ordering::Relaxed);
        self.users.lock().allow(limits.of_user, now);
        self.accounts.lock().allow(limits.of_account, now);
    }

    /// What a client of this user and account shares with others. A user without a name is nobody in particular.
    pub(super) fn of(&self, account: impl FnOnce() -> AccountId, user: &str) -> Vec<Shared> {
        if !self.has_some.load(Ordering::Relaxed) {
            return Vec::new();
        }
        let account = account();
        let (limits, now) = (*self.limits.read(), Instant::now());
        let mut shared = Vec::new();
        let mut add = |limits: [Limit; 2], lines: Pair| {
            let named = limits.into_iter().zip(lines);
            shared.extend(named.filter_map(|(limit, line)| Some(Shared { limit, line: line? })));
        };
        if !user.is_empty() && limits.of_user.iter().any(Option::is_some) {
            let key = (account.clone(), user.into());
            let of_user = self.users.lock().enter(key, limits.of_user, now);
            add([Limit::MessageRatePerUser, Limit::ByteRatePerUser], of_user);
        }
        if limits.of_account.iter().any(Option::is_some) {
            let of_account = self.accounts.lock().enter(account, limits.of_account, now);
            add([Limit::MessageRatePerAccount, Limit::ByteRatePerAccount], of_account);
        }
        shared
    }
}

impl<K: Eq + Hash> Lines<K> {
    fn enter(&mut self, key: K, allowances: [Option<Allowance>; 2], now: Instant) -> Pair {
        if self.of.len() >= self.enough {
            self.forget(now);
        }
        let pair = self.of.entry(key).or_default();
        for (line, allowance) in pair.iter_mut().zip(allowances) {
            if line.is_none() {
                *line = allowance.map(|allowance| Arc::new(Line::new(allowance, now)));
            }
        }
        pair.clone()
    }

    fn allow(&mut self, allowances: [Option<Allowance>; 2], now: Instant) {
        for pair in self.of.values_mut() {
            for (line, allowance) in pair.iter().zip(allowances) {
                line.iter().for_each(|line| line.allow(allowance, now));
            }
        }
    }

    /// Forgets those of which nobody is connected and that are as good as new, and all such when they are too many.
    fn forget(&mut self, now: Instant) {
        let mut left = 0;
        self.of.retain(|_, pair| {
            let lines = || pair.iter().flatten();
            if lines().any(|line| Arc::strong_count(line) > 1) {
                return true;
            }
            let is_left = left < LEFT_MAX && lines().any(|line| !line.is_full(now));
            left += usize::from(is_left);
            is_left
        });
        self.enough = self.of.len().saturating_mul(2).saturating_add(LOOK_AFTER);
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;

    use super::*;

    fn allowance(per_second: u64) -> Option<Allowance> {
        NonZeroU64::new(per_second).map(|rate| Allowance::new(rate, None))
    }

    fn limits(of_user: [u64; 2], of_account: [u64; 2]) -> CommonLimits {
        CommonLimits { of_user: of_user.map(allowance), of_account: of_account.map(allowance) }
    }

    fn of(rates: &CommonRates, account: &str, user: &str) -> Vec<Shared> {
        rates.of(|| AccountId::new(account), user)
    }

    #[test]
    fn clients_share_the_rates_of_their_user_and_of_their_account() {
        let rates = CommonRates::default();
        assert!(of(&rates, "a", "lamp").is_empty());
        rates.set(limits([1, 0], [1, 1]));
        let [one, two, other] =
            [("a", "lamp"), ("a", "lamp"), ("a", "hub")].map(|(account, user)| of(&rates, account, user));
        let named: Vec<_> = one.iter().map(|shared| shared.limit).collect();
        let of_account = [Limit::MessageRatePerAccount, Limit::ByteRatePerAccount];
        assert_eq!(named, [&[Limit::MessageRatePerUser][..], &of_account].concat());
        assert!(one.iter().zip(&two).all(|(one, two)| Arc::ptr_eq(&one.line, &two.line)));
        let shares: Vec<_> = one.iter().zip(&other).map(|(one, other)| Arc::ptr_eq(&one.line, &other.line)).collect();
        assert_eq!(shares, [false, true, true]);
        assert_eq!(of(&rates, "a", "").len(), 2, "nobody in particular has the rates of the account only");
        assert!(!Arc::ptr_eq(&of(&rates, "b", "lamp")[0].line, &one[0].line));
    }

    #[test]
    fn who_comes_back_finds_what_it_has_taken_and_another_rate_counts_for_who_is_there() {
        let rates = CommonRates::default();
        rates.set(limits([1, 0], [0, 0]));
        let now = Instant::now();
        assert_eq!(of(&rates, "a", "lamp")[0].line.take(1, now), None);
        let back = of(&rates, "a", "lamp");
        let ticket = back[0].line.take(100, now).unwrap();
        assert!(back[0].line.until(ticket, now).unwrap().as_secs() > 90);
        rates.set(limits([1_000, 0], [0, 0]));
        assert!(back[0].line.until(ticket, Instant::now()).is_none_or(|until| until.as_secs() < 1));
        rates.set(limits([0, 0], [0, 0]));
        assert_eq!(back[0].line.until(ticket, Instant::now()), None);
    }

    #[test]
    fn users_without_number_have_an_end() {
        let rates = CommonRates::default();
        rates.set(limits([1, 0], [0, 0]));
        let held = of(&rates, "a", "held");
        held[0].line.take(1, Instant::now());
        for user in 0..300_000 {
            // None has rested.
            of(&rates, "a", &user.to_string())[0].line.take(1_000_000, Instant::now());
        }
        assert!(rates.users.lock().of.len() <= 2 * LEFT_MAX + 2 * LOOK_AFTER, "{}", rates.users.lock().of.len());
        assert!(Arc::ptr_eq(&of(&rates, "a", "held")[0].line, &held[0].line), "whoever is connected is not forgotten");
    }
}
