//! Copies of messages for sessions that are away for longer than the log reaches back: one subject a client, with the
//! log sequence and the natural subject of each message in its headers.
//!
//! **Invariant:** the copies of a client are written in the order of the log, so what is there up to a log sequence is
//! everything that the client is owed up to it, less what the limits of the stream have taken away. One that comes out of
//! order is a repetition.
//!
//! How far the log is copied stands in the bucket of sessions, where it is gone when they are. Who copies what is the
//! account's.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytestring::ByteString;
use mqtt_session::Sequence;
use proto_map::{Headers, Names, StreamSpec, name};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

use super::api::Api;
use super::assets::Assets;
use super::bucket::{Bucket, Fence, Value, Write};
use super::entry::LogEntry;
use super::error::{Unavailable, WriteError};
use super::publisher::PutTarget;
use super::reader::{Pace, Progress, Reader, Source};
use super::time::rfc3339_ms;

/// Copies that are read at once for one session, and while the ends of all backlogs are read.
const PAGE: usize = 64;
const ENDS: usize = 512;
/// Sessions that read their backlog at the same time; others wait.
const READERS_MAX: usize = 64;
/// Pause before a replica that is behind is asked again.
const BEHIND_PAUSE: Duration = Duration::from_millis(50);

/// Backlogs of all sessions of an account.
#[derive(Clone, Debug)]
pub struct Backlog {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    bucket: Bucket,
    readers: Api,
    names: Names,
    stream: Arc<str>,
    prefix: Arc<str>,
    payload_max: usize,
    assets: Assets,
    spec: StreamSpec,
    reading: Arc<Semaphore>,
}

/// Up to where the log is copied.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BacklogPosition {
    /// When the log was created: positions in another one mean nothing.
    pub log: String,
    /// Every session has its copies up to this sequence of the log.
    pub position: u64,
    /// In which term of the writer this was written; for people.
    pub term: u64,
    /// Copies up to this sequence of the stream of backlogs are of a log that was there before.
    #[serde(skip_serializing_if = "is_zero")]
    pub copies_after: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants it so")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// What the log holds, and what it can hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogInfo {
    /// When it was created.
    pub created: String,
    /// First sequence.
    pub first: u64,
    /// Last sequence.
    pub last: u64,
    /// Messages.
    pub messages: u64,
    /// Bytes.
    pub bytes: u64,
    /// Bytes above which the oldest go.
    pub max_bytes: Option<u64>,
    /// Messages above which the oldest go.
    pub max_messages: Option<u64>,
    /// Age at which they go, milliseconds.
    pub max_age_ms: Option<u64>,
}

/// The end of one client's backlog.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BacklogEnd {
    /// Sequence of the last copy in the stream of backlogs.
    pub stream_sequence: u64,
    /// Sequence in the log of what it is a copy of.
    pub log_sequence: Sequence,
}

/// How many copies each client has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lengths {
    /// How many one may have.
    pub limit: u64,
    /// By client id.
    pub clients: HashMap<String, u64>,
}

#[derive(Deserialize)]
struct RawLengths {
    config: RawLimit,
    state: RawSubjects,
    /// Subjects that there are, on this page or another one.
    #[serde(default)]
    total: usize,
}

#[derive(Deserialize)]
struct RawLimit {
    #[serde(default)]
    max_msgs_per_subject: i64,
    #[serde(default)]
    discard: String,
}

#[derive(Deserialize)]
struct RawSubjects {
    #[serde(default)]
    subjects: HashMap<String, u64>,
}

impl Lengths {
    /// How many messages of a client gave way to newer ones, when it had so many `before` and got `stored` more since.
    #[must_use]
    pub fn gave_way(&self, client_id: &str, before: u64, stored: u64) -> u64 {
        let now = self.clients.get(client_id).copied().unwrap_or_default();
        // Who has less than the limit has read some of it meanwhile.
        if now >= self.limit { (before + stored).saturating_sub(now) } else { 0 }
    }
}

impl Backlog {
    pub(super) fn new(
        bucket: Bucket,
        readers: Api,
        names: Names,
        payload_max: usize,
        assets: Assets,
        spec: StreamSpec,
    ) -> Self {
        let stream = Arc::from(names.backlog_stream());
        let prefix = Arc::from(names.backlog_subjects().trim_end_matches('*'));
        let reading = Arc::new(Semaphore::new(READERS_MAX));
        Self { shared: Arc::new(Shared { bucket, readers, names, stream, prefix, payload_max, assets, spec, reading }) }
    }

    /// State and limits of the log, from its leader.
    ///
    /// # Errors
    /// When JetStream does not answer.
    pub async fn log_info(&self) -> Result<LogInfo, Unavailable> {
        let (api, stream) = (&self.shared.readers, self.shared.names.log_stream());
        let highest = api.horizons.of(&stream).highest();
        let info: RawInfo = api.call(&format!("STREAM.INFO.{stream}"), "").await?;
        api.believe(&stream, &info.created, info.state.last_seq, highest)?;
        let limit = |value: i64| u64::try_from(value).ok().filter(|value| *value > 0);
        Ok(LogInfo {
            created: info.created,
            first: info.state.first_seq,
            last: info.state.last_seq,
            messages: info.state.messages,
            bytes: info.state.bytes,
            max_bytes: limit(info.config.max_bytes),
            max_messages: limit(info.config.max_msgs),
            max_age_ms: limit(info.config.max_age).map(|ns| ns / 1_000_000),
        })
    }

    /// The first message of the log at or after a sequence, as its sequence and when it was stored in milliseconds since
    /// the epoch.
    ///
    /// # Errors
    /// When JetStream does not answer.
    pub async fn log_time(&self, sequence: Sequence) -> Result<Option<(Sequence, u64)>, Unavailable> {
        let Shared { readers, names, .. } = &*self.shared;
        let stored = readers.message_from(&names.log_stream(), sequence.0).await?;
        Ok(stored.and_then(|stored| Some((Sequence(stored.seq), rfc3339_ms(&stored.time)?))))
    }

    /// Up to where the log is copied, and what the next [`Self::save_position`] has to expect.
    ///
    /// # Errors
    /// When JetStream does not answer.
    pub async fn position(&self) -> Result<(BacklogPosition, u64), Unavailable> {
        let Shared { bucket, names, .. } = &*self.shared;
        let Some(last) = bucket.last(&names.backlog_position()).await? else { return Ok(Default::default()) };
        let position = last.value().and_then(|value| serde_json::from_slice(value).ok()).unwrap_or_default();
        Ok((position, last.sequence))
    }

    /// Saves up to where the log is copied, unless somebody else has done so since `expected`. Returns what the next one
    /// has to expect.
    ///
    /// # Errors
    /// See [`WriteError`].
    pub async fn save_position(&self, position: &BacklogPosition, expected: u64) -> Result<u64, WriteError> {
        let Shared { bucket, names, .. } = &*self.shared;
        let json = serde_json::to_vec(position).map_err(|e| WriteError::Unavailable { reason: e.to_string() })?;
        let subject = names.backlog_position();
        let write =
            Write { subject: &subject, value: Value::Put(json.into()), fence: Fence::Own(expected), ttl_s: None };
        bucket.write(&write).await
    }

    /// Where and with which headers a message of the log is copied for a client. `None` when its id makes no subject.
    pub fn copy_of(&self, entry: &LogEntry, client_id: &str) -> Option<(PutTarget, Headers)> {
        let subject = self.shared.names.backlog_subject(client_id).ok()?;
        let stream = ByteString::from(&*self.shared.stream);
        // What the server is told by a header holds for the log: the time to live and the message id of the original. So does
        // when it expires; a copy lives as long as it may still be sent. And what says where a copy comes from is said here
        // only.
        let says = |name: &str, ours: &str| name.eq_ignore_ascii_case(ours);
        let is_kept = |header: &str| {
            let is_of_nats = header.get(..5).is_some_and(|prefix| prefix.eq_ignore_ascii_case("Nats-"));
            !is_of_nats && ![name::EXPIRY, name::LOG_SEQUENCE, name::SUBJECT].iter().any(|ours| says(header, ours))
        };
        let kept = entry.headers.iter().flatten().filter(|(name, _)| is_kept(name)).cloned();
        let own = [
            (ByteString::from_static(name::LOG_SEQUENCE), entry.sequence.to_string().into()),
            (ByteString::from_static(name::SUBJECT), entry.subject().into()),
        ];
        Some((PutTarget::Attached { stream, subject }, own.into_iter().chain(kept).collect()))
    }

    /// How long each backlog is, when the oldest messages are what goes when one has as many as it may have; `None` when they
    /// are not, or when there is no such limit.
    ///
    /// # Errors
    /// When JetStream does not answer.
    pub async fn lengths(&self) -> Result<Option<Lengths>, Unavailable> {
        let Shared { readers, names, stream, .. } = &*self.shared;
        let mut lengths = Lengths::default();
        let mut seen = 0;
        loop {
            let request = serde_json::json!({ "subjects_filter": names.backlog_subjects(), "offset": seen });
            let info: RawLengths = readers.call(&format!("STREAM.INFO.{stream}"), request.to_string()).await?;
            let limit = u64::try_from(info.config.max_msgs_per_subject).ok().filter(|limit| *limit > 0);
            let Some(limit) = limit.filter(|_| info.config.discard == "old") else { return Ok(None) };
            lengths.limit = limit;
            let page = info.state.subjects.len();
            seen += page;
            let of_client = |(subject, length): (String, u64)| Some((names.strip_backlog(&subject)?, length));
            lengths.clients.extend(info.state.subjects.into_iter().filter_map(of_client));
            if page == 0 || seen >= info.total {
                return Ok(Some(lengths));
            }
        }
    }

    /// The ends of all backlogs that are not empty, by client id.
    ///
    /// # Errors
    /// When JetStream does not answer.
    pub async fn ends(&self) -> Result<HashMap<String, BacklogEnd>, Unavailable> {
        let Shared { readers, names, payload_max, .. } = &*self.shared;
        let pace = Pace { batch: 2_048, bytes: (4 << 20).max(payload_max + (64 << 10)), overlap: true };
        let source = self.source("ends", true, pace);
        let mut reader = Reader::new(readers.clone(), readers.link.clone(), source, 1).headers_only();
        let mut batch = Vec::with_capacity(ENDS);
        let mut ends = HashMap::new();
        loop {
            if reader.next(&mut batch, ENDS).await? == Progress::StreamMissing {
                self.make_again().await;
                return Err(Unavailable::new("the stream is gone"));
            }
            for entry in batch.drain(..) {
                let Some(client_id) = names.strip_backlog(entry.stream_subject()) else { continue };
                let stream_sequence = entry.sequence;
                let log_sequence = Sequence(LogEntry::of_copy(entry).map_or(0, |copy| copy.sequence));
                ends.insert(client_id, BacklogEnd { stream_sequence, log_sequence });
            }
            if reader.is_caught_up() {
                return Ok(ends);
            }
        }
    }

    /// The end of the backlog of a client, from the leader; `None` when it is empty.
    ///
    /// # Errors
    /// When JetStream does not answer.
    pub async fn end(&self, client_id: &str) -> Result<Option<BacklogEnd>, Unavailable> {
        let Shared { bucket, names, stream, prefix, .. } = &*self.shared;
        let subject = names.backlog_subject(client_id).map_err(Unavailable::new)?;
        let Some(stored) = bucket.api.last_message(stream, &subject).await? else { return Ok(None) };
        let stream_sequence = stored.seq;
        let copy = LogEntry::of_stored(stored, prefix).and_then(LogEntry::of_copy);
        Ok(Some(BacklogEnd { stream_sequence, log_sequence: Sequence(copy.map_or(0, |copy| copy.sequence)) }))
    }

    /// Removes the copies of a client up to and with a sequence of the stream of backlogs.
    ///
    /// # Errors
    /// When JetStream does not answer.
    pub async fn purge(&self, client_id: &str, through: u64) -> Result<(), Unavailable> {
        let Shared { bucket, names, stream, .. } = &*self.shared;
        let subject = names.backlog_subject(client_id).map_err(Unavailable::new)?;
        Ok(bucket.api.purge(stream, &subject, Some(through)).await?)
    }

    /// Reads the copies of a client whose log sequence is above `after`; `None` when it has no copies at all.
    ///
    /// # Errors
    /// When JetStream does not answer.
    pub async fn read(&self, client_id: &str, after: u64) -> Result<Option<BacklogReader>, Unavailable> {
        let Shared { readers, names, payload_max, .. } = &*self.shared;
        let Some(end) = self.end(client_id).await? else { return Ok(None) };
        let end = end.stream_sequence;
        let subject = names.backlog_subject(client_id).map_err(Unavailable::new)?;
        let pace = Pace { batch: PAGE, bytes: (256 << 10).max(payload_max + (64 << 10)), overlap: false };
        let source = self.source("backlog", false, pace);
        let reader = Reader::new(readers.clone(), readers.link.clone(), source, 1).only(subject.to_string());
        Ok(Some(BacklogReader { backlog: self.clone(), reader, subject, end, after, is_read: false }))
    }

    /// Makes the stream again when it is gone.
    pub async fn make_again(&self) {
        let Shared { assets, spec, stream, .. } = &*self.shared;
        if let Err(error) = assets.ensure(spec).await {
            tracing::error!(%stream, %error, "cannot make the stream again");
        }
    }

    fn source(&self, purpose: &'static str, last_per_subject: bool, pace: Pace) -> Source {
        let Shared { stream, prefix, .. } = &*self.shared;
        Source { stream: Arc::clone(stream), prefix: Arc::clone(prefix), purpose, last_per_subject, pace }
    }
}

/// The backlog of one client being read.
pub struct BacklogReader {
    backlog: Backlog,
    reader: Reader,
    subject: ByteString,
    /// Sequence of the last copy when reading began.
    end: u64,
    /// Log sequence of the last that was given.
    after: u64,
    /// Nothing is left, although the end was not met: it has expired, or was purged.
    is_read: bool,
}

impl BacklogReader {
    /// The next messages as the log had them, ascending by log sequence; empty when there are no more.
    ///
    /// # Errors
    /// When JetStream does not answer; the next call goes on.
    pub async fn page(&mut self) -> Result<Vec<LogEntry>, Unavailable> {
        let reading = Arc::clone(&self.backlog.shared.reading);
        let _permit = reading.acquire().await;
        let mut batch = Vec::new();
        loop {
            if self.reader.position() > self.end || self.is_read {
                return Ok(Vec::new());
            }
            let progress = self.reader.next(&mut batch, PAGE).await?;
            if progress == Progress::StreamMissing || (batch.is_empty() && self.is_at_end().await?) {
                self.is_read = true;
                return Ok(Vec::new());
            }
            let mut page = Vec::with_capacity(batch.len());
            for copy in batch.drain(..).filter_map(LogEntry::of_copy) {
                if copy.sequence > self.after {
                    self.after = copy.sequence;
                    page.push(copy);
                }
            }
            if !page.is_empty() {
                return Ok(page);
            }
        }
    }

    /// Nothing came. Perhaps a replica is behind, and only the leader knows; perhaps what was there has expired.
    async fn is_at_end(&mut self) -> Result<bool, Unavailable> {
        let Shared { bucket, stream, .. } = &*self.backlog.shared;
        if bucket.api.next_message(stream, self.reader.position(), &self.subject).await?.is_none() {
            return Ok(true);
        }
        tokio::time::sleep(BEHIND_PAUSE).await;
        self.reader.begin_again().await;
        Ok(false)
    }
}

impl std::fmt::Debug for BacklogReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BacklogReader").field("subject", &self.subject).field("after", &self.after).finish()
    }
}

#[derive(Deserialize)]
struct RawInfo {
    #[serde(default)]
    created: String,
    config: RawConfig,
    state: RawState,
}

#[derive(Deserialize)]
struct RawConfig {
    #[serde(default)]
    max_bytes: i64,
    #[serde(default)]
    max_msgs: i64,
    #[serde(default)]
    max_age: i64,
}

#[derive(Deserialize)]
struct RawState {
    #[serde(default)]
    first_seq: u64,
    #[serde(default)]
    last_seq: u64,
    #[serde(default)]
    messages: u64,
    #[serde(default)]
    bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_of_a_copy_are_read_back_as_the_message_of_the_log() {
        let stored = |subject: &str, headers: &[(&str, &str)]| {
            let lines: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
            let block = format!("NATS/1.0\r\n{lines}\r\n");
            use base64::Engine as _;
            let encode = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
            let stored = crate::store::api::StoredMessageBody {
                subject: subject.to_owned(),
                seq: 3,
                hdrs: Some(encode(&block)),
                data: Some(encode("payload")),
                time: "1970-01-01T00:00:01Z".to_owned(),
            };
            LogEntry::of_stored(stored, "$NMQ.backlog.")
        };
        let copy = stored("$NMQ.backlog.c", &[("Mqtt-Log-Sequence", "77"), ("Mqtt-Subject", "a.b"), ("Mqtt-QoS", "2")]);
        let entry = LogEntry::of_copy(copy.unwrap()).unwrap();
        assert_eq!((entry.sequence, entry.subject(), entry.stored_at_ms), (77, "a.b", 1000));
        assert_eq!(LogEntry::of_copy(stored("$NMQ.backlog.c", &[("Mqtt-Subject", "a.b")]).unwrap()), None);
    }
}
