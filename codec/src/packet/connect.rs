//! CONNECT: version, client, will and credentials. Whether they are welcome is not decided here.

use std::num::{NonZeroU16, NonZeroU32};

use bytes::Bytes;
use bytestring::ByteString;

use super::{
    MessageProperties, QoS, UserProperties, Version, Versions,
    properties::{write_binary, write_bool, write_string, write_u16, write_u32, write_user_properties},
};
use crate::{
    EncodeError, PacketType, Property, Secret, TopicName, Violation,
    form::{Encode, Form, section},
    reader::Reader,
    sink::Sink,
};

/// CONNECT [MQTT 5, 3.1].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connect {
    /// Version the client asked for.
    pub version: Version,
    /// The client is a bridge (level byte with bit 7 set, as mosquitto's bridges send for 3.1 and 3.1.1).
    pub bridge: bool,
    /// Clean Start (5), Clean Session (3.x).
    pub clean_start: bool,
    /// Keep Alive in seconds; 0 turns it off.
    pub keep_alive_s: u16,
    /// Client identifier, possibly empty.
    pub client_id: ByteString,
    /// The will, if any.
    pub will: Option<Box<Will>>,
    /// User name.
    pub username: Option<ByteString>,
    /// Password: binary data.
    pub password: Option<Secret>,
    /// MQTT 5 properties; default for 3.x.
    pub properties: ConnectProperties,
}

impl Connect {
    /// One that says nothing but this: it starts anew, is not kept alive, and has neither a will nor credentials.
    #[must_use]
    pub fn new(version: Version, client_id: impl Into<ByteString>) -> Self {
        Self {
            version,
            bridge: false,
            clean_start: true,
            keep_alive_s: 0,
            client_id: client_id.into(),
            will: None,
            username: None,
            password: None,
            properties: ConnectProperties::default(),
        }
    }
}

/// Properties of CONNECT [MQTT 5, 3.1.2.11].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnectProperties {
    /// Session Expiry Interval in seconds; absent means 0.
    pub session_expiry_interval_s: Option<u32>,
    /// Receive Maximum; absent means 65,535.
    pub receive_maximum: Option<NonZeroU16>,
    /// Maximum Packet Size in bytes; absent means no limit.
    pub maximum_packet_size: Option<NonZeroU32>,
    /// Topic Alias Maximum; 0 when absent.
    pub topic_alias_maximum: u16,
    /// Request Response Information; false when absent.
    pub request_response_information: bool,
    /// Request Problem Information; absent means true.
    pub request_problem_information: Option<bool>,
    /// User properties.
    pub user_properties: UserProperties,
    /// Authentication Method.
    pub authentication_method: Option<ByteString>,
    /// Authentication Data.
    pub authentication_data: Option<Secret>,
}

/// A will message [MQTT 5, 3.1.2.5].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Will {
    /// Where it is published.
    pub topic: TopicName,
    /// What is published.
    pub payload: Bytes,
    /// At which QoS.
    pub qos: QoS,
    /// Whether it is retained.
    pub retain: bool,
    /// Will Delay Interval in seconds.
    pub delay_interval_s: u32,
    /// The properties of the message.
    pub properties: Option<Box<MessageProperties>>,
}

/// Bits of the connect flags [MQTT 5, 3.1.2.3].
mod flag {
    pub(super) const RESERVED: u8 = 0x01;
    pub(super) const CLEAN_START: u8 = 0x02;
    pub(super) const WILL: u8 = 0x04;
    pub(super) const WILL_QOS_SHIFT: u8 = 3;
    pub(super) const WILL_QOS: u8 = 0b11 << WILL_QOS_SHIFT;
    pub(super) const WILL_RETAIN: u8 = 0x20;
    pub(super) const PASSWORD: u8 = 0x40;
    pub(super) const USER_NAME: u8 = 0x80;
}

/// Bit of the protocol level that bridges set, in 3.1 and 3.1.1.
const BRIDGE: u8 = 0x80;

impl Connect {
    /// Protocol name and level: the version, which has to be one of these, and whether a bridge connects.
    pub(crate) fn read_version(reader: &mut Reader, versions: Versions) -> Result<(Version, bool), Violation> {
        let name = reader.binary()?;
        let level = reader.u8()?;
        let is_bridge = level & BRIDGE != 0;
        let version = match (&name[..], level & !BRIDGE) {
            (b"MQIsdp", 3) => Version::V31,
            (b"MQTT", 4) => Version::V311,
            (b"MQTT", 5) if !is_bridge => Version::V5,
            // [MQTT-3.1.2-2], [MQTT-3.1.2-2 of 3.1.1]
            (b"MQIsdp" | b"MQTT", _) => return Err(Violation::ProtocolLevel(level)),
            // [MQTT-3.1.2-1]
            _ => return Err(Violation::ProtocolName),
        };
        if versions.has(version) { Ok((version, is_bridge)) } else { Err(Violation::ProtocolLevel(level)) }
    }

    /// What follows protocol name and level. The flags say which fields are there [MQTT-3.1.2-17, -19] and that nothing is behind
    /// them [MQTT-3.1.2-16, -18]; they come in their order [MQTT-3.1.3-1], the client identifier first [MQTT-3.1.3-3].
    pub(crate) fn read(reader: &mut Reader, bridge: bool) -> Result<Self, Violation> {
        let version = reader.rules.version;
        let flags = reader.u8()?;
        check_flags(flags, version)?;
        let keep_alive_s = reader.u16()?;
        let mut properties = ConnectProperties::default();
        if version.is_v5() {
            properties.read(reader)?;
        }
        // [MQTT-3.1.3-4]
        let client_id = reader.string()?;
        let will = if flags & flag::WILL == 0 { None } else { Some(Box::new(Will::read(flags, reader)?)) };
        // 3.1 lets the lengths win over the flags: a user name or a password that is not there is none. A user name is text
        // [MQTT-3.1.3-12].
        let is_there = |reader: &Reader, bit| flags & bit != 0 && (version != Version::V31 || reader.left() > 0);
        let username = if is_there(reader, flag::USER_NAME) { Some(reader.string()?) } else { None };
        let password = if is_there(reader, flag::PASSWORD) { Some(reader.secret()?) } else { None };
        reader.finish_lenient_in_v3()?;
        let clean_start = flags & flag::CLEAN_START != 0;
        Ok(Self { version, bridge, clean_start, keep_alive_s, client_id, will, username, password, properties })
    }

    fn flags(&self) -> u8 {
        let mut flags = 0;
        if self.clean_start {
            flags |= flag::CLEAN_START;
        }
        if let Some(will) = &self.will {
            flags |= flag::WILL | (will.qos as u8) << flag::WILL_QOS_SHIFT;
            if will.retain {
                flags |= flag::WILL_RETAIN;
            }
        }
        if self.username.is_some() {
            flags |= flag::USER_NAME;
        }
        if self.password.is_some() {
            flags |= flag::PASSWORD;
        }
        flags
    }
}

fn check_flags(flags: u8, version: Version) -> Result<(), Violation> {
    // [MQTT-3.1.2-3]; 3.1 does not use the bit.
    if flags & flag::RESERVED != 0 && version != Version::V31 {
        return Err(Violation::ConnectReservedFlag);
    }
    // [MQTT-3.1.2-12]
    if flags & flag::WILL_QOS == flag::WILL_QOS {
        return Err(Violation::WillQoS);
    }
    // [MQTT-3.1.2-11], [MQTT-3.1.2-13]; 3.1 does not use the bits when there is no will.
    if flags & flag::WILL == 0 && flags & (flag::WILL_QOS | flag::WILL_RETAIN) != 0 && version != Version::V31 {
        return Err(Violation::WillFlags);
    }
    // [MQTT-3.1.2-22 of 3.1.1]; MQTT 5 has dropped it.
    if flags & flag::PASSWORD != 0 && flags & flag::USER_NAME == 0 && !version.is_v5() {
        return Err(Violation::PasswordWithoutUserName);
    }
    Ok(())
}

impl Will {
    /// All of it is there [MQTT-3.1.2-9], and its topic is text [MQTT-3.1.3-11].
    fn read(flags: u8, reader: &mut Reader) -> Result<Self, Violation> {
        let mut properties: Option<Box<MessageProperties>> = None;
        let mut delay_interval_s = 0;
        if reader.is_v5() {
            let mut all = reader.properties()?;
            while let Some(property) = all.next()? {
                match property {
                    Property::WillDelayInterval => delay_interval_s = all.reader.u32()?,
                    _ if properties.get_or_insert_default().read(property, &mut all)? => {}
                    _ => return Err(all.is_not_allowed(property)),
                }
            }
        }
        let topic = reader.string()?;
        Ok(Self {
            topic: reader.topic(topic, Violation::WillTopic)?,
            payload: reader.binary()?,
            qos: QoS::try_from((flags & flag::WILL_QOS) >> flag::WILL_QOS_SHIFT).map_err(|_| Violation::WillQoS)?,
            retain: flags & flag::WILL_RETAIN != 0,
            delay_interval_s,
            properties,
        })
    }
}

impl ConnectProperties {
    fn read(&mut self, reader: &mut Reader) -> Result<(), Violation> {
        let mut all = reader.properties()?;
        while let Some(property) = all.next()? {
            match property {
                Property::SessionExpiryInterval => self.session_expiry_interval_s = Some(all.reader.u32()?),
                Property::ReceiveMaximum => {
                    self.receive_maximum = Some(all.nonzero_u16(Violation::PropertyValue(property))?);
                }
                Property::MaximumPacketSize => self.maximum_packet_size = Some(all.nonzero_u32(property)?),
                Property::TopicAliasMaximum => self.topic_alias_maximum = all.reader.u16()?,
                Property::RequestResponseInformation => self.request_response_information = all.boolean(property)?,
                Property::RequestProblemInformation => {
                    self.request_problem_information = Some(all.boolean(property)?);
                }
                Property::UserProperty => self.user_properties.push(all.pair()?),
                Property::AuthenticationMethod => self.authentication_method = Some(all.reader.string()?),
                Property::AuthenticationData => self.authentication_data = Some(all.reader.secret()?),
                _ => return Err(all.is_not_allowed(property)),
            }
        }
        // [MQTT 5, 3.1.2.11.10]
        if self.authentication_data.is_some() && self.authentication_method.is_none() {
            return Err(Violation::AuthenticationMethodMissing(PacketType::Connect));
        }
        Ok(())
    }
}

impl Encode for ConnectProperties {
    fn write<S: Sink>(&self, _: Form, out: &mut S) -> Result<(), EncodeError> {
        let alias_maximum = Some(self.topic_alias_maximum).filter(|maximum| *maximum > 0);
        let response_information = self.request_response_information.then_some(true);
        write_u32(Property::SessionExpiryInterval, self.session_expiry_interval_s, out);
        write_u16(Property::ReceiveMaximum, self.receive_maximum.map(NonZeroU16::get), out);
        write_u32(Property::MaximumPacketSize, self.maximum_packet_size.map(NonZeroU32::get), out);
        write_u16(Property::TopicAliasMaximum, alias_maximum, out);
        write_bool(Property::RequestResponseInformation, response_information, out);
        write_bool(Property::RequestProblemInformation, self.request_problem_information, out);
        write_user_properties(&self.user_properties, out)?;
        write_string(Property::AuthenticationMethod, self.authentication_method.as_deref(), out)?;
        write_binary(Property::AuthenticationData, self.authentication_data.as_ref().map(Secret::expose), out)
    }
}

struct WillSection<'a>(&'a Will);

impl Encode for WillSection<'_> {
    fn write<S: Sink>(&self, form: Form, out: &mut S) -> Result<(), EncodeError> {
        write_u32(Property::WillDelayInterval, Some(self.0.delay_interval_s).filter(|delay| *delay > 0), out);
        match &self.0.properties {
            Some(properties) => properties.write(form, out),
            None => Ok(()),
        }
    }
}

impl Encode for Connect {
    fn write<S: Sink>(&self, form: Form, out: &mut S) -> Result<(), EncodeError> {
        if form.version != self.version {
            return Err(EncodeError::ConnectVersion(self.version));
        }
        let is_v5 = self.version.is_v5();
        if !is_v5 && self.password.is_some() && self.username.is_none() {
            return Err(EncodeError::PasswordWithoutUserName);
        }
        out.string(self.version.protocol_name())?;
        out.u8(self.version.level() | if self.bridge && !is_v5 { BRIDGE } else { 0 });
        out.u8(self.flags());
        out.u16(self.keep_alive_s);
        if is_v5 {
            section(&self.properties, form, out)?;
        }
        out.string(&self.client_id)?;
        if let Some(will) = &self.will {
            if is_v5 {
                section(&WillSection(will), form, out)?;
            }
            out.string(&will.topic)?;
            out.binary(&will.payload)?;
        }
        if let Some(username) = &self.username {
            out.string(username)?;
        }
        if let Some(password) = &self.password {
            out.binary(password.expose())?;
        }
        Ok(())
    }
}
