//! What credentials look like, before anybody judges them. Nothing here is verified, and nothing is believed.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use mqtt_codec::Connect;
use serde::Deserialize;

/// Characters of a JWT's header that are decoded.
const HEADER_LEN_MAX: usize = 4 * 1024;

/// What a JWT says of itself.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct JwtShape {
    /// Its algorithm.
    pub(super) algorithm: String,
    /// Its issuer.
    pub(super) issuer: String,
}

impl JwtShape {
    /// Of a text that looks like a JWT. MQTT has 65,535 bytes for it.
    pub(super) fn of(text: &[u8]) -> Option<Self> {
        #[derive(Deserialize)]
        struct Header {
            alg: String,
        }
        #[derive(Deserialize)]
        struct Claims {
            #[serde(default)]
            iss: String,
        }
        let mut parts = text.split(|byte| *byte == b'.');
        let (Some(header), Some(claims), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return None;
        };
        if header.len() > HEADER_LEN_MAX {
            return None;
        }
        let Header { alg } = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(header).ok()?).ok()?;
        let Claims { iss } = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()?;
        Some(Self { algorithm: alg, issuer: iss })
    }

    /// Whether an NKey has signed it: it is one of NATS.
    pub(super) fn is_of_nats(&self) -> bool {
        ["ed25519-nkey", "ed25519"].iter().any(|algorithm| self.algorithm.eq_ignore_ascii_case(algorithm))
    }
}

/// Whether a CONNECT says anything about who it is.
pub(super) fn has_credentials(connect: &Connect) -> bool {
    connect.username.as_ref().is_some_and(|name| !name.is_empty())
        || connect.password.as_ref().is_some_and(|password| !password.is_empty())
        || connect.properties.authentication_method.is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(header: &str, claims: &str) -> Vec<u8> {
        [URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims), "c2ln".to_owned()].join(".").into_bytes()
    }

    #[test]
    fn what_looks_like_a_jwt() {
        let of = |header: &str, claims: &str| JwtShape::of(&text(header, claims)).map(|shape| shape.issuer);
        assert_eq!(of(r#"{"alg":"RS256"}"#, r#"{"iss":"https://id"}"#).as_deref(), Some("https://id"));
        assert_eq!(of(r#"{"alg":"RS256"}"#, "{}").as_deref(), Some(""));
        for (header, claims) in [("{}", "{}"), (r#"{"alg":"RS256"}"#, "1"), (r#"{"alg":"x"}"#, r#"{"iss":1}"#)] {
            assert_eq!(of(header, claims), None, "{header} {claims}");
        }
        for text in [&b""[..], b"hunter2", b"a.b.c", b"...", b"\xff.\xff.\xff"] {
            assert_eq!(JwtShape::of(text), None, "{text:?}");
        }
        let long = format!("{{\"alg\":\"{}\"}}", "x".repeat(HEADER_LEN_MAX));
        assert_eq!(of(&long, "{}"), None);
        let is_of_nats =
            |algorithm: &str| JwtShape::of(&text(&format!("{{\"alg\":\"{algorithm}\"}}"), "{}")).unwrap().is_of_nats();
        assert!(is_of_nats("ed25519-nkey") && is_of_nats("Ed25519") && !is_of_nats("EdDSA") && !is_of_nats("none"));
    }
}
