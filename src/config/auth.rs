//! `[auth]`: who a device is. The users themselves are in `users`.

use std::path::PathBuf;

use serde::Deserialize;

pub use mqtt_access::Mode as AuthMode;

use super::{Duration, JwtConfig, OidcConfig, UserConfig};

/// `[auth]`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct AuthConfig {
    /// How devices are identified. Default `none`.
    pub mode: AuthMode,
    /// What client certificates are good for. Default `none`.
    pub certificate: CertificateUse,
    /// A CONNECT without credentials is judged; in mode `none` every one is. Default `false`.
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
    /// Mode `nats`: how often those who are connected are judged again. Default 10 min.
    pub recheck: Duration,
    /// `[auth.oidc]`: an identity provider, for mode `oidc` and beside every other.
    pub oidc: Option<OidcConfig>,
}

impl Default for AuthConfig {
    fn default() -> Self {
        Self {
            mode: AuthMode::default(),
            certificate: CertificateUse::default(),
            anonymous: false,
            users_file: None,
            file_users: Vec::new(),
            session_owner: SessionOwner::default(),
            wide_filters: WideFilters::default(),
            cache: Duration::from_secs(60),
            jwt: JwtConfig::default(),
            recheck: Duration::from_secs(600),
            oidc: None,
        }
    }
}

/// `auth` of a listener: what is here stands in place of what `[auth]` says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ListenerAuthConfig {
    /// How devices are identified.
    pub mode: Option<AuthMode>,
    /// The account of those who bring none; those who bring another one are refused.
    pub account: Option<String>,
    /// What client certificates are good for.
    pub certificate: Option<CertificateUse>,
}

/// What client certificates are good for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CertificateUse {
    /// They say nothing about who a device is.
    #[default]
    None,
    /// One is needed beside password or token, and has to name the same user.
    Bind,
    /// One of a user of `[[users]]` is enough.
    Enough,
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
