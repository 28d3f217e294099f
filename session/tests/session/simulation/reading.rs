//! How a sidecar reads the log for its connections: a tail, and one scan at a time for those that are behind, as
//! `account/delivery/catch_up.rs` of the sidecar does it.

use mqtt_session::{FeedState, Sequence};

use super::sidecar::Connection;
use super::world::World;

/// A scan this near to the tail joins it.
const NEAR: u64 = 2;

/// What a sidecar reads for its connections.
#[derive(Debug, Default)]
pub(crate) struct Node {
    pub(super) tail: u64,
    pub(super) waiting: Vec<u64>,
    scan: Option<Scan>,
}

#[derive(Debug)]
struct Scan {
    at: u64,
    readers: Vec<u64>,
}

impl Node {
    pub(super) fn starting_at(tail: u64) -> Self {
        Self { tail, ..Self::default() }
    }
}

impl World {
    /// A sidecar's tail moves on.
    pub(super) fn tail(&mut self) {
        let n = self.random.below(self.nodes.len());
        let node = &mut self.nodes[n];
        if node.tail == self.log.last() {
            return;
        }
        node.tail += 1;
        let tail = node.tail;
        for connection in self.connections.values_mut().filter(|c| c.node == n) {
            connection.session.log_stands_at(Sequence(tail));
            if self.log.get(tail).is_some_and(|e| self.clients[connection.client].wants(&e.letter)) {
                connection.feed.offer_live(Sequence(tail), 1, || tail);
            }
            assert!(connection.feed.len() <= self.config.feed_max, "the feed is too long");
        }
    }

    /// A sidecar's scan begins, or moves on by one message.
    pub(super) fn scan(&mut self) {
        let n = self.random.below(self.nodes.len());
        let Some(mut scan) = self.nodes[n].scan.take() else { return self.begin_scan(n) };
        let tail = self.nodes[n].tail;
        self.keep_served(&mut scan);
        if self.random.once_in(60) {
            self.each_reader(&scan, |c| c.feed.end_scan());
            return;
        }
        if scan.at <= self.log.last() {
            if let [only] = scan.readers[..]
                && self.connections.get(&only).is_some_and(|c| !c.feed.has_room())
            {
                self.each_reader(&scan, |c| c.feed.scan_passed(Sequence(scan.at - 1)));
                if self.random.once_in(10) {
                    self.each_reader(&scan, |c| c.feed.end_scan());
                } else {
                    self.nodes[n].scan = Some(scan);
                }
                return;
            }
            self.scan_one(&mut scan);
        } else {
            // Nothing is left up to where the tail stands.
            self.each_reader(&scan, |c| {
                if let FeedState::Attaching { until, .. } = c.feed.state() {
                    c.feed.scan_passed(until.min(Sequence(tail)));
                }
            });
        }
        if scan.at > tail.saturating_sub(NEAR) {
            self.each_reader(&scan, |c| c.feed.join(Sequence(tail)));
        }
        self.keep_served(&mut scan);
        if !scan.readers.is_empty() {
            self.nodes[n].scan = Some(scan);
        }
    }

    fn begin_scan(&mut self, n: usize) {
        let waiting = std::mem::take(&mut self.nodes[n].waiting);
        let mut scan = Scan { at: u64::MAX, readers: Vec::new() };
        for id in waiting {
            if let Some(Sequence(next)) = self.connections.get_mut(&id).and_then(|c| c.feed.begin_scan()) {
                scan.at = scan.at.min(next);
                scan.readers.push(id);
            }
        }
        self.nodes[n].scan = (!scan.readers.is_empty()).then_some(scan);
    }

    fn scan_one(&mut self, scan: &mut Scan) {
        let at = scan.at;
        scan.at += 1;
        if let Some(entry) = self.log.get(at) {
            for id in &scan.readers {
                let Some(connection) = self.connections.get_mut(id) else { continue };
                if self.clients[connection.client].wants(&entry.letter) {
                    connection.feed.offer_scanned(Sequence(at), 1, || at);
                }
                assert!(connection.feed.len() <= self.config.feed_max, "the feed is too long");
            }
        }
        self.keep_served(scan);
        self.each_reader(scan, |c| c.feed.scan_passed(Sequence(at)));
    }

    fn each_reader(&mut self, scan: &Scan, mut act: impl FnMut(&mut Connection)) {
        for id in &scan.readers {
            if let Some(connection) = self.connections.get_mut(id) {
                act(connection);
            }
        }
    }

    fn keep_served(&self, scan: &mut Scan) {
        scan.readers.retain(|id| self.connections.get(id).is_some_and(|c| !c.is_over && c.is_scanned()));
    }
}
