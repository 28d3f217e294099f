//! What can be served in mode `jwt`, for `nats-mqtt check`: the accounts that there are, and our own way into each.

use std::path::Path;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream;
use mqtt_access::AccountId;
use tokio::time::timeout;

use super::JwtUsers;
use super::known::Current;
use super::resolver::Unresolved;
use super::ways::{NoWay, account_of};
use crate::auth::Authenticator as _;
use crate::config::read_signing_key;
use crate::store::Credentials;

/// Accounts that are looked at. An operator has more than that whose devices come to several groups of sidecars.
pub(crate) const SURVEYED_MAX: usize = 1_000;

/// Accounts whose JWTs are asked for at once.
const ASKED_AT_ONCE: usize = 8;

/// How long an operator may take to be known.
const OPERATOR_WITHIN: Duration = Duration::from_secs(5);

/// What there is.
#[derive(Debug)]
pub(crate) struct Survey {
    /// By their keys. Our own and the system account, which have no devices, are not among them.
    pub(crate) accounts: Vec<Surveyed>,
    /// Accounts beyond [`SURVEYED_MAX`].
    pub(crate) left_out: usize,
    /// One line for each signing key that leads nowhere.
    pub(crate) idle_keys: Vec<String>,
}

/// An account.
#[derive(Debug)]
pub(crate) struct Surveyed {
    pub(crate) account: AccountId,
    /// Its name, which may be empty.
    pub(crate) name: String,
    /// How we get in, or why we do not.
    pub(crate) way: Result<SurveyedWay, Unserved>,
}

/// Why an account is not served, in one line.
#[derive(Debug)]
pub(crate) enum Unserved {
    /// Nothing is there that would be a way, or nobody can be a user of it: it may have no devices.
    NotMeant(String),
    /// It was meant to be served.
    Fault(String),
}

/// Our own way into an account, which nobody has tried.
#[derive(Clone)]
pub(crate) struct SurveyedWay {
    pub(crate) credentials: Credentials,
    /// With which key or file, as part of a sentence.
    pub(crate) by: String,
}

impl std::fmt::Debug for SurveyedWay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("SurveyedWay").field(&self.by).finish()
    }
}

impl JwtUsers {
    /// Looks at all accounts that there are. `home`: our own credentials.
    ///
    /// # Errors
    /// Nobody says which there are.
    pub(crate) async fn survey(&self, home: &Credentials) -> Result<Survey, String> {
        tokio::select! {
            survey = self.survey_all(home) => survey,
            () = self.follow() => Err("the program ends".to_owned()),
        }
    }

    async fn survey_all(&self, home: &Credentials) -> Result<Survey, String> {
        self.wait_for_operators().await?;
        let ours: Vec<String> =
            [self.system_creds.as_deref(), home_creds(home)].into_iter().flatten().filter_map(account_of).collect();
        let mut ids = match self.system.as_ref().filter(|_| self.files.is_none()) {
            Some(system) => system.list().await.map_err(|()| {
                "no resolver of nats-server says which accounts there are: auth.jwt.resolver = \"system\" needs a full one"
            })?,
            None => {
                self.look();
                self.known.heard_of()
            }
        };
        ids.retain(|id| !ours.contains(id));
        let left_out = ids.len().saturating_sub(SURVEYED_MAX);
        let surveyed = ids.into_iter().take(SURVEYED_MAX).map(|id| self.survey_one(id));
        let accounts: Vec<Surveyed> = stream::iter(surveyed).buffered(ASKED_AT_ONCE).collect().await;
        // Where not all accounts are known nobody knows which keys they name.
        let knows_all = left_out == 0 && !accounts.iter().any(|one| matches!(one.way, Err(Unserved::Fault(_))));
        let idle_keys = if knows_all { self.idle_keys(&accounts, &ours) } else { Vec::new() };
        Ok(Survey { accounts, left_out, idle_keys })
    }

    async fn wait_for_operators(&self) -> Result<(), String> {
        let mut changes = self.known.changes();
        let known = async { while !self.known.has_operators() && changes.changed().await.is_ok() {} };
        timeout(OPERATOR_WITHIN, known).await.map_err(|_| "no nats-server says which operator it trusts".to_owned())
    }

    async fn survey_one(&self, id: String) -> Surveyed {
        let found = self.resolver.account(&id, [0, 0, 0, 0].into()).await;
        let account = AccountId::new(&id);
        let way = match &found {
            Ok(_) => self.ways.shown(&account).map_err(|no_way| match no_way {
                NoWay::Nothing { .. } => Unserved::NotMeant(no_way.to_string()),
                NoWay::Creds { .. } => Unserved::Fault(no_way.to_string()),
            }),
            Err(Unresolved::Refused(refusal)) => Err(Unserved::NotMeant(format!("its JWT does not count: {refusal}"))),
            Err(Unresolved::Unknown) => Err(Unserved::NotMeant("it is not there any more".to_owned())),
            Err(Unresolved::Unreachable) => Err(Unserved::Fault("the resolver does not answer".to_owned())),
        };
        let name = found.map(|current| current.account.name().to_owned()).unwrap_or_default();
        Surveyed { account, name, way: way.map(|(credentials, by)| SurveyedWay { credentials, by }) }
    }

    /// Signing keys that lead into none of these accounts, nor into ours.
    fn idle_keys(&self, accounts: &[Surveyed], ours: &[String]) -> Vec<String> {
        let ids = accounts.iter().map(|surveyed| surveyed.account.as_str()).chain(ours.iter().map(String::as_str));
        let accounts: Vec<Current> = ids.filter_map(|id| self.known.get(id)).collect();
        let keys = self.ways.signing_keys().iter().filter_map(|file| Some((file, read_signing_key(file).ok()?)));
        let keys = keys.map(|(file, key)| (file, key.public_key()));
        let is_named = |key: &str| accounts.iter().any(|one| one.account.is_scoped(key, &one.operators).is_some());
        let idle = keys.filter(|(_, key)| !is_named(key));
        idle.map(|(file, key)| format!("signing key {key} ({}) leads into no account: none names it", file.display()))
            .collect()
    }
}

fn home_creds(home: &Credentials) -> Option<&Path> {
    match home {
        Credentials::CredsFile(file) => Some(file),
        _ => None,
    }
}
