//! Who a connection is: the same whatever has proven it.

use std::any::Any;
use std::net::IpAddr;
use std::sync::Arc;

use serde::Deserialize;

use crate::certificate::CertificateId;
use crate::limit::Limit;
use crate::network::Network;
use crate::permissions::Permissions;
use crate::tags::DeviceRules;
use crate::time::UnixTime;
use crate::window::{TimeWindows, WindowVerdict};

/// Limits of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Subscriptions.
    pub subscriptions: Limit,
    /// Bytes of one message.
    pub payload: Limit,
    /// Connections of the whole account.
    pub connections: Limit,
}

impl Limits {
    /// None at all.
    pub const UNLIMITED: Self =
        Self { subscriptions: Limit::Unlimited, payload: Limit::Unlimited, connections: Limit::Unlimited };
}

/// The account of a principal: a tenant.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AccountId(Arc<str>);

impl AccountId {
    /// The public NKey of an account, or its name where nats-server's configuration has accounts.
    #[must_use]
    pub fn new(id: &str) -> Self {
        Self(id.into())
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is nobody's: then it is the account of our own NATS user.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// How it is found out who somebody is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Not at all: everybody is let in, into the account of our own NATS connection, with its permissions.
    #[default]
    None,
    /// By users with passwords, of our configuration.
    File,
    /// nats-server is asked.
    Nats,
    /// By JWTs of NATS, which are verified here.
    Jwt,
    /// By JWTs of an identity provider.
    Oidc,
}

impl Mode {
    /// Its name in the configuration.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::File => "file",
            Self::Nats => "nats",
            Self::Jwt => "jwt",
            Self::Oidc => "oidc",
        }
    }

    /// The one with this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        [Self::None, Self::File, Self::Nats, Self::Jwt, Self::Oidc].into_iter().find(|mode| mode.as_str() == name)
    }

    /// Whether it always proves an account; the others may leave it to the listener.
    #[must_use]
    pub const fn proves_account(self) -> bool {
        matches!(self, Self::Nats | Self::Jwt)
    }
}

/// What a mode knows its principals by. All copies of a principal hold it, so whoever gave it sees whether there are any.
#[derive(Debug, PartialEq, Eq)]
pub struct Ticket(pub u128);

/// Who has made a principal, and will judge it again.
#[derive(Clone, Debug, Default)]
pub struct Origin {
    /// The mode.
    pub mode: Mode,
    /// The account is what the listener gives to those that bring none.
    pub has_account_of_listener: bool,
    /// Its permissions are those of its own JWT, and not of its account or of the key that signed it.
    pub has_own_permissions: bool,
    /// What the mode knows it by, where it needs that.
    pub ticket: Option<Arc<Ticket>>,
    /// The certificates that it came with, where they may be revoked while it is connected.
    pub certificates: Option<Arc<[CertificateId]>>,
}

impl Origin {
    /// Of a mode, without anything else.
    #[must_use]
    pub const fn of(mode: Mode) -> Self {
        Self { mode, has_account_of_listener: false, has_own_permissions: false, ticket: None, certificates: None }
    }
}

/// The user of a principal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    /// Its name; empty where it has none.
    pub name: String,
    /// Its public NKey.
    pub key: Option<String>,
    /// The key that signed it.
    pub issuer: Option<String>,
    /// When that was; of a user with a password, when it came or got this password.
    pub issued_at: Option<UnixTime>,
}

impl User {
    /// What its sessions belong to: the name, of a user without one the NKey.
    #[must_use]
    pub fn owner(&self) -> &str {
        match &self.key {
            Some(key) if self.name.is_empty() => key,
            _ => &self.name,
        }
    }
}

/// Why a connection ends at a time that is known beforehand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Ending {
    /// The user expires.
    UserExpires,
    /// The account expires.
    AccountExpires,
    /// The window ends in which the user may be connected.
    WindowEnds,
}

/// Who a connection is.
#[derive(Clone, Debug)]
pub struct Principal {
    /// The tenant.
    pub account: AccountId,
    /// The tenant's name, for people.
    pub account_name: String,
    /// The user.
    pub user: User,
    /// What it may publish and subscribe to.
    pub permissions: Arc<Permissions>,
    /// Limits.
    pub limits: Limits,
    /// All tags of the user.
    pub tags: Vec<String>,
    /// What those of ours say.
    pub rules: DeviceRules,
    /// When the user expires.
    pub expires: Option<UnixTime>,
    /// When the account does.
    pub account_expires: Option<UnixTime>,
    /// When the user may be connected.
    pub windows: TimeWindows,
    /// Where from; without any, from anywhere.
    pub networks: Vec<Network>,
    /// What whoever has judged it keeps to judge it again.
    pub evidence: Option<Arc<dyn Any + Send + Sync>>,
    /// Who has made it.
    pub origin: Origin,
}

impl Principal {
    /// One without a name that may do everything, for ever and from anywhere.
    #[must_use]
    pub fn all() -> Self {
        Self {
            account: AccountId::new(""),
            account_name: String::new(),
            user: User::default(),
            permissions: Arc::new(Permissions::all()),
            limits: Limits::UNLIMITED,
            tags: Vec::new(),
            rules: DeviceRules::default(),
            expires: None,
            account_expires: None,
            windows: TimeWindows::default(),
            networks: Vec::new(),
            evidence: None,
            origin: Origin::default(),
        }
    }

    /// Whether it has brought an account: by name, or because its mode proves that it is the one of our own NATS user.
    #[must_use]
    pub fn brings_account(&self) -> bool {
        !self.origin.has_account_of_listener && (self.origin.mode.proves_account() || !self.account.is_empty())
    }

    /// The account that it has brought, and not got from its listener.
    #[must_use]
    pub fn brought_account(&self) -> &str {
        if self.origin.has_account_of_listener { "" } else { self.account.as_str() }
    }

    /// When the connection has to end, and why, by what is known now; at a time outside its windows, now.
    #[must_use]
    pub fn ends(&self, now: UnixTime) -> Option<(UnixTime, Ending)> {
        let window = match self.windows.verdict(now) {
            WindowVerdict::Always => None,
            WindowVerdict::Until(end) => Some(end),
            WindowVerdict::Outside => Some(now),
        };
        let endings = [
            self.expires.map(|at| (at, Ending::UserExpires)),
            self.account_expires.map(|at| (at, Ending::AccountExpires)),
            window.map(|at| (at, Ending::WindowEnds)),
        ];
        endings.into_iter().flatten().min()
    }

    /// Whether it may come from an address. One that is not known is from nowhere.
    #[must_use]
    pub fn is_source_allowed(&self, address: Option<IpAddr>) -> bool {
        is_in_networks(&self.networks, address)
    }

    /// Whether it may have a client id, by its tags.
    #[must_use]
    pub fn is_client_id_allowed(&self, client_id: &str) -> bool {
        self.rules.is_client_id_allowed(client_id, &self.user.name)
    }
}

/// Whether an address is in one of the networks; without any, every address is, and one that is not known too.
pub(crate) fn is_in_networks(networks: &[Network], address: Option<IpAddr>) -> bool {
    networks.is_empty() || address.is_some_and(|address| networks.iter().any(|network| network.contains(address)))
}

#[cfg(test)]
mod tests {
    use super::User;

    #[test]
    fn a_session_belongs_to_the_name_or_else_the_key() {
        let user =
            |name: &str, key: Option<&str>| User { name: name.into(), key: key.map(Into::into), ..User::default() };
        assert_eq!(user("lamp", Some("UA")).owner(), "lamp");
        assert_eq!(user("", Some("UA")).owner(), "UA");
        assert_eq!(user("", None).owner(), "");
    }
}
