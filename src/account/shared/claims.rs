//! QoS 2 messages that a session may have already when they come again [MQTT-4.8.2-4].
//!
//! A message is a session's own when its packet id is saved. Only then its consumer is told, and only when that has
//! confirmed it the client gets it:
//!
//! ```text
//! given -> saved, with its acknowledgement -> confirmed by the consumer -> sent -> saved without it, in time
//! ```
//!
//! Whatever dies behind the first arrow leaves a message that comes again, and a session whose progress says that it has it.
//! So of a QoS 2 message that does not come for the first time the progress of those sessions is read that can have it, and
//! who has it keeps it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use mqtt_codec::TopicFilter;
use mqtt_ownership::Epoch;
use parking_lot::Mutex;

use super::group::{GroupKey, key_of};
use super::holders::Holders;
use crate::account::ownership::parts::Parts;
use crate::store::{Gone, PageRecord, SessionRecord, SessionsSink, StoredSubscription};

/// The sessions of the account that can have claims: members at QoS 2 that outlive their connections, as their records say.
pub(crate) struct Claimants {
    held: Mutex<Held>,
    /// Those that are members at whatever QoS.
    holders: Mutex<Holders>,
    /// Whether all records were seen.
    is_complete: AtomicBool,
    /// Who follows the records as well.
    next: Option<Arc<dyn SessionsSink>>,
}

#[derive(Default)]
struct Held {
    /// Each as often as a part of its session says so.
    members: HashMap<GroupKey, HashMap<String, usize>>,
    groups: Parts<String, GroupKey>,
}

impl Claimants {
    /// Nobody is known yet. `next`: is told everything as well.
    pub(crate) fn new(next: Option<Arc<dyn SessionsSink>>) -> Self {
        Self { held: Mutex::default(), holders: Mutex::default(), is_complete: AtomicBool::new(false), next }
    }

    /// Whether all sessions are known.
    pub(super) fn are_complete(&self) -> bool {
        self.is_complete.load(Ordering::Acquire)
    }

    /// Whether a session is a member of a group.
    pub(super) fn is_held(&self, key: &GroupKey) -> bool {
        self.holders.lock().is_held(key)
    }

    /// How many groups have members.
    pub(super) fn groups(&self) -> usize {
        self.holders.lock().count()
    }

    /// Client ids of the sessions that can have claims on messages of a group; `None` while they are not all known.
    pub(super) fn of(&self, key: &GroupKey) -> Option<Vec<String>> {
        self.are_complete()
            .then(|| self.held.lock().members.get(key).into_iter().flat_map(HashMap::keys).cloned().collect())
    }

    /// A part of a session says that it is a member of these, and of `old` no more.
    fn has_set(
        &self,
        client_id: &str,
        groups: &[GroupKey],
        set: impl FnOnce(&mut Parts<String, GroupKey>) -> Vec<GroupKey>,
    ) {
        let mut held = self.held.lock();
        let Held { members, groups: parts } = &mut *held;
        for key in groups {
            *members.entry(key.clone()).or_default().entry(client_id.to_owned()).or_default() += 1;
        }
        for key in set(parts) {
            let Some(ids) = members.get_mut(&key) else { continue };
            if let Some(count) = ids.get_mut(client_id) {
                *count -= 1;
                if *count == 0 {
                    ids.remove(client_id);
                }
            }
            if ids.is_empty() {
                members.remove(&key);
            }
        }
    }
}

/// The groups of shared subscriptions, of those that `is_it`.
fn groups(subscriptions: &[StoredSubscription], is_it: impl Fn(&StoredSubscription) -> bool) -> Vec<GroupKey> {
    let shared = subscriptions.iter().filter(|s| s.filter.starts_with('$') && is_it(s));
    shared.filter_map(|s| key_of(&TopicFilter::new(s.filter.as_str()).ok()?)).collect()
}

impl SessionsSink for Claimants {
    fn record(&self, sequence: u64, record: SessionRecord) {
        let client_id = record.client_id.as_str();
        let before = record.accepted.then_some(Epoch(record.first_epoch));
        self.holders.lock().set(client_id, groups(&record.subscriptions, |_| true), before);
        let at_qos_2 = groups(&record.subscriptions, |s| s.qos == 2 && record.expiry_s > 0);
        self.has_set(client_id, &at_qos_2, |parts| {
            let mut old = parts.set_record(client_id.to_owned(), at_qos_2.clone()).into_vec();
            old.extend(before.map(|first_epoch| parts.take_before(client_id, first_epoch)).into_iter().flatten());
            old
        });
        if let Some(next) = &self.next {
            next.record(sequence, record);
        }
    }

    fn page(&self, sequence: u64, client_id: &str, first_epoch: u64, number: u32, page: PageRecord) {
        self.holders.lock().set_page(client_id, Epoch(first_epoch), number, groups(&page.subscriptions, |_| true));
        let at_qos_2 = groups(&page.subscriptions, |s| s.qos == 2);
        self.has_set(client_id, &at_qos_2, |parts| {
            parts.set_page(client_id.to_owned(), Epoch(first_epoch), number, at_qos_2.clone()).into_vec()
        });
        if let Some(next) = &self.next {
            next.page(sequence, client_id, first_epoch, number, page);
        }
    }

    fn gone(&self, client_id: &str, sequence: u64, why: Gone) {
        self.has_set(client_id, &[], |parts| parts.take(client_id));
        self.holders.lock().forget(client_id);
        if let Some(next) = &self.next {
            next.gone(client_id, sequence, why);
        }
    }

    fn caught_up(&self) {
        self.is_complete.store(true, Ordering::Release);
        if let Some(next) = &self.next {
            next.caught_up();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::StoredSubscription;

    #[test]
    fn who_can_have_claims_is_what_records_say() {
        let claimants = Claimants::new(None);
        let record = |client_id: &str, expiry_s, filters: &[(&str, u8)]| SessionRecord {
            client_id: client_id.to_owned(),
            expiry_s,
            subscriptions: filters
                .iter()
                .map(|(filter, qos)| StoredSubscription {
                    filter: (*filter).to_owned(),
                    qos: *qos,
                    ..Default::default()
                })
                .collect(),
            ..SessionRecord::default()
        };
        let of = |filter: &str| {
            let key = key_of(&TopicFilter::new(filter).unwrap()).unwrap();
            claimants.of(&key).map(|mut ids| {
                ids.sort_unstable();
                ids.join(" ")
            })
        };
        claimants.record(1, record("a", 60, &[("$share/g/x", 2), ("$share/g/y", 1), ("x", 2)]));
        assert_eq!(of("$share/g/x"), None, "not all are known");
        let is_held = |filter: &str| claimants.is_held(&key_of(&TopicFilter::new(filter).unwrap()).unwrap());
        assert!(is_held("$share/g/x") && is_held("$share/g/y") && !is_held("$share/x/x"));
        claimants.caught_up();
        claimants.record(2, record("b", 60, &[("$share/g/x", 2)]));
        claimants.record(3, record("c", 0, &[("$share/g/x", 2)]));
        assert_eq!(of("$share/g/x").as_deref(), Some("a b"));
        assert_eq!((of("$share/g/y").as_deref(), of("$share/h/x").as_deref()), (Some(""), Some("")));
        claimants.record(4, record("a", 60, &[("$share/h/x", 2)]));
        claimants.gone("b", 5, Gone::Expired);
        assert_eq!((of("$share/g/x").as_deref(), of("$share/h/x").as_deref()), (Some(""), Some("a")));
        assert_eq!(claimants.held.lock().members.len(), 1);
        assert!(is_held("$share/g/x") && is_held("$share/h/x") && !is_held("$share/g/y"));
        assert_eq!(claimants.groups(), 2);
        claimants.gone("c", 6, Gone::Deleted);
        assert!(!is_held("$share/g/x"));
    }
}
