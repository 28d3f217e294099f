//! How many clients a sidecar has of accounts that limit them, as its lease says: right to within a refresh.

use std::collections::BTreeMap;

use parking_lot::Mutex;

/// The clients of this process.
#[derive(Debug, Default)]
pub struct Occupancy(Mutex<BTreeMap<String, u32>>);

impl Occupancy {
    /// Takes a place for one client more of an account, unless as many are taken as may be; `elsewhere`: those that other
    /// sidecars have.
    pub fn take(&self, account: &str, elsewhere: u64, most: u64) -> bool {
        let mut clients = self.0.lock();
        let here = clients.get(account).copied().unwrap_or(0);
        let is_free = elsewhere.saturating_add(here.into()) < most;
        if is_free {
            clients.insert(account.to_owned(), here + 1);
        }
        is_free
    }

    /// Gives a place back.
    pub fn give(&self, account: &str) {
        let mut clients = self.0.lock();
        match clients.get_mut(account) {
            Some(here) if *here > 1 => *here -= 1,
            _ => drop(clients.remove(account)),
        }
    }

    /// How many clients there are of each account.
    pub(super) fn counts(&self) -> BTreeMap<String, u32> {
        self.0.lock().clone()
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
}
