//! When other nodes were heard last, by our own clock.
//!
//! **Invariant:** nobody is taken for dead who was heard a shorter while ago than leases last, unless it has said so itself. A lease
//! that ends before its time was not ended by its holder: the clock of a server was put forward, or somebody has removed it. Its
//! holder takes it again with its next refresh.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// See the module.
#[derive(Debug)]
pub(in crate::account) struct Heard {
    /// Less than a lease lasts.
    within: Duration,
    nodes: Mutex<BTreeMap<String, Instant>>,
}

impl Heard {
    pub(in crate::account) const fn new(within: Duration) -> Self {
        Self { within, nodes: Mutex::new(BTreeMap::new()) }
    }

    /// A node has refreshed its lease.
    pub(in crate::account) fn note(&self, node: &str, now: Instant) {
        let mut nodes = self.nodes.lock();
        if let Some(at) = nodes.get_mut(node) {
            *at = now;
            return;
        }
        // There are as many as are alive, and as have died since the last one came.
        nodes.retain(|_, at| self.is_recent(*at, now));
        nodes.insert(node.to_owned(), now);
    }

    /// A node has given its lease back.
    pub(in crate::account) fn forget(&self, node: &str) {
        self.nodes.lock().remove(node);
    }

    /// Whether a node was heard so short ago that its lease cannot have ended by itself.
    pub(in crate::account) fn has(&self, node: &str, now: Instant) -> bool {
        self.nodes.lock().get(node).is_some_and(|at| self.is_recent(*at, now))
    }

    fn is_recent(&self, at: Instant, now: Instant) -> bool {
        now.saturating_duration_since(at) < self.within
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_heard_counts_for_a_while_unless_it_has_left() {
        let (heard, second, began) = (Heard::new(Duration::from_secs(20)), Duration::from_secs(1), Instant::now());
        assert!(!heard.has("a", began), "who was never heard");
        heard.note("a", began);
        heard.note("b", began);
        assert!(heard.has("a", began + 19 * second) && !heard.has("a", began + 20 * second));
        heard.note("a", began + 4 * second);
        assert!(heard.has("a", began + 23 * second) && !heard.has("b", began + 23 * second));
        heard.forget("a");
        assert!(!heard.has("a", began + 5 * second));
    }

    #[test]
    fn names_of_the_past_are_forgotten() {
        let (heard, began) = (Heard::new(Duration::from_secs(20)), Instant::now());
        for number in 0..100_u32 {
            heard.note(&number.to_string(), began + Duration::from_secs(4) * number);
        }
        assert_eq!(heard.nodes.lock().len(), 5);
    }
}
