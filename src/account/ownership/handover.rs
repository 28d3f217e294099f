//! What a connection had in memory goes to the one that takes its session over on another sidecar, and on from there when
//! that one is taken over before it could save it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use bytestring::ByteString;
use futures_util::future::join_all;
use mqtt_ownership::{Epoch, NodeId, Revision};
use serde::{Deserialize, Serialize};

use crate::account::Account;
use crate::account::control::Control;
use crate::metrics::TakenBy;
use crate::store::{Peers, ProgressRecord, RequestError};

/// How long the old owner may take to hand over.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long the client that comes elsewhere waits for what it has sent here: some times what a store takes.
const SETTLE_PATIENCE: Duration = Duration::from_millis(500);

/// How often it is asked.
const REQUESTS: usize = 2;

/// Asks the old owner of a session for it.
#[derive(Debug, Serialize, Deserialize)]
struct HandoverRequest {
    client_id: String,
    epoch: u64,
}

/// Has nodes end their connections of a session from before this epoch. Returns the newest progress that they had in memory.
pub(super) async fn ask_old_owners<P: Peers>(
    peers: &P,
    client_id: &ByteString,
    nodes: &[NodeId],
    epoch: Epoch,
) -> Option<ProgressRecord> {
    let asked = nodes.iter().map(|node| ask_old_owner(peers, &node.0, client_id, epoch));
    join_all(asked).await.into_iter().flatten().max_by_key(|progress| progress.epoch)
}

async fn ask_old_owner<P: Peers>(
    peers: &P,
    node: &str,
    client_id: &ByteString,
    epoch: Epoch,
) -> Option<ProgressRecord> {
    let request = HandoverRequest { client_id: client_id.to_string(), epoch: epoch.0 };
    let request = Bytes::from(serde_json::to_vec(&request).ok()?);
    for _ in 0..REQUESTS {
        match peers.ask(node, request.clone(), PATIENCE).await {
            Ok(answer) => return serde_json::from_slice(&answer).ok(),
            Err(RequestError::Nobody) => return None,
            Err(RequestError::TimedOut | RequestError::Unavailable(_)) => {}
        }
    }
    None
}

impl Account {
    /// Answers a sidecar that has taken a session over: the connection here ends, and its progress is handed over.
    pub(crate) async fn hand_over(&self, request: Bytes) -> Option<Bytes> {
        let HandoverRequest { client_id, epoch } = serde_json::from_slice(&request).ok()?;
        let Some(control) = self.registry.find_before(&client_id, Epoch(epoch)) else {
            return Some(Bytes::from_static(b"null"));
        };
        tracing::info!(client_id, "taken over by a connection elsewhere");
        if control.take_over() {
            self.metrics.takeover(TakenBy::Other);
        }
        // Its progress is there before everything that it published is settled.
        let progress = tokio::time::timeout(PATIENCE, control.handed_over()).await.ok()?;
        // What the client sent before it was gone is handled. What takes long is for the client to send again, and must not
        // come behind that.
        let _ = tokio::time::timeout(SETTLE_PATIENCE, control.settled()).await;
        control.withdraw();
        control.collected();
        Some(Bytes::from(serde_json::to_vec(&progress).ok()?))
    }

    /// Somebody elsewhere has become the owner of a session while its connection here ended, so that its progress was not
    /// saved: it is kept until it is asked for, which is the next thing that a new owner does.
    pub(super) async fn hold_handover(&self, control: &Control) {
        if tokio::time::timeout(PATIENCE, control.is_collected()).await.is_err() {
            tracing::debug!(client_id = &*control.client_id, "nobody asked for the progress of a session");
        }
    }

    /// A CONNECT is given up. What the old owner has handed over to it and is not saved is for whoever comes next: saved for
    /// one on this sidecar, which waits for that, and kept for one elsewhere, who has shut us out by then. The client does
    /// not wait.
    pub(in crate::account) fn forward_handover(
        self: &Arc<Self>,
        control: Arc<Control>,
        unsaved: Option<(ProgressRecord, Revision)>,
    ) {
        let Some((progress, fence)) = unsaved else { return self.detach(&control) };
        let (account, errand) = (Arc::clone(self), self.duties.errands.begin());
        self.store.tasks().spawn(async move {
            control.hand_over(Some(progress.clone()));
            let saved = account.store.sessions().put_progress(&control.client_id, &progress, fence.0, None).await;
            if saved.is_err() {
                account.hold_handover(&control).await;
            }
            account.detach(&control);
            drop(errand);
        });
    }
}
