//! A message to publish, in few words.

use bytes::Bytes;
use mqtt_codec::{Delivery, MessageProperties, PacketId, Publish, PublishTopic, QoS, TopicName};

/// A message to publish.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub(crate) topic: TopicName,
    pub(crate) payload: Bytes,
    pub(crate) qos: QoS,
    pub(crate) retain: bool,
    pub(crate) properties: Option<Box<MessageProperties>>,
}

/// A message of QoS 0.
pub(crate) fn msg(topic: &str, payload: impl Into<Bytes>) -> Message {
    let topic = TopicName::new(topic).expect("a topic name");
    Message { topic, payload: payload.into(), qos: QoS::AtMostOnce, retain: false, properties: None }
}

impl Message {
    pub(crate) fn qos(mut self, qos: u8) -> Self {
        self.qos = QoS::try_from(qos).expect("a QoS");
        self
    }

    pub(crate) fn retained(mut self) -> Self {
        self.retain = true;
        self
    }

    /// Sets Message Expiry Interval.
    pub(crate) fn expires(mut self, seconds: u32) -> Self {
        self.properties.get_or_insert_default().message_expiry_interval_s = Some(seconds);
        self
    }

    /// Adds a user property.
    pub(crate) fn property(mut self, name: &str, value: &str) -> Self {
        self.properties.get_or_insert_default().user_properties.push((name.into(), value.into()));
        self
    }

    /// The packet; QoS 1 and 2 need `packet_id`.
    pub(crate) fn packet(&self, packet_id: Option<PacketId>) -> Publish {
        Publish {
            dup: false,
            delivery: Delivery::new(self.qos, packet_id).expect("a packet identifier for QoS 1 and 2"),
            retain: self.retain,
            topic: PublishTopic::Name(self.topic.clone()),
            subscription_ids: Vec::new(),
            properties: self.properties.clone(),
            payload: self.payload.clone(),
        }
    }
}

/// A received message as a person would write it down: `topic payload qos1 retain dup`.
pub(crate) fn shown(publish: &Publish) -> String {
    let topic = publish.topic_name().map_or("(alias)", TopicName::as_str);
    let payload = String::from_utf8_lossy(&publish.payload);
    let mut text = format!("{topic} {payload} qos{}", publish.qos() as u8);
    for (flag, name) in [(publish.retain, " retain"), (publish.dup, " dup")] {
        if flag {
            text.push_str(name);
        }
    }
    text
}
