//! All sessions with their progress, read once: for whoever has to know what each of them is owed.

use std::collections::HashMap;
use std::sync::Arc;

use proto_map::SessionSubject;

use super::{ProgressRecord, SessionRecord, Sessions, Shared, Stored, parsed, read};
use crate::store::bucket::Content;
use crate::store::entry::LogEntry;
use crate::store::error::Unavailable;
use crate::store::reader::{Pace, Progress, Reader, Source};

const BATCH_MAX: usize = 512;

/// A session and how far it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionState {
    /// Its record; without anything in it when it [is too new](SessionRecord::is_too_new).
    pub record: SessionRecord,
    /// Its progress, when it has saved any; perhaps that of the session before it, see [`SessionRecord::first_epoch`].
    pub progress: Option<ProgressRecord>,
}

impl Sessions {
    /// Every session with its progress, by client id, as they were at some moment after the call or later.
    ///
    /// # Errors
    /// When JetStream does not answer.
    pub async fn states(&self) -> Result<HashMap<String, SessionState>, Unavailable> {
        let mut reader = self.shared.everything();
        let mut batch = Vec::with_capacity(BATCH_MAX);
        let (mut records, mut progress) = (HashMap::new(), HashMap::new());
        loop {
            match reader.next(&mut batch, BATCH_MAX).await? {
                Progress::StreamMissing => return Err(Unavailable::new("the stream is gone")),
                Progress::SnapshotBegins { .. } => {
                    records.clear();
                    progress.clear();
                }
                Progress::Restarted { .. } | Progress::Read => {}
            }
            for entry in batch.drain(..) {
                self.shared.keep(entry, &mut records, &mut progress);
            }
            if reader.is_caught_up() {
                let with_progress = |(client_id, record): (String, SessionRecord)| {
                    let progress = progress.remove(&client_id);
                    (client_id, SessionState { record, progress })
                };
                return Ok(records.into_iter().map(with_progress).collect());
            }
        }
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

    fn keep(
        &self,
        entry: LogEntry,
        records: &mut HashMap<String, SessionRecord>,
        progress: &mut HashMap<String, ProgressRecord>,
    ) {
        let subject = self.names.strip_session(entry.stream_subject());
        let content = Content::of(&entry.headers.unwrap_or_default(), entry.payload);
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
            (Some(SessionSubject::Record { client_id }), _) => {
                records.remove(&client_id);
            }
            (Some(SessionSubject::Progress { client_id }), _) => {
                progress.remove(&client_id);
            }
            (
                Some(
                    SessionSubject::Subscriptions { .. }
                    | SessionSubject::Will { .. }
                    | SessionSubject::Received { .. },
                )
                | None,
                _,
            ) => {}
        }
    }
}
