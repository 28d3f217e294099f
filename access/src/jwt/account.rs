//! Account JWTs: which of them count, and which replaces which.

use std::collections::{BTreeMap, BTreeSet};

use nkeys::KeyPairType;
use ring::digest;

use super::checks::{self, Validity};
use super::claims::{AccountNats, DeletionNats, LimitsNats, Scope, SigningKey};
use super::encoded::{self, JwtError};
use super::keys;
use super::operator::Operators;
use crate::limit::Limit;
use crate::lists::PermissionLists;
use crate::time::UnixTime;

/// Why an account JWT does not count. It leaves the one that we have in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum AccountRefusal {
    /// It is no account JWT.
    #[error("account JWT: {0}")]
    Jwt(JwtError),
    /// It is that of another account than was asked for.
    #[error("the JWT is that of another account")]
    OtherAccount,
    /// No operator of ours signed it. A resolver stores such JWTs all the same, and hands them out.
    #[error("not signed by a trusted operator")]
    Foreign,
    /// It has expired.
    #[error("it has expired")]
    Expired,
    /// It does not count yet.
    #[error("it is not valid yet")]
    NotYetValid,
    /// Permissions, keys or limits that cannot be understood.
    #[error("its permissions, keys or limits cannot be understood")]
    Claims,
    /// It was issued before the one that we have, or had before a restart.
    #[error("older than the one that is known")]
    Older,
}

/// What is remembered of an account JWT beyond a restart, so that an older one never takes its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownAccount {
    /// When it was issued.
    pub issued_at: UnixTime,
    /// SHA-256 of its text.
    pub digest: [u8; 32],
}

impl KnownAccount {
    /// Whether it is of the JWT with this text.
    #[must_use]
    pub fn is_of(&self, text: &str) -> bool {
        self.digest == digest_of(text)
    }
}

/// Limits of an account that concern its devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AccountLimits {
    /// Connections at the same time.
    pub connections: Limit,
    /// Subscriptions of one connection.
    pub subscriptions: Limit,
    /// Bytes of one message.
    pub payload: Limit,
    /// Whether it has any JetStream storage.
    pub has_jetstream: bool,
}

/// An account, by a JWT that an operator of ours signed.
#[derive(Clone, Debug)]
pub struct Account {
    id: String,
    name: String,
    issuer: String,
    issued_at: i64,
    expires: i64,
    digest: [u8; 32],
    limits: AccountLimits,
    pub(super) disallows_bearer: bool,
    signing_keys: BTreeMap<String, Option<Scope>>,
    revocations: BTreeMap<String, i64>,
    pub(super) default_permissions: PermissionLists,
    auth_users: BTreeSet<String>,
    pub(super) tags: Vec<String>,
}

impl Account {
    /// Reads an account JWT, and sees that it counts.
    ///
    /// # Errors
    /// See [`AccountRefusal`].
    pub fn verify(text: &str, operators: &Operators, now: UnixTime) -> Result<Self, AccountRefusal> {
        let account = Self::signed(text, operators, now)?;
        if account.has_expired(now) { Err(AccountRefusal::Expired) } else { Ok(account) }
    }

    /// The same of one that may have expired.
    fn signed(text: &str, operators: &Operators, now: UnixTime) -> Result<Self, AccountRefusal> {
        // An account can sign itself, but nobody trusts that.
        let claims =
            encoded::decode::<AccountNats>(text, "account", KeyPairType::Operator).map_err(|error| match error {
                JwtError::Key => AccountRefusal::Foreign,
                other => AccountRefusal::Jwt(other),
            })?;
        if !operators.trusts(&claims.iss) {
            return Err(AccountRefusal::Foreign);
        }
        if checks::validity(0, claims.nbf, now) == Validity::NotYet {
            return Err(AccountRefusal::NotYetValid);
        }
        if !keys::is_account(&claims.sub) || !are_claims_valid(&claims.nats) {
            return Err(AccountRefusal::Claims);
        }
        let nats = claims.nats;
        let signing_keys = nats.signing_keys.unwrap_or_default().into_iter().map(|key| match key {
            SigningKey::Plain(key) => (key, None),
            SigningKey::Scoped(scope) => (scope.key.clone(), Some(scope)),
        });
        Ok(Self {
            id: claims.sub,
            name: claims.name,
            issuer: claims.iss,
            issued_at: claims.iat,
            expires: claims.exp,
            digest: digest_of(text),
            limits: AccountLimits::of(&nats.limits),
            disallows_bearer: nats.limits.disallow_bearer,
            signing_keys: signing_keys.collect(),
            revocations: nats.revocations.unwrap_or_default(),
            default_permissions: nats.default_permissions,
            auth_users: nats.authorization.auth_users.unwrap_or_default().into_iter().collect(),
            tags: nats.tags.unwrap_or_default(),
        })
    }

    /// The same for a JWT that comes for an account which is known already: `known` is what is remembered of the JWT that
    /// counted last. One of the same second takes its place. One that is newer does so too when it has expired since: it has
    /// counted meanwhile, and the one before it does not again.
    ///
    /// # Errors
    /// See [`AccountRefusal`].
    pub fn verify_update(
        text: &str,
        id: &str,
        known: Option<&KnownAccount>,
        operators: &Operators,
        now: UnixTime,
    ) -> Result<Self, AccountRefusal> {
        let account = Self::signed(text, operators, now)?;
        if account.id != id {
            return Err(AccountRefusal::OtherAccount);
        }
        let is_newer = known.is_some_and(|known| account.issued_at() > known.issued_at);
        if account.has_expired(now) && !is_newer {
            return Err(AccountRefusal::Expired);
        }
        if known.is_some_and(|known| account.issued_at() < known.issued_at) {
            return Err(AccountRefusal::Older);
        }
        Ok(account)
    }

    fn has_expired(&self, now: UnixTime) -> bool {
        checks::validity(self.expires, 0, now) == Validity::Expired
    }

    /// Which account a text says that it is the JWT of. Nothing of it is verified.
    #[must_use]
    pub fn claimed_id(text: &str) -> Option<String> {
        encoded::claimed_subject(text).filter(|subject| keys::is_account(subject))
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

    /// The key that signed it.
    #[must_use]
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// When it was issued.
    #[must_use]
    pub const fn issued_at(&self) -> UnixTime {
        UnixTime::from_secs(self.issued_at)
    }

    /// When it ends, with all its connections.
    #[must_use]
    pub fn expires(&self) -> Option<UnixTime> {
        (self.expires > 0).then(|| UnixTime::from_secs(self.expires))
    }

    /// What is to be remembered of it.
    #[must_use]
    pub const fn known(&self) -> KnownAccount {
        KnownAccount { issued_at: self.issued_at(), digest: self.digest }
    }

    /// Its limits.
    #[must_use]
    pub const fn limits(&self) -> AccountLimits {
        self.limits
    }

    /// Whether users that a key signs have what its scope gives them (`Some(true)`), or what they say themselves (`Some(false)`);
    /// `None` where it may not sign users of the account.
    #[must_use]
    pub fn is_scoped(&self, issuer: &str, operators: &Operators) -> Option<bool> {
        self.scope_of(issuer, operators).map(|scope| scope.is_some())
    }

    /// Whether a user that was issued at a time is revoked, by its key or with all others.
    #[must_use]
    pub fn is_revoked(&self, user: &str, issued_at: UnixTime) -> bool {
        let until = |key: &str| self.revocations.get(key).is_some_and(|until| *until >= issued_at.as_secs());
        until(user) || until("*")
    }

    /// The scope of a key that may sign users for the account: `None` where it may not, `Some(None)` where it has no scope. A
    /// strict operator does not let the account's own key sign.
    pub(super) fn scope_of(&self, issuer: &str, operators: &Operators) -> Option<Option<&Scope>> {
        if issuer == self.id && !operators.is_strict(&self.issuer) {
            return Some(None);
        }
        self.signing_keys.get(issuer).map(Option::as_ref)
    }

    /// Whether an auth callout decides about a user, and not its JWT.
    pub(super) fn leaves_to_callout(&self, user: &str) -> bool {
        !self.auth_users.is_empty() && !self.auth_users.contains(user)
    }
}

impl AccountLimits {
    fn of(limits: &LimitsNats) -> Self {
        let has_storage = |memory, disk| memory != 0 || disk != 0;
        Self {
            connections: Limit::of_claim(limits.conn),
            subscriptions: Limit::of_claim(limits.subs),
            payload: Limit::of_claim(limits.payload),
            has_jetstream: match limits.tiered_limits.as_ref().filter(|tiers| !tiers.is_empty()) {
                Some(tiers) => tiers.values().any(|tier| has_storage(tier.mem_storage, tier.disk_storage)),
                None => has_storage(limits.mem_storage, limits.disk_storage),
            },
        }
    }
}

fn are_claims_valid(nats: &AccountNats) -> bool {
    let keys = nats.signing_keys.iter().flatten().map(|key| match key {
        SigningKey::Plain(key) => key,
        SigningKey::Scoped(scope) => &scope.key,
    });
    let users = nats.authorization.auth_users.iter().flatten();
    let has_accounts = nats.authorization.allowed_accounts.as_ref().is_some_and(|accounts| !accounts.is_empty());
    let has_users = users.clone().next().is_some();
    checks::are_permissions_valid(&nats.default_permissions)
        && keys.map(String::as_str).all(keys::is_account)
        && users.map(String::as_str).all(keys::is_user)
        && (has_users || !has_accounts)
}

fn digest_of(text: &str) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest::digest(&digest::SHA256, text.as_bytes()).as_ref());
    bytes
}

/// Accounts that an operator has deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deletion {
    accounts: Vec<String>,
    issued_at: UnixTime,
}

impl Deletion {
    /// Reads what `nsc` sends to delete accounts: a key of an operator of ours signed it, and is its subject.
    ///
    /// # Errors
    /// [`AccountRefusal::Jwt`], [`AccountRefusal::Foreign`] or [`AccountRefusal::Claims`].
    pub fn verify(text: &str, operators: &Operators) -> Result<Self, AccountRefusal> {
        let claims = encoded::decode_generic::<DeletionNats>(text).map_err(AccountRefusal::Jwt)?;
        if claims.iss != claims.sub || !operators.trusts(&claims.iss) {
            return Err(AccountRefusal::Foreign);
        }
        if !claims.nats.accounts.iter().all(|account| keys::is_account(account)) {
            return Err(AccountRefusal::Claims);
        }
        Ok(Self { accounts: claims.nats.accounts, issued_at: UnixTime::from_secs(claims.iat) })
    }

    /// Whether an account is deleted by it. One that was issued later was made again, and the deletion is an old one that
    /// somebody sends a second time.
    #[must_use]
    pub fn deletes(&self, account: &Account) -> bool {
        self.accounts.contains(&account.id) && account.issued_at() <= self.issued_at
    }

    /// The accounts.
    #[must_use]
    pub fn accounts(&self) -> &[String] {
        &self.accounts
    }
}
