//! UNSUBSCRIBE: filters. A filter that is none is kept, to be answered in its place.

use bytestring::ByteString;

use super::{PacketId, UserProperties, properties::write_user_properties, subscribe::filter_text};
use crate::{
    EncodeError, PacketType, Property, TopicFilter, Violation,
    form::{Encode, Form, section},
    reader::Reader,
    sink::Sink,
};

/// UNSUBSCRIBE [MQTT 5, 3.10].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsubscribe {
    /// Packet identifier.
    pub packet_id: PacketId,
    /// User properties.
    pub user_properties: UserProperties,
    /// One or more filters [MQTT-3.10.3-2]; what is no filter is kept as its text.
    pub filters: Vec<Result<TopicFilter, ByteString>>,
}

impl Unsubscribe {
    pub(crate) fn read(reader: &mut Reader) -> Result<Self, Violation> {
        let packet_id = reader.packet_id()?;
        let mut user_properties = UserProperties::new();
        if reader.is_v5() {
            let mut all = reader.properties()?;
            while let Some(property) = all.next()? {
                match property {
                    Property::UserProperty => user_properties.push(all.pair()?),
                    _ => return Err(all.is_not_allowed(property)),
                }
            }
        }
        let mut filters = Vec::new();
        while reader.left() > 0 {
            filters.push(reader.filter()?);
        }
        // [MQTT-3.10.3-2]
        if filters.is_empty() {
            return Err(Violation::UnsubscribeEmpty);
        }
        Ok(Self { packet_id, user_properties, filters })
    }
}

struct UnsubscribeSection<'a>(&'a Unsubscribe);

impl Encode for UnsubscribeSection<'_> {
    fn write<S: Sink>(&self, _: Form, out: &mut S) -> Result<(), EncodeError> {
        write_user_properties(&self.0.user_properties, out)
    }
}

impl Encode for Unsubscribe {
    fn write<S: Sink>(&self, form: Form, out: &mut S) -> Result<(), EncodeError> {
        if self.filters.is_empty() {
            return Err(EncodeError::Empty(PacketType::Unsubscribe));
        }
        out.u16(self.packet_id.get());
        if form.version.is_v5() {
            section(&UnsubscribeSection(self), form, out)?;
        }
        for filter in &self.filters {
            out.string(filter_text(filter))?;
        }
        Ok(())
    }
}
