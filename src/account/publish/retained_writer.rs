//! Puts into the bucket of retained messages: compared with what was there, one at a time for each key.
//!
//! ```text
//! submit ──▶ (a put of the key is under way: wait) ──▶ put, expecting the last sequence that we know ──▶ stored
//!                                                         │ another sequence is there
//!                                                         ▼
//!              read the key at its leader ──▶ it is ours: stored
//!                         │
//!                         └─▶ whose it is has ended: withdrawn, nothing is written
//!                         └─▶ otherwise put again, expecting what was read
//! ```
//!
//! **Invariant:** a put changes a key only if nobody has changed it since it was known that the put's client had published
//! nothing later, elsewhere. So what an ended connection has left on the wire, or repeats, or sends for the first time
//! when it wakes, finds another sequence than it expects; and before it is told the one that is there, the record of its
//! session is read, behind that. Whoever becomes the owner after that reading writes after it, and changes the sequence.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use bytestring::ByteString;
use foldhash::HashMap;
use mqtt_codec::TopicName;
use mqtt_ownership::Epoch;
use mqtt_session::Sequence;
use parking_lot::Mutex;
use proto_map::Headers;
use tokio::sync::watch;

use crate::account::ownership::doubt::Doubt;
use crate::store::{
    Loaded, LogEntry, Permit, Publisher, Put, PutError, PutGuard, PutTarget, Retained, Sessions, Store, Stored,
    StoredSink, Unavailable,
};
use crate::tasks::Tasks;

/// JetStream errors: the key has another sequence, or it is not decided yet which one it has.
const WRONG_SEQUENCE: [u32; 3] = [10071, 10163, 10164];

/// How long a put is tried against others.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long to wait before a key is read again, at least and at most.
const PAUSE_MIN: Duration = Duration::from_millis(2);
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// Keys whose last sequence is remembered though the index does not have them.
pub(super) const KEYS_MAX: usize = 16_384;

/// On whose behalf something is published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OnBehalf {
    /// The client.
    pub(crate) client_id: ByteString,
    /// Epoch of its connection.
    pub(crate) epoch: Epoch,
    /// It is the will of that connection, so it is published when the epoch has ended.
    pub(crate) is_will: bool,
}

/// Writes retained messages.
pub(crate) struct RetainedWriter {
    publisher: Publisher,
    retained: Retained,
    sessions: Sessions,
    doubt: Arc<Doubt>,
    state: Mutex<State>,
    tasks: Tasks,
    me: Weak<Self>,
}

#[derive(Default)]
struct State {
    /// The keys of which a put is under way.
    keys: HashMap<ByteString, Key>,
    /// What is with the publisher, by the token that it has there.
    under_way: HashMap<u64, Writing>,
    next: u64,
    last: LastSequences,
    /// Those that have got results, and have yet to hear that these are all.
    unflushed: Vec<Arc<dyn StoredSink>>,
}

/// A key of which a put is under way.
#[derive(Default)]
struct Key {
    /// On whose behalf.
    current: Option<OnBehalf>,
    /// What waits for it.
    waiting: VecDeque<Waiting>,
}

struct Waiting {
    permit: Option<Permit>,
    writing: Writing,
}

/// A put, and what is needed to make it again.
struct Writing {
    topic: TopicName,
    subject: ByteString,
    is_delete: bool,
    headers: Headers,
    payload: Bytes,
    ttl_s: Option<u32>,
    guard: Option<Arc<dyn PutGuard>>,
    sink: Arc<dyn StoredSink>,
    token: u64,
    behalf: Option<OnBehalf>,
    until: Instant,
    pause: Duration,
}

/// What is known of keys beyond the index: their last puts, and deletions that the index has forgotten.
#[derive(Default)]
pub(super) struct LastSequences {
    young: HashMap<ByteString, LastPut>,
    old: HashMap<ByteString, LastPut>,
}

/// The last put of a key.
#[derive(Clone, Default)]
pub(super) struct LastPut {
    pub(super) sequence: Sequence,
    pub(super) behalf: Option<OnBehalf>,
}

impl LastSequences {
    pub(super) fn get(&self, subject: &ByteString) -> Option<&LastPut> {
        self.young.get(subject).or_else(|| self.old.get(subject))
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }

    pub(super) fn set(&mut self, subject: ByteString, put: LastPut) {
        if self.young.len() >= KEYS_MAX / 2 {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(subject, put);
    }
}

impl RetainedWriter {
    /// `is_occupied`: whether anybody is connected.
    pub(in crate::account) fn start(store: &Store, is_occupied: watch::Receiver<bool>) -> Arc<Self> {
        Arc::new_cyclic(|me| Self {
            publisher: store.publisher().clone(),
            retained: store.retained().clone(),
            sessions: store.sessions().clone(),
            doubt: Doubt::start(store, is_occupied, PATIENCE),
            state: Mutex::default(),
            tasks: store.tasks().clone(),
            me: Weak::clone(me),
        })
    }

    /// Has a message put into the bucket, behind what was submitted for its key before. Its sink is told.
    pub(crate) fn submit(&self, permit: Permit, put: Put, topic: &TopicName, behalf: Option<OnBehalf>) {
        let Put { target, headers, payload, ttl_s, guard, sink, token, .. } = put;
        let PutTarget::Retained { subject, delete: is_delete } = target else { return };
        let (topic, until, pause) = (topic.to_owned_copy(), Instant::now() + PATIENCE, PAUSE_MIN);
        let writing =
            Writing { topic, subject, is_delete, headers, payload, ttl_s, guard, sink, token, behalf, until, pause };
        let mut state = self.state.lock();
        if let Some(key) = state.keys.get_mut(&writing.subject) {
            key.waiting.push_back(Waiting { permit: Some(permit), writing });
            return;
        }
        let key = Key { current: writing.behalf.clone(), waiting: VecDeque::new() };
        state.keys.insert(writing.subject.clone(), key);
        drop(state);
        self.begin(Some(permit), writing);
    }

    /// Whether the last put of a key is on this behalf, as far as is known here, or one is under way.
    pub(crate) fn is_last_of(&self, subject: &ByteString, topic: &TopicName, behalf: &OnBehalf) -> bool {
        let is_it = |other: &Option<OnBehalf>| other.as_ref() == Some(behalf);
        let state = self.state.lock();
        let is_under_way = |key: &Key| is_it(&key.current) || key.waiting.iter().any(|w| is_it(&w.writing.behalf));
        let known = || Sequence(self.retained.index().sequence_of(topic));
        state.keys.get(subject).is_some_and(is_under_way)
            || state.last.get(subject).is_some_and(|last| is_it(&last.behalf) && last.sequence >= known())
    }

    /// Whether the bucket is read before anything is put.
    #[cfg(test)]
    pub(crate) fn is_in_doubt(&self) -> bool {
        self.doubt.is_in_doubt()
    }

    fn begin(&self, permit: Option<Permit>, writing: Writing) {
        match permit {
            Some(permit) if !self.doubt.is_in_doubt() => {
                let last = self.state.lock().last.get(&writing.subject).map(|last| last.sequence);
                let known = Sequence(self.retained.index().sequence_of(&writing.topic));
                self.put(permit, writing, last.unwrap_or_default().max(known));
            }
            _ => self.look(writing),
        }
    }

    fn put(&self, permit: Permit, writing: Writing, expected: Sequence) {
        let Some(sink) = self.me.upgrade() else { return };
        let mut state = self.state.lock();
        let token = state.next;
        state.next += 1;
        let put = Put {
            target: PutTarget::Retained { subject: writing.subject.clone(), delete: writing.is_delete },
            headers: writing.headers.clone(),
            payload: writing.payload.clone(),
            ttl_s: writing.ttl_s,
            expected_last: Some(expected.0),
            guard: writing.guard.clone(),
            sink,
            token,
        };
        state.under_way.insert(token, writing);
        drop(state);
        self.publisher.submit(permit, put);
    }

    /// Finds out at the leader what is to become of a put, in a task of its own.
    fn look(&self, mut writing: Writing) {
        let Some(writer) = self.me.upgrade() else { return };
        self.tasks.spawn(async move {
            loop {
                if !writing.is_wanted() {
                    return writer.finish_now(writing, Err(PutError::Withdrawn));
                }
                if Instant::now() >= writing.until {
                    return writer.finish_now(writing, Err(PutError::Unavailable));
                }
                match writer.judge(&writing).await {
                    Ok(Verdict::IsThere(sequence)) => {
                        return writer.finish_now(writing, Ok(Stored { sequence: sequence.0, duplicate: true }));
                    }
                    Ok(Verdict::HasEnded) => {
                        tracing::debug!(topic = writing.topic.as_str(), "a retained message came too late");
                        return writer.finish_now(writing, Err(PutError::Withdrawn));
                    }
                    Ok(Verdict::PutAfter(sequence)) => {
                        let permit = writer.permit(&writing).await;
                        return writer.put(permit, writing, sequence);
                    }
                    Err(error) => tracing::debug!(%error, "a retained message waits for its bucket"),
                }
                writing.wait().await;
            }
        });
    }

    async fn judge(&self, writing: &Writing) -> Result<Verdict, Unavailable> {
        let last = self.retained.last(&writing.subject).await?;
        if let Some(last) = last.as_ref().filter(|last| writing.is(last)) {
            return Ok(Verdict::IsThere(Sequence(last.sequence)));
        }
        // In this order: who owns the session after this has changed nothing before that.
        if let Some(behalf) = &writing.behalf
            && self.has_ended(behalf).await?
        {
            return Ok(Verdict::HasEnded);
        }
        Ok(Verdict::PutAfter(Sequence(last.map_or(0, |last| last.sequence))))
    }

    /// Whether what is published on this behalf is not wanted any more. A client that is gone and has not come back has
    /// published what it has published. That the epoch goes on is confirmed by a write that is compared with its record, since
    /// a read may be answered by somebody who knows less.
    async fn has_ended(&self, behalf: &OnBehalf) -> Result<bool, Unavailable> {
        let Loaded { record, sequence, .. } = self.sessions.load(&behalf.client_id).await?;
        let has_ended = match record {
            Some(record) if behalf.is_will => !record.owes_will_of(behalf.epoch.0),
            None => behalf.is_will,
            Some(record) => Epoch(record.epoch) > behalf.epoch,
        };
        // A leader that has been deposed, or has just been elected, may answer with a record that is not the last one.
        Ok(has_ended || !self.sessions.is_last(&behalf.client_id, sequence).await?)
    }

    /// A permit to put once more. What waits for the key has some, and cannot use them before.
    async fn permit(&self, writing: &Writing) -> Permit {
        let bytes = writing.payload.len() + writing.subject.len();
        if let Some(permit) = self.publisher.try_permit(bytes) {
            return permit;
        }
        let of_next = || {
            let mut state = self.state.lock();
            state.keys.get_mut(&writing.subject)?.waiting.iter_mut().find_map(|w| w.permit.take())
        };
        match of_next() {
            Some(permit) => permit,
            None => self.publisher.permit(bytes).await,
        }
    }

    /// Whether the last put of its key is behind a sequence, and on the same behalf.
    fn is_overtaken(&self, writing: &Writing, sequence: Sequence) -> bool {
        let state = self.state.lock();
        let last = state.last.get(&writing.subject);
        writing.behalf.is_some() && last.is_some_and(|last| last.sequence > sequence && last.behalf == writing.behalf)
    }

    fn finish_now(&self, writing: Writing, result: Result<Stored, PutError>) {
        self.finish(writing, result);
        self.flush();
    }

    fn finish(&self, writing: Writing, result: Result<Stored, PutError>) {
        let Writing { subject, sink, token, behalf, .. } = writing;
        let stored = result.as_ref().ok().map(|stored| Sequence(stored.sequence));
        sink.stored(token, result);
        let mut state = self.state.lock();
        if let Some(sequence) = stored {
            state.last.set(subject.clone(), LastPut { sequence, behalf });
        }
        if !state.unflushed.last().is_some_and(|last| Arc::ptr_eq(last, &sink)) {
            state.unflushed.push(sink);
        }
        let next = state.keys.get_mut(&subject).and_then(|key| {
            let next = key.waiting.pop_front()?;
            key.current.clone_from(&next.writing.behalf);
            Some(next)
        });
        match next {
            Some(Waiting { permit, writing }) => {
                drop(state);
                self.begin(permit, writing);
            }
            None => _ = state.keys.remove(&subject),
        }
    }
}

/// What is to become of a put.
enum Verdict {
    /// It is there, at this sequence.
    IsThere(Sequence),
    /// It is to be put, if this is still the last sequence of its key.
    PutAfter(Sequence),
    /// Its client has come back elsewhere, or its will is done with.
    HasEnded,
}

impl Writing {
    fn is_wanted(&self) -> bool {
        self.guard.as_ref().is_none_or(|guard| guard.is_wanted())
    }

    /// Whether an entry of the bucket is what this put makes of its key.
    fn is(&self, entry: &LogEntry) -> bool {
        let value = |name: &str| {
            let mut headers = entry.headers.iter().flatten();
            headers.find(|(header, _)| **header == *name).map(|(_, value)| &**value)
        };
        if self.is_delete {
            return value("KV-Operation").is_some_and(|operation| operation != "PUT");
        }
        let ttl = self.ttl_s.map(|s| s.to_string());
        entry.payload == self.payload
            && value("KV-Operation").is_none()
            && value(proto_map::name::NATS_TTL) == ttl.as_deref()
            && self
                .headers
                .iter()
                .all(|(name, value)| entry.headers.iter().flatten().any(|h| h.0 == *name && h.1 == *value))
    }

    /// Waits before the key is looked at again: longer each time, and not as long as others do.
    async fn wait(&mut self) {
        tokio::time::sleep(self.pause.mul_f64(rand::random_range(0.5..1.5))).await;
        self.pause = (self.pause * 2).min(PAUSE_MAX);
    }
}

impl StoredSink for RetainedWriter {
    fn stored(&self, token: u64, result: Result<Stored, PutError>) {
        let Some(mut writing) = self.state.lock().under_way.remove(&token) else { return };
        match result {
            Err(PutError::Rejected { code, .. }) if WRONG_SEQUENCE.contains(&code) => {
                let Some(writer) = self.me.upgrade() else { return };
                if writing.pause == PAUSE_MIN {
                    writing.pause *= 2;
                    return self.look(writing);
                }
                self.tasks.spawn(async move {
                    writing.wait().await;
                    writer.look(writing);
                });
            }
            // With an id of its publisher's own it is there already, behind which its publisher has put something older again.
            Ok(Stored { duplicate: true, sequence }) if self.is_overtaken(&writing, Sequence(sequence)) => {
                let Some(writer) = self.me.upgrade() else { return };
                writing.headers.retain(|(name, _)| **name != *proto_map::name::NATS_MSG_ID);
                writer.look(writing);
            }
            result => self.finish(writing, result),
        }
    }

    fn flush(&self) {
        let unflushed = std::mem::take(&mut self.state.lock().unflushed);
        for sink in unflushed {
            sink.flush();
        }
    }
}
