//! The one way in which streams are read: an ephemeral pull consumer without acknowledgements, checked for gaps and made
//! anew whenever it cannot be trusted.
//!
//! `tail`, `scan` and `retained` are its users. It never runs by itself: whoever calls [`Reader::next`] paces it, and what
//! is under way between the server and us is bounded by [`Pace`].
//!
//! **Invariant:** what [`Reader::next`] gives is ascending, and each sequence is given at most once. A sequence that is left
//! out was not in the stream any more.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proto_map::Headers;
use tokio::time::Instant;

use super::ack::parse_delivery_bytes;
use super::api::{Api, ApiFailure, STREAM_NOT_FOUND};
use super::connection::{Link, LinkState};
use super::entry::LogEntry;
use super::ephemeral::{Deliver, Ephemeral};
use super::error::Unavailable;
use super::headers;
use super::horizon::Horizon;
use super::pulse::Pulse;
use crate::nats::{LinkCounts, Message, Outbound, Subscriber};

/// The server says so often that a pull is alive, and it is taken for dead after so long without a word.
const HEARTBEAT: Duration = Duration::from_secs(2);
const SILENCE_MAX: Duration = Duration::from_secs(5);
/// A pull ends by itself after this.
const PULL_EXPIRES: Duration = Duration::from_secs(30);
/// A consumer that nobody pulls from goes away after this.
const INACTIVE: Duration = Duration::from_secs(60);
const RETRY_MIN: Duration = Duration::from_millis(20);
const RETRY_MAX: Duration = Duration::from_secs(1);
/// Why a stream cannot be read is said so often.
const WARN_EVERY: Duration = Duration::from_secs(5);

/// How much may be under way between the server and us.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// Messages asked for in one pull.
    pub(crate) batch: usize,
    /// Bytes asked for in one pull; at least the largest message.
    pub(crate) bytes: usize,
    /// Ask for more before what was asked for has come.
    pub(crate) overlap: bool,
}

/// What is read, and where it starts.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    pub(crate) stream: Arc<str>,
    /// Cut off the subjects.
    pub(crate) prefix: Arc<str>,
    /// In the consumer's name.
    pub(crate) purpose: &'static str,
    /// Follow a snapshot of the last message of every subject; otherwise start at the position.
    pub(crate) last_per_subject: bool,
    pub(crate) pace: Pace,
}

/// What [`Reader::next`] came back for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// Entries were appended, or nothing is behind what was read.
    Read,
    /// A new consumer starts with a snapshot; what was known before may be stale. Not for positions.
    SnapshotBegins {
        /// Last sequence of the stream before.
        last_sequence: u64,
    },
    /// The stream is another one, or was cut: sequences go on from here.
    Restarted {
        /// The next sequence.
        next: u64,
    },
    /// There is no such stream.
    StreamMissing,
}

/// A consumer and what is known of it.
struct Consumer {
    on_server: Ephemeral,
    inbox: String,
    subscriber: Subscriber,
    /// Of the connection that it was made on.
    epoch: u64,
    /// Last consumer sequence seen.
    sequence: u64,
    /// Messages asked for and not yet come.
    outstanding: usize,
    pulls: u64,
    /// Messages behind the last one seen.
    pending: u64,
    heard: Instant,
}

/// How a consumer is to be made, and what was known of the stream before.
struct Plan {
    source: Source,
    filters: Vec<String>,
    headers_only: bool,
    position: u64,
    created: Option<String>,
}

/// What came of that.
struct Opened {
    created: String,
    last_sequence: u64,
    made: Made,
}

enum Made {
    Consumer(Consumer),
    /// The stream goes on from here, and was not read yet.
    Restarted {
        next: u64,
    },
}

/// A consumer being made: some round trips, which are not begun anew when whoever waits for them gives up and comes again.
type Opening = Pin<Box<dyn Future<Output = Result<Opened, ApiFailure>> + Send>>;

/// Reads a stream.
pub(crate) struct Reader {
    api: Api,
    link: Link,
    source: Source,
    /// Only messages of these subjects, which can have wildcards; none: all. Cheap where few of them are behind the position.
    filters: Vec<String>,
    headers_only: bool,
    /// What is taken of the headers of a message.
    headers: fn(&Message, &LinkCounts) -> Option<Headers>,
    state: tokio::sync::watch::Receiver<LinkState>,
    consumer: Option<Consumer>,
    opening: Option<Opening>,
    /// Next sequence to be given.
    position: u64,
    /// `created` of the stream.
    created: Option<String>,
    /// What is read is known to be there.
    horizon: Arc<Horizon>,
    retry: Duration,
    /// Nothing is asked before this.
    resumes_at: Instant,
    warned: Option<Instant>,
    /// Says whether this reads.
    pulse: Arc<Pulse>,
    messages: Vec<Message>,
}

enum Step {
    Continue,
    /// The consumer cannot be trusted any more.
    Renew(&'static str),
}

impl Reader {
    /// Reads from `position` on (1 is the first). Nothing is sent before [`Reader::next`].
    pub(crate) fn new(api: Api, link: Link, source: Source, position: u64) -> Self {
        let state = link.state.clone();
        Self {
            horizon: api.horizons.of(&source.stream),
            api,
            link,
            source,
            filters: Vec::new(),
            headers_only: false,
            headers: headers::incoming,
            state,
            consumer: None,
            opening: None,
            position: position.max(1),
            created: None,
            retry: RETRY_MIN,
            resumes_at: Instant::now(),
            warned: None,
            pulse: Arc::default(),
            messages: Vec::new(),
        }
    }

    /// Reads only messages of a subject, which can have wildcards. Once more: of that one as well.
    pub(crate) fn only(mut self, subject: String) -> Self {
        self.filters.push(subject);
        self
    }

    /// Reads headers and no payloads.
    pub(crate) fn headers_only(mut self) -> Self {
        self.headers_only = true;
        self
    }

    /// Reads a log, in which nobody asks which write a message was.
    pub(crate) fn of_log(mut self) -> Self {
        self.headers = headers::incoming_of_log;
        self
    }

    /// Says there whether it reads.
    pub(crate) fn watched_by(mut self, pulse: Arc<Pulse>) -> Self {
        self.pulse = pulse;
        self
    }

    /// The next sequence.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// Whether the last that was read had nothing behind it.
    pub(crate) fn is_caught_up(&self) -> bool {
        self.consumer.as_ref().is_some_and(|consumer| consumer.pending == 0)
    }

    /// The consumer's name and how many messages it has given us.
    pub(crate) fn consumer(&self) -> Option<(&str, u64)> {
        self.consumer.as_ref().map(|consumer| (consumer.on_server.name(), consumer.sequence))
    }

    /// Waits for entries, appends at most `max` of them to `out`, and says what else happened.
    ///
    /// # Errors
    /// Only when JetStream cannot be asked; the next call tries again, after a pause. Cancelling loses nothing: who cancels
    /// and calls again, however often, gets as far as who waits.
    pub(crate) async fn next(&mut self, out: &mut Vec<LogEntry>, max: usize) -> Result<Progress, Unavailable> {
        loop {
            if self.consumer.is_none()
                && let Some(progress) = self.open().await?
            {
                return Ok(progress);
            }
            self.pull().await;
            if self.messages.is_empty() {
                self.receive(max).await;
            }
            let before = out.len();
            let mut step = Step::Continue;
            let mut caught_up = false;
            let mut messages = std::mem::take(&mut self.messages);
            for message in messages.drain(..) {
                step = self.take(message, out);
                caught_up |= self.is_caught_up();
                if matches!(step, Step::Renew(_)) {
                    break;
                }
            }
            self.messages = messages;
            if out.len() > before {
                self.horizon.note(self.position - 1);
            }
            if let Step::Renew(why) = step {
                self.renew(why).await;
            }
            if out.len() > before || caught_up {
                return Ok(Progress::Read);
            }
        }
    }

    /// Makes a consumer. `Some` when the caller must know something first.
    async fn open(&mut self) -> Result<Option<Progress>, Unavailable> {
        tokio::time::sleep_until(self.resumes_at).await;
        if self.opening.is_none() {
            let plan = Plan {
                source: self.source.clone(),
                filters: self.filters.clone(),
                headers_only: self.headers_only,
                position: self.position,
                created: self.created.clone(),
            };
            self.opening = Some(Box::pin(plan.open(self.api.clone(), self.link.clone())));
        }
        let Some(opening) = &mut self.opening else { return Ok(None) };
        let opened = opening.as_mut().await;
        self.opening = None;
        match opened {
            Ok(opened) => {
                self.retry = RETRY_MIN;
                Ok(self.opened(opened))
            }
            Err(failure) if failure.code() == STREAM_NOT_FOUND => Ok(Some(Progress::StreamMissing)),
            Err(failure) => {
                if self.warned.is_none_or(|at| at.elapsed() >= WARN_EVERY) {
                    self.warned = Some(Instant::now());
                    tracing::warn!(stream = %self.source.stream, %failure, "cannot read the stream now");
                }
                self.resumes_at = Instant::now() + self.retry;
                self.retry = (self.retry * 2).min(RETRY_MAX);
                tokio::time::sleep_until(self.resumes_at).await;
                Err(failure.into())
            }
        }
    }

    fn opened(&mut self, Opened { created, last_sequence, made }: Opened) -> Option<Progress> {
        self.created = Some(created);
        let consumer = match made {
            Made::Consumer(consumer) => consumer,
            Made::Restarted { next } => {
                self.position = next;
                return Some(Progress::Restarted { next });
            }
        };
        let is_at_end = consumer.pending == 0;
        self.pulse.beat(consumer.pending);
        self.consumer = Some(consumer);
        if self.source.last_per_subject {
            self.position = 1;
            return Some(Progress::SnapshotBegins { last_sequence });
        }
        // Nothing is behind the position: say so at once, for those who wait for the end.
        is_at_end.then_some(Progress::Read)
    }

    /// Asks for more when too little is under way.
    async fn pull(&mut self) {
        let Some(consumer) = &mut self.consumer else { return };
        let Pace { batch, bytes, overlap } = self.source.pace;
        let low = if overlap { batch / 2 } else { 0 };
        if consumer.outstanding > low {
            return;
        }
        consumer.pulls += 1;
        let body = format!(
            r#"{{"batch":{batch},"max_bytes":{bytes},"expires":{},"idle_heartbeat":{}}}"#,
            PULL_EXPIRES.as_nanos(),
            HEARTBEAT.as_nanos()
        );
        let subject = format!("$JS.API.CONSUMER.MSG.NEXT.{}.{}", self.source.stream, consumer.on_server.name());
        let reply = format!("{}.{}", consumer.inbox, consumer.pulls);
        if consumer.outstanding == 0 {
            // Time that the caller took is not the server's.
            consumer.heard = Instant::now();
        }
        let body = Bytes::from(body);
        let request = Outbound { reply: Some(reply.as_bytes()), ..Outbound::plain(&subject, &body) };
        if self.link.client.publish(&request).await.is_ok() {
            consumer.outstanding += batch;
        }
    }

    /// Waits for messages, or for a reason to distrust the consumer.
    async fn receive(&mut self, max: usize) {
        let Some(consumer) = &mut self.consumer else { return };
        // Heard is what has arrived, also while the caller was busy.
        let deadline = consumer.heard.max(Instant::now() - SILENCE_MAX / 2) + SILENCE_MAX;
        let epoch = consumer.epoch;
        let lost = self.state.wait_for(|state| !state.connected || state.epoch != epoch);
        let why = tokio::select! {
            biased;
            alive = consumer.subscriber.receive(&mut self.messages, max) => {
                consumer.heard = Instant::now();
                if alive { return self.pulse.beat(consumer.pending) } else { "the connection is closed" }
            }
            _ = lost => "the connection was lost",
            () = tokio::time::sleep_until(deadline) => "the server is silent",
        };
        self.renew(why).await;
    }

    /// Forgets the consumer, so that the next one starts with a snapshot. One that is being made starts with one anyway.
    pub(crate) async fn begin_again(&mut self) {
        self.renew("it was asked for").await;
    }

    /// Gives the consumer up; the next round makes another one at the position.
    async fn renew(&mut self, why: &'static str) {
        if self.consumer.take().is_some() {
            tracing::info!(stream = %self.source.stream, next = self.position, why, "reading with a new consumer");
            self.messages.clear();
            // Not in a tight loop when it fails for a reason that stays.
            tokio::time::sleep(RETRY_MIN).await;
        }
    }

    fn take(&mut self, message: Message, out: &mut Vec<LogEntry>) -> Step {
        let Some(consumer) = &mut self.consumer else { return Step::Continue };
        if let Some(status) = message.status() {
            return consumer.take_status(status, &message);
        }
        let Some(delivery) = message.reply().and_then(parse_delivery_bytes) else { return Step::Continue };
        if delivery.consumer_sequence != consumer.sequence + 1 {
            return Step::Renew("a message is missing");
        }
        consumer.sequence = delivery.consumer_sequence;
        consumer.outstanding = consumer.outstanding.saturating_sub(1);
        consumer.pending = delivery.pending;
        if delivery.stream_sequence < self.position {
            return Step::Continue;
        }
        self.position = delivery.stream_sequence + 1;
        let (prefix, counts) = (&self.source.prefix, self.link.client.counts());
        out.extend(LogEntry::of_message(&message, prefix, delivery, counts, self.headers));
        Step::Continue
    }
}

impl Plan {
    async fn open(self, api: Api, link: Link) -> Result<Opened, ApiFailure> {
        let stream = Arc::clone(&self.source.stream);
        let info = api.stream_info(&stream).await?;
        let last_sequence = info.state.last_seq;
        if let Some(next) = self.restarted(&info.created, last_sequence) {
            return Ok(Opened { created: info.created, last_sequence, made: Made::Restarted { next } });
        }
        let deliver = match self.source.last_per_subject {
            true => Deliver::LastPerSubject(&self.source.prefix),
            false => Deliver::From(self.position),
        };
        let inbox = link.client.new_inbox();
        let epoch = link.state.borrow().epoch;
        let subscriber = link.client.subscribe(&format!("{inbox}.*"), link.queue_limits());
        let subscriber = subscriber.map_err(|error| ApiFailure::Other(error.to_string()))?;
        let (purpose, filters) = (self.source.purpose, &self.filters);
        let (on_server, made) =
            api.create_reader(&stream, purpose, deliver, filters, self.headers_only, INACTIVE).await?;
        let consumer = Consumer {
            on_server,
            inbox,
            subscriber,
            epoch,
            sequence: 0,
            outstanding: 0,
            pulls: 0,
            pending: made.num_pending,
            heard: Instant::now(),
        };
        Ok(Opened { created: info.created, last_sequence, made: Made::Consumer(consumer) })
    }

    /// Where to go on when the stream is not the one that we have read, or has lost its end. The answer that says so knows as
    /// much as we have read, or the stream has been cut for sure ([`Horizon`]).
    fn restarted(&self, created: &str, last_sequence: u64) -> Option<u64> {
        let known = self.created.as_deref()?;
        if known != created {
            return Some(1);
        }
        (!self.source.last_per_subject && last_sequence + 1 < self.position).then_some(last_sequence + 1)
    }
}

impl Consumer {
    /// A message that the server made: a heartbeat, or the end of a pull.
    fn take_status(&mut self, status: u16, message: &Message) -> Step {
        let number = |name| headers::number(message, name);
        match status {
            100 => {
                // What the server has sent before it must have arrived before it.
                let is_behind = number("Nats-Last-Consumer").is_some_and(|sent| sent > self.sequence);
                if is_behind { Step::Renew("messages are missing before a heartbeat") } else { Step::Continue }
            }
            // The pull has expired, or its bytes are used up.
            408 => self.end_pull(number("Nats-Pending-Messages")),
            409 => {
                let text = headers::description(message);
                if text.contains("consumer deleted") || text.contains("leadership change") || text.contains("shutdown")
                {
                    return Step::Renew("the server has closed the consumer");
                }
                self.end_pull(number("Nats-Pending-Messages"))
            }
            404 => self.end_pull(number("Nats-Pending-Messages")),
            503 => Step::Renew("the consumer is gone"),
            _ => Step::Continue,
        }
    }

    fn end_pull(&mut self, unfilled: Option<u64>) -> Step {
        let unfilled = unfilled.and_then(|count| usize::try_from(count).ok()).unwrap_or(self.outstanding);
        self.outstanding = self.outstanding.saturating_sub(unfilled);
        Step::Continue
    }
}
