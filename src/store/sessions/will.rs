//! A will as it is stored, and what of a large one its record has.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::texts::{base64_bytes, maybe_base64_bytes, maybe_instant};
use super::version::Rest;

/// Names a will of a client that its record has no room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WillNumber(pub u64);

/// A will with all its properties.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StoredWill {
    /// Topic.
    pub topic: String,
    /// Payload.
    #[serde(with = "base64_bytes")]
    pub payload: Bytes,
    /// QoS.
    pub qos: u8,
    /// Retain.
    pub retain: bool,
    /// Will Delay Interval, seconds.
    pub delay_s: u32,
    /// Payload Format Indicator.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payload_is_utf8: Option<bool>,
    /// Message Expiry Interval, seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message_expiry_s: Option<u32>,
    /// Content Type.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    /// Response Topic.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_topic: Option<String>,
    /// Correlation Data.
    #[serde(with = "maybe_base64_bytes", skip_serializing_if = "Option::is_none")]
    pub correlation_data: Option<Bytes>,
    /// User properties, in order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub user_properties: Vec<(String, String)>,
    /// How far its publication is.
    pub state: WillState,
    /// When it is due, if the client does not come back; milliseconds since the epoch.
    #[serde(rename = "due_at", with = "maybe_instant", skip_serializing_if = "Option::is_none")]
    pub due_at_ms: Option<u64>,
    /// Where the log stood when the client connected: the will, once published, is above.
    pub since: u64,
    /// It is large: its topic, payload and properties are under a key of their own, which has this number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body: Option<WillNumber>,
    /// Bytes of the payload and the properties that are there.
    #[serde(skip_serializing_if = "is_zero")]
    pub body_size: u32,
    /// Who publishes it; `None` when it was stored before that was kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<Box<StoredPublisher>>,
    /// What a newer version has added.
    #[serde(flatten)]
    pub rest: Rest,
}

/// Who publishes a will, for whoever publishes it when its connection is gone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StoredPublisher {
    /// How it was found out who it is, by its name in the configuration; without one that is not kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    /// The account that it has brought.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub account: String,
    /// The user's name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub user: String,
    /// Its public NKey.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The key that signed it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// Its tags, unless they are too many.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tags: Option<Vec<String>>,
    /// Its own JWT said what it may do.
    #[serde(skip_serializing_if = "is_false")]
    pub has_own_permissions: bool,
    /// The topic was not allowed any more when its connection was judged last.
    #[serde(skip_serializing_if = "is_false")]
    pub denied: bool,
    /// What a newer version has added.
    #[serde(flatten)]
    pub rest: Rest,
}

/// Bytes of a will that a record has room for, and of the message id in it that stays there.
const WILL_INLINE_MAX: usize = 1024;
const WILL_ID_MAX: usize = 256;

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks by reference")]
const fn is_zero(size: &u32) -> bool {
    *size == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks by reference")]
const fn is_false(is: &bool) -> bool {
    !*is
}

impl StoredWill {
    /// What a record has of it: all, or, when it is large, what decides about it and `number`, under which the whole is. Who may
    /// publish it changes, and is in the record.
    #[must_use]
    pub fn divided(mut self, number: WillNumber) -> (Self, Option<Self>) {
        if self.topic.len() + self.size() <= WILL_INLINE_MAX {
            return (self, None);
        }
        // By which it is named when it is marked.
        let is_id =
            |(name, value): &&(String, String)| name == proto_map::name::NATS_MSG_ID && value.len() <= WILL_ID_MAX;
        let user_properties = self.user_properties.iter().find(is_id).cloned().into_iter().collect();
        let (qos, retain, delay_s, since) = (self.qos, self.retain, self.delay_s, self.since);
        let (state, due_at_ms, body) = (self.state.clone(), self.due_at_ms, Some(number));
        let body_size = u32::try_from(self.size()).unwrap_or(u32::MAX);
        // By the topic it is judged again.
        let (topic, by) = (self.topic.clone(), self.by.take());
        let record =
            Self { topic, qos, retain, delay_s, since, state, due_at_ms, body, user_properties, ..Self::default() };
        (Self { body_size, by, ..record }, Some(self))
    }

    /// The whole, of what a record has of it.
    #[must_use]
    pub fn with_body(self, whole: Self) -> Self {
        let Self { state, due_at_ms, delay_s, by, .. } = self;
        Self { state, due_at_ms, delay_s, by, ..whole }
    }

    /// Bytes of its payload and its properties, wherever they are: what whoever publishes it has in memory.
    #[must_use]
    pub fn whole_size(&self) -> usize {
        self.size().max(self.body_size as usize)
    }

    /// Bytes of its payload and its properties that are here.
    #[must_use]
    pub fn size(&self) -> usize {
        let texts = [&self.content_type, &self.response_topic].into_iter().flatten().map(String::len);
        let properties = self.user_properties.iter().map(|(name, value)| name.len() + value.len());
        let data = self.correlation_data.as_ref().map_or(0, Bytes::len);
        self.payload.len() + data + texts.chain(properties).sum::<usize>()
    }
}

/// How far the publication of a will is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WillState {
    /// Nobody publishes it.
    #[default]
    Armed,
    /// Somebody is about to publish it.
    Firing {
        /// Message id, by which it is found in the log.
        id: String,
        /// Last sequence of the log before it.
        after: u64,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_will_leaves_what_decides_in_the_record_and_comes_back_whole() {
        let small = StoredWill { topic: "t".to_owned(), payload: vec![0; 1_000].into(), ..StoredWill::default() };
        assert_eq!(small.clone().divided(WillNumber(7)), (small.clone(), None));
        let property = |name: &str, len: usize| (name.to_owned(), "v".repeat(len));
        let id = proto_map::name::NATS_MSG_ID;
        let large = StoredWill {
            qos: 2,
            retain: true,
            delay_s: 5,
            since: 41,
            content_type: Some("c".repeat(100)),
            by: Some(Box::new(StoredPublisher { user: "lamp".to_owned(), ..StoredPublisher::default() })),
            user_properties: vec![property("a", 10), property(id, 20)],
            ..small
        };
        let (mut record, whole) = large.clone().divided(WillNumber(7));
        assert_eq!(whole, Some(StoredWill { by: None, ..large.clone() }));
        assert_eq!((&record.by, record.user_properties.clone()), (&large.by, vec![property(id, 20)]));
        assert_eq!(
            (record.body, record.qos, record.retain, record.delay_s, record.since),
            (Some(WillNumber(7)), 2, true, 5, 41)
        );
        assert_eq!((record.size(), record.topic.as_str()), (id.len() + 20, "t"), "it is judged again by its topic");
        assert_eq!(record.whole_size(), large.size(), "what it takes to publish it is known");
        record.state = WillState::Firing { id: "x".to_owned(), after: 41 };
        let published = record.clone().with_body(whole.unwrap());
        assert_eq!(published, StoredWill { state: record.state, ..large });
        let (record, _) = StoredWill { user_properties: vec![property(id, 2_000)], ..published }.divided(WillNumber(8));
        assert!(record.user_properties.is_empty(), "no record is large because of it");
    }
}
