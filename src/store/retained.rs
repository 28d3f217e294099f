//! Retained messages: a bucket that `nats kv` reads and writes, and an index of it in memory that is fresh when it is asked to be.
//!
//! Writing is the publisher's (`PutTarget::Retained`). Here the bucket is read: a snapshot of every topic's last message, then
//! whatever comes. After every loss of the connection it begins with a snapshot again, so that deletions whose markers
//! have gone meanwhile are noticed.

mod index;
mod order;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use mqtt_session::Sequence;
use proto_map::{Names, StreamSpec, topic_of};
use tokio::sync::{Mutex, Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

pub use self::index::{IndexState, RetainedEntry, RetainedIndex, RetainedMessage, RetainedSearch};
use super::api::{Api, StreamState};
use super::assets::Assets;
use super::connection::Link;
use super::entry::LogEntry;
use super::error::Unavailable;
use super::head::Head;
use super::headers;
use super::pulse::{Pulse, READS_WITHIN};
use super::reader::{Pace, Progress, Reader, Source};
use crate::overload::Lent;

const BATCH_MAX: usize = 512;
/// How often expired entries are removed at most; they are not shown before that.
const EXPIRE_EVERY: Duration = Duration::from_secs(1);
/// How often the server's time is looked at, at least, while something is to expire.
const EXPIRE_WITHIN: Duration = Duration::from_secs(60);
const MISSING_PAUSE: Duration = Duration::from_millis(500);
/// How long the reader may be behind before it is asked whether anything is to come at all: the last message of the bucket
/// may have expired, and then nothing comes.
const CATCH_UP_PATIENCE: Duration = Duration::from_millis(100);
/// Messages that one caller reads by sequence at the same time.
const GETS_MAX: usize = 128;
/// How long a subscriber may wait for a fresh index.
const FRESH_WITHIN: Duration = Duration::from_secs(10);

/// The retained messages of an account.
#[derive(Clone)]
pub struct Retained {
    shared: Arc<Shared>,
    /// None in an account without JetStream.
    _task: Option<Arc<Abort>>,
}

struct Shared {
    api: Api,
    names: Names,
    stream: Arc<str>,
    index: Arc<RetainedIndex>,
    head: Head,
    reading: watch::Receiver<Reading>,
    /// One question about the consumer at a time; those who wait for it look at the index first.
    asking: Mutex<()>,
    /// The index knows what is not in the bucket.
    read_again: Notify,
    /// Of the reader of the bucket.
    pulse: Arc<Pulse>,
    /// The index has, or had for as long as its reader was heard of, everything in the bucket.
    whole: watch::Sender<Whole>,
}

/// Whether the index has everything that is in the bucket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Whole {
    /// It never had.
    #[default]
    NotYet,
    /// It has.
    Yes,
    /// It is being read anew since then.
    NotSince(Instant),
}

/// How far the reader is.
#[derive(Clone, Debug, Default)]
struct Reading {
    /// Consumer and how many messages it has given.
    consumer: Option<(String, u64)>,
    /// Up to here the index has everything.
    applied: u64,
}

struct Abort(JoinHandle<()>);

impl Drop for Abort {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Retained {
    pub(super) fn start(
        api: Api,
        link: Link,
        names: Names,
        assets: Assets,
        spec: StreamSpec,
        payload_max: usize,
    ) -> Self {
        let stream: Arc<str> = Arc::from(spec.name.as_str());
        let source = Source {
            stream: Arc::clone(&stream),
            prefix: Arc::from(names.retained_subjects().trim_end_matches('>')),
            purpose: "retained",
            last_per_subject: true,
            pace: Pace { batch: 2_048, bytes: (8 << 20).max(payload_max + (64 << 10)), overlap: true },
        };
        let pulse = Arc::<Pulse>::default();
        let reader = Reader::new(api.clone(), link, source, 1).watched_by(Arc::clone(&pulse));
        let (tx, reading) = watch::channel(Reading::default());
        let index = Arc::new(RetainedIndex::new());
        let shared = Arc::new(Shared {
            head: Head::new(api.clone(), Arc::clone(&stream)),
            api,
            names,
            stream,
            index,
            reading,
            asking: Mutex::new(()),
            read_again: Notify::new(),
            pulse,
            whole: watch::Sender::default(),
        });
        let follower = Follower { shared: Arc::clone(&shared), assets, spec, tx, snapshot: None };
        let task = (!shared.api.is_absent).then(|| Arc::new(Abort(shared.api.link.tasks.spawn(follower.run(reader)))));
        Self { shared, _task: task }
    }

    /// The index. What is read from it is as fresh as the last [`Retained::bring_up_to_date`].
    pub fn index(&self) -> &Arc<RetainedIndex> {
        &self.shared.index
    }

    /// The retained messages with these sequences of the bucket, from the leader; those that are not there any more, because a
    /// newer one of the topic has taken their place, are left out.
    ///
    /// # Errors
    /// When JetStream does not answer for one of them.
    pub async fn get_many(&self, sequences: &[Sequence]) -> Result<Vec<RetainedEntry>, Unavailable> {
        let get = |Sequence(sequence)| self.shared.get(sequence);
        let mut answers = stream::iter(sequences.to_vec()).map(get).buffered(GETS_MAX);
        let mut entries = Vec::with_capacity(sequences.len());
        while let Some(answer) = answers.next().await {
            entries.extend(answer?);
        }
        Ok(entries)
    }

    /// What was put last under a key, from the leader.
    ///
    /// # Errors
    /// When JetStream does not answer.
    pub(crate) async fn last(&self, subject: &str) -> Result<Option<LogEntry>, Unavailable> {
        let api = &self.shared.api;
        let stored = api.unless_lost(api.last_message(&self.shared.stream, subject)).await?;
        match stored {
            None => Ok(None),
            Some(stored) => match LogEntry::of_stored(stored, "") {
                Some(entry) => Ok(Some(entry)),
                None => Err(Unavailable::new("a retained message cannot be read")),
            },
        }
    }

    /// Whether the index has everything in the bucket and its reader reads, or was so a moment ago.
    pub fn is_warm(&self) -> bool {
        let is_whole = match *self.shared.whole.borrow() {
            Whole::NotYet => false,
            Whole::Yes => true,
            Whole::NotSince(since) => since.elapsed() < READS_WITHIN,
        };
        is_whole && self.shared.pulse.is_reading()
    }

    /// When this returns, everything that was stored before the call, by anybody, is in the index. Callers that wait at the same
    /// time share the question.
    ///
    /// # Errors
    /// When JetStream does not answer within some seconds.
    pub async fn bring_up_to_date(&self) -> Result<(), Unavailable> {
        tokio::time::timeout(FRESH_WITHIN, self.shared.bring_up_to_date())
            .await
            .unwrap_or_else(|_| Err(Unavailable::new("the retained messages are still being read")))
    }
}

impl Shared {
    async fn get(&self, sequence: u64) -> Result<Option<RetainedEntry>, Unavailable> {
        let stored = self.api.unless_lost(self.api.message_at(&self.stream, sequence)).await?;
        let entry = stored.and_then(|stored| LogEntry::of_stored(stored, ""));
        Ok(entry.and_then(|entry| {
            let topic = topic_of(self.names.strip_retained(entry.stream_subject())?.as_str()).ok()?;
            Some(RetainedEntry { topic, sequence, version: 0, message: retained(entry)?, lent: Lent::default() })
        }))
    }

    async fn bring_up_to_date(&self) -> Result<(), Unavailable> {
        let head = self.head.read().await?;
        self.check_for_purge(head);
        let target = head.last_seq;
        if self.is_applied(target) {
            return Ok(());
        }
        let mut reading = self.reading.clone();
        loop {
            let wait = reading.wait_for(|reading| reading.applied >= target);
            match tokio::time::timeout(CATCH_UP_PATIENCE, wait).await {
                Ok(Ok(_)) => return Ok(()),
                Ok(Err(_)) => return Err(Unavailable::new("the store is closed")),
                Err(_) => {}
            }
            let _one = self.asking.lock().await;
            if self.is_applied(target) || self.nothing_is_to_come(target).await {
                return Ok(());
            }
        }
    }

    /// A purge leaves no trace but a stream with fewer messages than we know.
    fn check_for_purge(&self, head: StreamState) {
        // What was seen live and is newer than the head is no sign of a purge.
        let known = || u64::try_from(self.index.len_up_to(head.last_seq)).unwrap_or(u64::MAX);
        if u64::try_from(self.index.len()).is_ok_and(|len| len <= head.messages) || known() <= head.messages {
            return;
        }
        self.index.expire(self.api.link.clock.earliest().0);
        self.index.drop_before(head.first_seq);
        if self.index.state().applied == head.last_seq && known() > head.messages {
            tracing::warn!(stream = %self.stream, "retained messages were purged, reading all of them again");
            self.read_again.notify_one();
        }
    }

    fn set_whole(&self, is_whole: bool) {
        self.whole.send_if_modified(|whole| {
            let before = *whole;
            *whole = match before {
                _ if is_whole => Whole::Yes,
                Whole::Yes => Whole::NotSince(Instant::now()),
                other => other,
            };
            *whole != before
        });
    }

    /// When entries are to be removed next, which have been at `last`: when the first of them expires. What is seen live is
    /// brought by the reader as well, so nothing comes that this is not asked about.
    fn expiry(&self, last: Instant) -> Option<Instant> {
        let left_ms = self.index.next_expiry_ms()?.saturating_sub(self.api.link.clock.earliest().0);
        Some((Instant::now() + Duration::from_millis(left_ms).min(EXPIRE_WITHIN)).max(last + EXPIRE_EVERY))
    }

    fn is_applied(&self, sequence: u64) -> bool {
        self.index.state().applied >= sequence
    }

    /// Asks the consumer whether it has anything left; if it has not, and all that it sent has come, then what is missing up
    /// to `target` is not in the bucket any more.
    async fn nothing_is_to_come(&self, target: u64) -> bool {
        let Some((name, _)) = self.reading.borrow().consumer.clone() else { return false };
        let Ok(info) = self.api.consumer_info(&self.stream, &name).await else { return false };
        if info.num_pending > 0 {
            return false;
        }
        let is_seen = |reading: &Reading| {
            reading
                .consumer
                .as_ref()
                .is_some_and(|(current, seen)| *current == name && *seen >= info.delivered.consumer_seq)
        };
        let mut reading = self.reading.clone();
        let seen = tokio::time::timeout(CATCH_UP_PATIENCE, reading.wait_for(is_seen)).await;
        if !matches!(seen, Ok(Ok(_))) {
            return false;
        }
        self.index.applied(target);
        self.set_whole(true);
        true
    }
}

/// Keeps the index like the bucket.
struct Follower {
    shared: Arc<Shared>,
    assets: Assets,
    spec: StreamSpec,
    tx: watch::Sender<Reading>,
    /// A snapshot is being read, begun when this was the last sequence.
    snapshot: Option<u64>,
}

impl Follower {
    async fn run(mut self, mut reader: Reader) {
        let mut batch = Vec::with_capacity(BATCH_MAX);
        let mut expired_at = Instant::now();
        loop {
            let expiry = self.shared.expiry(expired_at);
            let progress = tokio::select! {
                progress = reader.next(&mut batch, BATCH_MAX) => progress,
                () = tokio::time::sleep_until(expiry.unwrap_or(expired_at)), if expiry.is_some() => {
                    self.shared.index.expire(self.shared.api.link.clock.earliest().0);
                    expired_at = Instant::now();
                    continue;
                }
                () = self.shared.read_again.notified(), if self.snapshot.is_none() => {
                    reader.begin_again().await;
                    continue;
                }
            };
            match progress {
                Ok(Progress::Read) => self.apply(&mut batch, &reader),
                Ok(Progress::SnapshotBegins { last_sequence }) => {
                    self.shared.set_whole(false);
                    self.shared.index.begin_snapshot();
                    self.snapshot = Some(last_sequence);
                    // An empty bucket has no message that could end its snapshot.
                    self.apply(&mut batch, &reader);
                }
                Ok(Progress::Restarted { .. }) => {
                    tracing::error!(stream = %self.shared.stream, "the bucket of retained messages was recreated");
                    self.shared.set_whole(false);
                    self.shared.index.reset();
                    self.tx.send_modify(|reading| *reading = Reading::default());
                }
                Ok(Progress::StreamMissing) => {
                    tracing::error!(stream = %self.shared.stream, "the bucket of retained messages is gone");
                    if let Err(error) = self.assets.ensure(&self.spec).await {
                        tracing::error!(%error, "cannot make it again");
                    }
                    tokio::time::sleep(MISSING_PAUSE).await;
                }
                Err(_) => {}
            }
        }
    }

    fn apply(&mut self, batch: &mut Vec<LogEntry>, reader: &Reader) {
        let index = &self.shared.index;
        let names = &self.shared.names;
        let changes = batch.drain(..).filter_map(|entry| {
            // A key that no topic has was put there by somebody else, and no filter can ask for it.
            let subject = names.strip_retained(entry.stream_subject())?;
            Some((entry.sequence, topic_of(subject.as_str()).ok()?, retained(entry)))
        });
        // Before its end a snapshot has gaps: topics that have changed since it began come later.
        index.apply_all(changes, self.snapshot.is_none().then(|| reader.position() - 1));
        if let Some(last_sequence) = self.snapshot
            && reader.is_caught_up()
        {
            index.end_snapshot(last_sequence);
            self.snapshot = None;
            index.applied(reader.position() - 1);
            self.shared.set_whole(true);
        }
        let applied = index.state().applied;
        let consumer = reader.consumer().map(|(name, seen)| (name.to_owned(), seen));
        self.tx.send_modify(|reading| *reading = Reading { consumer, applied });
    }
}

/// What an entry of the bucket means: a message, or with `None` that there is none.
pub(super) fn retained(mut entry: LogEntry) -> Option<RetainedMessage> {
    let header = |name| entry.headers.as_ref().and_then(|headers| headers::first(headers, name));
    let is_marker =
        header("KV-Operation").is_some_and(|operation| operation != "PUT") || header("Nats-Marker-Reason").is_some();
    // A retained message without payload deletes [MQTT-3.3.1-6] and is not kept itself [MQTT-3.3.1-7]; so is an empty value
    // from NATS.
    if is_marker || entry.payload.is_empty() {
        return None;
    }
    let ttl_ms = header("Nats-TTL").and_then(ttl_ms);
    if let Some(headers) = &mut entry.headers {
        // What the write was compared with, which the server keeps, is nothing about the message.
        headers.retain(|(name, _)| !name.starts_with("Nats-Expected-"));
        headers.shrink_to_fit();
    }
    Some(RetainedMessage {
        expires_at_ms: ttl_ms.map(|ttl_ms| entry.stored_at_ms.saturating_add(ttl_ms)),
        headers: entry.headers,
        // A copy: what arrived is part of a read buffer, which would live as long as the last entry of it.
        payload: Bytes::copy_from_slice(&entry.payload),
        stored_at_ms: entry.stored_at_ms,
    })
}

/// `Nats-TTL` in milliseconds: seconds, or a duration like `1h30m`; `None` for `never` and for what cannot be read.
fn ttl_ms(text: &str) -> Option<u64> {
    if let Ok(seconds) = text.parse::<u64>() {
        return seconds.checked_mul(1_000);
    }
    let mut total = 0.0_f64;
    let mut rest = text;
    while !rest.is_empty() {
        let unit_at = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(unit_at);
        let unit_end = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        let unit_ms = match unit {
            "h" => 3_600_000.0,
            "m" => 60_000.0,
            "s" => 1_000.0,
            "ms" => 1.0,
            _ => return None,
        };
        total += number.parse::<f64>().ok()? * unit_ms;
        rest = tail;
    }
    // Truncation is fine: it is an instant of expiry.
    (total > 0.0).then_some(total as u64)
}

#[cfg(test)]
mod tests {
    use super::ttl_ms;

    #[test]
    fn times_to_live_are_read_as_the_server_reads_them() {
        assert_eq!(ttl_ms("60"), Some(60_000));
        assert_eq!(ttl_ms("1h30m"), Some(5_400_000));
        assert_eq!(ttl_ms("1.5s"), Some(1_500));
        assert_eq!(ttl_ms("never"), None);
        assert_eq!(ttl_ms(""), None);
    }
}
