//! Which subjects this sidecar is subscribed to on core NATS: those of every filter that at least one of its clients
//! has, once, however many have it.

use std::sync::atomic::{AtomicU64, Ordering};

use foldhash::{HashMap, HashMapExt};
use mqtt_codec::TopicFilter;
use parking_lot::Mutex;
use proto_map::{ClosedTrees, MapError, ROOT_TREES_MAX};

use crate::store::CoreNats;

/// A filter is one subject or two (`a/#` is `a` and `a.>`), or so many of each tree when it is narrowed to trees
/// ([`ClosedTrees::subjects_of`]), and its NATS subscriptions have the ids from `order * SUBJECTS_PER_FILTER` on.
pub(crate) const SUBJECTS_PER_FILTER: u64 = 2 * ROOT_TREES_MAX as u64;

#[derive(Debug)]
struct Held {
    order: u64,
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
    pub(crate) fn acquire(&self, filter: &TopicFilter) -> Result<u64, MapError> {
        let mut all = self.held.lock();
        if let Some(held) = all.get_mut(filter) {
            held.count += 1;
            return Ok(held.order);
        }
        let subjects = self.closed.subjects_of(filter)?;
        let order = self.next_order.fetch_add(1, Ordering::Relaxed);
        for (id, subject) in (order * SUBJECTS_PER_FILTER..).zip(&subjects) {
            self.core.subscribe(subject.as_str(), None, id);
        }
        all.insert(filter.clone(), Held { order, count: 1 });
        Ok(order)
    }

    /// The order of a filter that somebody has.
    pub(crate) fn order_of(&self, filter: &TopicFilter) -> Option<u64> {
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
        for id in order * SUBJECTS_PER_FILTER..(order + 1) * SUBJECTS_PER_FILTER {
            self.core.unsubscribe(id);
        }
    }
}
