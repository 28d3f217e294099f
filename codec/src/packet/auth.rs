//! AUTH: enhanced authentication, MQTT 5 only. What its data means is not here.

use bytestring::ByteString;

use super::{
    ReasonProperties,
    ack::write_reason_and_section,
    properties::{write_binary, write_string},
};
use crate::{
    EncodeError, PacketType, Property, ReasonCode, Role, Secret, Violation,
    form::{Encode, Form},
    reader::Reader,
    sink::Sink,
};

/// AUTH [MQTT 5, 3.15].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Auth {
    /// Success, Continue authentication or Re-authenticate.
    pub reason: ReasonCode,
    /// Authentication Method.
    pub authentication_method: Option<ByteString>,
    /// Authentication Data.
    pub authentication_data: Option<Secret>,
    /// Reason string and user properties.
    pub properties: Option<Box<ReasonProperties>>,
}

impl Auth {
    pub(crate) fn read(reader: &mut Reader) -> Result<Self, Violation> {
        let mut auth = Self {
            reason: ReasonCode::Success,
            authentication_method: None,
            authentication_data: None,
            properties: None,
        };
        if reader.left() == 0 {
            // The short form says Success, which only a server says [MQTT 5, 3.15.2.1].
            return if reader.rules.role == Role::Client { Ok(auth) } else { Err(reader.wrong_reason(0)) };
        }
        auth.reason = reader.reason()?;
        if reader.left() > 0 {
            auth.read_properties(reader)?;
        }
        reader.finish()?;
        if auth.authentication_method.is_none() {
            return Err(Violation::AuthenticationMethodMissing(PacketType::Auth));
        }
        Ok(auth)
    }

    fn read_properties(&mut self, reader: &mut Reader) -> Result<(), Violation> {
        let mut all = reader.properties()?;
        while let Some(property) = all.next()? {
            match property {
                Property::AuthenticationMethod => self.authentication_method = Some(all.reader.string()?),
                Property::AuthenticationData => self.authentication_data = Some(all.reader.secret()?),
                _ if ReasonProperties::read(&mut self.properties, property, &mut all)? => {}
                _ => return Err(all.is_not_allowed(property)),
            }
        }
        Ok(())
    }
}

struct AuthSection<'a>(&'a Auth);

impl Encode for AuthSection<'_> {
    fn write<S: Sink>(&self, form: Form, out: &mut S) -> Result<(), EncodeError> {
        let auth = self.0;
        write_string(Property::AuthenticationMethod, auth.authentication_method.as_deref(), out)?;
        write_binary(Property::AuthenticationData, auth.authentication_data.as_ref().map(Secret::expose), out)?;
        auth.properties.write(form, out)
    }
}

impl Encode for Auth {
    fn write<S: Sink>(&self, form: Form, out: &mut S) -> Result<(), EncodeError> {
        if !form.version.is_v5() {
            return Err(EncodeError::NotInVersion { packet: PacketType::Auth, version: form.version });
        }
        write_reason_and_section(self.reason, &AuthSection(self), form, out)
    }
}
