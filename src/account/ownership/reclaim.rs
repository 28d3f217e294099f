//! The sessions of CONNECTs that were given up are put in order: see `orphans`.

use std::sync::Arc;

use bytestring::ByteString;
use mqtt_ownership::{Epoch, Revision};
use tokio::time::Instant;

use super::orphaned_connects::{LOOK_AFTER, Orphan};
use super::record::State;
use crate::account::Account;

impl Account {
    /// A CONNECT was given up whose record may make us the owner: should it do so, the session is put in order.
    pub(super) fn look_after_orphan(self: &Arc<Self>, client_id: &ByteString, orphan: Orphan) {
        if !self.orphans.note(client_id, orphan) {
            return;
        }
        let (account, client_id) = (Arc::clone(self), client_id.clone());
        self.store.tasks().spawn(async move {
            while let Some(at) = account.orphans.look_at(&client_id) {
                if at > Instant::now() {
                    tokio::time::sleep_until(at).await;
                } else if Box::pin(account.reclaim(&client_id)).await {
                    account.orphans.forget(&client_id);
                } else {
                    tokio::time::sleep(LOOK_AFTER).await;
                }
            }
        });
    }

    /// Puts the session of a client in order whose CONNECT was given up. False when JetStream cannot be asked, or we hold no lease
    /// by which others see that we do.
    async fn reclaim(self: &Arc<Self>, client_id: &ByteString) -> bool {
        if self.registry.find(client_id).is_some_and(|control| control.epoch() > Epoch(0)) {
            return true;
        }
        // Those of one bad moment come up together.
        let _room = self.ordering.acquire().await;
        let Some(node) = self.node() else { return false };
        let Ok(loaded) = self.store.sessions().load(client_id).await else { return false };
        let left = loaded.record.filter(|r| r.connected && self.orphans.has(client_id, Epoch(r.epoch)));
        let Some(record) = left else { return true };
        self.adopt(&node, record, Revision(loaded.sequence)).await;
        true
    }

    /// A record as a new owner sees it.
    pub(super) fn seen(&self, client_id: &str, record: Option<State>) -> Option<State> {
        record.and_then(|record| self.orphans.see_through(client_id, record, self.session_time()))
    }
}
