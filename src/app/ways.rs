//! How accounts other than the home account are opened, by the configuration: as that one is, on the same servers, as somebody else.

use std::sync::Arc;

use mqtt_access::AccountId;

use super::options;
use crate::account::{Account, AccountSpec};
use crate::accounts::{Opener, Opening};
use crate::config::Config;
use crate::metrics::Metrics;
use crate::store::Leases;

/// The accounts of `[accounts]`.
pub(super) struct Configured {
    config: Config,
    metrics: Arc<Metrics>,
}

impl Configured {
    pub(super) fn new(config: &Config, metrics: &Arc<Metrics>) -> Self {
        Self { config: config.clone(), metrics: Arc::clone(metrics) }
    }

    /// What an account is to be.
    fn spec(&self, account: &AccountId, home: &Account) -> Result<AccountSpec, String> {
        let name = account.as_str();
        let Some(home_name) = home.store().account_name() else {
            return Err(
                "the name of the home account is not known: allow its user to publish to $SYS.REQ.USER.INFO".into()
            );
        };
        let way = self.config.accounts.get(name).ok_or_else(|| {
            format!("there is no way into it: write [accounts.{name:?}] with creds, user, token or nkey_seed_file")
        })?;
        let mut store = options::store(&self.config, None).map_err(|error| error.to_string())?;
        store.nats.credentials = options::credentials(&way.auth(), way.nkey_seed_file.as_deref());
        let nodes = home.membership().nodes().for_account(name);
        let leases = Leases::In { home: home_name.to_owned(), nodes };
        Ok(AccountSpec { leases, ..options::spec(&self.config, store) })
    }
}

impl Opener for Configured {
    fn open<'a>(&'a self, account: &'a AccountId, home: &'a Account) -> Opening<'a> {
        Box::pin(async move {
            let spec = self.spec(account, home)?;
            let opening = Account::open_tenant(spec, &self.metrics, Arc::clone(home.membership()));
            Box::pin(opening).await.map_err(|error| error.to_string())
        })
    }
}
