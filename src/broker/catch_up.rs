//! Sessions that fell behind the tail are brought up from the log. One scan at a time serves all that wait when it
//! begins, reading the log once for all of them; who waits later gets the next scan. A scan is paced by its readers:
//! when nobody has room it pulls nothing.

use std::sync::Arc;
use std::time::Duration;

use mqtt_session::FeedState;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::mailbox::{Mailbox, Wakes};
use super::router::Router;
use crate::store::{Log, LogEntry, Scan};

/// How long a scan waits for the last of its readers to make room before it ends; the reader asks for another one.
const PATIENCE: Duration = Duration::from_secs(2);

/// A scan that is at most this many sequences behind the tail joins it.
const NEAR: u64 = 4096;

/// How long to wait before the log is tried again when it cannot be read.
const RETRY: Duration = Duration::from_millis(500);

/// Sessions that wait for a scan.
#[derive(Debug, Default)]
pub(crate) struct CatchUp {
    waiting: Mutex<Vec<Arc<Mailbox>>>,
    wake: Notify,
}

impl CatchUp {
    /// Has a session that is behind brought up. Asking twice does no harm.
    pub(crate) fn ask(&self, mailbox: &Arc<Mailbox>) {
        let mut waiting = self.waiting.lock();
        if !waiting.iter().any(|m| m.id == mailbox.id) {
            waiting.push(Arc::clone(mailbox));
        }
        drop(waiting);
        self.wake.notify_one();
    }

    /// Runs scans, for ever.
    pub(crate) async fn run(&self, log: Log, router: &Router) {
        loop {
            self.wake.notified().await;
            let waiting = std::mem::take(&mut *self.waiting.lock());
            let first = first_sequence(&log).await;
            // What the log has lost they find in their backlogs, and then they ask again.
            let waiting = waiting.into_iter().filter(|mailbox| !mailbox.needs_backlog(first)).collect();
            let mut group = Group::begin(waiting);
            if let Some(from) = group.from {
                group.run(log.scan(from), &log, router).await;
            }
        }
    }
}

/// The sessions of one scan.
struct Group {
    readers: Vec<Arc<Mailbox>>,
    from: Option<u64>,
}

/// Whether the scan goes on.
#[derive(PartialEq, Eq)]
enum Progress {
    More,
    Done,
}

impl Group {
    fn begin(waiting: Vec<Arc<Mailbox>>) -> Self {
        let mut from: Option<u64> = None;
        let mut readers = Vec::new();
        for mailbox in waiting {
            if let Some(next) = mailbox.with_feed(mqtt_session::Feed::begin_scan) {
                from = Some(from.map_or(next, |f| f.min(next)));
                readers.push(mailbox);
            }
        }
        Self { readers, from }
    }

    async fn run(&mut self, mut scan: Scan, log: &Log, router: &Router) {
        let mut empty_reads = 0;
        loop {
            let next = scan.position();
            match scan.next().await {
                Ok(batch) => {
                    if has_gap(next, &batch) && self.is_overtaken(log).await {
                        break;
                    }
                    empty_reads = if batch.is_empty() { empty_reads + 1 } else { 0 };
                    if self.route(&batch, router).await == Progress::Done {
                        break;
                    }
                    self.join_tail(&scan, router);
                    if empty_reads > 1 {
                        self.pass_the_end(router);
                        empty_reads = 0;
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "the log cannot be read; slow subscribers wait");
                    tokio::time::sleep(RETRY).await;
                }
            }
            self.readers.retain(is_served);
            if self.readers.is_empty() {
                break;
            }
        }
        for mailbox in &self.readers {
            mailbox.with_feed(mqtt_session::Feed::end_scan);
            // The connection sees that it is behind and asks again.
            mailbox.nudge();
        }
    }

    /// Whether the log has discarded what a reader has not read, and finds in its backlog.
    async fn is_overtaken(&self, log: &Log) -> bool {
        let first = first_sequence(log).await;
        self.readers.iter().any(|mailbox| mailbox.needs_backlog(first))
    }

    /// Routes a batch to the readers. One that has no room leaves the scan; the last one is waited for.
    async fn route(&mut self, batch: &[LogEntry], router: &Router) -> Progress {
        let mut wakes = Wakes::default();
        for entry in batch {
            if self.readers.len() == 1 && !has_room(&self.readers[0]) {
                self.pass(entry.sequence - 1);
                wakes.wake_all();
                if !wait_for_room(&self.readers[0]).await {
                    return Progress::Done;
                }
            }
            let mut has_left = false;
            router.route_scanned(entry, &mut wakes, |_| has_left = true);
            if has_left {
                self.readers.retain(is_served);
                if self.readers.is_empty() {
                    return Progress::Done;
                }
            }
        }
        if let Some(last) = batch.last() {
            self.pass(last.sequence);
        }
        Progress::More
    }

    /// Tells every reader how far the scan is.
    fn pass(&self, sequence: u64) {
        for mailbox in &self.readers {
            mailbox.with_feed(|feed| feed.scan_passed(sequence));
            mailbox.nudge();
        }
    }

    /// The scan waited and nothing came, so nothing is left up to where the tail stood before it waited: what the tail
    /// routed there has expired since. Those who wait for it need not.
    fn pass_the_end(&self, router: &Router) {
        let tail = router.hold_tail();
        for mailbox in &self.readers {
            mailbox.with_feed(|feed| {
                if let FeedState::Joining { until, .. } = feed.state() {
                    feed.scan_passed(until.min(tail.sequence()));
                }
            });
            mailbox.nudge();
        }
    }

    /// Near the tail, what the tail brings from now on is held behind what the scan still brings.
    fn join_tail(&self, scan: &Scan, router: &Router) {
        let tail = router.hold_tail();
        if scan.position() + NEAR < tail.sequence() {
            return;
        }
        for mailbox in &self.readers {
            mailbox.with_feed(|feed| feed.join(tail.sequence()));
        }
    }
}

/// Whether sequences are left out: expired, deleted, or discarded before they were read.
fn has_gap(next: u64, batch: &[LogEntry]) -> bool {
    batch.last().is_some_and(|last| last.sequence.saturating_sub(next) >= batch.len() as u64)
}

/// Where the log begins.
async fn first_sequence(log: &Log) -> u64 {
    loop {
        match log.first_sequence().await {
            Ok(first) => return first,
            Err(error) => tracing::warn!(%error, "the log cannot be read; slow subscribers wait"),
        }
        tokio::time::sleep(RETRY).await;
    }
}

fn is_served(mailbox: &Arc<Mailbox>) -> bool {
    let state = mailbox.with_feed(|feed| feed.state());
    matches!(state, FeedState::Scanning { .. } | FeedState::Joining { .. })
}

fn has_room(mailbox: &Arc<Mailbox>) -> bool {
    mailbox.with_feed(|feed| feed.has_room())
}

/// Waits until the reader has room; false when it has not in time, or is gone.
async fn wait_for_room(mailbox: &Arc<Mailbox>) -> bool {
    let wait = async {
        loop {
            let room = mailbox.room();
            tokio::pin!(room);
            room.as_mut().enable();
            if has_room(mailbox) || mailbox.is_closed() {
                return;
            }
            room.await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.is_ok() && !mailbox.is_closed()
}
