//! How packets write themselves: what [`Encode`] is told, and the parts that need no packet.

use crate::{
    EncodeError, Version,
    sink::{Length, Sink, VARINT_MAX},
};

/// The longest fixed header.
const FIXED_HEADER_MAX: usize = 5;
/// Largest packet that MQTT can say [MQTT 5, 2.1.4].
pub(crate) const PACKET_SIZE_MAX: usize = VARINT_MAX as usize + FIXED_HEADER_MAX;

/// What is left out of a packet that would be too large otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum LeftOut {
    Nothing,
    UserProperties,
    UserPropertiesAndReasonString,
}

/// How a packet is written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Form {
    pub(crate) version: Version,
    pub(crate) left_out: LeftOut,
}

impl Form {
    pub(crate) const fn of(version: Version) -> Self {
        Self { version, left_out: LeftOut::Nothing }
    }
}

/// Writes itself, without the fixed header. Runs with a sink that only counts too, so it must write the same each time.
pub(crate) trait Encode {
    fn write<S: Sink>(&self, form: Form, out: &mut S) -> Result<(), EncodeError>;
}

/// The length of what would be written.
pub(crate) fn length(part: &impl Encode, form: Form) -> Result<usize, EncodeError> {
    let mut len = Length::default();
    part.write(form, &mut len)?;
    Ok(len.0)
}

/// Writes properties with their length before them, which is 0 when there are none [MQTT-2.2.2-1].
pub(crate) fn section<S: Sink>(properties: &impl Encode, form: Form, out: &mut S) -> Result<(), EncodeError> {
    let len = length(properties, form)?;
    out.varint(varint(len)?);
    if len == 0 { Ok(()) } else { properties.write(form, out) }
}

/// A length that a variable byte integer can say.
pub(crate) fn varint(len: usize) -> Result<u32, EncodeError> {
    match u32::try_from(len) {
        Ok(value) if value <= VARINT_MAX => Ok(value),
        _ => Err(EncodeError::PacketTooLarge { size: len, limit: PACKET_SIZE_MAX }),
    }
}
