//! What credentials look like, before anybody judges them. Nothing here is verified, and nothing is believed.
//!
//! **Invariant:** what nats-server takes for a JWT of its own looks like one here. Go's base64 takes ends of lines anywhere and any
//! spare bits, and its JSON names in any case and more than once.

use std::fmt;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::general_purpose::{GeneralPurpose, NO_PAD};
use mqtt_codec::Connect;
use serde::Deserializer as _;
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde_json::Value;

/// As Go reads it, but for ends of lines.
const BASE64: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, NO_PAD.with_decode_allow_trailing_bits(true));

/// Characters of a JWT's header that are decoded.
const HEADER_LEN_MAX: usize = 4 * 1024;

/// What a JWT says of itself.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct JwtShape {
    /// Its algorithms, which should be one.
    algorithms: Vec<String>,
    /// Its issuer.
    pub(super) issuer: String,
}

impl JwtShape {
    /// Of a text that looks like a JWT. MQTT has 65,535 bytes for it.
    pub(super) fn of(text: &[u8]) -> Option<Self> {
        let mut parts = text.split(|byte| *byte == b'.');
        let (Some(header), Some(claims), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return None;
        };
        if header.len() > HEADER_LEN_MAX {
            return None;
        }
        let algorithms = said(header)?.algorithms;
        let issuer = match said(claims)?.issuer {
            None => String::new(),
            Some(Value::String(issuer)) => issuer,
            Some(_) => return None,
        };
        (!algorithms.is_empty()).then_some(Self { algorithms, issuer })
    }

    /// Whether an NKey has signed it: it is one of NATS. `Ed25519` alone others write as well, whose issuer is no NKey; which a device
    /// cannot change, since the issuer is what is signed.
    pub(super) fn is_of_nats(&self) -> bool {
        let has = |of_nats: &str| self.algorithms.iter().any(|algorithm| algorithm.eq_ignore_ascii_case(of_nats));
        has("ed25519-nkey") || has("ed25519") && nkeys::from_public_key(&self.issuer).is_ok()
    }
}

/// What a part says that is looked at here.
#[derive(Default)]
struct Said {
    algorithms: Vec<String>,
    issuer: Option<Value>,
}

struct SaidVisitor;

impl<'de> Visitor<'de> for SaidVisitor {
    type Value = Said;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Said, A::Error> {
        let mut said = Said::default();
        while let Some(name) = map.next_key::<String>()? {
            if name.eq_ignore_ascii_case("alg") {
                if let Value::String(algorithm) = map.next_value()? {
                    said.algorithms.push(algorithm);
                }
            } else if name == "iss" {
                said.issuer = Some(map.next_value()?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(said)
    }
}

fn said(part: &[u8]) -> Option<Said> {
    let text: Vec<u8> = part.iter().copied().filter(|byte| !matches!(byte, b'\r' | b'\n')).collect();
    let json = BASE64.decode(text).ok()?;
    serde_json::Deserializer::from_slice(&json).deserialize_map(SaidVisitor).ok()
}

/// Whether a CONNECT says anything about who it is.
pub(super) fn has_credentials(connect: &Connect) -> bool {
    connect.username.as_ref().is_some_and(|name| !name.is_empty())
        || connect.password.as_ref().is_some_and(|password| !password.is_empty())
        || connect.properties.authentication_method.is_some()
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;

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
        let is_of_nats = |algorithm: &str, claims: &str| {
            JwtShape::of(&text(&format!("{{\"alg\":\"{algorithm}\"}}"), claims)).unwrap().is_of_nats()
        };
        let by_nkey = by_nkey();
        for (algorithm, claims, expected) in [
            ("ed25519-nkey", "{}", true),
            ("Ed25519", &*by_nkey, true),
            ("Ed25519", r#"{"iss":"https://id"}"#, false),
            ("EdDSA", &*by_nkey, false),
            ("none", &*by_nkey, false),
        ] {
            assert_eq!(is_of_nats(algorithm, claims), expected, "{algorithm} {claims}");
        }
    }

    fn by_nkey() -> String {
        format!("{{\"iss\":\"b\",\"iss\":\"{}\"}}", nkeys::KeyPair::new_account().public_key())
    }

    #[test]
    fn a_jwt_of_nats_looks_like_one_however_it_is_written() {
        let is_of_nats = |text: &[u8]| JwtShape::of(text).is_some_and(|shape| shape.is_of_nats());
        for header in [r#"{"Alg":"ed25519"}"#, r#"{"alg":"RS256","ALG":"ed25519"}"#, r#"{"alg":"ed25519","alg":"x"}"#] {
            assert!(is_of_nats(&text(header, &by_nkey())), "{header}");
        }
        let written = String::from_utf8(text(r#"{"alg":"ed25519"}"#, &by_nkey())).unwrap();
        let (header, rest) = written.split_once('.').unwrap();
        for line_end in ["\n", "\r\n"] {
            let (front, back) = header.split_at(7);
            assert!(is_of_nats(format!("{front}{line_end}{back}.{rest}{line_end}").as_bytes()));
        }
        // Two bytes are behind the last whole three, and have two bits to spare.
        let (front, last) = header.split_at(header.len() - 1);
        assert_eq!((header.len() % 4, last), (3, "0"));
        assert!(is_of_nats(format!("{front}1.{rest}").as_bytes()));
    }
}
