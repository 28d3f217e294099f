//! `[auth.oidc]`: an identity provider whose JWTs let devices in, and what they may do then.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mqtt_access::oidc::KeySet;
use mqtt_access::template::{self, RoleValues, Token};
use mqtt_access::{DeviceRules, PermissionLists, Permissions, Secret};
use serde::Deserialize;

use super::{PermissionsConfig, tree};

/// What a template of a role can say.
const OPERATIONS: &str = "{{sub}}, {{claim.NAME}}, {{client_id}}, {{name()}} and {{tag(KEY)}}";

/// Bytes of a file with keys.
const KEYS_SIZE_MAX: u64 = 256 * 1024;

/// What is wrong, and with which key below `auth.oidc`.
type Wrong = (&'static str, String);

/// `[auth.oidc]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct OidcConfig {
    /// What `iss` of a token has to be.
    pub issuer: String,
    /// What `aud` of a token has to be, or one of it.
    pub audience: String,
    /// Where the identity provider has its keys: https, or http on this machine.
    pub jwks_url: Option<String>,
    /// PEM file of the authorities that may have signed the certificate of `jwks_url`; the system's when absent.
    pub ca_file: Option<PathBuf>,
    /// A file with its keys, a JSON Web Key Set.
    pub jwks_file: Option<PathBuf>,
    /// A PEM file with its one public key.
    pub key_file: Option<PathBuf>,
    /// A file with a secret that it shares with us.
    pub secret_file: Option<PathBuf>,
    /// What was in one of these files.
    #[serde(skip)]
    pub keys: Option<Arc<KeySet>>,
    /// Differs when something else was in it.
    #[serde(skip)]
    keys_mark: u64,
    /// `[[auth.oidc.roles]]`: the first one that matches counts.
    pub roles: Vec<OidcRole>,
}

/// One of `[[auth.oidc.roles]]`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct OidcRole {
    /// Claims, and what each has to be or to have in it: this, or one of these.
    #[serde(rename = "match")]
    pub matches: BTreeMap<String, Wanted>,
    /// Account, which may be a template; without one it is the listener's, or that of our own NATS user.
    pub account: String,
    /// What a template of `account` may become.
    pub accounts: Vec<String>,
    /// Name of the user, a template. Default `{{sub}}`.
    pub user: String,
    /// What it may do, in templates. Default: everything.
    pub permissions: PermissionsConfig,
    /// Its tags.
    pub tags: Vec<String>,
}

impl Default for OidcRole {
    fn default() -> Self {
        Self {
            matches: BTreeMap::new(),
            account: String::new(),
            accounts: Vec::new(),
            user: "{{sub}}".to_owned(),
            permissions: PermissionsConfig::default(),
            tags: Vec::new(),
        }
    }
}

/// What a claim has to be.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum Wanted {
    /// This flag.
    Flag(bool),
    /// This number.
    Number(i64),
    /// This text.
    Text(String),
    /// One of these.
    OneOf(Vec<String>),
}

impl OidcRole {
    /// Its permissions, as templates.
    #[must_use]
    pub fn permission_lists(&self) -> PermissionLists {
        self.permissions.lists()
    }

    fn check(&self) -> Result<(), String> {
        if self.matches.is_empty() || self.matches.values().any(|wanted| *wanted == Wanted::OneOf(Vec::new())) {
            return Err("a role without a match is nobody's: write match = { CLAIM = \"VALUE\" }".to_owned());
        }
        let lists = self.permission_lists();
        if [&lists.publish, &lists.subscribe].iter().any(|of| of.allow.as_ref().is_some_and(Vec::is_empty)) {
            let message =
                "an empty allow has no one meaning: leave it out to allow everything, or write deny = [\">\"]";
            return Err(message.to_owned());
        }
        let of_names = [&self.user, &self.account].into_iter().flat_map(|text| template::operations_of(text));
        let mut asked: Vec<&str> = of_names.collect();
        if asked.iter().any(|operation| !matches!(*operation, "sub" | "client_id") && !is_claim(operation)) {
            return Err("user and account are made of {{sub}}, {{claim.NAME}} and {{client_id}}".to_owned());
        }
        asked.clear();
        asked.extend(template::operations(&lists));
        let is_tag = |operation: &str| {
            self.tags.iter().any(|tag| {
                tag.split_once(':')
                    .is_some_and(|(key, value)| operation == format!("tag({key})") && Token::new(value).is_ok())
            })
        };
        let is_known = |operation: &&str| {
            matches!(*operation, "sub" | "client_id" | "client-id()" | "name()")
                || is_claim(operation)
                || is_tag(operation)
        };
        if let Some(unknown) = asked.iter().find(|operation| !is_known(operation)) {
            return Err(format!("there is no {{{{{unknown}}}}}: possible are {OPERATIONS}"));
        }
        if self.user.is_empty() {
            return Err("a user needs a name: write user = \"{{sub}}\"".to_owned());
        }
        if !template::operations_of(&self.account).is_empty() && self.accounts.is_empty() {
            return Err(
                "an account that a token names has to be in a list: write accounts = [\"T1\", \"T2\"]".to_owned()
            );
        }
        self.check_lists(&lists, &asked)?;
        DeviceRules::new(&self.tags).map(|_| ()).map_err(|error| error.to_string())
    }

    /// Looks whether what the templates become is subjects, when each value is one token.
    fn check_lists(&self, lists: &PermissionLists, asked: &[&str]) -> Result<(), String> {
        let any = Token::new("any").map_err(|error| error.to_string())?;
        let values = asked.iter().fold(RoleValues::new(), |values, operation| values.with(*operation, any.clone()));
        let expanded = values.expand(lists).map_err(|error| error.to_string())?;
        let permissions = Permissions::new(expanded).map_err(|error| error.to_string())?;
        match permissions.dropped().first() {
            Some(entry) => Err(format!("{entry:?} is not a subject: write one, as in \"dev.{{{{sub}}}}.>\"")),
            None => Ok(()),
        }
    }
}

fn is_claim(operation: &str) -> bool {
    operation.strip_prefix("claim.").is_some_and(|name| !name.is_empty())
}

impl PartialEq for OidcConfig {
    fn eq(&self, other: &Self) -> bool {
        // Keys cannot be compared, and what they were read from can.
        let parts = |config: &Self| {
            let Self {
                issuer,
                audience,
                jwks_url,
                ca_file,
                jwks_file,
                key_file,
                secret_file,
                keys: _,
                keys_mark,
                roles,
            } = config.clone();
            ((issuer, audience, jwks_url, ca_file), (jwks_file, key_file, secret_file, keys_mark), roles)
        };
        parts(self) == parts(other)
    }
}

impl OidcConfig {
    /// Reads the keys that are in a file.
    pub(super) fn read_keys(&mut self) -> Result<(), Wrong> {
        let mark = Cell::new(0);
        let read = |file: &Path| {
            let read = super::users::read_bounded(file, KEYS_SIZE_MAX);
            mark.set(read.as_ref().map_or(0, tree::mark_of));
            read.map_err(|error| format!("{}: {error}", file.display()))
        };
        let set = |file: &Path| {
            KeySet::from_jwks(read(file)?.as_bytes()).map_err(|error| format!("{}: {error}", file.display()))
        };
        let key = |file: &Path| KeySet::from_pem(&read(file)?).map_err(|error| format!("{}: {error}", file.display()));
        let secret = |file: &Path| {
            let text = zeroize::Zeroizing::new(read(file)?);
            KeySet::from_secret(Secret::from(text.trim())).map_err(|error| format!("{}: {error}", file.display()))
        };
        let keys = match (&self.jwks_file, &self.key_file, &self.secret_file) {
            (Some(file), _, _) => set(file).map_err(|message| ("jwks_file", message))?,
            (_, Some(file), _) => key(file).map_err(|message| ("key_file", message))?,
            (_, _, Some(file)) => secret(file).map_err(|message| ("secret_file", message))?,
            _ => return Ok(()),
        };
        (self.keys, self.keys_mark) = (Some(Arc::new(keys)), mark.get());
        Ok(())
    }

    /// What is wrong with it.
    pub(super) fn check(&self) -> Result<(), Wrong> {
        for (key, text) in [("issuer", &self.issuer), ("audience", &self.audience)] {
            if text.is_empty() {
                return Err((key, format!("a token of anybody would do: write what its {key} has to be")));
            }
        }
        let sources =
            [self.jwks_url.is_some(), self.jwks_file.is_some(), self.key_file.is_some(), self.secret_file.is_some()];
        if sources.iter().filter(|is_given| **is_given).count() != 1 {
            return Err(("", "write one of jwks_url, jwks_file, key_file and secret_file".to_owned()));
        }
        if let Some(url) = &self.jwks_url
            && !is_trusted_url(url)
        {
            return Err(("jwks_url", format!("{url:?} is not https://HOST/PATH; http:// is for this machine only")));
        }
        if let Some(file) = self.ca_file.as_ref().filter(|file| !file.is_file()) {
            return Err(("ca_file", format!("there is no file {}", file.display())));
        }
        if self.roles.is_empty() {
            return Err(("", "without a role nobody gets in: write [[auth.oidc.roles]]".to_owned()));
        }
        self.roles.iter().try_for_each(OidcRole::check).map_err(|message| ("roles", message))
    }
}

/// Whether what comes from there has not passed anybody's hands.
fn is_trusted_url(url: &str) -> bool {
    let Some((scheme, rest)) = url.split_once("://") else { return false };
    let (authority, _) = rest.split_once('/').unwrap_or((rest, ""));
    if authority.is_empty() || authority.contains('@') || url.contains(char::is_whitespace) {
        return false;
    }
    let host = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, _)) => host,
        None => authority.split_once(':').map_or(authority, |(host, _)| host),
    };
    let is_here = host.parse().map_or(host == "localhost", |address: std::net::IpAddr| address.is_loopback());
    scheme == "https" || (scheme == "http" && is_here)
}

#[cfg(test)]
mod tests;
