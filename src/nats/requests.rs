//! Requests under way, and their answers: one subscription for all of them.

use foldhash::{HashMap, HashMapExt};
use nats_wire::Message;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

/// Answers to one question to many that wait to be read; there are as many as servers.
const ANSWERS_MAX: usize = 256;

/// Requests that wait for an answer.
///
/// **Invariant:** nobody who has not been asked can answer: the inbox and each token in it are random, and a token is good
/// for one answer, or for those of many until its asker has heard enough.
#[derive(Debug)]
pub(super) struct Requests {
    /// Answers come to this, a dot, and a token.
    inbox: String,
    waiting: Mutex<HashMap<u64, Waiting>>,
}

#[derive(Debug)]
enum Waiting {
    One(oneshot::Sender<Message>),
    Many(mpsc::Sender<Message>),
}

/// A request. When it is dropped its answer is not waited for any more.
pub(super) struct Asked<'a, A> {
    requests: &'a Requests,
    token: u64,
    pub(super) reply: String,
    pub(super) answer: A,
}

impl Requests {
    pub(super) fn new(prefix: &str) -> Self {
        Self { inbox: new_inbox(prefix), waiting: Mutex::new(HashMap::new()) }
    }

    /// What has to be subscribed to.
    pub(super) fn subject(&self) -> String {
        format!("{}.*", self.inbox)
    }

    /// A request with one answer.
    pub(super) fn ask(&self) -> Asked<'_, oneshot::Receiver<Message>> {
        let (tx, answer) = oneshot::channel();
        self.wait(Waiting::One(tx), answer)
    }

    /// A request that several answer. After the loss of the connection there are no more answers.
    pub(super) fn ask_many(&self) -> Asked<'_, mpsc::Receiver<Message>> {
        let (tx, answers) = mpsc::channel(ANSWERS_MAX);
        self.wait(Waiting::Many(tx), answers)
    }

    fn wait<A>(&self, waiting: Waiting, answer: A) -> Asked<'_, A> {
        let token = rand::random::<u64>();
        self.waiting.lock().insert(token, waiting);
        Asked { requests: self, token, reply: format!("{}.{token:x}", self.inbox), answer }
    }

    /// A message has come to the inbox.
    pub(super) fn arrived(&self, message: Message) {
        let token = message.subject().rsplit(|byte| *byte == b'.').next().unwrap_or_default();
        let token = std::str::from_utf8(token).ok().and_then(|token| u64::from_str_radix(token, 16).ok());
        let Some(token) = token else { return };
        let mut waiting = self.waiting.lock();
        if let Some(Waiting::Many(answers)) = waiting.get(&token) {
            let _ = answers.try_send(message);
        } else if let Some(Waiting::One(answer)) = waiting.remove(&token) {
            let _ = answer.send(message);
        }
    }

    /// The connection is lost: no answer will come.
    pub(super) fn lose(&self) {
        self.waiting.lock().clear();
    }
}

impl<A> Drop for Asked<'_, A> {
    fn drop(&mut self) {
        self.requests.waiting.lock().remove(&self.token);
    }
}

/// A subject below `prefix` that nobody can guess.
pub(super) fn new_inbox(prefix: &str) -> String {
    format!("{prefix}.{:032x}", rand::random::<u128>())
}
