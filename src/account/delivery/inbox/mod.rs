//! What waits for one session: QoS 0 packets ready to be written, QoS 1 and 2 messages with their position in the logs, what
//! shared subscriptions gave, and retained messages that it is owed. Every lane has a limit. The connection is woken once a
//! batch, not once a message.
//!
//! - `mail`: what is left here; `lanes`: what waits
//! - `shared`: what shared subscriptions give

mod lanes;
mod mail;
mod shared;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use bytes::Bytes;
use bytestring::ByteString;
use mqtt_access::Principal;
use mqtt_codec::{PublishFrame, QoS, TopicName, Version};
use mqtt_ownership::ServerTime;
use mqtt_session::{Feed, FeedState, Offer, Position, Sequence};
use parking_lot::Mutex;
use proto_map::MountPoint;
use tokio::sync::Notify;

use self::lanes::Lanes;
pub use self::mail::InboxLimits;
pub(crate) use self::mail::{LogRestart, Mail, Outgoing};
use crate::account::delivery::grant::{Grant, Permits};
use crate::account::delivery::message::Message;
use crate::account::delivery::retained::RetainedCursor;
use crate::account::delivery::segments::Segments;
use crate::account::requests::OpenRequests;
use crate::account::rights::Rights;
use crate::account::session_id::SessionId;
use crate::overload::{Deed, PROCESS};

/// The inbox of one session.
#[derive(Debug)]
pub(crate) struct Inbox {
    /// Names the session.
    pub(crate) id: SessionId,
    /// Its client id.
    pub(crate) client_id: ByteString,
    /// The version it speaks.
    pub(crate) version: Version,
    /// The largest packet it takes, in bytes.
    pub(crate) client_max_packet_size: u32,
    /// What it may do.
    pub(crate) rights: Arc<Rights>,
    /// There is something that it may not receive. Here too, since each message that is left here asks, and most clients have none.
    limits_receiving: AtomicBool,
    limits: InboxLimits,
    lanes: Mutex<Lanes>,
    /// Set while a scan reads for this session, so that the scan need not take the lock of those it does not serve.
    is_scanning: AtomicBool,
    /// How many feeds of shared subscriptions give to this session.
    shares: AtomicUsize,
    /// How many messages they may give now.
    share_room: AtomicUsize,
    wake: Arc<Notify>,
    room: Notify,
    /// What a client of MQTT 3.x can answer.
    open_requests: Option<Arc<OpenRequests>>,
    /// The session outlives its connection, so what the log has lost may be in its backlog.
    has_backlog: AtomicBool,
    /// Where the log began when a scan could not serve the session because it is owed older messages; 0 before.
    log_begins_at: AtomicU64,
}

impl Permits for Inbox {
    fn may_receive(&self, topic: &TopicName) -> bool {
        !self.limits_receiving.load(Ordering::SeqCst) || self.rights.may_receive(topic)
    }

    fn mount(&self) -> Option<&MountPoint> {
        self.mount_point().map(|mount| &**mount)
    }
}

/// Inboxes that got something in this batch and are to be woken at its end.
#[derive(Debug, Default)]
pub(crate) struct Wakes(Vec<Arc<Inbox>>);

impl Wakes {
    /// Wakes all and forgets them.
    pub(crate) fn wake_all(&mut self) {
        for inbox in self.0.drain(..) {
            inbox.wake.notify_one();
        }
    }
}

impl Drop for Wakes {
    fn drop(&mut self) {
        self.wake_all();
    }
}

impl Inbox {
    /// The inbox of a session that is live, which wakes its connection.
    pub(in crate::account) fn new(
        id: SessionId,
        client_id: ByteString,
        version: Version,
        client_max_packet_size: u32,
        rights: Arc<Rights>,
        limits: InboxLimits,
        wake: Arc<Notify>,
    ) -> Self {
        let limits_receiving = AtomicBool::new(rights.limits_receiving());
        Self {
            id,
            client_id,
            version,
            client_max_packet_size,
            rights,
            limits_receiving,
            limits,
            lanes: Mutex::new(Lanes::new(limits)),
            is_scanning: AtomicBool::new(false),
            shares: AtomicUsize::new(0),
            share_room: AtomicUsize::new(0),
            wake,
            room: Notify::new(),
            open_requests: (!version.is_v5()).then(Arc::default),
            has_backlog: AtomicBool::new(false),
            log_begins_at: AtomicU64::new(0),
        }
    }

    /// The client is somebody else from now on, if it is still who was judged: says whether it was.
    pub(in crate::account) fn change_rights(&self, judged: &Arc<Principal>, principal: Arc<Principal>) -> bool {
        self.rights.change(judged, principal, &self.limits_receiving)
    }

    /// What the client can answer, when it is one of MQTT 3.x.
    pub(crate) const fn open_requests(&self) -> Option<&Arc<OpenRequests>> {
        self.open_requests.as_ref()
    }

    /// Waits until a scan of a log has room here; false when it serves the session no more.
    ///
    /// **Invariant:** whoever makes room in a feed, or ends its scan, notifies `room`; the wait has no other end.
    pub(crate) async fn room_for_scan(&self, log: u16) -> bool {
        loop {
            let room = self.room.notified();
            tokio::pin!(room);
            room.as_mut().enable();
            {
                let mut lanes = self.lanes.lock();
                let is_closed = lanes.is_closed;
                let feed = lanes.feed(log, self.limits);
                if is_closed || !feed.is_scanned() {
                    return false;
                }
                if feed.is_half_empty() {
                    return true;
                }
            }
            room.await;
        }
    }

    /// In how many logs the session is behind the tail.
    pub(crate) fn feeds_behind(&self) -> usize {
        self.lanes.lock().feeds().filter(|(_, feed)| !matches!(feed.state(), FeedState::Live { .. })).count()
    }

    /// Whether a scan reads for this session. A hint: only the lanes know for sure.
    pub(crate) fn is_scanning(&self) -> bool {
        self.is_scanning.load(Ordering::Relaxed)
    }

    /// The part of the topics that the client sees as all of them. Who has none is known here.
    pub(crate) fn mount_point(&self) -> Option<&Arc<MountPoint>> {
        if self.limits_receiving.load(Ordering::Relaxed) { self.rights.mount() } else { None }
    }

    /// A message as the client gets it; `None` when it cannot.
    pub(crate) fn frame<'a>(&self, message: &'a Message, with_packet_id: bool) -> Option<&'a PublishFrame> {
        match self.mount_point() {
            None => message.frame(self.version, with_packet_id),
            Some(mount) => message.frame_within(mount, self.version, with_packet_id),
        }
    }

    /// Leaves a QoS 0 copy. Returns false when it was dropped because the lane is full, or there is no memory for it.
    pub(crate) fn offer_qos0(
        self: &Arc<Self>,
        message: &Message,
        grant: &Grant,
        now: ServerTime,
        wakes: &mut Wakes,
    ) -> bool {
        let Ok(expiry_s) = message.expiry(now) else { return true };
        let Some(frame) = self.frame(message, false) else { return true };
        let ids = grant.ids.as_slice();
        if frame.len_with_subscription_ids(ids) > self.client_max_packet_size as usize {
            return true;
        }
        let mut lanes = self.lanes.lock();
        if lanes.is_closed {
            return true;
        }
        if lanes.qos0.len() + frame.len() > self.limits.qos0_bytes && !lanes.qos0.is_empty() {
            return false;
        }
        let shared = frame.tail().map_or(0, Bytes::len);
        if !lanes.has_memory_for(frame.len() - shared, shared) {
            PROCESS.did(Deed::Dropped);
            return false;
        }
        let tail = lanes.qos0.tail();
        let (dup, qos, packet_id) = (false, QoS::AtMostOnce, None);
        if frame.write_with_subscription_ids(dup, qos, grant.retain, packet_id, expiry_s, ids, tail).is_err() {
            return true;
        }
        if let Some(payload) = frame.tail() {
            lanes.qos0.push(payload.clone());
        }
        lanes.qos0_counts[0] += 1;
        lanes.qos0_counts[1] += message.payload.len() as u64;
        self.remember_request(message);
        self.wake_later(&mut lanes, wakes);
        true
    }

    /// The tail of a log leaves a QoS 1 or 2 message.
    pub(crate) fn offer_live(
        self: &Arc<Self>,
        log: u16,
        sequence: Sequence,
        weight: usize,
        outgoing: impl FnOnce() -> Outgoing,
        wakes: &mut Wakes,
    ) {
        let mut lanes = self.lanes.lock();
        if lanes.is_closed {
            return;
        }
        let is_taken = lanes.takes(weight);
        let offer = |feed: &mut Feed<Outgoing>| {
            if !is_taken {
                feed.limit_bytes(0);
            }
            feed.offer_live(sequence, weight, outgoing)
        };
        let offered = self.change(&mut lanes, log, offer);
        lanes.count();
        if offered == Offer::Full && PROCESS.budget.share() < self.limits.feed_bytes {
            PROCESS.did(Deed::FellBehind);
        }
        if offered != Offer::Skipped {
            self.wake_later(&mut lanes, wakes);
        }
    }

    /// A scan leaves a QoS 1 or 2 message.
    pub(crate) fn offer_scanned(
        self: &Arc<Self>,
        log: u16,
        sequence: Sequence,
        weight: usize,
        outgoing: impl FnOnce() -> Outgoing,
        wakes: &mut Wakes,
    ) -> Offer {
        let mut lanes = self.lanes.lock();
        if lanes.is_closed {
            return Offer::Skipped;
        }
        let is_taken = lanes.takes(weight);
        let feed = lanes.feed(log, self.limits);
        if !is_taken {
            feed.limit_bytes(0);
        }
        let offer = feed.offer_scanned(sequence, weight, outgoing);
        lanes.count();
        self.is_scanning.store(lanes.is_scanning(), Ordering::Relaxed);
        if offer != Offer::Skipped {
            self.wake_later(&mut lanes, wakes);
        }
        offer
    }

    /// Whether the lane of QoS 0 is half full or more.
    pub(crate) fn is_qos0_full(&self) -> bool {
        self.lanes.lock().qos0.len() * 2 >= self.limits.qos0_bytes
    }

    /// Changes the position in a log, for scans.
    pub(crate) fn with_feed<R>(&self, log: u16, change: impl FnOnce(&mut Feed<Outgoing>) -> R) -> R {
        self.change(&mut self.lanes.lock(), log, change)
    }

    /// Changes a feed, and lets a scan know that waits for it when its wait is over.
    fn change<R>(&self, lanes: &mut Lanes, log: u16, change: impl FnOnce(&mut Feed<Outgoing>) -> R) -> R {
        let feed = lanes.feed(log, self.limits);
        let waited = feed.is_scanned() && !feed.is_half_empty();
        let result = change(feed);
        let is_over = waited && (feed.is_half_empty() || !feed.is_scanned());
        self.is_scanning.store(lanes.is_scanning(), Ordering::Relaxed);
        if is_over {
            self.room.notify_waiters();
        }
        result
    }

    /// The client gets a message at QoS 1 or 2: if it is a request that it will not know how to answer, we do. To one whose Response
    /// Topic is outside of its mount point it could not answer if it had properties either.
    pub(crate) fn remember_request(&self, message: &Message) {
        let Some(open_requests) = &self.open_requests else { return };
        let response_topic = message.properties.as_deref().and_then(|properties| properties.response_topic.as_ref());
        let is_within = |mount: &Arc<MountPoint>| response_topic.is_some_and(|topic| mount.has(topic));
        if self.mount_point().is_none_or(is_within) {
            open_requests.remember(message);
        }
    }

    /// The numbers of the logs that it reads.
    pub(crate) fn reads(&self) -> Vec<u16> {
        std::iter::once(0).chain(self.lanes.lock().others.iter().map(|(log, _)| *log)).collect()
    }

    /// A log is gone, and what was to be read there with it; what is queued stays.
    pub(crate) fn forget_log(&self, log: u16) {
        self.with_feed(log, mqtt_session::Feed::give_up);
    }

    /// Owes the session retained messages.
    pub(crate) fn owe_retained(&self, cursors: impl IntoIterator<Item = RetainedCursor>) {
        let mut lanes = self.lanes.lock();
        lanes.retained.extend(cursors);
        drop(lanes);
        self.wake.notify_one();
    }

    /// Gives back memory that is not used.
    pub(crate) fn release(&self) {
        self.lanes.lock().release();
    }

    /// Wakes the connection to look again.
    pub(crate) fn wake(&self) {
        self.wake.notify_one();
    }

    /// The session outlives its connection.
    pub(crate) fn expect_backlog(&self) {
        self.has_backlog.store(true, Ordering::Relaxed);
    }

    /// The log begins at this sequence. Whether the session has to read its backlog first: it is behind, and owed
    /// something older. It is woken to do so.
    pub(crate) fn needs_backlog(&self, first: Sequence) -> bool {
        if !self.has_backlog.load(Ordering::Relaxed) {
            return false;
        }
        let is_owed = matches!(self.with_feed(0, |feed| feed.state()),
            FeedState::Behind { next } | FeedState::Scanning { next } | FeedState::Attaching { next, .. } if next < first);
        if is_owed {
            self.log_begins_at.store(first.0, Ordering::Release);
            self.wake();
        }
        is_owed
    }

    /// Where the log begins, when the session is owed something older than that, from `next` on.
    pub(crate) fn log_begins_above(&self, next: Sequence) -> Option<Sequence> {
        Some(Sequence(self.log_begins_at.load(Ordering::Acquire))).filter(|first| next < *first)
    }

    /// Takes what shared subscriptions gave, and what is to be known before anything else of a log. From now on the next thing left
    /// here wakes the connection again.
    pub(crate) fn take(&self, mail: &mut Mail) {
        let mut lanes = self.lanes.lock();
        lanes.is_woken = false;
        mail.shared.append(&mut lanes.shared);
        mail.restarts.append(&mut lanes.restarts);
    }

    /// Bytes that wait at QoS 0.
    pub(crate) fn qos0_waiting(&self) -> usize {
        self.lanes.lock().qos0.len()
    }

    /// Gives up what waits at QoS 0, when it is so many bytes or more; returns how many packets that was.
    pub(crate) fn drop_qos0(&self, cut: usize) -> u64 {
        let mut lanes = self.lanes.lock();
        if lanes.qos0.len() >= cut { lanes.drop_qos0() } else { 0 }
    }

    /// Moves what was left at QoS 0 behind `out`, and counts it, and up to `count` messages of the feeds, which take turns, into `messages`,
    /// each with its place. `catching_up` gets the places from which on the session is behind and has room, so that it can ask
    /// for scans. Returns how many copies those at QoS 0 were, and the bytes of their payloads.
    pub(crate) fn take_messages(
        &self,
        out: &mut Segments,
        count: usize,
        messages: &mut Vec<(Position, Outgoing)>,
        catching_up: &mut Vec<Position>,
    ) -> [u64; 2] {
        let mut lanes = self.lanes.lock();
        let qos0 = std::mem::take(&mut lanes.qos0_counts);
        if !lanes.qos0.is_empty() {
            out.append(&mut lanes.qos0);
        }
        lanes.qos0.shrink();
        let before = messages.len();
        lanes.pop(count, messages);
        let has_room = messages.len() > before && lanes.has_room_for_scan();
        lanes.is_output_waiting = !out.is_empty() || messages.len() > before;
        catching_up.extend(lanes.catching_up());
        lanes.count();
        drop(lanes);
        if has_room {
            self.room.notify_waiters();
        }
        qos0
    }

    /// Takes the retained cursors that were left.
    pub(crate) fn take_retained(&self) -> Vec<RetainedCursor> {
        std::mem::take(&mut self.lanes.lock().retained)
    }

    /// A log goes on with the sequence `next`, which may have been there before. To be called while its tail stands still.
    ///
    /// **Invariant:** the session knows before it gets anything of what the log has now.
    pub(crate) fn log_restarted(&self, log: u16, next: Sequence) {
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
    pub(crate) fn restarts_at(&self, log: u16) -> Option<Sequence> {
        self.lanes.lock().restarts.iter().rev().find(|restart| restart.log == log).map(|restart| restart.next)
    }

    /// Takes the restarts of logs that the session does not know of yet.
    pub(crate) fn take_restarts(&self) -> Vec<LogRestart> {
        std::mem::take(&mut self.lanes.lock().restarts)
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

    /// Whether it takes nothing more.
    pub(crate) fn is_closed(&self) -> bool {
        self.lanes.lock().is_closed
    }

    fn wake_later(self: &Arc<Self>, lanes: &mut Lanes, wakes: &mut Wakes) {
        if !lanes.is_woken {
            lanes.is_woken = true;
            wakes.0.push(Arc::clone(self));
        }
    }
}
