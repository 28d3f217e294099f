//! Request and reply between MQTT and NATS.
//!
//! ```text
//! NATS request  -> (its reply subject, sealed into a Response Topic) -> device
//! device        -> publish on that topic -> (opened) -> inbox of the requester
//!
//! MQTT 5 publish with a Response Topic -> core NATS, with a reply subject of ours -> service
//! service       -> answer on that subject -> publish on the Response Topic, as any client's
//! ```
//!
//! A token holds all that is needed to answer, so any sidecar can open it; what clients ask NATS is pending here, at the
//! sidecar that they are connected to, and in the reply subject too, for the others when this one is gone. A message that a
//! stream captures is not a request, whatever reply subject it has: that one is for the stream's acknowledgement.
//!
//! # Layout
//! - `mqtt_requester`: clients ask NATS; `pending`: what they asked; `answers`: what comes back, on its way to the Response Topic;
//!   `orphaned_replies`: what comes back when the sidecar that asked is gone
//! - `serving`: what runs all the time
//! - `replying`: clients answer; `mqtt_responder`: what a client without properties can answer

mod answers;
mod mqtt_requester;
mod mqtt_responder;
mod orphaned_replies;
mod pending;
mod replying;
mod serving;

use std::sync::Arc;
use std::time::Duration;

use bytestring::ByteString;
use mqtt_codec::{ReasonCode, TopicName};
use mqtt_ownership::ServerTime;
use parking_lot::{Mutex, RwLock};
use proto_map::{ClosedTrees, Headers, Names, Question, REPLY_KEY_LEN, ReplyError, ReplyKey, ReplyTopics, Subject};
use tokio::sync::{Notify, mpsc};

use crate::account::clock::uptime;
use crate::account::delivery::core_subscriptions::CoreSubscriptionId;
use crate::account::delivery::message::Message;
use crate::account::publish::Refused;
use crate::metrics::{AccountMetrics, DropReason, RequestEvent};
use crate::store::{CoreMessage, ReplyKeys, ServerClock, Store};
pub(crate) use mqtt_responder::{OpenRequest, OpenRequests};
use pending::{Over, Pending, QuestionId, Waiter};

/// Id of the subscription to our reply subjects. No filter has it.
pub(crate) const REPLIES_ID: CoreSubscriptionId = CoreSubscriptionId(u64::MAX);
/// Id of the subscription to the reply subjects of all sidecars, which one of them gets. Likewise.
pub(crate) const OTHERS_ID: CoreSubscriptionId = CoreSubscriptionId(u64::MAX - 1);

/// Begins the part of the reply subject of the message to ourselves that follows our name.
const ECHO: &str = "-";

/// The queue group of that subscription.
const OTHERS_GROUP: &str = "nats-mqtt";

/// Answers of NATS that wait to be published; above it they are dropped.
const ANSWERS_MAX: usize = 4_096;

/// How often requests are looked at whose time is over.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How often the key is looked at, in case that it was lost.
const KEY_EVERY: Duration = Duration::from_secs(60);

/// How long to wait before the key is asked for again.
const KEY_RETRY: Duration = Duration::from_secs(1);

/// Headers that only a publish to a stream has, besides [`STREAM_HEADER_PREFIXES`].
const STREAM_HEADERS: [&str; 4] = ["Nats-Msg-Id", "Nats-TTL", "Nats-Rollup", "Nats-Incr"];
const STREAM_HEADER_PREFIXES: [&str; 3] = ["Nats-Expected-", "Nats-Batch-", "Nats-Schedule"];

/// How requests are treated.
#[derive(Clone, Copy, Debug)]
pub struct RequestOptions {
    /// How long NATS may take to answer a client.
    pub timeout: Duration,
    /// Requests of clients that may be pending; above it the oldest is given up.
    pub max_pending: usize,
    /// Of these, requests of one client; above it its oldest is given up.
    pub max_pending_per_client: usize,
    /// How long a device may take to answer a request of NATS.
    pub reply_ttl: Duration,
}

/// What tokens are made with and opened with.
#[derive(Debug)]
struct Keys {
    current: [u8; REPLY_KEY_LEN],
    seal: ReplyKey,
    /// The one before.
    previous: Option<ReplyKey>,
}

/// Requests and replies of one account on this sidecar.
#[derive(Debug)]
pub(crate) struct Requests {
    options: RequestOptions,
    topics: ReplyTopics,
    closed: ClosedTrees,
    keys: RwLock<Keys>,
    /// Subjects of the streams of the account.
    captured: RwLock<Vec<ByteString>>,
    /// The reply subjects of all sidecars are this, the name of the sidecar, an id and, if it is not too long, a token.
    answers_root: String,
    /// Our reply subjects are this, an id, and the token.
    inbox: String,
    /// A subject that answers us when the server has dealt with everything before.
    echo: Option<Subject>,
    pending: Mutex<Pending>,
    /// Something is pending, and nothing was.
    asked: Notify,
    answers: mpsc::Sender<Arrived>,
    /// Answers to what others asked, which may be gone.
    orphans: mpsc::Sender<CoreMessage>,
    /// Tokens end by it, wherever they were made.
    clock: ServerClock,
    metrics: Arc<AccountMetrics>,
}

/// An answer of NATS to a request of a client.
#[derive(Debug)]
pub(crate) struct Arrived {
    question: Question,
    core: CoreMessage,
}

/// What arrives on reply subjects.
pub(in crate::account) struct Inlet {
    /// Answers to what clients asked here.
    arrived: mpsc::Receiver<Arrived>,
    /// Answers to what clients asked elsewhere.
    orphans: mpsc::Receiver<CoreMessage>,
}

impl Requests {
    /// Whether what is published there answers a request.
    pub(crate) fn is_reply_topic(&self, topic: &TopicName) -> bool {
        self.topics.parse(topic.as_str()).is_some()
    }

    /// Subscribes to our reply subjects. What arrives there is to be taken out of the other end.
    pub(in crate::account) fn start(
        options: RequestOptions,
        store: &Store,
        names: &Names,
        closed: &ClosedTrees,
        metrics: &Arc<AccountMetrics>,
    ) -> (Arc<Self>, Inlet) {
        let core = store.core();
        let (answers, arrived) = mpsc::channel(ANSWERS_MAX);
        let (orphans, of_others) = mpsc::channel(ANSWERS_MAX);
        let answers_root = names.answers(&core.inbox_prefix());
        // Until the key of the account is there, what is asked here can be answered here.
        let current = rand::random();
        let requests = Self {
            options,
            topics: ReplyTopics::new(names.subject_prefix()),
            closed: closed.clone(),
            keys: RwLock::new(Keys { current, seal: ReplyKey::new(&current), previous: None }),
            captured: RwLock::default(),
            inbox: format!("{answers_root}{}.", core.name()),
            answers_root,
            echo: Subject::new(core.echo_subject()).ok(),
            clock: store.clock().clone(),
            pending: Mutex::new(Pending::new(options.max_pending, options.max_pending_per_client, options.timeout)),
            asked: Notify::new(),
            answers,
            orphans,
            metrics: Arc::clone(metrics),
        };
        core.subscribe(&format!("{}>", requests.inbox), None, REPLIES_ID.0);
        core.subscribe(&format!("{}*.*.*", requests.answers_root), Some(OTHERS_GROUP), OTHERS_ID.0);
        (Arc::new(requests), Inlet { arrived, orphans: of_others })
    }

    /// Gives a message that came on core NATS as a request a Response Topic, unless it says one itself. `is_counted`: this copy
    /// of it stands for it.
    pub(crate) fn make_answerable(&self, core: &CoreMessage, message: &mut Message, is_counted: impl FnOnce() -> bool) {
        if core.reply.is_none() || message.properties.as_ref().is_some_and(|p| p.response_topic.is_some()) {
            return;
        }
        if let Some(topic) = self.response_topic(core) {
            message.properties.get_or_insert_default().response_topic = Some(topic);
            if is_counted() {
                self.metrics.request(RequestEvent::Offered);
            }
        }
    }

    /// Where a device answers a request that came on core NATS. `None` when it is none, or may not be answered.
    pub(crate) fn response_topic(&self, core: &CoreMessage) -> Option<TopicName> {
        let reply = core.reply.as_ref()?;
        if !proto_map::is_answerable(reply, &self.closed)
            || is_for_a_stream(core.headers.as_ref())
            || self.is_captured(&core.subject)
        {
            return None;
        }
        let ends_s = self.ends_s(self.options.reply_ttl);
        let token = self.keys.read().seal.seal(&Subject::new(reply.clone()).ok()?, ends_s);
        self.topics.of_token(&token)
    }

    /// The same as the header of a copy in the log, unless the message has that header.
    pub(crate) fn response_topic_header(&self, core: &CoreMessage) -> Option<(ByteString, ByteString)> {
        let name = proto_map::name::RESPONSE_TOPIC;
        if core.reply.is_none() || core.headers.iter().flatten().any(|(header, _)| &**header == name) {
            return None;
        }
        // Nothing in it needs an escape.
        let topic = self.response_topic(core)?;
        self.metrics.request(RequestEvent::Offered);
        Some((ByteString::from_static(name), topic.as_str().into()))
    }

    /// The reply subject of a token.
    fn open(&self, token: &str) -> Result<Subject, Refused> {
        self.open_with(|key, now_s| key.open(token, now_s)).map_err(|error| match error {
            ReplyError::Forged => Refused::Closed,
            ReplyError::Expired => Refused::Late,
        })
    }

    /// When something ends that may take this long, rounded up.
    fn ends_s(&self, after: Duration) -> u32 {
        let after_s = after.as_secs() + u64::from(after.subsec_nanos() > 0);
        seconds(self.clock.latest()).saturating_add(u32::try_from(after_s).unwrap_or(u32::MAX))
    }

    /// Opens a token with the key of now or the one before.
    fn open_with<T>(&self, open: impl Fn(&ReplyKey, u32) -> Result<T, ReplyError>) -> Result<T, ReplyError> {
        let keys = self.keys.read();
        let now_s = seconds(self.clock.earliest());
        match (open(&keys.seal, now_s), &keys.previous) {
            (Err(ReplyError::Forged), Some(previous)) => open(previous, now_s),
            (opened, _) => opened,
        }
    }

    /// The streams of the account have these subjects.
    pub(crate) fn streams_have(&self, subjects: Vec<ByteString>) {
        *self.captured.write() = subjects;
    }

    /// Whether a stream captures a subject, so that a reply subject on it is for the stream.
    pub(in crate::account) fn is_captured(&self, subject: &str) -> bool {
        self.captured.read().iter().any(|filter| proto_map::matches(filter, subject))
    }

    /// Gets the key of the account. Returns when to look again.
    pub(in crate::account) async fn get_key(&self, keys: &ReplyKeys) -> Duration {
        let ours = self.keys.read().current;
        match keys.get_or_put(ours).await {
            Ok(key) => {
                self.use_key(key);
                KEY_EVERY
            }
            Err(error) => {
                tracing::debug!(%error, "the key of replies cannot be read yet");
                KEY_RETRY
            }
        }
    }

    /// Keeps the key of the account, for ever.
    async fn keep_key(requests: std::sync::Weak<Self>, keys: ReplyKeys) {
        loop {
            let Some(requests) = requests.upgrade() else { return };
            let pause = requests.get_key(&keys).await;
            drop(requests);
            tokio::time::sleep(pause).await;
        }
    }

    fn use_key(&self, key: [u8; REPLY_KEY_LEN]) {
        let mut keys = self.keys.write();
        if keys.current != key {
            let seal = ReplyKey::new(&key);
            keys.previous = Some(std::mem::replace(&mut keys.seal, seal));
            keys.current = key;
        }
    }

    /// Ends requests whose time is over, for ever: looks as long as something is pending, and waits while nothing is.
    async fn look_at_pending(&self) {
        loop {
            self.asked.notified().await;
            // What comes meanwhile is looked at as well; at most there is one look too many behind the last one.
            loop {
                tokio::time::sleep(LOOK_EVERY).await;
                if self.expire() == 0 {
                    break;
                }
            }
        }
    }

    /// Time went by. Returns how many are pending still.
    fn expire(&self) -> usize {
        let mut over = Vec::new();
        let mut pending = self.pending.lock();
        let waiters = pending.expire(uptime(), &mut over);
        let left = pending.len();
        self.metrics.requests_pending(left as u64);
        drop(pending);
        for waiter in waiters {
            report(&waiter, ReasonCode::Success);
        }
        self.end(over, RequestEvent::TimedOut);
        left
    }

    /// Requests are over, those without an answer for this reason.
    fn end(&self, over: impl IntoIterator<Item = Over>, reason: RequestEvent) {
        for request in over {
            if !request.is_answered {
                self.metrics.request(reason);
            }
            if let Some(waiter) = request.waiter {
                report(&waiter, ReasonCode::Success);
            }
        }
    }

    /// Something came on one of our reply subjects. `flush` follows.
    pub(crate) fn arrived(&self, core: CoreMessage) {
        let Some(rest) = core.subject.strip_prefix(self.inbox.as_str()) else { return };
        let (rest, is_echo) = rest.strip_prefix(ECHO).map_or((rest, false), |rest| (rest, true));
        let id = rest.split('.').next().unwrap_or_default();
        let Ok(id) = u64::from_str_radix(id, 16).map(QuestionId) else { return };
        if is_echo {
            let waiter = self.pending.lock().heard(id);
            waiter.iter().for_each(|waiter| report(waiter, ReasonCode::Success));
        } else if core.status == Some(NO_RESPONDERS) {
            if let Some(over) = self.pending.lock().remove(id) {
                self.metrics.request(RequestEvent::NoResponders);
                over.waiter.iter().for_each(|waiter| report(waiter, ReasonCode::NoMatchingSubscribers));
            }
        } else if core.status.is_none() {
            let (waiter, question) = {
                let mut pending = self.pending.lock();
                (pending.heard(id), pending.answered(id))
            };
            waiter.iter().for_each(|waiter| report(waiter, ReasonCode::Success));
            let Some(question) = question else { return self.metrics.request(RequestEvent::AnsweredLate) };
            self.pass_on(question, core);
        }
    }

    /// An answer goes to whoever asked.
    fn pass_on(&self, question: Question, core: CoreMessage) {
        if self.answers.try_send(Arrived { question, core }).is_ok() {
            self.metrics.request(RequestEvent::Answered);
        } else {
            self.metrics.dropped(DropReason::SlowReader, 1);
        }
    }
}

/// Status that the server answers with when nobody listens.
const NO_RESPONDERS: u16 = 503;

fn report(waiter: &Waiter, reason: ReasonCode) {
    waiter.completions.report(waiter.token, Ok(reason));
}

fn seconds(at: ServerTime) -> u32 {
    u32::try_from(at.0 / 1000).unwrap_or(u32::MAX)
}

/// Whether a message is meant for a stream, as its headers tell.
fn is_for_a_stream(headers: Option<&Headers>) -> bool {
    let has_prefix =
        |name: &str, prefix: &str| name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix));
    headers.into_iter().flatten().any(|(name, _)| {
        STREAM_HEADERS.iter().any(|header| name.eq_ignore_ascii_case(header))
            || STREAM_HEADER_PREFIXES.iter().any(|prefix| has_prefix(name, prefix))
    })
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::FutureExt as _;
    use mqtt_codec::QoS;

    use super::pending::Asker;
    use super::*;
    use crate::metrics::Metrics;

    fn requests() -> Requests {
        let second = Duration::from_secs(1);
        // A request is over as soon as it is looked at.
        let options =
            RequestOptions { timeout: Duration::ZERO, max_pending: 10, max_pending_per_client: 10, reply_ttl: second };
        let current = [0; REPLY_KEY_LEN];
        Requests {
            options,
            topics: ReplyTopics::new("$MQTT"),
            closed: ClosedTrees::new("", &[]),
            keys: RwLock::new(Keys { current, seal: ReplyKey::new(&current), previous: None }),
            captured: RwLock::default(),
            answers_root: "answers.".to_owned(),
            inbox: "answers.us.".to_owned(),
            echo: None,
            pending: Mutex::new(Pending::new(10, 10, Duration::ZERO)),
            asked: Notify::new(),
            answers: mpsc::channel(1).0,
            orphans: mpsc::channel(1).0,
            clock: ServerClock::default(),
            metrics: Metrics::new().account(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn requests_are_looked_at_while_any_is_pending_and_nothing_ticks_otherwise() {
        let requests = requests();
        let question = || {
            let response_topic = TopicName::new("answers").unwrap();
            Question { response_topic, correlation_data: None, qos: QoS::AtMostOnce }
        };
        let ask = || {
            let asker = Asker { client_id: "c".into(), waiter: None };
            _ = requests.ask(asker, question(), &Subject::new("service").unwrap());
        };
        let pending = || requests.pending.lock().len();
        let mut looking = pin!(requests.look_at_pending());
        for _ in 0..2 {
            assert!(looking.as_mut().now_or_never().is_none());
            // No timer is set: nothing that could be woken by this.
            assert!(tokio::time::timeout(Duration::from_secs(3_600), &mut looking).await.is_err());
            ask();
            ask();
            assert!(tokio::time::timeout(LOOK_EVERY / 2, &mut looking).await.is_err());
            assert_eq!(pending(), 2);
            assert!(tokio::time::timeout(LOOK_EVERY, &mut looking).await.is_err());
            assert_eq!(pending(), 0);
        }
    }
}
