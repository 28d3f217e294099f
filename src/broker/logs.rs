//! The logs of the account: the one that is always there, those that the operator declared, and streams of others that have
//! subjects of devices. For every subject exactly one of them owns it.
//!
//! A log has a number, which means something in this process only, and a key, by which records name it: the stream and
//! when it was created, so that a stream that was made anew is another log. Each log has a tail and scans of its own.
//!
//! Which streams there are is looked at when the broker starts and whenever JetStream says that one has changed.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytestring::ByteString;
use mqtt_codec::TopicFilter;
use mqtt_session::{Cursors, GONE, LOG_MAX, log_of, position, sequence_of};
use parking_lot::{Mutex, MutexGuard, RwLock};
use proto_map::{Attachment, Carrier, ClosedTrees, Names, Subject, SubjectMap, TOPICS_KEY, attachment};

use super::catch_up::CatchUp;
use super::ended_epochs::EndedEpochs;
use super::registry::Registry;
use super::requests::Requests;
use super::router::{LogTail, Router};
use crate::store::{FoundStream, Log, LogPosition, PutTarget, Store, Streams, Tail, Unavailable};

/// What a record has instead of a log's key when a place is in the bucket of retained messages. No key of a log is like it.
const IN_RETAINED: &str = "retained";

/// A stream that is not new begins to be followed so long before it is found, milliseconds: what it got meanwhile was seen by
/// nobody.
const FOUND_WITHIN_MS: u64 = 2_000;

/// What was looked at so shortly ago is not looked at again for every session that comes back.
const FRESH_FOR: Duration = Duration::from_secs(1);

/// Where the tail of a log stands: everything up to this sequence was routed. Holding it holds the tail.
#[derive(Debug)]
pub(crate) struct TailPosition(pub(super) u64);

impl TailPosition {
    /// The last sequence that the tail has routed.
    pub(crate) const fn sequence(&self) -> u64 {
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
        let (tail, tail_sequence) = (Mutex::new(TailPosition(0)), AtomicU64::new(0));
        let (catch_up, epochs, is_gone) = (CatchUp::default(), EndedEpochs::default(), AtomicBool::new(false));
        Self { number, key, owner, log, catch_up, epochs, tail, tail_sequence, is_gone }
    }

    /// When the stream was created, milliseconds since the epoch; `None` of the log that is always there.
    pub(crate) fn created_ms(&self) -> Option<u64> {
        self.key.rsplit_once('@')?.1.parse().ok()
    }

    /// Stops the tail while the guard lives.
    pub(crate) fn hold(&self) -> MutexGuard<'_, TailPosition> {
        self.tail.lock()
    }

    /// A sequence that the tail has routed; it may have routed more.
    pub(crate) fn tail_sequence(&self) -> u64 {
        self.tail_sequence.load(Ordering::Acquire)
    }

    /// The tail has routed everything up to where the guard says.
    pub(crate) fn routed(&self, tail: &TailPosition) {
        self.tail_sequence.store(tail.0, Ordering::Release);
    }

    /// The tail begins with this sequence.
    pub(super) fn starts_at(&self, first: u64) {
        let mut tail = self.hold();
        tail.0 = tail.0.max(first.saturating_sub(1));
        self.routed(&tail);
    }

    /// The place of a sequence.
    pub(crate) const fn position(&self, sequence: u64) -> u64 {
        position(self.number, sequence)
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
    pub(crate) const fn first(&self) -> &Arc<LogHandle> {
        &self.first
    }

    /// Changes whenever a subject may have another owner.
    pub(crate) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
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
    pub(crate) fn name_of(&self, place: u64) -> (u64, Option<String>) {
        let number = log_of(place);
        if place >= mqtt_session::RETAINED {
            return (place - mqtt_session::RETAINED, Some(IN_RETAINED.to_owned()));
        }
        if number == 0 {
            return (place, None);
        }
        let key = self.get(number).map_or_else(|| "?".to_owned(), |log| log.key.to_string());
        (place & !position(LOG_MAX, 0), Some(key))
    }

    /// The place that a record names. In a log that is gone it is one where nothing is found.
    pub(crate) fn place_of(&self, sequence: u64, key: Option<&str>) -> u64 {
        match key {
            None => sequence,
            Some(IN_RETAINED) => mqtt_session::RETAINED | sequence,
            Some(key) => sequence | position(self.with_key(key).map_or(GONE, |log| log.number), 0),
        }
    }

    /// The cursors that a record has of logs beside the first. Those of logs that are gone are left out.
    pub(crate) fn places_of<'a>(&self, named: impl IntoIterator<Item = (&'a String, &'a u64)>) -> Cursors {
        let place = |(key, sequence): (&String, &u64)| Some(self.with_key(key)?.position(*sequence));
        named.into_iter().filter_map(place).collect()
    }

    /// Cursors of logs beside the first, as a record names them.
    pub(crate) fn names_of(&self, places: &Cursors) -> std::collections::BTreeMap<String, u64> {
        let others = places.iter().filter(|place| log_of(*place) != 0);
        others.filter_map(|place| Some((self.get(log_of(place))?.key.to_string(), sequence_of(place)))).collect()
    }

    /// Whether a record names a log that we do not know.
    pub(crate) fn knows<'a>(&self, mut keys: impl Iterator<Item = &'a String>) -> bool {
        keys.all(|key| self.with_key(key).is_some())
    }
}

/// How streams are followed.
pub(crate) struct Follower {
    /// The logs.
    pub(crate) logs: Arc<Logs>,
    /// Where their messages go.
    pub(crate) router: Arc<Router>,
    /// Who is told what streams capture.
    pub(crate) requests: Arc<Requests>,
    /// Trees that are closed to devices.
    pub(crate) closed: ClosedTrees,
    /// Names of what is ours.
    pub(crate) names: Names,
    /// Whose sessions read them.
    pub(crate) registry: Arc<Registry>,
    /// Streams that are not to be attached, by name; `None` when none is.
    pub(crate) ignored: Option<Vec<String>>,
}

/// A stream that begins to be followed, or otherwise than before.
struct Change {
    stream: String,
    subjects: Vec<ByteString>,
    what: &'static str,
}

/// What a stream that was found is to us.
struct Wanted {
    key: ByteString,
    owner: Owner,
    subjects: Vec<ByteString>,
    prefix: String,
}

impl Follower {
    /// Looks at the streams, unless somebody has a moment ago.
    pub(crate) async fn look_soon(&self, store: &Store) -> Result<(), Unavailable> {
        let looked_at = *self.logs.looking.lock().await;
        match looked_at {
            Some(at) if at.elapsed() < FRESH_FOR => Ok(()),
            _ => self.look(store, false).await,
        }
    }

    /// Looks at the streams once. `is_start`: nobody is connected yet, so that nothing was missed.
    pub(crate) async fn look(&self, store: &Store, is_start: bool) -> Result<(), Unavailable> {
        let mut looked_at = self.logs.looking.lock().await;
        let now = Instant::now();
        let Some(found) = store.streams().list().await? else {
            return Err(Unavailable { reason: "JetStream does not know all streams now".to_owned() });
        };
        self.requests.streams_have(found.iter().flat_map(subjects_of_stream).collect());
        let wanted: Vec<(Wanted, FoundStream)> =
            found.into_iter().filter_map(|stream| Some((self.wanted(&stream)?, stream))).collect();
        let gone = self.let_go(&wanted);
        // One that cannot be followed now, perhaps because it is gone again, does not keep the others from it.
        let mut news = Vec::new();
        let mut result = Ok(());
        for (wanted, stream) in wanted {
            match self.follow(store, wanted, &stream, is_start).await {
                Ok(change) => news.extend(change),
                Err(error) => result = Err(error),
            }
        }
        self.count_owners();
        *looked_at = result.is_ok().then_some(now);
        // Said when it is true.
        gone.iter().for_each(|stream| tracing::info!(stream, "the stream is not followed any more"));
        news.iter()
            .for_each(|Change { stream, subjects, what }| tracing::info!(stream, ?subjects, "the stream {what}"));
        result
    }

    /// Follows the streams as they change, for ever.
    pub(crate) async fn run(self: Arc<Self>, broker: std::sync::Weak<super::Broker>) {
        let Some(mut changes) = broker.upgrade().map(|broker| broker.store.streams().changes()) else { return };
        while changes.changed().await.is_ok() {
            loop {
                let Some(broker) = broker.upgrade() else { return };
                let Err(error) = self.look(&broker.store, false).await else { break };
                tracing::warn!(%error, "the streams of the account cannot be looked at");
                drop(broker);
                tokio::time::sleep(FRESH_FOR).await;
            }
        }
    }

    fn wanted(&self, stream: &FoundStream) -> Option<Wanted> {
        let key = ByteString::from(format!("{}@{}", stream.name, stream.created_ms));
        if let Some(name) = stream.name.strip_prefix(&self.names.declared_log_prefix())
            && let Some(topics) = stream.config["metadata"][TOPICS_KEY].as_str()
        {
            let prefix = self.names.declared_log_root(name).ok()?;
            let owner = Owner::Ours { prefix: ByteString::from(prefix.as_str()) };
            return Some(Wanted { key, owner, subjects: subjects_of_topics(topics), prefix });
        }
        let is_ignored = self.ignored.as_ref().is_none_or(|names| names.contains(&stream.name));
        match attachment(&stream.config, &self.closed) {
            Attachment::Log { subjects, ttl } if !is_ignored => {
                Some(Wanted { key, owner: Owner::Attached { ttl }, subjects, prefix: String::new() })
            }
            Attachment::Refused(reason) if !is_ignored => {
                let mut set = self.logs.set.write();
                if set.refused.insert(stream.name.clone(), reason) != Some(reason) {
                    tracing::warn!(
                        stream = stream.name,
                        "this stream is not attached: {reason}; QoS 1 and 2 messages on its subjects go to {}",
                        self.names.log_stream()
                    );
                }
                None
            }
            Attachment::Log { .. } | Attachment::Refused(_) | Attachment::Nothing => None,
        }
    }

    /// Streams that are gone, or that are no logs any more, are not followed any more. Gives their names.
    fn let_go(&self, wanted: &[(Wanted, FoundStream)]) -> Vec<String> {
        let mut set = self.logs.set.write();
        let is_wanted = |followed: &Followed| {
            wanted.iter().any(|(w, _)| w.key == followed.handle.key && w.owner == followed.handle.owner)
        };
        let gone: Vec<ByteString> =
            set.followed.iter().filter(|(_, followed)| !is_wanted(followed)).map(|(key, _)| key.clone()).collect();
        let mut names = Vec::new();
        for key in gone {
            if let Some(Followed { handle, .. }) = set.followed.remove(&key) {
                handle.is_gone.store(true, Ordering::Release);
                handle.catch_up.end();
                set.by_number.remove(&handle.number);
                names.push(handle.log.stream().to_owned());
            }
        }
        names
    }

    /// Follows a stream, with the subjects that it has now. Says what is new.
    async fn follow(
        &self,
        store: &Store,
        wanted: Wanted,
        stream: &FoundStream,
        is_start: bool,
    ) -> Result<Option<Change>, Unavailable> {
        let change = |subjects, what| Some(Change { stream: stream.name.clone(), subjects, what });
        if let Some(followed) = self.logs.set.write().followed.get_mut(&wanted.key) {
            if followed.subjects == wanted.subjects {
                return Ok(None);
            }
            followed.subjects.clone_from(&wanted.subjects);
            return Ok(change(wanted.subjects, "has other subjects now"));
        }
        let Some(number) = self.next_number() else {
            tracing::error!(stream = stream.name, "too many streams; this one is not followed");
            return Ok(None);
        };
        let now_ms = store.clock().earliest_ms();
        let from = if is_start { LogPosition::New } else { first_missed(store.streams(), stream, now_ms).await? };
        let log = store.log_of(&stream.name, &wanted.prefix);
        let handle = Arc::new(LogHandle::new(number, wanted.key.clone(), wanted.owner, log));
        let sink = LogTail::new(Arc::clone(&self.router), Arc::clone(&handle), Arc::clone(&self.registry));
        let sink = Arc::new(sink);
        // Known before its tail runs, so that what the tail brings finds it.
        self.logs.set.write().by_number.insert(number, Arc::clone(&handle));
        let tail = handle.log.tail(from, sink).await.inspect_err(|_| {
            self.logs.set.write().by_number.remove(&number);
        })?;
        handle.starts_at(tail.start_position());
        CatchUp::start(Arc::clone(&handle), Arc::clone(&self.router));
        let followed = Followed { handle, subjects: wanted.subjects.clone(), _tail: tail };
        self.logs.set.write().followed.insert(wanted.key, followed);
        Ok(change(wanted.subjects, "is a log of these subjects"))
    }

    fn next_number(&self) -> Option<u16> {
        let mut set = self.logs.set.write();
        let mut all = (1..GONE).map(|n| (set.last_number + n) % GONE);
        let number = all.find(|n| *n > 0 && !set.by_number.contains_key(n))?;
        set.last_number = number;
        Some(number)
    }

    /// Says anew who owns which subjects. Streams of others come first: they have their subjects whatever we say.
    fn count_owners(&self) {
        let mut set = self.logs.set.write();
        let mut all: Vec<(bool, u16, Vec<ByteString>)> = set
            .followed
            .values()
            .map(|followed| (!followed.handle.is_attached(), followed.handle.number, followed.subjects.clone()))
            .collect();
        all.sort_unstable_by_key(|(is_ours, number, _)| (*is_ours, *number));
        set.owners = SubjectMap::default();
        for (_, number, subjects) in all {
            for subject in subjects {
                set.owners.insert(subject, number);
            }
        }
        self.logs.has_more.store(!set.by_number.is_empty(), Ordering::Release);
        self.logs.version.fetch_add(1, Ordering::AcqRel);
    }
}

/// Where to begin with a stream that was found while clients were connected: a new one at its beginning, another one, which
/// has got other subjects, a little before it was found.
async fn first_missed(streams: &Streams, stream: &FoundStream, now_ms: u64) -> Result<LogPosition, Unavailable> {
    let since_ms = now_ms.saturating_sub(FOUND_WITHIN_MS);
    if stream.created_ms >= since_ms {
        return Ok(LogPosition::Sequence(1));
    }
    Ok(LogPosition::Sequence(streams.sequence_at(&stream.name, since_ms).await?))
}

/// The subjects that a stream captures.
fn subjects_of_stream(stream: &FoundStream) -> impl Iterator<Item = ByteString> {
    let subjects = stream.config["subjects"].as_array().into_iter().flatten();
    subjects.filter_map(|subject| subject.as_str().map(ByteString::from))
}

/// The subjects of the topics of a declared log.
fn subjects_of_topics(topics: &str) -> Vec<ByteString> {
    let topics: Vec<String> = serde_json::from_str(topics).unwrap_or_default();
    let filters = topics.iter().filter_map(|topic| TopicFilter::new(topic.as_str()).ok());
    let subjects = filters.filter_map(|filter| proto_map::subjects_of(&filter).ok());
    subjects.flat_map(|subjects| subjects.iter().map(|s| ByteString::from(s.as_str())).collect::<Vec<_>>()).collect()
}
