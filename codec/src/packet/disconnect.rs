//! DISCONNECT: no content in MQTT 3.x; a reason in MQTT 5, where servers send it too.

use bytestring::ByteString;

use super::{
    ReasonProperties,
    ack::write_reason_and_section,
    properties::{write_string, write_u32},
};
use crate::{
    EncodeError, Property, ReasonCode, Role, Violation,
    form::{Encode, Form},
    reader::Reader,
    sink::Sink,
};

/// DISCONNECT [MQTT 5, 3.14]. In 3.x it has no content: only the client sends it, with `Success`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disconnect {
    /// Reason code.
    pub reason: ReasonCode,
    /// Session Expiry Interval in seconds, client to server.
    pub session_expiry_interval_s: Option<u32>,
    /// Server Reference, server to client.
    pub server_reference: Option<ByteString>,
    /// Reason string and user properties.
    pub properties: Option<Box<ReasonProperties>>,
}

impl Disconnect {
    /// A DISCONNECT with this reason and nothing else.
    #[must_use]
    pub const fn new(reason: ReasonCode) -> Self {
        Self { reason, session_expiry_interval_s: None, server_reference: None, properties: None }
    }

    pub(crate) fn read(reader: &mut Reader) -> Result<Self, Violation> {
        let mut disconnect = Self::new(ReasonCode::Success);
        if !reader.is_v5() {
            reader.finish_lenient_in_v3()?;
            return Ok(disconnect);
        }
        // Reason code and properties can be left out from the end [MQTT 5, 3.14.2.1, 3.14.2.2.1].
        if reader.left() > 0 {
            disconnect.reason = reader.reason()?;
        }
        if reader.left() > 0 {
            disconnect.read_properties(reader)?;
        }
        reader.finish()?;
        Ok(disconnect)
    }

    fn read_properties(&mut self, reader: &mut Reader) -> Result<(), Violation> {
        let role = reader.rules.role;
        let mut all = reader.properties()?;
        while let Some(property) = all.next()? {
            match property {
                // [MQTT-3.14.2-2]
                Property::SessionExpiryInterval if role == Role::Client => {
                    return Err(Violation::SessionExpiryFromServer);
                }
                Property::SessionExpiryInterval => self.session_expiry_interval_s = Some(all.reader.u32()?),
                Property::ServerReference => self.server_reference = Some(all.reader.string()?),
                _ if ReasonProperties::read(&mut self.properties, property, &mut all)? => {}
                _ => return Err(all.is_not_allowed(property)),
            }
        }
        Ok(())
    }
}

struct DisconnectSection<'a>(&'a Disconnect);

impl Encode for DisconnectSection<'_> {
    fn write<S: Sink>(&self, form: Form, out: &mut S) -> Result<(), EncodeError> {
        let disconnect = self.0;
        write_u32(Property::SessionExpiryInterval, disconnect.session_expiry_interval_s, out);
        write_string(Property::ServerReference, disconnect.server_reference.as_deref(), out)?;
        disconnect.properties.write(form, out)
    }
}

impl Encode for Disconnect {
    fn write<S: Sink>(&self, form: Form, out: &mut S) -> Result<(), EncodeError> {
        if form.version.is_v5() {
            write_reason_and_section(self.reason, &DisconnectSection(self), form, out)?;
        }
        Ok(())
    }
}
