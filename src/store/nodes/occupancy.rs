//! What the lease of a sidecar says of accounts, right to within a refresh: how many clients it has of those that limit them, and
//! which it cannot enter.

use std::collections::{BTreeMap, BTreeSet};

use parking_lot::Mutex;

/// Accounts that are said not to be entered; of what is beyond nobody is told.
const SHUT_MAX: usize = 256;

/// What this process says.
#[derive(Debug, Default)]
pub struct Occupancy {
    clients: Mutex<BTreeMap<String, u32>>,
    shut: Mutex<BTreeSet<String>>,
}

impl Occupancy {
    /// Takes a place for one client more of an account, unless as many are taken as may be; `elsewhere`: those that other
    /// sidecars have.
    pub fn take(&self, account: &str, elsewhere: u64, most: u64) -> bool {
        let mut clients = self.clients.lock();
        let here = clients.get(account).copied().unwrap_or(0);
        let is_free = elsewhere.saturating_add(here.into()) < most;
        if is_free {
            clients.insert(account.to_owned(), here + 1);
        }
        is_free
    }

    /// Gives a place back.
    pub fn give(&self, account: &str) {
        let mut clients = self.clients.lock();
        match clients.get_mut(account) {
            Some(here) if *here > 1 => *here -= 1,
            _ => drop(clients.remove(account)),
        }
    }

    /// How many clients there are of each account.
    pub(super) fn counts(&self) -> BTreeMap<String, u32> {
        self.clients.lock().clone()
    }

    /// Says whether an account cannot be entered.
    pub fn set_shut(&self, account: &str, is_shut: bool) {
        let mut shut = self.shut.lock();
        if !is_shut {
            shut.remove(account);
        } else if shut.len() < SHUT_MAX {
            shut.insert(account.to_owned());
        }
    }

    /// Those that cannot be entered.
    #[must_use]
    pub fn shut(&self) -> BTreeSet<String> {
        self.shut.lock().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_those_of_all_sidecars() {
        let here = Occupancy::default();
        assert!(here.take("a", 1, 3) && here.take("a", 1, 3));
        assert!(!here.take("a", 1, 3), "one is elsewhere");
        assert!(!here.take("b", 0, 0) && !here.take("b", u64::MAX, 5));
        here.give("a");
        assert!(here.take("a", 1, 3));
        assert_eq!(here.counts(), BTreeMap::from([("a".to_owned(), 2)]));
        here.give("a");
        here.give("a");
        assert!(here.counts().is_empty());
    }

    #[test]
    fn accounts_that_cannot_be_entered_are_said_up_to_some() {
        let here = Occupancy::default();
        (0..2 * SHUT_MAX).for_each(|number| here.set_shut(&number.to_string(), true));
        assert_eq!(here.shut().len(), SHUT_MAX);
        here.set_shut("0", false);
        assert!(!here.shut().contains("0"));
    }
}
