//! The message log: followed by one tail, read again by scans.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use proto_map::StreamSpec;
use tokio::task::JoinHandle;

use super::api::Api;
use super::assets::Assets;
use super::connection::Link;
use super::entry::LogEntry;
use super::error::Unavailable;
use super::head::Head;
use super::pulse::Pulse;
use super::reader::{Pace, Progress, Reader, Source};

/// Entries that a sink gets at once.
const TAIL_BATCH_MAX: usize = 512;
/// Messages that one caller reads by sequence at the same time.
const GETS_MAX: usize = 128;
/// Messages of a subject that are looked at one by one before they are read in bulk.
const FIND_ONE_BY_ONE_MAX: usize = 32;
/// Pause before a stream that is gone is looked for again.
const MISSING_PAUSE: Duration = Duration::from_millis(500);

/// Where a tail begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogPosition {
    /// With what is stored from now on.
    New,
    /// With this sequence.
    Sequence(u64),
}

/// Gets what a tail reads.
pub trait LogSink: Send + Sync {
    /// Entries in ascending order, each sequence once. Called synchronously from the tail's task: while it runs, nothing more
    /// is asked for. What is left in `batch` is dropped.
    fn entries(&self, batch: &mut Vec<LogEntry>);

    /// The stream was made anew or was cut, so that sequences go on from `next`, which may be one that was there before.
    fn restarted(&self, next: u64) {
        let _ = next;
    }
}

/// One log of an account.
#[derive(Clone, Debug)]
pub struct Log {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    api: Api,
    tail: Link,
    stream: Arc<str>,
    prefix: Arc<str>,
    head: Head,
    /// Of its tail.
    pulse: Arc<Pulse>,
    /// Largest message of the server, bytes.
    payload_max: usize,
    /// How to make the stream again, if it is ours.
    ours: Option<(Assets, StreamSpec)>,
}

impl Log {
    pub(super) fn new(
        api: Api,
        tail: Link,
        stream: &str,
        prefix: &str,
        payload_max: usize,
        ours: Option<(Assets, StreamSpec)>,
    ) -> Self {
        let stream: Arc<str> = Arc::from(stream);
        let head = Head::new(api.clone(), Arc::clone(&stream));
        let (prefix, pulse) = (Arc::from(prefix), Arc::default());
        Self { shared: Arc::new(Shared { api, tail, stream, prefix, head, pulse, payload_max, ours }) }
    }

    /// The stream's name.
    pub fn stream(&self) -> &str {
        &self.shared.stream
    }

    /// How long nothing was heard of the tail's consumer, or there is none.
    pub fn tail_silence(&self) -> Duration {
        self.shared.pulse.silence()
    }

    /// Whether its tail reads: the consumer is there, and was heard of a moment ago.
    pub fn is_tail_reading(&self) -> bool {
        self.shared.pulse.is_reading()
    }

    /// Messages that the tail had not read yet when its consumer was last heard of.
    pub fn tail_lag(&self) -> u64 {
        self.shared.pulse.behind()
    }

    /// The last sequence of the stream at some moment after the call, read at the leader. Callers that wait at the same time
    /// share a request.
    ///
    /// # Errors
    /// When JetStream does not answer.
    pub async fn last_sequence(&self) -> Result<u64, Unavailable> {
        Ok(self.shared.head.read().await?.last_seq)
    }

    /// The first sequence that the stream has still, as [`Self::last_sequence`] is read.
    ///
    /// # Errors
    /// When JetStream does not answer.
    pub async fn first_sequence(&self) -> Result<u64, Unavailable> {
        Ok(self.shared.head.read().await?.first_seq)
    }

    /// The message with a sequence, from the leader; `None` when the log does not have it any more.
    ///
    /// # Errors
    /// When JetStream does not answer.
    pub async fn get(&self, sequence: u64) -> Result<Option<LogEntry>, Unavailable> {
        let Shared { api, stream, prefix, .. } = &*self.shared;
        let Some(stored) = api.unless_lost(api.message_at(stream, sequence)).await? else { return Ok(None) };
        match LogEntry::of_stored(stored, prefix) {
            Some(entry) => Ok(Some(entry)),
            None => Err(Unavailable::new("an answer of JetStream cannot be read")),
        }
    }

    /// The messages with these sequences, in the order given; those that the log does not have any more are left out.
    ///
    /// # Errors
    /// When JetStream does not answer for one of them.
    pub async fn get_many(&self, sequences: &[u64]) -> Result<Vec<LogEntry>, Unavailable> {
        let mut entries = Vec::with_capacity(sequences.len());
        let mut answers = stream::iter(sequences.to_vec()).map(|sequence| self.get(sequence)).buffered(GETS_MAX);
        while let Some(answer) = answers.next().await {
            entries.extend(answer?);
        }
        Ok(entries)
    }

    /// The sequence, above `after`, of the message on a subject of the stream whose `Nats-Msg-Id` is `message_id`; `None`
    /// when it is not there, as the leader says.
    ///
    /// # Errors
    /// When JetStream does not answer.
    pub async fn find(&self, subject: &str, after: u64, message_id: &str) -> Result<Option<u64>, Unavailable> {
        let Shared { api, stream, prefix, .. } = &*self.shared;
        let is_it = |entry: &LogEntry| {
            // On any of them: what a version before ours wrote can have its publisher's before ours.
            let mut ids = entry.headers.iter().flatten().filter(|(name, _)| name == proto_map::name::NATS_MSG_ID);
            ids.any(|(_, id)| id == message_id)
        };
        let mut position = after + 1;
        loop {
            // Only the leader can say that there is nothing more.
            for _ in 0..FIND_ONE_BY_ONE_MAX {
                let next = api.unless_lost(api.next_message(stream, position, subject)).await?;
                let Some(stored) = next else { return Ok(None) };
                position = stored.seq + 1;
                if let Some(entry) = LogEntry::of_stored(stored, prefix).filter(&is_it) {
                    return Ok(Some(entry.sequence));
                }
            }
            // A busy subject: through what is there by the thousand, perhaps as a replica knows it.
            let source = self.source("find", Pace { batch: 1_024, bytes: self.pull_bytes(4), overlap: true });
            let mut reader = Reader::new(api.clone(), api.link.clone(), source, position).only(subject.to_owned());
            let mut batch = Vec::with_capacity(TAIL_BATCH_MAX);
            loop {
                if reader.next(&mut batch, TAIL_BATCH_MAX).await? == Progress::StreamMissing {
                    return Err(Unavailable::new("the stream is gone"));
                }
                if let Some(entry) = batch.iter().find(|entry| is_it(entry)) {
                    return Ok(Some(entry.sequence));
                }
                batch.clear();
                if reader.is_caught_up() {
                    break;
                }
            }
            position = reader.position();
        }
    }

    /// Starts to follow the log. When this returns, everything that is stored from then on will be delivered.
    ///
    /// # Errors
    /// When the position cannot be asked for.
    pub async fn tail(&self, from: LogPosition, sink: Arc<dyn LogSink>) -> Result<Tail, Unavailable> {
        let start = match from {
            LogPosition::Sequence(sequence) => sequence.max(1),
            LogPosition::New => self.last_sequence().await? + 1,
        };
        let source = self.source("tail", Pace { batch: 2_048, bytes: self.pull_bytes(8), overlap: true });
        let reader = Reader::new(self.shared.api.clone(), self.shared.tail.clone(), source, start).of_log();
        let reader = reader.watched_by(Arc::clone(&self.shared.pulse));
        let task = self.shared.api.link.tasks.spawn(follow(Arc::clone(&self.shared), reader, sink));
        Ok(Tail { start, task })
    }

    /// Reads the log from a sequence on, at the caller's pace.
    pub fn scan(&self, from: u64) -> Scan {
        let source = self.source("scan", Pace { batch: 1_024, bytes: self.pull_bytes(4), overlap: true });
        // On the api connection: a scan in full flight does not hold up the tail.
        let reader = Reader::new(self.shared.api.clone(), self.shared.api.link.clone(), source, from).of_log();
        Scan { reader }
    }

    fn source(&self, purpose: &'static str, pace: Pace) -> Source {
        let Shared { stream, prefix, .. } = &*self.shared;
        Source { stream: Arc::clone(stream), prefix: Arc::clone(prefix), purpose, last_per_subject: false, pace }
    }

    /// Bytes of a pull: some MiB, and always enough for the largest message and its subjects.
    fn pull_bytes(&self, mib: usize) -> usize {
        (mib * 1024 * 1024).max(self.shared.payload_max + 64 * 1024)
    }
}

/// A log being followed. It ends when this is dropped.
#[derive(Debug)]
pub struct Tail {
    start: u64,
    task: JoinHandle<()>,
}

impl Tail {
    /// The first sequence that the sink can get.
    pub fn start_position(&self) -> u64 {
        self.start
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn follow(shared: Arc<Shared>, mut reader: Reader, sink: Arc<dyn LogSink>) {
    let mut batch = Vec::with_capacity(TAIL_BATCH_MAX);
    loop {
        match reader.next(&mut batch, TAIL_BATCH_MAX).await {
            Ok(Progress::Read) => {
                let is_full = batch.len() >= TAIL_BATCH_MAX;
                if !batch.is_empty() {
                    sink.entries(&mut batch);
                    batch.clear();
                }
                if is_full {
                    // More is there already; others on this thread have waited.
                    tokio::task::yield_now().await;
                }
            }
            Ok(Progress::Restarted { next }) => {
                tracing::error!(stream = %shared.stream, next, "the stream was recreated or cut while it was being read");
                sink.restarted(next);
            }
            Ok(Progress::StreamMissing) => shared.make_again().await,
            // The reader has paused already.
            Ok(Progress::SnapshotBegins { .. }) | Err(_) => {}
        }
    }
}

impl Shared {
    /// The stream is gone: somebody deleted it. Ours is made again; for another one we wait.
    async fn make_again(&self) {
        tracing::error!(stream = %self.stream, "the stream is gone");
        if let Some((assets, spec)) = &self.ours
            && let Err(error) = assets.ensure(spec).await
        {
            tracing::error!(%error, "cannot make it again");
        }
        tokio::time::sleep(MISSING_PAUSE).await;
    }
}

/// A log being read again.
pub struct Scan {
    reader: Reader,
}

impl Scan {
    /// The next entries, ascending; empty when nothing is behind the position at the moment. Never ends: after that it waits
    /// for more, and comes back empty every few seconds.
    ///
    /// # Errors
    /// When JetStream does not answer or the stream is gone; the next call tries again. Cancelling loses nothing only before
    /// entries have arrived, so do not race it against something that recurs.
    pub async fn next(&mut self) -> Result<Vec<LogEntry>, Unavailable> {
        let mut batch = Vec::with_capacity(256);
        loop {
            match self.reader.next(&mut batch, TAIL_BATCH_MAX).await? {
                Progress::Read => return Ok(batch),
                Progress::StreamMissing => return Err(Unavailable::new("the stream is gone")),
                Progress::Restarted { .. } | Progress::SnapshotBegins { .. } => {}
            }
        }
    }

    /// The next sequence.
    pub fn position(&self) -> u64 {
        self.reader.position()
    }

    /// Whether nothing was behind the last entry when the server sent it.
    pub fn is_caught_up(&self) -> bool {
        self.reader.is_caught_up()
    }
}
