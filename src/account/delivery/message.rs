//! An application message on its way to its subscribers, and its frames: encoded once for each version that somebody
//! speaks, however many receive it.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use bytestring::ByteString;
use mqtt_codec::{MessageProperties, PublishFrame, QoS, TopicName, Version};

/// A message from MQTT or NATS.
#[derive(Debug)]
pub(crate) struct Message {
    /// Topic name.
    pub(crate) topic: TopicName,
    /// Payload.
    pub(crate) payload: Bytes,
    /// Message properties.
    pub(crate) properties: Option<Box<MessageProperties>>,
    /// QoS at which it was published.
    pub(crate) qos: QoS,
    /// RETAIN flag with which it was published.
    pub(crate) retain: bool,
    /// Its sequence in the retained bucket, when it is stored there.
    pub(crate) retained_at: Option<u64>,
    /// Version of the retained index from which on it is there because it was seen live.
    pub(crate) indexed_at: Option<u64>,
    /// Client id of the publisher, known where No Local needs it.
    pub(crate) publisher: Option<ByteString>,
    /// It was published on core NATS, where who takes QoS 0 has had it from, and copied into the log.
    pub(crate) is_ingested: bool,
    /// When its Message Expiry Interval began to run, in milliseconds since the epoch.
    pub(crate) since_ms: u64,
    /// Its place in the order in which messages have come to this sidecar.
    pub(crate) came: u64,
    frames: Frames,
}

/// Messages that have come.
static COME: AtomicU64 = AtomicU64::new(0);

/// Frames of MQTT 3.x and 5, without and with a packet id.
#[derive(Debug, Default)]
struct Frames([[OnceLock<Option<PublishFrame>>; 2]; 2]);

impl Message {
    /// A QoS 0 message without retain.
    pub(crate) fn new(topic: TopicName, payload: Bytes, properties: Option<Box<MessageProperties>>) -> Self {
        Self {
            topic,
            payload,
            properties,
            qos: QoS::AtMostOnce,
            retain: false,
            retained_at: None,
            indexed_at: None,
            publisher: None,
            is_ingested: false,
            since_ms: 0,
            came: COME.fetch_add(1, Ordering::Relaxed),
            frames: Frames::default(),
        }
    }

    /// The frame for a version. `None` when the message cannot be said in it (a property above 65,535 bytes).
    pub(crate) fn frame(&self, version: Version, with_packet_id: bool) -> Option<&PublishFrame> {
        let shape = usize::from(version == Version::V5);
        self.frames.0[shape][usize::from(with_packet_id)]
            .get_or_init(|| {
                let properties = self.properties.as_deref();
                PublishFrame::new(version, with_packet_id, &self.topic, properties, &self.payload).ok()
            })
            .as_ref()
    }

    /// Remaining Message Expiry Interval in seconds at `now_ms`, the server's time at the earliest; `Err` when it is over [MQTT-3.3.2-5, -6].
    pub(crate) fn expiry(&self, now_ms: u64) -> Result<Option<u32>, Expired> {
        let Some(interval_s) = self.properties.as_ref().and_then(|p| p.message_expiry_interval_s) else {
            return Ok(None);
        };
        let waited_s = now_ms.saturating_sub(self.since_ms) / 1000;
        match u64::from(interval_s).checked_sub(waited_s) {
            Some(left) if left > 0 || interval_s == 0 && waited_s == 0 => Ok(u32::try_from(left).ok()),
            _ => Err(Expired),
        }
    }

    /// What it counts for in a queue, in bytes.
    pub(crate) fn weight(&self) -> usize {
        self.topic.as_str().len() + self.payload.len() + 128
    }
}

/// The Message Expiry Interval is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Expired;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mqtt_3_3_2_6_the_interval_that_is_sent_is_what_is_left_of_it() {
        let properties = MessageProperties { message_expiry_interval_s: Some(10), ..MessageProperties::default() };
        let mut m = Message::new(TopicName::new("t").unwrap(), Bytes::new(), Some(Box::new(properties)));
        m.since_ms = 1000;
        assert_eq!(m.expiry(1000), Ok(Some(10)));
        assert_eq!(m.expiry(4500), Ok(Some(7)));
        assert_eq!(m.expiry(11_000), Err(Expired));
        let plain = Message::new(TopicName::new("t").unwrap(), Bytes::new(), None);
        assert_eq!(plain.expiry(u64::MAX), Ok(None));
    }
}
