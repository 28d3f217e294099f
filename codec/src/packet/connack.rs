//! CONNACK: the answer to CONNECT, with a return code in MQTT 3.x and a reason code in MQTT 5.

use std::num::{NonZeroU16, NonZeroU32};

use bytes::Bytes;
use bytestring::ByteString;

use super::{
    QoS, UserProperties, Version,
    properties::{write_binary, write_bool, write_reason, write_string, write_u16, write_u32},
};
use crate::{
    EncodeError, PacketType, Property, ReasonCode, Violation,
    form::{Encode, Form, section},
    reader::{Properties, Reader},
    sink::Sink,
};

/// CONNACK [MQTT 5, 3.2].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnAck {
    /// Session Present.
    pub session_present: bool,
    /// Reason code; written as the return code of 3.x where the connection speaks it.
    pub reason: ReasonCode,
    /// MQTT 5 properties.
    pub properties: ConnAckProperties,
}

/// Properties of CONNACK [MQTT 5, 3.2.2.3].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnAckProperties {
    /// Session Expiry Interval in seconds, when it is not what the client asked for.
    pub session_expiry_interval_s: Option<u32>,
    /// Receive Maximum.
    pub receive_maximum: Option<NonZeroU16>,
    /// Maximum QoS when below 2: only 0 and 1 are written.
    pub maximum_qos: Option<QoS>,
    /// Retain Available.
    pub retain_available: Option<bool>,
    /// Maximum Packet Size in bytes.
    pub maximum_packet_size: Option<NonZeroU32>,
    /// Assigned Client Identifier.
    pub assigned_client_id: Option<ByteString>,
    /// Topic Alias Maximum.
    pub topic_alias_maximum: Option<u16>,
    /// Reason String.
    pub reason_string: Option<ByteString>,
    /// User properties.
    pub user_properties: UserProperties,
    /// Wildcard Subscription Available.
    pub wildcard_subscription_available: Option<bool>,
    /// Subscription Identifiers Available.
    pub subscription_identifiers_available: Option<bool>,
    /// Shared Subscription Available.
    pub shared_subscription_available: Option<bool>,
    /// Server Keep Alive in seconds.
    pub server_keep_alive_s: Option<u16>,
    /// Response Information.
    pub response_information: Option<ByteString>,
    /// Server Reference.
    pub server_reference: Option<ByteString>,
    /// Authentication Method.
    pub authentication_method: Option<ByteString>,
    /// Authentication Data.
    pub authentication_data: Option<Bytes>,
}

impl ConnAck {
    pub(crate) fn read(reader: &mut Reader) -> Result<Self, Violation> {
        let flags = reader.u8()?;
        let code = reader.u8()?;
        // 3.1 does not use the byte and does not say that it is zero.
        if flags & !1 != 0 && reader.rules.version != Version::V31 {
            return Err(Violation::ConnAckFlags);
        }
        let session_present = flags & 1 != 0 && reader.rules.version != Version::V31;
        let reason = if reader.is_v5() {
            reader.check_reason(code)?
        } else {
            ReasonCode::from_connect_return_code(code).ok_or(reader.wrong_reason(code))?
        };
        // [MQTT-3.2.2-6]
        if session_present && reason.is_error() {
            return Err(Violation::SessionPresentOnRefusal);
        }
        let mut properties = ConnAckProperties::default();
        if reader.is_v5() {
            properties.read(reader)?;
        }
        reader.finish()?;
        Ok(Self { session_present, reason, properties })
    }
}

impl ConnAckProperties {
    fn read(&mut self, reader: &mut Reader) -> Result<(), Violation> {
        let mut all = reader.properties()?;
        while let Some(property) = all.next()? {
            self.read_one(property, &mut all)?;
        }
        if self.authentication_data.is_some() && self.authentication_method.is_none() {
            return Err(Violation::AuthenticationMethodMissing(PacketType::ConnAck));
        }
        Ok(())
    }

    fn read_one(&mut self, property: Property, all: &mut Properties<'_>) -> Result<(), Violation> {
        match property {
            Property::SessionExpiryInterval => self.session_expiry_interval_s = Some(all.reader.u32()?),
            Property::ReceiveMaximum => {
                self.receive_maximum = Some(all.nonzero_u16(Violation::PropertyValue(property))?);
            }
            Property::MaximumQoS => {
                let at_least_once = all.boolean(property)?;
                self.maximum_qos = Some(if at_least_once { QoS::AtLeastOnce } else { QoS::AtMostOnce });
            }
            Property::RetainAvailable => self.retain_available = Some(all.boolean(property)?),
            Property::MaximumPacketSize => self.maximum_packet_size = Some(all.nonzero_u32(property)?),
            Property::AssignedClientIdentifier => self.assigned_client_id = Some(all.reader.string()?),
            Property::TopicAliasMaximum => self.topic_alias_maximum = Some(all.reader.u16()?),
            Property::ReasonString => self.reason_string = Some(all.reader.string()?),
            Property::UserProperty => self.user_properties.push(all.pair()?),
            Property::WildcardSubscriptionAvailable => {
                self.wildcard_subscription_available = Some(all.boolean(property)?);
            }
            Property::SubscriptionIdentifiersAvailable => {
                self.subscription_identifiers_available = Some(all.boolean(property)?);
            }
            Property::SharedSubscriptionAvailable => {
                self.shared_subscription_available = Some(all.boolean(property)?);
            }
            Property::ServerKeepAlive => self.server_keep_alive_s = Some(all.reader.u16()?),
            Property::ResponseInformation => self.response_information = Some(all.reader.string()?),
            Property::ServerReference => self.server_reference = Some(all.reader.string()?),
            Property::AuthenticationMethod => self.authentication_method = Some(all.reader.string()?),
            Property::AuthenticationData => self.authentication_data = Some(all.reader.binary()?),
            _ => return Err(all.is_not_allowed(property)),
        }
        Ok(())
    }
}

impl Encode for ConnAckProperties {
    fn write<S: Sink>(&self, form: Form, out: &mut S) -> Result<(), EncodeError> {
        write_u32(Property::SessionExpiryInterval, self.session_expiry_interval_s, out);
        write_u16(Property::ReceiveMaximum, self.receive_maximum.map(NonZeroU16::get), out);
        // 2 is what an absent property means, and may not be written [MQTT 5, 3.2.2.3.4].
        let limited_qos = self.maximum_qos.filter(|qos| *qos < QoS::ExactlyOnce);
        write_bool(Property::MaximumQoS, limited_qos.map(|qos| qos == QoS::AtLeastOnce), out);
        write_bool(Property::RetainAvailable, self.retain_available, out);
        write_u32(Property::MaximumPacketSize, self.maximum_packet_size.map(NonZeroU32::get), out);
        write_string(Property::AssignedClientIdentifier, self.assigned_client_id.as_deref(), out)?;
        write_u16(Property::TopicAliasMaximum, self.topic_alias_maximum, out);
        write_reason(self.reason_string.as_deref(), &self.user_properties, form, out)?;
        write_bool(Property::WildcardSubscriptionAvailable, self.wildcard_subscription_available, out);
        write_bool(Property::SubscriptionIdentifiersAvailable, self.subscription_identifiers_available, out);
        write_bool(Property::SharedSubscriptionAvailable, self.shared_subscription_available, out);
        write_u16(Property::ServerKeepAlive, self.server_keep_alive_s, out);
        write_string(Property::ResponseInformation, self.response_information.as_deref(), out)?;
        write_string(Property::ServerReference, self.server_reference.as_deref(), out)?;
        write_string(Property::AuthenticationMethod, self.authentication_method.as_deref(), out)?;
        write_binary(Property::AuthenticationData, self.authentication_data.as_deref(), out)
    }
}

impl Encode for ConnAck {
    fn write<S: Sink>(&self, form: Form, out: &mut S) -> Result<(), EncodeError> {
        // 3.1 has no Session Present; a refusal never has it [MQTT-3.2.2-6].
        let session_present = self.session_present && !self.reason.is_error() && form.version != Version::V31;
        out.u8(u8::from(session_present));
        if form.version.is_v5() {
            out.u8(self.reason as u8);
            section(&self.properties, form, out)
        } else {
            out.u8(self.reason.connect_return_code());
            Ok(())
        }
    }
}
