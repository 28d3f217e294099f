//! Reason codes of MQTT 5 (2.4), which are the only ones inside; return codes of 3.x are made from them at the wire.

use crate::{PacketType, Role};

macro_rules! reason_codes {
    ($($(#[$doc:meta])* $name:ident = $value:literal,)*) => {
        /// A reason code [MQTT 5, 2.4]. Values shared by several packets have the name of their most general use:
        /// 0x00 is `Success`, also for Normal disconnection and Granted QoS 0.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum ReasonCode { $($(#[$doc])* $name = $value,)* }

        impl ReasonCode {
            /// The code of this value, if the specification has one.
            #[must_use]
            pub const fn from_u8(value: u8) -> Option<Self> {
                match value { $($value => Some(Self::$name),)* _ => None }
            }
        }
    };
}

reason_codes! {
    /// Success, Normal disconnection, Granted QoS 0
    Success = 0x00,
    /// Granted QoS 1
    GrantedQoS1 = 0x01,
    /// Granted QoS 2
    GrantedQoS2 = 0x02,
    /// Disconnect with Will Message
    DisconnectWithWill = 0x04,
    /// No matching subscribers
    NoMatchingSubscribers = 0x10,
    /// No subscription existed
    NoSubscriptionExisted = 0x11,
    /// Continue authentication
    ContinueAuthentication = 0x18,
    /// Re-authenticate
    ReAuthenticate = 0x19,
    /// Unspecified error
    UnspecifiedError = 0x80,
    /// Malformed Packet
    MalformedPacket = 0x81,
    /// Protocol Error
    ProtocolError = 0x82,
    /// Implementation specific error
    ImplementationSpecificError = 0x83,
    /// Unsupported Protocol Version
    UnsupportedProtocolVersion = 0x84,
    /// Client Identifier not valid
    ClientIdentifierNotValid = 0x85,
    /// Bad User Name or Password
    BadUserNameOrPassword = 0x86,
    /// Not authorized
    NotAuthorized = 0x87,
    /// Server unavailable
    ServerUnavailable = 0x88,
    /// Server busy
    ServerBusy = 0x89,
    /// Banned
    Banned = 0x8A,
    /// Server shutting down
    ServerShuttingDown = 0x8B,
    /// Bad authentication method
    BadAuthenticationMethod = 0x8C,
    /// Keep Alive timeout
    KeepAliveTimeout = 0x8D,
    /// Session taken over
    SessionTakenOver = 0x8E,
    /// Topic Filter invalid
    TopicFilterInvalid = 0x8F,
    /// Topic Name invalid
    TopicNameInvalid = 0x90,
    /// Packet Identifier in use
    PacketIdentifierInUse = 0x91,
    /// Packet Identifier not found
    PacketIdentifierNotFound = 0x92,
    /// Receive Maximum exceeded
    ReceiveMaximumExceeded = 0x93,
    /// Topic Alias invalid
    TopicAliasInvalid = 0x94,
    /// Packet too large
    PacketTooLarge = 0x95,
    /// Message rate too high
    MessageRateTooHigh = 0x96,
    /// Quota exceeded
    QuotaExceeded = 0x97,
    /// Administrative action
    AdministrativeAction = 0x98,
    /// Payload format invalid
    PayloadFormatInvalid = 0x99,
    /// Retain not supported
    RetainNotSupported = 0x9A,
    /// QoS not supported
    QoSNotSupported = 0x9B,
    /// Use another server
    UseAnotherServer = 0x9C,
    /// Server moved
    ServerMoved = 0x9D,
    /// Shared Subscriptions not supported
    SharedSubscriptionsNotSupported = 0x9E,
    /// Connection rate exceeded
    ConnectionRateExceeded = 0x9F,
    /// Maximum connect time
    MaximumConnectTime = 0xA0,
    /// Subscription Identifiers not supported
    SubscriptionIdentifiersNotSupported = 0xA1,
    /// Wildcard Subscriptions not supported
    WildcardSubscriptionsNotSupported = 0xA2,
}

impl ReasonCode {
    /// 0x80 and above: the operation failed [MQTT 5, 2.4].
    #[must_use]
    pub const fn is_error(self) -> bool {
        self as u8 >= 0x80
    }

    /// The return code of a CONNACK of MQTT 3.1 and 3.1.1 (3.2.2.3) that says the same, as far as one does.
    #[must_use]
    pub const fn connect_return_code(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::UnsupportedProtocolVersion => 1,
            Self::ClientIdentifierNotValid => 2,
            Self::BadUserNameOrPassword | Self::BadAuthenticationMethod => 4,
            Self::NotAuthorized | Self::Banned => 5,
            _ => 3,
        }
    }

    /// The reason code that says what a return code of CONNACK in MQTT 3.1 and 3.1.1 says; there are 0 to 5.
    #[must_use]
    pub const fn from_connect_return_code(code: u8) -> Option<Self> {
        Some(match code {
            0 => Self::Success,
            1 => Self::UnsupportedProtocolVersion,
            2 => Self::ClientIdentifierNotValid,
            3 => Self::ServerUnavailable,
            4 => Self::BadUserNameOrPassword,
            5 => Self::NotAuthorized,
            _ => return None,
        })
    }

    /// Whether a packet of this type can carry the code when `sender` sends it [MQTT 5, 2.4, and the table of each packet]:
    /// [MQTT-3.2.2-8], [MQTT-3.4.2-1], [MQTT-3.5.2-1], [MQTT-3.6.2-1], [MQTT-3.7.2-1], [MQTT-3.9.3-2], [MQTT-3.11.3-2],
    /// [MQTT-3.14.2-1], [MQTT-3.15.2-1].
    #[must_use]
    pub const fn is_allowed_in(self, packet: PacketType, sender: Role) -> bool {
        match packet {
            PacketType::ConnAck => matches!(
                self as u8,
                0x00 | 0x80..=0x8A | 0x8C | 0x90 | 0x95 | 0x97 | 0x99..=0x9D | 0x9F
            ),
            PacketType::PubAck | PacketType::PubRec => {
                matches!(self as u8, 0x00 | 0x10 | 0x80 | 0x83 | 0x87 | 0x90 | 0x91 | 0x97 | 0x99)
            }
            PacketType::PubRel | PacketType::PubComp => matches!(self as u8, 0x00 | 0x92),
            PacketType::SubAck => {
                matches!(self as u8, 0x00..=0x02 | 0x80 | 0x83 | 0x87 | 0x8F | 0x91 | 0x97 | 0x9E | 0xA1 | 0xA2)
            }
            PacketType::UnsubAck => {
                matches!(self as u8, 0x00 | 0x11 | 0x80 | 0x83 | 0x87 | 0x8F | 0x91)
            }
            PacketType::Disconnect => match sender {
                Role::Client => {
                    matches!(self as u8, 0x00 | 0x04 | 0x80..=0x83 | 0x90 | 0x93..=0x99)
                }
                Role::Server => matches!(
                    self as u8,
                    0x00 | 0x80..=0x83 | 0x87 | 0x89 | 0x8B | 0x8D..=0x90 | 0x93..=0xA2
                ),
            },
            PacketType::Auth => match sender {
                Role::Client => matches!(self as u8, 0x18 | 0x19),
                Role::Server => matches!(self as u8, 0x00 | 0x18),
            },
            _ => false,
        }
    }
}

impl From<ReasonCode> for u8 {
    fn from(reason: ReasonCode) -> Self {
        reason as Self
    }
}
