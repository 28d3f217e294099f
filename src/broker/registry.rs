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
    /// Sessions that were taken over and have not ended yet are not in `clients` any more, but count.
    leaving: Mutex<usize>,
    changed: Notify,
}

impl Registry {
    /// Enters a client. Returns the connection that had its client id.
    pub(crate) fn enter(&self, mailbox: &Arc<Mailbox>) -> Option<Arc<Mailbox>> {
        let old = self.clients.lock().insert(mailbox.client_id.clone(), Arc::clone(mailbox));
        if old.is_some() {
            *self.leaving.lock() += 1;
        }
        old
    }

    /// The connection that has a client id.
    pub(crate) fn find(&self, client_id: &str) -> Option<Arc<Mailbox>> {
        self.clients.lock().get(client_id).cloned()
    }

    /// A connection has ended.
    pub(crate) fn leave(&self, mailbox: &Arc<Mailbox>) {
        let mut clients = self.clients.lock();
        if clients.get(&mailbox.client_id).is_some_and(|m| m.id == mailbox.id) {
            clients.remove(&mailbox.client_id);
        } else {
            *self.leaving.lock() -= 1;
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
            if self.clients.lock().is_empty() && *self.leaving.lock() == 0 {
                return;
            }
            changed.await;
        }
    }
}
