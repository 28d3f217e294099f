//! An application message on its way to its subscribers, and its frames: encoded once for each version that somebody
//! speaks, however many receive it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use bytestring::ByteString;
use mqtt_codec::{MessageProperties, PAYLOAD_COPY_MAX, PublishFrame, QoS, TopicName, Version};
use mqtt_ownership::ServerTime;
use mqtt_session::Sequence;
use proto_map::MountPoint;

use crate::overload::{self, Held, Lent, PROCESS};

/// A message from MQTT or NATS.
#[derive(Debug)]
pub(crate) struct Message {
    /// Topic name.
    pub(crate) topic: TopicName,
    /// Payload. Nothing is held for it: whoever keeps it for ever may have it.
    pub(crate) payload: Bytes,
    /// The same, when it is large, for frames: clients have those that have not the message, and it is counted as long as one has it.
    counted_payload: Option<Bytes>,
    /// Message properties.
    pub(crate) properties: Option<Box<MessageProperties>>,
    /// QoS at which it was published.
    pub(crate) qos: QoS,
    /// RETAIN flag with which it was published.
    pub(crate) retain: bool,
    /// Its sequence in the retained bucket, when it is stored there.
    pub(crate) retained_at: Option<Sequence>,
    /// Version of the retained index from which on it is there because it was seen live.
    pub(crate) indexed_at: Option<IndexVersion>,
    /// Client id of the publisher, known where No Local needs it.
    pub(crate) publisher: Option<ByteString>,
    /// It was published on core NATS, where who takes QoS 0 has had it from, and copied into the log.
    pub(crate) is_ingested: bool,
    /// When its Message Expiry Interval began to run, by the clock of the server.
    pub(crate) since: ServerTime,
    /// When it came, compared with others.
    pub(crate) came: ArrivalOrder,
    frames: Frames,
    mounted: OnceLock<Box<Mounted>>,
    /// It is counted as long as somebody has it.
    #[cfg_attr(not(test), expect(dead_code, reason = "it is there to be dropped with the message"))]
    held: Held,
}

/// A version of the index of retained messages, which has a higher one with each change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct IndexVersion(pub(crate) u64);

/// The place of a message in the order in which messages have come to this sidecar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ArrivalOrder(u64);

/// Messages that have come.
static COME: AtomicU64 = AtomicU64::new(0);

/// Frames of MQTT 3.x and 5, without and with a packet id.
#[derive(Debug, Default)]
struct Frames([[OnceLock<Option<PublishFrame>>; 2]; 2]);

impl Frames {
    fn get(
        &self,
        version: Version,
        with_packet_id: bool,
        make: impl FnOnce() -> Option<PublishFrame>,
    ) -> Option<&PublishFrame> {
        let shape = usize::from(version == Version::V5);
        self.0[shape][usize::from(with_packet_id)].get_or_init(make).as_ref()
    }
}

/// Frames for clients under one mount point: mostly there is none. Those under another one are behind it; there are no more than
/// the configuration has.
#[derive(Debug)]
struct Mounted {
    mount: Arc<MountPoint>,
    frames: Frames,
    others: OnceLock<Box<Self>>,
}

impl Message {
    /// A QoS 0 message without retain.
    pub(crate) fn new(topic: TopicName, payload: Bytes, properties: Option<Box<MessageProperties>>) -> Self {
        if payload.len() < PAYLOAD_COPY_MAX {
            // A small payload is in the message and in what is encoded of it, a large one is in both by reference.
            let of_payload = 2 * payload.len();
            return Self::made(topic, payload, None, of_payload, properties);
        }
        let counted_payload = overload::counted(&PROCESS.budget, payload.clone());
        Self::made(topic, payload, Some(counted_payload), 0, properties)
    }

    /// The same of a payload that is kept beside this, and that others may have as well.
    pub(crate) fn of_kept(
        topic: TopicName,
        payload: Bytes,
        lent: &Lent,
        properties: Option<Box<MessageProperties>>,
    ) -> Self {
        if payload.len() < PAYLOAD_COPY_MAX {
            let of_payload = payload.len();
            return Self::made(topic, payload, None, of_payload, properties);
        }
        let counted_payload = lent.lend(&PROCESS.budget, &payload);
        Self::made(topic, payload, Some(counted_payload), 0, properties)
    }

    fn made(
        topic: TopicName,
        payload: Bytes,
        counted_payload: Option<Bytes>,
        of_payload: usize,
        properties: Option<Box<MessageProperties>>,
    ) -> Self {
        let of_properties = properties.as_ref().map_or(0, |all| size_of_val(&**all) + 2 * all.weight());
        let bytes = size_of::<Self>() + 2 * topic.len() + of_properties + of_payload;
        Self {
            topic,
            payload,
            counted_payload,
            properties,
            qos: QoS::AtMostOnce,
            retain: false,
            retained_at: None,
            indexed_at: None,
            publisher: None,
            is_ingested: false,
            since: ServerTime(0),
            came: ArrivalOrder(COME.fetch_add(1, Ordering::Relaxed)),
            frames: Frames::default(),
            mounted: OnceLock::new(),
            held: Held::exactly(&PROCESS.budget, bytes),
        }
    }

    /// The payload as frames have it.
    fn framed(&self) -> &Bytes {
        self.counted_payload.as_ref().unwrap_or(&self.payload)
    }

    /// The frame for a version. `None` when the message cannot be said in it (a property above 65,535 bytes).
    pub(crate) fn frame(&self, version: Version, with_packet_id: bool) -> Option<&PublishFrame> {
        self.frames.get(version, with_packet_id, || {
            let properties = self.properties.as_deref();
            PublishFrame::new(version, with_packet_id, &self.topic, properties, self.framed()).ok()
        })
    }

    /// The same for clients under a mount point, who know the topic without it and use no Response Topic that is outside. `None`
    /// also when the topic is.
    pub(crate) fn frame_within(
        &self,
        mount: &Arc<MountPoint>,
        version: Version,
        with_packet_id: bool,
    ) -> Option<&PublishFrame> {
        let mut next = &self.mounted;
        let mounted = loop {
            let mounted = next.get_or_init(|| {
                let (mount, frames, others) = (Arc::clone(mount), Frames::default(), OnceLock::new());
                Box::new(Mounted { mount, frames, others })
            });
            if mounted.mount == *mount {
                break mounted;
            }
            next = &mounted.others;
        };
        mounted.frames.get(version, with_packet_id, || {
            let topic = mount.outside(&self.topic)?;
            let properties = self.properties.as_deref().map(|properties| mount.properties_outside(properties));
            PublishFrame::new(version, with_packet_id, &topic, properties.as_ref(), self.framed()).ok()
        })
    }

    /// Remaining Message Expiry Interval in seconds at this time, the server's at the earliest; `Err` when it is over [MQTT-3.3.2-5, -6].
    pub(crate) fn expiry(&self, now: ServerTime) -> Result<Option<u32>, Expired> {
        let Some(interval_s) = self.properties.as_ref().and_then(|p| p.message_expiry_interval_s) else {
            return Ok(None);
        };
        let waited_s = now.since(self.since).as_secs();
        match u64::from(interval_s).checked_sub(waited_s) {
            Some(left) if left > 0 || interval_s == 0 && waited_s == 0 => Ok(u32::try_from(left).ok()),
            _ => Err(Expired),
        }
    }

    /// What of the budget is held for it, without a payload that others may have alone.
    #[cfg(test)]
    pub(crate) const fn counted(&self) -> usize {
        self.held.counted()
    }

    /// What it counts for in a queue, in bytes.
    pub(crate) fn weight(&self) -> usize {
        self.topic.as_str().len() + self.payload.len() + self.properties.as_ref().map_or(0, |all| all.weight()) + 128
    }
}

/// The Message Expiry Interval is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Expired;

#[cfg(test)]
mod tests {
    use super::*;

    /// With properties of every kind that has a size, of so many bytes each.
    fn with_properties(bytes: usize) -> Message {
        let text = || ByteString::from("x".repeat(bytes));
        let properties = MessageProperties {
            content_type: Some(text()),
            response_topic: TopicName::new(text()).ok(),
            correlation_data: Some(Bytes::from(vec![0; bytes])),
            user_properties: vec![(text(), text())],
            ..MessageProperties::default()
        };
        Message::new(TopicName::new("t").unwrap(), Bytes::new(), Some(Box::new(properties)))
    }

    #[test]
    fn what_is_in_properties_is_counted_and_weighs_something() {
        let (small, large) = (with_properties(10), with_properties(10_010));
        assert_eq!(large.weight() - small.weight(), 50_000);
        // In the message and in its frame.
        assert_eq!(large.counted() - small.counted(), 100_000);
        // Many that say nothing take more than they were sent in.
        let empty = (0..10_000).map(|_| (ByteString::new(), ByteString::new())).collect();
        let many = MessageProperties { user_properties: empty, ..MessageProperties::default() };
        let many = Message::new(TopicName::new("t").unwrap(), Bytes::new(), Some(Box::new(many)));
        assert!(many.weight() >= 10_000 * 2 * size_of::<ByteString>() && many.counted() > many.weight());
    }

    #[test]
    fn mqtt_3_3_2_6_the_interval_that_is_sent_is_what_is_left_of_it() {
        let properties = MessageProperties { message_expiry_interval_s: Some(10), ..MessageProperties::default() };
        let mut m = Message::new(TopicName::new("t").unwrap(), Bytes::new(), Some(Box::new(properties)));
        m.since = ServerTime(1000);
        assert_eq!(m.expiry(ServerTime(1000)), Ok(Some(10)));
        assert_eq!(m.expiry(ServerTime(4500)), Ok(Some(7)));
        assert_eq!(m.expiry(ServerTime(11_000)), Err(Expired));
        let plain = Message::new(TopicName::new("t").unwrap(), Bytes::new(), None);
        assert_eq!(plain.expiry(ServerTime(u64::MAX)), Ok(None));
    }

    #[test]
    fn each_mount_point_has_frames_of_its_own_and_who_has_none_the_whole_topic() {
        let response_topic = Some(TopicName::new("site7/r").unwrap());
        let properties = MessageProperties { response_topic, ..MessageProperties::default() };
        let m =
            Message::new(TopicName::new("site7/a/b").unwrap(), Bytes::from_static(b"x"), Some(Box::new(properties)));
        let mount = |text: &str| Arc::new(MountPoint::new(text, "$NMQ").unwrap());
        let shown = |frame: Option<&PublishFrame>| {
            let mut out = bytes::BytesMut::new();
            frame?.write(false, QoS::AtMostOnce, false, None, None, &mut out).unwrap();
            Some(out.escape_ascii().to_string())
        };
        let (site, line, other) = (mount("site7/"), mount("site7/a/"), mount("other/"));
        for version in [Version::V311, Version::V5] {
            let v5 = |text: &str| if version.is_v5() { text.to_owned() } else { String::new() };
            let length =
                |v3: usize, v5: usize| char::from(u8::try_from(if version.is_v5() { v5 } else { v3 }).unwrap());
            let expected = |topic: &str, length: char, properties: &str| {
                let mut bytes = vec![0x30, length as u8, 0, u8::try_from(topic.len()).unwrap()];
                bytes.extend_from_slice(topic.as_bytes());
                bytes.extend_from_slice(properties.as_bytes());
                bytes.push(b'x');
                Some(bytes.escape_ascii().to_string())
            };
            for _ in 0..2 {
                let whole = expected("site7/a/b", length(12, 23), &v5("\x0a\x08\0\x07site7/r"));
                assert_eq!(shown(m.frame(version, false)), whole);
                assert_eq!(
                    shown(m.frame_within(&site, version, false)),
                    expected("a/b", length(6, 11), &v5("\x04\x08\0\x01r"))
                );
                assert_eq!(shown(m.frame_within(&line, version, false)), expected("b", length(4, 5), &v5("\0")));
                assert_eq!(shown(m.frame_within(&other, version, false)), None);
            }
        }
    }
}
