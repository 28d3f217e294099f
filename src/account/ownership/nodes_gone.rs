//! The sessions of sidecars that are gone. Each sidecar holds a lease (`leases`); when one ends, the others find its
//! sessions by their owner and put them in order: not connected any more, their wills published, their expiry running.
//! They divide them (`dividing`), wills first; a moment later each looks at what the others have left of their parts, and
//! compare-and-swap decides. No more than [`ORDERING_MAX`] are under way, and no more are in memory than that. Who starts looks for
//! sessions whose owner is not there, so that the last one to die leaves nothing to nobody.
//!
//! **Invariant:** a session is adopted by those only who are heard by JetStream themselves, and have been for long enough that its
//! owner would have been heard as well; by none who has heard its owner a moment ago (`heard`); and only while its owner has no lease,
//! which is confirmed again and again. A lease that ends because JetStream stood still for everybody is taken again before anybody
//! adopts.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use mqtt_ownership::Revision;
use tokio::sync::mpsc;

use crate::account::Account;
use crate::account::membership::Membership;
use crate::account::ownership::dividing;
use crate::account::ownership::heard::Heard;
use crate::store::{LeaseView, Peers as _, SessionRecord, Unavailable};
use crate::tasks::Errands;

/// How long to wait before JetStream is asked again.
const RETRY: Duration = Duration::from_secs(1);

/// Sessions that are put in order at the same time.
pub(in crate::account) const ORDERING_MAX: usize = 64;

/// How long the others have for their parts when we are through with ours: all parts are about as large.
const NEXT_LOOK: Duration = Duration::from_secs(3);

/// How long it counts that an owner was confirmed to be gone: a lease that is taken again ends an adoption so soon.
const CONFIRMED_FOR: Duration = Duration::from_millis(500);

/// Looks that are asked for at a time: one that is on its way finds whoever is gone by then.
const LOOKS_QUEUE: usize = 1;

/// Has the sessions of nodes that are gone looked after whenever one goes, and whenever somebody asks; as long as the account lives.
pub(in crate::account) fn start(account: &Arc<Account>, membership: &Membership) -> Looks {
    let (tx, rx) = mpsc::channel(LOOKS_QUEUE);
    membership.tell_gone(tx.clone());
    account.store.tasks().spawn(look_after(Arc::downgrade(account), rx, Arc::clone(membership.heard())));
    Looks { tx }
}

/// Asks for looks.
pub(in crate::account) struct Looks {
    tx: mpsc::Sender<()>,
}

impl Looks {
    /// Has somebody look soon.
    pub(in crate::account) fn ask(&self) {
        let _ = self.tx.try_send(());
    }
}

impl Account {
    /// Reads the sessions and puts those in order whose owner is gone, as far as they are ours to do.
    async fn adopt_all(self: &Arc<Self>, look: Look, heard: &Heard, done: &Arc<AtomicU64>) -> Result<(), Unavailable> {
        // Without a lease we own nothing; the others see to it, and so do we when we have one again.
        let Some(mut lease) = self.lease.view() else { return Ok(()) };
        if !lease.may_judge().await {
            return Ok(());
        }
        let Some(node) = self.node() else { return Ok(()) };
        if self.store.clock().now().is_none() {
            return Err(Unavailable { reason: "the time of the server is not known".to_owned() });
        }
        let mut alive: BTreeSet<String> = self.store.peers().alive().await?.into_iter().map(|info| info.node).collect();
        alive.insert(node.to_string());
        let (gone, under_way) = (BTreeMap::new(), Errands::default());
        let mut pass = Pass { account: self, node, lease, heard, alive, gone, look, done, under_way };
        let scanned = Box::pin(pass.scan_all()).await;
        if scanned.is_ok() {
            pass.under_way.done().await;
        }
        scanned
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
    lease: LeaseView,
    heard: &'a Heard,
    alive: BTreeSet<String>,
    /// Those that had no lease for certain, and when.
    gone: BTreeMap<String, Instant>,
    look: Look,
    /// Sessions that we have put in order.
    done: &'a Arc<AtomicU64>,
    /// Sessions that are being put in order. They go on should the pass be given up: a session that was begun with has us as
    /// its owner.
    under_way: Errands,
}

impl Pass<'_> {
    async fn scan_all(&mut self) -> Result<(), Unavailable> {
        // Somebody waits for the wills.
        if Box::pin(self.scan(|kind| kind == Kind::Will)).await? > 0 {
            Box::pin(self.scan(|kind| kind != Kind::Will)).await?;
        }
        Ok(())
    }

    /// Sees to the sessions of some kinds. Returns how many there are of others.
    async fn scan(&mut self, kinds: impl Fn(Kind) -> bool) -> Result<u64, Unavailable> {
        let mut scan = self.account.store.sessions().scan();
        let mut others = 0;
        while let Some(records) = scan.next().await? {
            for (sequence, record) in records {
                match self.kind_of(&record).await?.filter(|_| self.is_ours(&record.client_id)) {
                    Some(kind) if kinds(kind) => self.begin(kind, record, Revision(sequence)).await?,
                    Some(_) => others += 1,
                    None => {}
                }
            }
        }
        Ok(others)
    }

    async fn kind_of(&mut self, record: &SessionRecord) -> Result<Option<Kind>, Unavailable> {
        if record.has_expired(self.account.store.clock().certain().0) && !record.has_will() {
            return Ok(Some(Kind::Expired));
        }
        let kind = if record.has_will() { Kind::Will } else { Kind::Owner };
        Ok(self.is_orphan(record).await?.then_some(kind))
    }

    /// Whether the owner of a session has no lease, by now or a moment ago.
    async fn is_orphan(&mut self, record: &SessionRecord) -> Result<bool, Unavailable> {
        let Some(owner) = record.owner.as_ref().filter(|owner| !self.alive.contains(*owner)) else { return Ok(false) };
        if self.gone.get(owner).is_some_and(|at| at.elapsed() < CONFIRMED_FOR) {
            return Ok(true);
        }
        // Who had a lease when this began is not judged.
        if !self.lease.state().is_held() {
            return Err(Unavailable::new("our own lease is in doubt"));
        }
        let asked = Instant::now();
        if self.heard.has(owner, asked) {
            return Err(Unavailable::new(
                "the lease of a sidecar that was heard a moment ago has ended before its time",
            ));
        }
        let is_gone = self.account.store.peers().is_gone(owner).await?;
        if is_gone {
            self.gone.insert(owner.clone(), asked);
        } else {
            self.gone.remove(owner);
            self.alive.insert(owner.clone());
        }
        Ok(is_gone)
    }

    fn is_ours(&self, client_id: &str) -> bool {
        let alive = self.alive.iter().map(String::as_str);
        self.look.has(dividing::place(client_id, &self.node, alive))
    }

    /// Begins with one as soon as there is room, if its owner is gone still.
    async fn begin(&mut self, kind: Kind, record: SessionRecord, revision: Revision) -> Result<(), Unavailable> {
        let Ok(room) = Arc::clone(&self.account.ordering).acquire_owned().await else { return Ok(()) };
        if kind != Kind::Expired && !self.is_orphan(&record).await? {
            return Ok(());
        }
        let (account, node, done) = (Arc::clone(self.account), Arc::clone(&self.node), Arc::clone(self.done));
        let under_way = self.under_way.begin();
        self.account.store.tasks().spawn(async move {
            let (_room, _under_way) = (room, under_way);
            // One that has expired the server was to remove, and has lost that. Should somebody come back to it now, they are
            // faster.
            if account.adopt(&node, record, revision).await && kind != Kind::Expired {
                account.metrics.session_adopted();
                done.fetch_add(1, Ordering::Relaxed);
            }
        });
        Ok(())
    }
}

/// Looks after sessions whenever a node is gone.
async fn look_after(account: Weak<Account>, mut gone: mpsc::Receiver<()>, heard: Arc<Heard>) {
    while gone.recv().await.is_some() {
        let done = Arc::new(AtomicU64::new(0));
        let mut look = Look::Own;
        loop {
            // Whoever is gone by now is found.
            while gone.try_recv().is_ok() {}
            let Some(strong) = account.upgrade() else { return };
            let looking = strong.duties.waiting.begin();
            // What is not begun now is begun by others, or when it is opened again.
            if strong.is_retiring() {
                return;
            }
            let looked = Box::pin(strong.adopt_all(look, &heard, &done)).await;
            drop((strong, looking));
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
