//! Answers of NATS to requests whose sidecar is gone. One sidecar of all gets a copy of every answer (a queue group of NATS);
//! when nobody says that the one that asked is there, it publishes the answer itself: what it has to know is in the reply
//! subject. The session of the client, which may be on its way to another sidecar, gets it as it gets every message.

use std::sync::Arc;

use foldhash::{HashMap, HashMapExt};
use proto_map::Question;
use tokio::sync::mpsc;

use super::Requests;
use crate::account::Account;
use crate::metrics::DropReason;
use crate::store::CoreMessage;

/// Answers for which it is asked once who is there.
const BATCH: usize = 256;

/// Takes care of answers to what others asked, for ever.
pub(in crate::account) async fn run(account: Arc<Account>, mut orphans: mpsc::Receiver<CoreMessage>) {
    let mut batch = Vec::new();
    while orphans.recv_many(&mut batch, BATCH).await > 0 {
        let mut gone = HashMap::new();
        for answer in batch.drain(..) {
            let Some((asker, question)) = account.requests.asked(&answer.subject) else { continue };
            // Asked after the answer came: one that is there now has it, too.
            let is_gone = match gone.get(asker) {
                Some(&is_gone) => is_gone,
                None => {
                    let is_gone = account.store.core().is_gone(&account.names.echo_subject(asker)).await;
                    gone.insert(asker.to_owned(), is_gone);
                    is_gone
                }
            };
            if is_gone {
                account.requests.pass_on(question, answer.clone());
            }
        }
    }
}

impl Requests {
    /// Something came on a reply subject of whichever sidecar.
    pub(crate) fn arrived_for_others(&self, core: CoreMessage) {
        let is_ours = core.subject.starts_with(self.inbox.as_str());
        if !is_ours && core.status.is_none() && self.orphans.try_send(core).is_err() {
            self.metrics.dropped(DropReason::SlowReader, 1);
        }
    }

    /// Who asked, and where the answer goes, as a reply subject says. `None` when nobody asked, or too long ago.
    fn asked<'a>(&self, subject: &'a str) -> Option<(&'a str, Question)> {
        let (asker, request) = subject.strip_prefix(self.answers_root.as_str())?.split_once('.')?;
        let (_id, token) = request.split_once('.')?;
        let question = self.open_with(|key, now_s| key.open_question(token, now_s)).ok()?;
        Some((asker, question))
    }
}
