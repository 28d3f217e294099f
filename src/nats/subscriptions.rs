//! The subscriptions of a link: kept over reconnects, each until its handle is dropped.

use std::sync::Arc;

use foldhash::{HashMap, HashMapExt};

use super::queue::Entry;

/// All of them, by subscription id.
#[derive(Debug)]
pub(super) struct Table {
    next: u64,
    entries: HashMap<u64, Arc<Entry>>,
}

impl Table {
    pub(super) fn new() -> Self {
        Self { next: 1, entries: HashMap::new() }
    }

    /// Adds one; returns its id, which no other has had.
    pub(super) fn add(&mut self, entry: Arc<Entry>) -> u64 {
        let sid = self.next;
        self.next += 1;
        self.entries.insert(sid, entry);
        sid
    }

    pub(super) fn remove(&mut self, sid: u64) -> Option<Arc<Entry>> {
        self.entries.remove(&sid)
    }

    pub(super) fn get(&self, sid: u64) -> Option<&Arc<Entry>> {
        self.entries.get(&sid)
    }

    /// In the order in which they were made.
    pub(super) fn in_order(&self) -> Vec<(u64, Arc<Entry>)> {
        let mut all: Vec<_> = self.entries.iter().map(|(sid, entry)| (*sid, Arc::clone(entry))).collect();
        all.sort_unstable_by_key(|(sid, _)| *sid);
        all
    }
}
