//! Keys that sign, and whether one of them has signed.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use ring::signature::{self, RsaPublicKeyComponents, UnparsedPublicKey};
use serde::Deserialize;
use serde_json::Value;

use super::algorithm::Algorithm;
use super::der::{self, PublicKey};
use super::token::OidcToken;
use crate::secret::Secret;

/// Keys of one set that are looked at; what is beyond is left out.
const KEYS_MAX: usize = 64;

/// Bytes that a shared secret needs, as many as the hash has.
const SECRET_LEN_MIN: usize = 32;

/// Why keys cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not a key set.
    #[error("not a JSON Web Key Set")]
    NotASet,
    /// None of the keys can sign.
    #[error("there is no key in it that signs: RSA, P-256, P-384 or Ed25519")]
    NoKey,
    /// Not a public key.
    #[error("not one public key in PEM: RSA, P-256, P-384 or Ed25519")]
    NotAKey,
    /// The secret can be guessed.
    #[error("a secret has 32 bytes or more")]
    ShortSecret,
}

enum Material {
    Public(PublicKey),
    Secret(Secret),
}

struct Key {
    id: Option<String>,
    /// The only one that it may be used with, where the set says so.
    algorithm: Option<Algorithm>,
    material: Material,
}

/// Whether a key has signed a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signed {
    /// One of them has.
    Yes,
    /// The key that it names has not.
    No,
    /// There is no such key, or it names none and none has signed it: others may be known by now.
    UnknownKey,
}

/// The keys of an identity provider.
pub struct KeySet(Vec<Key>);

impl fmt::Debug for KeySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|key| &key.id)).finish()
    }
}

/// A key of a set, as RFC 7517 has it.
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    #[serde(rename = "use")]
    purpose: Option<String>,
    key_ops: Option<Vec<String>>,
    alg: Option<String>,
    kid: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

impl KeySet {
    /// The public keys of a JSON Web Key Set. Keys for something else, and shared secrets, are left out.
    ///
    /// # Errors
    /// It is none, or nothing is left.
    pub fn from_jwks(json: &[u8]) -> Result<Self, KeyError> {
        #[derive(Deserialize)]
        struct Set {
            keys: Vec<Value>,
        }
        let Set { keys } = serde_json::from_slice(json).map_err(|_| KeyError::NotASet)?;
        let keys = keys.into_iter().take(KEYS_MAX).filter_map(|key| Key::of(serde_json::from_value(key).ok()?));
        let keys: Vec<Key> = keys.collect();
        if keys.is_empty() { Err(KeyError::NoKey) } else { Ok(Self(keys)) }
    }

    /// The one public key of a PEM file.
    ///
    /// # Errors
    /// It is none.
    pub fn from_pem(text: &str) -> Result<Self, KeyError> {
        let key = der::public_key(text).ok_or(KeyError::NotAKey)?;
        Ok(Self(vec![Key { id: None, algorithm: None, material: Material::Public(key) }]))
    }

    /// A secret that is shared with the identity provider, for HS256, HS384 and HS512.
    ///
    /// # Errors
    /// It is shorter than 32 bytes.
    pub fn from_secret(secret: Secret) -> Result<Self, KeyError> {
        if secret.expose().len() < SECRET_LEN_MIN {
            return Err(KeyError::ShortSecret);
        }
        Ok(Self(vec![Key { id: None, algorithm: None, material: Material::Secret(secret) }]))
    }

    /// Whether one of them has signed a token. A key without an id is every key.
    #[must_use]
    pub fn verify(&self, token: &OidcToken<'_>) -> Signed {
        let (algorithm, id) = (token.algorithm, token.key_id.as_deref());
        let is_named = |key: &Key| id.is_some() && key.id.as_deref() == id;
        let mut candidates = self.0.iter().filter(|key| is_named(key) || id.is_none() || key.id.is_none());
        if candidates.any(|key| key.has_signed(algorithm, token.signed, &token.signature)) {
            Signed::Yes
        } else if self.0.iter().any(is_named) {
            Signed::No
        } else {
            Signed::UnknownKey
        }
    }
}

impl Key {
    fn of(jwk: Jwk) -> Option<Self> {
        let signs = jwk.purpose.as_deref().is_none_or(|purpose| purpose == "sig")
            && jwk.key_ops.as_ref().is_none_or(|ops| ops.iter().any(|op| op == "verify"));
        signs.then_some(())?;
        let algorithm = match jwk.alg.as_deref() {
            Some(name) => Some(Algorithm::of(name)?),
            None => None,
        };
        let number = |text: &Option<String>| URL_SAFE_NO_PAD.decode(text.as_deref()?).ok();
        let point = |length: usize| {
            let (x, y) = (number(&jwk.x)?, number(&jwk.y)?);
            (x.len() == length && y.len() == length).then(|| [&[4][..], &x, &y].concat())
        };
        let key = match (jwk.kty.as_str(), jwk.crv.as_deref()) {
            ("RSA", None) => PublicKey::Rsa {
                modulus: der::unsigned(&number(&jwk.n)?).to_vec(),
                exponent: der::unsigned(&number(&jwk.e)?).to_vec(),
            },
            ("EC", Some("P-256")) => PublicKey::P256(point(32)?),
            ("EC", Some("P-384")) => PublicKey::P384(point(48)?),
            ("OKP", Some("Ed25519")) => PublicKey::Ed25519(number(&jwk.x)?),
            _ => return None,
        };
        Some(Self { id: jwk.kid, algorithm, material: Material::Public(key) })
    }

    fn has_signed(&self, algorithm: Algorithm, signed: &[u8], signed_with: &[u8]) -> bool {
        use Algorithm::{EdDsa, Es256, Es384, Hs256, Hs384, Hs512, Ps256, Ps384, Ps512, Rs256, Rs384, Rs512};
        if self.algorithm.is_some_and(|only| only != algorithm) {
            return false;
        }
        let by = |verifier: &'static dyn signature::VerificationAlgorithm, key: &[u8]| {
            UnparsedPublicKey::new(verifier, key).verify(signed, signed_with).is_ok()
        };
        match (&self.material, algorithm) {
            (Material::Public(PublicKey::Rsa { modulus, exponent }), _) => {
                let verifier = match algorithm {
                    Rs256 => &signature::RSA_PKCS1_2048_8192_SHA256,
                    Rs384 => &signature::RSA_PKCS1_2048_8192_SHA384,
                    Rs512 => &signature::RSA_PKCS1_2048_8192_SHA512,
                    Ps256 => &signature::RSA_PSS_2048_8192_SHA256,
                    Ps384 => &signature::RSA_PSS_2048_8192_SHA384,
                    Ps512 => &signature::RSA_PSS_2048_8192_SHA512,
                    _ => return false,
                };
                let key = RsaPublicKeyComponents { n: modulus, e: exponent };
                key.verify(verifier, signed, signed_with).is_ok()
            }
            (Material::Public(PublicKey::P256(point)), Es256) => by(&signature::ECDSA_P256_SHA256_FIXED, point),
            (Material::Public(PublicKey::P384(point)), Es384) => by(&signature::ECDSA_P384_SHA384_FIXED, point),
            (Material::Public(PublicKey::Ed25519(key)), EdDsa) => by(&signature::ED25519, key),
            (Material::Secret(secret), Hs256 | Hs384 | Hs512) => {
                let hash = match algorithm {
                    Hs256 => hmac::HMAC_SHA256,
                    Hs384 => hmac::HMAC_SHA384,
                    _ => hmac::HMAC_SHA512,
                };
                hmac::verify(&hmac::Key::new(hash, secret.expose()), signed, signed_with).is_ok()
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests;
