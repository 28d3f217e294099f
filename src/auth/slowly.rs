//! Refuses in a mode: told, counted, and answered after a moment that grows with the failures.

use std::sync::Arc;

use mqtt_session::{Credentials, Verdict};
use tokio::time::Instant;

use super::failures::Failures;
use super::refusals::Refusals;
use super::{JUDGED_WITHIN, Principal};
use crate::listener::Peer;
use crate::metrics::AuthStep;

/// So long before [`JUDGED_WITHIN`] is over an answer is given that was not given before.
const MARGIN: std::time::Duration = std::time::Duration::from_secs(1);

/// Refusals of one mode.
pub(super) struct Refusing {
    refusals: Refusals,
    failures: Failures,
}

impl Refusing {
    pub(super) fn new(refusals: Refusals) -> Self {
        Self { refusals, failures: Failures::default() }
    }

    /// When a verdict has to be there that is being reached now.
    pub(super) fn latest() -> Instant {
        Instant::now() + JUDGED_WITHIN - MARGIN
    }

    /// The verdict of who was refused at a step, in time for `latest`. Who could not be judged has not failed.
    pub(super) async fn verdict(
        &self,
        credentials: Credentials<'_>,
        peer: &Peer,
        step: AuthStep,
        latest: Instant,
    ) -> Verdict<Arc<Principal>> {
        let reason = self.refusals.report(credentials.connect, peer, step);
        if reason != mqtt_codec::ReasonCode::ServerUnavailable {
            let user = credentials.connect.username.as_deref().filter(|name| !name.is_empty());
            let delay = self.failures.failed(peer.addr.counted_by(), user);
            tokio::time::sleep_until(latest.min(Instant::now() + delay)).await;
        }
        Verdict::Refused(reason)
    }
}
