//! The JWT of an account when a client needs it: what is known, or what the resolver has. One question for all who wait for the
//! same answer.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use foldhash::HashMap;
use mqtt_access::jwt::{AccountRefusal, is_account};
use parking_lot::Mutex;
use tokio::sync::OnceCell;
use tokio::time::Instant;

use super::known::{Current, Known, Lookup, Source};
use super::system::System;
use crate::auth::time;
use crate::auth::turns::Turns;
use crate::metrics::AuthStep;

/// Questions to the resolver under way; who asks for another account waits for a turn, which goes round the addresses.
const LOOKUPS_MAX: usize = 64;

/// An account that nobody uses is asked for again when it was not heard of for so long. Those that are in use are asked for as
/// often in any case ([`super::system`]).
const FRESH_FOR: Duration = Duration::from_secs(90);

/// So long after nobody has answered nobody is asked for the sake of users who are not there.
const SILENT_FOR: Duration = Duration::from_secs(5);

/// Why there is no account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unresolved {
    /// There is none.
    Unknown,
    /// Its JWT does not count.
    Refused(AccountRefusal),
    /// The resolver cannot be asked.
    Unreachable,
}

impl Unresolved {
    /// The step at which a client is refused for it.
    pub(super) const fn step(self) -> AuthStep {
        match self {
            Self::Unknown => AuthStep::AccountUnknown,
            Self::Refused(AccountRefusal::Foreign) => AuthStep::AccountUntrusted,
            Self::Refused(AccountRefusal::Expired) => AuthStep::AccountExpired,
            Self::Refused(AccountRefusal::OtherAccount) => AuthStep::AccountMismatch,
            Self::Refused(_) => AuthStep::AccountJwt,
            Self::Unreachable => AuthStep::ResolverUnreachable,
        }
    }
}

/// Finds accounts.
pub(super) struct Resolver {
    known: Arc<Known>,
    /// Who is asked. Without it everything that there is is known.
    system: Option<Arc<System>>,
    under_way: Mutex<HashMap<Box<str>, Arc<Answer>>>,
    turns: Arc<Turns>,
    /// Since when nobody answers.
    silent: Mutex<Option<Instant>>,
}

/// What those get who wait for the same account.
type Answer = OnceCell<Result<Current, Unresolved>>;

/// Somebody waits for an answer. The last one to go clears up.
struct Waiting<'a> {
    resolver: &'a Resolver,
    id: &'a str,
    answer: Arc<Answer>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut under_way = self.resolver.under_way.lock();
        // One is here, one in the table.
        let is_done = Arc::strong_count(&self.answer) == 2 || self.answer.initialized();
        if is_done && under_way.get(self.id).is_some_and(|answer| Arc::ptr_eq(answer, &self.answer)) {
            under_way.remove(self.id);
        }
    }
}

impl Resolver {
    pub(super) fn new(known: Arc<Known>, system: Option<Arc<System>>) -> Self {
        Self { known, system, under_way: Mutex::default(), turns: Turns::new(LOOKUPS_MAX), silent: Mutex::default() }
    }

    /// An account, for a client that comes from an address.
    pub(super) async fn account(&self, id: &str, from: IpAddr) -> Result<Current, Unresolved> {
        let found = self.found(id, from).await?;
        self.known.settled(id, found).await.ok_or_else(|| self.none(id))
    }

    /// Why there is none, by what is known.
    fn none(&self, id: &str) -> Unresolved {
        self.known.held_back(id).map_or(Unresolved::Unknown, Unresolved::Refused)
    }

    async fn found(&self, id: &str, from: IpAddr) -> Result<Current, Unresolved> {
        let Some(system) = &self.system else { return self.of_what_is_known(id) };
        let older = match self.known.lookup(id) {
            Lookup::Known(current, age) if age < FRESH_FOR => return Ok(current),
            Lookup::Known(current, _) => Some(current),
            Lookup::Deleted | Lookup::Absent(None) => return Err(Unresolved::Unknown),
            Lookup::Absent(Some(refusal)) => return Err(Unresolved::Refused(refusal)),
            Lookup::Nothing => None,
        };
        let waiting = self.wait(id);
        let answer = waiting.answer.get_or_init(|| self.ask(system, id, from)).await.clone();
        *self.silent.lock() = matches!(answer, Err(Unresolved::Unreachable)).then(Instant::now);
        match (answer, older) {
            // What counted before the resolver was away counts.
            (Err(Unresolved::Unreachable), Some(older)) => Ok(older),
            (answer, _) => answer,
        }
    }

    /// An account, for users of it who are not connected any more: many of them when a sidecar is gone, so while nobody answers, what is
    /// known counts and nobody is asked. `None`: nothing is.
    pub(super) async fn account_of_absent(&self, id: &str) -> Option<Current> {
        let is_silent = self.silent.lock().is_some_and(|since| since.elapsed() < SILENT_FOR);
        // Whoever else names accounts in records has nothing to ask for in their place.
        if is_silent || !is_account(id) {
            return self.known.get(id);
        }
        self.account(id, [0, 0, 0, 0].into()).await.ok()
    }

    fn of_what_is_known(&self, id: &str) -> Result<Current, Unresolved> {
        match self.known.lookup(id) {
            Lookup::Known(current, _) => Ok(current),
            Lookup::Absent(Some(refusal)) => Err(Unresolved::Refused(refusal)),
            Lookup::Deleted | Lookup::Absent(None) | Lookup::Nothing => Err(self.none(id)),
        }
    }

    fn wait<'a>(&'a self, id: &'a str) -> Waiting<'a> {
        let answer = Arc::clone(self.under_way.lock().entry(id.into()).or_default());
        Waiting { resolver: self, id, answer }
    }

    async fn ask(&self, system: &System, id: &str, from: IpAddr) -> Result<Current, Unresolved> {
        let _turn = self.turns.wait(from).await;
        let missed = self.known.missed();
        let answer = self.ask_once(system, id).await;
        if answer.is_err() || self.known.missed() == missed {
            return answer;
        }
        // What was pushed meanwhile may be newer than the answer; from now on it is heard of.
        self.ask_once(system, id).await
    }

    async fn ask_once(&self, system: &System, id: &str) -> Result<Current, Unresolved> {
        match system.look_up(id).await {
            Err(()) => Err(Unresolved::Unreachable),
            Ok(None) => match self.known.get(id) {
                // Only an operator deletes an account.
                Some(current) => Ok(current),
                None => {
                    self.known.set_absent(id, None);
                    Err(Unresolved::Unknown)
                }
            },
            Ok(Some(text)) => {
                let offered = self.known.offer(id, &text, Source::Stored, time::now());
                match (self.known.get(id), offered) {
                    (Some(current), _) => Ok(current),
                    (None, Err(refusal)) => Err(Unresolved::Refused(refusal)),
                    (None, Ok(())) => Err(Unresolved::Unknown),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::task::{Context, Waker};

    use super::*;
    use crate::store::NatsOptions;

    #[tokio::test(start_paused = true)]
    async fn all_who_wait_for_an_account_get_one_answer_and_nothing_is_left_of_those_who_go() {
        let system = System::new(NatsOptions::default(), true);
        let resolver = Resolver::new(Arc::default(), Some(system));
        let from: IpAddr = [192, 0, 2, 1].into();
        let under_way = || resolver.under_way.lock().len();
        let mut cx = Context::from_waker(Waker::noop());
        {
            let mut waits = [Box::pin(resolver.account("A", from)), Box::pin(resolver.account("A", from))];
            assert!(waits.iter_mut().all(|wait| wait.as_mut().poll(&mut cx).is_pending()));
            assert_eq!((under_way(), resolver.turns.free()), (1, LOOKUPS_MAX - 1));
        }
        assert_eq!((under_way(), resolver.turns.free()), (0, LOOKUPS_MAX));
        let asked = [resolver.account("A", from), resolver.account("A", from)];
        let answers = futures_util::future::join_all(asked).await;
        assert!(answers.iter().all(|answer| matches!(answer, Err(Unresolved::Unreachable))), "{answers:?}");
        assert_eq!((under_way(), resolver.turns.free()), (0, LOOKUPS_MAX));
    }
}
