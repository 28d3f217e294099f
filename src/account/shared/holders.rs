//! Which groups somebody holds: a session of the account that is a member, as its record says, whether it is connected or not.
//! The consumer of one that nobody holds ends sooner; a group that somebody holds counts among those that an account can have.

use std::collections::HashMap;

use super::group::GroupKey;

/// By client id, what each holds; and how many hold each.
#[derive(Default)]
pub(super) struct Holders {
    groups: HashMap<String, Vec<GroupKey>>,
    counts: HashMap<GroupKey, usize>,
}

impl Holders {
    /// A session holds these.
    pub(super) fn set(&mut self, client_id: &str, groups: Vec<GroupKey>) {
        for key in &groups {
            *self.counts.entry(key.clone()).or_default() += 1;
        }
        let old = if groups.is_empty() {
            self.groups.remove(client_id)
        } else {
            self.groups.insert(client_id.to_owned(), groups)
        };
        for key in old.unwrap_or_default() {
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
