//! Who a client is. An authenticator makes a principal of what a client says about itself and of where it comes from, asks it for
//! more, or refuses it. It knows no account and opens none: that comes when the client is known.

use std::future::{Future, ready};
use std::pin::Pin;

use mqtt_codec::ReasonCode;
use mqtt_session::{Credentials, Verdict};

use crate::listener::Peer;

/// Who a connection is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Principal;

/// A verdict that is being reached.
pub(crate) type Judging<'a> = Pin<Box<dyn Future<Output = Verdict<Principal>> + Send + 'a>>;

/// Knows who clients are.
pub(crate) trait Authenticator: Send + Sync {
    /// Judges what a client says about itself. What it refuses is final. Dropped when the client is gone, or when it takes
    /// too long.
    fn judge<'a>(&'a self, credentials: Credentials<'a>, peer: &'a Peer) -> Judging<'a>;
}

/// Takes everybody, whatever name and password they give, for one and the same. None of the methods of MQTT 5 is offered
/// [MQTT-4.12.0-1].
#[derive(Debug)]
pub(crate) struct Anyone;

impl Authenticator for Anyone {
    fn judge<'a>(&'a self, credentials: Credentials<'a>, _peer: &'a Peer) -> Judging<'a> {
        let verdict = match credentials.connect.properties.authentication_method {
            None => Verdict::Accepted(Principal, None),
            Some(_) => Verdict::Refused(ReasonCode::BadAuthenticationMethod),
        };
        Box::pin(ready(verdict))
    }
}
