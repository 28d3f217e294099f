//! Mode `jwt`: users by their JWTs, whose accounts an operator has signed. Every step of the chain is judged here (`mqtt_access::jwt`),
//! so users may be limited to MQTT, and their networks are those of the devices.
//!
//! # Layout
//! - `verifying`: signatures of many users at once
//! - `known`: operators and account JWTs that count; `resolver`: an account when a client needs it
//! - `system`: what the system account tells; `files`: account JWTs in files
//! - `memory`: which of them counted before a restart
//! - `held`: what is kept of a user who is connected, to judge it again
//! - `ways`, `minted`: our own way into an account; `survey`: into all that there are
//!
//! **Invariant:** nothing of a JWT's text is kept: what was verified is kept as claims.

mod files;
mod held;
mod known;
mod memory;
mod minted;
mod resolver;
mod survey;
mod system;
mod verifying;
mod ways;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use mqtt_access::jwt::{Circumstances, Listener, Proof, UnverifiedUserJwt, UserJwt};
use mqtt_access::{AccountId, Principal, Publisher, Secret};
use mqtt_session::{Credentials, Verdict};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

use self::files::{Files, LOOK_EVERY};
use self::held::Held;
use self::known::{Known, OperatorSource};
use self::memory::AtHome;
use self::resolver::{Resolver, Unresolved};
pub(crate) use self::survey::{SURVEYED_MAX, Survey, Surveyed, SurveyedWay, Unserved};
use self::system::System;
use self::verifying::Verifying;
pub(crate) use self::ways::{Ways, are_creds_of};
use super::failures::Failures;
use super::nkey::{self, Stage};
use super::refusals::{Refusals, step_of};
use super::{Again, Authenticator, Finding, Following, JUDGED_WITHIN, Judging, Looking, time};
use crate::config::{JwtConfig, ResolverConfig, read_operator};
use crate::listener::{Peer, Protocol};
use crate::metrics::{AuthStep, Metrics};
use crate::stamp::Stamp;
use crate::store::{self, NatsOptions};

/// So long before [`JUDGED_WITHIN`] is over a refusal is said that waits.
const MARGIN: Duration = Duration::from_secs(1);

/// Knows users by their JWTs.
pub(crate) struct JwtUsers {
    known: Arc<Known>,
    verifying: Verifying,
    resolver: Resolver,
    system: Option<Arc<System>>,
    system_creds: Option<PathBuf>,
    files: Option<Arc<Mutex<Files>>>,
    operator: Option<PathBuf>,
    /// How its file was before it was read at the start.
    operator_seen: Option<Stamp>,
    ways: Ways,
    failures: Failures,
    refusals: Refusals,
}

/// A client, as far as it is judged.
enum Judged {
    /// It is this one.
    Known(Box<Principal>),
    /// It is to prove that it has its key.
    Asked,
}

/// At which step somebody is refused.
struct Refused {
    step: AuthStep,
    /// Who, as far as its JWT could be read: name and key.
    user: Option<(String, String)>,
}

impl From<AuthStep> for Refused {
    fn from(step: AuthStep) -> Self {
        Self { step, user: None }
    }
}

impl JwtUsers {
    /// As configured. `nats`: how nats-server is reached.
    pub(crate) fn new(config: &JwtConfig, nats: NatsOptions, metrics: Arc<Metrics>) -> Self {
        let known = Arc::<Known>::default();
        let has_accounts = config.resolver == ResolverConfig::System;
        let system = config.system_creds.clone().map(|creds| {
            let credentials = store::Credentials::CredsFile(creds);
            System::new(NatsOptions { credentials, outage: store::Outage::default(), ..nats }, has_accounts)
        });
        let files = match &config.resolver {
            ResolverConfig::System => None,
            ResolverConfig::Path(path) => Some(Arc::new(Mutex::new(Files::new(path.clone())))),
        };
        let asked = system.clone().filter(|_| files.is_none());
        let users = Self {
            resolver: Resolver::new(Arc::clone(&known), asked),
            ways: Ways::new(config, Arc::clone(&known)),
            system,
            system_creds: config.system_creds.clone(),
            files,
            known,
            verifying: Verifying::default(),
            operator: config.operator.clone(),
            operator_seen: config.operator.as_deref().map(Stamp::of),
            failures: Failures::default(),
            refusals: Refusals::new(metrics),
        };
        users.read_operator();
        users.look();
        users
    }

    /// Our own ways into accounts.
    pub(crate) const fn ways(&self) -> &Ways {
        &self.ways
    }

    fn read_operator(&self) {
        match self.operator.as_deref().map(read_operator) {
            None => {}
            Some(Ok(operator)) => self.known.set_operators(OperatorSource::File, vec![operator]),
            Some(Err(error)) => tracing::warn!("the operator stays as it was: {error}"),
        }
    }

    fn look(&self) {
        if let Some(files) = &self.files {
            files.lock().look(&self.known);
        }
    }

    /// Looks at the files for ever.
    async fn look_again_and_again(&self) {
        let mut seen = self.operator_seen;
        if self.operator.is_none() && self.files.is_none() {
            return std::future::pending().await;
        }
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let stamp = self.operator.as_deref().map(Stamp::of);
            if std::mem::replace(&mut seen, stamp) != stamp {
                self.read_operator();
            }
            if let Some(files) = self.files.clone() {
                // Many take a while, and that waits nowhere else.
                let known = Arc::clone(&self.known);
                let _ = tokio::task::spawn_blocking(move || files.lock().look(&known)).await;
            }
        }
    }

    async fn follow_system(&self) {
        match &self.system {
            Some(system) => system.follow(&self.known).await,
            None => std::future::pending().await,
        }
    }

    /// Who a client is, or at which step it fails.
    async fn identified(&self, credentials: &Credentials<'_>, peer: &Peer) -> Result<Judged, Refused> {
        let connect = credentials.connect;
        let signed;
        let (jwt, proof) = match connect.properties.authentication_method.as_deref() {
            None => {
                let password = connect.password.as_ref().ok_or(AuthStep::NoCredentials)?;
                (std::str::from_utf8(password.expose()).map_err(|_| AuthStep::JwtMalformed)?, Proof::None)
            }
            Some(nkey::METHOD) => {
                let jwt = nkey::named(credentials).ok_or(AuthStep::JwtMalformed)?;
                signed = match nkey::stage(credentials) {
                    Stage::Answered { signed, signature } => (signed, signature),
                    Stage::Begun => {
                        self.decoded(jwt, &circumstances(peer, Proof::None)).await?;
                        return Ok(Judged::Asked);
                    }
                };
                (jwt, Proof::Signature { signed: &signed.0, signature: signed.1 })
            }
            Some(_) => return Err(AuthStep::Method.into()),
        };
        let principal = self.chain(jwt, &connect.client_id, circumstances(peer, proof)).await?;
        Ok(Judged::Known(Box::new(principal)))
    }

    /// The first step: a user JWT that its issuer has signed, and whose claims are fine by themselves.
    async fn decoded(&self, jwt: &str, given: &Circumstances<'_>) -> Result<UserJwt, AuthStep> {
        let unverified = UnverifiedUserJwt::read(jwt).map_err(step_of)?;
        let user = self.verifying.verified(unverified).await.ok_or(AuthStep::Busy)?.map_err(step_of)?;
        user.check_claims(given).map_err(step_of)?;
        Ok(user)
    }

    /// Every step of the chain.
    async fn chain(&self, jwt: &str, client_id: &str, given: Circumstances<'_>) -> Result<Principal, Refused> {
        let user = self.decoded(jwt, &given).await?;
        let from = given.peer.unwrap_or([0, 0, 0, 0].into());
        let judged = match self.resolver.account(user.account_id(), from).await {
            Err(unresolved) => Err(unresolved.step()),
            Ok(current) => {
                let judged = user.judge(&current.account, &current.operators, &given).map_err(step_of);
                judged.map(|principal| (principal, current))
            }
        };
        match judged {
            Ok((principal, current)) if principal.is_client_id_allowed(client_id) => {
                Ok(Principal { evidence: Some(Arc::new(Held::new(user, &given, current))), ..principal })
            }
            refused => {
                let step = refused.err().unwrap_or(AuthStep::ClientId);
                Err(Refused { step, user: Some((user.name().to_owned(), user.id().to_owned())) })
            }
        }
    }

    async fn verdict(&self, credentials: Credentials<'_>, peer: &Peer) -> Verdict<Arc<Principal>> {
        let latest = Instant::now() + JUDGED_WITHIN - MARGIN;
        let Refused { step, user } = match self.identified(&credentials, peer).await {
            Ok(Judged::Known(principal)) => return Verdict::Accepted(Arc::new(*principal), None),
            Ok(Judged::Asked) => return nkey::challenge(),
            Err(refused) => refused,
        };
        let (name, key) = user.unzip();
        let name = name.as_deref().or(connect_user(&credentials)).unwrap_or_default();
        let reason = self.refusals.report_of(credentials.connect, peer, step, (name, key.as_deref()));
        if !matches!(step, AuthStep::ResolverUnreachable | AuthStep::Busy) {
            let delay = self.failures.failed(peer.addr.counted_by(), key.as_deref());
            tokio::time::sleep_until(latest.min(Instant::now() + delay)).await;
        }
        Verdict::Refused(reason)
    }

    /// Who a client would be with this JWT, and whether it would have to prove that it has its key. Asks whoever has to be asked.
    pub(crate) async fn identify(&self, jwt: &Secret, client_id: &str) -> Result<(Arc<Principal>, bool), AuthStep> {
        let jwt = std::str::from_utf8(jwt.expose()).map_err(|_| AuthStep::JwtMalformed)?;
        let given = |proof| Circumstances {
            now: time::now(),
            listener: Listener::Mqtt,
            peer: None,
            has_trusted_proxy: false,
            proof,
        };
        let judged = async {
            match self.chain(jwt, client_id, given(Proof::None)).await {
                Err(refused) if refused.step == AuthStep::SignatureMissing => {
                    self.chain(jwt, client_id, given(Proof::Earlier)).await.map(|principal| (Arc::new(principal), true))
                }
                judged => judged.map(|principal| (Arc::new(principal), false)),
            }
        };
        tokio::select! {
            judged = judged => judged.map_err(|refused| refused.step),
            () = self.follow() => Err(AuthStep::ResolverUnreachable),
        }
    }
}

impl Authenticator for JwtUsers {
    fn judge<'a>(&'a self, credentials: Credentials<'a>, peer: &'a Peer) -> Judging<'a> {
        Box::pin(self.verdict(credentials, peer))
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.known.changes()
    }

    fn judge_again(&self, principal: &Principal, client_id: &str) -> Again {
        let held = principal.evidence.as_deref().and_then(|evidence| evidence.downcast_ref::<Held>());
        // Whoever is not ours is not ours to judge.
        let Some(held) = held else { return Again::Same };
        let Some(current) = self.known.get(principal.account.as_str()) else {
            return Again::Gone(AuthStep::AccountUnknown);
        };
        if held.is_judged(&current) {
            return Again::Same;
        }
        match held.judge(&current) {
            Err(refusal) => Again::Gone(step_of(refusal)),
            Ok(now) if !now.is_client_id_allowed(client_id) => Again::Gone(AuthStep::ClientId),
            Ok(now) if is_same(principal, &now) => Again::Same,
            Ok(now) => Again::Changed(Arc::new(Principal { evidence: principal.evidence.clone(), ..now })),
        }
    }

    fn permissions_of<'a>(&'a self, publisher: &'a Publisher, _client_id: &'a str) -> Looking<'a> {
        Box::pin(async move {
            let current = self.resolver.account_of_absent(&publisher.account).await?;
            current.account.permissions_of(publisher, &current.operators).map(Arc::new)
        })
    }

    fn way<'a>(&'a self, account: &'a AccountId) -> Finding<'a> {
        Box::pin(async move {
            // Nobody of it may have come yet.
            let known = self.resolver.account(account.as_str(), [0, 0, 0, 0].into()).await;
            Some(match self.ways.credentials(account) {
                Err(_) if matches!(known, Err(Unresolved::Unreachable)) => {
                    Err("nats-server does not say which signing keys it has".to_owned())
                }
                credentials => credentials.map_err(|no_way| no_way.to_string()),
            })
        })
    }

    fn remember_in(&self, accounts: &store::Accounts) {
        self.known.remember_in(AtHome::new(accounts.clone()));
    }

    fn follow(&self) -> Following<'_> {
        Box::pin(async {
            tokio::join!(self.look_again_and_again(), self.follow_system());
        })
    }
}

/// The name that is not looked at.
fn connect_user<'a>(credentials: &Credentials<'a>) -> Option<&'a str> {
    credentials.connect.username.as_deref()
}

/// Whether one may do what the other may, for as long.
fn is_same(one: &Principal, other: &Principal) -> bool {
    one.permissions.lists() == other.permissions.lists()
        && (one.limits, one.expires, one.account_expires) == (other.limits, other.expires, other.account_expires)
        && (&one.tags, &one.account_name, &one.windows) == (&other.tags, &other.account_name, &other.windows)
}

/// How and when a client comes.
fn circumstances<'a>(peer: &Peer, proof: Proof<'a>) -> Circumstances<'a> {
    Circumstances {
        now: time::now(),
        listener: match peer.entrance.protocol {
            Protocol::Mqtt => Listener::Mqtt,
            Protocol::Ws => Listener::MqttWs,
        },
        peer: peer.addr.ip().map(|ip| ip.to_canonical()),
        has_trusted_proxy: false,
        proof,
    }
}

#[cfg(test)]
mod tests;
