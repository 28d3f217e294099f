//! A JWT as text: three parts, and who signed it.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use nkeys::KeyPairType;
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};

use super::keys;
use super::known_keys::KnownKeys;
use crate::signature;

/// Longest JWT that is looked at; nats-server's limit too. A user's is far below it, since MQTT has 65,535 bytes for a
/// password.
pub const JWT_LEN_MAX: usize = 1024 * 1024;

/// Characters of a header that is decoded: there are two short fields in it.
const HEADER_LEN_MAX: usize = 1024;

/// Characters of a signature of 64 bytes, in base64.
const SIGNATURE_LEN: usize = 86;

/// Why a text is no JWT of the kind that it should be. It says nothing of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum JwtError {
    /// More than [`JWT_LEN_MAX`].
    #[error("larger than a JWT can be")]
    TooLong,
    /// Not three parts in base64url.
    #[error("not a JWT")]
    Malformed,
    /// The header is not that of a JWT signed with an NKey.
    #[error("not signed with an NKey")]
    Algorithm,
    /// The claims are not what they should be, some are there twice, or in another case.
    #[error("its claims cannot be read")]
    Claims,
    /// Version 1, or one that does not exist yet.
    #[error("not version 2")]
    Version,
    /// A JWT of something else.
    #[error("a JWT of another kind")]
    Kind,
    /// The issuer is not a key that can sign this kind, or the subject is none of it.
    #[error("its issuer or subject is not a key of the right kind")]
    Key,
    /// Somebody else signed it, it was changed, or its issuer is no point on the curve.
    #[error("its signature does not match")]
    Signature,
}

#[derive(Deserialize)]
struct Header<'a> {
    #[serde(borrow)]
    typ: Cow<'a, str>,
    #[serde(borrow)]
    alg: Cow<'a, str>,
}

/// What every JWT has. Times are seconds since 1970, 0 for none.
#[derive(Debug, Deserialize)]
pub(super) struct Claims<N> {
    #[serde(default)]
    pub(super) iss: String,
    #[serde(default)]
    pub(super) sub: String,
    #[serde(default)]
    pub(super) name: String,
    #[serde(default)]
    pub(super) iat: i64,
    #[serde(default)]
    pub(super) exp: i64,
    #[serde(default)]
    pub(super) nbf: i64,
    pub(super) nats: N,
}

/// What is looked at before the claims are read as one kind or another.
#[derive(Deserialize)]
struct Identity<'a> {
    /// Version 1 had it here.
    #[serde(rename = "type")]
    old_kind: Option<IgnoredAny>,
    #[serde(borrow)]
    nats: IdentityNats<'a>,
}

#[derive(Deserialize)]
struct IdentityNats<'a> {
    #[serde(borrow, rename = "type")]
    kind: Option<Cow<'a, str>>,
    #[serde(default)]
    version: i64,
}

/// A JWT that can be read, whose issuer may not have signed it.
#[derive(Debug)]
pub(super) struct Unverified<N> {
    claims: Claims<N>,
    signature: signature::Unverified,
}

impl<N: DeserializeOwned> Unverified<N> {
    /// Reads a JWT of a kind (`user`). Whether that may be its issuer is asked later.
    pub(super) fn read(text: &str, kind: &str, issuer: KeyPairType) -> Result<Self, JwtError> {
        Self::read_if(text, issuer, |json| check_kind(json, kind))
    }

    fn read_if(
        text: &str,
        issuer: KeyPairType,
        check: impl FnOnce(&[u8]) -> Result<(), JwtError>,
    ) -> Result<Self, JwtError> {
        if text.len() > JWT_LEN_MAX {
            return Err(JwtError::TooLong);
        }
        let text = text.trim_end_matches(['\r', '\n']);
        let parts: Vec<&str> = text.splitn(4, '.').collect();
        let [header, claims, signature] = parts[..] else { return Err(JwtError::Malformed) };
        if header.len() > HEADER_LEN_MAX || signature.len() != SIGNATURE_LEN {
            return Err(JwtError::Malformed);
        }
        let part = |text: &str| URL_SAFE_NO_PAD.decode(text).map_err(|_| JwtError::Malformed);
        check_header(&part(header)?)?;
        let signed = &text.as_bytes()[..text.len() - SIGNATURE_LEN - 1];
        let (json, signature) = (part(claims)?, part(signature)?);
        let signature = signature.try_into().map_err(|_| JwtError::Malformed)?;
        serde_json::from_slice::<KnownKeys>(&json).map_err(|_| JwtError::Claims)?;
        check(&json)?;
        let claims: Claims<N> = serde_json::from_slice(&json).map_err(|_| JwtError::Claims)?;
        let key = keys::bytes(&claims.iss, issuer).ok_or(JwtError::Key)?;
        Ok(Self { claims, signature: signature::Unverified::new(key, signed, signature) })
    }
}

impl<N> Unverified<N> {
    /// The claims, if the issuer has signed them.
    pub(super) fn verified(self) -> Result<Claims<N>, JwtError> {
        self.signature.is_right().then_some(self.claims).ok_or(JwtError::Signature)
    }

    /// The same of each of several, which costs less than one by one.
    pub(super) fn all_verified(all: Vec<Self>) -> Vec<Result<Claims<N>, JwtError>> {
        let are_right = all.len() > 1 && signature::Unverified::are_right(all.iter().map(|jwt| jwt.signature.clone()));
        all.into_iter().map(|jwt| if are_right { Ok(jwt.claims) } else { jwt.verified() }).collect()
    }
}

/// Reads a JWT of a kind, and verifies that its issuer signed it.
pub(super) fn decode<N: DeserializeOwned>(text: &str, kind: &str, issuer: KeyPairType) -> Result<Claims<N>, JwtError> {
    Unverified::read(text, kind, issuer)?.verified()
}

/// Reads a JWT that an operator signed, of no kind that has a name.
pub(super) fn decode_generic<N: DeserializeOwned>(text: &str) -> Result<Claims<N>, JwtError> {
    Unverified::read_if(text, KeyPairType::Operator, |_| Ok(()))?.verified()
}

/// The subject of a JWT, which nothing has verified.
pub(super) fn claimed_subject(text: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Subject {
        sub: String,
    }
    let claims = text.split('.').nth(1).filter(|_| text.len() <= JWT_LEN_MAX)?;
    let json = URL_SAFE_NO_PAD.decode(claims).ok()?;
    serde_json::from_slice::<Subject>(&json).ok().map(|subject| subject.sub)
}

/// Both names of the algorithm are in use, in any case.
fn check_header(json: &[u8]) -> Result<(), JwtError> {
    let header: Header<'_> = serde_json::from_slice(json).map_err(|_| JwtError::Algorithm)?;
    let algorithms = ["ed25519-nkey", "ed25519"];
    let is_known = header.typ.eq_ignore_ascii_case("JWT")
        && algorithms.iter().any(|algorithm| header.alg.eq_ignore_ascii_case(algorithm));
    is_known.then_some(()).ok_or(JwtError::Algorithm)
}

fn check_kind(json: &[u8], kind: &str) -> Result<(), JwtError> {
    let identity: Identity<'_> = serde_json::from_slice(json).map_err(|_| JwtError::Claims)?;
    if identity.old_kind.is_some() {
        return Err(JwtError::Version);
    }
    if identity.nats.kind.as_deref() != Some(kind) {
        return Err(JwtError::Kind);
    }
    if identity.nats.version != 2 {
        return Err(JwtError::Version);
    }
    Ok(())
}
