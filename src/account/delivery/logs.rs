//! The logs of the account: the one that is always there, those that the operator declared, and streams of others that have
//! subjects of devices. For every subject exactly one of them owns it.
//!
//! A log has a number, which means something in this process only, and a key, by which records name it: the stream and
//! when it was created, so that a stream that was made anew is another log. Each log has a tail and scans of its own.
//!
//! Which streams there are is for `follower`.

mod follower;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use bytestring::ByteString;
use mqtt_codec::TopicFilter;
use mqtt_ownership::ServerTime;
use mqtt_session::{Cursors, GONE, Position, Sequence};
use parking_lot::{Mutex, MutexGuard, RwLock};
use proto_map::{Carrier, Names, Subject, SubjectMap};

pub(in crate::account) use self::follower::{FRESH_FOR, Follower};
use crate::account::delivery::catch_up::CatchUp;
use crate::account::publish::ended_epochs::EndedEpochs;
use crate::store::{Log, PutTarget, SequencesInLogs, Tail};

/// What a record has instead of a log's key when a place is in the bucket of retained messages. No key of a log is like it.
const IN_RETAINED: &str = "retained";

/// Where the tail of a log stands: everything up to this sequence was routed. Holding it holds the tail.
#[derive(Debug)]
pub(crate) struct TailPosition(pub(in crate::account) Sequence);

impl TailPosition {
    /// The last sequence that the tail has routed.
    pub(crate) const fn sequence(&self) -> Sequence {
        self.0
    }
}

/// Whose a log is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// Ours: its subjects begin with this.
    Ours {
        /// The prefix.
        prefix: ByteString,
    },
    /// Somebody else's, on natural subjects.
    Attached {
        /// It allows a time to live per message.
        ttl: bool,
    },
}

/// One log.
#[derive(Debug)]
pub(crate) struct LogHandle {
    /// Its number.
    pub(crate) number: u16,
    /// How records name it; empty for the one that is always there.
    pub(crate) key: ByteString,
    /// Whose it is.
    pub(crate) owner: Owner,
    /// The log.
    pub(crate) log: Log,
    /// Sessions that are behind in it.
    pub(crate) catch_up: CatchUp,
    /// What its readers know of those who published into it.
    pub(crate) epochs: EndedEpochs,
    tail: Mutex<TailPosition>,
    tail_sequence: AtomicU64,
    is_gone: AtomicBool,
}

impl LogHandle {
    fn new(number: u16, key: ByteString, owner: Owner, log: Log) -> Self {
        let (tail, tail_sequence) = (Mutex::new(TailPosition(Sequence(0))), AtomicU64::new(0));
        let (catch_up, epochs, is_gone) = (CatchUp::default(), EndedEpochs::default(), AtomicBool::new(false));
        Self { number, key, owner, log, catch_up, epochs, tail, tail_sequence, is_gone }
    }

    /// When the stream was created; `None` of the log that is always there.
    pub(crate) fn created(&self) -> Option<ServerTime> {
        self.key.rsplit_once('@')?.1.parse().ok().map(ServerTime)
    }

    /// Stops the tail while the guard lives.
    pub(crate) fn hold(&self) -> MutexGuard<'_, TailPosition> {
        self.tail.lock()
    }

    /// A sequence that the tail has routed; it may have routed more.
    pub(crate) fn tail_sequence(&self) -> Sequence {
        Sequence(self.tail_sequence.load(Ordering::Acquire))
    }

    /// The tail has routed everything up to where the guard says.
    pub(crate) fn routed(&self, tail: &TailPosition) {
        self.tail_sequence.store(tail.0.0, Ordering::Release);
    }

    /// The tail begins with this sequence.
    pub(in crate::account) fn starts_at(&self, first: Sequence) {
        let mut tail = self.hold();
        tail.0 = tail.0.max(first.before());
        self.routed(&tail);
    }

    /// The place of a sequence.
    pub(crate) const fn position(&self, sequence: Sequence) -> Position {
        Position::new(self.number, sequence)
    }

    /// Whether the stream is gone.
    pub(crate) fn is_gone(&self) -> bool {
        self.is_gone.load(Ordering::Acquire)
    }

    /// What its messages travel in.
    pub(crate) const fn carrier(&self) -> Carrier {
        match self.owner {
            Owner::Ours { .. } => Carrier::StreamWithTtl,
            Owner::Attached { ttl } => Carrier::Attached { ttl },
        }
    }

    /// Whether it is a stream of somebody else.
    pub(crate) const fn is_attached(&self) -> bool {
        matches!(self.owner, Owner::Attached { .. })
    }

    /// How a message on a natural subject is stored in the stream.
    pub(crate) fn target(&self, natural: &Subject) -> PutTarget {
        let subject = self.subject(natural);
        match self.owner {
            Owner::Ours { .. } if self.number == 0 => PutTarget::Log(subject),
            _ => PutTarget::Attached { stream: ByteString::from(self.log.stream()), subject },
        }
    }

    /// Where a message on a natural subject is in the stream.
    pub(crate) fn subject(&self, natural: &Subject) -> ByteString {
        match &self.owner {
            Owner::Ours { prefix } => ByteString::from([&**prefix, natural.as_str()].concat()),
            Owner::Attached { .. } => natural.as_text().clone(),
        }
    }
}

/// A log beside the first one, being followed.
#[derive(Debug)]
struct Followed {
    handle: Arc<LogHandle>,
    subjects: Vec<ByteString>,
    _tail: Tail,
}

#[derive(Debug, Default)]
struct Set {
    followed: HashMap<ByteString, Followed>,
    /// Which of them has a subject; the first log has the others.
    owners: SubjectMap<u16>,
    by_number: HashMap<u16, Arc<LogHandle>>,
    /// Why streams were refused, so that it is said once.
    refused: HashMap<String, &'static str>,
    last_number: u16,
}

/// Changes whenever a subject may have another owner.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LogsVersion(pub(crate) u64);

/// The logs of the account.
#[derive(Debug)]
pub(crate) struct Logs {
    first: Arc<LogHandle>,
    set: RwLock<Set>,
    /// Whether there is one beside the first.
    has_more: AtomicBool,
    /// Changes with the set.
    version: AtomicU64,
    /// Held while the streams are looked at; when that was last.
    looking: tokio::sync::Mutex<Option<Instant>>,
}

impl Logs {
    /// The log that is always there, alone.
    pub(crate) fn new(first: Log, names: &Names) -> Self {
        let prefix = ByteString::from(names.log_subjects().trim_end_matches('>'));
        Self {
            first: Arc::new(LogHandle::new(0, ByteString::new(), Owner::Ours { prefix }, first)),
            set: RwLock::default(),
            has_more: AtomicBool::new(false),
            version: AtomicU64::new(0),
            looking: tokio::sync::Mutex::new(None),
        }
    }

    /// The log that is always there.
    pub(crate) const fn main(&self) -> &Arc<LogHandle> {
        &self.first
    }

    /// Changes whenever a subject may have another owner.
    pub(crate) fn version(&self) -> LogsVersion {
        LogsVersion(self.version.load(Ordering::Acquire))
    }

    /// The log that owns a subject.
    pub(crate) fn owner_of(&self, subject: &str) -> Arc<LogHandle> {
        self.other_owner_of(subject).unwrap_or_else(|| Arc::clone(&self.first))
    }

    /// The log that owns a subject, unless it is the first one.
    fn other_owner_of(&self, subject: &str) -> Option<Arc<LogHandle>> {
        if !self.has_more.load(Ordering::Acquire) {
            return None;
        }
        let set = self.set.read();
        let number = set.owners.get(subject)?;
        set.by_number.get(&number).cloned()
    }

    /// Whether a stream of somebody else has a subject.
    pub(crate) fn is_captured(&self, subject: &str) -> bool {
        self.other_owner_of(subject).is_some_and(|log| log.is_attached())
    }

    /// The log with a number, if it is still there.
    pub(crate) fn get(&self, number: u16) -> Option<Arc<LogHandle>> {
        if number == 0 {
            return Some(Arc::clone(&self.first));
        }
        self.set.read().by_number.get(&number).cloned()
    }

    /// The log with a key.
    fn with_key(&self, key: &str) -> Option<Arc<LogHandle>> {
        self.set.read().followed.get(key).map(|followed| Arc::clone(&followed.handle))
    }

    /// All logs, the first one first, the others by number.
    pub(crate) fn all(&self) -> Vec<Arc<LogHandle>> {
        let mut all = vec![Arc::clone(&self.first)];
        if self.has_more.load(Ordering::Acquire) {
            all.extend(self.set.read().by_number.values().cloned());
            all.sort_unstable_by_key(|log| log.number);
        }
        all
    }

    /// The logs that can have messages for a filter, ascending; the first one always.
    pub(crate) fn overlapping(&self, filter: &TopicFilter) -> Vec<u16> {
        let mut numbers = vec![0];
        if self.has_more.load(Ordering::Acquire)
            && let Ok(subjects) = proto_map::subjects_of(filter)
        {
            let set = self.set.read();
            for subject in subjects.iter() {
                numbers.extend(set.owners.overlapping(subject.as_str()));
            }
            numbers.sort_unstable();
            numbers.dedup();
        }
        numbers
    }

    /// How a record names a place: its sequence, with the mark of what came by a shared subscription, and the key of its log
    /// unless that is the first one.
    pub(crate) fn name_of(&self, place: Position) -> (Sequence, Option<String>) {
        if let Some(sequence) = place.retained() {
            return (sequence, Some(IN_RETAINED.to_owned()));
        }
        let key = match place.log() {
            0 => None,
            number => Some(self.get(number).map_or_else(|| "?".to_owned(), |log| log.key.to_string())),
        };
        (place.marked_sequence(), key)
    }

    /// The place that a record names. In a log that is gone it is one where nothing is found.
    pub(crate) fn place_of(&self, sequence: Sequence, key: Option<&str>) -> Position {
        match key {
            None => Position::from_marked(0, sequence),
            Some(IN_RETAINED) => Position::of_retained(sequence),
            Some(key) => Position::from_marked(self.with_key(key).map_or(GONE, |log| log.number), sequence),
        }
    }

    /// The cursors that a record has of logs beside the first. Those of logs that are gone are left out.
    pub(crate) fn places_of(&self, named: &SequencesInLogs) -> Cursors {
        let place = |(key, sequence): (&String, &u64)| Some(self.with_key(key)?.position(Sequence(*sequence)));
        named.iter().filter_map(place).collect()
    }

    /// Cursors of logs beside the first, as a record names them.
    pub(crate) fn names_of(&self, places: &Cursors) -> SequencesInLogs {
        let others = places.iter().filter(|place| place.log() != 0);
        others.filter_map(|place| Some((self.get(place.log())?.key.to_string(), place.sequence().0))).collect()
    }

    /// Whether a record names a log that we do not know.
    pub(crate) fn knows<'a>(&self, mut keys: impl Iterator<Item = &'a String>) -> bool {
        keys.all(|key| self.with_key(key).is_some())
    }
}
