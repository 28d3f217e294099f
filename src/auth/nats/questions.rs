//! Questions to nats-server, and the answers that come by our own links.

use bytes::Bytes;
use foldhash::HashMap;
use futures_util::future::join_all;
use mqtt_access::AccountId;
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};

use crate::nats::Subscriber;
use crate::store::{Connector, Role};

/// Answers to one question that wait: a second one is enough to know that somebody forges them.
const ANSWERS_MAX: usize = 2;

/// Answers of all questions that wait to be handed on, by one link.
const QUEUED_MAX: usize = 1024;

/// When it is tried again to get into an account that does not let us in.
const AGAIN_AFTER: std::time::Duration = std::time::Duration::from_secs(30);

/// How we get into an account whose users are let in.
pub(super) struct Way {
    account: AccountId,
    connector: Connector,
}

/// An answer: the account of the link that it came by, and what it says.
type Heard = (AccountId, Bytes);

/// Questions that wait for answers.
///
/// **Invariant:** nobody answers who was not asked: where answers go, and each token in it, is random.
pub(super) struct Questions {
    /// Answers come to this, a dot, and a token.
    inbox: String,
    waiting: Mutex<HashMap<u128, mpsc::Sender<Heard>>>,
    /// Whether answers of the home account can be heard.
    is_heard: watch::Sender<bool>,
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
    async fn subscribed(&self, subject: &str) -> Option<Subscriber> {
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
        Some(subscriber)
    }
}

impl Questions {
    /// `prefix`: first tokens of reply subjects.
    pub(super) fn new(prefix: &str) -> Self {
        let inbox = format!("{prefix}.{:032x}", rand::random::<u128>());
        Self { inbox, waiting: Mutex::default(), is_heard: watch::Sender::default() }
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
            if let Some(mut answers) = way.subscribed(&subject).await {
                if way.account.is_empty() {
                    self.is_heard.send_replace(true);
                }
                while let Some(message) = answers.next().await {
                    self.arrived(&way.account, message.subject(), message.payload());
                }
            }
            tokio::time::sleep(AGAIN_AFTER).await;
        }
    }

    fn arrived(&self, account: &AccountId, subject: &[u8], payload: &[u8]) {
        let token = std::str::from_utf8(subject).ok().and_then(|subject| subject.rsplit_once('.'));
        let Some(token) = token.and_then(|(_, token)| u128::from_str_radix(token, 16).ok()) else { return };
        if let Some(waiting) = self.waiting.lock().get(&token) {
            let _ = waiting.try_send((account.clone(), Bytes::copy_from_slice(payload)));
        }
    }
}

impl Question<'_> {
    /// Where the answer has to go.
    pub(super) fn reply(&self) -> &str {
        &self.reply
    }

    /// The next answer.
    pub(super) async fn answer(&mut self) -> Option<Heard> {
        self.answers.recv().await
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
        let t1 = AccountId::new("T1");
        questions.arrived(&t1, one.reply().as_bytes(), b"me");
        questions.arrived(&t1, b"_INBOX.x.zz", b"?");
        questions.arrived(&t1, b"_INBOX.x.1", b"?");
        assert_eq!(one.answer().await, Some((t1.clone(), Bytes::from_static(b"me"))));
        let gone = other.reply().to_owned();
        drop(other);
        questions.arrived(&t1, gone.as_bytes(), b"late");
        (0..3).for_each(|_| questions.arrived(&t1, one.reply().as_bytes(), b"more"));
        assert_eq!(questions.waiting.lock().len(), 1);
        assert_eq!(one.answers.len(), ANSWERS_MAX);
    }
}
