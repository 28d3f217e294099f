//! As much of MQTT's wire format as a generator of load needs, without an allocation for each packet.
//!
//! It is deliberately not `mqtt-codec`: a fault there would be on both sides and not be seen, and its price would be paid by
//! both. What is read here is believed only as far as it can be checked; everything else is a [`Malformed`].

use std::fmt;
use std::ops::Range;

use bytes::{BufMut, BytesMut};
use clap::ValueEnum;

pub(crate) const CONNACK: u8 = 2;
pub(crate) const PUBLISH: u8 = 3;
pub(crate) const PUBACK: u8 = 4;
pub(crate) const PUBREC: u8 = 5;
pub(crate) const PUBREL: u8 = 6;
pub(crate) const PUBCOMP: u8 = 7;
pub(crate) const SUBACK: u8 = 9;
pub(crate) const DISCONNECT: u8 = 14;

/// How long a session of MQTT 5 that is not clean stays.
const SESSION_EXPIRY_S: u32 = 3600;

/// Longer than any row takes, so that nobody has to send PINGREQ.
const KEEP_ALIVE_S: u16 = 3600;

/// The version that the clients speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Version {
    /// MQTT 3.1.1.
    #[value(name = "3.1.1")]
    V3,
    /// MQTT 5.0.
    #[value(name = "5")]
    V5,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V3 => "3.1.1",
            Self::V5 => "5",
        })
    }
}

/// The other side sent what is not MQTT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sent a malformed packet")
    }
}

/// A PUBLISH to be sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Publish<'a> {
    pub(crate) topic: &'a str,
    pub(crate) qos: u8,
    pub(crate) packet_id: u16,
    pub(crate) retain: bool,
    pub(crate) payload: &'a [u8],
}

/// What matters of a PUBLISH that was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Received<'a> {
    pub(crate) qos: u8,
    pub(crate) packet_id: u16,
    pub(crate) payload: &'a [u8],
}

/// What matters of a CONNACK.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Accepted {
    pub(crate) is_session_present: bool,
    pub(crate) code: u8,
    pub(crate) receive_max: u16,
}

/// A complete packet at the beginning of the input: its first byte, and where its body is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) first: u8,
    pub(crate) body: Range<usize>,
}

impl Frame {
    pub(crate) fn kind(&self) -> u8 {
        self.first >> 4
    }
}

/// The next packet of `input`, or nothing when it is not there in full.
pub(crate) fn frame(input: &[u8]) -> Result<Option<Frame>, Malformed> {
    let Some(&first) = input.first() else { return Ok(None) };
    let Some((length, digits)) = varint(&input[1..])? else { return Ok(None) };
    let body = 1 + digits..1 + digits + length;
    Ok((input.len() >= body.end).then_some(Frame { first, body }))
}

fn varint(input: &[u8]) -> Result<Option<(usize, usize)>, Malformed> {
    let mut value = 0;
    for (i, &byte) in input.iter().take(4).enumerate() {
        value |= usize::from(byte & 127) << (7 * i);
        if byte & 128 == 0 {
            return Ok(Some((value, i + 1)));
        }
    }
    if input.len() < 4 { Ok(None) } else { Err(Malformed) }
}

fn put_varint(out: &mut BytesMut, mut value: usize) {
    loop {
        let digit = (value % 128) as u8;
        value /= 128;
        out.put_u8(if value > 0 { digit | 128 } else { digit });
        if value == 0 {
            return;
        }
    }
}

fn put_string(out: &mut BytesMut, text: &str) {
    out.put_u16(text.len() as u16);
    out.put_slice(text.as_bytes());
}

fn put_packet(out: &mut BytesMut, first: u8, body: &[u8]) {
    out.put_u8(first);
    put_varint(out, body.len());
    out.put_slice(body);
}

/// With a password comes a user name, as 3.1.1 wants it.
pub(crate) fn put_connect(
    out: &mut BytesMut,
    version: Version,
    client_id: &str,
    is_clean: bool,
    password: Option<&str>,
) {
    let mut body = BytesMut::new();
    put_string(&mut body, "MQTT");
    body.put_u8(if version == Version::V5 { 5 } else { 4 });
    body.put_u8(if is_clean { 2 } else { 0 } | if password.is_some() { 0xC0 } else { 0 });
    body.put_u16(KEEP_ALIVE_S);
    if version == Version::V5 {
        if is_clean {
            body.put_u8(0);
        } else {
            body.put_slice(&[5, 0x11]);
            body.put_u32(SESSION_EXPIRY_S);
        }
    }
    put_string(&mut body, client_id);
    if let Some(password) = password {
        put_string(&mut body, "device");
        put_string(&mut body, password);
    }
    put_packet(out, 0x10, &body);
}

pub(crate) fn put_subscribe<S: AsRef<str>>(out: &mut BytesMut, version: Version, filters: &[S], qos: u8) {
    let mut body = BytesMut::new();
    body.put_u16(1);
    if version == Version::V5 {
        body.put_u8(0);
    }
    for filter in filters {
        put_string(&mut body, filter.as_ref());
        body.put_u8(qos);
    }
    put_packet(out, 0x82, &body);
}

pub(crate) fn put_publish(out: &mut BytesMut, version: Version, publish: &Publish<'_>) {
    let with_id = if publish.qos > 0 { 2 } else { 0 };
    let properties = if version == Version::V5 { 1 } else { 0 };
    let length = 2 + publish.topic.len() + with_id + properties + publish.payload.len();
    out.reserve(length + 5);
    out.put_u8(0x30 | publish.qos << 1 | u8::from(publish.retain));
    put_varint(out, length);
    put_string(out, publish.topic);
    if publish.qos > 0 {
        out.put_u16(publish.packet_id);
    }
    if version == Version::V5 {
        out.put_u8(0);
    }
    out.put_slice(publish.payload);
}

/// PUBACK, PUBREC, PUBREL or PUBCOMP.
pub(crate) fn put_acknowledgement(out: &mut BytesMut, kind: u8, packet_id: u16) {
    let flags = if kind == PUBREL { 2 } else { 0 };
    let [high, low] = packet_id.to_be_bytes();
    out.put_slice(&[kind << 4 | flags, 2, high, low]);
}

pub(crate) fn put_disconnect(out: &mut BytesMut) {
    out.put_slice(&[DISCONNECT << 4, 0]);
}

fn u16_at(body: &[u8], at: usize) -> Result<u16, Malformed> {
    match body.get(at..at + 2) {
        Some(&[high, low]) => Ok(u16::from_be_bytes([high, low])),
        _ => Err(Malformed),
    }
}

pub(crate) fn publish_of(version: Version, first: u8, body: &[u8]) -> Result<Received<'_>, Malformed> {
    let qos = first >> 1 & 3;
    let mut at = 2 + usize::from(u16_at(body, 0)?);
    let mut packet_id = 0;
    if qos > 0 {
        packet_id = u16_at(body, at)?;
        at += 2;
    }
    if version == Version::V5 {
        let (length, digits) = varint(body.get(at..).ok_or(Malformed)?)?.ok_or(Malformed)?;
        at += digits + length;
    }
    Ok(Received { qos, packet_id, payload: body.get(at..).ok_or(Malformed)? })
}

/// The packet id of an acknowledgement, and its reason code.
pub(crate) fn acknowledgement_of(body: &[u8]) -> Result<(u16, u8), Malformed> {
    Ok((u16_at(body, 0)?, body.get(2).copied().unwrap_or(0)))
}

pub(crate) fn connack_of(version: Version, body: &[u8]) -> Result<Accepted, Malformed> {
    let &[flags, code, ref properties @ ..] = body else { return Err(Malformed) };
    let receive_max = if version == Version::V5 && !properties.is_empty() { receive_max_of(properties)? } else { None };
    Ok(Accepted { is_session_present: flags & 1 == 1, code, receive_max: receive_max.unwrap_or(u16::MAX) })
}

/// Receive Maximum among the properties of a CONNACK.
fn receive_max_of(properties: &[u8]) -> Result<Option<u16>, Malformed> {
    let (length, digits) = varint(properties)?.ok_or(Malformed)?;
    let properties = properties.get(digits..digits + length).ok_or(Malformed)?;
    let mut at = 0;
    while let Some(&id) = properties.get(at) {
        at += 1;
        let string = |at| u16_at(properties, at).map(|length| 2 + usize::from(length));
        at += match id {
            0x21 => return u16_at(properties, at).map(Some),
            0x24 | 0x25 | 0x28 | 0x29 | 0x2A => 1,
            0x13 | 0x22 => 2,
            0x11 | 0x27 => 4,
            0x12 | 0x15 | 0x16 | 0x1A | 0x1C | 0x1F => string(at)?,
            0x26 => {
                let name = string(at)?;
                name + string(at + name)?
            }
            _ => return Err(Malformed),
        };
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_publish_is_read_as_it_was_written() {
        for version in [Version::V3, Version::V5] {
            for qos in 0..3 {
                let payload = vec![b'x'; 300];
                let packet_id = if qos > 0 { 7 } else { 0 };
                let mut out = BytesMut::new();
                put_publish(
                    &mut out,
                    version,
                    &Publish { topic: "a/b", qos, packet_id, retain: true, payload: &payload },
                );
                let found = frame(&out).unwrap().unwrap();
                assert_eq!((found.kind(), found.body.end, found.first & 1), (PUBLISH, out.len(), 1));
                let received = publish_of(version, found.first, &out[found.body]).unwrap();
                assert_eq!(received, Received { qos, packet_id, payload: &payload });
            }
        }
    }

    #[test]
    fn a_frame_is_there_when_its_last_byte_is() {
        let mut out = BytesMut::new();
        put_subscribe(&mut out, Version::V3, &["a".repeat(200)], 1);
        for length in 0..out.len() {
            assert_eq!(frame(&out[..length]), Ok(None), "{length} bytes");
        }
        assert_eq!(frame(&out).unwrap().unwrap().body, 3..out.len());
        assert_eq!(frame(&[0x30, 255, 255, 255, 255, 1]), Err(Malformed));
    }

    #[test]
    fn acknowledgements_have_the_bytes_of_the_specification() {
        let mut out = BytesMut::new();
        for kind in [PUBACK, PUBREC, PUBREL, PUBCOMP] {
            put_acknowledgement(&mut out, kind, 0x0102);
        }
        put_disconnect(&mut out);
        assert_eq!(out[..], [0x40, 2, 1, 2, 0x50, 2, 1, 2, 0x62, 2, 1, 2, 0x70, 2, 1, 2, 0xE0, 0]);
        assert_eq!(acknowledgement_of(&[1, 2]), Ok((0x0102, 0)));
        assert_eq!(acknowledgement_of(&[1, 2, 0x97]), Ok((0x0102, 0x97)));
        assert_eq!(acknowledgement_of(&[1]), Err(Malformed));
    }

    #[test]
    fn a_connect_has_the_bytes_of_the_specification() {
        let mut out = BytesMut::new();
        put_connect(&mut out, Version::V3, "c", true, None);
        assert_eq!(out[..], *b"\x10\x0d\0\x04MQTT\x04\x02\x0e\x10\0\x01c");
        out.clear();
        put_connect(&mut out, Version::V5, "c", false, None);
        assert_eq!(out[..], *b"\x10\x13\0\x04MQTT\x05\0\x0e\x10\x05\x11\0\0\x0e\x10\0\x01c");
    }

    #[test]
    fn a_connack_tells_the_session_the_code_and_the_receive_maximum() {
        let accepted = |is_session_present, code, receive_max| Ok(Accepted { is_session_present, code, receive_max });
        assert_eq!(connack_of(Version::V3, &[1, 0]), accepted(true, 0, u16::MAX));
        assert_eq!(connack_of(Version::V3, &[0, 5]), accepted(false, 5, u16::MAX));
        let properties = b"\0\0\x0d\x12\0\x02id\x25\x01\x22\0\x05\x21\0\x40";
        assert_eq!(connack_of(Version::V5, properties), accepted(false, 0, 64));
        assert_eq!(connack_of(Version::V5, &[0, 0, 9]), Err(Malformed));
        assert_eq!(connack_of(Version::V5, &[0]), Err(Malformed));
    }
}
