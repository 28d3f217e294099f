//! Requests under way, and their answers: one subscription for all of them.

use foldhash::{HashMap, HashMapExt};
use nats_wire::Message;
use parking_lot::Mutex;
use tokio::sync::oneshot;

/// Requests that wait for an answer.
///
/// **Invariant:** nobody who has not been asked can answer: the inbox and each token in it are random, and a token is good
/// for one answer.
#[derive(Debug)]
pub(super) struct Requests {
    /// Answers come to this, a dot, and a token.
    inbox: String,
    waiting: Mutex<HashMap<u64, oneshot::Sender<Message>>>,
}

/// A request. When it is dropped its answer is not waited for any more.
pub(super) struct Asked<'a> {
    requests: &'a Requests,
    token: u64,
    pub(super) reply: String,
    pub(super) answer: oneshot::Receiver<Message>,
}

impl Requests {
    pub(super) fn new(prefix: &str) -> Self {
        Self { inbox: new_inbox(prefix), waiting: Mutex::new(HashMap::new()) }
    }

    /// What has to be subscribed to.
    pub(super) fn subject(&self) -> String {
        format!("{}.*", self.inbox)
    }

    pub(super) fn ask(&self) -> Asked<'_> {
        let (tx, answer) = oneshot::channel();
        let token = rand::random::<u64>();
        self.waiting.lock().insert(token, tx);
        Asked { requests: self, token, reply: format!("{}.{token:x}", self.inbox), answer }
    }

    /// A message has come to the inbox.
    pub(super) fn arrived(&self, message: Message) {
        let token = message.subject().rsplit(|byte| *byte == b'.').next().unwrap_or_default();
        let token = std::str::from_utf8(token).ok().and_then(|token| u64::from_str_radix(token, 16).ok());
        let waiting = token.and_then(|token| self.waiting.lock().remove(&token));
        if let Some(waiting) = waiting {
            let _ = waiting.send(message);
        }
    }

    /// The connection is lost: no answer will come.
    pub(super) fn lose(&self) {
        self.waiting.lock().clear();
    }
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        self.requests.waiting.lock().remove(&self.token);
    }
}

/// A subject below `prefix` that nobody can guess.
pub(super) fn new_inbox(prefix: &str) -> String {
    format!("{prefix}.{:032x}", rand::random::<u128>())
}
