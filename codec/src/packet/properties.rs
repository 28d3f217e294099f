//! Groups of properties that several packets share, and how single properties are written.

use std::num::{NonZeroU16, NonZeroU32};

use bytes::Bytes;
use bytestring::ByteString;

use super::UserProperties;
use crate::{
    EncodeError, Property, TopicName, Violation,
    form::{Encode, Form, LeftOut},
    reader::{Properties, Reader},
    sink::{Sink, VARINT_MAX},
};

/// The properties that travel with an application message, in PUBLISH and in a will. `None` in their owner when
/// there are none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MessageProperties {
    /// Payload Format Indicator is 1: the payload is UTF-8. `Some(false)` is an explicit 0.
    pub payload_is_utf8: Option<bool>,
    /// Message Expiry Interval in seconds.
    pub message_expiry_interval_s: Option<u32>,
    /// Content Type.
    pub content_type: Option<ByteString>,
    /// Response Topic.
    pub response_topic: Option<TopicName>,
    /// Correlation Data.
    pub correlation_data: Option<Bytes>,
    /// User properties.
    pub user_properties: UserProperties,
}

/// Reason String and user properties, which most acknowledgements can carry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReasonProperties {
    /// Reason String.
    pub reason_string: Option<ByteString>,
    /// User properties.
    pub user_properties: UserProperties,
}

impl MessageProperties {
    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let Self {
            payload_is_utf8,
            message_expiry_interval_s,
            content_type,
            response_topic,
            correlation_data,
            user_properties,
        } = self;
        payload_is_utf8.is_none()
            && message_expiry_interval_s.is_none()
            && content_type.is_none()
            && response_topic.is_none()
            && correlation_data.is_none()
            && user_properties.is_empty()
    }

    /// Bytes of memory that its texts and data take, each with its place. A name of one letter takes more than what it was sent in.
    #[must_use]
    pub fn weight(&self) -> usize {
        let Self { content_type, response_topic, correlation_data, user_properties, .. } = self;
        let pairs = user_properties.iter().map(|pair| size_of_val(pair) + pair.0.len() + pair.1.len());
        content_type.as_ref().map_or(0, |text| text.len())
            + response_topic.as_ref().map_or(0, |topic| topic.as_str().len())
            + correlation_data.as_ref().map_or(0, Bytes::len)
            + pairs.sum::<usize>()
    }

    /// Reads the value when it is a property of a message; otherwise says no. Response Topic and Content Type are text
    /// [MQTT-3.3.2-13], [MQTT-3.3.2-19].
    pub(super) fn read(&mut self, property: Property, all: &mut Properties<'_>) -> Result<bool, Violation> {
        match property {
            Property::PayloadFormatIndicator => self.payload_is_utf8 = Some(all.boolean(property)?),
            Property::MessageExpiryInterval => self.message_expiry_interval_s = Some(all.reader.u32()?),
            Property::ContentType => self.content_type = Some(all.reader.string()?),
            Property::ResponseTopic => {
                let text = all.reader.string()?;
                self.response_topic = Some(all.reader.topic(text, Violation::ResponseTopic)?);
            }
            Property::CorrelationData => self.correlation_data = Some(all.reader.binary()?),
            Property::UserProperty => self.user_properties.push(all.pair()?),
            _ => return Ok(false),
        }
        Ok(true)
    }
}

/// The message properties of a PUBLISH with what else stands among them.
pub(crate) struct MessageSection<'a> {
    pub(crate) properties: Option<&'a MessageProperties>,
    pub(crate) topic_alias: Option<NonZeroU16>,
    pub(crate) subscription_ids: &'a [NonZeroU32],
}

impl Encode for MessageSection<'_> {
    fn write<S: Sink>(&self, form: Form, out: &mut S) -> Result<(), EncodeError> {
        if let Some(properties) = self.properties {
            properties.write(form, out)?;
        }
        if let Some(alias) = self.topic_alias {
            out.u8(Property::TopicAlias as u8);
            out.u16(alias.get());
        }
        for id in self.subscription_ids {
            write_subscription_id(*id, out)?;
        }
        Ok(())
    }
}

impl Encode for MessageProperties {
    /// The expiry interval is first: a frame that is sent many times finds it there.
    fn write<S: Sink>(&self, _: Form, out: &mut S) -> Result<(), EncodeError> {
        write_u32(Property::MessageExpiryInterval, self.message_expiry_interval_s, out);
        write_bool(Property::PayloadFormatIndicator, self.payload_is_utf8, out);
        write_string(Property::ContentType, self.content_type.as_deref(), out)?;
        write_string(Property::ResponseTopic, self.response_topic.as_deref(), out)?;
        write_binary(Property::CorrelationData, self.correlation_data.as_deref(), out)?;
        write_user_properties(&self.user_properties, out)
    }
}

impl ReasonProperties {
    /// Reads the value when it is one of these; otherwise says no.
    pub(super) fn read(
        this: &mut Option<Box<Self>>,
        property: Property,
        all: &mut Properties<'_>,
    ) -> Result<bool, Violation> {
        match property {
            Property::ReasonString => this.get_or_insert_default().reason_string = Some(all.reader.string()?),
            Property::UserProperty => this.get_or_insert_default().user_properties.push(all.pair()?),
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Reads the properties of a packet that has no others. Some senders leave them out with their length, so no
    /// bytes are no properties.
    pub(super) fn read_all(reader: &mut Reader) -> Result<Option<Box<Self>>, Violation> {
        let mut read = None;
        let mut all = reader.properties()?;
        while let Some(property) = all.next()? {
            if !Self::read(&mut read, property, &mut all)? {
                return Err(all.is_not_allowed(property));
            }
        }
        Ok(read)
    }
}

impl Encode for Option<Box<ReasonProperties>> {
    fn write<S: Sink>(&self, form: Form, out: &mut S) -> Result<(), EncodeError> {
        let Some(properties) = self else {
            return Ok(());
        };
        write_reason(properties.reason_string.as_deref(), &properties.user_properties, form, out)
    }
}

/// Reason String and user properties, as far as the packet has room for them.
pub(super) fn write_reason<S: Sink>(
    reason_string: Option<&str>,
    user_properties: &UserProperties,
    form: Form,
    out: &mut S,
) -> Result<(), EncodeError> {
    if form.left_out < LeftOut::UserPropertiesAndReasonString {
        write_string(Property::ReasonString, reason_string, out)?;
    }
    if form.left_out < LeftOut::UserProperties {
        write_user_properties(user_properties, out)?;
    }
    Ok(())
}

pub(super) fn write_user_properties<S: Sink>(pairs: &UserProperties, out: &mut S) -> Result<(), EncodeError> {
    for (name, value) in pairs {
        out.u8(Property::UserProperty as u8);
        out.string(name)?;
        out.string(value)?;
    }
    Ok(())
}

pub(super) fn write_subscription_id<S: Sink>(id: NonZeroU32, out: &mut S) -> Result<(), EncodeError> {
    if id.get() > VARINT_MAX {
        return Err(EncodeError::SubscriptionId(id.get()));
    }
    out.u8(Property::SubscriptionIdentifier as u8);
    out.varint(id.get());
    Ok(())
}

pub(super) fn write_bool<S: Sink>(property: Property, value: Option<bool>, out: &mut S) {
    if let Some(value) = value {
        out.u8(property as u8);
        out.u8(u8::from(value));
    }
}

pub(super) fn write_u16<S: Sink>(property: Property, value: Option<u16>, out: &mut S) {
    if let Some(value) = value {
        out.u8(property as u8);
        out.u16(value);
    }
}

pub(super) fn write_u32<S: Sink>(property: Property, value: Option<u32>, out: &mut S) {
    if let Some(value) = value {
        out.u8(property as u8);
        out.u32(value);
    }
}

pub(super) fn write_string<S: Sink>(property: Property, value: Option<&str>, out: &mut S) -> Result<(), EncodeError> {
    let Some(value) = value else { return Ok(()) };
    out.u8(property as u8);
    out.string(value)
}

pub(super) fn write_binary<S: Sink>(property: Property, value: Option<&[u8]>, out: &mut S) -> Result<(), EncodeError> {
    let Some(value) = value else { return Ok(()) };
    out.u8(property as u8);
    out.binary(value)
}
