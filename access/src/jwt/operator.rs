//! Operators: whose accounts are ours.

use nkeys::KeyPairType;

use super::claims::OperatorNats;
use super::encoded::{self, JwtError};
use super::keys;
use crate::time::UnixTime;

/// An operator, as its JWT says. It is what we trust, so it signs itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operator {
    id: String,
    name: String,
    issued_at: i64,
    signing_keys: Vec<String>,
    is_strict: bool,
    system_account: Option<String>,
}

impl Operator {
    /// Reads the JWT of an operator that we are told to trust. That it has expired does not matter, as to nats-server.
    ///
    /// # Errors
    /// It is not one, or one of its keys is not a key.
    pub fn decode(text: &str) -> Result<Self, JwtError> {
        let claims = encoded::decode::<OperatorNats>(text, "operator", KeyPairType::Operator)?;
        let signing_keys = claims.nats.signing_keys.unwrap_or_default();
        let is_own = claims.iss == claims.sub || signing_keys.contains(&claims.iss);
        let system_account = Some(claims.nats.system_account).filter(|account| !account.is_empty());
        if !is_own
            || !keys::is_operator(&claims.sub)
            || !signing_keys.iter().all(|key| keys::is_operator(key))
            || !system_account.iter().all(|account| keys::is_account(account))
        {
            return Err(JwtError::Key);
        }
        let is_strict = claims.nats.strict_signing_key_usage;
        Ok(Self { id: claims.sub, name: claims.name, issued_at: claims.iat, signing_keys, is_strict, system_account })
    }

    /// Its public key.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// When its JWT was issued.
    #[must_use]
    pub const fn issued_at(&self) -> UnixTime {
        UnixTime::from_secs(self.issued_at)
    }

    /// The system account, if it names one.
    #[must_use]
    pub fn system_account(&self) -> Option<&str> {
        self.system_account.as_deref()
    }

    /// Whether identity keys sign nothing: only signing keys do, the operator's accounts, and theirs users.
    #[must_use]
    pub const fn is_strict(&self) -> bool {
        self.is_strict
    }

    /// Whether what this key signed is the operator's.
    #[must_use]
    pub fn trusts(&self, issuer: &str) -> bool {
        (!self.is_strict && self.id == issuer) || self.signing_keys.iter().any(|key| key == issuer)
    }
}

/// All operators that we trust: several, or one as our file and as nats-server has it, when one of the two is behind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Operators(Vec<Operator>);

impl Operators {
    /// What either trusts is trusted.
    #[must_use]
    pub const fn new(operators: Vec<Operator>) -> Self {
        Self(operators)
    }

    /// Each of them.
    #[must_use]
    pub fn all(&self) -> &[Operator] {
        &self.0
    }

    /// Whether one of them trusts what this key signed.
    #[must_use]
    pub fn trusts(&self, issuer: &str) -> bool {
        self.0.iter().any(|operator| operator.trusts(issuer))
    }

    /// Whether the users of an account that this key signed need a signing key.
    pub(super) fn is_strict(&self, issuer: &str) -> bool {
        self.0.iter().any(|operator| operator.is_strict && operator.signing_keys.iter().any(|key| key == issuer))
    }
}
