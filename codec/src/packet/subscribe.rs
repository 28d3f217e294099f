//! SUBSCRIBE: filters with options. A filter that is none is kept, to be answered in its place.

use std::num::NonZeroU32;

use bytestring::ByteString;

use super::{
    PacketId, QoS, UnknownValue, UserProperties, Version,
    properties::{write_subscription_id, write_user_properties},
};
use crate::{
    EncodeError, PacketType, Property, TopicFilter, Violation,
    form::{Encode, Form, section},
    reader::Reader,
    sink::Sink,
};

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

impl TryFrom<u8> for RetainHandling {
    type Error = UnknownValue;
    fn try_from(value: u8) -> Result<Self, UnknownValue> {
        match value {
            0 => Ok(Self::Send),
            1 => Ok(Self::SendIfNew),
            2 => Ok(Self::DoNotSend),
            _ => Err(UnknownValue(value)),
        }
    }
}

impl From<RetainHandling> for u8 {
    fn from(handling: RetainHandling) -> Self {
        handling as Self
    }
}

impl SubscriptionOptions {
    /// Reads the byte after a filter [MQTT-3.8.3-4 of 3.1.1].
    fn read(byte: u8, version: Version) -> Result<Self, Violation> {
        let reserved = match version {
            // 3.1 does not use them and does not say that they are zero.
            Version::V31 => 0,
            Version::V311 => 0b1111_1100,
            Version::V5 => 0b1100_0000,
        };
        if byte & reserved != 0 {
            return Err(Violation::SubscriptionOptions(byte));
        }
        let qos = QoS::try_from(byte & 0b11).map_err(|_| Violation::SubscriptionQoS)?;
        if !version.is_v5() {
            return Ok(Self { qos, ..Self::default() });
        }
        Ok(Self {
            qos,
            no_local: byte & 0b100 != 0,
            retain_as_published: byte & 0b1000 != 0,
            retain_handling: RetainHandling::try_from(byte >> 4 & 0b11).map_err(|_| Violation::RetainHandling)?,
        })
    }

    /// The byte as MQTT 5 has it; MQTT 3.x has the QoS only.
    fn byte(self, version: Version) -> u8 {
        if !version.is_v5() {
            return self.qos as u8;
        }
        self.qos as u8
            | u8::from(self.no_local) << 2
            | u8::from(self.retain_as_published) << 3
            | (self.retain_handling as u8) << 4
    }
}

impl Subscribe {
    pub(crate) fn read(reader: &mut Reader) -> Result<Self, Violation> {
        let mut subscribe = Self {
            packet_id: reader.packet_id()?,
            subscription_id: None,
            user_properties: UserProperties::new(),
            entries: Vec::new(),
        };
        if reader.is_v5() {
            let mut all = reader.properties()?;
            while let Some(property) = all.next()? {
                match property {
                    Property::SubscriptionIdentifier => subscribe.subscription_id = Some(all.subscription_id()?),
                    Property::UserProperty => subscribe.user_properties.push(all.pair()?),
                    _ => return Err(all.is_not_allowed(property)),
                }
            }
        }
        while reader.left() > 0 {
            // Subscriptions outlive their packet.
            let filter = reader.filter()?.map(|filter| filter.detached());
            let options = SubscriptionOptions::read(reader.u8()?, reader.rules.version)?;
            // [MQTT-3.8.3-4]
            if options.no_local && filter.as_ref().is_ok_and(TopicFilter::is_shared) {
                return Err(Violation::NoLocalOnShared);
            }
            subscribe.entries.push(SubscribeEntry { filter, options });
        }
        // [MQTT-3.8.3-2]
        if subscribe.entries.is_empty() {
            return Err(Violation::SubscribeEmpty);
        }
        Ok(subscribe)
    }
}

struct SubscribeSection<'a>(&'a Subscribe);

impl Encode for SubscribeSection<'_> {
    fn write<S: Sink>(&self, _: Form, out: &mut S) -> Result<(), EncodeError> {
        if let Some(id) = self.0.subscription_id {
            write_subscription_id(id, out)?;
        }
        write_user_properties(&self.0.user_properties, out)
    }
}

impl Encode for Subscribe {
    fn write<S: Sink>(&self, form: Form, out: &mut S) -> Result<(), EncodeError> {
        if self.entries.is_empty() {
            return Err(EncodeError::Empty(PacketType::Subscribe));
        }
        out.u16(self.packet_id.get());
        if form.version.is_v5() {
            section(&SubscribeSection(self), form, out)?;
        }
        for entry in &self.entries {
            out.string(filter_text(&entry.filter))?;
            out.u8(entry.options.byte(form.version));
        }
        Ok(())
    }
}

/// The text of a filter, valid or not.
pub(super) fn filter_text(filter: &Result<TopicFilter, ByteString>) -> &str {
    match filter {
        Ok(filter) => filter.as_str(),
        Err(text) => text,
    }
}
