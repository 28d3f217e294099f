//! Mode `nats`: nats-server knows who a client is. Its credentials are tried on a connection to nats-server, and on that it is
//! asked who that is.
//!
//! **Invariant:** what the answer says of an account is not believed: the link that it reaches proves it, unless nats-server has
//! another name for the account of that link than for the one of the user. An account that imports what another one publishes hears
//! its answers.
//!
//! # Layout
//! - `offered`: the credentials of a client; `questions`: answers that are waited for, and the links that they come by
//! - `answer`: what an answer makes of a client
//! - `known`: answers of a moment ago, and who is connected by them; `recheck`: asks again about those

mod answer;
mod known;
mod offered;
mod questions;
mod recheck;

use std::sync::Arc;
use std::time::Duration;

use mqtt_access::AccountId;
use mqtt_session::{Credentials, Verdict};
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};

use super::refusals::Refusals;
use super::slowly::Refusing;
use super::time::now;
use super::turns::Turns;
use super::{Again, Authenticator, Following, Judging, Principal};
use crate::config::AuthConfig;
use crate::listener::Peer;
use crate::metrics::AuthStep;
use crate::nats::LinkOptions;
use crate::nats::trial::{self, TrialError};
use crate::store::{Connector, NatsOptions, OpenError};
use answer::Answer;
use known::Known;
use offered::Offered;
use questions::{Questions, Way};

/// The question who somebody is.
const QUESTION: &str = "$SYS.REQ.USER.INFO";

/// Clients that are tried at once. The others wait for their turn, which goes round the addresses; who gets none in time is refused
/// with 0x88.
const TRIALS_AT_ONCE: usize = 64;

/// How long an answer may take.
const ANSWERED_WITHIN: Duration = Duration::from_secs(2);

/// How long a second one is waited for: nobody but the server answers, or somebody forges answers.
const ALONE_FOR: Duration = Duration::from_millis(100);

/// How we get to nats-server, as which users of our own.
#[derive(Clone, Debug)]
pub(crate) struct NatsWays {
    /// Where it is, and who we are there, in the home account.
    pub(crate) home: NatsOptions,
    /// The same for other accounts whose users are let in.
    pub(crate) others: Vec<(AccountId, NatsOptions)>,
    /// First tokens of reply subjects that our users may subscribe to.
    pub(crate) inbox_prefix: String,
}

/// Has nats-server judge.
pub(super) struct NatsUsers {
    /// How it is connected to for a trial.
    trial: LinkOptions,
    ways: Vec<Way>,
    questions: Questions,
    known: Known,
    turns: Arc<Turns>,
    refusing: Refusing,
    changes: watch::Sender<u64>,
}

impl NatsUsers {
    /// Nothing is connected yet: [`Authenticator::follow`] does that.
    ///
    /// # Errors
    /// A URL, or a file with credentials of ours, cannot be used.
    pub(super) fn new(auth: &AuthConfig, ways: NatsWays, refusals: Refusals) -> Result<Self, OpenError> {
        let NatsWays { home, others, inbox_prefix } = ways;
        let home = Connector::new(home, inbox_prefix.clone())?;
        let trial = home.trial("trial");
        let mut ways = vec![Way::new(AccountId::new(""), home)];
        for (account, options) in others {
            ways.push(Way::new(account, Connector::new(options, inbox_prefix.clone())?));
        }
        Ok(Self {
            trial,
            ways,
            questions: Questions::new(&inbox_prefix),
            known: Known::new(auth.cache.get(), auth.recheck.get()),
            turns: Turns::new(TRIALS_AT_ONCE),
            refusing: Refusing::new(refusals),
            changes: watch::Sender::default(),
        })
    }

    /// Who a client is, or at which step it fails.
    async fn identified(
        &self,
        credentials: Credentials<'_>,
        peer: &Peer,
        latest: Instant,
    ) -> Result<Arc<Principal>, AuthStep> {
        let connect = credentials.connect;
        if connect.properties.authentication_method.is_some() {
            return Err(AuthStep::Method);
        }
        let offered = Offered::of(connect).ok_or(AuthStep::NatsRefused)?;
        let own = offered.own_limits(peer, now())?;
        let fingerprint = self.known.fingerprint(peer, &offered);
        let asked = async {
            if let Some(known) = self.known.get(fingerprint, &offered) {
                return Ok(known);
            }
            self.questions.is_heard().await;
            let _turn = self.turns.wait(peer.addr.counted_by()).await;
            // Somebody with the same credentials may have been faster.
            if let Some(known) = self.known.get(fingerprint, &offered) {
                return Ok(known);
            }
            let principal = self.ask(&offered).await?.principal(own, now())?;
            let (principal, is_another) = self.known.keep(fingerprint, &offered, principal).ok_or(AuthStep::Busy)?;
            if is_another {
                self.changes.send_modify(|version| *version += 1);
            }
            Ok(principal)
        };
        let principal = timeout_at(latest, asked).await.map_err(|_| AuthStep::Busy)??;
        principal.is_client_id_allowed(&connect.client_id).then_some(principal).ok_or(AuthStep::ClientId)
    }

    /// Tries credentials, and asks who that is.
    async fn ask(&self, offered: &Offered) -> Result<Answer, AuthStep> {
        let mut question = self.questions.ask();
        let login = offered.login(now());
        let options = LinkOptions { identify: Arc::new(move |_| Ok(login.clone())), ..self.trial.clone() };
        let trial = match trial::ask(&options, QUESTION, question.reply()).await {
            Ok(trial) => trial,
            Err(TrialError::Refused) => {
                offered.tell_why_refused(now());
                return Err(AuthStep::NatsRefused);
            }
            Err(TrialError::Denied) => {
                tracing::info!(
                    "nats-server takes the credentials, and their user may not publish to {QUESTION}: allow that"
                );
                return Err(AuthStep::NatsQuestion);
            }
            Err(TrialError::Unreachable(error)) => {
                tracing::info!(%error, "nats-server could not be asked who a client is");
                return Err(AuthStep::NatsUnreachable);
            }
        };
        let user_account = trial.account.as_deref();
        let Ok(Some(heard)) = timeout(ANSWERED_WITHIN, question.answer(user_account)).await else {
            let account = user_account.unwrap_or("?");
            tracing::warn!(
                account,
                "nats-server takes the credentials, and no link of ours is in the account of their user"
            );
            return Err(AuthStep::NatsNoAnswer);
        };
        let account = heard.account.as_str();
        if timeout(ALONE_FOR, question.answer(user_account)).await.is_ok() {
            tracing::warn!(account, "somebody else than nats-server answers {QUESTION} in this account");
            return Err(AuthStep::NatsAnswers);
        }
        Answer::new(heard.account, &heard.payload).ok_or(AuthStep::NatsAnswer)
    }

    async fn verdict(&self, credentials: Credentials<'_>, peer: &Peer) -> Verdict<Arc<Principal>> {
        let latest = Refusing::latest();
        match Box::pin(self.identified(credentials, peer, latest)).await {
            Ok(principal) => Verdict::Accepted(principal, None),
            Err(step) => self.refusing.verdict(credentials, peer, step, latest).await,
        }
    }
}

impl Authenticator for NatsUsers {
    fn judge<'a>(&'a self, credentials: Credentials<'a>, peer: &'a Peer) -> Judging<'a> {
        Box::pin(self.verdict(credentials, peer))
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn judge_again(&self, principal: &Principal, _client_id: &str) -> Again {
        self.known.judge_again(principal)
    }

    fn follow(&self) -> Following<'_> {
        Box::pin(async move {
            tokio::join!(self.questions.listen(&self.ways), self.recheck());
        })
    }
}
