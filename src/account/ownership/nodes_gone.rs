//! Leases, and the sessions of sidecars that are gone. Each sidecar holds a lease; when one ends, the others find its
//! sessions by their owner and put them in order: not connected any more, their wills published, their expiry running.
//! They divide them (`dividing`), wills first; a moment later each looks at what the others have left of their parts, and
//! compare-and-swap decides. No more than [`ORDERING_MAX`] are under way, and no more are in memory than that. Who starts looks for sessions whose owner is not there, so that the
//! last one to die leaves nothing to nobody.
//!
//! A sidecar that cannot refresh its lease ends its connections before the others adopt them, and comes back under
//! another name.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use mqtt_codec::ReasonCode;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::account::Account;
use crate::account::delivery::mailbox::Order;
use crate::account::ownership::dividing;
use crate::account::ownership::versions;
use crate::store::{Lease, LeaseState, NodeInfo, NodesSink, SessionRecord, Unavailable};

/// How long to wait before JetStream is asked again.
const RETRY: Duration = Duration::from_secs(1);

/// Sessions that are put in order at the same time.
pub(in crate::account) const ORDERING_MAX: usize = 64;

/// How long the others have for their parts when we are through with ours: all parts are about as large.
const NEXT_LOOK: Duration = Duration::from_secs(3);

/// Nodes that may be gone and not yet looked after; more are found when one of them is.
const GONE_QUEUE: usize = 1024;

/// Receives the names of nodes that are gone.
struct NodeDownSink(mpsc::Sender<()>);

impl NodesSink for NodeDownSink {
    fn alive(&self, _node: &NodeInfo) {}

    fn gone(&self, _node: &str) {
        // A look-out that is on its way finds this one as well.
        let _ = self.0.try_send(());
    }
}

impl Account {
    /// Holds a lease, and adopts the sessions of nodes that are gone, as long as the account lives.
    pub(crate) async fn keep_lease(account: Weak<Self>, mqtt: Vec<String>) {
        let (tx, rx) = mpsc::channel(GONE_QUEUE);
        let Some(strong) = account.upgrade() else { return };
        let _follower = strong.store.nodes().follow(Arc::new(NodeDownSink(tx.clone())));
        drop(strong);
        tokio::spawn(look_after(account.clone(), rx));
        tokio::spawn(versions::say_other_versions(account.clone()));
        loop {
            let Some(strong) = account.upgrade() else { return };
            let node = format!("{:016x}", rand::random::<u64>());
            match strong.store.nodes().acquire(&node, mqtt.clone()).await {
                Ok(lease) => {
                    // Sessions of those who died before we came.
                    let _ = tx.try_send(());
                    Box::pin(strong.hold(&node, lease)).await;
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
            let account = takeovers.upgrade();
            async move { account?.hand_over(request).await }
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
                for mailbox in self.registry.everyone_and_leaving() {
                    mailbox.withdraw();
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

    /// Reads the sessions and puts those in order whose owner is gone, as far as they are ours to do.
    async fn adopt_all(self: &Arc<Self>, look: Look, done: &Arc<AtomicU64>) -> Result<(), Unavailable> {
        // Without a lease we own nothing; the others see to it, and so do we when we have one again.
        let Some(node) = self.node() else { return Ok(()) };
        if self.store.clock().now_ms().is_none() {
            return Err(Unavailable { reason: "the time of the server is not known".to_owned() });
        }
        let mut alive: BTreeSet<String> = self.store.nodes().alive().await?.into_iter().map(|info| info.node).collect();
        alive.insert(node.to_string());
        let (gone, under_way) = (BTreeSet::new(), JoinSet::new());
        let mut pass = Pass { account: self, node, alive, gone, look, done, under_way };
        // Somebody waits for the wills.
        if pass.scan(|kind| kind == Kind::Will).await? > 0 {
            pass.scan(|kind| kind != Kind::Will).await?;
        }
        while pass.under_way.join_next().await.is_some() {}
        Ok(())
    }
}

/// Why a session is to be looked after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Its owner is gone, and it has a will.
    Will,
    /// Its owner is gone.
    Owner,
    /// It has ended by its own words.
    Expired,
}

/// Which part of the sessions is ours, in looks that follow one another. What is left of a part belongs to somebody who
/// stands still, and compare-and-swap decides when that is not so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    /// Our own part.
    Own,
    /// With that of those whose second we are.
    Second,
    /// Everything.
    All,
}

impl Look {
    const fn has(self, place: usize) -> bool {
        match self {
            Self::Own => place == 0,
            Self::Second => place <= 1,
            Self::All => true,
        }
    }

    const fn next(self) -> Option<Self> {
        match self {
            Self::Own => Some(Self::Second),
            Self::Second => Some(Self::All),
            Self::All => None,
        }
    }
}

/// One look at all sessions.
///
/// **Invariant:** nobody adopts a session because of a read that knew less than was acknowledged: that its owner has no lease is
/// confirmed by a comparison, behind the record.
struct Pass<'a> {
    account: &'a Arc<Account>,
    node: Arc<str>,
    alive: BTreeSet<String>,
    /// Those that have no lease for certain.
    gone: BTreeSet<String>,
    look: Look,
    /// Sessions that we have put in order.
    done: &'a Arc<AtomicU64>,
    /// Sessions that are being put in order. They go on should the pass be given up: a session that was begun with has us as
    /// its owner.
    under_way: JoinSet<()>,
}

impl Pass<'_> {
    /// Sees to the sessions of some kinds. Returns how many there are of others.
    async fn scan(&mut self, kinds: impl Fn(Kind) -> bool) -> Result<u64, Unavailable> {
        let mut scan = self.account.store.sessions().scan();
        let mut others = 0;
        loop {
            let records = match scan.next().await {
                Ok(Some(records)) => records,
                Ok(None) => return Ok(others),
                Err(error) => {
                    self.under_way.detach_all();
                    return Err(error);
                }
            };
            for (sequence, record) in records {
                self.look_for_owner(&record).await?;
                match self.kind_of(&record).filter(|_| self.is_ours(&record.client_id)) {
                    Some(kind) if kinds(kind) => self.begin(kind, record, sequence).await,
                    Some(_) => others += 1,
                    None => {}
                }
            }
        }
    }

    /// Finds out whether the owner of a record is gone, when it is not known.
    async fn look_for_owner(&mut self, record: &SessionRecord) -> Result<(), Unavailable> {
        let Some(owner) = &record.owner else { return Ok(()) };
        if !self.alive.contains(owner) && !self.gone.contains(owner) {
            let is_gone = self.account.store.nodes().is_gone(owner).await?;
            if is_gone { &mut self.gone } else { &mut self.alive }.insert(owner.clone());
        }
        Ok(())
    }

    fn kind_of(&self, record: &SessionRecord) -> Option<Kind> {
        if record.has_expired(self.account.store.clock().certain_ms()) && !record.has_will() {
            return Some(Kind::Expired);
        }
        record.owner.as_ref().filter(|owner| self.gone.contains(*owner))?;
        Some(if record.has_will() { Kind::Will } else { Kind::Owner })
    }

    fn is_ours(&self, client_id: &str) -> bool {
        let alive = self.alive.iter().map(String::as_str);
        self.look.has(dividing::place(client_id, &self.node, alive))
    }

    /// Begins with one as soon as there is room.
    async fn begin(&mut self, kind: Kind, record: SessionRecord, sequence: u64) {
        let Ok(room) = Arc::clone(&self.account.ordering).acquire_owned().await else { return };
        let (account, node, done) = (Arc::clone(self.account), Arc::clone(&self.node), Arc::clone(self.done));
        self.under_way.spawn(async move {
            let _room = room;
            // One that has expired the server was to remove, and has lost that. Should somebody come back to it now, they are
            // faster.
            if account.adopt(&node, record, sequence).await && kind != Kind::Expired {
                account.metrics.session_adopted();
                done.fetch_add(1, Ordering::Relaxed);
            }
        });
        while self.under_way.try_join_next().is_some() {}
    }
}

/// Looks after sessions whenever a node is gone.
async fn look_after(account: Weak<Account>, mut gone: mpsc::Receiver<()>) {
    while gone.recv().await.is_some() {
        let done = Arc::new(AtomicU64::new(0));
        let mut look = Look::Own;
        loop {
            // Whoever is gone by now is found.
            while gone.try_recv().is_ok() {}
            let Some(strong) = account.upgrade() else { return };
            let looked = Box::pin(strong.adopt_all(look, &done)).await;
            drop(strong);
            let pause = match looked {
                Ok(()) => {
                    let adopted = done.swap(0, Ordering::Relaxed);
                    if adopted > 0 {
                        tracing::info!(adopted, ?look, "sessions of sidecars that are gone are in order");
                    }
                    match look.next() {
                        Some(next) => look = next,
                        None => break,
                    }
                    NEXT_LOOK
                }
                Err(error) => {
                    tracing::warn!(%error, "sessions of sidecars that are gone cannot be put in order yet");
                    RETRY
                }
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                heard = gone.recv() => match heard {
                    // Somebody else is gone: the parts are others now.
                    Some(()) => look = Look::Own,
                    None => return,
                },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_end_with_one_at_everything() {
        let looks: Vec<Look> = std::iter::successors(Some(Look::Own), |look| look.next()).collect();
        assert_eq!(looks, [Look::Own, Look::Second, Look::All]);
        let has = |place| looks.iter().map(|look| look.has(place)).collect::<Vec<_>>();
        assert_eq!([has(0), has(1), has(2)], [vec![true; 3], vec![false, true, true], vec![false, false, true]]);
    }
}
