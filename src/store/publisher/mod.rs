//! The pipelined JetStream publisher: many messages under way, one subscription for all acknowledgements.
//!
//! `submit` writes straight into the connection's queue; there is no task in between. Order of `submit` = order on the wire =
//! order in the stream, also over reconnects; see [`lane`] and [`worker`]. A message may be stored twice when its
//! acknowledgement was lost (QoS 1 allows it); a message is never reported as stored when it is not.
//!
//! Not here: which stream owns a subject, and what an MQTT client is told.

mod lane;
mod permits;
mod worker;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use async_nats::client::traits::Publisher as _;
use async_nats::message::OutboundMessage;
use async_nats::{Client, HeaderMap, PublishErrorKind, Subject};
use bytes::Bytes;
use bytestring::ByteString;
use futures_util::FutureExt;
use parking_lot::Mutex;
use proto_map::Headers;
use proto_map::Names;
use tokio::sync::{Notify, oneshot, watch};

use self::lane::Lane;
pub use self::permits::Permit;
use self::permits::Permits;
use super::api_errors::ApiErrors;
use super::connection::Connector;
use super::error::PutError;
use super::headers;
use super::options::PublisherLimits;

/// How long the marker of a deleted retained message stays, so that readers that are a little behind see it, seconds.
const DELETE_MARKER_TTL_S: u32 = 300;

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
    /// Asked before it is sent again; without one it is wanted until it is stored or has failed.
    pub guard: Option<Arc<dyn PutGuard>>,
    /// Who is told.
    pub sink: Arc<dyn StoredSink>,
    /// What the sink calls it.
    pub token: u64,
}

/// Says whether a message that is not acknowledged is wanted still: who published it may have ended, and may have
/// published something newer elsewhere.
///
/// **Invariant:** a message that is not wanted is not sent again. What was sent before may be stored all the same.
pub trait PutGuard: Send + Sync {
    /// Whether the message is to be sent again. Called under the publisher's lock: must not block, and call nothing of it.
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
    subject: Subject,
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

struct Shared {
    limits: PublisherLimits,
    errors: ApiErrors,
    permits: Arc<Permits>,
    /// Replies come to this subject, `.`, lane, `.`, number.
    inbox: String,
    state: Mutex<State>,
    /// Something happened in `submit` that the worker must see.
    attention: Notify,
    available: watch::Sender<bool>,
}

struct State {
    /// `None` while there is no connection.
    client: Option<Client>,
    lanes: Vec<StreamLane>,
    completions: VecDeque<Completion>,
}

struct StreamLane {
    stream: Arc<str>,
    lane: Lane<Pending>,
}

impl Publisher {
    /// Starts the publisher's task, which connects by itself.
    pub(super) fn start(connector: Connector, names: &Names, limits: PublisherLimits) -> Self {
        let lanes = vec![StreamLane::new(&names.log_stream()), StreamLane::new(&names.retained_stream())];
        let shared = Arc::new(Shared {
            permits: Permits::new(limits.in_flight_max, limits.in_flight_bytes_max),
            inbox: format!("{}.{:x}", connector.inbox_prefix(), rand::random::<u64>()),
            limits,
            errors: connector.errors.clone(),
            state: Mutex::new(State { client: None, lanes, completions: VecDeque::new() }),
            attention: Notify::new(),
            available: watch::channel(false).0,
        });
        let (alive, ended) = oneshot::channel();
        tokio::spawn(worker::run(Arc::clone(&shared), connector, ended));
        Self { shared, _alive: Arc::new(alive) }
    }

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

    /// Waits until every message so far is acknowledged or has failed, before a shutdown for instance.
    pub async fn drain(&self) {
        self.shared.permits.idle().await;
    }

    /// Whether the last message that was sent found its stream.
    pub fn available(&self) -> watch::Receiver<bool> {
        self.shared.available.subscribe()
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
    fn new(stream: &str) -> Self {
        Self { stream: Arc::from(stream), lane: Lane::new() }
    }
}

impl Shared {
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
        if let Some(sequence) = expected_last {
            headers.push((ByteString::from_static("Nats-Expected-Last-Subject-Sequence"), sequence.to_string().into()));
        }
        let map = match headers::outgoing(&headers) {
            Ok(map) => map,
            Err(error) => {
                self.state.lock().completions.push_back(Completion { sink, token, result: Err(error) });
                self.attention.notify_one();
                return;
            }
        };
        let subject = headers::subject(subject);
        let pending = Pending { subject, headers, payload, guard, sink, token, _permit: permit };
        let now = Instant::now();
        let mut state = self.state.lock();
        let lane = match stream {
            Err(lane) => lane,
            Ok(stream) => state.lane_of(&stream),
        };
        let number = state.lanes[lane].lane.push(pending, now);
        if self.pump(&mut state, lane, now, Some((number, map))) {
            drop(state);
            self.attention.notify_one();
        }
    }

    /// Sends what the lane wants sent. Returns whether the worker has something to do about it.
    ///
    /// `ready` are the headers of a message that has just been made, so that they are not made twice.
    fn pump(&self, state: &mut State, lane: usize, now: Instant, mut ready: Option<(u64, Option<HeaderMap>)>) -> bool {
        let State { client, lanes, completions } = state;
        let Some(connection) = client.as_ref() else { return false };
        let lane_number = lane;
        let Some(StreamLane { lane, .. }) = lanes.get_mut(lane_number) else { return false };
        let mut attention = false;
        while let Some((number, pending, is_repeat)) = lane.next_to_send(now) {
            if is_repeat && pending.guard.as_ref().is_some_and(|guard| !guard.is_wanted()) {
                if let Some(Pending { sink, token, .. }) = lane.withdraw(number) {
                    completions.push_back(Completion { sink, token, result: Err(PutError::Withdrawn) });
                }
                attention = true;
                continue;
            }
            let map = match ready.take() {
                Some((ready_number, map)) if ready_number == number => Ok(map),
                _ => headers::outgoing(&pending.headers),
            };
            let sent = map.and_then(|headers| {
                let message = OutboundMessage {
                    subject: pending.subject.clone(),
                    payload: pending.payload.clone(),
                    headers,
                    reply: Some(format!("{}.{lane_number}.{number}", self.inbox).into()),
                };
                // The queue has room for everything that may be under way, so this is ready at once, unless the
                // connection is behind with repetitions; `unconstrained`, because a task that has used up its budget
                // would be told to wait although there is room.
                match tokio::task::unconstrained(connection.publish_message(message)).now_or_never() {
                    Some(Ok(())) => Ok(true),
                    None => Ok(false),
                    Some(Err(error)) => match error.kind() {
                        PublishErrorKind::MaxPayloadExceeded => Err(PutError::TooLarge),
                        PublishErrorKind::InvalidSubject => Err(PutError::Invalid { what: "subject" }),
                        // The connection has ended; the worker is about to see that and to make a new one.
                        PublishErrorKind::Send => Ok(false),
                    },
                }
            });
            match sent {
                Ok(true) => {}
                Ok(false) => {
                    lane.unsend(number);
                    return true;
                }
                Err(error) => {
                    attention = true;
                    if let Some(Pending { sink, token, .. }) = lane.resolve(number) {
                        completions.push_back(Completion { sink, token, result: Err(error) });
                    }
                }
            }
        }
        attention
    }
}

impl State {
    fn lane_of(&mut self, stream: &str) -> usize {
        match self.lanes.iter().position(|lane| &*lane.stream == stream) {
            Some(lane) => lane,
            None => {
                self.lanes.push(StreamLane::new(stream));
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
