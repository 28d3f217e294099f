//! The packet model: one set of types for MQTT 3.1, 3.1.1 and 5.0. What a version does not have is absent
//! (`None`, empty) on decoding and not written on encoding. No bytes here: see `decode` and `encode`.

use std::num::{NonZeroU16, NonZeroU32};

use bytes::Bytes;
use bytestring::ByteString;

use crate::{ReasonCode, TopicFilter, TopicName};

/// Version of the protocol a connection speaks, from the CONNECT packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Version {
    /// MQTT 3.1: protocol name `MQIsdp`, level 3.
    V31,
    /// MQTT 3.1.1: protocol name `MQTT`, level 4.
    V311,
    /// MQTT 5.0: protocol name `MQTT`, level 5.
    V5,
}

/// Quality of service [MQTT 5, 4.3].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum QoS {
    /// At most once.
    #[default]
    AtMostOnce = 0,
    /// At least once.
    AtLeastOnce = 1,
    /// Exactly once.
    ExactlyOnce = 2,
}

/// A packet identifier, never zero [MQTT-2.2.1-3].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PacketId(pub NonZeroU16);

/// User properties in their order, repeated names kept [MQTT 5, 3.3.2.3.7].
pub type UserProperties = Vec<(ByteString, ByteString)>;

/// Any control packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Packet {
    /// CONNECT
    Connect(Box<Connect>),
    /// CONNACK
    ConnAck(Box<ConnAck>),
    /// PUBLISH
    Publish(Publish),
    /// PUBACK
    PubAck(Ack),
    /// PUBREC
    PubRec(Ack),
    /// PUBREL
    PubRel(Ack),
    /// PUBCOMP
    PubComp(Ack),
    /// SUBSCRIBE
    Subscribe(Subscribe),
    /// SUBACK
    SubAck(SubAck),
    /// UNSUBSCRIBE
    Unsubscribe(Unsubscribe),
    /// UNSUBACK
    UnsubAck(SubAck),
    /// PINGREQ
    PingReq,
    /// PINGRESP
    PingResp,
    /// DISCONNECT
    Disconnect(Disconnect),
    /// AUTH, MQTT 5 only
    Auth(Auth),
}

/// CONNECT [MQTT 5, 3.1].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connect {
    /// Version the client asked for.
    pub version: Version,
    /// The client is a bridge (level byte with bit 7 set, as mosquitto's bridges send for 3.1 and 3.1.1).
    pub bridge: bool,
    /// Clean Start (5), Clean Session (3.x).
    pub clean_start: bool,
    /// Keep Alive in seconds; 0 turns it off.
    pub keep_alive_s: u16,
    /// Client identifier, possibly empty.
    pub client_id: ByteString,
    /// The will, if any.
    pub will: Option<Box<Will>>,
    /// User name.
    pub username: Option<ByteString>,
    /// Password: binary data.
    pub password: Option<Bytes>,
    /// MQTT 5 properties; default for 3.x.
    pub properties: ConnectProperties,
}

/// Properties of CONNECT [MQTT 5, 3.1.2.11].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnectProperties {
    /// Session Expiry Interval in seconds; absent means 0.
    pub session_expiry_interval_s: Option<u32>,
    /// Receive Maximum; absent means 65,535.
    pub receive_maximum: Option<NonZeroU16>,
    /// Maximum Packet Size in bytes; absent means no limit.
    pub maximum_packet_size: Option<NonZeroU32>,
    /// Topic Alias Maximum; 0 when absent.
    pub topic_alias_maximum: u16,
    /// Request Response Information; false when absent.
    pub request_response_information: bool,
    /// Request Problem Information; absent means true.
    pub request_problem_information: Option<bool>,
    /// User properties.
    pub user_properties: UserProperties,
    /// Authentication Method.
    pub authentication_method: Option<ByteString>,
    /// Authentication Data.
    pub authentication_data: Option<Bytes>,
}

/// A will message [MQTT 5, 3.1.2.5].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Will {
    /// Where it is published.
    pub topic: TopicName,
    /// What is published.
    pub payload: Bytes,
    /// At which QoS.
    pub qos: QoS,
    /// Whether it is retained.
    pub retain: bool,
    /// Will Delay Interval in seconds.
    pub delay_interval_s: u32,
    /// The properties of the message.
    pub properties: Option<Box<MessageProperties>>,
}

/// The properties that travel with an application message, in PUBLISH and in a will. `None` in their owner when
/// there are none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MessageProperties {
    /// Payload Format Indicator is 1: the payload is UTF-8. `Some(false)` is an explicit 0.
    pub payload_is_utf8: Option<bool>,
    /// Message Expiry Interval in seconds.
    pub message_expiry_interval_s: Option<u32>,
    /// Content Type.
    pub content_type: Option<ByteString>,
    /// Response Topic.
    pub response_topic: Option<TopicName>,
    /// Correlation Data.
    pub correlation_data: Option<Bytes>,
    /// User properties.
    pub user_properties: UserProperties,
}

/// CONNACK [MQTT 5, 3.2].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnAck {
    /// Session Present.
    pub session_present: bool,
    /// Reason code; written as the return code of 3.x where the connection speaks it.
    pub reason: ReasonCode,
    /// MQTT 5 properties.
    pub properties: ConnAckProperties,
}

/// Properties of CONNACK [MQTT 5, 3.2.2.3].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnAckProperties {
    /// Session Expiry Interval in seconds, when it is not what the client asked for.
    pub session_expiry_interval_s: Option<u32>,
    /// Receive Maximum.
    pub receive_maximum: Option<NonZeroU16>,
    /// Maximum QoS when below 2: only 0 and 1 are written.
    pub maximum_qos: Option<QoS>,
    /// Retain Available.
    pub retain_available: Option<bool>,
    /// Maximum Packet Size in bytes.
    pub maximum_packet_size: Option<NonZeroU32>,
    /// Assigned Client Identifier.
    pub assigned_client_id: Option<ByteString>,
    /// Topic Alias Maximum.
    pub topic_alias_maximum: Option<u16>,
    /// Reason String.
    pub reason_string: Option<ByteString>,
    /// User properties.
    pub user_properties: UserProperties,
    /// Wildcard Subscription Available.
    pub wildcard_subscription_available: Option<bool>,
    /// Subscription Identifiers Available.
    pub subscription_identifiers_available: Option<bool>,
    /// Shared Subscription Available.
    pub shared_subscription_available: Option<bool>,
    /// Server Keep Alive in seconds.
    pub server_keep_alive_s: Option<u16>,
    /// Response Information.
    pub response_information: Option<ByteString>,
    /// Server Reference.
    pub server_reference: Option<ByteString>,
    /// Authentication Method.
    pub authentication_method: Option<ByteString>,
    /// Authentication Data.
    pub authentication_data: Option<Bytes>,
}

/// The topic of a PUBLISH: by name, by alias, or a name that sets an alias [MQTT 5, 3.3.2.3.4].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PublishTopic {
    /// A topic name alone.
    Name(TopicName),
    /// A topic name, and the alias that stands for it from now on.
    Define(TopicName, NonZeroU16),
    /// An alias set before.
    Alias(NonZeroU16),
}

/// QoS of a PUBLISH with the packet identifier that it needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// QoS 0, no packet identifier [MQTT-2.2.1-2].
    AtMostOnce,
    /// QoS 1.
    AtLeastOnce(PacketId),
    /// QoS 2.
    ExactlyOnce(PacketId),
}

/// PUBLISH [MQTT 5, 3.3].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publish {
    /// DUP flag. Says nothing about duplicates: 3.3.1.1.
    pub dup: bool,
    /// QoS and packet identifier.
    pub delivery: Delivery,
    /// RETAIN flag.
    pub retain: bool,
    /// Topic.
    pub topic: PublishTopic,
    /// Subscription identifiers, server to client only.
    pub subscription_ids: Vec<NonZeroU32>,
    /// Message properties.
    pub properties: Option<Box<MessageProperties>>,
    /// Payload.
    pub payload: Bytes,
}

/// Reason String and user properties, which most acknowledgements can carry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReasonProperties {
    /// Reason String.
    pub reason_string: Option<ByteString>,
    /// User properties.
    pub user_properties: UserProperties,
}

/// PUBACK, PUBREC, PUBREL and PUBCOMP [MQTT 5, 3.4–3.7].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ack {
    /// The packet that is acknowledged.
    pub packet_id: PacketId,
    /// Reason code; not on the wire in 3.x (decoded as `Success`).
    pub reason: ReasonCode,
    /// MQTT 5 properties.
    pub properties: Option<Box<ReasonProperties>>,
}

/// Retain Handling [MQTT 5, 3.8.3.1].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum RetainHandling {
    /// Send retained messages at the time of the subscribe.
    #[default]
    Send = 0,
    /// Send them only if the subscription did not exist.
    SendIfNew = 1,
    /// Do not send them.
    DoNotSend = 2,
}

/// Subscription options [MQTT 5, 3.8.3.1].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct SubscriptionOptions {
    /// Maximum QoS.
    pub qos: QoS,
    /// No Local.
    pub no_local: bool,
    /// Retain As Published.
    pub retain_as_published: bool,
    /// Retain Handling.
    pub retain_handling: RetainHandling,
}

/// One entry of a SUBSCRIBE. A filter that is not valid does not end the connection: it is answered with 0x8F
/// (0x80 in 3.x), so it is kept as its text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubscribeEntry {
    /// The topic filter, or the text that is none.
    pub filter: Result<TopicFilter, ByteString>,
    /// Its options; only `qos` in 3.x.
    pub options: SubscriptionOptions,
}

/// SUBSCRIBE [MQTT 5, 3.8].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscribe {
    /// Packet identifier.
    pub packet_id: PacketId,
    /// Subscription Identifier.
    pub subscription_id: Option<NonZeroU32>,
    /// User properties.
    pub user_properties: UserProperties,
    /// One or more entries [MQTT-3.8.3-2].
    pub entries: Vec<SubscribeEntry>,
}

/// SUBACK, and UNSUBACK (which carries reason codes in MQTT 5 only) [MQTT 5, 3.9, 3.11].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubAck {
    /// The packet that is acknowledged.
    pub packet_id: PacketId,
    /// One reason code an entry, in order.
    pub reasons: Vec<ReasonCode>,
    /// MQTT 5 properties.
    pub properties: Option<Box<ReasonProperties>>,
}

/// UNSUBSCRIBE [MQTT 5, 3.10].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsubscribe {
    /// Packet identifier.
    pub packet_id: PacketId,
    /// User properties.
    pub user_properties: UserProperties,
    /// One or more filters [MQTT-3.10.3-2]; what is no filter is kept as its text.
    pub filters: Vec<Result<TopicFilter, ByteString>>,
}

/// DISCONNECT [MQTT 5, 3.14]. In 3.x it has no content: only the client sends it, with `Success`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disconnect {
    /// Reason code.
    pub reason: ReasonCode,
    /// Session Expiry Interval in seconds, client to server.
    pub session_expiry_interval_s: Option<u32>,
    /// Server Reference, server to client.
    pub server_reference: Option<ByteString>,
    /// Reason string and user properties.
    pub properties: Option<Box<ReasonProperties>>,
}

/// AUTH [MQTT 5, 3.15].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Auth {
    /// Success, Continue authentication or Re-authenticate.
    pub reason: ReasonCode,
    /// Authentication Method.
    pub authentication_method: Option<ByteString>,
    /// Authentication Data.
    pub authentication_data: Option<Bytes>,
    /// Reason string and user properties.
    pub properties: Option<Box<ReasonProperties>>,
}
