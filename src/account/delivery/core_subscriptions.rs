//! Which subjects this sidecar is subscribed to on core NATS: those of every filter that at least one of its clients
//! has, once, however many have it.

use std::sync::atomic::{AtomicU64, Ordering};

use foldhash::{HashMap, HashMapExt};
use mqtt_codec::TopicFilter;
use parking_lot::Mutex;
use proto_map::{ClosedTrees, MapError, ROOT_TREES_MAX};

use crate::store::CoreNats;

/// Names a NATS subscription, by which its messages come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct CoreSubscriptionId(pub(crate) u64);

/// Names what is wanted of core NATS, a filter or what stands in its place: ascends with what comes to be wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SubscriptionOrder(pub(crate) u64);

impl SubscriptionOrder {
    /// A filter is one subject or two (`a/#` is `a` and `a.>`), or so many of each tree when it is narrowed to trees
    /// ([`ClosedTrees::subjects_of`]).
    pub(crate) const SUBJECTS_MAX: u64 = 2 * ROOT_TREES_MAX as u64;

    /// What has this NATS subscription.
    pub(crate) const fn of(id: CoreSubscriptionId) -> Self {
        Self(id.0 / Self::SUBJECTS_MAX)
    }

    /// The NATS subscriptions that it may have.
    pub(crate) fn ids(self) -> impl Iterator<Item = CoreSubscriptionId> {
        (self.0 * Self::SUBJECTS_MAX..(self.0 + 1) * Self::SUBJECTS_MAX).map(CoreSubscriptionId)
    }
}

#[derive(Debug)]
struct Held {
    order: SubscriptionOrder,
    count: usize,
}

/// The counted filters.
pub(crate) struct CoreSubscriptions {
    core: CoreNats,
    closed: ClosedTrees,
    next_order: AtomicU64,
    held: Mutex<HashMap<TopicFilter, Held>>,
}

impl CoreSubscriptions {
    /// No interest yet.
    pub(crate) fn new(core: CoreNats, closed: ClosedTrees) -> Self {
        Self { core, closed, next_order: AtomicU64::new(0), held: Mutex::new(HashMap::new()) }
    }

    /// Counts a filter up; the first time its subjects are subscribed. Returns its order.
    pub(crate) fn acquire(&self, filter: &TopicFilter) -> Result<SubscriptionOrder, MapError> {
        let mut all = self.held.lock();
        if let Some(held) = all.get_mut(filter) {
            held.count += 1;
            return Ok(held.order);
        }
        let subjects = self.closed.subjects_of(filter)?;
        let order = SubscriptionOrder(self.next_order.fetch_add(1, Ordering::Relaxed));
        for (id, subject) in order.ids().zip(&subjects) {
            self.core.subscribe(subject.as_str(), None, id.0);
        }
        all.insert(filter.clone(), Held { order, count: 1 });
        Ok(order)
    }

    /// The order of a filter that somebody has.
    pub(crate) fn order_of(&self, filter: &TopicFilter) -> Option<SubscriptionOrder> {
        self.held.lock().get(filter).map(|held| held.order)
    }

    /// Counts a filter down; the last time its subjects are unsubscribed.
    pub(crate) fn release(&self, filter: &TopicFilter) {
        let mut all = self.held.lock();
        let Some(held) = all.get_mut(filter) else { return };
        held.count -= 1;
        if held.count > 0 {
            return;
        }
        let order = held.order;
        all.remove(filter);
        for id in order.ids() {
            self.core.unsubscribe(id.0);
        }
    }
}
