//! Who is connected to this sidecar, by client id.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytestring::ByteString;
use foldhash::HashMap;
use mqtt_ownership::{ArrivalPlace, Epoch};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use crate::account::control::Control;
use crate::account::rivals::Rivals;
use crate::network::PeerAddr;
use crate::shutdown::ShutdownSignal;

/// Where a CONNECT came from.
#[derive(Clone, Debug)]
pub(crate) struct Remote {
    /// Address of the peer.
    pub(crate) addr: PeerAddr,
    /// Its place in the order in which connections were taken, of all listeners.
    pub(crate) place: ArrivalPlace,
    /// Triggered when the listener that it has come by is gone.
    pub(crate) closing: ShutdownSignal,
}

/// How a client was entered.
#[derive(Debug)]
pub(crate) enum Entered {
    /// Nobody has its client id.
    Alone,
    /// These connections had it, and have not ended; the last one until now.
    Behind(Vec<Arc<Control>>),
    /// It was not: its peer is gone, or the connection that has the client id came later.
    GivesWay,
    /// It was not: the connection that has the client id is another user's.
    Foreign,
    /// It was not: nobody is any more.
    Draining,
}

/// The connected clients.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    is_draining: AtomicBool,
    clients: Mutex<HashMap<ByteString, Arc<Control>>>,
    /// Connections that were taken over and have not ended yet are not in `clients` any more.
    leaving: Mutex<HashMap<ByteString, Vec<Arc<Control>>>>,
    changed: Notify,
    rivals: Rivals,
    /// Whether anybody is in either.
    is_occupied: watch::Sender<bool>,
}

impl Registry {
    /// Enters a client, unless it gives way. `is_gone`: whether its peer is gone, which is looked at when nobody else can
    /// enter, so that a connection that came when that one was gone is behind it.
    pub(crate) fn enter(&self, control: &Arc<Control>, is_gone: impl FnOnce() -> bool) -> Entered {
        let mut clients = self.clients.lock();
        if self.is_draining.load(Ordering::Relaxed) {
            return Entered::Draining;
        }
        if clients
            .get(&control.client_id)
            .is_some_and(|old| !control.inbox().rights.may_own(old.inbox().rights.owner().as_ref()))
        {
            return Entered::Foreign;
        }
        let newcomer = control.arrival(is_gone());
        if newcomer.is_gone
            || clients.get(&control.client_id).is_some_and(|old| newcomer.yields_to(&old.arrival(false)))
        {
            return Entered::GivesWay;
        }
        self.is_occupied.send_if_modified(|is| !std::mem::replace(is, true));
        match clients.insert(control.client_id.clone(), Arc::clone(control)) {
            Some(old) => {
                let mut leaving = self.leaving.lock();
                let those = leaving.entry(old.client_id.clone()).or_default();
                those.push(old);
                Entered::Behind(those.clone())
            }
            None => match self.leaving.lock().get(&control.client_id) {
                Some(those) => Entered::Behind(those.clone()),
                None => Entered::Alone,
            },
        }
    }

    /// A connection takes a session over from one at this address: of two devices with one client id something is said.
    pub(crate) fn note_takeover(&self, from: Option<IpAddr>, control: &Control) {
        self.rivals.taken_over(&control.client_id, from, control.remote());
    }

    /// Nobody is entered any more. Returns all that are there.
    pub(crate) fn close(&self) -> Vec<Arc<Control>> {
        let clients = self.clients.lock();
        self.is_draining.store(true, Ordering::Relaxed);
        clients.values().cloned().collect()
    }

    /// The connection that has a client id.
    pub(crate) fn find(&self, client_id: &str) -> Option<Arc<Control>> {
        self.clients.lock().get(client_id).cloned()
    }

    /// The connection that owned a session last before an epoch, also while it ends.
    pub(crate) fn find_before(&self, client_id: &str, epoch: Epoch) -> Option<Arc<Control>> {
        let clients = self.clients.lock();
        let leaving = self.leaving.lock();
        let all = clients.get(client_id).into_iter().chain(leaving.get(client_id).into_iter().flatten());
        // One without an epoch has yet to write its record.
        all.filter(|control| (Epoch(1)..epoch).contains(&control.epoch()))
            .max_by_key(|control| control.epoch())
            .cloned()
    }

    /// A connection has ended.
    pub(crate) fn leave(&self, control: &Arc<Control>) {
        let mut clients = self.clients.lock();
        if clients.get(&control.client_id).is_some_and(|m| m.id == control.id) {
            clients.remove(&control.client_id);
        } else {
            let mut leaving = self.leaving.lock();
            if let Some(those) = leaving.get_mut(&control.client_id) {
                those.retain(|other| other.id != control.id);
                if those.is_empty() {
                    leaving.remove(&control.client_id);
                }
            }
        }
        if clients.is_empty() && self.leaving.lock().is_empty() {
            self.is_occupied.send_if_modified(|is| std::mem::replace(is, false));
        }
        drop(clients);
        self.changed.notify_waiters();
    }

    /// Whether anybody is connected, as it changes; who was taken over and has not ended is.
    pub(crate) fn is_occupied(&self) -> watch::Receiver<bool> {
        self.is_occupied.subscribe()
    }

    /// All that are connected.
    pub(crate) fn everyone(&self) -> Vec<Arc<Control>> {
        self.clients.lock().values().cloned().collect()
    }

    /// The connections of a client, also those that were taken over and have not ended.
    pub(crate) fn all_of(&self, client_id: &str) -> Vec<Arc<Control>> {
        let clients = self.clients.lock();
        let leaving = self.leaving.lock();
        clients.get(client_id).into_iter().chain(leaving.get(client_id).into_iter().flatten()).cloned().collect()
    }

    /// All that are connected, and all that were taken over and have not ended.
    pub(crate) fn everyone_and_leaving(&self) -> Vec<Arc<Control>> {
        let clients = self.clients.lock();
        let leaving = self.leaving.lock();
        clients.values().chain(leaving.values().flatten()).cloned().collect()
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
