//! What a connection had in memory goes to the one that takes its session over on another sidecar, and on from there when
//! that one is taken over before it could save it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use mqtt_codec::ReasonCode;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::Broker;
use super::mailbox::{Mailbox, Order};
use crate::store::{Arrival, ProgressRecord, RequestError, SessionRecord, Unavailable, WriteError};

/// How long the old owner may take to hand over.
const PATIENCE: Duration = Duration::from_secs(2);

/// How often it is asked.
const REQUESTS: usize = 2;

/// Nodes that are asked; of more the oldest are long gone.
const NODES_MAX: usize = 8;

/// Asks the old owner of a session for it.
#[derive(Debug, Serialize, Deserialize)]
struct HandoverRequest {
    client_id: String,
    epoch: u64,
}

/// What a CONNECT has got from the old owner of its session and has not saved, and the sequence that fences it.
#[derive(Debug, Default)]
pub(super) struct HandedOver(Mutex<Option<(ProgressRecord, u64)>>);

impl HandedOver {
    /// It is saved.
    pub(super) fn is_saved(&self) {
        *self.0.lock() = None;
    }
}

impl Broker {
    /// The nodes that the next owner of a session has to ask: the last owner, and those whom the last one may not have asked,
    /// because it died or was taken over itself. `node`: the next owner, which has ended its own connections.
    pub(super) fn handover_from(old: &SessionRecord, node: &str) -> Vec<String> {
        let last = old.owner.as_ref().filter(|_| old.connected);
        let mut nodes: Vec<String> = Vec::new();
        for from in old.handover_from.iter().chain(last).filter(|from| *from != node) {
            if !nodes.contains(from) {
                nodes.push(from.clone());
            }
        }
        nodes.split_off(nodes.len().saturating_sub(NODES_MAX))
    }

    /// Has the nodes of a new record end their connections, and saves the progress that they had in memory under its fence.
    /// Returns that, and whether the write may arrive once more. `handed` keeps what is not saved, for [`Self::pass_on`].
    pub(super) async fn take_over(
        &self,
        record: &SessionRecord,
        sequence: u64,
        is_present: bool,
        handed: &HandedOver,
    ) -> Result<(Option<ProgressRecord>, bool), Unavailable> {
        let asked = record.handover_from.iter().map(|node| self.ask_old_owner(node, record));
        let newest = join_all(asked).await.into_iter().flatten().max_by_key(|progress| progress.epoch);
        let Some(progress) = newest.filter(|_| is_present) else { return Ok((None, false)) };
        *handed.0.lock() = Some((progress.clone(), sequence));
        match self.store.sessions().put_progress(&record.client_id, &progress, sequence, None).await {
            Ok(arrival) => {
                handed.is_saved();
                Ok((Some(progress), arrival == Arrival::Again))
            }
            Err(WriteError::Unavailable { reason }) => Err(Unavailable { reason }),
            Err(WriteError::Fenced | WriteError::TooLarge) => Ok((Some(progress), false)),
        }
    }

    async fn ask_old_owner(&self, node: &str, record: &SessionRecord) -> Option<ProgressRecord> {
        let subject = self.names.node_subject(node).ok()?;
        let request = HandoverRequest { client_id: record.client_id.clone(), epoch: record.epoch };
        let request = Bytes::from(serde_json::to_vec(&request).ok()?);
        for _ in 0..REQUESTS {
            match self.store.core().request(&subject, request.clone(), PATIENCE).await {
                Ok(answer) => return serde_json::from_slice(&answer).ok(),
                Err(RequestError::Nobody) => return None,
                Err(RequestError::TimedOut | RequestError::Unavailable(_)) => {}
            }
        }
        None
    }

    /// Answers a sidecar that has taken a session over: the connection here ends, and its progress is handed over.
    pub(crate) async fn hand_over(&self, request: Bytes) -> Option<Bytes> {
        let HandoverRequest { client_id, epoch } = serde_json::from_slice(&request).ok()?;
        let Some(mailbox) = self.registry.find_before(&client_id, epoch) else {
            return Some(Bytes::from_static(b"null"));
        };
        tracing::info!(client_id, "taken over by a connection elsewhere");
        mailbox.order(Order::Close(ReasonCode::SessionTakenOver));
        // Its progress is there before everything that it published is settled.
        let progress = tokio::time::timeout(PATIENCE, mailbox.handed_over()).await.ok()?;
        mailbox.collected();
        Some(Bytes::from(serde_json::to_vec(&progress).ok()?))
    }

    /// Somebody elsewhere has become the owner of a session while its connection here ended, so that its progress was not
    /// saved: it is kept until it is asked for, which is the next thing that a new owner does.
    pub(crate) async fn keep_for_successor(&self, mailbox: &Mailbox) {
        if tokio::time::timeout(PATIENCE, mailbox.is_collected()).await.is_err() {
            tracing::debug!(client_id = &*mailbox.client_id, "nobody asked for the progress of a session");
        }
    }

    /// A CONNECT is given up. What the old owner has handed over to it is for whoever comes next: saved for one on this
    /// sidecar, which waits for that, and kept for one elsewhere, who has shut us out by then. The client does not wait.
    pub(super) fn pass_on(self: &Arc<Self>, mailbox: Arc<Mailbox>, handed: &HandedOver) {
        let Some((progress, sequence)) = handed.0.lock().take() else { return self.detach(&mailbox) };
        let broker = Arc::clone(self);
        tokio::spawn(async move {
            mailbox.hand_over(Some(progress.clone()));
            let saved = broker.store.sessions().put_progress(&mailbox.client_id, &progress, sequence, None).await;
            if saved.is_err() {
                broker.keep_for_successor(&mailbox).await;
            }
            broker.detach(&mailbox);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whom_nobody_has_asked_is_asked_by_the_next_one() {
        let old = |owner: &str, connected, from: &[&str]| SessionRecord {
            owner: Some(owner.to_owned()),
            connected,
            handover_from: from.iter().map(|&node| node.to_owned()).collect(),
            ..SessionRecord::default()
        };
        assert_eq!(Broker::handover_from(&old("a", true, &[]), "b"), ["a"]);
        assert_eq!(Broker::handover_from(&old("a", false, &[]), "b"), [""; 0], "its connection has ended");
        assert_eq!(Broker::handover_from(&old("a", true, &["c", "b", "a"]), "b"), ["c", "a"]);
        assert_eq!(Broker::handover_from(&old("a", false, &["c"]), "a"), ["c"], "nobody has asked for that one");
        let many: Vec<String> = (0..20).map(|n| n.to_string()).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(Broker::handover_from(&old("a", true, &many), "b").last().unwrap(), "a");
        assert_eq!(Broker::handover_from(&old("a", true, &many), "b").len(), NODES_MAX);
    }
}
