//! How a connection ends, and whose session it has: orders, the record that comes late, and what it leaves to the
//! connection that takes the session over.

use std::sync::atomic::Ordering;

use mqtt_codec::ReasonCode;
use mqtt_ownership::Arrival;

use super::footing::SeenRecord;
use super::{LogRestart, Mailbox, Order};
use crate::account::ownership::owned_session::OwnedSession;
use crate::store::ProgressRecord;

impl Mailbox {
    /// Orders the connection to end. The first order stays, but `Close` overrides `Drain`.
    pub(crate) fn order(&self, order: Order) {
        self.try_order(order);
    }

    /// Somebody has taken the client id: orders the connection to end. Says whether it had no such order before.
    pub(crate) fn take_over(&self) -> bool {
        self.try_order(Order::Close(ReasonCode::SessionTakenOver))
    }

    fn try_order(&self, order: Order) -> bool {
        let mut lanes = self.lanes.lock();
        // A publish that has failed is an order too, which the connection gives itself.
        let counts = lanes.order.is_none_or(|old| old == Order::Drain) && !self.completions.has_failed();
        if counts {
            lanes.order = Some(order);
        }
        drop(lanes);
        self.wake.notify_one();
        counts
    }

    /// Somebody else owns the session: the connection ends, and what it has not stored is withdrawn.
    pub(crate) fn give_way(&self) {
        self.withdraw();
        self.order(Order::Close(ReasonCode::SessionTakenOver));
    }

    /// See [`Completions::withdraw`].
    ///
    /// [`Completions::withdraw`]: crate::account::publish::completions::Completions::withdraw
    pub(crate) fn withdraw(&self) {
        self.completions.withdraw();
    }

    /// Gives a connection the record of its session. False when it has ended.
    pub(crate) fn give(&self, owned: Box<OwnedSession>) -> bool {
        let mut lanes = self.lanes.lock();
        if lanes.is_closed {
            return false;
        }
        lanes.owned = Some(owned);
        drop(lanes);
        self.wake.notify_one();
        true
    }

    /// A log goes on with the sequence `next`, which may have been there before. To be called while its tail stands still.
    ///
    /// **Invariant:** the session knows before it gets anything of what the log has now.
    pub(crate) fn log_restarted(&self, log: u16, next: u64) {
        let mut lanes = self.lanes.lock();
        if lanes.is_closed {
            return;
        }
        lanes.restart(log, next, self.limits);
        self.is_scanning.store(lanes.is_scanning(), Ordering::Relaxed);
        if log == 0 {
            self.log_begins_at.store(0, Ordering::Release);
        }
        drop(lanes);
        self.room.notify_waiters();
        self.wake.notify_one();
    }

    /// Where a log goes on that the session does not know of yet.
    pub(crate) fn restarts_at(&self, log: u16) -> Option<u64> {
        self.lanes.lock().restarts.iter().rev().find(|restart| restart.log == log).map(|restart| restart.next)
    }

    /// Takes the restarts of logs that the session does not know of yet.
    pub(crate) fn take_restarts(&self) -> Vec<LogRestart> {
        std::mem::take(&mut self.lanes.lock().restarts)
    }

    /// Waits for an order to end, other than the one that is known. For a connection that has yet to begin: it takes what
    /// wakes the one loop that this mailbox is for.
    pub(crate) async fn ordered(&self, known: Option<Order>) -> Order {
        loop {
            let order = self.lanes.lock().order;
            match order {
                Some(order) if Some(order) != known => return order,
                _ => self.wake.notified().await,
            }
        }
    }

    /// At this place in the order in which connections were taken.
    pub(crate) const fn taken_at(mut self, place: u64) -> Self {
        self.place = place;
        self
    }

    /// CONNECT is answered: whoever comes now came later.
    pub(crate) fn set_answered(&self) {
        self.is_answered.store(true, Ordering::Relaxed);
    }

    /// When it came, compared with others of its client id.
    pub(crate) fn arrival(&self, is_gone: bool) -> Arrival {
        Arrival { place: self.place, is_gone, is_answered: self.is_answered.load(Ordering::Relaxed) }
    }

    /// Takes nothing more; what is queued is given up.
    pub(crate) fn close(&self) {
        let mut lanes = self.lanes.lock();
        lanes.close();
        self.share_room.store(0, Ordering::Relaxed);
        drop(lanes);
        self.is_scanning.store(false, Ordering::Relaxed);
        self.room.notify_waiters();
    }

    /// Epoch of the connection in its session's record; 0 without one.
    pub(crate) fn epoch(&self) -> u64 {
        self.completions.epoch()
    }

    /// The session has a record of ours, with this epoch, written with this sequence.
    pub(crate) fn owns(&self, epoch: u64, sequence: u64) {
        let mut footing = self.footing.lock();
        self.completions.set_epoch(epoch);
        footing.written = sequence;
        let is_displaced = footing.is_displaced(epoch);
        drop(footing);
        if is_displaced {
            self.order(Order::Close(ReasonCode::SessionTakenOver));
        }
    }

    /// This is the last that was written for the client. Returns whether the connection ends for that, and not for something else.
    pub(crate) fn sees_record(&self, sequence: u64, record: SeenRecord) -> bool {
        let mut footing = self.footing.lock();
        if sequence > footing.seen {
            (footing.seen, footing.record) = (sequence, Some(record));
        }
        drop(footing);
        // One that has ended says so in its record itself, and keeps what it has sent.
        if !self.is_displaced() || self.is_closed() {
            return false;
        }
        // Who connects elsewhere asks for what there is, and lets it settle; who adopts asks nobody.
        if record == SeenRecord::Left(self.epoch()) {
            self.withdraw();
        }
        self.take_over()
    }

    /// The last record of the connection is written: it has left by itself, and keeps what it has sent.
    pub(crate) fn disown(&self) {
        self.footing.lock().written = 0;
    }

    /// Whether the session is somebody else's, as far as records were read.
    pub(crate) fn is_displaced(&self) -> bool {
        self.footing.lock().is_displaced(self.epoch())
    }

    /// The connection has ended and leaves this to the one that takes its session over.
    pub(crate) fn hand_over(&self, progress: Option<ProgressRecord>) {
        self.left.send_modify(|left| left.handed_over = Some(progress));
    }

    /// Waits for [`Mailbox::hand_over`].
    pub(crate) async fn handed_over(&self) -> Option<ProgressRecord> {
        // The sender is ours, so the wait cannot fail.
        let mut receiver = self.left.subscribe();
        let left = receiver.wait_for(|left| left.handed_over.is_some()).await.ok()?;
        left.handed_over.clone().flatten()
    }

    /// What the connection left has been handed over.
    pub(crate) fn collected(&self) {
        self.left.send_modify(|left| left.is_collected = true);
    }

    /// Waits for [`Mailbox::collected`].
    pub(crate) async fn is_collected(&self) {
        // The sender is ours, so the wait cannot fail.
        let _ = self.left.subscribe().wait_for(|left| left.is_collected).await;
    }

    /// The connection is over, and everything it published is settled.
    pub(crate) fn end(&self) {
        // One that never began leaves nothing, and nobody is to wait for it.
        self.left.send_modify(|left| {
            left.handed_over.get_or_insert(None);
            (left.is_settled, left.has_ended) = (true, true);
        });
    }

    /// Everything that the connection published has its answer, or none is waited for any more.
    pub(crate) fn set_settled(&self) {
        self.left.send_modify(|left| left.is_settled = true);
    }

    /// Waits for [`Mailbox::set_settled`].
    pub(crate) async fn settled(&self) {
        // The sender is ours, so the wait cannot fail.
        let _ = self.left.subscribe().wait_for(|left| left.is_settled).await;
    }

    /// Waits for [`Mailbox::end`].
    pub(crate) async fn ended(&self) {
        // The sender is ours, so the wait cannot fail.
        let _ = self.left.subscribe().wait_for(|left| left.has_ended).await;
    }

    /// Whether the connection takes nothing more.
    pub(crate) fn is_closed(&self) -> bool {
        self.lanes.lock().is_closed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::account::MailboxLimits;

    const LIMITS: MailboxLimits = MailboxLimits { qos0_bytes: 1_000, feed_messages: 4, feed_bytes: 1_000 };

    fn mailbox() -> Mailbox {
        Mailbox::new(1, "c".into(), mqtt_codec::Version::V5, u32::MAX, LIMITS)
    }

    fn owner() -> Mailbox {
        let mailbox = mailbox();
        mailbox.owns(7, 20);
        mailbox
    }

    #[test]
    fn a_connection_ends_when_what_is_newer_than_its_record_is_not_its_own() {
        for (sequence, record, ends, is_withdrawn) in [
            (19, SeenRecord::Connected(6), false, false),
            (19, SeenRecord::Ended, false, false),
            (20, SeenRecord::Connected(7), false, false),
            (21, SeenRecord::Connected(7), false, false),
            (21, SeenRecord::Connected(8), true, false),
            (21, SeenRecord::Left(8), true, false),
            (21, SeenRecord::Left(7), true, true),
            (21, SeenRecord::Ended, true, false),
        ] {
            let mailbox = owner();
            assert_eq!(mailbox.sees_record(sequence, record), ends, "{sequence} {record:?}");
            assert_eq!(
                (mailbox.is_displaced(), mailbox.completions.is_withdrawn()),
                (ends, is_withdrawn),
                "{record:?}"
            );
            let order = mailbox.lanes.lock().order;
            assert_eq!(order, ends.then_some(Order::Close(ReasonCode::SessionTakenOver)));
        }
    }

    #[test]
    fn what_was_read_before_its_own_write_was_acknowledged_counts() {
        let early = mailbox();
        assert!(!early.sees_record(21, SeenRecord::Ended), "it may be that of the connection before");
        early.owns(7, 20);
        assert!(early.is_displaced());
        let later = mailbox();
        later.sees_record(19, SeenRecord::Ended);
        later.owns(7, 20);
        assert!(!later.is_displaced());
    }

    #[test]
    fn a_connection_that_has_ended_keeps_what_it_has_sent() {
        let mailbox = owner();
        mailbox.close();
        assert!(!mailbox.sees_record(21, SeenRecord::Left(7)), "it has written that itself");
        assert!(
            !mailbox.completions.is_withdrawn() && mailbox.is_displaced(),
            "nobody has said yet that it was itself"
        );
        mailbox.disown();
        assert!(!mailbox.is_displaced());
    }
}
