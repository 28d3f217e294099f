//! The pipelined JetStream publisher: many messages under way, one subscription for all acknowledgements.
//!
//! `submit` writes straight into the connection's queue; there is no task in between. Order of `submit` = order on the wire =
//! order in the stream, for each subject, over reconnects and changes of leaders; see [`lane`] and [`worker`]. A message whose
//! acknowledgement was lost is looked for before it is sent again: every message has an id of its own in a header. It may be
//! stored twice only when a server that is cut off from us passes it on after it was looked for; a message is never reported as
//! stored when it is not.
//!
//! Not here: which stream owns a subject, and what an MQTT client is told.

mod gate;
mod lane;
mod permits;
mod tokens;
mod worker;

use std::collections::VecDeque;
use std::hash::BuildHasher as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use bytestring::ByteString;
use foldhash::fast::RandomState;
use nats_wire::EncodeError;
use parking_lot::Mutex;
use proto_map::{Headers, Names};
use serde_json::json;
use tokio::sync::{Notify, oneshot, watch};

use self::gate::Gate;
use self::lane::{Ask, AskToken, Entry, Lane, Step, Token};
pub use self::permits::Permit;
use self::permits::Permits;
use self::tokens::{Digits, Tokens, decimal, hexadecimal};
use super::api_errors::ApiErrors;
use super::error::PutError;
use super::headers;
use super::horizon::{Horizon, Horizons};
use super::options::PublisherLimits;
use super::rooms::{Room, Rooms};
use crate::nats::{Client, Outbound, PublishError};
use crate::overload::PROCESS;

/// How long the marker of a deleted retained message stays, seconds: readers that are a little behind see it, and nats-server
/// has written down by then, which it does every two minutes or so, that what was deleted is gone. A server that is killed
/// again and again before it has done so can bring back what was there before a marker that is not there any more.
const DELETE_MARKER_TTL_S: u32 = 3_600;

/// Lanes of the two streams that are ours; attached streams get the next ones.
const LANE_LOG: usize = 0;
const LANE_RETAINED: usize = 1;

/// Where a message goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PutTarget {
    /// Into our log; the subject is that of the stream, see `Names::log_subject`.
    Log(ByteString),
    /// Into the bucket of retained messages.
    Retained {
        /// Subject of the key, see `Names::retained_subject`.
        subject: ByteString,
        /// Delete the key; the payload is ignored, and headers are few.
        delete: bool,
    },
    /// Into a stream of somebody else, which has the subject.
    Attached {
        /// Name of the stream; an acknowledgement of another one does not count.
        stream: ByteString,
        /// The subject.
        subject: ByteString,
    },
}

/// A message to be stored.
pub struct Put {
    /// Where it goes.
    pub target: PutTarget,
    /// Headers, without the ones that are added for the fields below.
    pub headers: Headers,
    /// Payload.
    pub payload: Bytes,
    /// Lifetime in the stream, seconds (`Nats-TTL`).
    pub ttl_s: Option<u32>,
    /// Store only if the last message of the subject has this sequence (`Nats-Expected-Last-Subject-Sequence`).
    pub expected_last: Option<u64>,
    /// Asked before it is sent, also for the first time; without one it is wanted until it is stored or has failed.
    pub guard: Option<Arc<dyn PutGuard>>,
    /// Who is told.
    pub sink: Arc<dyn StoredSink>,
    /// What the sink calls it.
    pub token: u64,
}

/// Says whether a message that is not acknowledged is wanted still: who published it may have ended, and may have
/// published something newer elsewhere.
///
/// **Invariant:** a message that is not wanted is not sent, nor sent again. What was sent before may be stored all the same.
pub trait PutGuard: Send + Sync {
    /// Whether the message is to be sent. Called under the publisher's lock: must not block, and call nothing of it.
    fn is_wanted(&self) -> bool;
}

/// A message is in the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its sequence in the stream.
    pub sequence: u64,
    /// The stream had it already, by its `Nats-Msg-Id`.
    pub duplicate: bool,
}

/// Is told what became of messages. Called from the publisher's task, never from within `submit`; must not block.
pub trait StoredSink: Send + Sync {
    /// One message is stored or has failed.
    fn stored(&self, token: u64, result: Result<Stored, PutError>);
    /// A batch of `stored` calls is over: time to wake whoever waits.
    fn flush(&self);
}

/// Puts messages into streams.
#[derive(Clone)]
pub struct Publisher {
    shared: Arc<Shared>,
    // The worker ends when the last publisher is dropped.
    _alive: Arc<oneshot::Sender<()>>,
}

struct Pending {
    subject: ByteString,
    headers: Headers,
    payload: Bytes,
    guard: Option<Arc<dyn PutGuard>>,
    sink: Arc<dyn StoredSink>,
    token: u64,
    _permit: Permit,
}

/// What a sink is told after the lock is released.
struct Completion {
    sink: Arc<dyn StoredSink>,
    token: u64,
    result: Result<Stored, PutError>,
}

impl Pending {
    /// Bytes of it, about.
    fn bytes(&self) -> usize {
        let headers = self.headers.iter().map(|(name, value)| name.len() + value.len());
        self.subject.len() + self.payload.len() + headers.sum::<usize>()
    }

    /// What its sink is to be told; the permit goes.
    fn completed(self, result: Result<Stored, PutError>) -> Completion {
        Completion { sink: self.sink, token: self.token, result }
    }
}

struct Shared {
    limits: PublisherLimits,
    errors: ApiErrors,
    permits: Arc<Permits>,
    /// Where acknowledgements come, and answers to questions; see [`reply_of`].
    tokens: Tokens,
    state: Mutex<State>,
    /// Something happened in `submit` that the worker must see.
    attention: Notify,
    available: watch::Sender<bool>,
    /// Of subjects, which devices choose.
    hasher: RandomState,
    horizons: Horizons,
    rooms: Rooms,
    gate: Gate,
}

struct State {
    /// `None` while there is no connection.
    client: Option<Client>,
    lanes: Vec<StreamLane>,
    completions: VecDeque<Completion>,
    /// Where the last one is answered: its memory is that of the next.
    reply: Vec<u8>,
    /// The worker looks for silence: from the first message until a look finds nothing under way.
    ///
    /// **Invariant:** while a lane has something it does.
    is_watched: bool,
}

struct StreamLane {
    stream: Arc<str>,
    /// What is written is known to be there.
    horizon: Arc<Horizon>,
    room: Arc<Room>,
    lane: Lane<Pending>,
    /// The highest sequence that was acknowledged.
    highest: u64,
}

impl Publisher {
    /// Waits until one more message of `bytes` (payload and headers) may be under way.
    pub async fn permit(&self, bytes: usize) -> Permit {
        self.shared.permits.acquire(bytes).await
    }

    /// A permit if there is one now.
    pub fn try_permit(&self, bytes: usize) -> Option<Permit> {
        self.shared.permits.try_acquire(bytes)
    }

    /// Messages that are neither acknowledged nor failed.
    pub fn in_flight(&self) -> usize {
        self.shared.permits.in_flight()
    }

    /// How long the oldest message waits that is neither acknowledged nor has failed, whichever stream it is for.
    pub fn oldest_unanswered(&self) -> Option<Duration> {
        let state = self.shared.state.lock();
        state.lanes.iter().filter_map(|lane| lane.lane.oldest()).min().map(|oldest| oldest.elapsed())
    }

    /// Who waits for a permit now, and how often somebody has.
    pub fn waits(&self) -> (usize, u64) {
        self.shared.permits.waits()
    }

    /// Whether it has a connection.
    pub fn is_connected(&self) -> bool {
        self.shared.state.lock().client.is_some()
    }

    /// Waits until every message so far is acknowledged or has failed, before a shutdown for instance.
    pub async fn drain(&self) {
        self.shared.permits.idle().await;
    }

    /// Says how many messages of a subject a stream of somebody else keeps; `None`: all of them.
    pub fn stream_keeps(&self, stream: &str, messages: Option<u64>) {
        let mut state = self.shared.state.lock();
        let lane = state.lane_of(stream, &self.shared.horizons, &self.shared.rooms);
        state.lanes[lane].lane.keeps(messages);
    }

    /// Whether the last message that was sent found its stream.
    pub fn available(&self) -> watch::Receiver<bool> {
        self.shared.available.subscribe()
    }

    /// Sends until then, and nothing behind it until this is called again; `None`: without end, as at first. What waits meanwhile
    /// is sent later or fails as it does without a connection.
    pub fn send_until(&self, until: Option<Instant>) {
        self.shared.gate.set(until);
        self.shared.attention.notify_one();
    }

    /// Hands over a message. Never blocks and never calls the sink from within.
    pub fn submit(&self, permit: Permit, put: Put) {
        self.shared.submit(permit, put);
    }

    /// Stores one message and waits for it.
    ///
    /// # Errors
    /// See [`PutError`].
    pub async fn put(
        &self,
        target: PutTarget,
        headers: Headers,
        payload: Bytes,
        ttl_s: Option<u32>,
    ) -> Result<Stored, PutError> {
        let permit = self.permit(payload.len()).await;
        let outcome = self.begin(permit, target, headers, payload, ttl_s);
        outcome.await.unwrap_or(Err(PutError::Unavailable))
    }

    /// Begins to store one message; what comes of it is received.
    pub fn begin(
        &self,
        permit: Permit,
        target: PutTarget,
        headers: Headers,
        payload: Bytes,
        ttl_s: Option<u32>,
    ) -> oneshot::Receiver<Result<Stored, PutError>> {
        let (tx, rx) = oneshot::channel();
        let sink = Arc::new(OneSink(Mutex::new(Some(tx))));
        self.submit(permit, Put { target, headers, payload, ttl_s, expected_last: None, guard: None, sink, token: 0 });
        rx
    }
}

/// A sink for one message that somebody waits for.
struct OneSink(Mutex<Option<oneshot::Sender<Result<Stored, PutError>>>>);

impl StoredSink for OneSink {
    fn stored(&self, _token: u64, result: Result<Stored, PutError>) {
        if let Some(tx) = self.0.lock().take() {
            let _ = tx.send(result);
        }
    }

    fn flush(&self) {}
}

impl StreamLane {
    fn new(stream: &str, horizons: &Horizons, rooms: &Rooms, is_replicated: bool) -> Self {
        let (horizon, room) = (horizons.of(stream), rooms.of(stream));
        Self { stream: Arc::from(stream), horizon, room, lane: Lane::new(is_replicated), highest: 0 }
    }
}

impl Shared {
    /// `inbox`: first tokens of the subjects on which is answered.
    fn new(
        inbox: String,
        names: &Names,
        limits: PublisherLimits,
        errors: ApiErrors,
        (horizons, rooms): (Horizons, Rooms),
        is_replicated: bool,
    ) -> Arc<Self> {
        let lane = |stream: String| StreamLane::new(&stream, &horizons, &rooms, is_replicated);
        let mut lanes = vec![lane(names.log_stream()), lane(names.retained_stream())];
        lanes[LANE_RETAINED].lane.keeps(Some(1));
        let (completions, reply) = (VecDeque::new(), Vec::new());
        Arc::new(Self {
            permits: Permits::new(limits.in_flight_max, PROCESS.at_most(limits.in_flight_bytes_max)),
            tokens: Tokens::new(inbox),
            limits,
            errors,
            state: Mutex::new(State { client: None, lanes, completions, reply, is_watched: false }),
            attention: Notify::new(),
            available: watch::channel(false).0,
            hasher: RandomState::default(),
            horizons,
            rooms,
            gate: Gate::new(),
        })
    }

    fn submit(&self, permit: Permit, put: Put) {
        let Put { target, mut headers, mut payload, ttl_s, expected_last, guard, sink, token } = put;
        let (stream, subject) = match target {
            PutTarget::Log(subject) => (Err(LANE_LOG), subject),
            PutTarget::Retained { subject, delete } => {
                if delete {
                    payload = Bytes::new();
                    headers.extend(delete_headers());
                }
                (Err(LANE_RETAINED), subject)
            }
            PutTarget::Attached { stream, subject } => (Ok(stream), subject),
        };
        if let Some(ttl_s) = ttl_s {
            headers.push((ByteString::from_static("Nats-TTL"), ttl_s.to_string().into()));
        }
        // What tells a message that is stored from one that is lost.
        let id = rand::random::<u64>();
        let key = self.hasher.hash_one(subject.as_bytes());
        let pending = Pending { subject, headers, payload, guard, sink, token, _permit: permit };
        let entry = Entry { item: pending, subject: key, id, expected_last };
        let now = Instant::now();
        let mut state = self.state.lock();
        let lane = match stream {
            Err(lane) => lane,
            Ok(stream) => state.lane_of(&stream, &self.horizons, &self.rooms),
        };
        state.lanes[lane].lane.push(entry, now);
        let begins = !std::mem::replace(&mut state.is_watched, true);
        if self.pump(&mut state, lane, now) || begins {
            drop(state);
            self.attention.notify_one();
        }
    }

    /// Sends what the lane wants sent. Returns whether the worker has something to do about it.
    fn pump(&self, state: &mut State, number: usize, now: Instant) -> bool {
        let State { client, lanes, completions, reply, .. } = state;
        let Some(connection) = client.as_ref().filter(|_| self.gate.is_open(now)) else { return false };
        let Some(StreamLane { lane, stream, .. }) = lanes.get_mut(number) else { return false };
        let mut attention = false;
        let is_wanted = |pending: &Pending| pending.guard.as_ref().is_none_or(|guard| guard.is_wanted());
        while let Some(step) = lane.next(now, is_wanted) {
            match step {
                Step::Send { token, item, id, expected_last } => {
                    write_reply(reply, &self.tokens, number, Reply::Copy(token));
                    match hand_over(connection, item, id, expected_last, reply) {
                        Ok(true) => {}
                        Ok(false) => {
                            lane.unsend(token, now);
                            return true;
                        }
                        Err(error) => {
                            attention = true;
                            let failed = lane.failed(token, now);
                            completions.extend(failed.map(|pending| pending.completed(Err(error))));
                        }
                    }
                }
                Step::Look { token, item, ask } => {
                    write_reply(reply, &self.tokens, number, Reply::Ask(token));
                    if !put_question(connection, stream, &item.subject, ask, reply) {
                        lane.unask(token, now);
                        return true;
                    }
                }
                Step::Withdrawn(pending) => {
                    attention = true;
                    completions.push_back(pending.completed(Err(PutError::Withdrawn)));
                }
            }
        }
        attention
    }
}

/// What a message on our inbox is the answer to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reply {
    Copy(Token),
    Ask(AskToken),
}

/// What it is, and a token: `<inbox>.<lane>-<number>-<attempt>-<token>`, and for a question
/// `<inbox>.<lane>-ask-<subject>-<attempt>-<token>`.
fn write_reply(out: &mut Vec<u8>, tokens: &Tokens, lane: usize, reply: Reply) {
    let (ask, name, attempt) = match reply {
        Reply::Copy(Token { number, attempt }) => (&b""[..], number, attempt),
        Reply::Ask(AskToken { subject, attempt }) => (&b"ask-"[..], subject, attempt),
    };
    tokens.write_subject(out, |out| {
        out.extend_from_slice(decimal(lane as u64).as_bytes());
        out.push(b'-');
        out.extend_from_slice(ask);
        out.extend_from_slice(decimal(name).as_bytes());
        out.push(b'-');
        out.extend_from_slice(decimal(u64::from(attempt)).as_bytes());
    });
}

/// Reads what it is.
fn parse_reply(rest: &str) -> Option<(usize, Reply)> {
    let (lane, rest) = rest.split_once('-')?;
    let parts = |text: &str| {
        let (name, attempt) = text.split_once('-')?;
        Some((name.parse::<u64>().ok()?, attempt.parse::<u32>().ok()?))
    };
    let reply = match rest.strip_prefix("ask-") {
        Some(rest) => parts(rest).map(|(subject, attempt)| Reply::Ask(AskToken { subject, attempt }))?,
        None => parts(rest).map(|(number, attempt)| Reply::Copy(Token { number, attempt }))?,
    };
    Some((lane.parse().ok()?, reply))
}

/// Asks a stream's leader about messages of a subject; `false` when that was not handed over.
fn put_question(connection: &Client, stream: &str, subject: &str, ask: Ask, reply: &[u8]) -> bool {
    let body = match ask {
        Ask::Last => json!({ "last_by_subj": subject }),
        Ask::From(sequence) => json!({ "seq": sequence, "next_by_subj": subject }),
    };
    let (subject, body) = (question_subject(stream), Bytes::from(body.to_string()));
    let message = Outbound { reply: Some(reply), ..Outbound::plain(&subject, &body) };
    connection.try_publish(&message).is_ok()
}

fn question_subject(stream: &str) -> String {
    format!("$JS.API.STREAM.MSG.GET.{stream}")
}

/// Hands a message to the connection; `false` when it has ended or has no room. There is room for everything that may be under
/// way, unless the connection is behind with repetitions.
fn hand_over(
    connection: &Client,
    pending: &Pending,
    id: u64,
    expected_last: Option<u64>,
    reply: &[u8],
) -> Result<bool, PutError> {
    let (id, sequence) = (hexadecimal(id), expected_last.map(decimal));
    // Before anything that a device sends under these names.
    let first = [
        (headers::WRITE_ID, id.as_str()),
        ("Nats-Expected-Last-Subject-Sequence", sequence.as_ref().map_or("", Digits::as_str)),
    ];
    let Pending { subject, headers, payload, .. } = pending;
    let first = &first[..1 + usize::from(sequence.is_some())];
    match connection.try_publish(&Outbound { subject: subject.as_bytes(), reply: Some(reply), first, headers, payload })
    {
        Ok(()) => Ok(true),
        // When it has ended the worker is about to see that and to make a new one.
        Err(PublishError::Full | PublishError::Disconnected) => Ok(false),
        Err(PublishError::TooLarge) => Err(PutError::TooLarge),
        Err(PublishError::Invalid(EncodeError::HeaderName)) => Err(PutError::Invalid { what: "header name" }),
        Err(PublishError::Invalid(EncodeError::HeaderValue)) => Err(PutError::Invalid { what: "header value" }),
        Err(PublishError::Invalid(EncodeError::Subject | EncodeError::ControlLineTooLong)) => {
            Err(PutError::Invalid { what: "subject" })
        }
    }
}

impl State {
    fn lane_of(&mut self, stream: &str, horizons: &Horizons, rooms: &Rooms) -> usize {
        match self.lanes.iter().position(|lane| &*lane.stream == stream) {
            Some(lane) => lane,
            None => {
                // Nobody has said how many replicas it has.
                self.lanes.push(StreamLane::new(stream, horizons, rooms, true));
                self.lanes.len() - 1
            }
        }
    }
}

/// What `nats kv purge` writes, with a lifetime, so that nothing stays of a topic that is gone.
fn delete_headers() -> Headers {
    vec![
        (ByteString::from_static("KV-Operation"), ByteString::from_static("PURGE")),
        (ByteString::from_static("Nats-Rollup"), ByteString::from_static("sub")),
        (ByteString::from_static("Nats-TTL"), DELETE_MARKER_TTL_S.to_string().into()),
    ]
}
