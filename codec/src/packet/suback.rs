//! SUBACK and UNSUBACK: one reason an entry, except for UNSUBACK in MQTT 3.x, which has none.

use super::{PacketId, ReasonProperties};
use crate::{
    EncodeError, PacketType, ReasonCode, Violation,
    form::{Form, section},
    reader::Reader,
    sink::Sink,
};

/// SUBACK, and UNSUBACK (which carries reason codes in MQTT 5 only) [MQTT 5, 3.9, 3.11].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubAck {
    /// The packet that is acknowledged.
    pub packet_id: PacketId,
    /// One reason code an entry, in order.
    pub reasons: Vec<ReasonCode>,
    /// MQTT 5 properties.
    pub properties: Option<Box<ReasonProperties>>,
}

impl SubAck {
    /// Reads a SUBACK or an UNSUBACK.
    pub(crate) fn read(reader: &mut Reader) -> Result<Self, Violation> {
        let packet_id = reader.packet_id()?;
        let properties = if reader.is_v5() { ReasonProperties::read_all(reader)? } else { None };
        let mut reasons = Vec::new();
        // An UNSUBACK of MQTT 3.x ends here.
        if reader.is_v5() || reader.packet_type() == PacketType::SubAck {
            reasons.reserve_exact(reader.left());
            while reader.left() > 0 {
                let reason = reader.reason()?;
                // MQTT 3.x has one failure and no other codes [MQTT-3.9.3-2 of 3.1.1].
                if !reader.is_v5() && reason as u8 > ReasonCode::UnspecifiedError as u8 {
                    return Err(reader.wrong_reason(reason as u8));
                }
                reasons.push(reason);
            }
            // There is one for each entry of a request, and a request has at least one.
            if reasons.is_empty() {
                return Err(Violation::Truncated(reader.packet_type()));
            }
        }
        reader.finish()?;
        Ok(Self { packet_id, reasons, properties })
    }

    pub(crate) fn write_suback<S: Sink>(&self, form: Form, out: &mut S) -> Result<(), EncodeError> {
        if self.reasons.is_empty() {
            return Err(EncodeError::Empty(PacketType::SubAck));
        }
        out.u16(self.packet_id.get());
        if form.version.is_v5() {
            section(&self.properties, form, out)?;
        }
        for reason in &self.reasons {
            // MQTT 3.1.1 knows one failure [MQTT-3.9.3-2 of 3.1.1]; 3.1 knows none, and clients of it get the same one all the
            // same.
            let is_v3_failure = reason.is_error() && !form.version.is_v5();
            out.u8(if is_v3_failure { ReasonCode::UnspecifiedError } else { *reason } as u8);
        }
        Ok(())
    }

    pub(crate) fn write_unsuback<S: Sink>(&self, form: Form, out: &mut S) -> Result<(), EncodeError> {
        out.u16(self.packet_id.get());
        if form.version.is_v5() {
            if self.reasons.is_empty() {
                return Err(EncodeError::Empty(PacketType::UnsubAck));
            }
            section(&self.properties, form, out)?;
            for reason in &self.reasons {
                out.u8(*reason as u8);
            }
        }
        Ok(())
    }
}
