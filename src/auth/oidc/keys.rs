//! The keys of the identity provider: given once, or fetched, and fetched again when a token names one that is not known.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use mqtt_access::oidc::{KeySet, OidcToken, Signed};
use parking_lot::RwLock;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::fetch;
use crate::config::OidcConfig;
use crate::metrics::AuthStep;

/// An unknown key has them fetched again at most so often: whoever makes tokens up could have us ask for ever.
const AGAIN_AFTER: Duration = Duration::from_secs(30);

/// The same while there are none at all.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// So old they are fetched again without anybody asking for another one: a key that the provider has withdrawn counts no
/// longer.
const AGE_MAX: Duration = Duration::from_secs(3600);

/// The keys.
///
/// **Invariant:** a fetch that somebody has asked for goes on when he is gone: who asks and leaves, again and again, keeps nobody else
/// from new keys.
pub(super) struct Keys {
    url: Option<(String, Option<PathBuf>)>,
    current: RwLock<Option<(Arc<KeySet>, Instant)>>,
    wanted: Notify,
    attempts: watch::Sender<Attempts>,
}

/// Attempts to fetch them that are over.
#[derive(Clone, Copy, Debug, Default)]
struct Attempts {
    count: u64,
    /// When the last one began.
    last: Option<Instant>,
}

impl Keys {
    pub(super) fn new(config: &OidcConfig) -> Self {
        let given = config.keys.clone().map(|keys| (keys, Instant::now()));
        let url = config.jwks_url.clone().map(|url| (url, config.ca_file.clone()));
        Self { url, current: RwLock::new(given), wanted: Notify::new(), attempts: watch::Sender::default() }
    }

    /// Whether one of them has signed a token.
    pub(super) async fn verify(&self, token: &OidcToken<'_>) -> Result<(), AuthStep> {
        let known = self.current.read().clone();
        let is_old = |at: Instant| self.url.is_some() && at.elapsed() >= AGE_MAX;
        match &known {
            Some((keys, at)) if !is_old(*at) => match keys.verify(token) {
                Signed::Yes => return Ok(()),
                Signed::No => return Err(AuthStep::OidcSignature),
                Signed::UnknownKey => {}
            },
            _ => {}
        }
        let keys = self.newer(known.as_ref().map(|(_, at)| *at)).await.or(known.map(|(keys, _)| keys));
        match keys.ok_or(AuthStep::OidcUnreachable)?.verify(token) {
            Signed::Yes => Ok(()),
            Signed::No => Err(AuthStep::OidcSignature),
            Signed::UnknownKey => Err(AuthStep::OidcKey),
        }
    }

    /// Newer keys than those of then, if it is time for them and they can be had.
    async fn newer(&self, than: Option<Instant>) -> Option<Arc<KeySet>> {
        self.url.as_ref()?;
        let mut attempts = self.attempts.subscribe();
        let before = *attempts.borrow_and_update();
        if self.is_time(before) {
            self.wanted.notify_one();
            attempts.wait_for(|now| now.count != before.count).await.ok()?;
        }
        let current = self.current.read().clone();
        current.filter(|(_, at)| than.is_none_or(|than| than < *at)).map(|(keys, _)| keys)
    }

    /// Whether they may be fetched, or fetched again.
    fn is_time(&self, attempts: Attempts) -> bool {
        let pause = if self.current.read().is_some() { AGAIN_AFTER } else { RETRY_AFTER };
        attempts.last.is_none_or(|last| last.elapsed() >= pause)
    }

    /// Fetches them whenever somebody wants them, for ever.
    pub(super) async fn follow(&self) {
        let Some((url, ca)) = &self.url else { return std::future::pending().await };
        loop {
            self.wanted.notified().await;
            // Who came while they were fetched has them.
            if !self.is_time(*self.attempts.borrow()) {
                continue;
            }
            let began = Instant::now();
            self.fetch(url, ca.clone()).await;
            self.attempts.send_modify(|attempts| *attempts = Attempts { count: attempts.count + 1, last: Some(began) });
        }
    }

    async fn fetch(&self, url: &str, ca: Option<PathBuf>) {
        let fetched = fetch::fetch(url, ca).await;
        match fetched.and_then(|json| KeySet::from_jwks(&json).map_err(|error| error.to_string())) {
            Ok(keys) => {
                tracing::info!(url, ?keys, "keys of the identity provider");
                *self.current.write() = Some((Arc::new(keys), Instant::now()));
            }
            Err(error) => tracing::warn!(url, error, "the keys of the identity provider cannot be had"),
        }
    }
}
