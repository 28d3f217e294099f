//! Which groups somebody holds: a session of the account that is a member, as its record says, whether it is connected or not.
//! The consumer of one that nobody holds ends sooner; a group that somebody holds counts among those that an account can have.

use std::collections::HashMap;

use mqtt_ownership::Epoch;

use super::group::GroupKey;
use crate::account::ownership::parts::Parts;

/// By client id, what each holds; and how many parts of sessions hold each.
#[derive(Default)]
pub(super) struct Holders {
    groups: Parts<String, GroupKey>,
    counts: HashMap<GroupKey, usize>,
}

impl Holders {
    /// The record of a session holds these; `before`: the pages of sessions that began before this epoch are of no use.
    pub(super) fn set(&mut self, client_id: &str, groups: Vec<GroupKey>, before: Option<Epoch>) {
        self.add(&groups);
        let mut old = self.groups.set_record(client_id.to_owned(), groups).into_vec();
        old.extend(before.map(|first_epoch| self.groups.take_before(client_id, first_epoch)).into_iter().flatten());
        self.remove(old);
    }

    /// A page beside it holds these.
    pub(super) fn set_page(&mut self, client_id: &str, first_epoch: Epoch, number: u32, groups: Vec<GroupKey>) {
        self.add(&groups);
        let old = self.groups.set_page(client_id.to_owned(), first_epoch, number, groups);
        self.remove(old.into_vec());
    }

    /// A session holds nothing any more.
    pub(super) fn forget(&mut self, client_id: &str) {
        let old = self.groups.take(client_id);
        self.remove(old);
    }

    fn add(&mut self, groups: &[GroupKey]) {
        for key in groups {
            *self.counts.entry(key.clone()).or_default() += 1;
        }
    }

    fn remove(&mut self, groups: Vec<GroupKey>) {
        for key in groups {
            if let Some(count) = self.counts.get_mut(&key) {
                *count -= 1;
                if *count == 0 {
                    self.counts.remove(&key);
                }
            }
        }
    }

    /// Whether anybody holds a group.
    pub(super) fn is_held(&self, key: &GroupKey) -> bool {
        self.counts.contains_key(key)
    }

    /// How many groups are held.
    pub(super) fn count(&self) -> usize {
        self.counts.len()
    }
}
