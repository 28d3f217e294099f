//! Packets to bytes: fixed header, size limit, and the choice of what is left out to stay below it. What follows the
//! fixed header is in the file of each packet.

use bytes::BytesMut;

use crate::{
    EncodeError, Packet, Version,
    form::{Encode, Form, LeftOut, PACKET_SIZE_MAX, length, varint},
    sink::{Sink, varint_len},
};

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
/// have them, user properties and then the Reason String are left out before that fails: [MQTT-3.2.2-19, -20],
/// [MQTT-3.4.2-2, -3], [MQTT-3.5.2-2, -3], [MQTT-3.6.2-2, -3], [MQTT-3.7.2-2, -3], [MQTT-3.9.2-1, -2], [MQTT-3.11.2-1, -2],
/// [MQTT-3.14.2-3, -4], [MQTT-3.15.2-2, -3]. On an error nothing is appended.
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
