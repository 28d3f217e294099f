//! Retained messages in memory: by topic, in an order that filters can be paged through. Pure: no I/O, told the time.
//!
//! Two writers: the reader of the bucket, in order of its sequences ([`RetainedIndex::apply`]), and whoever has seen a retained
//! message before the reader brings it ([`RetainedIndex::apply_live`]). The higher sequence wins, whoever brings it.
//!
//! Conversion of an entry to an MQTT message is the account's.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use mqtt_codec::{TopicFilter, TopicName};
use parking_lot::RwLock;
use proto_map::Headers;

use super::order::{Key, Ordered, Place, Verdict, first_place, judge};
use crate::overload::Lent;

/// The content of a retained message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RetainedMessage {
    /// Headers as they are stored.
    pub headers: Option<Headers>,
    /// Payload, not empty.
    pub payload: Bytes,
    /// When it was stored, milliseconds since the epoch.
    pub stored_at_ms: u64,
    /// When it ends, milliseconds since the epoch.
    pub expires_at_ms: Option<u64>,
}

/// A retained message in the index.
#[derive(Debug, PartialEq, Eq)]
pub struct RetainedEntry {
    /// Its topic.
    pub topic: TopicName,
    /// Its content.
    pub message: RetainedMessage,
    /// Its sequence in the bucket.
    pub sequence: u64,
    /// Version of the index that it came with.
    pub version: u64,
    /// Who has its payload beside the index.
    pub(crate) lent: Lent,
}

impl RetainedEntry {
    /// Bytes of its topic, headers and payload.
    fn size(&self) -> usize {
        let headers = self.message.headers.iter().flatten().map(|(name, value)| name.len() + value.len());
        self.topic.as_str().len() + self.message.payload.len() + headers.sum::<usize>()
    }
}

/// How far the index is; both numbers of the same moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IndexState {
    /// Everything in the bucket up to this sequence is in the index.
    pub applied: u64,
    /// Raised by every change.
    pub version: u64,
    /// The highest sequence of what came into the index, also before the reader brought it.
    pub highest: u64,
}

impl IndexState {
    /// A state that had everything in the bucket up to a sequence, in whatever index.
    #[must_use]
    pub const fn up_to(sequence: u64) -> Self {
        Self { applied: sequence, version: u64::MAX, highest: sequence }
    }
}

/// A search for what matches a filter, which can be broken off and gone on with.
#[derive(Clone, Debug)]
pub struct RetainedSearch {
    /// `None`: every topic.
    filter: Option<TopicFilter>,
    /// What came into the index later is not found.
    seen: IndexState,
    /// Where it goes on.
    place: String,
    /// Behind that place, and not there.
    is_past: bool,
    is_over: bool,
}

impl RetainedSearch {
    /// What matches a filter, behind the topic `after`, and was in the index at the state `seen`.
    #[must_use]
    pub fn new(filter: &TopicFilter, after: Option<&TopicName>, seen: IndexState) -> Self {
        let first = first_place(filter.matching_part());
        let after = after.map(|topic| topic.as_str());
        let after = after.filter(|after| (&Place(after) as &dyn Ordered) >= (&Place(first) as &dyn Ordered));
        Self {
            place: after.unwrap_or(first).to_owned(),
            is_past: after.is_some(),
            filter: Some(filter.clone()),
            seen,
            is_over: false,
        }
    }

    /// Everything.
    #[must_use]
    pub const fn everything(seen: IndexState) -> Self {
        Self { filter: None, seen, place: String::new(), is_past: false, is_over: false }
    }

    /// Whether nothing more can be found.
    #[must_use]
    pub const fn is_over(&self) -> bool {
        self.is_over
    }

    fn judge(&self, topic: &str) -> Verdict {
        self.filter.as_ref().map_or(Verdict::Match, |filter| judge(filter.matching_part(), topic))
    }
}

/// The index. Cheap to share; readers do not block each other.
#[derive(Debug, Default)]
pub struct RetainedIndex {
    inner: RwLock<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    topics: BTreeMap<Key, Node>,
    state: IndexState,
    /// Entries, without the marks of deleted topics.
    live: usize,
    /// Bytes of them.
    bytes: usize,
    /// By time and sequence, what expires.
    expiries: BTreeMap<(u64, u64), TopicName>,
    /// Deletions that were seen before the reader brought them; needed until it has passed them.
    deleted_early: BTreeMap<u64, TopicName>,
    /// Which snapshot is being read.
    snapshot: u32,
}

#[derive(Debug)]
struct Node {
    sequence: u64,
    /// `None`: deleted, to be kept until the reader has passed the deletion.
    entry: Option<Arc<RetainedEntry>>,
    /// The last snapshot that had it.
    snapshot: u32,
    /// Version at which it was seen live, before or after the reader brought it.
    live_at: Option<u64>,
}

impl RetainedIndex {
    /// An empty index.
    pub fn new() -> Self {
        Self::default()
    }

    /// Goes on with a search: the next entries, at most `max`, that were in the index at the state that it is for and are not
    /// expired at `now_ms`. Looks at no more than `looks` topics, which is counted down: whoever searches with the index held
    /// does so for a moment, however many topics do not match.
    pub fn search(
        &self,
        search: &mut RetainedSearch,
        max: usize,
        looks: &mut usize,
        now_ms: u64,
    ) -> Vec<Arc<RetainedEntry>> {
        let inner = self.inner.read();
        let mut page = Vec::new();
        let seen = search.seen;
        // One that the reader brought out of turn, within a snapshot, comes live to those who have seen this state.
        let was_there = |node: &Node, entry: &RetainedEntry| {
            entry.version <= seen.version
                && (entry.sequence <= seen.applied || node.live_at.is_some_and(|version| version <= seen.version))
        };
        let is_due = |node: &Node, entry: &RetainedEntry| {
            was_there(node, entry) && entry.message.expires_at_ms.is_none_or(|end| end > now_ms)
        };
        'seek: while !search.is_over && page.len() < max && *looks > 0 {
            let place = std::mem::take(&mut search.place);
            let from: &dyn Ordered = &Place(&place);
            let from = if search.is_past { Bound::Excluded(from) } else { Bound::Included(from) };
            for (key, node) in inner.topics.range::<dyn Ordered + '_, _>((from, Bound::Unbounded)) {
                *looks -= 1;
                match search.judge(&key.0) {
                    Verdict::Match => {
                        if let Some(entry) = node.entry.as_ref().filter(|entry| is_due(node, entry)) {
                            page.push(Arc::clone(entry));
                        }
                        if page.len() == max || *looks == 0 {
                            (search.place, search.is_past) = (key.0.to_string(), true);
                            continue 'seek;
                        }
                    }
                    Verdict::SeekTo(next) => {
                        (search.place, search.is_past) = (next, false);
                        continue 'seek;
                    }
                    Verdict::End => break,
                }
            }
            search.is_over = true;
        }
        page
    }

    /// What [`Self::search`] finds of one filter at once.
    #[cfg(test)]
    pub(crate) fn page(
        &self,
        filter: &TopicFilter,
        after: Option<&TopicName>,
        seen: IndexState,
        max: usize,
        now_ms: u64,
    ) -> Vec<Arc<RetainedEntry>> {
        self.search(&mut RetainedSearch::new(filter, after, seen), max, &mut usize::MAX.clone(), now_ms)
    }

    /// The entry of one topic.
    pub fn get(&self, topic: &TopicName) -> Option<Arc<RetainedEntry>> {
        let inner = self.inner.read();
        inner.topics.get::<dyn Ordered>(&Place(topic.as_str()))?.entry.clone()
    }

    /// The sequence of what the index has of a topic, which may be a deletion; 0 when it has nothing.
    pub(crate) fn sequence_of(&self, topic: &TopicName) -> u64 {
        let inner = self.inner.read();
        inner.topics.get::<dyn Ordered>(&Place(topic.as_str())).map_or(0, |node| node.sequence)
    }

    /// How far the index is.
    pub fn state(&self) -> IndexState {
        let IndexState { applied, version, highest } = self.inner.read().state;
        IndexState { applied, version, highest: highest.max(applied) }
    }

    /// Retained messages, expired ones included until they are removed.
    pub fn len(&self) -> usize {
        self.inner.read().live
    }

    /// Retained messages of other topics than this one, and their bytes.
    pub(crate) fn beside(&self, topic: &TopicName) -> (usize, usize) {
        let inner = self.inner.read();
        let known = inner.topics.get::<dyn Ordered>(&Place(topic.as_str())).and_then(|node| node.entry.as_ref());
        let (messages, bytes) = known.map_or((0, 0), |entry| (1, entry.size()));
        (inner.live - messages, inner.bytes - bytes)
    }

    /// Bytes of all retained messages: topics, headers and payloads.
    pub fn bytes(&self) -> usize {
        self.inner.read().bytes
    }

    /// Retained messages with sequences up to this one. Looks at all of them.
    pub(crate) fn len_up_to(&self, sequence: u64) -> usize {
        let inner = self.inner.read();
        inner.topics.values().filter(|node| node.entry.is_some() && node.sequence <= sequence).count()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A retained message, or with `None` a deletion, that was seen before the reader of the bucket brings it. Ignored when the
    /// index has that sequence or a later one for the topic.
    ///
    /// Returns the version from which on it is there for those who ask because it was seen live; `None` when it is there
    /// because the reader brought it, or is not there because a later one is.
    ///
    /// **Invariant:** every copy of a message has the same answer, also one that comes when the reader has passed it: between
    /// two copies somebody may have subscribed, to whom it is owed as retained.
    pub fn apply_live(&self, sequence: u64, topic: &TopicName, message: Option<RetainedMessage>) -> Option<u64> {
        let mut inner = self.inner.write();
        if sequence <= inner.state.applied {
            return inner.live_at(sequence, topic);
        }
        inner.set(sequence, topic, message);
        inner.mark_live(sequence, topic)
    }

    /// One thing that the reader of the bucket brings.
    #[cfg(test)]
    pub(crate) fn apply(&self, sequence: u64, topic: &TopicName, message: Option<RetainedMessage>) {
        self.apply_all([(sequence, topic.clone(), message)], None);
    }

    /// What the reader of the bucket brings, in ascending order within a snapshot and after it; with the sequence that it
    /// has reached, when that is known. Nobody sees a part of it.
    pub(crate) fn apply_all(
        &self,
        changes: impl IntoIterator<Item = (u64, TopicName, Option<RetainedMessage>)>,
        applied: Option<u64>,
    ) {
        let mut inner = self.inner.write();
        for (sequence, topic, message) in changes {
            inner.set(sequence, &topic, message);
        }
        if let Some(applied) = applied {
            inner.state.applied = inner.state.applied.max(applied);
            inner.forget_deletions();
        }
    }

    /// The reader has brought everything up to this sequence.
    pub(crate) fn applied(&self, sequence: u64) {
        let mut inner = self.inner.write();
        inner.state.applied = inner.state.applied.max(sequence);
        inner.forget_deletions();
    }

    /// The reader begins anew with a snapshot of the bucket.
    pub(crate) fn begin_snapshot(&self) {
        let mut inner = self.inner.write();
        inner.snapshot = inner.snapshot.wrapping_add(1);
    }

    /// The snapshot, begun when `last_sequence` was the last of the bucket, is complete: what it did not have is gone.
    pub(crate) fn end_snapshot(&self, last_sequence: u64) {
        let mut inner = self.inner.write();
        let snapshot = inner.snapshot;
        let stale = |node: &Node| node.snapshot != snapshot && node.sequence <= last_sequence && node.entry.is_some();
        let gone: Vec<Key> = inner.topics.iter().filter(|(_, node)| stale(node)).map(|(key, _)| key.clone()).collect();
        for key in gone {
            inner.remove(&key);
        }
        inner.state.applied = inner.state.applied.max(last_sequence);
        inner.forget_deletions();
    }

    /// The bucket is another one: sequences begin again.
    pub(crate) fn reset(&self) {
        let mut inner = self.inner.write();
        let version = inner.state.version + 1;
        *inner = Inner { state: IndexState { version, ..IndexState::default() }, ..Inner::default() };
    }

    /// When the next one expires, milliseconds since the epoch.
    pub(crate) fn next_expiry_ms(&self) -> Option<u64> {
        self.inner.read().expiries.first_key_value().map(|((end_ms, _), _)| *end_ms)
    }

    /// Removes what has expired.
    pub(crate) fn expire(&self, now_ms: u64) {
        let mut inner = self.inner.write();
        while let Some(entry) = inner.expiries.first_entry().filter(|entry| entry.key().0 <= now_ms) {
            let topic = entry.remove();
            inner.remove(&Key(topic.as_byte_string().clone()));
        }
    }

    /// Removes what the bucket cannot have any more because it begins at `first_sequence`: it was purged.
    pub(crate) fn drop_before(&self, first_sequence: u64) {
        let is_gone = |node: &Node| node.sequence < first_sequence && node.entry.is_some();
        let gone: Vec<Key> = {
            let inner = self.inner.read();
            inner.topics.iter().filter(|(_, node)| is_gone(node)).map(|(key, _)| key.clone()).collect()
        };
        if gone.is_empty() {
            return;
        }
        let mut inner = self.inner.write();
        for key in gone {
            if inner.topics.get(&key).is_some_and(is_gone) {
                inner.remove(&key);
            }
        }
    }
}

impl Inner {
    fn set(&mut self, sequence: u64, topic: &TopicName, message: Option<RetainedMessage>) {
        let snapshot = self.snapshot;
        let place: &dyn Ordered = &Place(topic.as_str());
        let known = self.topics.get_mut::<dyn Ordered>(place);
        if let Some(node) = known
            && node.sequence >= sequence
        {
            // The same one again, from a snapshot, or an older one.
            if node.sequence == sequence {
                node.snapshot = snapshot;
            }
            return;
        }
        let key = Key(topic.as_byte_string().clone());
        self.remove(&key);
        self.state.highest = self.state.highest.max(sequence);
        self.state.version += 1;
        let version = self.state.version;
        let entry = match message {
            Some(message) => {
                if let Some(end) = message.expires_at_ms {
                    self.expiries.insert((end, sequence), topic.clone());
                }
                let entry = RetainedEntry { topic: topic.clone(), message, sequence, version, lent: Lent::default() };
                self.live += 1;
                self.bytes += entry.size();
                Some(Arc::new(entry))
            }
            None if sequence > self.state.applied => {
                self.deleted_early.insert(sequence, topic.clone());
                None
            }
            None => return,
        };
        self.topics.insert(key, Node { sequence, entry, snapshot, live_at: None });
    }

    /// The version at which the message with this sequence was seen live.
    fn live_at(&self, sequence: u64, topic: &TopicName) -> Option<u64> {
        let node = self.topics.get::<dyn Ordered>(&Place(topic.as_str()))?;
        node.live_at.filter(|_| node.sequence == sequence)
    }

    /// The message with this sequence was seen live. From the version that this makes on it is there for those who ask.
    fn mark_live(&mut self, sequence: u64, topic: &TopicName) -> Option<u64> {
        let version = self.state.version + 1;
        let place: &dyn Ordered = &Place(topic.as_str());
        let node = self.topics.get_mut::<dyn Ordered>(place).filter(|node| node.sequence == sequence)?;
        if node.live_at.is_none() {
            node.live_at = Some(version);
            self.state.version = version;
        }
        node.live_at
    }

    /// Takes a topic out, with all that refers to it.
    fn remove(&mut self, key: &Key) {
        let Some(node) = self.topics.remove(key) else { return };
        self.state.version += 1;
        if let Some(entry) = node.entry {
            self.live -= 1;
            self.bytes -= entry.size();
            if let Some(end) = entry.message.expires_at_ms {
                self.expiries.remove(&(end, entry.sequence));
            }
        } else {
            self.deleted_early.remove(&node.sequence);
        }
    }

    /// Deletions that the reader has passed need no mark: nothing older can come any more.
    fn forget_deletions(&mut self) {
        while let Some(entry) = self.deleted_early.first_entry().filter(|entry| *entry.key() <= self.state.applied) {
            let key = Key(entry.get().as_byte_string().clone());
            self.remove(&key);
        }
    }
}

#[cfg(test)]
#[path = "index_tests.rs"]
mod tests;
