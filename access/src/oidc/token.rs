//! A JWT of an identity provider as text, and its claims.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::algorithm::Algorithm;
use crate::time::UnixTime;

/// Characters of a token; MQTT has no room for more.
const TOKEN_LEN_MAX: usize = 65_535;

/// How far clocks may be apart where a token is not valid yet.
const SKEW_MS: i64 = 60_000;

/// Why a token lets nobody in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum OidcRefusal {
    /// Not a signed JWT, or one with an algorithm or an extension that is not known.
    #[error("not a JWT that can be verified")]
    Malformed,
    /// Somebody else has issued it.
    #[error("another issuer")]
    Issuer,
    /// It is for somebody else.
    #[error("another audience")]
    Audience,
    /// It has expired, or says nothing about that.
    #[error("expired")]
    Expired,
    /// It is not valid yet.
    #[error("not valid yet")]
    NotYetValid,
}

/// What a token has to say.
#[derive(Clone, Debug)]
pub struct Expected {
    /// `iss`.
    pub issuer: String,
    /// `aud`, or one of it.
    pub audience: String,
}

/// A token that can be read. Whether it counts is for [`super::KeySet::verify`] and [`OidcToken::check`], both of them.
#[derive(Debug)]
pub struct OidcToken<'a> {
    pub(super) signed: &'a [u8],
    pub(super) signature: Vec<u8>,
    pub(super) algorithm: Algorithm,
    pub(super) key_id: Option<String>,
    claims: Map<String, Value>,
}

/// What of a header is read. What it says of where a key may be found (`jku`, `x5u`, `jwk`) is not.
#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    /// Extensions that have to be understood; none is.
    crit: Option<Value>,
}

impl<'a> OidcToken<'a> {
    /// Reads a token.
    ///
    /// # Errors
    /// [`OidcRefusal::Malformed`]
    pub fn read(text: &'a [u8]) -> Result<Self, OidcRefusal> {
        Self::parts(text).ok_or(OidcRefusal::Malformed)
    }

    fn parts(text: &'a [u8]) -> Option<Self> {
        if text.len() > TOKEN_LEN_MAX {
            return None;
        }
        let parts: Vec<&[u8]> = text.splitn(4, |byte| *byte == b'.').collect();
        let [header, claims, signature] = parts[..] else { return None };
        let signed = text.get(..header.len() + 1 + claims.len())?;
        let decode = |part: &[u8]| URL_SAFE_NO_PAD.decode(part).ok();
        let header: Header = serde_json::from_slice(&decode(header)?).ok()?;
        if header.crit.is_some() {
            return None;
        }
        Some(Self {
            signed,
            signature: decode(signature)?,
            algorithm: Algorithm::of(&header.alg)?,
            key_id: header.kid,
            claims: serde_json::from_slice(&decode(claims)?).ok()?,
        })
    }

    /// Whether its claims are right at a time, and until when.
    ///
    /// # Errors
    /// See [`OidcRefusal`].
    pub fn check(&self, expected: &Expected, now: UnixTime) -> Result<UnixTime, OidcRefusal> {
        if self.claims.get("iss").and_then(Value::as_str) != Some(&*expected.issuer) {
            return Err(OidcRefusal::Issuer);
        }
        let is_for_us = |audience: &Value| audience.as_str() == Some(&*expected.audience);
        let is_audience = match self.claims.get("aud") {
            Some(Value::Array(several)) => several.iter().any(is_for_us),
            Some(one) => is_for_us(one),
            None => false,
        };
        if !is_audience {
            return Err(OidcRefusal::Audience);
        }
        let expires = self.claims.get("exp").and_then(time).ok_or(OidcRefusal::Expired)?;
        if expires <= now {
            return Err(OidcRefusal::Expired);
        }
        if let Some(begins) = self.claims.get("nbf") {
            let begins = time(begins).ok_or(OidcRefusal::NotYetValid)?;
            if begins.as_millis() > now.as_millis().saturating_add(SKEW_MS) {
                return Err(OidcRefusal::NotYetValid);
            }
        }
        Ok(expires)
    }

    /// A claim: the one of this name, or else what a path with dots leads to.
    #[must_use]
    pub fn claim(&self, path: &str) -> Option<&Value> {
        fn within<'v>(claims: &'v Map<String, Value>, path: &str) -> Option<&'v Value> {
            if let Some(value) = claims.get(path) {
                return Some(value);
            }
            let (first, rest) = path.split_once('.')?;
            within(claims.get(first)?.as_object()?, rest)
        }
        within(&self.claims, path)
    }
}

/// Seconds since 1970, which may have a fraction.
fn time(value: &Value) -> Option<UnixTime> {
    if let Some(seconds) = value.as_i64() {
        return Some(UnixTime::from_secs(seconds));
    }
    let seconds = value.as_f64()?;
    // What no clock can say is the end of time.
    #[expect(clippy::cast_possible_truncation, reason = "it saturates")]
    Some(UnixTime::from_millis((seconds * 1000.0) as i64))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixTime = UnixTime::from_secs(1_000_000);

    fn token(header: &str, claims: &str) -> String {
        [URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims), "c2ln".to_owned()].join(".")
    }

    fn check(claims: &str) -> Result<i64, OidcRefusal> {
        let text = token(r#"{"alg":"RS256"}"#, claims);
        let expected = Expected { issuer: "https://id".to_owned(), audience: "mqtt".to_owned() };
        OidcToken::read(text.as_bytes())?.check(&expected, NOW).map(UnixTime::as_secs)
    }

    #[test]
    fn issuer_audience_and_expiry_are_needed() {
        use OidcRefusal::{Audience, Expired, Issuer, NotYetValid};
        for (claims, expected) in [
            (r#"{"iss":"https://id","aud":"mqtt","exp":1000001}"#, Ok(1_000_001)),
            (r#"{"iss":"https://id","aud":["a","mqtt"],"exp":1000001.5}"#, Ok(1_000_001)),
            (r#"{"iss":"https://id","aud":"mqtt","exp":1000001,"nbf":1000060}"#, Ok(1_000_001)),
            (r#"{"iss":"https://id/","aud":"mqtt","exp":1000001}"#, Err(Issuer)),
            (r#"{"aud":"mqtt","exp":1000001}"#, Err(Issuer)),
            (r#"{"iss":["https://id"],"aud":"mqtt","exp":1000001}"#, Err(Issuer)),
            (r#"{"iss":"https://id","exp":1000001}"#, Err(Audience)),
            (r#"{"iss":"https://id","aud":"mqtt2","exp":1000001}"#, Err(Audience)),
            (r#"{"iss":"https://id","aud":[],"exp":1000001}"#, Err(Audience)),
            (r#"{"iss":"https://id","aud":{"mqtt":1},"exp":1000001}"#, Err(Audience)),
            (r#"{"iss":"https://id","aud":"mqtt"}"#, Err(Expired)),
            (r#"{"iss":"https://id","aud":"mqtt","exp":1000000}"#, Err(Expired)),
            (r#"{"iss":"https://id","aud":"mqtt","exp":"1000001"}"#, Err(Expired)),
            (r#"{"iss":"https://id","aud":"mqtt","exp":-1}"#, Err(Expired)),
            (r#"{"iss":"https://id","aud":"mqtt","exp":1000001,"nbf":1000061}"#, Err(NotYetValid)),
            (r#"{"iss":"https://id","aud":"mqtt","exp":1000001,"nbf":"x"}"#, Err(NotYetValid)),
        ] {
            assert_eq!(check(claims), expected, "{claims}");
        }
    }

    #[test]
    fn what_cannot_be_verified_is_none() {
        for (header, claims) in [
            (r#"{"alg":"none"}"#, "{}"),
            (r#"{"alg":"RS256","crit":["exp"],"exp":1}"#, "{}"),
            (r#"{"alg":"rs256"}"#, "{}"),
            (r#"{"alg":"ES512"}"#, "{}"),
            ("{}", "{}"),
            (r#"{"alg":"RS256"}"#, "[]"),
        ] {
            assert_eq!(
                OidcToken::read(token(header, claims).as_bytes()).err(),
                Some(OidcRefusal::Malformed),
                "{header}"
            );
        }
        let right = token(r#"{"alg":"RS256"}"#, "{}");
        assert!(OidcToken::read(right.as_bytes()).is_ok());
        for text in [format!("{right}.x"), format!(".{right}"), right.replace('.', ""), format!("{right}=")] {
            assert!(OidcToken::read(text.as_bytes()).is_err(), "{text}");
        }
        assert!(OidcToken::read(&vec![b'.'; TOKEN_LEN_MAX + 1]).is_err());
    }

    #[test]
    fn claims_have_names_and_paths() {
        let text = token(r#"{"alg":"RS256"}"#, r#"{"a":{"b":{"c":1},"b.c":2},"x.y":3,"x":{"y":4}}"#);
        let token = OidcToken::read(text.as_bytes()).unwrap();
        let claim = |path: &str| token.claim(path).and_then(Value::as_i64);
        assert_eq!(
            (claim("a.b.c"), claim("x.y"), claim("a.b"), claim("a.c"), claim("")),
            (Some(2), Some(3), None, None, None)
        );
    }
}
