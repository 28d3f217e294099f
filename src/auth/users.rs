//! The users of mode `file`, compiled: who has a name, and what a client becomes that has proven to be this one.

use std::sync::Arc;

use foldhash::HashMap;
use mqtt_access::password::{PasswordHash, verify_unknown_user};
use mqtt_access::{
    AccountId, Certificate, CertificateIdentity, DeviceRules, Mode, Origin, Permissions, Secret, UnixTime, User,
};

use super::Principal;
use crate::config::{PermissionsConfig, UserConfig};
use crate::metrics::AuthStep;

/// All users, as they are at one time.
#[derive(Debug, Default)]
pub(super) struct Users {
    by_name: HashMap<Box<str>, Arc<KnownUser>>,
    by_key: HashMap<Box<str>, Arc<KnownUser>>,
    by_certificate: HashMap<CertificateIdentity, Arc<KnownUser>>,
    /// A hash of the kind that most have: whoever is unknown costs as much.
    usual_hash: Option<PasswordHash>,
}

/// A user.
#[derive(Debug)]
pub(super) struct KnownUser {
    config: UserConfig,
    rules: DeviceRules,
    /// When it came, or got its password, key or certificate: who was accepted with another one is accepted no more. `None`: at
    /// the start.
    since: Option<UnixTime>,
    /// Who it is with any client id, where that changes nothing.
    principal: Option<Arc<Principal>>,
}

impl Users {
    /// These users; with `anonymous` also whoever has no name. Those who are not in `before`, or had another password or key there, are
    /// so since `now`.
    pub(super) fn new<'a>(
        users: impl Iterator<Item = &'a UserConfig>,
        anonymous: bool,
        before: Option<(&Self, UnixTime)>,
    ) -> Self {
        let (mut by_name, mut by_certificate) = (HashMap::default(), HashMap::default());
        for user in users {
            let since = before.and_then(|(before, now)| match before.get(&user.name) {
                Some(same) if same.has_secrets_of(user) => same.since,
                _ => Some(now),
            });
            let known = Arc::new(KnownUser::new(user, since));
            if let Some(identity) = &user.certificate {
                by_certificate.insert(identity.clone(), Arc::clone(&known));
            }
            by_name.insert(user.name.clone().into_boxed_str(), known);
        }
        if anonymous {
            by_name.entry(Box::default()).or_insert_with(|| Arc::new(KnownUser::new(&nobody(), None)));
        } else {
            by_name.remove("");
        }
        let of_key = |user: &Arc<KnownUser>| Some((user.config.nkey.clone()?.into_boxed_str(), Arc::clone(user)));
        let by_key = by_name.values().filter_map(of_key).collect();
        let usual_hash = usual(by_name.values().filter_map(|user| user.config.password.as_ref()));
        Self { by_name, by_key, by_certificate, usual_hash }
    }

    /// Whether anybody has a name.
    pub(super) fn has_names(&self) -> bool {
        self.by_name.keys().any(|name| !name.is_empty())
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.by_name.len()
    }

    /// The user of a name; of none, whoever has none.
    pub(super) fn get(&self, name: &str) -> Option<&Arc<KnownUser>> {
        self.by_name.get(name)
    }

    /// The user that has a public NKey.
    pub(super) fn of_key(&self, key: &str) -> Option<&Arc<KnownUser>> {
        self.by_key.get(key)
    }

    /// Whether any user has one.
    pub(super) fn has_keys(&self) -> bool {
        !self.by_key.is_empty()
    }

    /// The user of the first identity of a certificate that is anybody's.
    pub(super) fn of_certificate(&self, certificate: &Certificate) -> Option<&Arc<KnownUser>> {
        certificate.identities().iter().find_map(|identity| self.by_certificate.get(identity))
    }

    /// Whether a password is that of a user. It takes time on purpose, as long for who is unknown.
    pub(super) fn verify(&self, name: &str, password: &Secret) -> bool {
        match self.get(name).and_then(|user| user.config.password.as_ref()) {
            Some(hash) => hash.verify(password),
            None => verify_unknown_user(password, self.usual_hash.as_ref()),
        }
    }

    /// Tags that begin as ours do and are none, each with its user.
    pub(super) fn unknown_tags(&self) -> impl Iterator<Item = (&str, &str)> {
        self.by_name.values().flat_map(|user| user.rules.unknown.iter().map(|tag| (&*user.config.name, &**tag)))
    }
}

impl KnownUser {
    fn new(user: &UserConfig, since: Option<UnixTime>) -> Self {
        // What cannot be read was refused with the configuration.
        let rules = DeviceRules::new(&user.tags).unwrap_or_default();
        let mut known = Self { config: user.clone(), rules, since, principal: None };
        known.principal = known.principal_for("").ok();
        known
    }

    pub(super) fn name(&self) -> &str {
        &self.config.name
    }

    /// The identity of its certificate.
    pub(super) fn certificate(&self) -> Option<&CertificateIdentity> {
        self.config.certificate.as_ref()
    }

    /// Whether it proves to be this user by the same as before.
    fn has_secrets_of(&self, user: &UserConfig) -> bool {
        let own = (&self.config.password, &self.config.nkey, &self.config.certificate);
        own == (&user.password, &user.nkey, &user.certificate)
    }

    /// Who a client is that is this user.
    pub(super) fn admit(&self, client_id: &str) -> Result<Arc<Principal>, AuthStep> {
        if !self.rules.is_client_id_allowed(client_id, &self.config.name) {
            return Err(AuthStep::ClientId);
        }
        self.principal.clone().map_or_else(|| self.principal_for(client_id), Ok)
    }

    /// Whether it is the user that a principal was made of, whatever it may do by now.
    pub(super) fn is_user_of(&self, principal: &Principal) -> bool {
        let User { name, issued_at, .. } = &principal.user;
        self.config.name == *name && self.since == *issued_at && self.config.account == principal.brought_account()
    }

    /// Whether it is of the account that somebody has brought.
    pub(super) fn is_in(&self, account: &str) -> bool {
        self.config.account == account
    }

    fn principal_for(&self, client_id: &str) -> Result<Arc<Principal>, AuthStep> {
        let lists = self.config.permissions_for(client_id).map_err(|_| AuthStep::Template)?;
        let permissions = Permissions::new(lists).map_err(|_| AuthStep::Template)?;
        Ok(Arc::new(Principal {
            account: AccountId::new(&self.config.account),
            account_name: self.config.account.clone(),
            user: User {
                name: self.config.name.clone(),
                key: self.config.nkey.clone(),
                issued_at: self.since,
                ..User::default()
            },
            permissions: Arc::new(permissions),
            tags: self.config.tags.clone(),
            rules: self.rules.clone(),
            origin: Origin::of(Mode::File),
            ..Principal::all()
        }))
    }
}

/// Whoever has no name, where nothing is said about it: it may do everything.
fn nobody() -> UserConfig {
    UserConfig {
        name: String::new(),
        account: String::new(),
        password: None,
        nkey: None,
        certificate: None,
        permissions: PermissionsConfig::default(),
        tags: Vec::new(),
    }
}

/// One of the hashes that are of the most frequent kind.
fn usual<'a>(hashes: impl Iterator<Item = &'a PasswordHash>) -> Option<PasswordHash> {
    let mut kinds: HashMap<&str, (usize, &PasswordHash)> = HashMap::default();
    for hash in hashes {
        kinds.entry(hash.kind()).or_insert((0, hash)).0 += 1;
    }
    kinds.into_values().max_by_key(|(count, _)| *count).map(|(_, hash)| hash.clone())
}

#[cfg(test)]
mod tests;
