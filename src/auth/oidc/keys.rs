//! The keys of the identity provider: given once, or fetched, and fetched again when a token names one that is not known.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use mqtt_access::oidc::{KeySet, OidcToken, Signed};
use parking_lot::RwLock;
use tokio::sync::Mutex;
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
pub(super) struct Keys {
    url: Option<(String, Option<PathBuf>)>,
    current: RwLock<Option<(Arc<KeySet>, Instant)>>,
    /// When it was tried last to fetch them. One fetches at a time.
    tried: Mutex<Option<Instant>>,
}

impl Keys {
    pub(super) fn new(config: &OidcConfig) -> Self {
        let given = config.keys.clone().map(|keys| (keys, Instant::now()));
        let url = config.jwks_url.clone().map(|url| (url, config.ca_file.clone()));
        Self { url, current: RwLock::new(given), tried: Mutex::default() }
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
        let (url, ca) = self.url.as_ref()?;
        let mut tried = self.tried.lock().await;
        // Somebody else has fetched them while this one waited.
        if let Some((keys, at)) = &*self.current.read()
            && than.is_none_or(|than| than < *at)
        {
            return Some(Arc::clone(keys));
        }
        let pause = if than.is_some() { AGAIN_AFTER } else { RETRY_AFTER };
        if tried.is_some_and(|tried| tried.elapsed() < pause) {
            return None;
        }
        *tried = Some(Instant::now());
        let fetched = fetch::fetch(url, ca.clone()).await;
        let keys = fetched.and_then(|json| KeySet::from_jwks(&json).map_err(|error| error.to_string()));
        match keys {
            Ok(keys) => {
                let keys = Arc::new(keys);
                tracing::info!(url, ?keys, "keys of the identity provider");
                *self.current.write() = Some((Arc::clone(&keys), Instant::now()));
                Some(keys)
            }
            Err(error) => {
                tracing::warn!(url, error, "the keys of the identity provider cannot be had");
                None
            }
        }
    }
}
