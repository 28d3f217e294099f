//! What shared subscriptions give to a session: no more than its window has room for.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use mqtt_session::Position;
use tokio::sync::Notify;

use super::{Inbox, Outgoing, Wakes};

impl Inbox {
    /// A shared subscription gives to this session from now on; `wake` is notified when there is more room.
    pub(crate) fn join_share(&self, wake: &Arc<Notify>) {
        let mut lanes = self.lanes.lock();
        if !lanes.share_wakes.iter().any(|known| Arc::ptr_eq(known, wake)) {
            lanes.share_wakes.push(Arc::clone(wake));
            self.shares.store(lanes.share_wakes.len(), Ordering::Relaxed);
        }
        drop(lanes);
        // It tells how much room there is.
        self.wake.notify_one();
    }

    /// A shared subscription gives nothing any more.
    pub(crate) fn leave_share(&self, wake: &Arc<Notify>) {
        let mut lanes = self.lanes.lock();
        lanes.share_wakes.retain(|known| !Arc::ptr_eq(known, wake));
        self.shares.store(lanes.share_wakes.len(), Ordering::Relaxed);
    }

    /// Whether shared subscriptions give to this session.
    pub(crate) fn is_sharing(&self) -> bool {
        self.shares.load(Ordering::Relaxed) > 0
    }

    /// How many messages one feed of shared subscriptions may ask for on behalf of this session.
    pub(crate) fn share_room(&self) -> usize {
        self.share_room.load(Ordering::Relaxed).div_ceil(self.shares.load(Ordering::Relaxed).max(1))
    }

    /// The session has room for so many messages of shared subscriptions.
    pub(crate) fn offer_share_room(&self, room: usize) {
        if !self.is_sharing() {
            return;
        }
        let lanes = self.lanes.lock();
        let room = if lanes.is_closed { 0 } else { room.saturating_sub(lanes.shared.len()) };
        if room > self.share_room.swap(room, Ordering::Relaxed) {
            for wake in &lanes.share_wakes {
                wake.notify_one();
            }
        }
    }

    /// A shared subscription gives a message. False when there is no room, and it has to go elsewhere.
    pub(crate) fn offer_shared(
        self: &Arc<Self>,
        position: Position,
        wakes: &mut Wakes,
        outgoing: impl FnOnce() -> Outgoing,
    ) -> bool {
        let mut lanes = self.lanes.lock();
        let room = self.share_room.load(Ordering::Relaxed);
        if lanes.is_closed || room == 0 {
            return false;
        }
        self.share_room.store(room - 1, Ordering::Relaxed);
        lanes.shared.push_back((position, outgoing()));
        self.wake_later(&mut lanes, wakes);
        true
    }
}
