//! The method `NATS-NKEY` of MQTT 5's enhanced authentication: a client shows that it has the seed of a user's NKey, by a signature
//! of what it was sent. Whose key it has to be, CONNECT says.
//!
//! ```text
//! CONNECT  data: what names the key (mode jwt: the user JWT; mode file: the public key)
//! AUTH     0x18, a nonce
//! AUTH     0x18, the signature of `mqtt-nkey-v1`, 0, the client id as CONNECT has it, 0, and the nonce
//! CONNACK
//! ```
//!
//! The text before the nonce is there so that nobody has a device sign the nonce of a nats-server.

use bytes::Bytes;
use mqtt_codec::Secret;
use mqtt_session::{Credentials, Verdict};

/// Name of the method.
pub(crate) const METHOD: &str = "NATS-NKEY";

/// Begins what is signed.
const CONTEXT: &[u8] = b"mqtt-nkey-v1";

/// Bytes of a nonce.
const NONCE_LEN: usize = 32;

/// How far the exchange of a client is.
pub(super) enum Stage<'a> {
    /// It has named its key, and is to be asked.
    Begun,
    /// It has answered.
    Answered {
        /// What it had to sign.
        signed: Vec<u8>,
        /// The signature.
        signature: &'a [u8],
    },
}

/// How far an exchange is.
pub(super) fn stage<'a>(credentials: &Credentials<'a>) -> Stage<'a> {
    let Some(nonce) = credentials.challenge else { return Stage::Begun };
    let signature = credentials.data.map(Secret::expose).unwrap_or_default();
    Stage::Answered { signed: signed(&credentials.connect.client_id, nonce), signature }
}

/// What CONNECT, or the AUTH that begins, names the key by.
pub(super) fn named<'a>(credentials: &Credentials<'a>) -> Option<&'a str> {
    let data = credentials.connect.properties.authentication_data.as_ref()?;
    std::str::from_utf8(data.expose()).ok()
}

/// What a client has to sign, which nobody else is sent.
fn signed(client_id: &str, nonce: &[u8]) -> Vec<u8> {
    [CONTEXT, &[0], client_id.as_bytes(), &[0], nonce].concat()
}

/// Asks for a signature.
pub(super) fn challenge<P>() -> Verdict<P> {
    Verdict::Challenge(Bytes::copy_from_slice(&rand::random::<[u8; NONCE_LEN]>()))
}
