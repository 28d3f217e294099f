//! PUBLISH. Topic aliases are not resolved here: the table belongs to the connection.

use std::num::{NonZeroU16, NonZeroU32};

use bytes::Bytes;

use super::{MessageProperties, MessageSection, PacketId, QoS};
use crate::{
    EncodeError, PacketType, Property, Role, TopicName, Violation,
    form::{Encode, Form, section},
    reader::Reader,
    sink::Sink,
};

/// The topic of a PUBLISH: by name, by alias, or a name that sets an alias [MQTT 5, 3.3.2.3.4].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PublishTopic {
    /// A topic name alone.
    Name(TopicName),
    /// A topic name, and the alias that stands for it from now on.
    Define(TopicName, NonZeroU16),
    /// An alias set before.
    Alias(NonZeroU16),
}

/// QoS of a PUBLISH with the packet identifier that it needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// QoS 0, no packet identifier [MQTT-2.2.1-2].
    AtMostOnce,
    /// QoS 1.
    AtLeastOnce(PacketId),
    /// QoS 2.
    ExactlyOnce(PacketId),
}

/// PUBLISH [MQTT 5, 3.3].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publish {
    /// DUP flag. Says nothing about duplicates: 3.3.1.1.
    pub dup: bool,
    /// QoS and packet identifier.
    pub delivery: Delivery,
    /// RETAIN flag.
    pub retain: bool,
    /// Topic.
    pub topic: PublishTopic,
    /// Subscription identifiers, server to client only.
    pub subscription_ids: Vec<NonZeroU32>,
    /// Message properties.
    pub properties: Option<Box<MessageProperties>>,
    /// Payload.
    pub payload: Bytes,
}

impl Delivery {
    /// The QoS.
    #[must_use]
    pub const fn qos(self) -> QoS {
        match self {
            Self::AtMostOnce => QoS::AtMostOnce,
            Self::AtLeastOnce(_) => QoS::AtLeastOnce,
            Self::ExactlyOnce(_) => QoS::ExactlyOnce,
        }
    }

    /// The packet identifier, which QoS 0 does not have [MQTT-2.2.1-2].
    #[must_use]
    pub const fn packet_id(self) -> Option<PacketId> {
        match self {
            Self::AtMostOnce => None,
            Self::AtLeastOnce(id) | Self::ExactlyOnce(id) => Some(id),
        }
    }

    /// `None` where QoS and packet identifier do not belong together.
    #[must_use]
    pub const fn new(qos: QoS, packet_id: Option<PacketId>) -> Option<Self> {
        match (qos, packet_id) {
            (QoS::AtMostOnce, None) => Some(Self::AtMostOnce),
            (QoS::AtLeastOnce, Some(id)) => Some(Self::AtLeastOnce(id)),
            (QoS::ExactlyOnce, Some(id)) => Some(Self::ExactlyOnce(id)),
            _ => None,
        }
    }
}

impl PublishTopic {
    /// The topic name, when it is there.
    #[must_use]
    pub const fn name(&self) -> Option<&TopicName> {
        match self {
            Self::Name(name) | Self::Define(name, _) => Some(name),
            Self::Alias(_) => None,
        }
    }

    /// The alias, when there is one.
    #[must_use]
    pub const fn alias(&self) -> Option<NonZeroU16> {
        match self {
            Self::Name(_) => None,
            Self::Define(_, alias) | Self::Alias(alias) => Some(*alias),
        }
    }
}

impl Publish {
    /// The topic name; `None` when the topic is an alias that was set before.
    #[must_use]
    pub const fn topic_name(&self) -> Option<&TopicName> {
        self.topic.name()
    }

    /// QoS.
    #[must_use]
    pub const fn qos(&self) -> QoS {
        self.delivery.qos()
    }

    /// Packet identifier of QoS 1 and 2.
    #[must_use]
    pub const fn packet_id(&self) -> Option<PacketId> {
        self.delivery.packet_id()
    }

    /// Flags of the fixed header.
    pub(crate) const fn flags(&self) -> u8 {
        publish_flags(self.dup, self.delivery.qos(), self.retain)
    }

    /// The topic name comes first, and is text [MQTT-3.3.2-1].
    #[inline]
    pub(crate) fn read(flags: u8, mut reader: Reader) -> Result<Self, Violation> {
        let mut dup = flags & 0b1000 != 0;
        let qos = QoS::try_from(flags >> 1 & 0b11).map_err(|_| Violation::PublishQoS)?;
        // [MQTT-3.3.1-2], which some devices do not keep and which does no harm.
        if dup && qos == QoS::AtMostOnce {
            if reader.rules.is_strict {
                return Err(Violation::DupOnQoS0);
            }
            dup = false;
        }
        let topic = reader.string()?;
        let delivery = match qos {
            QoS::AtMostOnce => Delivery::AtMostOnce,
            QoS::AtLeastOnce => Delivery::AtLeastOnce(reader.packet_id()?),
            QoS::ExactlyOnce => Delivery::ExactlyOnce(reader.packet_id()?),
        };
        let section = if reader.is_v5() { ReadSection::read(&mut reader)? } else { ReadSection::default() };
        let topic = match (topic.is_empty(), section.topic_alias) {
            (true, None) => return Err(Violation::TopicMissing),
            (true, Some(alias)) => PublishTopic::Alias(alias),
            (false, None) => PublishTopic::Name(reader.topic(topic, Violation::TopicName)?),
            (false, Some(alias)) => PublishTopic::Define(reader.topic(topic, Violation::TopicName)?, alias),
        };
        Ok(Self {
            dup,
            delivery,
            retain: flags & 1 != 0,
            topic,
            subscription_ids: section.subscription_ids,
            properties: section.properties,
            payload: reader.into_rest(),
        })
    }
}

/// The flags of the fixed header of a PUBLISH.
pub(crate) const fn publish_flags(dup: bool, qos: QoS, retain: bool) -> u8 {
    (dup as u8) << 3 | (qos as u8) << 1 | retain as u8
}

/// The properties of a PUBLISH, sorted to where they belong.
#[derive(Default)]
struct ReadSection {
    topic_alias: Option<NonZeroU16>,
    subscription_ids: Vec<NonZeroU32>,
    properties: Option<Box<MessageProperties>>,
}

impl ReadSection {
    #[inline]
    fn read(reader: &mut Reader) -> Result<Self, Violation> {
        let role = reader.rules.role;
        let mut section = Self::default();
        let mut all = reader.properties()?;
        while let Some(property) = all.next()? {
            match property {
                Property::TopicAlias => section.topic_alias = Some(all.nonzero_u16(Violation::TopicAliasZero)?),
                // [MQTT-3.3.4-6]
                Property::SubscriptionIdentifier if role == Role::Server => {
                    return Err(Violation::SubscriptionIdFromClient);
                }
                Property::SubscriptionIdentifier => section.subscription_ids.push(all.subscription_id()?),
                _ if section.properties.get_or_insert_default().read(property, &mut all)? => {}
                _ => return Err(all.is_not_allowed(property)),
            }
        }
        Ok(section)
    }
}

impl Encode for Publish {
    fn write<S: Sink>(&self, form: Form, out: &mut S) -> Result<(), EncodeError> {
        let alias = self.topic.alias();
        match (self.topic.name(), form.version.is_v5()) {
            (Some(name), _) => out.string(name)?,
            (None, true) => out.string("")?,
            (None, false) => {
                return Err(EncodeError::NotInVersion { packet: PacketType::Publish, version: form.version });
            }
        }
        if let Some(id) = self.delivery.packet_id() {
            out.u16(id.get());
        }
        if form.version.is_v5() {
            let properties = MessageSection {
                properties: self.properties.as_deref(),
                topic_alias: alias,
                subscription_ids: &self.subscription_ids,
            };
            section(&properties, form, out)?;
        }
        out.put(&self.payload);
        Ok(())
    }
}
