//! PUBACK, PUBREC, PUBREL and PUBCOMP: a packet identifier, and a reason in MQTT 5.

use super::PacketId;
use crate::{
    EncodeError, ReasonCode, ReasonProperties, Violation,
    form::{Encode, Form, length, section},
    reader::Reader,
    sink::Sink,
};

/// PUBACK, PUBREC, PUBREL and PUBCOMP [MQTT 5, 3.4–3.7].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ack {
    /// The packet that is acknowledged.
    pub packet_id: PacketId,
    /// Reason code; not on the wire in 3.x (decoded as `Success`).
    pub reason: ReasonCode,
    /// MQTT 5 properties.
    pub properties: Option<Box<ReasonProperties>>,
}

impl Ack {
    /// An acknowledgement without properties.
    #[must_use]
    pub const fn new(packet_id: PacketId, reason: ReasonCode) -> Self {
        Self { packet_id, reason, properties: None }
    }

    pub(crate) fn read(reader: &mut Reader) -> Result<Self, Violation> {
        let packet_id = reader.packet_id()?;
        // Reason code and properties can be left out from the end [MQTT 5, 3.4.2.1, 3.4.2.2.1].
        let mut ack = Self::new(packet_id, ReasonCode::Success);
        if reader.is_v5() && reader.left() > 0 {
            ack.reason = reader.reason()?;
            if reader.left() > 0 {
                ack.properties = ReasonProperties::read_all(reader)?;
            }
        }
        reader.finish()?;
        Ok(ack)
    }
}

impl Encode for Ack {
    #[inline]
    fn write<S: Sink>(&self, form: Form, out: &mut S) -> Result<(), EncodeError> {
        out.u16(self.packet_id.get());
        if form.version.is_v5() {
            write_reason_and_section(self.reason, &self.properties, form, out)?;
        }
        Ok(())
    }
}

/// Reason code and properties, each left out when it and what follows say nothing. PUBACK, PUBREC, PUBREL, PUBCOMP,
/// DISCONNECT and AUTH share this [MQTT 5, 3.4.2.1, 3.14.2.1, 3.15.2.1].
pub(super) fn write_reason_and_section<S: Sink>(
    reason: ReasonCode,
    properties: &impl Encode,
    form: Form,
    out: &mut S,
) -> Result<(), EncodeError> {
    let has_properties = length(properties, form)? > 0;
    if reason != ReasonCode::Success || has_properties {
        out.u8(reason as u8);
    }
    if has_properties { section(properties, form, out) } else { Ok(()) }
}
