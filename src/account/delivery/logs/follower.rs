//! Which streams are logs is looked at when the account starts and whenever JetStream says that one has changed.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytestring::ByteString;
use mqtt_codec::TopicFilter;
use mqtt_ownership::ServerTime;
use mqtt_session::{GONE, Sequence};
use proto_map::{Attachment, ClosedTrees, Names, SubjectMap, TOPICS_KEY, attachment};

use super::{Followed, LogHandle, Logs, Owner};
use crate::account::delivery::catch_up::CatchUp;
use crate::account::delivery::router::{LogTail, Router};
use crate::account::registry::Registry;
use crate::account::requests::Requests;
use crate::store::{FoundStream, LogPosition, Store, Streams, Unavailable};

/// A stream that is not new begins to be followed so long before it is found, milliseconds: what it got meanwhile was seen by
/// nobody.
const FOUND_WITHIN_MS: u64 = 2_000;

/// What was looked at so shortly ago is not looked at again for every session that comes back.
pub(in crate::account) const FRESH_FOR: Duration = Duration::from_secs(1);

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
        let kept = stream.config["max_msgs_per_subject"].as_u64().filter(|messages| *messages > 0);
        store.publisher().stream_keeps(&stream.name, kept);
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
        let now = store.clock().earliest();
        let from = if is_start { LogPosition::New } else { first_missed(store.streams(), stream, now).await? };
        let log = store.log_of(&stream.name, &wanted.prefix);
        let handle = Arc::new(LogHandle::new(number, wanted.key.clone(), wanted.owner, log));
        let sink = LogTail::new(Arc::clone(&self.router), Arc::clone(&handle), Arc::clone(&self.registry));
        let sink = Arc::new(sink);
        // Known before its tail runs, so that what the tail brings finds it.
        self.logs.set.write().by_number.insert(number, Arc::clone(&handle));
        let tail = handle.log.tail(from, sink).await.inspect_err(|_| {
            self.logs.set.write().by_number.remove(&number);
        })?;
        handle.starts_at(Sequence(tail.start_position()));
        CatchUp::start(store.tasks(), Arc::clone(&handle), Arc::clone(&self.router));
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
async fn first_missed(streams: &Streams, stream: &FoundStream, now: ServerTime) -> Result<LogPosition, Unavailable> {
    let since_ms = now.0.saturating_sub(FOUND_WITHIN_MS);
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
