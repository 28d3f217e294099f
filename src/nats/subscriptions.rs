//! The subscriptions of a link: kept over reconnects, each until its handle is dropped.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use foldhash::{HashMap, HashMapExt};

use super::client::Client;
use super::queue::Queue;

/// One subscription, as the link knows it.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) subject: Box<str>,
    pub(super) group: Option<Box<str>>,
    /// What its reader calls it.
    pub(super) tag: u64,
    pub(super) delivery: Delivery,
    waiting: AtomicU32,
    has_ended: AtomicBool,
}

/// Where its messages go.
#[derive(Clone, Debug)]
pub(super) enum Delivery {
    Queue(Arc<Queue>),
    /// They are answers to requests.
    Requests,
}

impl Entry {
    pub(super) fn new(subject: &str, group: Option<&str>, tag: u64, delivery: Delivery) -> Arc<Self> {
        Arc::new(Self {
            subject: subject.into(),
            group: group.map(Into::into),
            tag,
            delivery,
            waiting: AtomicU32::new(0),
            has_ended: AtomicBool::new(false),
        })
    }

    /// Messages of it that nobody has read yet.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed) as usize
    }

    pub(super) fn add_waiting(&self) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn sub_waiting(&self) {
        self.waiting.fetch_sub(1, Ordering::Relaxed);
    }

    pub(super) fn has_ended(&self) -> bool {
        self.has_ended.load(Ordering::Acquire)
    }

    pub(super) fn end(&self) {
        self.has_ended.store(true, Ordering::Release);
    }
}

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

/// A subscription. It ends when this is dropped; what waits of it then is not read any more.
#[derive(Debug)]
pub(crate) struct Subscription {
    client: Client,
    sid: u64,
}

impl Subscription {
    pub(super) fn new(client: Client, sid: u64) -> Self {
        Self { client, sid }
    }

    /// The server is told to send no more; what has come and what is on its way can be read.
    pub(super) fn stop(&self) {
        self.client.stop(self.sid);
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.client.unsubscribe(self.sid);
    }
}
