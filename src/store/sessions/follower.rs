//! Reading the records of all sessions, and the subscriptions beside them: once, or for as long as somebody follows them.
//!
//! Progress is under keys of its own, which the server leaves out: it changes often, and nobody but the owner reads it.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use proto_map::SessionSubject;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::{PageRecord, SessionRecord, Sessions, Shared, parsed};
use crate::store::bucket::Content;
use crate::store::entry::LogEntry;
use crate::store::error::Unavailable;
use crate::store::reader::{Pace, Progress, Reader, Source};

const BATCH_MAX: usize = 512;
const MISSING_PAUSE: Duration = Duration::from_millis(500);

/// Where following begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FollowFrom {
    /// With what is there, markers included, and then whatever comes.
    Everything,
    /// With what is written from some moment after the call on.
    Now,
}

/// Why a session is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gone {
    /// It has expired, or somebody deleted it by hand: somebody has to clean up, any number may.
    Expired,
    /// A sidecar has ended it and is cleaning up. A marker that still says so when it is seen before
    /// [`SessionsSink::caught_up`] is one whose sidecar may have died over it: clean up then.
    Deleted,
    /// Nothing is left of it.
    Cleaned,
}

/// Is told what becomes of sessions. Called synchronously from the follower's task, must not block. In ascending order of
/// sequence for each client; the same may come again.
pub trait SessionsSink: Send + Sync {
    /// A record was written.
    fn record(&self, sequence: u64, record: SessionRecord);

    /// Subscriptions beside the record were written: a page of them, of the session that began in this epoch. They are its own
    /// as long as [`SessionRecord::first_epoch`] says so. A snapshot may have them before the record.
    fn page(&self, sequence: u64, client_id: &str, first_epoch: u64, number: u32, page: PageRecord);

    /// The record is gone, and what is beside it of no use; the marker in its place has this sequence. Said as well, before
    /// [`Self::caught_up`], of what was beside a record of which there is nothing any more.
    fn gone(&self, client_id: &str, sequence: u64, why: Gone);

    /// What was there when following began has been given.
    fn caught_up(&self);
}

impl Sessions {
    /// Every session with the sequence of its record, as they are at some moment after the call or later.
    #[must_use]
    pub fn scan(&self) -> SessionsScan {
        SessionsScan::new(Arc::clone(&self.shared))
    }

    /// Follows the records, until what this returns is dropped.
    pub fn follow(&self, from: FollowFrom, sink: Arc<dyn SessionsSink>) -> Following {
        Following::start(Arc::clone(&self.shared), from, sink)
    }
}

/// Something that is being followed. It ends when this is dropped.
#[derive(Debug)]
pub struct Following {
    task: JoinHandle<()>,
    /// The highest sequence whose record was given, as all before it were.
    read: watch::Receiver<u64>,
}

impl Following {
    pub(super) fn start(shared: Arc<Shared>, from: FollowFrom, sink: Arc<dyn SessionsSink>) -> Self {
        let (tx, read) = watch::channel(0);
        let tasks = shared.bucket.api.link.tasks.clone();
        Self { task: tasks.spawn(run(shared, from, sink, tx)), read }
    }

    /// Waits until everything up to a sequence was given, that of [`super::Sessions::mark`].
    pub async fn has_read(&self, sequence: u64) {
        // While this is not dropped the task goes on.
        let _ = self.read.clone().wait_for(|read| *read >= sequence).await;
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What an entry of the bucket says.
enum Event {
    Record(SessionRecord),
    Page(String, u64, u32, PageRecord),
    Gone(String, Gone),
}

impl Shared {
    /// Of the records.
    fn reader(&self, last_per_subject: bool, position: u64) -> Reader {
        let subjects = self.names.sessions_subjects();
        let root = subjects.trim_end_matches('>');
        let source = Source {
            stream: Arc::clone(&self.bucket.stream),
            prefix: Arc::from(root),
            purpose: "sessions",
            last_per_subject,
            pace: Pace { batch: 2_048, bytes: (4 << 20).max(self.payload_max + (64 << 10)), overlap: true },
        };
        let link = self.readers.link.clone();
        Reader::new(self.readers.clone(), link, source, position).only(self.names.session_records())
    }

    /// Of the records, and the subscriptions beside them.
    fn follower(&self, last_per_subject: bool, position: u64) -> Reader {
        self.reader(last_per_subject, position).only(self.names.all_session_pages())
    }

    fn event(&self, entry: LogEntry) -> Option<Event> {
        let subject = self.names.strip_session(entry.stream_subject());
        let content = Content::of(&entry.headers.unwrap_or_default(), entry.payload);
        let client_id = match subject? {
            SessionSubject::Record { client_id } => client_id,
            SessionSubject::Subscriptions { client_id, first_epoch, page } => {
                let subscriptions = match content {
                    Content::Value(value) => parsed(&client_id, &value)?,
                    Content::Expired | Content::Deleted | Content::Cleaned => PageRecord::default(),
                };
                return Some(Event::Page(client_id, first_epoch, page, subscriptions));
            }
            _ => return None,
        };
        Some(match content {
            Content::Value(value) => Event::Record(parsed(&client_id, &value)?),
            Content::Expired => Event::Gone(client_id, Gone::Expired),
            Content::Deleted => Event::Gone(client_id, Gone::Deleted),
            Content::Cleaned => Event::Gone(client_id, Gone::Cleaned),
        })
    }

    /// Gives the last message of every key that is followed, until nothing is behind. Returns the sequence from which on the rest
    /// follows.
    async fn snapshot(&self, mut give: impl FnMut(u64, Event)) -> Result<u64, Unavailable> {
        let mut reader = self.follower(true, 1);
        let mut batch = Vec::with_capacity(BATCH_MAX);
        let mut rest = 1;
        loop {
            match reader.next(&mut batch, BATCH_MAX).await? {
                Progress::StreamMissing => return Err(Unavailable::new("the stream is gone")),
                Progress::SnapshotBegins { last_sequence } => rest = last_sequence + 1,
                Progress::Restarted { .. } | Progress::Read => {}
            }
            for entry in batch.drain(..) {
                let sequence = entry.sequence;
                if let Some(event) = self.event(entry) {
                    give(sequence, event);
                }
            }
            if reader.is_caught_up() {
                return Ok(rest);
            }
        }
    }
}

/// Reads every record once, a batch at a time, so that no more of them are in memory than whoever reads them has in hand.
pub struct SessionsScan {
    shared: Arc<Shared>,
    reader: Reader,
    batch: Vec<LogEntry>,
    is_over: bool,
}

impl SessionsScan {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let reader = shared.reader(true, 1);
        Self { shared, reader, batch: Vec::with_capacity(BATCH_MAX), is_over: false }
    }

    /// The next records with their sequences, perhaps none; `None` when all were given. A record that is written meanwhile can
    /// come again, with another sequence, and so can any when the connection is lost.
    ///
    /// # Errors
    /// When JetStream does not answer. The next call goes on.
    pub async fn next(&mut self) -> Result<Option<Vec<(u64, SessionRecord)>>, Unavailable> {
        if self.is_over {
            return Ok(None);
        }
        if self.reader.next(&mut self.batch, BATCH_MAX).await? == Progress::StreamMissing {
            return Err(Unavailable::new("the stream is gone"));
        }
        self.is_over = self.reader.is_caught_up();
        let shared = &self.shared;
        let record = |entry: LogEntry| {
            let sequence = entry.sequence;
            match shared.event(entry)? {
                Event::Record(record) => Some((sequence, record)),
                Event::Page(..) | Event::Gone(..) => None,
            }
        };
        Ok(Some(self.batch.drain(..).filter_map(record).collect()))
    }
}

/// Clients that have pages and no record, in what is given of a snapshot.
#[derive(Default)]
struct Orphans {
    /// By [`proto_map::client_token`].
    records: HashSet<u64>,
    paged: HashSet<String>,
}

impl Orphans {
    fn note(&mut self, event: &Event) {
        match event {
            Event::Record(record) => _ = self.records.insert(proto_map::client_token(&record.client_id)),
            Event::Page(client_id, ..) if self.paged.contains(client_id) => {}
            Event::Page(client_id, ..) => _ = self.paged.insert(client_id.clone()),
            Event::Gone(client_id, _) => _ = self.records.remove(&proto_map::client_token(client_id)),
        }
    }

    fn ids(self) -> impl Iterator<Item = String> {
        let Self { records, paged } = self;
        paged.into_iter().filter(move |client_id| !records.contains(&proto_map::client_token(client_id)))
    }
}

pub(super) async fn run(shared: Arc<Shared>, from: FollowFrom, sink: Arc<dyn SessionsSink>, read: watch::Sender<u64>) {
    let give = |sequence, event| match event {
        Event::Record(record) => sink.record(sequence, record),
        Event::Page(client_id, first_epoch, number, page) => sink.page(sequence, &client_id, first_epoch, number, page),
        Event::Gone(client_id, why) => sink.gone(&client_id, sequence, why),
    };
    let position = loop {
        let begin = match from {
            FollowFrom::Everything => {
                let mut orphans = Orphans::default();
                let snapshot = shared.snapshot(|sequence, event| {
                    orphans.note(&event);
                    give(sequence, event);
                });
                let snapshot = snapshot.await;
                if let Ok(rest) = &snapshot {
                    orphans.ids().for_each(|client_id| sink.gone(&client_id, rest - 1, Gone::Expired));
                }
                snapshot
            }
            FollowFrom::Now => {
                let state = shared.readers.stream_state(&shared.bucket.stream).await;
                state.map(|state| state.last_seq + 1).map_err(Unavailable::from)
            }
        };
        match begin {
            Ok(position) => break position,
            Err(_) => tokio::time::sleep(MISSING_PAUSE).await,
        }
    };
    sink.caught_up();
    read.send_replace(position - 1);
    let mut reader = shared.follower(false, position);
    let mut batch = Vec::with_capacity(BATCH_MAX);
    loop {
        match reader.next(&mut batch, BATCH_MAX).await {
            Ok(Progress::StreamMissing) => {
                shared.bucket.make_again().await;
                tokio::time::sleep(MISSING_PAUSE).await;
            }
            Ok(Progress::Restarted { next }) => {
                tracing::error!(stream = %shared.bucket.stream, next, "the bucket of sessions was recreated or cut");
                read.send_replace(next - 1);
            }
            Ok(Progress::Read | Progress::SnapshotBegins { .. }) => {}
            // The reader has paused already.
            Err(_) => continue,
        }
        let last = batch.last().map(|entry| entry.sequence);
        for entry in batch.drain(..) {
            let sequence = entry.sequence;
            if let Some(event) = shared.event(entry) {
                give(sequence, event);
            }
        }
        if let Some(last) = last {
            read.send_replace(last);
        }
    }
}
