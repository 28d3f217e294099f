//! What can be served in mode `jwt`, for `nats-mqtt check`: the accounts that there are, and our own way into each.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream;
use mqtt_access::AccountId;
use tokio::time::timeout;

use super::JwtUsers;
use super::resolver::Unresolved;
use super::ways::are_creds_of;
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
    /// How we get in, or what is missing.
    pub(crate) way: Result<SurveyedWay, String>,
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
        let mut ids = match self.system.as_ref().filter(|_| self.files.is_none()) {
            Some(system) => system.list().await.map_err(|()| {
                "no resolver of nats-server says which accounts there are: auth.jwt.resolver = \"system\" needs a full one"
            })?,
            None => {
                self.look();
                self.known.ids()
            }
        };
        ids.retain(|id| !self.is_ours(id, home));
        let left_out = ids.len().saturating_sub(SURVEYED_MAX);
        let surveyed = ids.into_iter().take(SURVEYED_MAX).map(|id| self.survey_one(id));
        let accounts: Vec<Surveyed> = stream::iter(surveyed).buffered(ASKED_AT_ONCE).collect().await;
        let idle_keys = self.idle_keys(accounts.iter().map(|surveyed| &surveyed.account));
        Ok(Survey { accounts, left_out, idle_keys })
    }

    async fn wait_for_operators(&self) -> Result<(), String> {
        let mut changes = self.known.changes();
        let known = async { while !self.known.has_operators() && changes.changed().await.is_ok() {} };
        timeout(OPERATOR_WITHIN, known).await.map_err(|_| "no nats-server says which operator it trusts".to_owned())
    }

    /// Whether it is our own account, or that of the system.
    fn is_ours(&self, id: &str, home: &Credentials) -> bool {
        let account = AccountId::new(id);
        let is_of = |file: &Path| are_creds_of(file, &account);
        matches!(home, Credentials::CredsFile(file) if is_of(file)) || self.system_creds.as_deref().is_some_and(is_of)
    }

    async fn survey_one(&self, id: String) -> Surveyed {
        let found = self.resolver.account(&id, [0, 0, 0, 0].into()).await;
        let account = AccountId::new(&id);
        let way = match &found {
            Ok(_) => self.ways.shown(&account).map_err(|no_way| no_way.to_string()),
            Err(Unresolved::Refused(refusal)) => Err(format!("its JWT does not count: {refusal}")),
            Err(Unresolved::Unknown) => Err("it is not there any more".to_owned()),
            Err(Unresolved::Unreachable) => Err("the resolver does not answer".to_owned()),
        };
        let name = found.map(|current| current.account.name().to_owned()).unwrap_or_default();
        Surveyed { account, name, way: way.map(|(credentials, by)| SurveyedWay { credentials, by }) }
    }

    fn idle_keys<'a>(&self, accounts: impl Iterator<Item = &'a AccountId>) -> Vec<String> {
        let named: BTreeSet<String> = accounts.flat_map(|account| self.ways.keys_of(account)).collect();
        let keys = self.ways.signing_keys().iter().filter_map(|file| Some((file, read_signing_key(file).ok()?)));
        let idle = keys.map(|(file, key)| (file, key.public_key())).filter(|(_, key)| !named.contains(key));
        idle.map(|(file, key)| {
            let file = file.display();
            format!(
                "signing key {key} ({file}) leads into no account: none names it, or its account is the one of [nats]"
            )
        })
        .collect()
    }
}
