//! What a peer can do wrong on the wire: one variant a kind, each with its clause and its reason code. Violations of
//! the session (packet identifiers, receive maximum, permissions) are not here, and neither are our own mistakes.

use crate::{PacketType, Property, ReasonCode, TopicError, Version};

/// What a peer did wrong. The connection cannot go on after one: the stream of bytes is lost or cannot be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// The first bytes are an HTTP request: a browser, a load balancer's check, or the wrong port.
    #[error("the first bytes are an HTTP request")]
    HttpRequest,
    /// The first bytes are a TLS handshake, and this listener speaks plain MQTT.
    #[error("the first bytes are a TLS handshake")]
    TlsClientHello,
    /// The first packet of a client is not CONNECT.
    #[error("the first packet is not CONNECT: its first byte is {0:#04x}")]
    FirstPacketNotConnect(u8),
    /// A second CONNECT.
    #[error("a second CONNECT")]
    SecondConnect,
    /// Packet type 0, or 15 in MQTT 3.x.
    #[error("packet type {0} is reserved")]
    ReservedPacketType(u8),
    /// A packet that only the other side sends.
    #[error("{0} is sent in the other direction only")]
    WrongDirection(PacketType),
    /// The flags of the fixed header are not those of the packet type.
    #[error("{packet} with the flags {flags:#06b}")]
    ReservedFlags {
        /// Type of the packet.
        packet: PacketType,
        /// The low half of its first byte.
        flags: u8,
    },
    /// A length or another variable byte integer of five bytes or more, or of more bytes than it needs.
    #[error("a variable byte integer that is too long")]
    VariableByteInteger,
    /// The packet is larger than this side takes. Known from the fixed header, before the packet is buffered.
    #[error("a packet of {size} bytes, the limit is {limit}")]
    PacketTooLarge {
        /// Size of the whole packet in bytes.
        size: u32,
        /// The limit in bytes.
        limit: u32,
    },
    /// A field goes beyond the end of the packet, or of the properties.
    #[error("a field ends beyond the end of {0}")]
    Truncated(PacketType),
    /// Bytes after the last field of the packet.
    #[error("bytes after the last field of {0}")]
    TrailingBytes(PacketType),
    /// Text that is not UTF-8, surrogates included.
    #[error("text that is not UTF-8")]
    InvalidUtf8,
    /// Text with U+0000.
    #[error("text with U+0000")]
    NullCharacter,
    /// Text with a control character or a non-character; a violation in strict mode only.
    #[error("text with a control character or a non-character")]
    ControlCharacter,
    /// A packet identifier of zero.
    #[error("a packet identifier of zero")]
    PacketIdZero,

    /// The protocol name is neither `MQTT` nor `MQIsdp`.
    #[error("the protocol name is not MQTT's")]
    ProtocolName,
    /// The protocol level, or its combination with the protocol name, is not one that exists, or none that is spoken here. See
    /// [`Violation::connack_version`].
    #[error("protocol level {0} is not supported")]
    ProtocolLevel(u8),
    /// Bit 0 of the connect flags is set.
    #[error("the reserved connect flag is set")]
    ConnectReservedFlag,
    /// Will QoS 3.
    #[error("will QoS 3")]
    WillQoS,
    /// Will QoS or Will Retain is set without a will.
    #[error("will QoS or will retain without a will")]
    WillFlags,
    /// A password without a user name, in MQTT 3.x.
    #[error("a password without a user name")]
    PasswordWithoutUserName,
    /// The topic of the will is not a topic name.
    #[error("the will's topic is no topic name: {0}")]
    WillTopic(TopicError),

    /// QoS 3 in PUBLISH.
    #[error("PUBLISH with QoS 3")]
    PublishQoS,
    /// DUP in a PUBLISH with QoS 0; a violation in strict mode only.
    #[error("DUP in a PUBLISH with QoS 0")]
    DupOnQoS0,
    /// PUBLISH without a topic name and without a topic alias.
    #[error("PUBLISH without a topic")]
    TopicMissing,
    /// The topic of a PUBLISH is not a topic name.
    #[error("the topic is no topic name: {0}")]
    TopicName(TopicError),
    /// A topic name with more levels than this side takes.
    #[error("a topic of more than {0} levels")]
    TopicLevels(u16),
    /// A topic alias of zero.
    #[error("a topic alias of zero")]
    TopicAliasZero,
    /// The response topic is not a topic name.
    #[error("the response topic is no topic name: {0}")]
    ResponseTopic(TopicError),
    /// A subscription identifier in a PUBLISH from a client.
    #[error("a subscription identifier in a PUBLISH of a client")]
    SubscriptionIdFromClient,
    /// A subscription identifier of zero.
    #[error("a subscription identifier of zero")]
    SubscriptionIdZero,

    /// SUBSCRIBE without a topic filter.
    #[error("SUBSCRIBE without a topic filter")]
    SubscribeEmpty,
    /// UNSUBSCRIBE without a topic filter.
    #[error("UNSUBSCRIBE without a topic filter")]
    UnsubscribeEmpty,
    /// Requested QoS 3.
    #[error("a subscription with QoS 3")]
    SubscriptionQoS,
    /// Retain Handling 3.
    #[error("a subscription with retain handling 3")]
    RetainHandling,
    /// Reserved bits of the subscription options are set.
    #[error("reserved bits of the subscription options {0:#010b}")]
    SubscriptionOptions(u8),
    /// No Local on a shared subscription.
    #[error("no local on a shared subscription")]
    NoLocalOnShared,

    /// An identifier that is no property.
    #[error("property {0:#04x} does not exist")]
    UnknownProperty(u32),
    /// A property that this packet does not have.
    #[error("{packet} does not have the property {property}")]
    PropertyNotAllowed {
        /// Type of the packet.
        packet: PacketType,
        /// The property.
        property: Property,
    },
    /// A property twice that may be there once.
    #[error("the property {0} twice")]
    DuplicateProperty(Property),
    /// A value that the property cannot have: zero where it must not be, or neither 0 nor 1.
    #[error("the property {0} has a value that it cannot have")]
    PropertyValue(Property),
    /// Authentication Data without Authentication Method, or an AUTH without it.
    #[error("no authentication method in {0}")]
    AuthenticationMethodMissing(PacketType),
    /// A reason code that does not exist, or not in this packet from this side.
    #[error("{packet} with the reason code {code:#04x}")]
    ReasonCode {
        /// Type of the packet.
        packet: PacketType,
        /// The code.
        code: u8,
    },
    /// Reserved bits of the acknowledge flags of CONNACK are set.
    #[error("reserved acknowledge flags of CONNACK are set")]
    ConnAckFlags,
    /// A CONNACK that refuses, with Session Present.
    #[error("a CONNACK that refuses has session present")]
    SessionPresentOnRefusal,
    /// A Session Expiry Interval in a DISCONNECT of the server.
    #[error("a session expiry interval in a DISCONNECT of the server")]
    SessionExpiryFromServer,
}

impl Violation {
    /// The clause that was violated: a normative statement as `MQTT-3.1.2-3` where there is one, else the section.
    /// Numbers are those of MQTT 5; where only 3.1.1 has the rule it says so.
    #[must_use]
    pub const fn clause(&self) -> &'static str {
        match self {
            Self::HttpRequest | Self::TlsClientHello | Self::FirstPacketNotConnect(_) => "MQTT-3.1.0-1",
            Self::SecondConnect => "MQTT-3.1.0-2",
            Self::ReservedPacketType(_) | Self::WrongDirection(_) => "2.1.2",
            Self::ReservedFlags { .. } => "MQTT-2.1.3-1",
            Self::VariableByteInteger => "MQTT-1.5.5-1",
            Self::PacketTooLarge { .. } => "MQTT-3.2.2-15",
            Self::Truncated(_) | Self::TrailingBytes(_) => "2.1.4",
            Self::InvalidUtf8 => "MQTT-1.5.4-1",
            Self::NullCharacter => "MQTT-1.5.4-2",
            Self::ControlCharacter => "1.5.4",
            Self::PacketIdZero => "MQTT-2.2.1-3",
            Self::ProtocolName => "MQTT-3.1.2-1",
            Self::ProtocolLevel(_) => "MQTT-3.1.2-2",
            Self::ConnectReservedFlag => "MQTT-3.1.2-3",
            Self::WillQoS => "MQTT-3.1.2-12",
            Self::WillFlags => "MQTT-3.1.2-11",
            Self::PasswordWithoutUserName => "MQTT-3.1.2-22 of 3.1.1",
            Self::WillTopic(_) => "3.1.3.3",
            Self::PublishQoS => "MQTT-3.3.1-4",
            Self::DupOnQoS0 => "MQTT-3.3.1-2",
            Self::TopicMissing => "3.3.2.1",
            Self::TopicName(_) => "MQTT-3.3.2-2",
            Self::TopicLevels(_) => "4.7.3",
            Self::TopicAliasZero => "MQTT-3.3.2-8",
            Self::ResponseTopic(_) => "MQTT-3.3.2-14",
            Self::SubscriptionIdFromClient => "MQTT-3.3.4-6",
            Self::SubscriptionIdZero => "3.8.2.1.2",
            Self::SubscribeEmpty => "MQTT-3.8.3-2",
            Self::UnsubscribeEmpty => "MQTT-3.10.3-2",
            Self::SubscriptionQoS | Self::RetainHandling => "3.8.3.1",
            Self::SubscriptionOptions(_) => "MQTT-3.8.3-5",
            Self::NoLocalOnShared => "MQTT-3.8.3-4",
            Self::UnknownProperty(_) | Self::PropertyNotAllowed { .. } | Self::DuplicateProperty(_) => "2.2.2.2",
            Self::PropertyValue(property) => property.clause(),
            Self::AuthenticationMethodMissing(PacketType::Auth) => "3.15.2.2.2",
            Self::AuthenticationMethodMissing(_) => "3.1.2.11.10",
            Self::ReasonCode { packet, .. } => reason_clause(*packet),
            Self::ConnAckFlags => "MQTT-3.2.2-1",
            Self::SessionPresentOnRefusal => "MQTT-3.2.2-6",
            Self::SessionExpiryFromServer => "MQTT-3.14.2-2",
        }
    }

    /// The reason code that the peer is told, in CONNACK before the connection is accepted and in DISCONNECT after it.
    #[must_use]
    pub const fn reason_code(&self) -> ReasonCode {
        match self {
            Self::ReservedPacketType(_)
            | Self::ReservedFlags { .. }
            | Self::VariableByteInteger
            | Self::Truncated(_)
            | Self::TrailingBytes(_)
            | Self::InvalidUtf8
            | Self::NullCharacter
            | Self::ControlCharacter
            | Self::ConnectReservedFlag
            | Self::WillQoS
            | Self::WillFlags
            | Self::PublishQoS
            | Self::DupOnQoS0
            | Self::SubscriptionOptions(_)
            | Self::UnknownProperty(_)
            | Self::PropertyNotAllowed { .. }
            | Self::ConnAckFlags => ReasonCode::MalformedPacket,
            Self::HttpRequest
            | Self::TlsClientHello
            | Self::FirstPacketNotConnect(_)
            | Self::SecondConnect
            | Self::WrongDirection(_)
            | Self::PacketIdZero
            | Self::TopicMissing
            | Self::ResponseTopic(_)
            | Self::SubscriptionIdFromClient
            | Self::SubscriptionIdZero
            | Self::SubscribeEmpty
            | Self::UnsubscribeEmpty
            | Self::SubscriptionQoS
            | Self::RetainHandling
            | Self::NoLocalOnShared
            | Self::DuplicateProperty(_)
            | Self::PropertyValue(_)
            | Self::AuthenticationMethodMissing(_)
            | Self::ReasonCode { .. }
            | Self::SessionPresentOnRefusal
            | Self::SessionExpiryFromServer => ReasonCode::ProtocolError,
            Self::PacketTooLarge { .. } => ReasonCode::PacketTooLarge,
            Self::ProtocolName | Self::ProtocolLevel(_) => ReasonCode::UnsupportedProtocolVersion,
            // 3.1.1 has no better return code than 4 for it: [MQTT-3.1.4-1 of 3.1.1] only closes the connection.
            Self::PasswordWithoutUserName => ReasonCode::BadUserNameOrPassword,
            Self::WillTopic(_) | Self::TopicName(_) | Self::TopicLevels(_) => ReasonCode::TopicNameInvalid,
            Self::TopicAliasZero => ReasonCode::TopicAliasInvalid,
        }
    }

    /// Of a CONNECT with a level that is not supported: the version in whose shape the CONNACK has to be written so
    /// that the client understands it. `None` for every other violation, and where no answer makes sense: a client
    /// with a foreign protocol name is no MQTT client [MQTT-3.1.2-1].
    #[must_use]
    pub const fn connack_version(&self) -> Option<Version> {
        match self {
            Self::ProtocolLevel(level) if *level & 0x7F >= 5 => Some(Version::V5),
            Self::ProtocolLevel(_) => Some(Version::V311),
            _ => None,
        }
    }
}

impl Property {
    /// Where the values of a property that has impossible ones are told.
    const fn clause(self) -> &'static str {
        match self {
            Self::ReceiveMaximum => "3.1.2.11.3",
            Self::MaximumPacketSize => "3.1.2.11.4",
            Self::RequestResponseInformation => "3.1.2.11.6",
            Self::RequestProblemInformation => "3.1.2.11.7",
            Self::PayloadFormatIndicator => "3.3.2.3.2",
            Self::MaximumQoS => "3.2.2.3.4",
            Self::RetainAvailable => "3.2.2.3.5",
            Self::WildcardSubscriptionAvailable => "3.2.2.3.11",
            Self::SubscriptionIdentifiersAvailable => "3.2.2.3.12",
            Self::SharedSubscriptionAvailable => "3.2.2.3.13",
            _ => "2.2.2.2",
        }
    }
}

const fn reason_clause(packet: PacketType) -> &'static str {
    match packet {
        PacketType::ConnAck => "MQTT-3.2.2-8",
        PacketType::PubAck => "MQTT-3.4.2-1",
        PacketType::PubRec => "MQTT-3.5.2-1",
        PacketType::PubRel => "MQTT-3.6.2-1",
        PacketType::PubComp => "MQTT-3.7.2-1",
        PacketType::SubAck => "MQTT-3.9.3-2",
        PacketType::UnsubAck => "MQTT-3.11.3-2",
        PacketType::Disconnect => "MQTT-3.14.2-1",
        PacketType::Auth => "MQTT-3.15.2-1",
        _ => "2.4",
    }
}
