//! A bucket whose keys are written by compare-and-swap: requests beside each other over one connection, bounded, and what
//! is ambiguous resolved by reading back at the leader. What is in the values is not here.
//!
//! Every write carries an id of its own in a header. A write whose acknowledgement was lost is simply sent again: if it had
//! arrived, the second one is refused for its sequence, and the id of what stands there tells that it is ours.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use bytestring::ByteString;
use proto_map::{Headers, StreamSpec};
use tokio::sync::{Mutex, Semaphore};
use tokio::time::Instant;

use super::ack::{ApiError, parse_pub_ack};
use super::api::{Api, ApiFailure, STREAM_NOT_FOUND, StoredMessageBody};
use super::assets::Assets;
use super::error::{Unavailable, WriteError};
use super::headers::{self, WRITE_ID};
use super::horizon::Horizon;
use super::rooms::Room;
use crate::nats::Outbound;

/// Requests of one bucket that are under way; whoever comes then waits.
pub(crate) const REQUESTS_MAX: usize = 1_024;
/// How long a write is tried, and how long a read is.
pub(crate) const WRITE_WITHIN: Duration = Duration::from_secs(10);
const READ_WITHIN: Duration = Duration::from_secs(5);
/// How long each attempt may take. What was sent to a leader that is gone is never answered, and the next one is not told.
const ATTEMPT_WITHIN: Duration = Duration::from_millis(1_500);
const PAUSE_MIN: Duration = Duration::from_millis(4);
const PAUSE_MAX: Duration = Duration::from_millis(500);
/// What headers and the protocol add to a payload, generously.
const OVERHEAD: usize = 16_384;

/// On a marker: nothing is left of what the key stood for.
const CLEANED: &str = "Mqtt-Cleaned";

/// JetStream error: another last sequence than the one that was expected.
const WRONG_LAST_SEQUENCE: u32 = 10071;
/// JetStream error: larger than the stream takes.
const MESSAGE_TOO_LARGE: u32 = 10054;
/// JetStream errors that are over in a moment: no leader yet, another write of the subject is being agreed on, too many
/// requests.
const PASSING: [u32; 5] = [10008, 10009, 10163, 10164, 10167];

/// What a write waits for.
#[derive(Clone, Debug)]
pub(crate) enum Fence<'a> {
    /// The last message of the key itself has this sequence; 0: there is none.
    Own(u64),
    /// The last message of another key has this sequence.
    Of(&'a ByteString, u64),
    /// Nothing.
    None,
}

/// What is put under a key.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    /// A value.
    Put(Bytes),
    /// A marker that there is none any more.
    Deleted,
    /// A marker that nothing is left of what the key stood for.
    Cleaned,
}

/// One write.
#[derive(Clone, Debug)]
pub(crate) struct Write<'a> {
    pub(crate) subject: &'a ByteString,
    pub(crate) value: Value,
    pub(crate) fence: Fence<'a>,
    /// Lifetime, seconds.
    pub(crate) ttl_s: Option<u32>,
}

/// The last message of a key, at the leader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Last {
    pub(crate) sequence: u64,
    /// When the server stored it, milliseconds since 1970.
    pub(crate) stored_at_ms: u64,
    pub(crate) content: Content,
    /// The write that put it there.
    pub(crate) write_id: Option<String>,
}

/// What a message of the bucket means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// A value.
    Value(Bytes),
    /// The value has reached its end of life, or somebody deleted it by hand.
    Expired,
    /// A sidecar deleted it.
    Deleted,
    /// Nothing is left of what it stood for.
    Cleaned,
}

/// How often a write may arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// Once: it has.
    Once,
    /// Again: an attempt before the one that was acknowledged had no answer and may be on its way still.
    Again,
}

/// How one attempt to write ended.
enum Attempt {
    Stored(u64),
    WrongSequence,
    /// It was refused for a reason that passes, or was not sent.
    Again(String),
    /// There is no answer: it may have been stored, or may be yet.
    Unanswered(String),
    /// Refused for a reason that stays.
    Refused(WriteError),
}

/// Why a write was refused for its sequence.
enum Refusal {
    /// It is there, at this sequence.
    IsOurs(u64),
    /// Somebody else has written since.
    Fenced,
    /// Nobody has: who refused it, or who was asked then, knows less than we do.
    Behind,
}

/// One bucket of ours.
#[derive(Clone, Debug)]
pub(crate) struct Bucket {
    pub(crate) api: Api,
    pub(crate) stream: Arc<str>,
    horizon: Arc<Horizon>,
    room: Arc<Room>,
    requests: Arc<Semaphore>,
    assets: Assets,
    spec: Arc<StreamSpec>,
    remaking: Arc<Mutex<()>>,
}

impl Bucket {
    pub(crate) fn new(api: Api, assets: Assets, spec: StreamSpec) -> Self {
        Self {
            horizon: api.horizons.of(&spec.name),
            room: api.rooms.of(&spec.name),
            api,
            stream: Arc::from(spec.name.as_str()),
            requests: Arc::new(Semaphore::new(REQUESTS_MAX)),
            assets,
            spec: Arc::new(spec),
            remaking: Arc::default(),
        }
    }

    /// The last message of a key, from the leader.
    pub(crate) async fn last(&self, subject: &ByteString) -> Result<Option<Last>, Unavailable> {
        let deadline = Instant::now() + READ_WITHIN;
        let mut pause = Pause::new();
        loop {
            let read = async {
                let _permit = self.requests.acquire().await;
                let answer = self.api.unless_lost(self.api.last_message(&self.stream, subject));
                tokio::time::timeout(ATTEMPT_WITHIN, answer).await
            };
            let failure = match tokio::time::timeout_at(deadline, read).await {
                Ok(Ok(Ok(stored))) => {
                    if let Some(stored) = &stored {
                        self.horizon.note(stored.seq);
                    }
                    return stored.map(Last::of_stored).transpose();
                }
                Ok(Ok(Err(failure))) => failure,
                Ok(Err(_)) | Err(_) => ApiFailure::TimedOut,
            };
            if failure.code() == STREAM_NOT_FOUND {
                self.make_again_if_gone();
            }
            if Instant::now() >= deadline {
                return Err(failure.into());
            }
            self.wait(&mut pause, deadline).await;
        }
    }

    /// Writes; tries again while that can help. Returns the sequence of the write.
    pub(crate) async fn write(&self, write: &Write<'_>) -> Result<u64, WriteError> {
        self.write_as(write, &new_write_id(), Instant::now() + WRITE_WITHIN).await
    }

    /// As [`Self::write`], with a name for the write, which no other write may have, until a deadline.
    pub(crate) async fn write_as(&self, write: &Write<'_>, id: &str, deadline: Instant) -> Result<u64, WriteError> {
        self.write_counted(write, id, deadline).await.map(|(sequence, _)| sequence)
    }

    /// As [`Self::write_as`], and says whether the write may arrive again: after a later one, when its fence lets it.
    pub(crate) async fn write_counted(
        &self,
        write: &Write<'_>,
        id: &str,
        deadline: Instant,
    ) -> Result<(u64, Arrival), WriteError> {
        let (written, arrival) = self.write_told(write, id, deadline).await;
        Ok((written?, arrival))
    }

    /// As [`Self::write`], for writers to whom it matters that what is fenced has never been there: what was refused after an
    /// attempt that nobody answered is unavailable, for that attempt may have been stored and replaced since.
    pub(crate) async fn write_or_never(&self, write: &Write<'_>) -> Result<u64, WriteError> {
        match self.write_told(write, &new_write_id(), Instant::now() + WRITE_WITHIN).await {
            (Err(WriteError::Fenced), Arrival::Again) => {
                Err(WriteError::Unavailable { reason: "refused after an attempt that was not answered".to_owned() })
            }
            (written, _) => written,
        }
    }

    /// Writes, and says whether an attempt was not answered before the one that was.
    async fn write_told(&self, write: &Write<'_>, id: &str, deadline: Instant) -> (Result<u64, WriteError>, Arrival) {
        let mut arrival = Arrival::Once;
        if let Value::Put(payload) = &write.value
            && payload.len() + OVERHEAD > self.api.link.client.max_payload()
        {
            return (Err(WriteError::TooLarge), arrival);
        }
        let headers = write.headers(id);
        let mut pause = Pause::new();
        loop {
            let reason = match self.attempt(write, &headers, deadline).await {
                Attempt::Stored(sequence) => return (Ok(sequence), arrival),
                Attempt::WrongSequence => match self.refusal(write, id).await {
                    Ok(Refusal::IsOurs(sequence)) => return (Ok(sequence), arrival),
                    Ok(Refusal::Fenced) => return (Err(WriteError::Fenced), arrival),
                    Ok(Refusal::Behind) => ApiFailure::Behind.to_string(),
                    Err(Unavailable { reason }) => reason,
                },
                Attempt::Refused(error) => return (Err(error), arrival),
                Attempt::Again(reason) => reason,
                Attempt::Unanswered(reason) => {
                    arrival = Arrival::Again;
                    reason
                }
            };
            if Instant::now() >= deadline {
                return (Err(WriteError::Unavailable { reason }), arrival);
            }
            self.wait(&mut pause, deadline).await;
        }
    }

    /// Why a write was refused for its sequence: that says only what the one knew who refused it.
    async fn refusal(&self, write: &Write<'_>, id: &str) -> Result<Refusal, Unavailable> {
        let (subject, expected, is_own) = match &write.fence {
            Fence::Own(sequence) => (write.subject, *sequence, true),
            Fence::Of(subject, sequence) => (*subject, *sequence, false),
            // What expects nothing is refused by somebody who knows nothing.
            Fence::None => return Ok(Refusal::Behind),
        };
        let last = self.last(subject).await?;
        // Perhaps it is ours that stands there, and its acknowledgement was lost.
        if let Some(last) = &last
            && is_own
            && last.write_id.as_deref() == Some(id)
        {
            return Ok(Refusal::IsOurs(last.sequence));
        }
        let sequence = last.map_or(0, |last| last.sequence);
        if sequence < expected {
            // What we know of is not there: the stream is another one, or who answers has not heard of it.
            return match self.api.stream_state(&self.stream).await {
                Ok(_) => Ok(Refusal::Fenced),
                Err(ApiFailure::Behind) => Ok(Refusal::Behind),
                Err(failure) => Err(failure.into()),
            };
        }
        Ok(if sequence == expected { Refusal::Behind } else { Refusal::Fenced })
    }

    async fn attempt(&self, write: &Write<'_>, headers: &Headers, deadline: Instant) -> Attempt {
        let Ok(Ok(_permit)) = tokio::time::timeout_at(deadline, self.requests.acquire()).await else {
            return Attempt::Again("too many requests are waiting".to_owned());
        };
        let within = deadline.saturating_duration_since(Instant::now()).min(ATTEMPT_WITHIN);
        let payload = write.payload();
        let request = Outbound { headers, ..Outbound::plain(write.subject, &payload) };
        let message = match self.api.request(request, within).await {
            Ok(message) => message,
            Err(failure) => {
                if matches!(failure, ApiFailure::NoResponders | ApiFailure::Unserved) {
                    self.make_again_if_gone();
                }
                // Nobody has it only when nobody had it when it was sent.
                let is_nowhere = matches!(failure, ApiFailure::NoResponders);
                return if is_nowhere { Attempt::Again } else { Attempt::Unanswered }(failure.to_string());
            }
        };
        match parse_pub_ack(message.payload()) {
            Some(ack) => match ack.error {
                None => {
                    self.horizon.note(ack.seq);
                    self.room.taken(|| payload.len());
                    Attempt::Stored(ack.seq)
                }
                Some(error) => {
                    self.api.link.errors.count(error.err_code);
                    self.room.refused(error.err_code, &error.description, payload.len());
                    refused(&error)
                }
            },
            None => Attempt::Unanswered("an answer of JetStream cannot be read".to_owned()),
        }
    }

    /// Pauses before the next attempt, until there is a connection.
    async fn wait(&self, pause: &mut Pause, deadline: Instant) {
        tokio::time::sleep_until(deadline.min(Instant::now() + pause.next())).await;
        let mut state = self.api.link.state.clone();
        let _ = tokio::time::timeout_at(deadline, state.wait_for(|state| state.connected)).await;
    }

    /// Somebody may have deleted the stream; then it is made again, by one of those who notice.
    fn make_again_if_gone(&self) {
        let Ok(guard) = Arc::clone(&self.remaking).try_lock_owned() else { return };
        let (bucket, guard) = (self.clone(), guard);
        self.api.link.tasks.spawn(async move {
            let _guard = guard;
            if let Err(failure) = bucket.api.stream_state(&bucket.stream).await
                && failure.code() == STREAM_NOT_FOUND
            {
                bucket.make_again().await;
            }
        });
    }

    /// Makes the stream again.
    pub(crate) async fn make_again(&self) {
        tracing::error!(stream = %self.stream, "the stream is gone");
        if let Err(error) = self.assets.ensure(&self.spec).await {
            tracing::error!(stream = %self.stream, %error, "cannot make it again");
        }
    }
}

/// A name that no other write has.
pub(crate) fn new_write_id() -> String {
    format!("{:016x}", rand::random::<u64>())
}

fn refused(error: &ApiError) -> Attempt {
    let reason = || format!("{} (error {})", error.description, error.err_code);
    match error.err_code {
        WRONG_LAST_SEQUENCE => Attempt::WrongSequence,
        MESSAGE_TOO_LARGE => Attempt::Refused(WriteError::TooLarge),
        code if PASSING.contains(&code) => Attempt::Again(reason()),
        _ => Attempt::Refused(WriteError::Unavailable { reason: reason() }),
    }
}

impl Write<'_> {
    fn payload(&self) -> Bytes {
        match &self.value {
            Value::Put(payload) => payload.clone(),
            Value::Deleted | Value::Cleaned => Bytes::new(),
        }
    }

    fn headers(&self, id: &str) -> Headers {
        let mut headers = Headers::new();
        headers::push(&mut headers, WRITE_ID, id);
        let sequence = match self.fence {
            Fence::Own(sequence) => Some(sequence),
            Fence::Of(subject, sequence) => {
                headers::push(&mut headers, "Nats-Expected-Last-Subject-Sequence-Subject", subject);
                Some(sequence)
            }
            Fence::None => None,
        };
        if let Some(sequence) = sequence {
            headers::push(&mut headers, "Nats-Expected-Last-Subject-Sequence", &sequence.to_string());
        }
        if !matches!(self.value, Value::Put(_)) {
            // A purge and not a delete: the server would put a marker of its own in the place of a delete that expires.
            headers::push(&mut headers, "KV-Operation", "PURGE");
            headers::push(&mut headers, "Nats-Rollup", "sub");
        }
        if matches!(self.value, Value::Cleaned) {
            headers::push(&mut headers, CLEANED, "1");
        }
        if let Some(ttl_s) = self.ttl_s {
            headers::push(&mut headers, "Nats-TTL", &ttl_s.max(1).to_string());
        }
        headers
    }
}

impl Last {
    pub(crate) fn of_stored(stored: StoredMessageBody) -> Result<Self, Unavailable> {
        let headers = stored.headers()?;
        Ok(Self {
            sequence: stored.seq,
            stored_at_ms: super::time::rfc3339_ms(&stored.time).unwrap_or_default(),
            content: Content::of(&headers, stored.payload()?),
            write_id: headers::first(&headers, WRITE_ID).map(str::to_owned),
        })
    }

    /// The value, if it is there.
    pub(crate) fn value(&self) -> Option<&Bytes> {
        match &self.content {
            Content::Value(value) => Some(value),
            Content::Expired | Content::Deleted | Content::Cleaned => None,
        }
    }
}

impl Content {
    /// What a message of a bucket means.
    pub(crate) fn of(headers: &proto_map::Headers, payload: Bytes) -> Self {
        let has = |name| headers::first(headers, name).is_some();
        match headers::first(headers, "KV-Operation") {
            _ if has("Nats-Marker-Reason") => Self::Expired,
            None | Some("PUT") => Self::Value(payload),
            Some(_) if has(CLEANED) => Self::Cleaned,
            Some(_) if has(WRITE_ID) => Self::Deleted,
            Some(_) => Self::Expired,
        }
    }
}

/// Growing pauses of random length.
pub(crate) struct Pause(Duration);

impl Pause {
    pub(crate) const fn new() -> Self {
        Self(PAUSE_MIN)
    }

    pub(crate) fn next(&mut self) -> Duration {
        let pause = self.0.mul_f64(0.5 + rand::random::<f64>());
        self.0 = (self.0 * 2).min(PAUSE_MAX);
        pause
    }
}
