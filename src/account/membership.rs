//! Our place among the sidecars: one lease for the process, whatever accounts it serves, kept where the first of them is. What an
//! account makes of it is in `ownership::leases`.
//!
//! ```text
//!   no lease ──acquired──▶ held, under a name of its own ──lost──▶ no lease
//!                                   └─ over ─▶ released
//! ```

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};

use crate::account::ownership::heard::Heard;
use crate::store::{
    Alive, LeaseState, LeaseView, NatsPeers, NodeInfo, Nodes, NodesFollower, NodesSink, Peers as _, Store,
};
use crate::tasks::Errands;

/// How long to wait before JetStream is asked again.
const RETRY: Duration = Duration::from_secs(1);

/// How long giving back the lease may take.
const RELEASE: Duration = Duration::from_secs(2);

/// A lease of ours, from when it was acquired until it is lost or given back.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    /// The name that it is for: another one each time.
    pub(crate) node: Arc<str>,
    /// What is known of it.
    pub(crate) view: LeaseView,
}

/// See the module.
pub(crate) struct Membership {
    nodes: Nodes,
    /// The same as a seam: by it the lease is taken and given back.
    peers: NatsPeers,
    heard: Arc<Heard>,
    listeners: Arc<Listeners>,
    held: watch::Sender<Option<Held>>,
    is_over: watch::Sender<bool>,
    /// Keeping the lease.
    keeping: Errands,
    follower: NodesFollower,
}

impl Membership {
    /// Acquires a lease and keeps it, where `store` is, until [`Self::leave`].
    pub(in crate::account) fn begin(store: &Store) -> Arc<Self> {
        let nodes = store.nodes().clone();
        let (heard, listeners) = (Arc::new(Heard::new(nodes.times().fence_after)), Arc::<Listeners>::default());
        let told = Told { heard: Arc::clone(&heard), listeners: Arc::clone(&listeners) };
        let membership = Arc::new(Self {
            follower: nodes.follow(Arc::new(told)),
            nodes,
            peers: store.peers().clone(),
            heard,
            listeners,
            held: watch::Sender::new(None),
            is_over: watch::Sender::new(false),
            keeping: Errands::default(),
        });
        let (kept, keeping) = (Arc::clone(&membership), membership.keeping.begin());
        store.tasks().spawn(async move {
            Box::pin(kept.keep()).await;
            drop(keeping);
        });
        membership
    }

    /// The leases of all sidecars.
    pub(crate) const fn nodes(&self) -> &Nodes {
        &self.nodes
    }

    /// Our lease.
    pub(crate) fn held(&self) -> watch::Receiver<Option<Held>> {
        self.held.subscribe()
    }

    /// Which sidecars were heard a moment ago.
    pub(in crate::account) const fn heard(&self) -> &Arc<Heard> {
        &self.heard
    }

    /// Which sidecars are alive.
    pub(crate) fn alive(&self) -> watch::Receiver<Alive> {
        self.follower.alive()
    }

    /// Has somebody told whenever a sidecar is gone, until it does not listen any more.
    pub(in crate::account) fn tell_gone(&self, tx: mpsc::Sender<()>) {
        self.listeners.add(tx);
    }

    /// Gives the lease back, so that the others need not wait for the end of that; when nothing here goes by it any more.
    pub(crate) async fn leave(&self) {
        self.is_over.send_replace(true);
        let _ = tokio::time::timeout(RELEASE, self.keeping.done()).await;
    }

    async fn keep(&self) {
        let mut is_over = self.is_over.subscribe();
        loop {
            let node = format!("{:016x}", rand::random::<u64>());
            let acquired = tokio::select! {
                acquired = self.peers.acquire(&node, Vec::new()) => acquired,
                _ = is_over.wait_for(|over| *over) => return,
            };
            let lease = match acquired {
                Ok(lease) => lease,
                Err(error) => {
                    tracing::warn!(%error, "no lease; persistent sessions are refused until there is one");
                    tokio::time::sleep(RETRY).await;
                    continue;
                }
            };
            self.held.send_replace(Some(Held { node: Arc::from(node), view: self.peers.view(&lease) }));
            let mut state = lease.state();
            let is_lost = tokio::select! {
                _ = state.wait_for(|state| *state == LeaseState::Lost) => true,
                _ = is_over.wait_for(|over| *over) => false,
            };
            self.held.send_replace(None);
            if !is_lost {
                return Box::pin(self.peers.release(lease)).await;
            }
        }
    }
}

/// Who wants to know that a sidecar is gone.
#[derive(Debug, Default)]
struct Listeners(Mutex<Vec<mpsc::Sender<()>>>);

impl Listeners {
    fn add(&self, tx: mpsc::Sender<()>) {
        let mut listeners = self.0.lock();
        listeners.retain(|tx| !tx.is_closed());
        listeners.push(tx);
    }

    fn tell(&self) {
        // Whoever has not looked since the last one finds this one as well.
        for listener in &*self.0.lock() {
            let _ = listener.try_send(());
        }
    }
}

/// Is told which sidecars are heard, and which are gone.
struct Told {
    heard: Arc<Heard>,
    listeners: Arc<Listeners>,
}

impl NodesSink for Told {
    fn alive(&self, _node: &NodeInfo) {}

    fn heard(&self, node: &str) {
        self.heard.note(node, Instant::now());
    }

    fn released(&self, node: &str) {
        self.heard.forget(node);
    }

    fn gone(&self, _node: &str) {
        self.listeners.tell();
    }
}
