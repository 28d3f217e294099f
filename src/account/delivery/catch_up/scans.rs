//! The scans of one log, one after the other.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use mqtt_session::{FeedState, Sequence};

use super::CatchUp;
use crate::account::delivery::inbox::{Inbox, Wakes};
use crate::account::delivery::logs::LogHandle;
use crate::account::delivery::router::Router;
use crate::overload::PROCESS;
use crate::store::{LogEntry, Scan};
use crate::tasks::Tasks;

/// How long a scan is kept, with what it has read, for a reader that takes nothing; one that does asks for another one.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long the last reader may keep those waiting who want a scan of their own, when it has no room, and how much it gets
/// before it may not at all. A scan costs some round trips: those who read fast are not to take turns at every queue full.
const GRACE: Duration = Duration::from_millis(100);
const TURN: u64 = 16_384;

/// A scan that is at most this many sequences behind the tail joins it.
const NEAR: u64 = 4096;

/// How long a scan waits when there is little memory.
const MEMORY_LOOK: Duration = Duration::from_millis(50);

/// How long to wait before the log is tried again when it cannot be read.
const RETRY: Duration = Duration::from_millis(500);

impl CatchUp {
    /// Runs scans of a log, until it is gone.
    pub(crate) fn start(tasks: &Tasks, log: Arc<LogHandle>, router: Arc<Router>) {
        tasks.spawn(async move { Self::run(&log, &router).await });
    }

    async fn run(log: &Arc<LogHandle>, router: &Router) {
        let Self { waiting, wake, has_ended } = &log.catch_up;
        loop {
            if PROCESS.budget.is_full() {
                // Who fell behind because there was no memory may do so again.
                tokio::time::sleep(MEMORY_LOOK).await;
            }
            let mut waiting = std::mem::take(&mut *waiting.lock());
            if has_ended.load(Ordering::Acquire) {
                // What they were owed went with the log.
                return waiting.iter().for_each(|inbox| inbox.forget_log(log.number));
            }
            if waiting.is_empty() {
                wake.notified().await;
                continue;
            }
            if log.number == 0 {
                let first = first_sequence(log).await;
                // What the log has lost they find in their backlogs, and then they ask again.
                waiting.retain(|inbox| !inbox.needs_backlog(first));
            }
            let mut group = ScanBatch::begin(Arc::clone(log), waiting);
            if let Some(from) = group.from {
                group.run(log.log.scan(from.0), router).await;
            }
        }
    }
}

/// The sessions of one scan.
struct ScanBatch {
    log: Arc<LogHandle>,
    readers: Vec<Arc<Inbox>>,
    from: Option<Sequence>,
    /// Messages that the scan has brought.
    brought: u64,
}

/// Whether the scan goes on.
#[derive(PartialEq, Eq)]
enum Progress {
    More,
    Done,
}

impl ScanBatch {
    fn begin(log: Arc<LogHandle>, waiting: Vec<Arc<Inbox>>) -> Self {
        let mut from: Option<Sequence> = None;
        let mut readers = Vec::new();
        for inbox in waiting {
            if let Some(next) = inbox.with_feed(log.number, mqtt_session::Feed::begin_scan) {
                from = Some(from.map_or(next, |f| f.min(next)));
                readers.push(inbox);
            }
        }
        Self { log, readers, from, brought: 0 }
    }

    async fn run(&mut self, mut scan: Scan, router: &Router) {
        let _running = router.metrics().scan();
        let number = self.log.number;
        let mut empty_reads = 0;
        loop {
            let next = Sequence(scan.position());
            match scan.next().await {
                Ok(batch) => {
                    if number == 0 && has_gap(next, &batch) && self.is_overtaken().await {
                        break;
                    }
                    empty_reads = if batch.is_empty() { empty_reads + 1 } else { 0 };
                    if self.route(&batch, router).await == Progress::Done {
                        break;
                    }
                    self.join_tail(&scan);
                    if empty_reads > 1 {
                        self.pass_the_end();
                        empty_reads = 0;
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "the log cannot be read; slow subscribers wait");
                    tokio::time::sleep(RETRY).await;
                }
            }
            self.readers.retain(|inbox| is_served(inbox, number));
            if self.readers.is_empty() || self.log.is_gone() {
                break;
            }
        }
        for inbox in &self.readers {
            inbox.with_feed(number, mqtt_session::Feed::end_scan);
            // The connection sees that it is behind and asks again.
            inbox.wake();
        }
    }

    /// Whether the log has discarded what a reader has not read, and finds in its backlog.
    async fn is_overtaken(&self) -> bool {
        let first = first_sequence(&self.log).await;
        self.readers.iter().any(|inbox| inbox.needs_backlog(first))
    }

    /// Routes a batch to the readers. One that has no room leaves the scan; the last one is waited for.
    async fn route(&mut self, batch: &[LogEntry], router: &Router) -> Progress {
        let mut wakes = Wakes::default();
        let number = self.log.number;
        for entry in batch {
            if self.readers.len() == 1 && !has_room(&self.readers[0], number) {
                self.pass(Sequence(entry.sequence - 1));
                wakes.wake_all();
                if !self.wait_for_room().await {
                    return Progress::Done;
                }
            }
            self.brought += 1;
            let mut has_left = false;
            router.route_scanned(&self.log, entry, &mut wakes, |_| has_left = true);
            if has_left {
                self.readers.retain(|inbox| is_served(inbox, number));
                if self.readers.is_empty() {
                    return Progress::Done;
                }
            }
        }
        if let Some(last) = batch.last() {
            self.pass(Sequence(last.sequence));
        }
        Progress::More
    }

    /// Waits until the last reader has room; false when the scan is to end instead. What it is still owed it asks for then.
    async fn wait_for_room(&self) -> bool {
        let (log, reader) = (&self.log, &self.readers[0]);
        let others = async {
            if self.brought < TURN {
                tokio::time::sleep(GRACE).await;
            }
            log.catch_up.others(reader).await;
        };
        tokio::select! {
            biased;
            has_room = reader.room_for_scan(log.number) => has_room,
            () = others => false,
            () = tokio::time::sleep(PATIENCE) => false,
        }
    }

    /// Tells every reader how far the scan is.
    fn pass(&self, sequence: Sequence) {
        for inbox in &self.readers {
            inbox.with_feed(self.log.number, |feed| feed.scan_passed(sequence));
            inbox.wake();
        }
    }

    /// The scan waited and nothing came, so nothing is left up to where the tail stood before it waited: what the tail
    /// routed there has expired since. Those who wait for it need not.
    fn pass_the_end(&self) {
        let tail = self.log.hold();
        for inbox in &self.readers {
            inbox.with_feed(self.log.number, |feed| {
                if let FeedState::Attaching { until, .. } = feed.state() {
                    feed.scan_passed(until.min(tail.sequence()));
                }
            });
            inbox.wake();
        }
    }

    /// Near the tail, what the tail brings from now on is held behind what the scan still brings.
    fn join_tail(&self, scan: &Scan) {
        let tail = self.log.hold();
        if scan.position() + NEAR < tail.sequence().0 {
            return;
        }
        for inbox in &self.readers {
            inbox.with_feed(self.log.number, |feed| feed.join(tail.sequence()));
        }
    }
}

/// Whether sequences are left out: expired, deleted, or discarded before they were read.
fn has_gap(next: Sequence, batch: &[LogEntry]) -> bool {
    batch.last().is_some_and(|last| last.sequence.saturating_sub(next.0) >= batch.len() as u64)
}

/// Where the log begins.
async fn first_sequence(log: &LogHandle) -> Sequence {
    loop {
        match log.log.first_sequence().await {
            Ok(first) => return Sequence(first),
            Err(error) => tracing::warn!(%error, "the log cannot be read; slow subscribers wait"),
        }
        tokio::time::sleep(RETRY).await;
    }
}

fn is_served(inbox: &Arc<Inbox>, log: u16) -> bool {
    let state = inbox.with_feed(log, |feed| feed.state());
    matches!(state, FeedState::Scanning { .. } | FeedState::Attaching { .. })
}

fn has_room(inbox: &Arc<Inbox>, log: u16) -> bool {
    inbox.with_feed(log, |feed| feed.has_room())
}
