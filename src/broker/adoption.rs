//! Leases, and the sessions of sidecars that are gone. Each sidecar holds a lease; when one ends, the others find its
//! sessions by their owner and put them in order: not connected any more, their wills published, their expiry running.
//! All of them try, and compare-and-swap decides. Who starts looks for sessions whose owner is not there, so that the
//! last one to die leaves nothing to nobody.
//!
//! A sidecar that cannot refresh its lease ends its connections before the others adopt them, and comes back under
//! another name.

use std::collections::HashSet;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytestring::ByteString;
use mqtt_codec::ReasonCode;
use tokio::sync::mpsc;

use super::mailbox::Order;
use super::wills::{Due, due};
use super::{Broker, Event, EventDisconnect};
use crate::metrics::WillCause;
use crate::store::{Lease, LeaseState, NodeInfo, NodesSink, SessionRecord, Unavailable, WriteError};

/// How long to wait before JetStream is asked again.
const RETRY: Duration = Duration::from_secs(1);

/// Nodes that may be gone and not yet looked after; more are found when one of them is.
const GONE_QUEUE: usize = 1024;

/// Receives the names of nodes that are gone.
struct Obituaries(mpsc::Sender<()>);

impl NodesSink for Obituaries {
    fn alive(&self, _node: &NodeInfo) {}

    fn gone(&self, _node: &str) {
        // A look-out that is on its way finds this one as well.
        let _ = self.0.try_send(());
    }
}

impl Broker {
    /// Holds a lease, and adopts the sessions of nodes that are gone, as long as the broker lives.
    pub(crate) async fn keep_lease(broker: Weak<Self>, mqtt: Vec<String>) {
        let (tx, rx) = mpsc::channel(GONE_QUEUE);
        let Some(strong) = broker.upgrade() else { return };
        let _follower = strong.store.nodes().follow(Arc::new(Obituaries(tx.clone())));
        drop(strong);
        tokio::spawn(look_after(broker.clone(), rx));
        loop {
            let Some(strong) = broker.upgrade() else { return };
            let node = format!("{:016x}", rand::random::<u64>());
            match strong.store.nodes().acquire(&node, mqtt.clone()).await {
                Ok(lease) => {
                    // Sessions of those who died before we came.
                    let _ = tx.try_send(());
                    strong.hold(&node, lease).await;
                }
                Err(error) => {
                    tracing::warn!(%error, "no lease; persistent sessions are refused until there is one");
                    drop(strong);
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    /// Owns sessions under this name until the lease is lost, then ends all connections.
    async fn hold(self: &Arc<Self>, node: &str, lease: Lease) {
        let takeovers = Arc::downgrade(self);
        let handler = move |request| {
            let broker = takeovers.upgrade();
            async move { broker?.hand_over(request).await }
        };
        let served = match self.names.node_subject(node) {
            Ok(subject) => self.store.core().serve(&subject, handler).await,
            Err(error) => return tracing::error!(%error, "a node has no subject"),
        };
        let left = match &self.ingest {
            Some(ingest) => ingest.serve_left(node).await,
            None => None,
        };
        *self.lease.write() = Some(Arc::from(node));
        self.has_lease.send_replace(true);
        let mut state = lease.state();
        let mut is_closing = self.is_closing.subscribe();
        let is_lost = async { state.wait_for(|state| *state == LeaseState::Lost).await.map(|_| ()) };
        let is_over = async { is_closing.wait_for(|closing| *closing).await.map(|_| ()) };
        tokio::select! {
            _ = is_lost => {
                tracing::error!("the lease is lost: all connections end, and others adopt their sessions");
                *self.lease.write() = None;
                self.has_lease.send_replace(false);
                for mailbox in self.registry.everyone() {
                    mailbox.order(Order::Close(ReasonCode::ServerBusy));
                }
            }
            _ = is_over => {
                *self.lease.write() = None;
                lease.release().await;
                self.has_lease.send_replace(false);
                std::future::pending::<()>().await;
            }
        }
        drop((served, left));
    }

    /// Puts the sessions in order whose owner is gone.
    async fn adopt_all(self: &Arc<Self>) -> Result<usize, Unavailable> {
        if self.store.clock().now_ms().is_none() {
            return Err(Unavailable { reason: "the time of the server is not known".to_owned() });
        }
        let alive: HashSet<String> = self.store.nodes().alive().await?.into_iter().map(|info| info.node).collect();
        let mut adopted = 0;
        for (sequence, record) in self.store.sessions().all().await? {
            if record.has_expired(self.store.clock().certain_ms()) && !record.has_will() {
                // The server was to remove it, and has lost that. Should somebody come back to it now, they are faster.
                let ended = self.store.sessions().end(&record.client_id, sequence).await;
                tracing::info!(client_id = record.client_id, ?ended, "a session that had expired");
            } else if record.owner.as_ref().is_some_and(|owner| !alive.contains(owner)) {
                match self.adopt(record, sequence).await {
                    Ok(()) => adopted += 1,
                    // Another sidecar was faster, or the client came back.
                    Err(WriteError::Fenced) => {}
                    Err(WriteError::TooLarge) => tracing::error!(sequence, "a session's record is too large to adopt"),
                    Err(WriteError::Unavailable { reason }) => return Err(Unavailable { reason }),
                }
            }
        }
        Ok(adopted)
    }

    async fn is_of_the_past(&self, record: &SessionRecord, sequence: u64) -> Result<bool, WriteError> {
        let asked = self.store.sessions().is_of_the_past(record, sequence).await;
        asked.map_err(|Unavailable { reason }| WriteError::Unavailable { reason })
    }

    /// Puts one session in order whose connection is gone.
    pub(super) async fn adopt(self: &Arc<Self>, mut record: SessionRecord, sequence: u64) -> Result<(), WriteError> {
        let sessions = self.store.sessions();
        if record.connected && self.is_of_the_past(&record, sequence).await? {
            tracing::info!(client_id = record.client_id, "a session that was over");
            return sessions.end(&record.client_id, sequence).await;
        }
        let lost = record.connected.then(|| record.owner.as_deref().map(Arc::from));
        if std::mem::take(&mut record.connected) {
            let now_ms = self.store.clock().now_ms();
            record.disconnected_at_ms = now_ms;
            let in_ms = record.will.as_ref().map(|will| due(will, record.expiry_s));
            if let (Some(will), Some(Due::InMs(ms))) = (&mut record.will, in_ms) {
                will.due_at_ms = will.due_at_ms.or_else(|| now_ms.map(|now_ms| now_ms + ms));
            }
        }
        // Ours as long as there is something to do for it, so that somebody else does it when we are gone.
        let has_more = record.has_will() || record.expiry_s == 0;
        record.owner = self.node().filter(|_| has_more).map(|node| node.to_string());
        let sequence = sessions.put_record(&record, sequence, self.ttl(&record)).await?;
        if let Some(node) = lost {
            let (remote, cause) = (record.remote.as_deref().and_then(|remote| remote.parse().ok()), "node_lost");
            let event = EventDisconnect { remote, cause, reason_code: None, connected_ms: None };
            self.events.tell(&ByteString::from(record.client_id.as_str()), node, || Event::Disconnect(event));
        }
        if record.expiry_s > 0
            && let Ok(Some(progress)) = sessions.load_progress(&record.client_id).await
        {
            sessions.put_progress(&record.client_id, &progress, sequence, self.progress_ttl(&record)).await?;
        }
        let due_ms = record.will.as_ref().and_then(|will| will.due_at_ms).filter(|_| record.last_wills.is_empty());
        let wait_ms = due_ms.map_or(0, |due_ms| due_ms.saturating_sub(self.store.clock().earliest_ms()));
        if has_more {
            self.put_in_order(record.client_id, record.epoch, wait_ms, WillCause::NodeLost);
        }
        Ok(())
    }
}

/// Looks after sessions whenever a node is gone.
async fn look_after(broker: Weak<Broker>, mut gone: mpsc::Receiver<()>) {
    while gone.recv().await.is_some() {
        while gone.try_recv().is_ok() {}
        loop {
            let Some(broker) = broker.upgrade() else { return };
            match broker.adopt_all().await {
                Ok(adopted) => {
                    if adopted > 0 {
                        tracing::info!(adopted, "sessions of sidecars that are gone are in order");
                    }
                    break;
                }
                Err(error) => tracing::warn!(%error, "sessions of sidecars that are gone cannot be put in order yet"),
            }
            drop(broker);
            tokio::time::sleep(RETRY).await;
        }
    }
}
