//! `[auth]`: who a device is. The users themselves are in `users`.

use std::path::PathBuf;

use serde::Deserialize;

use super::{Duration, JwtConfig, UserConfig};

/// Modes that the configuration of a later version has.
const LATER: [&str; 2] = ["nats", "oidc"];

/// `[auth]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub struct AuthConfig {
    /// How devices are identified. Default `none`.
    pub mode: AuthMode,
    /// A CONNECT without user name is accepted; in mode `none` every one is. Default `false`.
    pub anonymous: bool,
    /// A file with more `[[users]]`, read again when it changes.
    pub users_file: Option<PathBuf>,
    /// What was in `users_file`.
    #[serde(skip)]
    pub file_users: Vec<UserConfig>,
    /// Whom a session belongs to. Default `user`.
    pub session_owner: SessionOwner,
    /// What becomes of a subscription that is wider than what its client may have. Default `refuse`.
    pub wide_filters: WideFilters,
    /// How long it is remembered that a password was right; 0 turns that off. Default 60 s.
    pub cache: Duration,
    /// `[auth.jwt]`: mode `jwt`.
    pub jwt: JwtConfig,
}

impl Default for AuthConfig {
    fn default() -> Self {
        Self {
            mode: AuthMode::default(),
            anonymous: false,
            users_file: None,
            file_users: Vec::new(),
            session_owner: SessionOwner::default(),
            wide_filters: WideFilters::default(),
            cache: Duration::from_secs(60),
            jwt: JwtConfig::default(),
        }
    }
}

/// How devices are identified.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AuthMode {
    /// `none`: any device may connect; all share the account of our own NATS connection and its permissions.
    #[default]
    None,
    /// `file`: by `[[users]]` and `users_file`.
    File,
    /// `jwt`: by user JWTs of NATS, whose accounts an operator has signed; see [`JwtConfig`].
    Jwt,
}

impl<'de> Deserialize<'de> for AuthMode {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match String::deserialize(deserializer)?.as_str() {
            "none" => Ok(Self::None),
            "file" => Ok(Self::File),
            "jwt" => Ok(Self::Jwt),
            later if LATER.contains(&later) => Err(serde::de::Error::custom(format!(
                "{later:?} is not available in this version: write \"file\" or \"jwt\", or \"none\", which lets every device in"
            ))),
            other => Err(serde::de::Error::unknown_variant(other, &["none", "file", "jwt"])),
        }
    }
}

/// Whom a session belongs to: nobody else takes it over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SessionOwner {
    /// The user that made it.
    #[default]
    User,
    /// The account: all its users.
    Account,
}

/// What becomes of a subscription that is wider than what its client may have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WideFilters {
    /// It is refused.
    #[default]
    Refuse,
    /// It is granted, and what the client may not have is left out.
    Filter,
}
