//! Answers of NATS to requests whose sidecar is gone. One sidecar of all gets a copy of every answer (a queue group of NATS);
//! when nobody says that the one that asked is there, it publishes the answer itself: what it has to know is in the reply
//! subject. The session of the client, which may be on its way to another sidecar, gets it as it gets every message.

use std::sync::Arc;

use foldhash::{HashMap, HashMapExt};
use proto_map::ReplyError;
use tokio::sync::mpsc;

use super::Requests;
use crate::broker::Broker;
use crate::metrics::{DropReason, RequestEvent};
use crate::store::CoreMessage;

/// Answers for which it is asked once who is there.
const BATCH: usize = 256;

/// Takes care of answers to what others asked, for ever.
pub(in crate::broker) async fn run(broker: Arc<Broker>, mut orphans: mpsc::Receiver<CoreMessage>) {
    let mut batch = Vec::new();
    while orphans.recv_many(&mut batch, BATCH).await > 0 {
        let mut gone = HashMap::new();
        for answer in batch.drain(..) {
            let Some((asker, token)) = broker.requests.asker_and_token(&answer.subject) else { continue };
            // Asked after the answer came: one that is there now has it, too.
            let is_gone = match gone.get(asker) {
                Some(&is_gone) => is_gone,
                None => {
                    let is_gone = broker.store.core().is_gone(&broker.names.echo_subject(asker)).await;
                    gone.insert(asker.to_owned(), is_gone);
                    is_gone
                }
            };
            if is_gone {
                broker.requests.adopt(token, &answer);
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

    /// Who asked, and where the answer goes, as the reply subject says.
    fn asker_and_token<'a>(&self, subject: &'a str) -> Option<(&'a str, &'a str)> {
        let (asker, request) = subject.strip_prefix(self.answers_root.as_str())?.split_once('.')?;
        let (_id, token) = request.split_once('.')?;
        Some((asker, token))
    }

    /// Publishes an answer in place of the sidecar that asked.
    fn adopt(&self, token: &str, core: &CoreMessage) {
        match self.open_with(|key, now_s| key.open_question(token, now_s)) {
            Ok(question) => self.pass_on(question, core.clone()),
            Err(ReplyError::Expired) => self.metrics.request(RequestEvent::AnsweredLate),
            // Nobody asked.
            Err(ReplyError::Forged) => {}
        }
    }
}
