//! What is known of account JWTs from before a restart: which one of an account counted last. It is asked at the first use of an
//! account, and told whenever a newer JWT of one that was used counts. What lies in a folder and nobody uses is not written down.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use mqtt_access::UnixTime;
use mqtt_access::jwt::KnownAccount;
use tokio::time::Instant;

use crate::store::{AccountJwt, Accounts, LastJwt};

/// How long the memory may take from the start on. What it says later counts for whoever comes then.
const READ_WITHIN: Duration = Duration::from_secs(3);

/// What is remembered of an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Recalled {
    /// That cannot be said yet.
    Unread,
    /// Nothing.
    Nothing,
    /// This has counted.
    Known(KnownAccount),
}

pub(super) type Recalling<'a> = Pin<Box<dyn Future<Output = Recalled> + Send + 'a>>;

/// Remembers beyond a restart.
pub(super) trait Memory: Send + Sync {
    /// What is remembered of an account. It takes a moment at most.
    fn recall<'a>(&'a self, id: &'a str) -> Recalling<'a>;

    /// From now on this is. It waits for nobody.
    fn keep(&self, id: &str, known: KnownAccount);
}

/// The memory of all sidecars, in the home account.
pub(super) struct AtHome {
    accounts: Accounts,
    until: Instant,
}

impl AtHome {
    pub(super) fn new(accounts: Accounts) -> Arc<Self> {
        Arc::new(Self { accounts, until: Instant::now() + READ_WITHIN })
    }
}

impl Memory for AtHome {
    fn recall<'a>(&'a self, id: &'a str) -> Recalling<'a> {
        Box::pin(async move {
            match self.accounts.last_jwt(id, self.until).await {
                LastJwt::Unread => Recalled::Unread,
                LastJwt::None => Recalled::Nothing,
                LastJwt::Known(AccountJwt { issued_at_s, digest }) => {
                    Recalled::Known(KnownAccount { issued_at: UnixTime::from_secs(issued_at_s), digest })
                }
            }
        })
    }

    fn keep(&self, id: &str, known: KnownAccount) {
        let jwt = AccountJwt { issued_at_s: known.issued_at.as_secs(), digest: known.digest };
        self.accounts.keep_jwt(id, jwt);
    }
}
