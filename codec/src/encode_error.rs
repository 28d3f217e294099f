//! Why a packet cannot be written.

use crate::{PacketType, Version};

/// Why a packet cannot be written: always our own mistake or the limit of the peer, never the peer's mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// Text or binary data of more than 65,535 bytes.
    #[error("a field of more than 65,535 bytes")]
    FieldTooLong,
    /// Text with U+0000 [MQTT-1.5.4-2].
    #[error("text with U+0000 [MQTT-1.5.4-2]")]
    NullCharacter,
    /// The packet is larger than the limit, even without what may be left out.
    #[error("a packet of {size} bytes, the limit is {limit}")]
    PacketTooLarge {
        /// Size of the whole packet in bytes.
        size: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// The version has no such packet, or no topic alias.
    #[error("MQTT {version} cannot say this {packet}")]
    NotInVersion {
        /// Type of the packet.
        packet: PacketType,
        /// The version.
        version: Version,
    },
    /// SUBSCRIBE or UNSUBSCRIBE without a filter, SUBACK without a reason code.
    #[error("{0} without an entry")]
    Empty(PacketType),
    /// A subscription identifier above 268,435,455.
    #[error("subscription identifier {0} is above 268,435,455")]
    SubscriptionId(u32),
    /// A password without a user name in MQTT 3.x [MQTT-3.1.2-22 of 3.1.1].
    #[error("a password without a user name")]
    PasswordWithoutUserName,
    /// The CONNECT says another version than the one it is encoded for.
    #[error("a CONNECT of version {0} encoded for another one")]
    ConnectVersion(Version),
    /// A frame with a packet identifier was asked for QoS 0, or one without for QoS 1 or 2.
    #[error("QoS and packet identifier do not belong together, or not to this frame")]
    PacketId,
}
