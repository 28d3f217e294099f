//! Mount points: a part of the topic tree that devices see as the whole of it. What a device names is full inside and loses
//! the prefix on its way out, so that nothing in between knows of it.
//!
//! ```text
//! device                inside                        NATS
//! a/b                   site7/a/b                     site7.a.b
//! $share/g/a/+          $share/g/site7/a/+            site7.a.*
//! $aws/x                site7/$aws/x                  site7.$aws.x
//! $SYS/…, $NMQ/…        the same                      closed, as for everybody
//! $NMQ/reply/next/a/b   $NMQ/reply/next/site7/a/b
//! ```
//!
//! **Invariant:** `outside(inside(t)) == t` for every topic of a device, and what is outside of the mount has no name there.

use std::fmt;

use bytestring::ByteString;
use mqtt_codec::{MessageProperties, Packet, PublishTopic, TopicError, TopicFilter, TopicName, Violation};

use crate::{ClosedTrees, ReplyTopic, ReplyTopics};

/// Longest mount point, in bytes: topics of devices have to fit behind it.
pub const MOUNT_POINT_LEN_MAX: usize = 256;

/// The topics of the sidecar itself, which every device sees.
const SYS: &str = "$SYS";

/// Between mount point and client identifier. No client identifier has it [MQTT-1.5.4-2], so none looks like that of a client
/// elsewhere.
const SEPARATOR: char = '\0';

/// The mount point of a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountPoint {
    /// Ends with `/`.
    prefix: ByteString,
    levels: u16,
    /// First level of our own topics.
    own: Box<str>,
    /// Of these, some name a topic that the device has seen.
    replies: ReplyTopics,
}

/// Why a text is no mount point.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MountPointError {
    /// It does not end with a separator.
    #[error("{0:?} has no \"/\" at its end, where its last level ends: write \"{0}/\"")]
    Open(String),
    /// A level of it is empty.
    #[error("{0:?} has an empty level: write one or more levels and a \"/\" behind each, as in \"site7/\"")]
    EmptyLevel(String),
    /// It has something that it cannot have.
    #[error("{0:?} cannot have \"+\", \"#\", \"$\" or U+0000: write plain levels, as in \"site7/\"")]
    Character(String),
    /// It is longer than [`MOUNT_POINT_LEN_MAX`].
    #[error("{0:?} is longer than 256 bytes: topics of devices have to fit behind it")]
    TooLong(String),
    /// It is in a tree that devices cannot reach.
    #[error("{0:?} is in a tree that is closed to devices: write another first level")]
    Closed(String),
}

impl MountPoint {
    /// The mount point with this text, where our own topics begin with this prefix of subjects, `$NMQ`.
    ///
    /// # Errors
    /// It is none; see [`MountPointError`].
    pub fn new(text: &str, subject_prefix: &str) -> Result<Self, MountPointError> {
        let wrong = |error: fn(String) -> MountPointError| Err(error(text.to_owned()));
        if text.contains(['+', '#', '$', '\0']) {
            return wrong(MountPointError::Character);
        }
        if text.len() > MOUNT_POINT_LEN_MAX {
            return wrong(MountPointError::TooLong);
        }
        let Some(levels) = text.strip_suffix('/') else { return wrong(MountPointError::Open) };
        if levels.split('/').any(str::is_empty) {
            return wrong(MountPointError::EmptyLevel);
        }
        let closed = ClosedTrees::new(subject_prefix, &[]);
        if TopicName::new(levels).is_ok_and(|levels| closed.is_closed_topic(&levels)) {
            return wrong(MountPointError::Closed);
        }
        let count = levels.split('/').count();
        Ok(Self {
            prefix: text.into(),
            levels: u16::try_from(count).unwrap_or(u16::MAX),
            own: subject_prefix.split('.').next().unwrap_or(subject_prefix).into(),
            replies: ReplyTopics::new(subject_prefix),
        })
    }

    /// The text, with the `/` at its end.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.prefix
    }

    /// How many levels it has.
    #[must_use]
    pub const fn levels(&self) -> u16 {
        self.levels
    }

    /// The topic that a device means.
    ///
    /// # Errors
    /// It is too long with the prefix.
    pub fn inside(&self, topic: &TopicName) -> Result<TopicName, TopicError> {
        if !self.is_everywhere(topic.as_str()) {
            return TopicName::new(format!("{}{topic}", self.prefix));
        }
        match self.named_by(topic.as_str()) {
            Some((root, of)) if !self.is_everywhere(of) => TopicName::new(format!("{root}{}{of}", self.prefix)),
            _ => Ok(topic.clone()),
        }
    }

    /// The topic as a device knows it; `None` when it is outside of the mount.
    #[must_use]
    pub fn outside(&self, topic: &TopicName) -> Option<TopicName> {
        if !self.is_everywhere(topic.as_str()) {
            let rest = self.rest(topic.as_str())?;
            return TopicName::new(topic.as_byte_string().slice_ref(rest)).ok();
        }
        match self.named_by(topic.as_str()) {
            Some((root, of)) if !self.is_everywhere(of) => TopicName::new(format!("{root}{}", self.rest(of)?)).ok(),
            _ => Some(topic.clone()),
        }
    }

    /// The filter that a device means: of a shared subscription, what is behind the share name.
    ///
    /// # Errors
    /// It is too long with the prefix.
    pub fn filter_inside(&self, filter: &TopicFilter) -> Result<TopicFilter, TopicError> {
        let own = filter.matching_part();
        if self.is_everywhere(own) {
            return Ok(filter.clone());
        }
        let share = filter.as_str().strip_suffix(own).unwrap_or_default();
        TopicFilter::new(format!("{share}{}{own}", self.prefix))
    }

    /// Whether the filter of a device, as it is inside, begins with a wildcard for the device, and so does not match its topics
    /// that begin with `$` [MQTT-4.7.2-1].
    #[must_use]
    pub fn leads_with_wildcard(&self, filter: &TopicFilter) -> bool {
        filter.matching_part().strip_prefix(&*self.prefix).is_some_and(|own| own.starts_with(['+', '#']))
    }

    /// Whether a device has a name for a topic.
    #[must_use]
    pub fn has(&self, topic: &TopicName) -> bool {
        self.is_everywhere(topic.as_str()) || self.rest(topic.as_str()).is_some()
    }

    /// Whether a topic of the mount begins with `$` for the device.
    #[must_use]
    pub fn is_dollar(&self, topic: &TopicName) -> bool {
        self.rest(topic.as_str()).is_some_and(|own| own.starts_with('$'))
    }

    /// Makes the topics of a packet full that a device has sent. A filter that is too long with the prefix is refused in its place,
    /// as one that is not valid.
    ///
    /// # Errors
    /// A topic is too long with the prefix.
    pub fn enter(&self, packet: &mut Packet) -> Result<(), Violation> {
        let filter_inside = |filter: &mut Result<TopicFilter, ByteString>| {
            if let Ok(own) = filter {
                *filter = self.filter_inside(own).map_err(|_| own.as_byte_string().clone());
            }
        };
        match packet {
            Packet::Publish(publish) => {
                match &mut publish.topic {
                    PublishTopic::Name(topic) | PublishTopic::Define(topic, _) => {
                        *topic = self.inside(topic).map_err(Violation::TopicName)?;
                    }
                    PublishTopic::Alias(_) => {}
                }
                self.response_inside(publish.properties.as_deref_mut())
            }
            Packet::Subscribe(subscribe) => {
                subscribe.entries.iter_mut().for_each(|entry| filter_inside(&mut entry.filter));
                Ok(())
            }
            Packet::Unsubscribe(unsubscribe) => {
                unsubscribe.filters.iter_mut().for_each(filter_inside);
                Ok(())
            }
            Packet::Connect(connect) => {
                let Some(will) = &mut connect.will else { return Ok(()) };
                will.topic = self.inside(&will.topic).map_err(Violation::WillTopic)?;
                self.response_inside(will.properties.as_deref_mut())
            }
            _ => Ok(()),
        }
    }

    /// The properties of a message as a device sees them: a Response Topic that it could not use is left out.
    #[must_use]
    pub fn properties_outside(&self, properties: &MessageProperties) -> MessageProperties {
        let response_topic = properties.response_topic.as_ref().and_then(|topic| self.outside(topic));
        MessageProperties { response_topic, ..properties.clone() }
    }

    fn response_inside(&self, properties: Option<&mut MessageProperties>) -> Result<(), Violation> {
        let Some(topic) = properties.and_then(|properties| properties.response_topic.as_mut()) else { return Ok(()) };
        *topic = self.inside(topic).map_err(Violation::ResponseTopic)?;
        Ok(())
    }

    /// What of a topic is behind the prefix, when the device can name it: it would take one that is everywhere for that.
    fn rest<'a>(&self, topic: &'a str) -> Option<&'a str> {
        topic.strip_prefix(&*self.prefix).filter(|own| !own.is_empty() && !self.is_everywhere(own))
    }

    /// Whether a topic or filter means the same for everybody.
    fn is_everywhere(&self, text: &str) -> bool {
        let first = text.split('/').next().unwrap_or_default();
        first == SYS || first == &*self.own
    }

    /// What a topic of replies has in front of the topic that the device has seen, and that one.
    fn named_by<'a>(&self, topic: &'a str) -> Option<(&'a str, &'a str)> {
        let (ReplyTopic::Next(of) | ReplyTopic::Last(of)) = self.replies.parse(topic)? else { return None };
        (!of.is_empty()).then(|| topic.split_at(topic.len() - of.len()))
    }
}

impl fmt::Display for MountPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.prefix)
    }
}

/// What names the session of a client: its identifier, and in front of it the mount point of its listener. The same identifier
/// under two mount points is two clients.
#[must_use]
pub fn session_name(mount_point: Option<&MountPoint>, client_id: &str) -> ByteString {
    mount_point.map_or_else(|| client_id.into(), |mount| format!("{mount}{SEPARATOR}{client_id}").into())
}

/// The mount point, if it has one, and the client identifier of a session's name.
#[must_use]
pub fn client_of(session_name: &str) -> (Option<&str>, &str) {
    match session_name.split_once(SEPARATOR) {
        Some((mount_point, client_id)) => (Some(mount_point), client_id),
        None => (None, session_name),
    }
}
