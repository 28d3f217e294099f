//! How accounts other than the home account are opened, by the configuration: as that one is, on the same servers, as somebody else.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::join_all;
use futures_util::stream;
use mqtt_access::{AccountId, Publisher};

use super::options;
use crate::account::{Account, AccountSpec, KnowsUsers, Looking, Publishers, Redirect};
use crate::accounts::{Opener, Opening};
use crate::auth::{Authenticator, Surveyed, SurveyedWay, Unserved};
use crate::config::Config;
use crate::metrics::Metrics;
use crate::store::{Credentials, Leases, StoreOptions, probe};

/// The accounts of `[accounts]`, and those that whoever knows clients knows a way into.
pub(super) struct Configured {
    config: Config,
    authenticator: Arc<dyn Authenticator>,
    metrics: Arc<Metrics>,
    redirect: Arc<Redirect>,
}

impl Configured {
    pub(super) fn new(
        config: &Config,
        authenticator: &Arc<dyn Authenticator>,
        metrics: &Arc<Metrics>,
        redirect: &Arc<Redirect>,
    ) -> Self {
        let (config, authenticator) = (config.clone(), Arc::clone(authenticator));
        Self { config, authenticator, metrics: Arc::clone(metrics), redirect: Arc::clone(redirect) }
    }

    /// What an account is to be.
    async fn spec(&self, account: &AccountId, home: &Account) -> Result<AccountSpec, String> {
        let name = account.as_str();
        let Some(home_name) = home.store().account_name() else {
            return Err(
                "the name of the home account is not known: allow its user to publish to $SYS.REQ.USER.INFO".into()
            );
        };
        let credentials = match self.config.accounts.get(name) {
            Some(way) => options::credentials(&way.auth(), way.nkey_seed_file.as_deref()),
            None => self.authenticator.way(account).await.unwrap_or_else(|| {
                Err(format!(
                    "there is no way into it: write [accounts.{name:?}] with creds, user, token or nkey_seed_file"
                ))
            })?,
        };
        let store = store_as(&self.config, credentials, None)?;
        let nodes = home.membership().nodes().for_account(name);
        let keys = home.store().keys().clone();
        let leases = Leases::In { account: name.to_owned(), home: home_name.to_owned(), nodes, keys };
        let spec = options::spec(&self.config, store);
        Ok(AccountSpec { leases, ..common(spec, &self.authenticator, &self.redirect) })
    }
}

/// Whoever knows clients says what users may do who are not connected.
struct Users(Arc<dyn Authenticator>);

impl KnowsUsers for Users {
    fn permissions_of<'a>(&'a self, publisher: &'a Publisher, client_id: &'a str) -> Looking<'a> {
        self.0.permissions_of(publisher, client_id)
    }
}

/// An account with what all accounts of the process have in common: whom they ask about users, and where clients are told to go.
pub(super) fn common(
    mut spec: AccountSpec,
    authenticator: &Arc<dyn Authenticator>,
    redirect: &Arc<Redirect>,
) -> AccountSpec {
    spec.options.publishers = Publishers::known_by(Arc::new(Users(Arc::clone(authenticator))));
    spec.options.redirect = Arc::clone(redirect);
    spec
}

/// What the store of an account is told.
fn store_as(config: &Config, credentials: Credentials, within: Option<Duration>) -> Result<StoreOptions, String> {
    let mut store = options::store(config, within).map_err(|error| error.to_string())?;
    store.nats.credentials = credentials;
    Ok(store)
}

/// Looks at each account that is configured: what it is, or why its devices would be refused.
pub(super) async fn probe_all(config: &Config, within: Duration) -> Vec<(String, Result<String, String>)> {
    let found = config.accounts.iter().map(async |(name, way)| {
        let found =
            match store_as(config, options::credentials(&way.auth(), way.nkey_seed_file.as_deref()), Some(within)) {
                Ok(options) => Box::pin(probe(options, name)).await.map_err(|error| error.to_string()),
                Err(error) => Err(error),
            };
        (name.clone(), found.map(|probed| probed.to_string()))
    });
    join_all(found).await
}

/// Ways of mode `jwt` that are tried at once.
const TRIED_AT_ONCE: usize = 8;

/// An account of mode `jwt` as it is shown; and what it is or why its devices would be refused, or that there is no way into it.
type Tried = (String, Result<Result<String, String>, String>);

/// Tries our way into each account of mode `jwt`.
pub(super) async fn probe_surveyed(config: &Config, accounts: Vec<Surveyed>, within: Duration) -> Vec<Tried> {
    let tried = accounts.into_iter().map(async |Surveyed { account, name, way }| {
        let id = account.as_str();
        let shown = if name.is_empty() { id.to_owned() } else { format!("{name:?} ({id})") };
        let SurveyedWay { credentials, by } = match way {
            Ok(way) => way,
            Err(Unserved::NotMeant(missing)) => return (shown, Err(missing)),
            Err(Unserved::Fault(why)) => return (shown, Ok(Err(why))),
        };
        let found = match store_as(config, credentials, Some(within)) {
            Ok(options) => Box::pin(probe(options, id)).await.map_err(|error| error.to_string()),
            Err(error) => Err(error),
        };
        let found = found.map(|probed| format!("{probed}, by {by}")).map_err(|error| format!("by {by}: {error}"));
        (shown, Ok(found))
    });
    stream::iter(tried).buffered(TRIED_AT_ONCE).collect().await
}

impl Opener for Configured {
    fn open<'a>(&'a self, account: &'a AccountId, home: &'a Account) -> Opening<'a> {
        Box::pin(async move {
            let spec = self.spec(account, home).await?;
            let opening = Account::open_tenant(spec, &self.metrics, Arc::clone(home.membership()));
            Box::pin(opening).await.map_err(|error| error.to_string())
        })
    }
}
