//! `[nats]`: which nats-server we connect to, and as whom.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::Secret;

/// `[nats]`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct NatsConfig {
    /// One or more servers of one cluster: `nats://host:4222`, `tls://host:4222`. Default `nats://127.0.0.1:4222`.
    pub urls: Vec<String>,
    /// A `.creds` file: JWT and seed of a user.
    pub creds: Option<PathBuf>,
    /// User name; needs a password.
    pub user: Option<String>,
    /// Password of `user`.
    pub password: Option<Secret>,
    /// File whose first line is the password.
    pub password_file: Option<PathBuf>,
    /// Token.
    pub token: Option<Secret>,
    /// File whose first line is the token.
    pub token_file: Option<PathBuf>,
    /// File with the seed of a user NKey (`SU…`).
    pub nkey_seed_file: Option<PathBuf>,
    /// What was in `nkey_seed_file`.
    #[serde(skip)]
    pub nkey_seed: Option<Secret>,
    /// `[nats.tls]`.
    pub tls: NatsTlsConfig,
    /// Accounts beside ours that may be served at a time; clients of a further one are refused. Default 1,000.
    pub max_accounts: u32,
    /// Name of our connections, as `nats server report connections` shows it. Default `nats-mqtt`.
    pub name: String,
}

/// `[nats.tls]`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct NatsTlsConfig {
    /// Refuse to go on without TLS, whatever the URL says. Default `false`.
    pub required: bool,
    /// PEM file of the authorities that may have signed the server's certificate; the system's when absent.
    pub ca_file: Option<PathBuf>,
    /// PEM file of our certificate.
    pub cert_file: Option<PathBuf>,
    /// PEM file of its key.
    pub key_file: Option<PathBuf>,
}

/// How we identify ourselves to nats-server: exactly one way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NatsAuth {
    /// Not at all.
    Anonymous,
    /// By a `.creds` file.
    Creds(PathBuf),
    /// By user and password.
    Password {
        /// User name.
        user: String,
        /// Password.
        password: Secret,
    },
    /// By token.
    Token(Secret),
    /// By the seed of a user NKey.
    NKey(Secret),
}

impl Default for NatsConfig {
    fn default() -> Self {
        Self {
            urls: vec!["nats://127.0.0.1:4222".to_owned()],
            creds: None,
            user: None,
            password: None,
            password_file: None,
            token: None,
            token_file: None,
            nkey_seed_file: None,
            nkey_seed: None,
            tls: NatsTlsConfig::default(),
            max_accounts: 1_000,
            name: "nats-mqtt".to_owned(),
        }
    }
}

impl NatsConfig {
    /// How we identify ourselves. A loaded configuration names one way at most.
    #[must_use]
    pub fn auth(&self) -> NatsAuth {
        self.identity().auth()
    }

    pub(super) const fn identity(&self) -> Identity<'_> {
        let Self { creds, user, password, token, nkey_seed, .. } = self;
        Identity { creds, user, password, token, nkey_seed }
    }
}

/// The keys that say as whom we connect, wherever they are written.
#[derive(Clone, Copy)]
pub(super) struct Identity<'a> {
    pub(super) creds: &'a Option<PathBuf>,
    pub(super) user: &'a Option<String>,
    pub(super) password: &'a Option<Secret>,
    pub(super) token: &'a Option<Secret>,
    pub(super) nkey_seed: &'a Option<Secret>,
}

impl Identity<'_> {
    pub(super) fn auth(self) -> NatsAuth {
        if let Some(creds) = self.creds {
            NatsAuth::Creds(creds.clone())
        } else if let Some(seed) = self.nkey_seed {
            NatsAuth::NKey(seed.clone())
        } else if let Some(token) = self.token {
            NatsAuth::Token(token.clone())
        } else if let (Some(user), Some(password)) = (self.user, self.password) {
            NatsAuth::Password { user: user.clone(), password: password.clone() }
        } else {
            NatsAuth::Anonymous
        }
    }

    /// Whether it is one way at most, and whole; returns whether there is one. The error names the key, or none where it is about
    /// all of them.
    pub(super) fn check(self) -> Result<bool, (&'static str, String)> {
        let ways = [
            ("creds", self.creds.is_some()),
            ("user", self.user.is_some()),
            ("token", self.token.is_some()),
            ("nkey_seed_file", self.nkey_seed.is_some()),
        ];
        let named: Vec<&str> = ways.iter().filter(|(_, named)| *named).map(|(name, _)| *name).collect();
        if named.len() > 1 {
            return Err(("", format!("{} are given, and only one of them can be used", named.join(" and "))));
        }
        if self.user.is_some() != self.password.is_some() {
            return Err(("user", "user and password go together: give both or neither".into()));
        }
        match self.creds.as_ref().filter(|creds| !creds.is_file()) {
            Some(creds) => Err(("creds", format!("there is no file {}", creds.display()))),
            None => Ok(!named.is_empty()),
        }
    }
}

/// Reads a secret from the first line of its file that has something. The error says what is wrong.
pub(super) fn first_line(file: &Path, secret: &mut Option<Secret>) -> Result<(), String> {
    if secret.is_some() {
        return Err("the secret is given as text too: leave one of the two out".to_owned());
    }
    let text = std::fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
    let line = text.lines().map(str::trim).find(|line| !line.is_empty());
    *secret = Some(Secret::new(line.ok_or_else(|| format!("{} is empty", file.display()))?.to_owned()));
    Ok(())
}
