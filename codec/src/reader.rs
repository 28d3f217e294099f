//! Reads the fields of one packet that is already complete. Every field is a range of the packet's own allocation.

use std::num::{NonZeroU16, NonZeroU32};
use std::ops::Range;

use bytes::Bytes;
use bytestring::ByteString;
use zeroize::Zeroize;

use crate::{
    PacketId, PacketType, Property, ReasonCode, Role, Secret, TopicError, TopicFilter, TopicName, Version, Violation,
};

/// What decides how a packet is read, besides its bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    pub(crate) role: Role,
    pub(crate) version: Version,
    pub(crate) is_strict: bool,
    pub(crate) max_topic_levels: u16,
}

/// A packet after its fixed header, and how far it was read.
pub(crate) struct Reader {
    packet: Bytes,
    at: usize,
    /// End of what may be read: the end of the packet, or of its properties while they are read.
    end: usize,
    packet_type: PacketType,
    pub(crate) rules: Rules,
    secrets: Secrets,
}

/// The secrets of one packet, and where they are in it.
#[derive(Default)]
pub(crate) struct Secrets(Vec<(Range<usize>, Secret)>);

impl Secrets {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Overwrites them in their packet.
    pub(crate) fn overwrite(&self, packet: &mut [u8]) {
        for (place, _) in &self.0 {
            packet.get_mut(place.clone()).unwrap_or_default().zeroize();
        }
    }

    fn known_at(&self, place: &Range<usize>) -> Option<Secret> {
        self.0.iter().find(|(known, _)| known == place).map(|(_, secret)| secret.clone())
    }

    fn found(&mut self, place: Range<usize>, secret: Secret) -> Secret {
        self.0.push((place, secret.clone()));
        secret
    }
}

impl Reader {
    pub(crate) fn new(packet_type: PacketType, packet: Bytes, at: usize, rules: Rules) -> Self {
        let end = packet.len();
        Self { packet, at, end, packet_type, rules, secrets: Secrets::default() }
    }

    pub(crate) fn is_v5(&self) -> bool {
        self.rules.version == Version::V5
    }

    pub(crate) fn packet_type(&self) -> PacketType {
        self.packet_type
    }

    /// How many bytes are left.
    pub(crate) fn left(&self) -> usize {
        self.end - self.at
    }

    #[inline]
    fn take<const N: usize>(&mut self) -> Result<[u8; N], Violation> {
        let rest = self.packet.get(self.at..self.end).unwrap_or_default();
        let field = rest.first_chunk::<N>().ok_or(Violation::Truncated(self.packet_type))?;
        self.at += N;
        Ok(*field)
    }

    #[inline]
    pub(crate) fn u8(&mut self) -> Result<u8, Violation> {
        self.take::<1>().map(|[byte]| byte)
    }

    #[inline]
    pub(crate) fn u16(&mut self) -> Result<u16, Violation> {
        self.take().map(u16::from_be_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Violation> {
        self.take().map(u32::from_be_bytes)
    }

    /// A variable byte integer: four bytes at most, and no more than it needs [MQTT-1.5.5-1].
    #[inline]
    pub(crate) fn varint(&mut self) -> Result<u32, Violation> {
        let mut value = 0;
        for shift in [0, 7, 14, 21] {
            let byte = self.u8()?;
            value |= u32::from(byte & 0x7F) << shift;
            if byte & 0x80 == 0 {
                return if byte == 0 && shift > 0 { Err(Violation::VariableByteInteger) } else { Ok(value) };
            }
        }
        Err(Violation::VariableByteInteger)
    }

    /// Binary data: a length of two bytes, and that many bytes.
    #[inline]
    pub(crate) fn binary(&mut self) -> Result<Bytes, Violation> {
        let len = usize::from(self.u16()?);
        if len > self.left() {
            return Err(Violation::Truncated(self.packet_type));
        }
        let field = self.packet.slice(self.at..self.at + len);
        self.at += len;
        Ok(field)
    }

    /// Reads a packet once more in which the secrets are overwritten that the first reading has found.
    pub(crate) fn with_secrets(self, secrets: Secrets) -> Self {
        Self { secrets, ..self }
    }

    /// Binary data that nobody may see, as a copy.
    pub(crate) fn secret(&mut self) -> Result<Secret, Violation> {
        let field = self.binary()?;
        let place = self.at - field.len()..self.at;
        Ok(self.secrets.known_at(&place).unwrap_or_else(|| self.secrets.found(place, field.into())))
    }

    /// The secrets that were read, and where.
    pub(crate) fn into_secrets(self) -> Secrets {
        self.secrets
    }

    /// A UTF-8 string [MQTT-1.5.4-1] without U+0000 [MQTT-1.5.4-2], of which nothing is taken away: U+FEFF stays where it is
    /// [MQTT-1.5.4-3].
    #[inline]
    pub(crate) fn string(&mut self) -> Result<ByteString, Violation> {
        let field = self.binary()?;
        if field.contains(&0) {
            return Err(Violation::NullCharacter);
        }
        let text = ByteString::try_from(field).map_err(|_| Violation::InvalidUtf8)?;
        // The specification only says "should not", and devices do: refused in strict mode alone.
        if self.rules.is_strict && text.chars().any(is_discouraged) {
            return Err(Violation::ControlCharacter);
        }
        Ok(text)
    }

    /// Text that has to be a topic name of no more levels than allowed.
    #[inline]
    pub(crate) fn topic(&self, text: ByteString, wrong: fn(TopicError) -> Violation) -> Result<TopicName, Violation> {
        let topic = TopicName::new(text).map_err(wrong)?;
        if topic.levels_exceed(self.rules.max_topic_levels) {
            return Err(Violation::TopicLevels(self.rules.max_topic_levels));
        }
        Ok(topic)
    }

    pub(crate) fn packet_id(&mut self) -> Result<PacketId, Violation> {
        PacketId::new(self.u16()?).ok_or(Violation::PacketIdZero)
    }

    /// A topic filter, or the text that is none: the entry is refused then, not the packet. Text it has to be
    /// [MQTT-3.8.3-1], [MQTT-3.10.3-1].
    pub(crate) fn filter(&mut self) -> Result<Result<TopicFilter, ByteString>, Violation> {
        let text = self.string()?;
        Ok(match TopicFilter::new(text.clone()) {
            Ok(filter) if !filter.levels_exceed(self.rules.max_topic_levels) => Ok(filter),
            _ => Err(text),
        })
    }

    /// A reason code that this packet can have.
    pub(crate) fn reason(&mut self) -> Result<ReasonCode, Violation> {
        let code = self.u8()?;
        self.check_reason(code)
    }

    pub(crate) fn check_reason(&self, code: u8) -> Result<ReasonCode, Violation> {
        let sender = match self.rules.role {
            Role::Server => Role::Client,
            Role::Client => Role::Server,
        };
        ReasonCode::from_u8(code)
            .filter(|reason| reason.is_allowed_in(self.packet_type, sender))
            .ok_or(self.wrong_reason(code))
    }

    pub(crate) fn wrong_reason(&self, code: u8) -> Violation {
        Violation::ReasonCode { packet: self.packet_type, code }
    }

    /// All that is left, as the payload of a PUBLISH.
    #[inline]
    pub(crate) fn into_rest(mut self) -> Bytes {
        self.packet.split_off(self.at)
    }

    /// Nothing may be left.
    pub(crate) fn finish(&self) -> Result<(), Violation> {
        if self.left() == 0 { Ok(()) } else { Err(Violation::TrailingBytes(self.packet_type)) }
    }

    /// Nothing may be left, but old stacks of MQTT 3.x send something after their packets: so only in strict mode.
    pub(crate) fn finish_lenient_in_v3(&self) -> Result<(), Violation> {
        if self.is_v5() || self.rules.is_strict { self.finish() } else { Ok(()) }
    }

    /// Begins the properties of the packet, which are read to their end with [`Properties::next`].
    pub(crate) fn properties(&mut self) -> Result<Properties<'_>, Violation> {
        let len = usize::try_from(self.varint()?).unwrap_or(usize::MAX);
        if len > self.left() {
            return Err(Violation::Truncated(self.packet_type));
        }
        let outer_end = self.end;
        self.end = self.at + len;
        Ok(Properties { reader: self, outer_end, seen: 0 })
    }
}

/// Control characters and non-characters, which text should not have [MQTT 5, 1.5.4].
fn is_discouraged(c: char) -> bool {
    let code = u32::from(c);
    c.is_control() || (0xFDD0..=0xFDEF).contains(&code) || code & 0xFFFE == 0xFFFE
}

/// The properties of a packet, one after the other.
pub(crate) struct Properties<'a> {
    pub(crate) reader: &'a mut Reader,
    outer_end: usize,
    /// Bit `n`: the property with the identifier `n` was there.
    seen: u64,
}

impl Properties<'_> {
    /// The identifier of the next property, whose value has to be read then; `None` at the end.
    pub(crate) fn next(&mut self) -> Result<Option<Property>, Violation> {
        if self.reader.left() == 0 {
            self.reader.end = self.outer_end;
            return Ok(None);
        }
        let id = self.reader.varint()?;
        let property = Property::from_id(id).ok_or(Violation::UnknownProperty(id))?;
        let bit = 1_u64 << (property as u8);
        // In a PUBLISH there is one subscription identifier for each subscription that matched.
        let may_repeat = property == Property::UserProperty
            || property == Property::SubscriptionIdentifier && self.reader.packet_type == PacketType::Publish;
        if self.seen & bit != 0 && !may_repeat {
            return Err(Violation::DuplicateProperty(property));
        }
        self.seen |= bit;
        Ok(Some(property))
    }

    pub(crate) fn is_not_allowed(&self, property: Property) -> Violation {
        Violation::PropertyNotAllowed { packet: self.reader.packet_type, property }
    }

    /// A byte that is 0 or 1.
    pub(crate) fn boolean(&mut self, property: Property) -> Result<bool, Violation> {
        match self.reader.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Violation::PropertyValue(property)),
        }
    }

    pub(crate) fn nonzero_u16(&mut self, wrong: Violation) -> Result<NonZeroU16, Violation> {
        NonZeroU16::new(self.reader.u16()?).ok_or(wrong)
    }

    pub(crate) fn nonzero_u32(&mut self, property: Property) -> Result<NonZeroU32, Violation> {
        NonZeroU32::new(self.reader.u32()?).ok_or(Violation::PropertyValue(property))
    }

    pub(crate) fn subscription_id(&mut self) -> Result<NonZeroU32, Violation> {
        NonZeroU32::new(self.reader.varint()?).ok_or(Violation::SubscriptionIdZero)
    }

    /// Two strings [MQTT-1.5.7-1].
    pub(crate) fn pair(&mut self) -> Result<(ByteString, ByteString), Violation> {
        Ok((self.reader.string()?, self.reader.string()?))
    }
}
