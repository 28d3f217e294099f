//! Who a client is. An authenticator makes a principal of what a client says about itself and of where it comes from, asks it for
//! more, or refuses it. It knows no account and opens none: that comes when the client is known.
//!
//! # Layout
//! - `dispatch`: which mode judges whom; `shape`: what credentials look like. `modes`: which are configured. `refusals`: how a
//!   refusal is told.
//! - `jwt`: mode `jwt`. `nkey`: the method by which users show that they have their key.
//! - `file`: mode `file`; `users`: whom it knows; `users_file`: looks whether they have changed.
//! - `nats`: mode `nats`; `oidc`: mode `oidc`.
//! - `slowly`: refusals that wait; `turns`: how many passwords are hashed at once; `remembered`: those that were right a moment ago; `failures`: who fails waits.

mod dispatch;
mod failures;
mod file;
mod jwt;
mod modes;
mod nats;
mod nkey;
mod oidc;
mod refusals;
mod remembered;
mod shape;
mod slowly;
mod time;
mod turns;
mod users;
mod users_file;

use std::future::{Future, pending, ready};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use mqtt_access::{AccountId, Permissions, Publisher};
use mqtt_session::{Credentials, Verdict};
use tokio::sync::watch;

pub(crate) use dispatch::Dispatch;
pub(crate) use jwt::{SURVEYED_MAX, Survey, Surveyed, SurveyedWay, Unserved};
pub(crate) use modes::{Identified, authenticator, identify, survey, tell_open_listeners, warnings};
pub(crate) use mqtt_access::Principal;
pub(crate) use nats::NatsWays;
pub(crate) use refusals::ending_of;
pub(crate) use time::now;

use crate::listener::Peer;
use crate::metrics::{AuthStep, Metrics};
use crate::store;
use refusals::Refusals;

/// How long judging a client may take.
pub(crate) const JUDGED_WITHIN: Duration = Duration::from_secs(10);

/// A verdict that is being reached.
pub(crate) type Judging<'a> = Pin<Box<dyn Future<Output = Verdict<Arc<Principal>>> + Send + 'a>>;

/// Looking for changes.
pub(crate) type Following<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// A way that is being looked for.
pub(crate) type Finding<'a> = Pin<Box<dyn Future<Output = Option<Result<store::Credentials, String>>> + Send + 'a>>;

/// Permissions that are being looked for.
pub(crate) type Looking<'a> = Pin<Box<dyn Future<Output = Option<Arc<Permissions>>> + Send + 'a>>;

/// What has become of a principal that was accepted before.
#[derive(Clone, Debug)]
pub(crate) enum Again {
    /// It is as it was.
    Same,
    /// It goes on as this one.
    Changed(Arc<Principal>),
    /// It would not be accepted any more, and is refused at this step.
    Gone(AuthStep),
}

/// Knows who clients are.
pub(crate) trait Authenticator: Send + Sync {
    /// Judges what a client says about itself. What it refuses is final, counted and in the log ([`Refusals`]). Dropped when the
    /// client is gone, or when it takes longer than [`JUDGED_WITHIN`].
    fn judge<'a>(&'a self, credentials: Credentials<'a>, peer: &'a Peer) -> Judging<'a>;

    /// Changes whenever who was accepted before is to be judged again.
    fn changes(&self) -> watch::Receiver<u64>;

    /// Judges who was accepted before, and is connected with this client id. It waits for nobody.
    fn judge_again(&self, principal: &Principal, client_id: &str) -> Again;

    /// What a user may do now who was accepted before and is not connected any more, with this client id. `None`: nobody knows,
    /// or there is no such user any more.
    fn permissions_of<'a>(&'a self, _publisher: &'a Publisher, _client_id: &'a str) -> Looking<'a> {
        Box::pin(ready(None))
    }

    /// Our own way into an account, where whoever judges has one of its own for it, or should have and says what is missing.
    fn way<'a>(&'a self, _account: &'a AccountId) -> Finding<'a> {
        Box::pin(ready(None))
    }

    /// What has to be known beyond a restart is kept beside the list of accounts.
    fn remember_in(&self, _accounts: &store::Accounts) {}

    /// Looks for changes as long as it is polled, which is as long as clients are served.
    fn follow(&self) -> Following<'_> {
        Box::pin(pending())
    }
}

/// Takes everybody, whatever name and password they give, for one and the same. None of the methods of MQTT 5 is offered
/// [MQTT-4.12.0-1].
#[derive(Debug)]
pub(crate) struct Anyone {
    principal: Arc<Principal>,
    changes: watch::Sender<u64>,
    refusals: Refusals,
}

impl Anyone {
    pub(crate) fn new(metrics: Arc<Metrics>) -> Self {
        Self {
            principal: Arc::new(Principal::all()),
            changes: watch::Sender::default(),
            refusals: Refusals::new(metrics),
        }
    }
}

impl Authenticator for Anyone {
    fn judge<'a>(&'a self, credentials: Credentials<'a>, peer: &'a Peer) -> Judging<'a> {
        let verdict = match credentials.connect.properties.authentication_method {
            None => Verdict::Accepted(Arc::clone(&self.principal), None),
            Some(_) => Verdict::Refused(self.refusals.report(credentials.connect, peer, AuthStep::Method)),
        };
        Box::pin(ready(verdict))
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn judge_again(&self, _principal: &Principal, _client_id: &str) -> Again {
        Again::Same
    }
}
