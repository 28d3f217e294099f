//! Our own lease, as it is known. What follows from it is in `leases`.

use std::sync::Arc;

use parking_lot::RwLock;

use crate::store::LeaseView;

/// Our lease, as far as there is one.
#[derive(Debug, Default)]
pub(in crate::account) struct OurLease {
    /// The node that it is for, while it is held.
    pub(in crate::account) node: RwLock<Option<Arc<str>>>,
    /// What is known of it, held or not.
    pub(in crate::account) view: RwLock<Option<LeaseView>>,
}

impl OurLease {
    /// The node that it is for, if it is held by the clock: a process that was stopped knows before a task of its own has noticed.
    pub(in crate::account) fn node(&self) -> Option<Arc<str>> {
        let is_held = self.view.read().as_ref().is_some_and(|view| view.state().is_held());
        self.node.read().clone().filter(|_| is_held)
    }

    pub(in crate::account) fn view(&self) -> Option<LeaseView> {
        self.view.read().clone()
    }
}
