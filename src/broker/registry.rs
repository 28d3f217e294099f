//! Who is connected to this sidecar, by client id.

use std::sync::Arc;

use bytestring::ByteString;
use foldhash::HashMap;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::mailbox::Mailbox;

/// The connected clients.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    clients: Mutex<HashMap<ByteString, Arc<Mailbox>>>,
    /// Connections that were taken over and have not ended yet are not in `clients` any more.
    leaving: Mutex<HashMap<ByteString, Vec<Arc<Mailbox>>>>,
    changed: Notify,
}

impl Registry {
    /// Enters a client. Returns the connection that had its client id.
    pub(crate) fn enter(&self, mailbox: &Arc<Mailbox>) -> Option<Arc<Mailbox>> {
        let mut clients = self.clients.lock();
        let old = clients.insert(mailbox.client_id.clone(), Arc::clone(mailbox));
        if let Some(old) = &old {
            self.leaving.lock().entry(old.client_id.clone()).or_default().push(Arc::clone(old));
        }
        old
    }

    /// The connection that has a client id.
    pub(crate) fn find(&self, client_id: &str) -> Option<Arc<Mailbox>> {
        self.clients.lock().get(client_id).cloned()
    }

    /// The connection that owned a session last before an epoch, also while it ends.
    pub(crate) fn find_before(&self, client_id: &str, epoch: u64) -> Option<Arc<Mailbox>> {
        let clients = self.clients.lock();
        let leaving = self.leaving.lock();
        let all = clients.get(client_id).into_iter().chain(leaving.get(client_id).into_iter().flatten());
        // One without an epoch has yet to write its record.
        all.filter(|mailbox| (1..epoch).contains(&mailbox.epoch())).max_by_key(|mailbox| mailbox.epoch()).cloned()
    }

    /// A connection has ended.
    pub(crate) fn leave(&self, mailbox: &Arc<Mailbox>) {
        let mut clients = self.clients.lock();
        if clients.get(&mailbox.client_id).is_some_and(|m| m.id == mailbox.id) {
            clients.remove(&mailbox.client_id);
        } else {
            let mut leaving = self.leaving.lock();
            if let Some(those) = leaving.get_mut(&mailbox.client_id) {
                those.retain(|other| other.id != mailbox.id);
                if those.is_empty() {
                    leaving.remove(&mailbox.client_id);
                }
            }
        }
        drop(clients);
        self.changed.notify_waiters();
    }

    /// All that are connected.
    pub(crate) fn everyone(&self) -> Vec<Arc<Mailbox>> {
        self.clients.lock().values().cloned().collect()
    }

    /// Waits until nobody is connected.
    pub(crate) async fn empty(&self) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.clients.lock().is_empty() && self.leaving.lock().is_empty() {
                return;
            }
            changed.await;
        }
    }
}
