//! All sessions with their subscriptions and their progress, read once: for whoever has to know what each of them is owed.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use proto_map::SessionSubject;

use super::{PageRecord, ProgressRecord, SessionRecord, Sessions, Shared, Stored, parsed, read};
use crate::store::bucket::Content;
use crate::store::entry::LogEntry;
use crate::store::error::Unavailable;
use crate::store::reader::{Pace, Progress, Reader, Source};

const BATCH_MAX: usize = 512;

/// A session and how far it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionState {
    /// Its record, with all its subscriptions, those beside it as well; without anything in it when it
    /// [is too new](SessionRecord::is_too_new).
    pub record: SessionRecord,
    /// Its progress, when it has saved any; perhaps that of the session before it, see [`SessionRecord::first_epoch`].
    pub progress: Option<ProgressRecord>,
}

/// What was read.
#[derive(Default)]
struct States {
    records: HashMap<String, SessionRecord>,
    progress: HashMap<String, ProgressRecord>,
    /// By client, by the first epoch of the session and the number of the page.
    pages: HashMap<String, BTreeMap<(u64, u32), PageRecord>>,
}

impl Sessions {
    /// Every session with its progress, by client id, as they were at some moment after the call or later.
    ///
    /// # Errors
    /// When JetStream does not answer.
    pub async fn states(&self) -> Result<HashMap<String, SessionState>, Unavailable> {
        let mut reader = self.shared.everything();
        let mut batch = Vec::with_capacity(BATCH_MAX);
        let mut states = States::default();
        loop {
            match reader.next(&mut batch, BATCH_MAX).await? {
                Progress::StreamMissing => return Err(Unavailable::new("the stream is gone")),
                Progress::SnapshotBegins { .. } => states = States::default(),
                Progress::Restarted { .. } | Progress::Read => {}
            }
            for entry in batch.drain(..) {
                self.shared.keep(entry, &mut states);
            }
            if reader.is_caught_up() {
                return Ok(states.joined());
            }
        }
    }
}

impl States {
    /// Each session with what is its own of what is beside its record.
    fn joined(self) -> HashMap<String, SessionState> {
        let Self { records, mut progress, mut pages } = self;
        let joined = |(client_id, mut record): (String, SessionRecord)| {
            let pages = pages.remove(&client_id).unwrap_or_default();
            let is_own = |first_epoch, number| first_epoch == record.first_epoch && number <= record.pages;
            let own = pages.into_iter().filter(|((first_epoch, number), _)| is_own(*first_epoch, *number));
            record.subscriptions.extend(own.flat_map(|(_, page)| page.subscriptions));
            let progress = progress.remove(&client_id);
            (client_id, SessionState { record, progress })
        };
        records.into_iter().map(joined).collect()
    }
}

impl Shared {
    /// The last message of every key.
    fn everything(&self) -> Reader {
        let subjects = self.names.sessions_subjects();
        let source = Source {
            stream: Arc::clone(&self.bucket.stream),
            prefix: Arc::from(subjects.trim_end_matches('>')),
            purpose: "states",
            last_per_subject: true,
            pace: Pace { batch: 2_048, bytes: (4 << 20).max(self.payload_max + (64 << 10)), overlap: true },
        };
        Reader::new(self.readers.clone(), self.readers.link.clone(), source, 1)
    }

    fn keep(&self, entry: LogEntry, states: &mut States) {
        let subject = self.names.strip_session(entry.stream_subject());
        let content = Content::of(&entry.headers.unwrap_or_default(), entry.payload);
        let States { records, progress, pages } = states;
        // A key can come twice when it is written while it is read.
        match (subject, content) {
            (Some(SessionSubject::Record { client_id }), Content::Value(value)) => {
                match read(&client_id, &value) {
                    Stored::Known(record) => records.insert(client_id, record),
                    // That it is there is all that is known of it.
                    Stored::Newer(version) => {
                        let record =
                            SessionRecord { version, client_id: client_id.clone(), ..SessionRecord::default() };
                        records.insert(client_id, record)
                    }
                    Stored::Unreadable => None,
                };
            }
            (Some(SessionSubject::Progress { client_id }), Content::Value(value)) => {
                if let Some(record) = parsed(&client_id, &value) {
                    progress.insert(client_id, record);
                }
            }
            (Some(SessionSubject::Subscriptions { client_id, first_epoch, page }), Content::Value(value)) => {
                if let Some(record) = parsed(&client_id, &value) {
                    pages.entry(client_id).or_default().insert((first_epoch, page), record);
                }
            }
            (Some(SessionSubject::Record { client_id }), _) => {
                records.remove(&client_id);
            }
            (Some(SessionSubject::Progress { client_id }), _) => {
                progress.remove(&client_id);
            }
            (Some(SessionSubject::Subscriptions { client_id, first_epoch, page }), _) => {
                pages.get_mut(&client_id).and_then(|pages| pages.remove(&(first_epoch, page)));
            }
            (Some(SessionSubject::Will { .. } | SessionSubject::Received { .. }) | None, _) => {}
        }
    }
}
