//! The packet model: one set of types for MQTT 3.1, 3.1.1 and 5.0. What a version does not have is absent
//! (`None`, empty) on decoding and not written on encoding. Each packet has a file with its fields, how it is read and
//! how it is written; here is what they share. Fixed headers are not theirs: see `decode` and `encode`.

use crate::PacketType;

mod ack;
mod auth;
mod basics;
mod connack;
mod connect;
mod disconnect;
mod properties;
mod publish;
mod suback;
mod subscribe;
mod unsubscribe;

pub use ack::Ack;
pub use auth::Auth;
pub use basics::{PacketId, QoS, UnknownValue, UserProperties, Version, Versions};
pub use connack::{ConnAck, ConnAckProperties};
pub use connect::{Connect, ConnectProperties, Will};
pub use disconnect::Disconnect;
pub(crate) use properties::MessageSection;
pub use properties::{MessageProperties, ReasonProperties};
pub(crate) use publish::publish_flags;
pub use publish::{Delivery, Publish, PublishTopic};
pub use suback::SubAck;
pub use subscribe::{RetainHandling, Subscribe, SubscribeEntry, SubscriptionOptions};
pub use unsubscribe::Unsubscribe;

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

impl Packet {
    /// Type of the packet.
    #[must_use]
    pub const fn packet_type(&self) -> PacketType {
        match self {
            Self::Connect(_) => PacketType::Connect,
            Self::ConnAck(_) => PacketType::ConnAck,
            Self::Publish(_) => PacketType::Publish,
            Self::PubAck(_) => PacketType::PubAck,
            Self::PubRec(_) => PacketType::PubRec,
            Self::PubRel(_) => PacketType::PubRel,
            Self::PubComp(_) => PacketType::PubComp,
            Self::Subscribe(_) => PacketType::Subscribe,
            Self::SubAck(_) => PacketType::SubAck,
            Self::Unsubscribe(_) => PacketType::Unsubscribe,
            Self::UnsubAck(_) => PacketType::UnsubAck,
            Self::PingReq => PacketType::PingReq,
            Self::PingResp => PacketType::PingResp,
            Self::Disconnect(_) => PacketType::Disconnect,
            Self::Auth(_) => PacketType::Auth,
        }
    }
}
