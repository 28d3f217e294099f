//! The JWT of a user, and whether it lets somebody in.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use nkeys::KeyPairType;

use super::account::Account;
use super::checks::{self, Validity};
use super::claims::{Grants, UserNats};
use super::encoded::{Claims, JwtError, Unverified};
use super::keys;
use super::operator::Operators;
use super::refusal::Refusal;
use crate::limit::Limit;
use crate::network::Network;
use crate::permissions::Permissions;
use crate::principal::{AccountId, Limits, Mode, Origin, Principal, User, is_in_networks};
use crate::signature::is_signed;
use crate::tags::DeviceRules;
use crate::template::ScopeValues;
use crate::time::UnixTime;
use crate::window::{TimeWindows, WindowVerdict};

/// What kind of listener a connection has come to, by the names that JWTs have for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Listener {
    /// `MQTT`
    Mqtt,
    /// `MQTT_WS`, over WebSocket.
    MqttWs,
}

/// What shows that who presents a JWT has its key. A bearer JWT needs nothing.
#[derive(Clone, Copy, Debug)]
pub enum Proof<'a> {
    /// Nothing.
    None,
    /// A signature by the user's key.
    Signature {
        /// What had to be signed.
        signed: &'a [u8],
        /// The 64 bytes of the signature.
        signature: &'a [u8],
    },
    /// It was shown before on this connection, which is judged again.
    Earlier,
}

/// How and when a JWT is presented.
#[derive(Clone, Copy, Debug)]
pub struct Circumstances<'a> {
    /// The time.
    pub now: UnixTime,
    /// The listener.
    pub listener: Listener,
    /// The address of the peer, also behind a proxy that says it.
    pub peer: Option<IpAddr>,
    /// Whether the connection came through a proxy that we trust.
    pub has_trusted_proxy: bool,
    /// What was signed.
    pub proof: Proof<'a>,
}

/// What a user JWT itself says, see [`UserJwt::own_limits`].
#[derive(Clone, Debug)]
pub struct OwnLimits {
    /// Where from; without any, from anywhere.
    pub networks: Vec<Network>,
    /// When.
    pub windows: TimeWindows,
    /// All tags.
    pub tags: Vec<String>,
    /// What those of ours say.
    pub rules: DeviceRules,
    /// Until when; `None`: without an end.
    pub expires: Option<UnixTime>,
}

/// A user JWT that can be read. Whether its issuer has signed it is for [`UnverifiedUserJwt::verified`].
#[derive(Debug)]
pub struct UnverifiedUserJwt(Unverified<UserNats>);

impl UnverifiedUserJwt {
    /// Reads a user JWT.
    ///
    /// # Errors
    /// [`Refusal::Jwt`]
    pub fn read(text: &str) -> Result<Self, Refusal> {
        Ok(Self(Unverified::read(text, "user", KeyPairType::Account)?))
    }

    /// The JWT, if its issuer has signed it.
    ///
    /// # Errors
    /// [`Refusal::Jwt`]
    pub fn verified(self) -> Result<UserJwt, Refusal> {
        UserJwt::new(self.0.verified())
    }

    /// The same of each of several, in their order. Of several users of one account each costs half of what one by itself
    /// does, or less, unless one of them is wrong (ADR 28).
    pub fn all_verified(all: Vec<Self>) -> Vec<Result<UserJwt, Refusal>> {
        let all = Unverified::all_verified(all.into_iter().map(|Self(jwt)| jwt).collect());
        all.into_iter().map(UserJwt::new).collect()
    }
}

/// A user JWT that its issuer has signed. It is kept as long as its connection, so that it can be judged again when
/// its account changes; the text is not.
#[derive(Debug)]
pub struct UserJwt {
    claims: Claims<UserNats>,
}

impl UserJwt {
    /// Reads a user JWT: its issuer has signed it, it counts at this time, and its claims can be understood. Whether the issuer
    /// may sign it is for [`UserJwt::judge`].
    ///
    /// # Errors
    /// [`Refusal::Jwt`], and those of [`UserJwt::check_claims`].
    pub fn decode(text: &str, circumstances: &Circumstances<'_>) -> Result<Self, Refusal> {
        let user = UnverifiedUserJwt::read(text)?.verified()?;
        user.check_claims(circumstances)?;
        Ok(user)
    }

    fn new(claims: Result<Claims<UserNats>, JwtError>) -> Result<Self, Refusal> {
        let claims = claims?;
        if !keys::is_user(&claims.sub) {
            return Err(Refusal::Jwt(JwtError::Key));
        }
        Ok(Self { claims })
    }

    /// Whether the claims are fine by themselves: they count at this time, and can be understood.
    ///
    /// # Errors
    /// [`Refusal::ProxyRequired`], [`Refusal::Expired`], [`Refusal::NotYetValid`], [`Refusal::Claims`],
    /// [`Refusal::IssuerAccount`].
    pub fn check_claims(&self, circumstances: &Circumstances<'_>) -> Result<(), Refusal> {
        let claims = &self.claims;
        check_proxy(&claims.nats.grants, circumstances)?;
        match checks::validity(claims.exp, claims.nbf, circumstances.now) {
            Validity::Valid => {}
            Validity::Expired => return Err(Refusal::Expired),
            Validity::NotYet => return Err(Refusal::NotYetValid),
        }
        if !checks::are_grants_valid(&claims.nats.grants) {
            return Err(Refusal::Claims);
        }
        let account = &claims.nats.issuer_account;
        if !account.is_empty() && !keys::is_account(account) {
            return Err(Refusal::IssuerAccount);
        }
        Ok(())
    }

    /// The key of the account that the user says it belongs to. Nothing has confirmed it yet.
    #[must_use]
    pub fn account_id(&self) -> &str {
        match self.claims.nats.issuer_account.as_str() {
            "" => &self.claims.iss,
            account => account,
        }
    }

    /// The user's public key.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.claims.sub
    }

    /// The user's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.claims.name
    }

    /// Whether the account is one of those that may connect, where only some may (`resolver_pinned_accounts`).
    ///
    /// # Errors
    /// [`Refusal::AccountNotPinned`]
    pub fn check_pinned(&self, pinned: &BTreeSet<String>) -> Result<(), Refusal> {
        pinned.contains(self.account_id()).then_some(()).ok_or(Refusal::AccountNotPinned)
    }

    /// Whether the user gets in, and as what, with the account that [`UserJwt::account_id`] names. The steps are nats-server's,
    /// in its order. It can be asked again at any time, with what the account is by then.
    ///
    /// # Errors
    /// The first step that refuses it.
    pub fn judge(
        &self,
        account: &Account,
        operators: &Operators,
        circumstances: &Circumstances<'_>,
    ) -> Result<Principal, Refusal> {
        self.check_claims(circumstances)?;
        if account.id() != self.account_id() {
            return Err(Refusal::AccountMismatch);
        }
        if !operators.trusts(account.issuer()) {
            return Err(Refusal::AccountUntrusted);
        }
        let grants = self.granted(account, operators)?;
        check_proxy(&grants, circumstances)?;
        if account.expires().is_some_and(|expires| expires <= circumstances.now) {
            return Err(Refusal::AccountExpired);
        }
        if account.leaves_to_callout(self.id()) {
            return Err(Refusal::AuthCallout);
        }
        if grants.bearer_token && account.disallows_bearer {
            return Err(Refusal::BearerDisallowed);
        }
        check_connection_type(&grants, circumstances.listener)?;
        if !grants.bearer_token {
            self.check_proof(circumstances.proof)?;
        }
        if account.is_revoked(self.id(), UnixTime::from_secs(self.claims.iat)) {
            return Err(Refusal::Revoked);
        }
        self.principal(account, &grants, circumstances)
    }

    /// What the user has: its own, or what the scope of its issuer gives it.
    fn granted(&self, account: &Account, operators: &Operators) -> Result<Grants, Refusal> {
        let own = &self.claims.nats.grants;
        let Some(scope) = account.scope_of(&self.claims.iss, operators).ok_or(Refusal::Issuer)? else {
            return Ok(own.clone());
        };
        if !own.is_empty() {
            return Err(Refusal::ScopedUserNotEmpty);
        }
        let values = ScopeValues {
            name: self.name(),
            subject: self.id(),
            account_name: account.name(),
            account_subject: &self.claims.nats.issuer_account,
            tags: self.tags(),
            account_tags: &account.tags,
        };
        let lists = values.expand(&scope.template.permissions()).map_err(|_| Refusal::ScopeTemplate)?;
        let mut grants = scope.template.clone();
        grants.set_permissions(lists);
        // What a template leaves out is not limited; what a user of its own leaves out is 0.
        grants.subs.get_or_insert(-1);
        grants.payload.get_or_insert(-1);
        Ok(grants)
    }

    fn check_proof(&self, proof: Proof<'_>) -> Result<(), Refusal> {
        match proof {
            Proof::None => Err(Refusal::SignatureMissing),
            Proof::Earlier => Ok(()),
            Proof::Signature { signed, signature } => {
                let key = keys::key(self.id(), KeyPairType::User);
                let verified = key.is_some_and(|key| is_signed(&key, signed, signature));
                verified.then_some(()).ok_or(Refusal::SignatureWrong)
            }
        }
    }

    /// The last steps: where from, when, and what it may do.
    fn principal(
        &self,
        account: &Account,
        grants: &Grants,
        circumstances: &Circumstances<'_>,
    ) -> Result<Principal, Refusal> {
        let (networks, windows) = admitted(grants, circumstances)?;
        let own = grants.permissions();
        let lists = if own.is_empty() { account.default_permissions.clone() } else { own };
        let permissions = Permissions::new(lists).map_err(|_| Refusal::Permissions)?;
        let rules = DeviceRules::new(self.tags()).map_err(|_| Refusal::Tags)?;
        let claims = &self.claims;
        let of_account = account.limits();
        let limit = |own: Option<i64>, of_account: Limit| Limit::of_claim(own.unwrap_or(0)).min(of_account);
        Ok(Principal {
            account: AccountId::new(account.id()),
            account_name: account.name().to_owned(),
            user: User {
                name: claims.name.clone(),
                key: Some(claims.sub.clone()),
                issuer: Some(claims.iss.clone()),
                issued_at: Some(UnixTime::from_secs(claims.iat)),
            },
            permissions: Arc::new(permissions),
            limits: Limits {
                subscriptions: limit(grants.subs, of_account.subscriptions),
                payload: limit(grants.payload, of_account.payload),
                connections: of_account.connections,
            },
            tags: self.tags().to_vec(),
            rules,
            expires: self.expires(),
            account_expires: account.expires(),
            windows,
            networks,
            evidence: None,
            origin: Origin {
                // One of a scope says nothing of its own.
                has_own_permissions: !self.claims.nats.grants.permissions().is_empty(),
                ..Origin::of(Mode::Jwt)
            },
        })
    }

    /// What the JWT itself says of connections, addresses, hours and tags, for a user whom nats-server has accepted without
    /// seeing where it comes from. What the scope of a signing key says stands in the account, and is not in it.
    ///
    /// # Errors
    /// [`Refusal::ConnectionType`], [`Refusal::SourceAddress`], [`Refusal::TimeWindow`], [`Refusal::Tags`].
    pub fn own_limits(&self, circumstances: &Circumstances<'_>) -> Result<OwnLimits, Refusal> {
        let grants = &self.claims.nats.grants;
        check_connection_type(grants, circumstances.listener)?;
        let (networks, windows) = admitted(grants, circumstances)?;
        let rules = DeviceRules::new(self.tags()).map_err(|_| Refusal::Tags)?;
        Ok(OwnLimits { networks, windows, tags: self.tags().to_vec(), rules, expires: self.expires() })
    }

    /// Until when it counts; `None`: without an end.
    #[must_use]
    pub fn expires(&self) -> Option<UnixTime> {
        (self.claims.exp > 0).then(|| UnixTime::from_secs(self.claims.exp))
    }

    /// Whether it may connect as clients of NATS do, and not only as those of MQTT or WebSocket.
    #[must_use]
    pub fn may_connect_to_nats(&self) -> bool {
        let named = self.claims.nats.grants.allowed_connection_types.as_deref().unwrap_or_default();
        named.is_empty() || named.iter().any(|name| name.eq_ignore_ascii_case("STANDARD"))
    }

    fn tags(&self) -> &[String] {
        self.claims.nats.tags.as_deref().unwrap_or_default()
    }
}

fn check_proxy(grants: &Grants, circumstances: &Circumstances<'_>) -> Result<(), Refusal> {
    (!grants.proxy_required || circumstances.has_trusted_proxy).then_some(()).ok_or(Refusal::ProxyRequired)
}

/// Where from and when it may connect, if here and now is among that.
fn admitted(grants: &Grants, circumstances: &Circumstances<'_>) -> Result<(Vec<Network>, TimeWindows), Refusal> {
    let networks = checks::networks(grants).ok_or(Refusal::SourceAddress)?;
    if !is_in_networks(&networks, circumstances.peer) {
        return Err(Refusal::SourceAddress);
    }
    let windows = checks::windows(grants).ok_or(Refusal::TimeWindow)?;
    if windows.verdict(circumstances.now) == WindowVerdict::Outside {
        return Err(Refusal::TimeWindow);
    }
    Ok((networks, windows))
}

/// Without any type every one is fine. Types that nobody knows are no types, but where only such are named none is fine.
fn check_connection_type(grants: &Grants, listener: Listener) -> Result<(), Refusal> {
    let named = grants.allowed_connection_types.as_deref().unwrap_or_default();
    let wanted = match listener {
        Listener::Mqtt => "MQTT",
        Listener::MqttWs => "MQTT_WS",
    };
    let is_allowed = named.is_empty() || named.iter().any(|name| name.eq_ignore_ascii_case(wanted));
    is_allowed.then_some(()).ok_or(Refusal::ConnectionType)
}
