//! What NATS clients put into the bucket of retained messages and delete there, `nats kv put` for instance: read behind a
//! position that is kept in the bucket of sessions. What was published over MQTT says so in a header and is passed over.
//!
//! Who reads it, and what becomes of it, is the account's.

use proto_map::{Names, Subject, name, subject_of_unescaped_key};
use serde::{Deserialize, Serialize};

use super::bucket::{Bucket, Fence, Value, Write};
use super::entry::LogEntry;
use super::error::{Unavailable, WriteError};
use super::headers;
use super::log::{Log, Scan};
use super::retained::{RetainedMessage, retained};

/// What NATS clients do to the retained messages of an account.
#[derive(Clone, Debug)]
pub struct KvUpdates {
    sessions: Bucket,
    retained: Log,
    names: Names,
}

/// One put, or one deletion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KvUpdate {
    /// Its sequence in the bucket.
    pub sequence: u64,
    /// The subject that its key stands for.
    pub subject: Subject,
    /// The key is that subject as it stands, and not the one that it has in the bucket: nobody reads it there.
    pub is_unescaped: bool,
    /// The message; `None` when there is none any more.
    pub message: Option<RetainedMessage>,
    /// When it was stored, milliseconds since the epoch.
    pub stored_at_ms: u64,
}

/// Up to where the bucket was read, as it is stored.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Position {
    position: u64,
}

impl KvUpdates {
    pub(super) const fn new(sessions: Bucket, retained: Log, names: Names) -> Self {
        Self { sessions, retained, names }
    }

    /// Sees to it that there is a position: at the very first start, the end of the bucket. What is put from now on is
    /// above it.
    ///
    /// # Errors
    /// When JetStream does not answer.
    pub async fn begin(&self) -> Result<(), Unavailable> {
        if self.position().await?.is_some() {
            return Ok(());
        }
        let last = self.retained.last_sequence().await?;
        match self.save(last, 0).await {
            // Somebody else has begun.
            Ok(_) | Err(WriteError::Fenced) => Ok(()),
            Err(error) => Err(Unavailable::new(error)),
        }
    }

    /// Up to where the bucket was read, and what the next [`Self::save`] has to expect; `None` before [`Self::begin`].
    ///
    /// # Errors
    /// When JetStream does not answer.
    pub async fn position(&self) -> Result<Option<(u64, u64)>, Unavailable> {
        let last = self.sessions.last(&self.names.puts_position()).await?;
        Ok(last.and_then(|last| {
            let stored: Position = serde_json::from_slice(last.value()?).ok()?;
            Some((stored.position, last.sequence))
        }))
    }

    /// Saves up to where the bucket was read, unless somebody else has done so since `expected`. Returns what the next
    /// one has to expect.
    ///
    /// # Errors
    /// See [`WriteError`].
    pub async fn save(&self, position: u64, expected: u64) -> Result<u64, WriteError> {
        let json = serde_json::to_vec(&Position { position })
            .map_err(|error| WriteError::Unavailable { reason: error.to_string() })?;
        let subject = self.names.puts_position();
        let write =
            Write { subject: &subject, value: Value::Put(json.into()), fence: Fence::Own(expected), ttl_s: None };
        self.sessions.write(&write).await
    }

    /// Reads from a sequence of the bucket on.
    pub fn read(&self, from: u64) -> ForeignReader {
        ForeignReader { scan: self.retained.scan(from), names: self.names.clone() }
    }
}

/// The bucket being read.
pub struct ForeignReader {
    scan: Scan,
    names: Names,
}

impl ForeignReader {
    /// The next ones, ascending; perhaps none. Waits for more at the end of the bucket, and comes back now and then.
    ///
    /// # Errors
    /// When JetStream does not answer; the next call tries again.
    pub async fn next(&mut self) -> Result<Vec<KvUpdate>, Unavailable> {
        let entries = self.scan.next().await?;
        Ok(entries.into_iter().filter_map(|entry| kv_updates(&self.names, entry)).collect())
    }

    /// Everything below this sequence was read.
    pub fn position(&self) -> u64 {
        self.scan.position()
    }
}

/// What an entry of the bucket is, when a NATS client wrote it. What the server writes when a message expires is no
/// deletion: nobody is told of it over MQTT either.
fn kv_updates(names: &Names, entry: LogEntry) -> Option<KvUpdate> {
    let has = |name| entry.headers.as_ref().is_some_and(|headers| headers::first(headers, name).is_some());
    if has(name::ORIGIN) || has("Nats-Marker-Reason") {
        return None;
    }
    let (sequence, stored_at_ms) = (entry.sequence, entry.stored_at_ms);
    let key = entry.stream_subject();
    let unescaped = || {
        let root = names.retained_subjects();
        subject_of_unescaped_key(key.strip_prefix(root.trim_end_matches('>'))?)
    };
    let (subject, is_unescaped) = match names.strip_retained(key) {
        Some(subject) => (subject, false),
        None => (unescaped()?, true),
    };
    Some(KvUpdate { sequence, subject, is_unescaped, message: retained(entry), stored_at_ms })
}
