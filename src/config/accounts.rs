//! `[accounts.NAME]`: our ways into accounts beside the one of `[nats]`.

use std::path::PathBuf;

use serde::Deserialize;

use super::nats::{Identity, first_line};
use super::tree::{Node, Origin};
use super::{ConfigError, NatsAuth, Secret};

/// `[accounts.NAME]`. `NAME` is the account's name in the configuration of nats-server, or its public NKey. What is not here is as
/// in `[nats]`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct AccountConfig {
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
}

impl AccountConfig {
    /// How we identify ourselves. A loaded configuration names exactly one way.
    #[must_use]
    pub fn auth(&self) -> NatsAuth {
        self.identity().auth()
    }

    /// Reads secrets from their files, and looks whether there is one way. `path`: where it was written, as `accounts.T2`.
    pub(super) fn complete(&mut self, path: &str, root: &Node) -> Result<(), ConfigError> {
        let invalid = |key: &str, message: String| {
            let key = if key.is_empty() { path.to_owned() } else { format!("{path}.{key}") };
            ConfigError::invalid(root.origin_of(&key).unwrap_or(&Origin::Default), &key, message)
        };
        for (key, file, secret) in [
            ("password_file", &self.password_file, &mut self.password),
            ("token_file", &self.token_file, &mut self.token),
            ("nkey_seed_file", &self.nkey_seed_file, &mut self.nkey_seed),
        ] {
            if let Some(file) = file {
                first_line(file, secret).map_err(|message| invalid(key, message))?;
            }
        }
        match self.identity().check() {
            Ok(true) => Ok(()),
            Ok(false) => {
                let message = "no way into the account is given: write creds, user, token or nkey_seed_file";
                Err(invalid("", message.to_owned()))
            }
            Err((key, message)) => Err(invalid(key, message)),
        }
    }

    const fn identity(&self) -> Identity<'_> {
        let Self { creds, user, password, token, nkey_seed, .. } = self;
        Identity { creds, user, password, token, nkey_seed }
    }
}
