//! What anybody in the account wants above QoS 0: the filters of all sessions, as their records say, and of those connected
//! here as soon as they subscribe. Who publishes at QoS 0 looks here whether it has to say so, and who copies messages of
//! NATS into the log looks which.

use std::sync::atomic::{AtomicBool, Ordering};

use foldhash::HashSet;
use mqtt_codec::{QoS, TopicFilter, TopicName};
use mqtt_ownership::Epoch;
use parking_lot::{Mutex, RwLock};
use proto_map::ClosedTrees;
use tokio::sync::watch;

use crate::account::delivery::core_subscriptions::SubscriptionOrder;
use crate::account::delivery::subscriptions::{Removed, Subscriptions};
use crate::account::ownership::parts::Parts;
use crate::account::session_id::SessionId;
use crate::store::{Gone, PageRecord, SessionRecord, SessionsSink, StoredSubscription};

/// Is told which filters somebody wants. Called with the lock held: must not block, and must not ask back.
pub(crate) trait WantsSink: Send + Sync {
    /// Somebody wants this, and nobody did.
    fn wanted(&self, filter: &TopicFilter);
    /// Nobody wants this any more.
    fn unwanted(&self, filter: &TopicFilter);
}

#[derive(Default)]
struct Held {
    /// By [`proto_map::client_token`].
    parts: Parts<u64, TopicFilter>,
    here: HashSet<(SessionId, TopicFilter)>,
}

/// The filters that anybody has above QoS 0.
pub(crate) struct DurableInterest {
    held: Mutex<Held>,
    /// Each as often as somebody has it. Locked behind `held`.
    filters: RwLock<Subscriptions<()>>,
    is_empty: AtomicBool,
    /// Whether all records were seen.
    is_complete: watch::Sender<bool>,
    closed: ClosedTrees,
    sink: Box<dyn WantsSink>,
}

impl DurableInterest {
    /// Nobody wants anything yet.
    pub(crate) fn new(closed: ClosedTrees, sink: Box<dyn WantsSink>) -> Self {
        let (held, filters) = (Mutex::default(), RwLock::default());
        let (is_empty, is_complete) = (AtomicBool::new(true), watch::Sender::new(false));
        Self { held, filters, is_empty, is_complete, closed, sink }
    }

    /// Waits until all that the records say is known.
    pub(crate) async fn is_complete(&self) {
        // The sender is ours, so the wait cannot fail.
        let _ = self.is_complete.subscribe().wait_for(|complete| *complete).await;
    }

    /// Whether somebody wants messages of a topic above QoS 0.
    pub(crate) fn matches(&self, topic: &TopicName) -> bool {
        if self.is_empty.load(Ordering::Acquire) {
            return false;
        }
        let is_hidden = self.closed.hides_topic_from_wildcard(topic);
        let mut is_wanted = false;
        self.filters.read().matching(topic.as_str(), is_hidden, &mut |_| is_wanted = true);
        is_wanted
    }

    /// A session here is subscribed with this QoS. Returns whether nobody in the account wanted that.
    pub(crate) fn subscribed(&self, session: SessionId, filter: &TopicFilter, qos: QoS) -> bool {
        if qos == QoS::AtMostOnce {
            self.unsubscribed(session, filter);
            return false;
        }
        let mut held = self.held.lock();
        if held.here.insert((session, filter.clone()))
            && let Some(filter) = unshared(filter)
        {
            return self.add(&filter);
        }
        false
    }

    /// Another sidecar says that somebody there wants this, before the record says so; until [`DurableInterest::forget`].
    pub(crate) fn announced(&self, filters: &[TopicFilter]) {
        let _held = self.held.lock();
        for filter in filters {
            self.add(filter);
        }
    }

    /// What was announced is said by records by now.
    pub(crate) fn forget(&self, filters: &[TopicFilter]) {
        let _held = self.held.lock();
        for filter in filters {
            self.remove(filter);
        }
    }

    /// A session here is not subscribed any more.
    pub(crate) fn unsubscribed(&self, session: SessionId, filter: &TopicFilter) {
        let mut held = self.held.lock();
        if held.here.remove(&(session, filter.clone()))
            && let Some(filter) = unshared(filter)
        {
            self.remove(&filter);
        }
    }

    /// A part of a session says this: `known` is what it has said, and `set` keeps what it says now.
    fn set_part(
        &self,
        filters: Vec<TopicFilter>,
        known: impl FnOnce(&Parts<u64, TopicFilter>) -> &[TopicFilter],
        set: impl FnOnce(&mut Parts<u64, TopicFilter>, Vec<TopicFilter>) -> Box<[TopicFilter]>,
    ) {
        let mut held = self.held.lock();
        if known(&held.parts) == filters {
            return;
        }
        let filters: Vec<TopicFilter> = {
            let all = self.filters.read();
            let known = |filter: &TopicFilter| TopicFilter::try_from(all.known(filter)?.clone()).ok();
            filters.into_iter().map(|filter| known(&filter).unwrap_or(filter)).collect()
        };
        // First what is new, so that what stays is wanted all the time.
        for filter in &filters {
            self.add(filter);
        }
        for filter in &set(&mut held.parts, filters) {
            self.remove(filter);
        }
    }

    fn remove_all(&self, filters: &[TopicFilter]) {
        filters.iter().for_each(|filter| self.remove(filter));
    }

    /// Returns whether nobody had it. Called with `held` locked, as [`Self::remove`] is.
    fn add(&self, filter: &TopicFilter) -> bool {
        // `$SYS/#`: nothing of NATS is for it.
        if self.closed.filter_is_closed(filter) {
            return false;
        }
        let is_first = self.filters.write().push(filter, SubscriptionOrder::default(), ()) == 1;
        if is_first {
            self.is_empty.store(false, Ordering::Release);
            self.sink.wanted(filter);
        }
        is_first
    }

    fn remove(&self, filter: &TopicFilter) {
        let mut filters = self.filters.write();
        let is_last = matches!(filters.remove_one(filter, |()| true), Removed::Last { .. });
        self.is_empty.store(filters.len() == 0, Ordering::Release);
        drop(filters);
        if is_last {
            self.sink.unwanted(filter);
        }
    }
}

impl SessionsSink for DurableInterest {
    fn record(&self, _sequence: u64, record: SessionRecord) {
        let client = proto_map::client_token(&record.client_id);
        self.set_part(
            above_0(&record.subscriptions),
            |parts| parts.record(&client),
            |parts, filters| parts.set_record(client, filters),
        );
        if record.accepted {
            let mut held = self.held.lock();
            self.remove_all(&held.parts.take_before(&client, Epoch(record.first_epoch)));
        }
    }

    fn page(&self, _sequence: u64, client_id: &str, first_epoch: u64, number: u32, page: PageRecord) {
        let (client, first_epoch) = (proto_map::client_token(client_id), Epoch(first_epoch));
        self.set_part(
            above_0(&page.subscriptions),
            |parts| parts.page(&client, first_epoch, number),
            |parts, filters| parts.set_page(client, first_epoch, number, filters),
        );
    }

    fn gone(&self, client_id: &str, _sequence: u64, _why: Gone) {
        let mut held = self.held.lock();
        self.remove_all(&held.parts.take(&proto_map::client_token(client_id)));
    }

    fn caught_up(&self) {
        self.is_complete.send_replace(true);
    }
}

/// What somebody wants above QoS 0.
fn above_0(subscriptions: &[StoredSubscription]) -> Vec<TopicFilter> {
    let above_0 = subscriptions.iter().filter(|s| s.qos > 0);
    above_0.filter_map(|s| unshared(&TopicFilter::new(s.filter.as_str()).ok()?)).collect()
}

/// The filter behind a share name.
pub(crate) fn unshared(filter: &TopicFilter) -> Option<TopicFilter> {
    if filter.is_shared() { TopicFilter::new(filter.matching_part()).ok() } else { Some(filter.clone()) }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[derive(Default)]
    struct Told(Mutex<Vec<String>>);

    impl WantsSink for Arc<Told> {
        fn wanted(&self, filter: &TopicFilter) {
            self.0.lock().push(format!("+{}", filter.as_str()));
        }

        fn unwanted(&self, filter: &TopicFilter) {
            self.0.lock().push(format!("-{}", filter.as_str()));
        }
    }

    fn filter(text: &str) -> TopicFilter {
        TopicFilter::new(text).unwrap()
    }

    fn record(client_id: &str, filters: &[(&str, u8)]) -> SessionRecord {
        let subscription =
            |(f, qos): &(&str, u8)| StoredSubscription { filter: (*f).to_owned(), qos: *qos, ..Default::default() };
        let subscriptions = filters.iter().map(subscription).collect();
        SessionRecord { client_id: client_id.to_owned(), subscriptions, ..SessionRecord::default() }
    }

    #[test]
    fn a_filter_is_wanted_as_long_as_anybody_has_it_above_qos_0() {
        let told = Arc::new(Told::default());
        let wants = DurableInterest::new(ClosedTrees::default(), Box::new(Arc::clone(&told)));
        let topic = |text: &str| TopicName::new(text).unwrap();
        wants.subscribed(SessionId(1), &filter("a/+"), QoS::AtLeastOnce);
        wants.subscribed(SessionId(1), &filter("a/+"), QoS::ExactlyOnce);
        wants.record(1, record("c", &[("a/+", 1), ("b", 0), ("$share/g/s/#", 2)]));
        assert!(wants.matches(&topic("a/x")) && wants.matches(&topic("s/y")));
        assert!(!wants.matches(&topic("b")) && !wants.matches(&topic("$SYS/x")));
        wants.subscribed(SessionId(1), &filter("$SYS/#"), QoS::AtLeastOnce);
        wants.subscribed(SessionId(1), &filter("a/+"), QoS::AtMostOnce);
        assert!(wants.matches(&topic("a/x")), "the record still has it");
        wants.record(2, record("c", &[("b", 1)]));
        assert!(wants.matches(&topic("b")) && !wants.matches(&topic("a/x")));
        wants.gone("c", 4, Gone::Deleted);
        assert!(!wants.matches(&topic("b")));
        assert_eq!(*told.0.lock(), ["+a/+", "+s/#", "+b", "-a/+", "-s/#", "-b"]);
    }
    #[test]
    fn a_page_changes_what_is_in_it_and_goes_with_its_session() {
        let told = Arc::new(Told::default());
        let wants = DurableInterest::new(ClosedTrees::default(), Box::new(Arc::clone(&told)));
        let page = |filters: &[(&str, u8)]| PageRecord {
            subscriptions: record("c", filters).subscriptions,
            ..Default::default()
        };
        // A snapshot may have it before its record.
        wants.page(1, "c", 7, 1, page(&[("a", 1), ("b", 0)]));
        wants.record(2, SessionRecord { first_epoch: 7, ..record("c", &[("r", 1)]) });
        wants.page(3, "c", 7, 2, page(&[("c", 2)]));
        wants.page(4, "c", 7, 1, page(&[("b", 1), ("a", 1)]));
        assert_eq!(std::mem::take(&mut *told.0.lock()), ["+a", "+r", "+c", "+b"]);
        // A Clean Start may be given up yet; when it was accepted, it is final.
        wants.record(5, SessionRecord { first_epoch: 9, ..record("c", &[]) });
        assert_eq!(std::mem::take(&mut *told.0.lock()), ["-r"]);
        wants.page(6, "c", 9, 1, page(&[("n", 1)]));
        wants.record(7, SessionRecord { first_epoch: 9, accepted: true, ..record("c", &[]) });
        assert_eq!(std::mem::take(&mut *told.0.lock()), ["+n", "-b", "-a", "-c"]);
        wants.gone("c", 8, Gone::Expired);
        assert_eq!(*told.0.lock(), ["-n"]);
        assert!(!wants.matches(&TopicName::new("n").unwrap()));
    }
}
