//! How many connections users have here, of those who have a limit: as many entries as there are connections.

use std::hash::Hash;
use std::sync::Arc;

use foldhash::HashMap;
use mqtt_access::{AccountId, User};
use parking_lot::Mutex;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Users(Mutex<HashMap<UserKey, u32>>);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct UserKey {
    account: AccountId,
    user: Box<str>,
}

/// One of the connections of a user, until it is dropped.
pub(super) struct OfUser {
    users: Arc<Users>,
    key: UserKey,
}

impl Users {
    /// One more, of those that a user may have; `None`: it has as many. Nobody has no number. `is_instead`: it takes the place of
    /// another one of them, which ends in a moment, so that for as long there is one more.
    pub(super) fn enter(
        self: &Arc<Self>,
        account: &AccountId,
        user: &User,
        most: u64,
        is_instead: bool,
    ) -> Option<OfUser> {
        let key = UserKey { account: account.clone(), user: user.owner().into() };
        let mut users = self.0.lock();
        let count = users.get(&key).copied().unwrap_or(0);
        if u64::from(count) >= most && !is_instead {
            return None;
        }
        users.insert(key.clone(), count.saturating_add(1));
        Some(OfUser { users: Arc::clone(self), key })
    }
}

impl Drop for OfUser {
    fn drop(&mut self) {
        let mut users = self.users.0.lock();
        match users.get_mut(&self.key) {
            Some(count) if *count > 1 => *count -= 1,
            _ => _ = users.remove(&self.key),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_has_so_many_connections_and_one_in_place_of_another_is_none_more() {
        let users = Arc::<Users>::default();
        let user = |name: &str| User { name: name.into(), ..User::default() };
        let enter =
            |account: &str, name: &str, is_instead| users.enter(&AccountId::new(account), &user(name), 2, is_instead);
        let (first, second) = (enter("a", "lamp", false).unwrap(), enter("a", "lamp", false).unwrap());
        assert!(enter("a", "lamp", false).is_none());
        let others = (enter("b", "lamp", false), enter("a", "other", false));
        assert!(others.0.is_some() && others.1.is_some());
        // One that takes a session over: the other one ends.
        let third = enter("a", "lamp", true).unwrap();
        drop(first);
        assert!(enter("a", "lamp", false).is_none(), "still two");
        drop(second);
        assert!(enter("a", "lamp", false).is_some());
        drop((third, others));
        assert!(users.0.lock().is_empty());
    }
}
