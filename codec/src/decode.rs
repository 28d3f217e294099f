//! Bytes to packets, incrementally: the fixed header, the limits that it is checked against before anything is
//! buffered, and the order of packets that the wire itself demands. What follows the fixed header is in the file of
//! each packet.

use bytes::{Buf, Bytes, BytesMut};
use zeroize::Zeroize;

use crate::{
    Ack, Auth, ConnAck, Connect, Disconnect, Packet, PacketType, Publish, Role, SubAck, Subscribe, Unsubscribe,
    Version, Versions, Violation,
    reader::{Reader, Rules, Secrets},
};

/// Limit in bytes for the first packet of a client, of whom nothing is known yet. A password and a will of 65,535
/// bytes each fit, with room for the rest.
pub const CONNECT_SIZE_MAX: u32 = 256 * 1024;

/// How a [`Decoder`] reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecoderOptions {
    /// Which side we are: a server reads what clients send.
    pub role: Role,
    /// The version, where it is known. A server that leaves it out takes it from the CONNECT, which then has to be
    /// the first packet. A client that leaves it out reads MQTT 5.
    pub version: Option<Version>,
    /// The versions that a CONNECT may have: any other one is a protocol level that is not supported.
    pub versions: Versions,
    /// Largest packet in bytes, the fixed header included [MQTT 5, 3.1.2.11.4].
    pub max_packet_size: u32,
    /// Refuse what the specification forbids or discourages but real clients do: DUP with QoS 0, bytes after the end
    /// of CONNECT and DISCONNECT in 3.x, stray flags in 3.1, control characters in text.
    pub strict: bool,
    /// Most levels of a topic. Deeper topic names are a violation, deeper filters are treated as not valid.
    pub max_topic_levels: u16,
}

impl Default for DecoderOptions {
    fn default() -> Self {
        Self {
            role: Role::Server,
            version: None,
            versions: Versions::ALL,
            max_packet_size: 1024 * 1024,
            strict: false,
            max_topic_levels: 128,
        }
    }
}

/// Reads the packets of one connection.
///
/// After a [`Violation`] the place in the stream is lost and the connection has to be closed.
#[derive(Debug)]
pub struct Decoder {
    options: DecoderOptions,
    version: Option<Version>,
    /// The first packet has still to come, and it has to be CONNECT.
    awaits_connect: bool,
}

/// A fixed header whose packet is within the limits.
struct FixedHeader {
    packet_type: PacketType,
    flags: u8,
    len: usize,
    /// Length of the whole packet.
    size: usize,
}

impl Decoder {
    /// A decoder for a connection that begins.
    #[must_use]
    pub fn new(options: DecoderOptions) -> Self {
        let awaits_connect = options.role == Role::Server && options.version.is_none();
        let version = match options.role {
            Role::Server => options.version,
            Role::Client => Some(options.version.unwrap_or(Version::V5)),
        };
        Self { options, version, awaits_connect }
    }

    /// The version of the connection. Known after the CONNECT, also after one that was a violation past its protocol
    /// level, so that the refusal has the right shape.
    #[must_use]
    pub fn version(&self) -> Option<Version> {
        self.version
    }

    /// Changes the limit for the packets to come, in bytes.
    pub fn set_max_packet_size(&mut self, max_packet_size: u32) {
        self.options.max_packet_size = max_packet_size;
    }

    /// The size of the packet at the beginning of `buf`, in bytes, its fixed header included; `None` when that is not known yet, or is
    /// none that [`Decoder::decode`] would take.
    #[must_use]
    pub fn next_size(&self, buf: &[u8]) -> Option<usize> {
        self.fixed_header(buf).ok().flatten().map(|header| header.size)
    }

    /// The next packet at the beginning of `buf`, which is taken out of it; `None` when it is not complete yet.
    ///
    /// Nothing is copied out of a PUBLISH: topic and payload are ranges of the allocation of `buf` and keep it alive.
    /// CONNECT, SUBSCRIBE and UNSUBSCRIBE, whose texts live as long as the session, get an allocation of their own, so
    /// that a client identifier does not hold a read buffer. Of a password and of authentication data nothing stays
    /// behind, neither in `buf` nor in what the texts are ranges of.
    ///
    /// # Errors
    /// What the peer did wrong.
    #[inline]
    pub fn decode(&mut self, buf: &mut BytesMut) -> Result<Option<Packet>, Violation> {
        let Some(header) = self.fixed_header(buf)? else {
            return Ok(None);
        };
        if buf.len() < header.size {
            return Ok(None);
        }
        match header.packet_type {
            PacketType::Connect | PacketType::Auth => self.packet_with_secrets(&header, buf).map(Some),
            PacketType::Subscribe | PacketType::Unsubscribe => {
                let packet = Bytes::copy_from_slice(buf.get(..header.size).unwrap_or_default());
                buf.advance(header.size);
                self.packet(&header, packet).map(Some)
            }
            _ => {
                let packet = buf.split_to(header.size).freeze();
                self.packet(&header, packet).map(Some)
            }
        }
    }

    /// Reads the fixed header and refuses what can be refused already. `None` when it is not complete.
    #[inline]
    fn fixed_header(&self, buf: &[u8]) -> Result<Option<FixedHeader>, Violation> {
        let Some(&first) = buf.first() else {
            return Ok(None);
        };
        if self.awaits_connect && is_not_connect(first, buf) {
            return not_connect(first, buf);
        }
        let packet_type = PacketType::from_first_byte(first).ok_or(Violation::ReservedPacketType(0))?;
        let flags = first & 0x0F;
        self.check_type(packet_type, flags)?;
        let Some((len, len_bytes)) = remaining_length(buf)? else {
            return Ok(None);
        };
        let size = 1 + len_bytes + len;
        let limit = if self.awaits_connect {
            self.options.max_packet_size.min(CONNECT_SIZE_MAX)
        } else {
            self.options.max_packet_size
        };
        if size > limit {
            return Err(Violation::PacketTooLarge { size, limit });
        }
        Ok(Some(FixedHeader { packet_type, flags, len: len as usize, size: size as usize }))
    }

    #[inline]
    fn check_type(&self, packet_type: PacketType, flags: u8) -> Result<(), Violation> {
        let from = match packet_type {
            // The most frequent one has flags that mean something, and both sides send it.
            PacketType::Publish if flags & 0b0110 == 0b0110 => return Err(Violation::PublishQoS),
            PacketType::Publish => return Ok(()),
            // [MQTT-3.1.0-2]
            PacketType::Connect if self.options.role == Role::Server && !self.awaits_connect => {
                return Err(Violation::SecondConnect);
            }
            // Its flags mean nothing in 3.1, and which version it is says the packet itself.
            PacketType::Connect if self.awaits_connect => return Ok(()),
            PacketType::Connect | PacketType::Subscribe | PacketType::Unsubscribe | PacketType::PingReq => {
                Some(Role::Client)
            }
            PacketType::ConnAck | PacketType::SubAck | PacketType::UnsubAck | PacketType::PingResp => {
                Some(Role::Server)
            }
            PacketType::Auth if self.version.is_some_and(|version| !version.is_v5()) => {
                return Err(Violation::ReservedPacketType(15));
            }
            // MQTT 3.x servers close without a word.
            PacketType::Disconnect if self.version.is_some_and(|version| !version.is_v5()) => Some(Role::Client),
            PacketType::PubAck
            | PacketType::PubRec
            | PacketType::PubRel
            | PacketType::PubComp
            | PacketType::Disconnect
            | PacketType::Auth => None,
        };
        if from == Some(self.options.role) {
            return Err(Violation::WrongDirection(packet_type));
        }
        if !packet_type.has_valid_flags(flags, self.version, self.options.strict) {
            return Err(Violation::ReservedFlags { packet: packet_type, flags });
        }
        Ok(())
    }

    /// The packet at the beginning of `buf`, where its bytes are overwritten. With secrets in it, it is read once more, from an
    /// allocation where these are overwritten as well: its texts may hold that for as long as they like.
    #[cold]
    fn packet_with_secrets(&mut self, header: &FixedHeader, buf: &mut BytesMut) -> Result<Packet, Violation> {
        let frame = moved_out(buf.get_mut(..header.size).unwrap_or_default());
        buf.advance(header.size);
        let before = (self.version, self.awaits_connect);
        let mut reader = self.reader(header, frame.clone());
        let packet = self.read_secrets(header, &mut reader);
        let secrets = reader.into_secrets();
        if secrets.is_empty() {
            return packet;
        }
        packet.map(drop)?;
        (self.version, self.awaits_connect) = before;
        let mut reader = self.reader(header, overwritten(frame, &secrets)).with_secrets(secrets);
        self.read_secrets(header, &mut reader)
    }

    fn read_secrets(&mut self, header: &FixedHeader, reader: &mut Reader) -> Result<Packet, Violation> {
        match header.packet_type {
            PacketType::Connect => self.connect(header.flags, reader),
            _ => Auth::read(reader).map(Packet::Auth),
        }
    }

    #[inline]
    fn packet(&mut self, header: &FixedHeader, packet: Bytes) -> Result<Packet, Violation> {
        let mut reader = self.reader(header, packet);
        match header.packet_type {
            PacketType::Publish => Publish::read(header.flags, reader).map(Packet::Publish),
            PacketType::PubAck => Ack::read(&mut reader).map(Packet::PubAck),
            PacketType::PubRec => Ack::read(&mut reader).map(Packet::PubRec),
            PacketType::PubRel => Ack::read(&mut reader).map(Packet::PubRel),
            PacketType::PubComp => Ack::read(&mut reader).map(Packet::PubComp),
            PacketType::PingReq => reader.finish().map(|()| Packet::PingReq),
            PacketType::PingResp => reader.finish().map(|()| Packet::PingResp),
            PacketType::ConnAck => ConnAck::read(&mut reader).map(|packet| Packet::ConnAck(Box::new(packet))),
            PacketType::Subscribe => Subscribe::read(&mut reader).map(Packet::Subscribe),
            PacketType::SubAck => SubAck::read(&mut reader).map(Packet::SubAck),
            PacketType::Unsubscribe => Unsubscribe::read(&mut reader).map(Packet::Unsubscribe),
            PacketType::UnsubAck => SubAck::read(&mut reader).map(Packet::UnsubAck),
            PacketType::Disconnect => Disconnect::read(&mut reader).map(Packet::Disconnect),
            PacketType::Connect | PacketType::Auth => self.read_secrets(header, &mut reader),
        }
    }

    fn reader(&self, header: &FixedHeader, packet: Bytes) -> Reader {
        let rules = Rules {
            role: self.options.role,
            // A CONNECT says its own version.
            version: self.version.unwrap_or(Version::V5),
            is_strict: self.options.strict,
            max_topic_levels: self.options.max_topic_levels,
        };
        Reader::new(header.packet_type, packet, header.size - header.len, rules)
    }

    fn connect(&mut self, flags: u8, reader: &mut Reader) -> Result<Packet, Violation> {
        let (version, is_bridge) = Connect::read_version(reader, self.options.versions)?;
        self.version = Some(version);
        self.awaits_connect = false;
        if !PacketType::Connect.has_valid_flags(flags, self.version, self.options.strict) {
            return Err(Violation::ReservedFlags { packet: PacketType::Connect, flags });
        }
        reader.rules.version = version;
        Connect::read(reader, is_bridge).map(|packet| Packet::Connect(Box::new(packet)))
    }
}

/// The bytes of `source`, of which it keeps nothing.
fn moved_out(source: &mut [u8]) -> Bytes {
    let bytes = Bytes::copy_from_slice(source);
    source.zeroize();
    bytes
}

/// The frame without its secrets. Nobody else has it any more, so it is overwritten where it is.
fn overwritten(frame: Bytes, secrets: &Secrets) -> Bytes {
    let mut frame = BytesMut::from(frame);
    secrets.overwrite(&mut frame);
    frame.freeze()
}

/// Remaining Length and how many bytes it has: four at most, and no more than it needs [MQTT-1.5.5-1]. `None` when it
/// is not complete.
#[inline]
fn remaining_length(buf: &[u8]) -> Result<Option<(u32, u32)>, Violation> {
    let mut len = 0;
    for at in 0..4_u32 {
        let Some(&byte) = buf.get(1 + at as usize) else {
            return Ok(None);
        };
        len |= u32::from(byte & 0x7F) << (7 * at);
        if byte & 0x80 == 0 {
            let is_overlong = byte == 0 && at > 0;
            return if is_overlong { Err(Violation::VariableByteInteger) } else { Ok(Some((len, at + 1))) };
        }
    }
    Err(Violation::VariableByteInteger)
}

/// First byte of a TLS record that is a handshake, and of a CONNECT of 3.1 with all the flags of a PUBLISH at QoS 3.
const TLS_HANDSHAKE: u8 = 0x16;

/// Remaining Length of the shortest CONNECT of 3.1, the only version in which it may have flags: name, level, flags, keep
/// alive and an empty client identifier.
const CONNECT_31_LEN_MIN: u8 = 14;

/// Whether a connection begins with something else than CONNECT, whatever flags that has.
fn is_not_connect(first: u8, buf: &[u8]) -> bool {
    const CONNECT: u8 = (PacketType::Connect as u8) << 4;
    // The major version of TLS would be such a length as well.
    let is_too_short = buf.get(1).is_some_and(|len| *len < CONNECT_31_LEN_MIN);
    first & 0xF0 != CONNECT || first != CONNECT && is_too_short
}

/// The first bytes of a connection that begins with something else than CONNECT: says what it is, as soon as that can
/// be told.
#[cold]
fn not_connect(first: u8, buf: &[u8]) -> Result<Option<FixedHeader>, Violation> {
    const HTTP: [&[u8]; 7] = [b"GET ", b"POST ", b"HEAD ", b"PUT ", b"OPTIONS ", b"DELETE ", b"PRI * HTTP/2"];
    /// A handshake record of any version of TLS.
    const TLS: &[u8] = &[TLS_HANDSHAKE, 0x03];

    if buf.starts_with(TLS) {
        return Err(Violation::TlsClientHello);
    }
    if HTTP.iter().any(|method| buf.starts_with(method)) {
        return Err(Violation::HttpRequest);
    }
    if TLS.starts_with(buf) || HTTP.iter().any(|method| method.starts_with(buf)) {
        return Ok(None);
    }
    Err(Violation::FirstPacketNotConnect(first))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ConnectProperties, Secret};

    fn connect() -> Connect {
        Connect {
            version: Version::V5,
            bridge: false,
            clean_start: true,
            keep_alive_s: 60,
            client_id: "pump".into(),
            will: None,
            username: Some("user".into()),
            password: Some(Secret::from(&b"hunter2"[..])),
            properties: ConnectProperties {
                authentication_method: Some("M".into()),
                authentication_data: Some(Secret::from(&b"sesame"[..])),
                ..ConnectProperties::default()
            },
        }
    }

    #[test]
    fn of_a_secret_nothing_stays_in_what_was_read() {
        let mut bytes = BytesMut::new();
        crate::encode(&Packet::Connect(Box::new(connect())), Version::V5, &mut bytes).unwrap();
        let contains = |bytes: &[u8], text: &[u8]| bytes.windows(text.len()).any(|window| window == text);
        let frame = moved_out(&mut bytes);
        assert!(bytes.iter().all(|byte| *byte == 0));
        assert!(contains(&frame, b"hunter2") && contains(&frame, b"sesame") && contains(&frame, b"pump"));

        let mut decoder = Decoder::new(DecoderOptions::default());
        let header = decoder.fixed_header(&frame).unwrap().unwrap();
        let mut reader = decoder.reader(&header, frame.clone());
        decoder.read_secrets(&header, &mut reader).unwrap();
        let kept = overwritten(frame, &reader.into_secrets());
        assert!(!contains(&kept, b"hunter2") && !contains(&kept, b"sesame") && contains(&kept, b"pump"));
    }

    #[test]
    fn a_secret_is_not_shown() {
        let text = format!("{:?}", connect());
        assert!(!text.contains("hunter2") && !text.contains("104") && !text.contains("sesame"), "{text}");
        assert!(text.contains("user"), "{text}");
    }
}
