//! Packets to bytes: fixed header, size limit, and the choice of what is left out to stay below it. What follows the
//! fixed header is in the file of each packet.

use bytes::BytesMut;

use crate::{
    Packet, PacketType, Version,
    sink::{Length, Sink, VARINT_MAX, varint_len},
};

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

/// The longest fixed header.
const FIXED_HEADER_MAX: usize = 5;
/// Largest packet that MQTT can say [MQTT 5, 2.1.4].
const PACKET_SIZE_MAX: usize = VARINT_MAX as usize + FIXED_HEADER_MAX;

/// What is left out of a packet that would be too large otherwise [MQTT-3.4.2-2], [MQTT-3.4.2-3].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum LeftOut {
    Nothing,
    UserProperties,
    UserPropertiesAndReasonString,
}

/// How a packet is written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Form {
    pub(crate) version: Version,
    pub(crate) left_out: LeftOut,
}

impl Form {
    pub(crate) const fn of(version: Version) -> Self {
        Self { version, left_out: LeftOut::Nothing }
    }
}

/// Writes itself, without the fixed header. Runs with a sink that only counts too, so it must write the same each time.
pub(crate) trait Encode {
    fn write<S: Sink>(&self, form: Form, out: &mut S) -> Result<(), EncodeError>;
}

/// The length of what would be written.
pub(crate) fn length(part: &impl Encode, form: Form) -> Result<usize, EncodeError> {
    let mut len = Length::default();
    part.write(form, &mut len)?;
    Ok(len.0)
}

/// Writes properties with their length before them [MQTT 5, 2.2.2.1].
pub(crate) fn section<S: Sink>(properties: &impl Encode, form: Form, out: &mut S) -> Result<(), EncodeError> {
    let len = length(properties, form)?;
    out.varint(varint(len)?);
    if len == 0 { Ok(()) } else { properties.write(form, out) }
}

/// A length that a variable byte integer can say.
pub(crate) fn varint(len: usize) -> Result<u32, EncodeError> {
    match u32::try_from(len) {
        Ok(value) if value <= VARINT_MAX => Ok(value),
        _ => Err(EncodeError::PacketTooLarge { size: len, limit: PACKET_SIZE_MAX }),
    }
}

/// Appends the packet. On an error nothing is appended.
///
/// What the version does not have (properties, reason codes) is not written; a reason code becomes the return code
/// that says the same.
///
/// # Errors
/// When the packet cannot be said in this version, or is larger than MQTT's own limit.
pub fn encode(packet: &Packet, version: Version, out: &mut BytesMut) -> Result<(), EncodeError> {
    write(packet, Form::of(version), PACKET_SIZE_MAX, out)
}

/// Appends the packet if it is no larger than `max` bytes, the Maximum Packet Size of the client. From packets that
/// have them, user properties and then the Reason String are left out before that fails [MQTT-3.4.2-2],
/// [MQTT-3.4.2-3]. On an error nothing is appended.
///
/// # Errors
/// As [`encode`], and [`EncodeError::PacketTooLarge`]: a PUBLISH that is too large is dropped as if it had been sent
/// [MQTT-3.1.2-25].
pub fn encode_limited(packet: &Packet, version: Version, max: u32, out: &mut BytesMut) -> Result<(), EncodeError> {
    let limit = PACKET_SIZE_MAX.min(usize::try_from(max).unwrap_or(usize::MAX));
    let last = if may_leave_out(packet) { LeftOut::UserPropertiesAndReasonString } else { LeftOut::Nothing };
    for left_out in [LeftOut::Nothing, LeftOut::UserProperties] {
        if left_out < last {
            match write(packet, Form { version, left_out }, limit, out) {
                Err(EncodeError::PacketTooLarge { .. }) => {}
                result => return result,
            }
        }
    }
    write(packet, Form { version, left_out: last }, limit, out)
}

/// Size of the whole packet in bytes as [`encode`] writes it.
///
/// # Errors
/// As [`encode`].
pub fn encoded_len(packet: &Packet, version: Version) -> Result<usize, EncodeError> {
    let remaining = length(packet, Form::of(version))?;
    Ok(1 + varint_len(varint(remaining)?) + remaining)
}

fn write(packet: &Packet, form: Form, limit: usize, out: &mut BytesMut) -> Result<(), EncodeError> {
    let len = length(packet, form)?;
    let remaining = varint(len)?;
    let size = 1 + varint_len(remaining) + len;
    if size > limit {
        return Err(EncodeError::PacketTooLarge { size, limit });
    }
    out.reserve(size);
    out.u8(first_byte(packet));
    out.varint(remaining);
    packet.write(form, out)
}

fn first_byte(packet: &Packet) -> u8 {
    let flags = match packet {
        Packet::Publish(publish) => publish.flags(),
        other => other.packet_type().flags(),
    };
    (packet.packet_type() as u8) << 4 | flags
}

/// The application's own properties in PUBLISH, CONNECT, SUBSCRIBE and UNSUBSCRIBE are never left out [MQTT-3.3.2-17].
fn may_leave_out(packet: &Packet) -> bool {
    match packet {
        Packet::ConnAck(_)
        | Packet::PubAck(_)
        | Packet::PubRec(_)
        | Packet::PubRel(_)
        | Packet::PubComp(_)
        | Packet::SubAck(_)
        | Packet::UnsubAck(_)
        | Packet::Disconnect(_)
        | Packet::Auth(_) => true,
        Packet::Connect(_)
        | Packet::Publish(_)
        | Packet::Subscribe(_)
        | Packet::Unsubscribe(_)
        | Packet::PingReq
        | Packet::PingResp => false,
    }
}

impl Encode for Packet {
    #[inline]
    fn write<S: Sink>(&self, form: Form, out: &mut S) -> Result<(), EncodeError> {
        match self {
            Self::Connect(packet) => packet.write(form, out),
            Self::ConnAck(packet) => packet.write(form, out),
            Self::Publish(packet) => packet.write(form, out),
            Self::PubAck(packet) | Self::PubRec(packet) | Self::PubRel(packet) | Self::PubComp(packet) => {
                packet.write(form, out)
            }
            Self::Subscribe(packet) => packet.write(form, out),
            Self::SubAck(packet) => packet.write_suback(form, out),
            Self::Unsubscribe(packet) => packet.write(form, out),
            Self::UnsubAck(packet) => packet.write_unsuback(form, out),
            Self::PingReq | Self::PingResp => Ok(()),
            Self::Disconnect(packet) => packet.write(form, out),
            Self::Auth(packet) => packet.write(form, out),
        }
    }
}
