//! Our own lease: what follows when it is held, in doubt, held again, or lost.
//!
//! ```text
//!   Held ──not refreshed──▶ InDoubt ──refreshed──▶ Held
//!    ▲                        │  └─ it had ended, and is taken again ─▶ what others have adopted meanwhile is read ─▶ Held
//!    │                        └─ for too long, or somebody else has our name ─▶ Lost: all connections end
//!    └───────────────────────────────────── another name ─────────────────────────┘
//! ```
//!
//! The end of a lease takes nothing from anybody: a session is somebody else's when its record says so, and that is what each
//! write is compared with. It only lets others take without asking. So in doubt connections stay: what needs JetStream waits, and
//! all else goes on. But nobody new becomes ours, nobody else's sessions are adopted, and nothing is sent to a log or the bucket of
//! retained messages: it would come behind what the next owner has published, a will above all.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use mqtt_codec::ReasonCode;

use crate::account::Account;
use crate::account::control::Order;
use crate::account::membership::{Held, Membership};
use crate::account::ownership::nodes_gone;
use crate::account::ownership::nodes_gone::Looks;
use crate::store::{LeaseState, LeaseView, Peers as _};

/// How long to wait before JetStream is asked again.
const RETRY: Duration = Duration::from_secs(1);

/// How long the records may take to be read up to a mark, before another mark is made.
const READ_WITHIN: Duration = Duration::from_secs(10);

impl Account {
    /// Owns sessions by the lease of the process, and adopts those of nodes that are gone, as long as the account lives.
    pub(in crate::account) async fn go_by_lease(account: Weak<Self>, membership: Arc<Membership>) {
        let Some(strong) = account.upgrade() else { return };
        let looks = nodes_gone::start(&strong, &membership);
        drop(strong);
        let mut held = membership.held();
        loop {
            let Ok(lease) = held.wait_for(Option::is_some).await.map(|held| held.clone()) else { return };
            let (Some(strong), Some(lease)) = (account.upgrade(), lease) else { return };
            Box::pin(strong.hold(lease.clone(), &looks)).await;
            // It is lost for whoever looks at its clock, before its keeper has noticed.
            let is_another = |now: &Option<Held>| now.as_ref().is_none_or(|now| now.node != lease.node);
            if held.wait_for(is_another).await.is_err() {
                return;
            }
        }
    }

    /// Owns sessions under the name of a lease until that is lost, then ends all connections.
    async fn hold(self: &Arc<Self>, Held { node, view }: Held, looks: &Looks) {
        let takeovers = Arc::downgrade(self);
        let handler = move |request| {
            let account = takeovers.upgrade();
            async move { account?.hand_over(request).await }
        };
        let served = self.store.peers().serve(&node, handler).await;
        let left = match &self.ingest {
            Some(ingest) => ingest.serve_left(&node).await,
            None => None,
        };
        *self.lease.view.write() = Some(view.clone());
        let mut is_closing = self.is_closing.subscribe();
        let is_over = async { is_closing.wait_for(|closing| *closing).await.map(|_| ()) };
        tokio::select! {
            () = self.own_until_lost(&node, view, looks) => self.end_all(),
            _ = is_over => {
                *self.lease.node.write() = None;
                self.has_lease.send_replace(false);
                self.store.publisher().send_until(None);
                std::future::pending::<()>().await;
            }
        }
        drop((served, left));
    }

    async fn own_until_lost(self: &Arc<Self>, node: &Arc<str>, mut view: LeaseView, looks: &Looks) {
        // An account that is opened when the lease has been taken again before has owned nothing before.
        let (mut known, mut held_until) = (view.gaps(), view.held_until());
        loop {
            match view.state() {
                now @ LeaseState::Held { gaps } if Some(gaps) != known => {
                    self.be_in_doubt();
                    let mut watched = view.clone();
                    tokio::select! {
                        () = self.learn_what_was_adopted(held_until) => known = Some(gaps),
                        () = watched.differs(now) => {}
                    }
                    continue;
                }
                LeaseState::Held { .. } => {
                    held_until = view.held_until();
                    self.own(node, &view, looks);
                }
                LeaseState::InDoubt => self.be_in_doubt(),
                LeaseState::Lost => return,
            }
            if !view.changed().await {
                return;
            }
        }
    }

    /// The lease is held, and whatever of our sessions is somebody else's has been told so.
    fn own(&self, node: &Arc<str>, view: &LeaseView, looks: &Looks) {
        self.store.publisher().send_until(Some(view.held_until()));
        if self.lease.node.read().is_none() {
            *self.lease.node.write() = Some(Arc::clone(node));
            self.has_lease.send_replace(true);
            // Sessions of those who died before we came, or while we could not look.
            looks.ask();
        }
    }

    fn be_in_doubt(&self) {
        self.store.publisher().send_until(Some(Instant::now()));
        if self.lease.node.write().take().is_some() {
            self.has_lease.send_replace(false);
            tracing::warn!(
                "the lease is in doubt: who is connected stays, and nobody becomes ours until it is held again"
            );
        }
    }

    /// The lease had ended, and is ours again: reads all records that were written until now, so that connections whose session was
    /// adopted meanwhile are told (`displaced`). `held_until`: from when on it was not held.
    async fn learn_what_was_adopted(&self, held_until: Instant) {
        loop {
            match self.store.sessions().mark().await {
                Ok(sequence) => match tokio::time::timeout(READ_WITHIN, self.has_read_records(sequence)).await {
                    Ok(()) => break,
                    Err(_) => tracing::warn!("the records of sessions are not read to their end"),
                },
                Err(error) => tracing::warn!(%error, "it cannot be known yet which sessions others have adopted"),
            }
            tokio::time::sleep(RETRY).await;
        }
        let everyone = self.registry.everyone_and_leaving();
        let displaced = everyone.iter().filter(|control| control.is_displaced());
        let adopted = displaced.inspect(|control| control.withdraw()).count();
        let (connected, unheld_ms) = (everyone.len(), held_until.elapsed().as_millis());
        tracing::info!(adopted, connected, unheld_ms, "what others have adopted meanwhile is known");
    }

    async fn has_read_records(&self, sequence: u64) {
        if let Some(records) = &self.records {
            records.has_read(sequence).await;
        }
    }

    fn end_all(&self) {
        tracing::error!("the lease is lost: all connections end, and others adopt their sessions");
        *self.lease.node.write() = None;
        *self.lease.view.write() = None;
        self.has_lease.send_replace(false);
        for control in self.registry.everyone_and_leaving() {
            control.withdraw();
            control.order(Order::Close(ReasonCode::ServerBusy));
        }
        self.store.publisher().send_until(None);
    }
}
