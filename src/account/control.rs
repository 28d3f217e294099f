//! What is ordered of one connection: to end, to give its session up, to hand it over. Whose session it has, as far as that is
//! known, the record that comes late, and what it leaves to the connection that takes the session over.
//!
//! It is what others know of a connection, so it knows the two that have the rest: the [`Inbox`], where its messages wait, and
//! the [`Completions`] of what it publishes. Who only delivers, or only publishes, knows one of those.

mod footing;
mod left;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytestring::ByteString;
use mqtt_access::Principal;
use mqtt_codec::{ReasonCode, Version};
use mqtt_ownership::{Arrival, ArrivalPlace, Epoch, Revision};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use self::footing::Footing;
pub(crate) use self::footing::SeenRecord;
use self::left::Left;
use crate::account::delivery::inbox::{Inbox, InboxLimits};
use crate::account::ownership::owned_session::OwnedSession;
use crate::account::publish::completions::Completions;
use crate::account::rights::Rights;
use crate::account::session_id::SessionId;
use crate::shutdown::ShutdownSignal;
use crate::store::ProgressRecord;

/// Why the connection has to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// End now, with this reason.
    Close(ReasonCode),
    /// Finish what is in flight, then end as [`Account::drain_reason`](crate::account::Account::drain_reason) says.
    Drain,
}

/// What is given to a connection.
#[derive(Debug, Default)]
struct Given {
    order: Option<Order>,
    owned: Option<Box<OwnedSession>>,
    has_new_rights: bool,
    has_new_limits: bool,
    is_closed: bool,
}

/// What a connection has taken of that.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    /// The order to end, which stays.
    pub(crate) order: Option<Order>,
    /// The record of the session, when it came later than the connection.
    pub(crate) owned: Option<Box<OwnedSession>>,
    /// What the client may do has changed.
    pub(crate) has_new_rights: bool,
    /// How fast it may do it has.
    pub(crate) has_new_limits: bool,
}

/// The control of one connection.
#[derive(Debug)]
pub(crate) struct Control {
    /// Names the session.
    pub(crate) id: SessionId,
    /// Its client id.
    pub(crate) client_id: ByteString,
    inbox: Arc<Inbox>,
    completions: Arc<Completions>,
    given: Mutex<Given>,
    /// Something is given: a connection that has no order takes no lock to know it.
    is_given: AtomicBool,
    wake: Arc<Notify>,
    /// What the connection leaves, and how far its end is.
    left: watch::Sender<Left>,
    /// Its place in the order in which connections were taken.
    place: ArrivalPlace,
    /// Triggered when the listener that it has come by is gone; `None`: it has come by none.
    closing: Option<ShutdownSignal>,
    /// Where it came from.
    remote: Option<IpAddr>,
    /// Its CONNECT is answered.
    is_answered: AtomicBool,
    /// What is known of its session's record.
    footing: Mutex<Footing>,
}

impl Control {
    /// Of a connection whose session is live.
    pub(crate) fn new(
        id: SessionId,
        client_id: ByteString,
        version: Version,
        client_max_packet_size: u32,
        rights: Arc<Rights>,
        limits: InboxLimits,
    ) -> Self {
        let wake = Arc::<Notify>::default();
        let completions = Completions::waking(id, client_id.clone(), version, Arc::clone(&wake));
        let inbox =
            Inbox::new(id, client_id.clone(), version, client_max_packet_size, rights, limits, Arc::clone(&wake));
        Self {
            id,
            client_id,
            inbox: Arc::new(inbox),
            completions: Arc::new(completions),
            given: Mutex::default(),
            is_given: AtomicBool::new(false),
            wake,
            left: watch::Sender::default(),
            place: ArrivalPlace(0),
            closing: None,
            remote: None,
            is_answered: AtomicBool::new(false),
            footing: Mutex::default(),
        }
    }

    /// Where its messages wait.
    pub(crate) const fn inbox(&self) -> &Arc<Inbox> {
        &self.inbox
    }

    /// What becomes of what it publishes.
    pub(crate) const fn completions(&self) -> &Arc<Completions> {
        &self.completions
    }

    /// Waits until something is there for the connection, in any of the three.
    pub(crate) fn notified(&self) -> tokio::sync::futures::Notified<'_> {
        self.wake.notified()
    }

    /// What is given, unless nothing is.
    pub(crate) fn take(&self) -> Taken {
        if !self.is_given.load(Ordering::Acquire) {
            return Taken::default();
        }
        let mut given = self.given.lock();
        // An order stays.
        self.is_given.store(given.order.is_some(), Ordering::Release);
        let (owned, has_new_rights) = (given.owned.take(), std::mem::take(&mut given.has_new_rights));
        Taken { order: given.order, owned, has_new_rights, has_new_limits: std::mem::take(&mut given.has_new_limits) }
    }

    /// Orders the connection to end. The first order stays, but `Close` overrides `Drain`.
    pub(crate) fn order(&self, order: Order) {
        self.try_order(order);
    }

    /// Somebody has taken the client id: orders the connection to end. Says whether it had no such order before.
    pub(crate) fn take_over(&self) -> bool {
        self.try_order(Order::Close(ReasonCode::SessionTakenOver))
    }

    fn try_order(&self, order: Order) -> bool {
        let mut given = self.given.lock();
        // A publish that has failed is an order too, which the connection gives itself.
        let counts = given.order.is_none_or(|old| old == Order::Drain) && !self.completions.has_failed();
        if counts {
            given.order = Some(order);
            self.is_given.store(true, Ordering::Release);
        }
        drop(given);
        self.wake.notify_one();
        counts
    }

    /// Somebody else owns the session: the connection ends, and what it has not stored is withdrawn.
    pub(crate) fn give_way(&self) {
        self.withdraw();
        self.order(Order::Close(ReasonCode::SessionTakenOver));
    }

    /// Its client is another principal from now on, if it is still the one that was judged: says whether it was.
    pub(crate) fn change_rights(&self, judged: &Arc<Principal>, principal: Arc<Principal>) -> bool {
        if !self.inbox.change_rights(judged, principal) {
            return false;
        }
        let mut given = self.given.lock();
        given.has_new_rights = true;
        self.is_given.store(true, Ordering::Release);
        drop(given);
        self.wake.notify_one();
        true
    }

    /// Its listener has other limits from now on.
    pub(crate) fn change_limits(&self) {
        let mut given = self.given.lock();
        given.has_new_limits = true;
        self.is_given.store(true, Ordering::Release);
        drop(given);
        self.wake.notify_one();
    }

    /// See [`Completions::withdraw`].
    pub(crate) fn withdraw(&self) {
        self.completions.withdraw();
    }

    /// Gives a connection the record of its session. False when it has ended.
    pub(crate) fn give(&self, owned: Box<OwnedSession>) -> bool {
        let mut given = self.given.lock();
        if given.is_closed {
            return false;
        }
        given.owned = Some(owned);
        self.is_given.store(true, Ordering::Release);
        drop(given);
        self.wake.notify_one();
        true
    }

    /// Waits for an order to end, other than the one that is known. For a connection that has yet to begin: it takes what
    /// wakes its loop.
    pub(crate) async fn ordered(&self, known: Option<Order>) -> Order {
        loop {
            let order = self.given.lock().order;
            match order {
                Some(order) if Some(order) != known => return order,
                _ => self.wake.notified().await,
            }
        }
    }

    /// At this place in the order in which connections were taken.
    pub(crate) const fn taken_at(mut self, place: ArrivalPlace) -> Self {
        self.place = place;
        self
    }

    /// By a listener of which this is triggered when it goes.
    pub(crate) fn come_by(mut self, closing: ShutdownSignal) -> Self {
        self.closing = Some(closing);
        self
    }

    /// Whether the listener that it has come by is gone.
    pub(crate) fn has_no_listener(&self) -> bool {
        self.closing.as_ref().is_some_and(ShutdownSignal::is_triggered)
    }

    /// From this address.
    pub(crate) const fn coming_from(mut self, remote: Option<IpAddr>) -> Self {
        self.remote = remote;
        self
    }

    /// Where it came from; `None` where nobody has said so.
    pub(crate) const fn remote(&self) -> Option<IpAddr> {
        self.remote
    }

    /// CONNECT is answered: whoever comes now came later.
    pub(crate) fn set_answered(&self) {
        self.is_answered.store(true, Ordering::Relaxed);
    }

    /// Whether its CONNECT is answered.
    pub(crate) fn is_answered(&self) -> bool {
        self.is_answered.load(Ordering::Relaxed)
    }

    /// When it came, compared with others of its client id.
    pub(crate) fn arrival(&self, is_gone: bool) -> Arrival {
        Arrival { place: self.place, is_gone, is_answered: self.is_answered() }
    }

    /// The connection takes nothing more; what waits in its inbox is given up. What it has published comes through still.
    pub(crate) fn close(&self) {
        self.given.lock().is_closed = true;
        self.inbox.close();
    }

    /// Whether the connection takes nothing more.
    pub(crate) fn is_closed(&self) -> bool {
        self.given.lock().is_closed
    }

    /// Epoch of the connection in its session's record; 0 without one.
    pub(crate) fn epoch(&self) -> Epoch {
        self.completions.epoch()
    }

    /// The session has a record of ours, with this epoch, written with this revision.
    pub(crate) fn owns(&self, epoch: Epoch, revision: Revision) {
        let mut footing = self.footing.lock();
        self.completions.set_epoch(epoch);
        footing.written = revision;
        let is_displaced = footing.is_displaced(epoch);
        drop(footing);
        if is_displaced {
            self.order(Order::Close(ReasonCode::SessionTakenOver));
        }
    }

    /// This is the last that was written for the client. Returns whether the connection ends for that, and not for something else.
    pub(crate) fn sees_record(&self, revision: Revision, record: SeenRecord) -> bool {
        let mut footing = self.footing.lock();
        if revision > footing.seen {
            (footing.seen, footing.record) = (revision, Some(record));
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
        self.footing.lock().written = Revision(0);
    }

    /// Whether the session is somebody else's, as far as records were read.
    pub(crate) fn is_displaced(&self) -> bool {
        self.footing.lock().is_displaced(self.epoch())
    }

    /// The connection has ended and leaves this to the one that takes its session over.
    pub(crate) fn hand_over(&self, progress: Option<ProgressRecord>) {
        self.left.send_modify(|left| left.handed_over = Some(progress));
    }

    /// Waits for [`Control::hand_over`].
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

    /// Waits for [`Control::collected`].
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

    /// Waits for [`Control::set_settled`].
    pub(crate) async fn settled(&self) {
        // The sender is ours, so the wait cannot fail.
        let _ = self.left.subscribe().wait_for(|left| left.is_settled).await;
    }

    /// Waits for [`Control::end`].
    pub(crate) async fn ended(&self) {
        // The sender is ours, so the wait cannot fail.
        let _ = self.left.subscribe().wait_for(|left| left.has_ended).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: InboxLimits = InboxLimits { qos0_bytes: 1_000, feed_messages: 4, feed_bytes: 1_000 };

    fn control() -> Control {
        Control::new(SessionId(1), "c".into(), mqtt_codec::Version::V5, u32::MAX, Arc::new(Rights::all()), LIMITS)
    }

    fn owner() -> Control {
        let control = control();
        control.owns(Epoch(7), Revision(20));
        control
    }

    #[test]
    fn a_connection_ends_when_what_is_newer_than_its_record_is_not_its_own() {
        for (revision, record, ends, is_withdrawn) in [
            (19, SeenRecord::Connected(Epoch(6)), false, false),
            (19, SeenRecord::Ended, false, false),
            (20, SeenRecord::Connected(Epoch(7)), false, false),
            (21, SeenRecord::Connected(Epoch(7)), false, false),
            (21, SeenRecord::Connected(Epoch(8)), true, false),
            (21, SeenRecord::Left(Epoch(8)), true, false),
            (21, SeenRecord::Left(Epoch(7)), true, true),
            (21, SeenRecord::Ended, true, false),
        ] {
            let control = owner();
            assert_eq!(control.sees_record(Revision(revision), record), ends, "{revision} {record:?}");
            assert_eq!(
                (control.is_displaced(), control.completions.is_withdrawn()),
                (ends, is_withdrawn),
                "{record:?}"
            );
            let order = control.take().order;
            assert_eq!(order, ends.then_some(Order::Close(ReasonCode::SessionTakenOver)));
        }
    }

    #[test]
    fn what_was_read_before_its_own_write_was_acknowledged_counts() {
        let early = control();
        assert!(!early.sees_record(Revision(21), SeenRecord::Ended), "it may be that of the connection before");
        early.owns(Epoch(7), Revision(20));
        assert!(early.is_displaced());
        let later = control();
        later.sees_record(Revision(19), SeenRecord::Ended);
        later.owns(Epoch(7), Revision(20));
        assert!(!later.is_displaced());
    }

    #[test]
    fn a_connection_that_has_ended_keeps_what_it_has_sent() {
        let control = owner();
        control.close();
        assert!(!control.sees_record(Revision(21), SeenRecord::Left(Epoch(7))), "it has written that itself");
        assert!(
            !control.completions.is_withdrawn() && control.is_displaced(),
            "nobody has said yet that it was itself"
        );
        control.disown();
        assert!(!control.is_displaced());
    }
}
