//! Persistent sessions: for each client a record, its progress, and pages of subscriptions if it has many, each under a key
//! of one bucket.
//!
//! **Invariant:** only the owner of a session writes it. Its record is replaced by compare-and-swap on the record's own
//! sequence, and its progress and its pages are taken only while the record has the sequence that the writer knows. Whoever
//! takes a session over writes the record, and the old owner's next write of any is refused: [`WriteError::Fenced`].
//!
//! ```text
//!   record ──time to live──▶ marker of the server ─┐
//!      │                                           ├─ what is beside it removed ─▶ cleaned marker ─minute─▶ nothing
//!      └────────end────────▶ deleted marker ───────┘
//! ```
//!
//! **Invariant:** what is written is small, however much a session has: a record holds as many subscriptions as are small
//! (see `account::paged`), and a page no more than that.
//!
//! Not here: who owns a session and when it ends, which is the account's.

mod follower;
mod pages;
mod record;
mod snapshot;
mod sweep;
mod texts;
mod version;
mod will;
mod wills;

use std::sync::Arc;

use bytes::Bytes;
use bytestring::ByteString;
use mqtt_ownership::{Epoch, Revision, Trace};
use proto_map::Names;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use tokio::time::Instant;

pub use self::follower::{FollowFrom, Following, Gone, SessionsScan, SessionsSink};
pub use self::pages::PAGES_MAX;
pub use self::record::{
    InFlightRecord, InFlightRecordState, LastWill, NEVER, PageRecord, ProgressRecord, ReceivedRecord, RetainedProgress,
    SequencesInLogs, SessionRecord, StoredBefore, StoredRetained, StoredSubscription,
};
pub use self::snapshot::SessionState;
pub(crate) use self::texts::instant;
use self::version::Versioned;
pub use self::version::{RECORD_VERSION, Rest};
pub use self::will::{StoredPublisher, StoredWill, WillNumber, WillState};
use super::api::{Api, STREAM_NOT_FOUND};
pub use super::bucket::Arrival;
use super::bucket::{Bucket, Content, Fence, Last, Value, WRITE_WITHIN, Write, new_write_id};
use super::error::{Unavailable, WriteError};
use super::head::Head;

/// How long the marker of a session that was ended stays when whoever ended it could not clean up, seconds: long enough
/// for another one to see it and to do so.
const DELETED_TTL_S: u32 = 3_600;
/// How long the marker of a session of which nothing is left stays, seconds. nats-server writes down which messages are
/// gone every two minutes or so; killed before that, it can bring back the record that was there before the marker.
const CLEANED_TTL_S: u32 = 300;
/// How long the marker of its progress stays, seconds: longer, so that a record that comes back is known for what it is.
const PROGRESS_GONE_TTL_S: u32 = 2 * CLEANED_TTL_S;

/// How long the marks of [`Sessions::is_last`] and [`Sessions::mark`] stay, seconds.
const TOUCHED_TTL_S: u32 = 60;

/// Sessions whose pages are read at the same time, with a consumer each; others wait.
const READERS_MAX: usize = 64;

/// The sessions of an account.
#[derive(Clone, Debug)]
pub struct Sessions {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    bucket: Bucket,
    names: Names,
    backlog: Head,
    /// For reading all of them: a burst that does not hold up writes.
    readers: Api,
    payload_max: usize,
    /// Who reads pages.
    reading: Semaphore,
}

/// What is known of a client at the leader.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Loaded {
    /// Its session, if there is one.
    pub record: Option<SessionRecord>,
    /// What the next write has to expect: the sequence of the record, of a marker in its place, or 0.
    pub sequence: u64,
    /// There is one, of this version, which is newer than ours: nobody here may write it.
    pub newer: Option<u32>,
}

/// Which pages a session that ends has beside its record and its progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beside {
    /// None.
    Nothing,
    /// Some, or nobody knows.
    Perhaps,
}

impl Beside {
    /// Of a session with so many pages.
    #[must_use]
    pub const fn pages(pages: u32) -> Self {
        if pages > 0 { Self::Perhaps } else { Self::Nothing }
    }
}

impl Sessions {
    pub(super) fn new(bucket: Bucket, readers: Api, names: Names, payload_max: usize) -> Self {
        let backlog = Head::new(bucket.api.clone(), Arc::from(names.backlog_stream()));
        let reading = Semaphore::new(READERS_MAX);
        Self { shared: Arc::new(Shared { bucket, names, backlog, readers, payload_max, reading }) }
    }

    /// The session of a client, from the leader.
    ///
    /// # Errors
    /// When JetStream does not answer within some seconds, or the client id makes a key that is too long.
    pub async fn load(&self, client_id: &str) -> Result<Loaded, Unavailable> {
        let Some(last) = self.shared.last_record(client_id).await? else { return Ok(Loaded::default()) };
        let (sequence, value) = (last.sequence, last.value());
        Ok(match value.map(|value| read(client_id, value)) {
            Some(Stored::Known(record)) => Loaded { record: Some(record), sequence, newer: None },
            Some(Stored::Newer(version)) => Loaded { record: None, sequence, newer: Some(version) },
            Some(Stored::Unreadable) | None => Loaded { record: None, sequence, newer: None },
        })
    }

    /// The progress of a client, from the leader.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub async fn load_progress(&self, client_id: &str) -> Result<Option<ProgressRecord>, Unavailable> {
        let subject = self.shared.names.session_progress(client_id).map_err(Unavailable::new)?;
        let last = self.shared.bucket.last(&subject).await?;
        match last.as_ref().and_then(Last::value).map(|value| read(client_id, value)) {
            Some(Stored::Known(progress)) => Ok(Some(progress)),
            Some(Stored::Newer(_)) => Err(Unavailable::new("its progress was written by a newer version")),
            Some(Stored::Unreadable) | None => Ok(None),
        }
    }

    /// Whether the record of a client, or what is in its place, has this sequence for certain. Reads may be answered by a leader
    /// that knows less than has been acknowledged; this is a write that is compared with the record, and leaves a mark that
    /// nobody reads.
    ///
    /// # Errors
    /// When JetStream does not answer within some seconds.
    pub async fn is_last(&self, client_id: &str, sequence: u64) -> Result<bool, Unavailable> {
        let Shared { names, bucket, .. } = &*self.shared;
        let record = names.session_record(client_id).map_err(Unavailable::new)?;
        let touched = names.session_touched(client_id).map_err(Unavailable::new)?;
        let (value, fence) = (Value::Cleaned, Fence::Of(&record, sequence));
        let write = Write { subject: &touched, value, fence, ttl_s: Some(TOUCHED_TTL_S) };
        match bucket.write(&write).await {
            Ok(_) => Ok(true),
            Err(WriteError::Fenced) => Ok(false),
            Err(error) => Err(Unavailable::new(error)),
        }
    }

    /// Writes a record if what is there has the sequence `expected`, with a lifetime of `ttl_s` seconds; [`NEVER`] is none.
    /// Returns the record's sequence. A lost acknowledgement is looked into; what was written is never taken for somebody
    /// else's.
    ///
    /// # Errors
    /// See [`WriteError`]. After `Fenced` the record has never been there. After `Unavailable` it may be written, even a while
    /// later, and may have been replaced: load it before going on.
    pub async fn put_record(
        &self,
        record: &SessionRecord,
        expected: u64,
        ttl_s: Option<u32>,
    ) -> Result<u64, WriteError> {
        let subject = self.shared.names.session_record(&record.client_id).map_err(|_| WriteError::TooLarge)?;
        let value = Value::Put(written(record)?);
        let fence = Fence::Own(expected);
        self.shared.bucket.write_or_never(&Write { subject: &subject, value, fence, ttl_s: lifetime(ttl_s) }).await
    }

    /// Writes the progress of a client if its record has the sequence `fence`. Writes of one client have to wait for each
    /// other. After [`Arrival::Again`] an attempt may arrive after a later write under the same fence and undo it: a new
    /// record, whose sequence is the next fence, shuts it out.
    ///
    /// # Errors
    /// See [`WriteError`]. After `Unavailable` an attempt may still be on its way and arrive after a later write of this
    /// owner; a new record, whose sequence is the next fence, shuts it out.
    pub async fn put_progress(
        &self,
        client_id: &str,
        progress: &ProgressRecord,
        fence: u64,
        ttl_s: Option<u32>,
    ) -> Result<Arrival, WriteError> {
        let Shared { names, bucket, .. } = &*self.shared;
        let subject = names.session_progress(client_id).map_err(|_| WriteError::TooLarge)?;
        let record = names.session_record(client_id).map_err(|_| WriteError::TooLarge)?;
        let value = Value::Put(written(progress)?);
        let fence = Fence::Of(&record, fence);
        let write = Write { subject: &subject, value, fence, ttl_s: lifetime(ttl_s) };
        let written = bucket.write_counted(&write, &new_write_id(), Instant::now() + WRITE_WITHIN).await;
        written.map(|(_, arrival)| arrival)
    }

    /// What stands under the key of a client's progress, with its sequence: by it a record is known that is not the last one
    /// that there was. nats-server brings such records back when it is killed at a bad moment.
    ///
    /// # Errors
    /// When JetStream does not answer.
    pub async fn trace(&self, client_id: &str) -> Result<Option<(Revision, Trace)>, Unavailable> {
        let subject = self.shared.names.session_progress(client_id).map_err(Unavailable::new)?;
        let last = self.shared.bucket.last(&subject).await?;
        Ok(last.and_then(|last| {
            let trace = match &last.content {
                Content::Deleted | Content::Cleaned => Trace::Over,
                Content::Value(value) => {
                    Trace::Progress(Epoch(parsed::<ProgressRecord>(client_id, value).map(|progress| progress.epoch)?))
                }
                Content::Expired => Trace::Expired,
            };
            Some((Revision(last.sequence), trace))
        }))
    }

    /// Ends a session whose record has the sequence `fence`, with everything that belongs to it. It is over when this
    /// returns `Ok`; if then something could not be removed, its marker says so to whoever follows.
    ///
    /// # Errors
    /// See [`WriteError`].
    pub async fn end(&self, client_id: &str, fence: u64, beside: Beside) -> Result<(), WriteError> {
        let Shared { names, bucket, .. } = &*self.shared;
        let subject = names.session_record(client_id).map_err(|_| WriteError::TooLarge)?;
        let (value, fence) = (Value::Deleted, Fence::Own(fence));
        let write = Write { subject: &subject, value, fence, ttl_s: Some(DELETED_TTL_S) };
        let marker = bucket.write(&write).await?;
        if let Err(error) = self.shared.remove_rest(client_id, &subject, marker, beside).await {
            tracing::warn!(client_id, %error, "a session was ended, but not all of it could be removed");
        }
        Ok(())
    }

    /// Removes what a session has left that is over. Does nothing while there is a session, so that anybody may call it at
    /// any time.
    ///
    /// # Errors
    /// When JetStream does not answer; then it is to be called again.
    pub async fn clean_up(&self, client_id: &str) -> Result<(), Unavailable> {
        let subject = self.shared.names.session_record(client_id).map_err(Unavailable::new)?;
        let sequence = match self.shared.bucket.last(&subject).await? {
            Some(Last { content: Content::Value(_) | Content::Cleaned, .. }) => return Ok(()),
            Some(last) => last.sequence,
            None => 0,
        };
        self.shared.remove_rest(client_id, &subject, sequence, Beside::Perhaps).await
    }

    /// Leaves a mark behind all that is written by now, by whomever: [`Following::has_read`] tells when that was given.
    /// Returns its sequence.
    ///
    /// # Errors
    /// When JetStream does not answer within some seconds.
    pub async fn mark(&self) -> Result<u64, Unavailable> {
        let Shared { names, bucket, .. } = &*self.shared;
        let subject = names.sessions_mark();
        let write = Write { subject: &subject, value: Value::Cleaned, fence: Fence::None, ttl_s: Some(TOUCHED_TTL_S) };
        bucket.write(&write).await.map_err(Unavailable::new)
    }
}

impl Shared {
    async fn last_record(&self, client_id: &str) -> Result<Option<Last>, Unavailable> {
        let subject = self.names.session_record(client_id).map_err(Unavailable::new)?;
        self.bucket.last(&subject).await
    }

    /// Removes progress, pages and backlog, as long as `marker` is the last message of the record's key.
    async fn remove_rest(
        &self,
        client_id: &str,
        record: &ByteString,
        marker: u64,
        beside: Beside,
    ) -> Result<(), Unavailable> {
        let progress = self.names.session_progress(client_id).map_err(Unavailable::new)?;
        // What is in the backlog now belongs to the session that is over, if no other one has begun; the next write tells.
        let backlog_end = self.backlog_end().await?;
        let fence = Fence::Of(record, marker);
        let write = Write { subject: &progress, value: Value::Deleted, fence, ttl_s: Some(PROGRESS_GONE_TTL_S) };
        let over = match self.bucket.write(&write).await {
            Ok(sequence) => sequence,
            // A new session has begun, or somebody else has cleaned up already.
            Err(WriteError::Fenced) => return Ok(()),
            Err(error) => return Err(Unavailable::new(error)),
        };
        if beside == Beside::Perhaps {
            // Pages below that marker are of sessions that are over: none is written before its record. A will is.
            let pages = self.names.client_pages(client_id).map_err(Unavailable::new)?;
            self.bucket.api.purge(&self.bucket.stream, &pages, Some(over)).await?;
        }
        if backlog_end > 0 {
            self.purge_backlog(client_id, backlog_end).await?;
        }
        if marker > 0 {
            let fence = Fence::Own(marker);
            let write = Write { subject: record, value: Value::Cleaned, fence, ttl_s: Some(CLEANED_TTL_S) };
            match self.bucket.write(&write).await {
                Ok(_) | Err(WriteError::Fenced) => {}
                Err(error) => return Err(Unavailable::new(error)),
            }
        }
        Ok(())
    }

    /// The last sequence of the backlogs; 0 when there is nothing in them.
    async fn backlog_end(&self) -> Result<u64, Unavailable> {
        match self.backlog.try_read().await {
            Ok(state) if state.messages == 0 => Ok(0),
            Ok(state) => Ok(state.last_seq),
            Err(failure) if failure.code() == STREAM_NOT_FOUND => Ok(0),
            Err(failure) => Err(failure.into()),
        }
    }

    async fn purge_backlog(&self, client_id: &str, through: u64) -> Result<(), Unavailable> {
        let subject = self.names.backlog_subject(client_id).map_err(Unavailable::new)?;
        let stream = self.names.backlog_stream();
        // A purge costs more than a look, and most sessions have no backlog.
        if self.bucket.api.last_message(&stream, &subject).await?.is_some() {
            self.bucket.api.purge(&stream, &subject, Some(through)).await?;
        }
        Ok(())
    }
}

/// A value as it is stored.
fn written<T: Serialize>(value: &T) -> Result<Bytes, WriteError> {
    let json = serde_json::to_vec(value).map_err(|error| WriteError::Unavailable { reason: error.to_string() })?;
    Ok(json.into())
}

/// A value as it was stored.
enum Stored<T> {
    Known(T),
    /// A newer version wrote it, this one, and it is left as it is.
    Newer(u32),
    /// As good as none: the next write replaces it.
    Unreadable,
}

fn read<T: DeserializeOwned + Versioned>(client_id: &str, json: &[u8]) -> Stored<T> {
    #[derive(Deserialize)]
    struct Head {
        version: u32,
    }
    match serde_json::from_slice::<T>(json) {
        Ok(value) if value.version() > RECORD_VERSION => Stored::Newer(value.version()),
        Ok(value) => Stored::Known(value),
        // A newer version may have given a field another type.
        Err(error) => match serde_json::from_slice::<Head>(json) {
            Ok(Head { version }) if version > RECORD_VERSION => Stored::Newer(version),
            _ => {
                tracing::error!(client_id, %error, "what is stored of the session cannot be read and is ignored");
                Stored::Unreadable
            }
        },
    }
}

/// A value that is known here.
fn parsed<T: DeserializeOwned + Versioned>(client_id: &str, json: &[u8]) -> Option<T> {
    match read(client_id, json) {
        Stored::Known(value) => Some(value),
        Stored::Newer(version) => {
            tracing::debug!(client_id, version, "what a newer version has stored is left alone");
            None
        }
        Stored::Unreadable => None,
    }
}

fn lifetime(ttl_s: Option<u32>) -> Option<u32> {
    ttl_s.filter(|ttl_s| *ttl_s != NEVER)
}
