//! Consumers of shared subscriptions: one durable pull consumer a group, filter and log, with explicit acknowledgements.
//! It is the group's place in the log and its backlog; NATS workers can pull from it as well.
//!
//! Here is how it is made, asked and answered, on a connection of its own. Who of the group gets a message is the
//! account's.

mod listing;
mod room;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use bytestring::ByteString;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;

pub use self::listing::ListedShare;
pub use self::room::NoConsumer;
use self::room::left_to_groups;
use super::ack::{parse_delivery, parse_place};
use super::api::{Api, ApiFailure, STREAM_NOT_FOUND};
use super::connection::{Link, LinkState};
use super::core::{CoreNats, CoreSink, Seals};
use super::entry::LogEntry;
use super::error::Unavailable;
use super::headers;
use super::time::rfc3339_ms;
use crate::nats::{LinkCounts, Message, Outbound, Subscriber};

/// JetStream error: no such consumer.
const CONSUMER_NOT_FOUND: u32 = 10014;
/// JetStream errors: there is no such consumer, or not even its stream.
const GONE: [u32; 2] = [CONSUMER_NOT_FOUND, STREAM_NOT_FOUND];
/// How long a consumer may take to confirm.
const CONFIRM_WITHIN: Duration = Duration::from_secs(2);
/// JetStream errors: a consumer of that name is there, with another configuration.
const CONSUMER_EXISTS: [u32; 3] = [10013, 10105, 10148];
/// JetStream error: more than the server's limit of messages that are not acknowledged.
const ACK_PENDING_EXCEEDS_LIMIT: u32 = 10121;
/// Messages of a group that are not acknowledged, over all its members. What holds a group back are the windows of its
/// members, since nobody asks for more than they take; a limit below their sum would keep messages from members that have
/// room. This is 780 members with the default window of 128 each; 12 MB of a server's memory, should it be reached.
const ACK_PENDING_MAX: u32 = 100_000;
/// JetStream error: the stream has as many consumers as it can.
const CONSUMERS_MAX_REACHED: u32 = 10026;
/// Tries to make a consumer that others make at the same time.
const TRIES: usize = 4;
/// Share name and topic filter as they were written, in the metadata of a consumer.
const GROUP_KEY: &str = "nats-mqtt.share";
const FILTER_KEY: &str = "nats-mqtt.filter";
/// The server says so often that a request for messages stands, and it is taken for lost after so long without a word.
const HEARTBEAT: Duration = Duration::from_secs(5);
const SILENCE_MAX: Duration = Duration::from_secs(12);
/// A request for messages ends by itself after this.
const PULL_EXPIRES: Duration = Duration::from_secs(30);
/// Bytes that one request brings at most, unless one message is larger.
const PULL_BYTES: usize = 4 << 20;
/// Messages that are taken from the socket at once.
const BATCH: usize = 512;
/// How long messages may take that were on their way when nobody wants any more.
const CLOSE_WITHIN: Duration = Duration::from_secs(2);

/// A log that groups read.
#[derive(Clone, Debug)]
pub struct ShareLog {
    /// Its stream.
    pub stream: Arc<str>,
    /// What its subjects have before the natural ones; empty for a stream of the user's own.
    pub prefix: Arc<str>,
    /// When the stream was created, milliseconds since the epoch: another one of its name is another log. `None`: whichever
    /// there is.
    pub created_ms: Option<u64>,
}

/// What a consumer is made with.
#[derive(Clone, Copy, Debug)]
pub struct ShareTimes {
    /// A message that is neither acknowledged nor said to be worked on for so long goes to another member.
    pub ack_wait: Duration,
    /// A group that nobody asks for messages for so long ends.
    pub inactive_threshold: Duration,
    /// The same of one that no session is a member of.
    pub unheld_threshold: Duration,
}

/// The group of a shared subscription, as a consumer.
#[derive(Clone, Debug)]
pub struct ShareSpec {
    /// Name of the consumer.
    pub consumer: ByteString,
    /// Share name, for those who look at the consumer.
    pub group: ByteString,
    /// Topic filter, for those who look at the consumer.
    pub filter: ByteString,
    /// Natural subjects of the filter.
    pub subjects: Vec<ByteString>,
}

/// A consumer that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShareConsumer {
    /// See [`ShareTimes::ack_wait`]; whoever made the consumer has chosen it.
    pub ack_wait: Duration,
    /// When it was made, by the server's clock; milliseconds since the epoch.
    pub created_ms: u64,
    /// It was not there before.
    pub is_new: bool,
}

/// What a consumer begins with that is not there yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShareBegins {
    /// What is stored from now on.
    Now,
    /// What was stored at this time or later, milliseconds since the epoch.
    At(u64),
}

/// What is said of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShareAnswer {
    /// It is done with.
    Ack,
    /// Somebody else is to get it, at once.
    Nak,
    /// Somebody else is to get it, in a moment.
    NakDelay,
    /// It is being worked on.
    InProgress,
}

/// A message that was given to us for our members.
#[derive(Clone, Debug)]
pub struct ShareEntry {
    /// The message.
    pub entry: LogEntry,
    /// Where to say what becomes of it.
    pub ack: ByteString,
    /// Whether the consumer has given it to somebody before.
    pub is_again: bool,
}

/// What [`SharePull::next`] came back for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// Messages, or that a request has ended: it may be time to ask again.
    Entries,
    /// The consumer is not there any more.
    Gone,
}

/// The consumers of shared subscriptions of an account.
#[derive(Clone)]
pub struct Shares {
    api: Api,
    link: Link,
    requests: Link,
    seals: Seals,
    echo: Arc<str>,
}

#[derive(Deserialize)]
struct Info {
    config: Value,
    #[serde(default)]
    created: String,
}

impl Shares {
    /// `link`: for messages and acknowledgements. `requests`, `seals` and `echo`: see [`CoreNats`].
    pub(super) fn new(api: Api, link: Link, requests: Link, seals: Seals, echo: &str) -> Self {
        Self { api, link, requests, seals, echo: Arc::from(echo) }
    }

    /// Plain NATS on a connection that hears what others of our connections publish, for queue subscriptions.
    pub fn core(&self, sink: Arc<dyn CoreSink>) -> CoreNats {
        CoreNats::start(self.link.clone(), self.requests.clone(), self.seals.clone(), &self.echo, sink)
    }

    /// The consumer, if it is there.
    ///
    /// # Errors
    /// JetStream does not answer.
    pub async fn find(&self, log: &ShareLog, spec: &ShareSpec) -> Result<Option<ShareConsumer>, Unavailable> {
        match self.info(log, spec).await {
            Ok(info) => Ok(Some(consumer(&info, false))),
            Err(failure) if failure.code() == CONSUMER_NOT_FOUND => Ok(None),
            Err(failure) => Err(failure.into()),
        }
    }

    /// Makes the consumer unless it is there.
    ///
    /// # Errors
    /// See [`NoConsumer`].
    pub async fn ensure(
        &self,
        log: &ShareLog,
        spec: &ShareSpec,
        times: ShareTimes,
        begins: ShareBegins,
    ) -> Result<ShareConsumer, NoConsumer> {
        if let Some(created_ms) = log.created_ms
            && rfc3339_ms(&self.api.stream_info(&log.stream).await?.created) != Some(created_ms)
        {
            return Err(Unavailable::new("the stream was made anew").into());
        }
        for _ in 0..TRIES {
            match self.info(log, spec).await {
                Ok(info) => return Ok(self.take_over(log, spec, times, info, false).await?),
                Err(failure) if failure.code() == CONSUMER_NOT_FOUND => {}
                Err(failure) => return Err(failure.into()),
            }
            let stream = self.api.stream_info(&log.stream).await?;
            let consumers = stream.state.consumer_count;
            let no_room = || NoConsumer::NoRoom { stream: Arc::clone(&log.stream), consumers };
            if consumers >= left_to_groups(stream.config["max_consumers"].as_i64()) {
                return Err(no_room());
            }
            // A sequence and not "new": whoever leads the consumer later knows where it began.
            let begins = match begins {
                ShareBegins::Now => stream.state.last_seq + 1,
                ShareBegins::At(time_ms) => self.api.sequence_at(&log.stream, time_ms).await?,
            };
            match self.create(log, spec, times, begins).await {
                Ok(info) => return Ok(self.take_over(log, spec, times, info, true).await?),
                // Another sidecar was faster.
                Err(failure) if CONSUMER_EXISTS.contains(&failure.code()) => {}
                Err(failure) if failure.code() == CONSUMERS_MAX_REACHED => return Err(no_room()),
                Err(failure) => return Err(failure.into()),
            }
        }
        Err(Unavailable::new("the consumer comes and goes").into())
    }

    async fn info(&self, log: &ShareLog, spec: &ShareSpec) -> Result<Info, ApiFailure> {
        self.api.call(&format!("CONSUMER.INFO.{}.{}", log.stream, spec.consumer), Bytes::new()).await
    }

    async fn create(
        &self,
        log: &ShareLog,
        spec: &ShareSpec,
        times: ShareTimes,
        begins: u64,
    ) -> Result<Info, ApiFailure> {
        let config = config(log, spec, times, begins);
        match self.put(log, spec, "create", &config).await {
            Err(failure) if failure.code() == ACK_PENDING_EXCEEDS_LIMIT => {
                let mut config = config;
                // What the server allows.
                config["max_ack_pending"] = json!(0);
                self.put(log, spec, "create", &config).await
            }
            result => result,
        }
    }

    async fn put(&self, log: &ShareLog, spec: &ShareSpec, action: &str, config: &Value) -> Result<Info, ApiFailure> {
        let body = json!({ "stream_name": &*log.stream, "action": action, "config": config }).to_string();
        self.api.call(&format!("CONSUMER.CREATE.{}.{}", log.stream, spec.consumer), body).await
    }

    /// A consumer that is there: it has to be one that can be shared. Of one that we have made the time after which it
    /// ends is what it is now configured to be.
    async fn take_over(
        &self,
        log: &ShareLog,
        spec: &ShareSpec,
        times: ShareTimes,
        info: Info,
        is_new: bool,
    ) -> Result<ShareConsumer, Unavailable> {
        let found = consumer(&info, is_new);
        let mut config = info.config;
        if config["ack_policy"] != "explicit" || config["deliver_subject"].is_string() {
            return Err(Unavailable::new(format!(
                "consumer {} of {} is not a pull consumer with explicit acknowledgements",
                spec.consumer, log.stream
            )));
        }
        let inactive = nanos(times.inactive_threshold);
        let is_ours = config["metadata"][FILTER_KEY].is_string();
        if is_ours && config["inactive_threshold"].as_u64().unwrap_or(0) != inactive {
            config["inactive_threshold"] = json!(inactive);
            self.put(log, spec, "update", &config).await?;
        }
        Ok(found)
    }

    /// Says what becomes of a message.
    pub async fn answer(&self, ack: ByteString, answer: ShareAnswer) {
        let payload: &'static [u8] = match answer {
            ShareAnswer::Ack => b"+ACK",
            ShareAnswer::Nak => b"-NAK",
            ShareAnswer::NakDelay => br#"-NAK {"delay":1000000000}"#,
            ShareAnswer::InProgress => b"+WPI",
        };
        // What is lost with the connection is answered by the consumer's time.
        let payload = Bytes::from_static(payload);
        let _ = self.link.client.publish(&Outbound::plain(&ack, &payload)).await;
    }

    /// Says that a message is done with, and waits until its consumer knows. One that is gone needs not know.
    ///
    /// # Errors
    /// The consumer may not know.
    pub async fn confirm(&self, ack: &ByteString) -> Result<(), Unavailable> {
        let done = Bytes::from_static(b"+ACK");
        let confirmed = self.api.request(Outbound::plain(ack, &done), CONFIRM_WITHIN).await;
        let (Err(failure), Some(place)) = (confirmed, parse_place(ack)) else { return Ok(()) };
        match self.api.consumer_info(place.stream, place.consumer).await {
            Err(failure) if GONE.contains(&failure.code()) => Ok(()),
            // Another one of its name, which will not answer: it has not given this message to anybody.
            Ok(info) if info.delivered.stream_seq < place.sequence => Ok(()),
            _ => Err(failure.into()),
        }
    }

    /// Waits until what was said has left.
    pub async fn flush(&self) {
        let _ = tokio::time::timeout(CLOSE_WITHIN, self.link.client.flush()).await;
    }

    /// Begins to listen to a consumer; nothing is asked for yet.
    pub fn pull(&self, log: &ShareLog, spec: &ShareSpec) -> SharePull {
        SharePull {
            link: self.link.clone(),
            state: self.link.state.clone(),
            log: log.clone(),
            consumer: spec.consumer.clone(),
            live: None,
            messages: Vec::new(),
        }
    }
}

fn config(log: &ShareLog, spec: &ShareSpec, times: ShareTimes, begins: u64) -> Value {
    let filters: Vec<String> = spec.subjects.iter().map(|subject| format!("{}{subject}", log.prefix)).collect();
    let mut config = json!({
        "name": &*spec.consumer,
        "durable_name": &*spec.consumer,
        "description": "nats-mqtt shared subscription",
        "deliver_policy": "by_start_sequence",
        "opt_start_seq": begins,
        "ack_policy": "explicit",
        "ack_wait": nanos(times.ack_wait),
        "max_deliver": -1,
        "max_ack_pending": ACK_PENDING_MAX,
        "replay_policy": "instant",
        "inactive_threshold": nanos(times.inactive_threshold),
        "metadata": { GROUP_KEY: &*spec.group, FILTER_KEY: &*spec.filter },
    });
    match filters.as_slice() {
        [one] => config["filter_subject"] = json!(one),
        several => config["filter_subjects"] = json!(several),
    }
    config
}

fn consumer(info: &Info, is_new: bool) -> ShareConsumer {
    let ack_wait = info.config["ack_wait"].as_u64().filter(|ns| *ns > 0).unwrap_or(30_000_000_000);
    let created_ms = rfc3339_ms(&info.created).unwrap_or(u64::MAX);
    ShareConsumer { ack_wait: Duration::from_nanos(ack_wait), created_ms, is_new }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Asks a consumer for messages, as many as the caller says. One a group, filter and log of a sidecar.
pub struct SharePull {
    link: Link,
    state: watch::Receiver<LinkState>,
    log: ShareLog,
    consumer: ByteString,
    live: Option<Live>,
    messages: Vec<Message>,
}

/// A subscription on which messages arrive, and what is under way to it.
struct Live {
    inbox: String,
    subscriber: Subscriber,
    epoch: u64,
    /// Messages asked for and not yet come.
    asked: usize,
    pulls: u64,
    heard: Instant,
}

impl SharePull {
    /// Messages that were asked for and have not come.
    pub fn asked(&self) -> usize {
        self.live.as_ref().map_or(0, |live| live.asked)
    }

    /// Asks for so many messages more. Without a connection nothing happens; [`Self::next`] tells when there is one.
    pub async fn ask(&mut self, count: usize) {
        let Some(live) = &mut self.live else { return };
        live.pulls += 1;
        let bytes = PULL_BYTES.max(self.link.client.max_payload() + (64 << 10));
        let body = format!(
            r#"{{"batch":{count},"max_bytes":{bytes},"expires":{},"idle_heartbeat":{}}}"#,
            PULL_EXPIRES.as_nanos(),
            HEARTBEAT.as_nanos()
        );
        let subject = format!("$JS.API.CONSUMER.MSG.NEXT.{}.{}", self.log.stream, self.consumer);
        let reply = format!("{}.{}", live.inbox, live.pulls);
        if live.asked == 0 {
            live.heard = Instant::now();
        }
        let body = Bytes::from(body);
        let request = Outbound { reply: Some(reply.as_bytes()), ..Outbound::plain(&subject, &body) };
        if self.link.client.publish(&request).await.is_ok() {
            live.asked += count;
        }
    }

    /// Waits until something comes, and appends it to `out`. Cancelling loses nothing.
    pub async fn next(&mut self, out: &mut Vec<ShareEntry>) -> Heard {
        let Some(live) = &mut self.live else {
            self.open().await;
            return Heard::Entries;
        };
        let epoch = live.epoch;
        let silent_at = if live.asked > 0 { Some(live.heard + SILENCE_MAX) } else { None };
        let lost = self.state.wait_for(|state| !state.connected || state.epoch != epoch);
        let is_alive = tokio::select! {
            biased;
            alive = live.subscriber.receive(&mut self.messages, BATCH) => alive,
            _ = lost => false,
            () = until(silent_at) => {
                tracing::info!(consumer = &*self.consumer, "the server is silent; asking again");
                false
            }
        };
        if !is_alive {
            self.live = None;
            return Heard::Entries;
        }
        live.heard = Instant::now();
        let mut heard = Heard::Entries;
        for message in self.messages.drain(..) {
            if let Some(status) = message.status() {
                if live.is_gone(status, &message) {
                    heard = Heard::Gone;
                }
            } else if let Some(entry) = entry(&message, &self.log.prefix, self.link.client.counts()) {
                live.asked = live.asked.saturating_sub(1);
                out.push(entry);
            }
        }
        if heard == Heard::Gone {
            self.live = None;
        }
        heard
    }

    async fn open(&mut self) {
        let connected = self.state.wait_for(|state| state.connected).await.map(|state| state.epoch);
        // The sender lives as long as the link.
        let Ok(epoch) = connected else { return std::future::pending().await };
        let inbox = self.link.client.new_inbox();
        match self.link.client.subscribe(&format!("{inbox}.*"), self.link.queue_limits()) {
            Ok(subscriber) => {
                self.live = Some(Live { inbox, subscriber, epoch, asked: 0, pulls: 0, heard: Instant::now() });
            }
            Err(error) => {
                tracing::warn!(%error, "messages of a shared subscription cannot be asked for");
                tokio::time::sleep(HEARTBEAT).await;
            }
        }
    }

    /// Asks for no more. Returns what was on its way; none of it is lost. When this returns, nothing that is answered comes
    /// to us again.
    pub async fn close(mut self) -> Vec<ShareEntry> {
        let Some(live) = self.live.take() else { return Vec::new() };
        // What was taken from the queue by a wait that was cancelled is none: a wait takes all or nothing.
        let mut rest = Vec::new();
        if tokio::time::timeout(CLOSE_WITHIN, live.subscriber.drain(&mut rest)).await.is_err() {
            tracing::debug!(consumer = &*self.consumer, "messages that were on their way come again later");
        }
        rest.iter().filter_map(|message| entry(message, &self.log.prefix, self.link.client.counts())).collect()
    }
}

impl Live {
    /// Takes a message that the server made. Whether it says that there is no consumer.
    fn is_gone(&mut self, status: u16, message: &Message) -> bool {
        match status {
            404 | 408 | 409 => {
                if headers::description(message).contains("consumer deleted") {
                    return true;
                }
                let unfilled = headers::number(message, "Nats-Pending-Messages");
                let unfilled = unfilled.and_then(|count| usize::try_from(count).ok()).unwrap_or(self.asked);
                self.asked = self.asked.saturating_sub(unfilled);
                false
            }
            503 => true,
            _ => false,
        }
    }
}

fn entry(message: &Message, prefix: &str, counts: &LinkCounts) -> Option<ShareEntry> {
    if message.status().is_some() {
        return None;
    }
    let ack = ByteString::try_from(message.reply_bytes()?).ok()?;
    let delivery = parse_delivery(&ack)?;
    let is_again = delivery.count > 1;
    let entry = LogEntry::of_message(message, prefix, delivery, counts, headers::incoming_of_log)?;
    Some(ShareEntry { entry, ack, is_again })
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_consumer_says_what_it_is_for() {
        let log = ShareLog { stream: "MQTT_log".into(), prefix: "$NMQ.log.".into(), created_ms: None };
        let spec = |subjects: &[&'static str]| ShareSpec {
            consumer: "w@a,#".into(),
            group: "w".into(),
            filter: "a/#".into(),
            subjects: subjects.iter().map(|subject| ByteString::from_static(subject)).collect(),
        };
        let times = ShareTimes {
            ack_wait: Duration::from_secs(15),
            inactive_threshold: Duration::from_secs(7 * 86_400),
            unheld_threshold: Duration::from_secs(3_600),
        };
        let both = config(&log, &spec(&["a.>", "a"]), times, 8);
        assert_eq!(both["filter_subjects"], json!(["$NMQ.log.a.>", "$NMQ.log.a"]));
        assert_eq!(both["metadata"], json!({ "nats-mqtt.share": "w", "nats-mqtt.filter": "a/#" }));
        assert_eq!((&both["opt_start_seq"], &both["ack_wait"]), (&json!(8), &json!(15_000_000_000_u64)));
        let own = ShareLog { prefix: "".into(), ..log };
        assert_eq!(config(&own, &spec(&["a.*"]), times, 1)["filter_subject"], json!("a.*"));
    }
}
