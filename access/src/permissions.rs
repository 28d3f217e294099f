//! What follows from lists of allowed and denied subjects, as nats-server has it, and stricter in one thing: a subscription
//! has to be within one entry that allows it. nats-server lets `foo.>` through an allow of `foo.*`.
//!
//! **Invariant:** what nats-server refuses is refused here.
//!
//! Closed trees are not here, nor topics: `proto-map` has both.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::lists::{PermissionLists, SubjectLists};
use crate::matcher::Matcher;
use crate::reply::ResponseLimits;
use crate::subject;

/// The queue group that nats-server keeps for itself: no client gets into it.
const SYSTEM_QUEUE: &str = "_sys_";

/// A deny that cannot be understood. It is never left out, as nats-server does: something would be allowed that nobody meant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{entry}` is not a subject that can be denied")]
pub struct InvalidDeny {
    /// The entry.
    pub entry: String,
}

/// Whether a subscription is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SubscribeVerdict {
    /// All of it, and nothing of it is denied.
    Allowed,
    /// All of it but what is denied inside: each message has to be asked about, see [`Permissions::is_delivery_denied`].
    AllowedInPart,
    /// It is wider than what is allowed, but something of it is. Whoever grants it all the same has to ask about each message,
    /// see [`Permissions::is_receive_allowed`].
    TooWide,
    /// Nothing of it is allowed, or all of it is denied.
    Denied,
}

impl SubscribeVerdict {
    /// Whether it is granted as it is.
    #[must_use]
    pub const fn is_granted(self) -> bool {
        matches!(self, Self::Allowed | Self::AllowedInPart)
    }
}

/// Whether `foo/#` is allowed, which is two subjects, `foo.>` and `foo`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MultiLevelVerdict {
    /// Of `foo.>`, and so of the subscription.
    pub below: SubscribeVerdict,
    /// Of `foo`; when it is not granted the subscription is without it.
    pub parent: SubscribeVerdict,
}

/// The subscribe entries of one list: those for anybody, and those for queue groups.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct QueueLists {
    plain: Matcher,
    queues: Vec<(Box<str>, Matcher)>,
}

/// Compiled permissions of one principal. Cheap to ask; callers who cache answers do so for one [`PermissionsVersion`].
#[derive(Clone, Debug)]
pub struct Permissions {
    lists: Arc<PermissionLists>,
    publish_allow: Option<Matcher>,
    publish_deny: Option<Matcher>,
    subscribe_allow: Option<QueueLists>,
    subscribe_deny: Option<QueueLists>,
    dropped: Vec<String>,
}

impl Permissions {
    /// Compiles lists. An entry of allow that is not a subject allows nothing, see [`Permissions::dropped`].
    ///
    /// # Errors
    /// An entry of deny is not a subject.
    pub fn new(lists: PermissionLists) -> Result<Self, InvalidDeny> {
        let mut dropped = Vec::new();
        let publish = &lists.publish;
        // Whoever may answer and has no allow may do nothing but answer.
        let publish_allow = (publish.allow.is_some() && !publish.is_empty()) || lists.responses.is_some();
        let publish_allow = publish_allow.then(|| {
            let mut allow = Matcher::default();
            for entry in publish.allowed() {
                match subject::is_valid(entry) {
                    true => allow.insert(entry),
                    false => dropped.push(entry.clone()),
                }
            }
            allow
        });
        let subscribe_allow = QueueLists::of(lists.subscribe.allowed(), &mut dropped);
        let mut invalid = Vec::new();
        let subscribe_deny = QueueLists::of(lists.subscribe.denied(), &mut invalid);
        let publish_deny = publish_deny(publish, &mut invalid);
        match invalid.into_iter().next() {
            Some(entry) => Err(InvalidDeny { entry }),
            None => Ok(Self {
                lists: Arc::new(lists),
                publish_allow,
                publish_deny,
                subscribe_allow,
                subscribe_deny,
                dropped,
            }),
        }
    }

    /// Everything is allowed.
    #[must_use]
    pub fn all() -> Self {
        Self {
            lists: Arc::default(),
            publish_allow: None,
            publish_deny: None,
            subscribe_allow: None,
            subscribe_deny: None,
            dropped: Vec::new(),
        }
    }

    /// The lists that these were made of.
    #[must_use]
    pub fn lists(&self) -> &PermissionLists {
        &self.lists
    }

    /// Entries of allow that are not subjects, and allow nothing: something for a log line.
    #[must_use]
    pub fn dropped(&self) -> &[String] {
        &self.dropped
    }

    /// Limits of replies, with what nats-server puts in the place of 0.
    #[must_use]
    pub fn response_limits(&self) -> Option<ResponseLimits> {
        self.lists.responses.map(ResponseLimits::resolved)
    }

    /// Whether a message may be published on a subject. Replies are not asked about here, but of their
    /// [`ReplyBudget`](crate::ReplyBudget).
    #[must_use]
    pub fn is_publish_allowed(&self, subject: impl AsRef<[u8]>) -> bool {
        let subject = subject.as_ref();
        subject::has_tokens(subject)
            && self.publish_allow.as_ref().is_none_or(|allow| allow.matches(subject))
            && !self.publish_deny.as_ref().is_some_and(|deny| deny.matches(subject))
    }

    /// Whether a filter may be subscribed to, by the members of a queue group or by one alone.
    #[must_use]
    pub fn subscribe(&self, filter: impl AsRef<[u8]>, queue: Option<&str>) -> SubscribeVerdict {
        let filter = filter.as_ref();
        if !subject::has_tokens(filter) || queue == Some(SYSTEM_QUEUE) {
            return SubscribeVerdict::Denied;
        }
        if self.subscribe_deny.as_ref().is_some_and(|deny| deny.denies(filter, queue)) {
            return SubscribeVerdict::Denied;
        }
        let is_in_part = self.subscribe_deny.as_ref().is_some_and(|deny| deny.overlaps(filter, queue));
        match &self.subscribe_allow {
            Some(allow) if !allow.covers(filter, queue) => match allow.overlaps(filter, queue) {
                true => SubscribeVerdict::TooWide,
                false => SubscribeVerdict::Denied,
            },
            _ if is_in_part => SubscribeVerdict::AllowedInPart,
            _ => SubscribeVerdict::Allowed,
        }
    }

    /// Whether `foo/#` may be subscribed to: `below` is `foo.>`, `parent` is `foo`. nats-server's own listener refuses it when
    /// either is not allowed.
    #[must_use]
    pub fn subscribe_multi_level(&self, below: &str, parent: &str, queue: Option<&str>) -> MultiLevelVerdict {
        let below = self.subscribe(below, queue);
        let parent = self.subscribe(parent, queue);
        MultiLevelVerdict { below, parent }
    }

    /// Whether a message is withheld from a subscription that was granted: a deny inside its wildcard. This holds for every
    /// message whatever it comes from, live, stored, retained, resent or shared.
    #[must_use]
    pub fn is_delivery_denied(&self, subject: impl AsRef<[u8]>, queue: Option<&str>) -> bool {
        let subject = subject.as_ref();
        !subject::has_tokens(subject) || self.subscribe_deny.as_ref().is_some_and(|deny| deny.denies(subject, queue))
    }

    /// Whether a message may be received by a subscription that is wider than what is allowed.
    #[must_use]
    pub fn is_receive_allowed(&self, subject: impl AsRef<[u8]>, queue: Option<&str>) -> bool {
        let subject = subject.as_ref();
        self.subscribe_allow.as_ref().is_none_or(|allow| allow.covers(subject, queue))
            && !self.is_delivery_denied(subject, queue)
    }
}

impl PartialEq for Permissions {
    fn eq(&self, other: &Self) -> bool {
        self.lists == other.lists
    }
}

impl Eq for Permissions {}

/// A queue has no meaning for a publish, so such an entry denies its subject, as nats-server has it.
fn publish_deny(lists: &SubjectLists, invalid: &mut Vec<String>) -> Option<Matcher> {
    let mut deny = Matcher::default();
    for entry in lists.denied() {
        match subject::is_valid(entry).then_some((entry.as_str(), None)).or_else(|| subject::split_queue(entry)) {
            Some((subject, _)) => deny.insert(subject),
            None => invalid.push(entry.clone()),
        }
    }
    (!lists.denied().is_empty()).then_some(deny)
}

impl QueueLists {
    /// `None` for an empty list.
    fn of(entries: &[String], invalid: &mut Vec<String>) -> Option<Self> {
        let mut plain = Matcher::default();
        let mut queues: BTreeMap<&str, Matcher> = BTreeMap::new();
        for entry in entries {
            match subject::split_queue(entry) {
                Some((subject, None)) => plain.insert(subject),
                Some((subject, Some(queue))) => queues.entry(queue).or_default().insert(subject),
                None => invalid.push(entry.clone()),
            }
        }
        let queues = queues.into_iter().map(|(queue, matcher)| (queue.into(), matcher)).collect();
        (!entries.is_empty()).then_some(Self { plain, queues })
    }

    /// Of an allow list: whether one entry holds the filter. Entries with a queue that nats-server would find for it have the
    /// last word for groups: one of them has to name this group.
    fn covers(&self, filter: &[u8], queue: Option<&str>) -> bool {
        let Some(queue) = queue.filter(|_| self.queues.iter().any(|(_, entries)| entries.matches(filter))) else {
            return self.plain.covers(filter);
        };
        let mut named = self.queues.iter().filter(|(name, _)| is_queue(queue, name)).map(|(_, entries)| entries);
        named.clone().any(|entries| entries.matches(filter))
            && (self.plain.covers(filter) || named.any(|entries| entries.covers(filter)))
    }

    /// Whether something of the filter is in an entry.
    fn overlaps(&self, filter: &[u8], queue: Option<&str>) -> bool {
        let of_queue =
            |queue| self.queues.iter().any(|(name, entries)| is_queue(queue, name) && entries.overlaps(filter));
        self.plain.overlaps(filter) || queue.is_some_and(of_queue)
    }

    /// Of a deny list: whether a subject is denied, or a whole filter, as nats-server has it.
    fn denies(&self, subject: &[u8], queue: Option<&str>) -> bool {
        let of_queue =
            |queue| self.queues.iter().any(|(name, entries)| is_queue(queue, name) && entries.matches(subject));
        self.plain.matches(subject) || queue.is_some_and(of_queue)
    }
}

/// Whether a queue group is the one that an entry names, or is within its wildcards.
fn is_queue(queue: &str, entry: &str) -> bool {
    queue == entry || (subject::has_wildcard(entry) && subject::is_subset(queue, entry))
}

/// A number for the permissions that a connection has at the time: what was answered under another one is not to be used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PermissionsVersion(u64);

/// The permissions of a connection, and their version.
#[derive(Clone, Debug)]
pub struct CurrentPermissions {
    permissions: Arc<Permissions>,
    version: PermissionsVersion,
}

impl CurrentPermissions {
    /// The first ones.
    #[must_use]
    pub const fn new(permissions: Arc<Permissions>) -> Self {
        Self { permissions, version: PermissionsVersion(0) }
    }

    /// The permissions.
    #[must_use]
    pub const fn get(&self) -> &Arc<Permissions> {
        &self.permissions
    }

    /// Their version.
    #[must_use]
    pub const fn version(&self) -> PermissionsVersion {
        self.version
    }

    /// Puts others in their place; `false` when they say the same, and then the version stays.
    pub fn replace(&mut self, permissions: Arc<Permissions>) -> bool {
        if *self.permissions == *permissions {
            return false;
        }
        self.permissions = permissions;
        self.version.0 += 1;
        true
    }
}
