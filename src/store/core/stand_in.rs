//! Says "no responders" where nats-server does not because of us.
//!
//! The server tells a requester at once that nobody listens. A device with `#` makes its sidecar listen to everything, so that
//! every request of the account seems to have somebody to answer it, and waits for that. So who comes upon a request by such a
//! subscription asks who else listens ([`crate::nats::Listener`]), and when there are only sidecars that listen to everything, says
//! what the server would have said.
//!
//! Nothing depends on it: where it cannot be known in time, or is asked too often, the requester waits as long as it is patient.
//!
//! **Invariant:** a request that somebody may answer is not answered by us. Whoever listens to everything is taken for somebody who
//! answers, unless it is a sidecar.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytestring::ByteString;
use parking_lot::Mutex;

use super::message::CoreMessage;
use crate::nats::{Client, LinkCounts, Listener};
use crate::store::connection::Link;
use crate::tasks::Tasks;

/// Requests about which the servers are asked in a second. Of those that a stream takes, which have an answer nearly always, half
/// as many.
const ASKED_PER_SECOND: f64 = 400.0;
/// Of these, under way at the same time.
const UNDER_WAY_MAX: usize = 16;
/// How long they may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// How long it is taken for granted that somebody listens to a subject, and how many of these are kept.
const KNOWN_FOR: Duration = Duration::from_secs(1);
const KNOWN_MAX: usize = 4_096;
/// Where requests of these begin nobody is told that nobody listens: servers do, and do not say so, or clients wait for answers.
const LEFT_OUT: [char; 2] = ['$', '_'];
/// But there they say so.
const NOT_LEFT_OUT: [&str; 4] = ["$KV.", "$O.", "$OBJ.", "$SRV."];

/// Asks who listens, and says that nobody does.
pub(super) struct StandIn {
    client: Client,
    counts: LinkCounts,
    /// Name of the connections on which sidecars listen for devices.
    sidecars: String,
    /// Begins the reply subjects of those who wait for one answer.
    inboxes: String,
    tasks: Tasks,
    state: Mutex<State>,
}

struct State {
    /// Their reply subjects.
    under_way: HashSet<ByteString>,
    /// Subjects that somebody listens to, and until when that counts.
    served: HashMap<ByteString, Instant>,
    /// Questions that may be asked now.
    budget: f64,
    at: Instant,
}

/// Whether a subscription is one to everything, whatever it is, or to everything of some depth.
pub(super) fn is_to_everything(subject: &str) -> bool {
    subject.split('.').all(|token| matches!(token, "*" | ">"))
}

impl StandIn {
    /// For what comes on `link`; asks on `requests`.
    pub(super) fn new(link: &Link, requests: &Link) -> Arc<Self> {
        Arc::new(Self {
            client: requests.client.clone(),
            counts: link.client.counts().clone(),
            sidecars: link.client.name().to_owned(),
            inboxes: format!("{}.", link.inboxes),
            tasks: link.tasks.clone(),
            state: Mutex::new(State {
                under_way: HashSet::new(),
                served: HashMap::new(),
                budget: ASKED_PER_SECOND,
                at: Instant::now(),
            }),
        })
    }

    /// A message has come by a subscription to everything. `is_captured`: a stream has its subject.
    pub(super) fn heard(self: &Arc<Self>, message: &CoreMessage, is_captured: impl FnOnce(&str) -> bool) {
        let Some(reply) = message.reply.as_ref().filter(|reply| reply.starts_with(&self.inboxes)) else { return };
        let subject = &message.subject;
        let is_left_out =
            subject.starts_with(LEFT_OUT) && !NOT_LEFT_OUT.iter().any(|prefix| subject.starts_with(prefix));
        if message.status.is_some() || is_left_out {
            return;
        }
        let is_captured = is_captured(subject);
        if self.state.lock().may_ask(subject, reply, is_captured, Instant::now()) {
            let (stand_in, subject, reply) = (Arc::clone(self), subject.clone(), reply.clone());
            self.tasks.spawn(async move { stand_in.look(subject, reply).await });
        }
    }

    async fn look(&self, subject: ByteString, reply: ByteString) {
        let listeners = self.client.listeners(subject.as_bytes(), ANSWER_WITHIN).await;
        let is_known = listeners.is_some();
        let is_served = listeners.is_none_or(|all| all.iter().any(|listener| !self.only_looks_on(listener)));
        if !is_served && self.client.say_no_responders(reply.as_bytes(), subject.as_bytes()).is_ok() {
            self.counts.stood_in();
        }
        let mut state = self.state.lock();
        state.under_way.remove(&reply);
        if is_served && is_known {
            state.note_served(subject, Instant::now());
        }
    }

    /// A sidecar, for a device that listens to everything. A shared subscription is not, since NATS clients may share it.
    fn only_looks_on(&self, listener: &Listener) -> bool {
        match listener {
            Listener::Client { name, subscription, is_in_group } => {
                *name == self.sidecars && is_to_everything(subscription) && !is_in_group
            }
            Listener::Other => false,
        }
    }
}

impl State {
    /// Whether to ask about a request, which counts as asked then.
    fn may_ask(&mut self, subject: &ByteString, reply: &ByteString, is_captured: bool, now: Instant) -> bool {
        let since = now.saturating_duration_since(self.at);
        self.budget = (self.budget + since.as_secs_f64() * ASKED_PER_SECOND).min(ASKED_PER_SECOND);
        self.at = now;
        let is_served = self.served.get(subject).is_some_and(|until| now < *until);
        let needed = if is_captured { ASKED_PER_SECOND / 2.0 } else { 1.0 };
        if is_served || self.budget < needed || self.under_way.len() >= UNDER_WAY_MAX {
            return false;
        }
        let is_new = self.under_way.insert(reply.clone());
        if is_new {
            self.budget -= 1.0;
        }
        is_new
    }

    fn note_served(&mut self, subject: ByteString, now: Instant) {
        if self.served.len() >= KNOWN_MAX {
            self.served.retain(|_, until| now < *until);
        }
        if self.served.len() < KNOWN_MAX {
            self.served.insert(subject, now + KNOWN_FOR);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(now: Instant) -> State {
        State { under_way: HashSet::new(), served: HashMap::new(), budget: ASKED_PER_SECOND, at: now }
    }

    #[test]
    fn what_consists_of_wildcards_is_everything() {
        for subject in [">", "*", "*.>", "*.*"] {
            assert!(is_to_everything(subject), "{subject}");
        }
        for subject in ["a", "a.>", "*.a", "*.a.>", "a.*"] {
            assert!(!is_to_everything(subject), "{subject}");
        }
    }

    #[test]
    fn it_is_asked_once_about_a_request_and_not_about_what_somebody_serves() {
        let now = Instant::now();
        let mut state = state(now);
        let (a, b) = (ByteString::from_static("a"), ByteString::from_static("b"));
        let reply = |n: usize| ByteString::from(format!("_INBOX.{n}"));
        assert!(state.may_ask(&a, &reply(1), false, now));
        assert!(!state.may_ask(&a, &reply(1), false, now), "the copy of another subscription");
        state.note_served(a.clone(), now);
        assert!(!state.may_ask(&a, &reply(2), false, now) && state.may_ask(&b, &reply(2), false, now));
        assert!(state.may_ask(&a, &reply(3), false, now + KNOWN_FOR));
        state.under_way.clear();
        for n in 0..UNDER_WAY_MAX {
            assert!(state.may_ask(&b, &reply(n), false, now + KNOWN_FOR));
        }
        assert!(!state.may_ask(&b, &reply(99), false, now + KNOWN_FOR));
    }

    #[test]
    fn streams_that_are_written_to_leave_some_of_the_questions_to_others() {
        let now = Instant::now();
        let mut state = state(now);
        let mut ask = |is_captured, now| {
            let (subject, reply) = (ByteString::from_static("a"), ByteString::from_static("_INBOX.1"));
            let may = state.may_ask(&subject, &reply, is_captured, now);
            state.under_way.clear();
            may
        };
        let captured = (0..1_000).filter(|_| ask(true, now)).count();
        let others = (0..1_000).filter(|_| ask(false, now)).count();
        assert_eq!((captured, others), (201, 199));
        assert!(ask(false, now + Duration::from_millis(10)));
    }
}
