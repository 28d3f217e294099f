//! What credentials look like, before anybody judges them.

use mqtt_codec::Connect;

/// Whether a CONNECT says anything about who it is.
pub(super) fn has_credentials(connect: &Connect) -> bool {
    connect.username.as_ref().is_some_and(|name| !name.is_empty())
        || connect.password.as_ref().is_some_and(|password| !password.is_empty())
        || connect.properties.authentication_method.is_some()
}
