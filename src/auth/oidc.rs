//! Mode `oidc`: JWTs of an identity provider, as a password or by the method `OAUTH2-JWT`.
//!
//! # Layout
//! - `keys`: the provider's keys, and when they are fetched; `fetch`: how
//! - `roles`: what a token makes of a client

mod fetch;
mod keys;
mod roles;

use std::sync::Arc;

use mqtt_access::oidc::{Expected, OidcRefusal, OidcToken};
use mqtt_session::{Credentials, Verdict};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::refusals::Refusals;
use super::slowly::Refusing;
use super::time::now;
use super::{Again, Authenticator, Following, Judging, Principal};
use crate::config::OidcConfig;
use crate::listener::Peer;
use crate::metrics::AuthStep;
use keys::Keys;
use roles::Roles;

/// The method of MQTT 5 by which a token comes as authentication data. There is no challenge.
pub(super) const METHOD: &str = "OAUTH2-JWT";

/// Knows users by tokens.
pub(super) struct OidcUsers {
    expected: Expected,
    keys: Keys,
    roles: Roles,
    refusing: Refusing,
    changes: watch::Sender<u64>,
}

impl OidcUsers {
    pub(super) fn new(config: &OidcConfig, refusals: Refusals) -> Self {
        Self {
            expected: Expected { issuer: config.issuer.clone(), audience: config.audience.clone() },
            keys: Keys::new(config),
            roles: Roles::new(&config.roles),
            refusing: Refusing::new(refusals),
            changes: watch::Sender::default(),
        }
    }

    /// Who a client is, or at which step it fails.
    async fn identified(&self, credentials: Credentials<'_>, latest: Instant) -> Result<Arc<Principal>, AuthStep> {
        let connect = credentials.connect;
        let text = match connect.properties.authentication_method.as_deref() {
            None => connect.password.as_ref(),
            Some(METHOD) => credentials.data,
            Some(_) => return Err(AuthStep::Method),
        };
        let text = text.filter(|text| !text.is_empty()).ok_or(AuthStep::NoCredentials)?;
        let token = OidcToken::read(text.expose()).map_err(step_of)?;
        let expires = token.check(&self.expected, now()).map_err(step_of)?;
        timeout_at(latest, self.keys.verify(&token)).await.map_err(|_| AuthStep::Busy)??;
        let mut principal = self.roles.principal(&token, &connect.client_id)?;
        principal.expires = Some(expires);
        principal.user.issuer = Some(self.expected.issuer.clone());
        principal.is_client_id_allowed(&connect.client_id).then_some(Arc::new(principal)).ok_or(AuthStep::ClientId)
    }

    async fn verdict(&self, credentials: Credentials<'_>, peer: &Peer) -> Verdict<Arc<Principal>> {
        let latest = Refusing::latest();
        match self.identified(credentials, latest).await {
            Ok(principal) => Verdict::Accepted(principal, None),
            Err(step) => self.refusing.verdict(credentials, peer, step, latest).await,
        }
    }
}

const fn step_of(refusal: OidcRefusal) -> AuthStep {
    match refusal {
        OidcRefusal::Malformed => AuthStep::OidcToken,
        OidcRefusal::Issuer => AuthStep::OidcIssuer,
        OidcRefusal::Audience => AuthStep::OidcAudience,
        OidcRefusal::Expired | OidcRefusal::NotYetValid => AuthStep::OidcTime,
    }
}

impl Authenticator for OidcUsers {
    fn judge<'a>(&'a self, credentials: Credentials<'a>, peer: &'a Peer) -> Judging<'a> {
        Box::pin(self.verdict(credentials, peer))
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn follow(&self) -> Following<'_> {
        Box::pin(self.keys.follow())
    }

    /// A token counts until it expires.
    fn judge_again(&self, _principal: &Principal, _client_id: &str) -> Again {
        Again::Same
    }
}

#[cfg(test)]
mod tests;
