//! Questions to nats-server, and the answers that come by our own links.

use std::sync::Arc;

use bytes::Bytes;
use foldhash::HashMap;
use futures_util::future::join_all;
use mqtt_access::AccountId;
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};

use crate::nats::Subscriber;
use crate::store::{Connector, Link, Role};

/// Answers to one question that wait: a second one is enough to know that somebody forges them, beside those that come out of accounts
/// that are imported.
const ANSWERS_MAX: usize = 8;

/// Answers of all questions that wait to be handed on, by one link.
const QUEUED_MAX: usize = 1024;

/// When it is tried again to get into an account that does not let us in.
const AGAIN_AFTER: std::time::Duration = std::time::Duration::from_secs(30);

/// How we get into an account whose users are let in.
pub(super) struct Way {
    account: AccountId,
    connector: Connector,
}

/// An answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Heard {
    /// The account of the link that it came by, by the name that it is configured by.
    pub(super) account: AccountId,
    /// By the name or key that nats-server has for it. `None`: it does not say.
    pub(super) called: Option<Arc<str>>,
    /// What it says.
    pub(super) payload: Bytes,
}

/// What nats-server calls the account of a link. It says so once for each connection, behind CONNECT, and what it says of itself
/// later leaves it out.
#[derive(Debug, Default)]
struct Called {
    epoch: u64,
    name: Option<Arc<str>>,
}

impl Called {
    fn learn(&mut self, epoch: u64, said: Option<&str>) {
        if said.is_some() && self.name.as_deref() != said {
            self.name = said.map(Arc::from);
        } else if said.is_none() && self.epoch != epoch {
            self.name = None;
        }
        self.epoch = epoch;
    }

    fn learn_of(&mut self, link: &Link) {
        let epoch = link.state.borrow().epoch;
        self.learn(epoch, link.client.server_info().remote_account.as_deref());
    }
}

/// Questions that wait for answers.
///
/// **Invariant:** nobody answers who was not asked: where answers go, and each token in it, is random.
pub(super) struct Questions {
    /// Answers come to this, a dot, and a token.
    inbox: String,
    waiting: Mutex<HashMap<u128, mpsc::Sender<Heard>>>,
    /// Whether answers of the home account can be heard.
    is_heard: watch::Sender<bool>,
    /// What nats-server calls that account, where it says so.
    home: Mutex<Option<Arc<str>>>,
}

/// A question. When it is dropped no answer is waited for any more.
pub(super) struct Question<'a> {
    questions: &'a Questions,
    token: u128,
    reply: String,
    answers: mpsc::Receiver<Heard>,
}

impl Way {
    pub(super) fn new(account: AccountId, connector: Connector) -> Self {
        Self { account, connector }
    }

    /// Opens a link, and subscribes there. `None`: it cannot be had now.
    async fn subscribed(&self, subject: &str) -> Option<(Link, Subscriber)> {
        let role = Role {
            name: "auth",
            no_echo: true,
            is_answered_by_anybody: false,
            queue: QUEUED_MAX,
            subscription_queue: QUEUED_MAX,
        };
        let link = match self.connector.link(role, None).await {
            Ok(link) => link,
            Err(error) => {
                tracing::warn!(account = self.account.as_str(), %error, "clients of this account cannot be let in");
                return None;
            }
        };
        let subscriber = link.client.subscribe(subject, link.queue_limits()).ok()?;
        let _ = link.client.flush().await;
        Some((link, subscriber))
    }
}

impl Questions {
    /// `prefix`: first tokens of reply subjects.
    pub(super) fn new(prefix: &str) -> Self {
        let inbox = format!("{prefix}.{:032x}", rand::random::<u128>());
        Self { inbox, waiting: Mutex::default(), is_heard: watch::Sender::default(), home: Mutex::default() }
    }

    /// A question that is about to be asked.
    pub(super) fn ask(&self) -> Question<'_> {
        let token = rand::random::<u128>();
        let (sender, answers) = mpsc::channel(ANSWERS_MAX);
        self.waiting.lock().insert(token, sender);
        Question { questions: self, token, reply: format!("{}.{token:032x}", self.inbox), answers }
    }

    /// Waits until answers can be heard.
    pub(super) async fn is_heard(&self) {
        // The sender is ours, so it is there.
        let _ = self.is_heard.subscribe().wait_for(|is_heard| *is_heard).await;
    }

    /// Hears answers by all ways, for ever.
    pub(super) async fn listen(&self, ways: &[Way]) {
        join_all(ways.iter().map(|way| self.listen_by(way))).await;
    }

    async fn listen_by(&self, way: &Way) {
        let subject = format!("{}.*", self.inbox);
        loop {
            if let Some((link, answers)) = way.subscribed(&subject).await {
                self.hear(&way.account, &link, answers).await;
            }
            tokio::time::sleep(AGAIN_AFTER).await;
        }
    }

    /// Hears answers by a link, as long as there is one.
    async fn hear(&self, account: &AccountId, link: &Link, mut answers: Subscriber) {
        let (mut state, mut called, mut is_told) = (link.state.clone(), Called::default(), false);
        self.learn(account, &mut called, link);
        if account.is_empty() {
            self.is_heard.send_replace(true);
        }
        loop {
            tokio::select! {
                message = answers.next() => {
                    let Some(message) = message else { return };
                    self.learn(account, &mut called, link);
                    if !self.is_home(account, called.name.as_deref()) {
                        self.arrived((account, called.name.as_ref()), message.subject(), message.payload());
                    } else if !std::mem::replace(&mut is_told, true) {
                        let account = account.as_str();
                        tracing::warn!(account, "this account of [accounts] is that of [nats], whose users bring no account: leave it out");
                    }
                }
                Ok(()) = state.changed() => {
                    // Of a new connection it is known when the server has answered.
                    if state.borrow_and_update().connected {
                        let _ = link.client.flush().await;
                    }
                    self.learn(account, &mut called, link);
                }
            }
        }
    }

    fn learn(&self, account: &AccountId, called: &mut Called, link: &Link) {
        called.learn_of(link);
        if account.is_empty() {
            self.home.lock().clone_from(&called.name);
        }
    }

    /// Whether an account of `[accounts]`, which nats-server calls so, is the home account once more. Its link hears what that of the
    /// home account does, and each answer would be there twice.
    fn is_home(&self, account: &AccountId, called: Option<&str>) -> bool {
        !account.is_empty() && called.is_some() && self.home.lock().as_deref() == called
    }

    fn arrived(&self, (account, called): (&AccountId, Option<&Arc<str>>), subject: &[u8], payload: &[u8]) {
        let token = std::str::from_utf8(subject).ok().and_then(|subject| subject.rsplit_once('.'));
        let Some(token) = token.and_then(|(_, token)| u128::from_str_radix(token, 16).ok()) else { return };
        if let Some(waiting) = self.waiting.lock().get(&token) {
            let (account, payload) = (account.clone(), Bytes::copy_from_slice(payload));
            let _ = waiting.try_send(Heard { account, called: called.cloned(), payload });
        }
    }
}

impl Heard {
    /// Whether it can be about a user of the account that nats-server calls so, which is the case where it does not say. A link
    /// hears what its account imports, too.
    fn is_of(&self, called: Option<&str>) -> bool {
        self.called.as_deref().zip(called).is_none_or(|(own, called)| own == called)
    }
}

impl Question<'_> {
    /// Where the answer has to go.
    pub(super) fn reply(&self) -> &str {
        &self.reply
    }

    /// The next answer about a user of the account that nats-server calls so. What comes out of other accounts is none.
    pub(super) async fn answer(&mut self, called: Option<&str>) -> Option<Heard> {
        loop {
            let heard = self.answers.recv().await?;
            if heard.is_of(called) {
                return Some(heard);
            }
            tracing::debug!(
                account = heard.account.as_str(),
                "an answer is left out that came out of an account which this one imports from"
            );
        }
    }
}

impl Drop for Question<'_> {
    fn drop(&mut self) {
        self.questions.waiting.lock().remove(&self.token);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_answer_reaches_its_question_by_the_account_that_it_came_by() {
        let questions = Questions::new("_INBOX");
        let (mut one, other) = (questions.ask(), questions.ask());
        let (t1, key) = (AccountId::new("T1"), Arc::from("AT1"));
        let by = (&t1, Some(&key));
        questions.arrived(by, one.reply().as_bytes(), b"me");
        questions.arrived(by, b"_INBOX.x.zz", b"?");
        questions.arrived(by, b"_INBOX.x.1", b"?");
        let heard = Heard { account: t1.clone(), called: Some(Arc::clone(&key)), payload: Bytes::from_static(b"me") };
        assert_eq!(one.answer(None).await, Some(heard));
        let gone = other.reply().to_owned();
        drop(other);
        questions.arrived(by, gone.as_bytes(), b"late");
        (0..=ANSWERS_MAX).for_each(|_| questions.arrived(by, one.reply().as_bytes(), b"more"));
        assert_eq!(questions.waiting.lock().len(), 1);
        assert_eq!(one.answers.len(), ANSWERS_MAX);
    }

    #[tokio::test]
    async fn an_answer_by_an_account_that_imports_is_left_out() {
        let questions = Questions::new("_INBOX");
        let (mut one, [home, t1]) = (questions.ask(), ["", "T1"].map(AccountId::new));
        let [home_key, t1_key] = ["AHOME", "AT1"].map(Arc::from);
        questions.arrived((&home, Some(&home_key)), one.reply().as_bytes(), b"forged");
        questions.arrived((&t1, Some(&t1_key)), one.reply().as_bytes(), b"me");
        assert_eq!(one.answer(Some("AT1")).await.unwrap().payload, "me");
        assert!(one.answers.is_empty());
    }

    #[test]
    fn an_answer_out_of_an_account_that_is_imported_is_none() {
        let heard = |called: Option<&str>| Heard {
            account: AccountId::new("T1"),
            called: called.map(Arc::from),
            payload: Bytes::new(),
        };
        for (link, trial, expected) in [
            (Some("T1"), Some("T1"), true),
            (Some("T1"), Some("T2"), false),
            (None, Some("T2"), true),
            (Some("T1"), None, true),
            (None, None, true),
        ] {
            assert_eq!(heard(link).is_of(trial), expected, "{link:?} {trial:?}");
        }
    }

    #[test]
    fn what_an_account_is_called_counts_for_its_connection() {
        let mut called = Called::default();
        for (epoch, said, expected) in [
            (1, Some("T1"), Some("T1")),
            (1, None, Some("T1")),
            (2, None, None),
            (2, Some("T2"), Some("T2")),
            (3, Some("T2"), Some("T2")),
            (3, None, Some("T2")),
        ] {
            called.learn(epoch, said);
            assert_eq!(called.name.as_deref(), expected, "{epoch} {said:?}");
        }
    }

    #[test]
    fn the_home_account_is_heard_by_its_own_link() {
        let (questions, [home, t1]) = (Questions::new("_INBOX"), ["", "T1"].map(AccountId::new));
        assert!(!questions.is_home(&t1, Some("T1")) && !questions.is_home(&t1, None), "nobody says what that is");
        *questions.home.lock() = Some(Arc::from("T1"));
        assert!(questions.is_home(&t1, Some("T1")));
        assert!(!questions.is_home(&home, Some("T1")) && !questions.is_home(&t1, Some("T2")));
        assert!(!questions.is_home(&t1, None));
    }
}
