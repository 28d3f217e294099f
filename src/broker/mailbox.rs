//! Where the rest of the sidecar leaves things for one connection: QoS 0 packets ready to be written, QoS 1 and 2
//! messages with their position in the logs, completions of its publishes, retained messages that it is owed, and the
//! order to end. Every lane has a limit. The connection is woken once a batch, not once a message.

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use bytestring::ByteString;
use mqtt_codec::{QoS, ReasonCode, Version};
use mqtt_session::{Feed, FeedState, Offer, Token, position};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use super::lifecycle::Owned;
use super::message::Message;
use super::publishing::Answer;
use super::requests::{Answerable, OpenRequest};
use super::retained::RetainedCursor;
use super::segments::Segments;
use super::share::Share;
use crate::store::{ProgressRecord, PutError, Stored, StoredSink};

/// Names one connected session of this sidecar; never used again.
pub(crate) type SessionId = u64;

/// Limits of the lanes.
#[derive(Clone, Copy, Debug)]
pub struct MailboxLimits {
    /// Bytes of QoS 0 packets that wait; above, they are dropped.
    pub qos0_bytes: usize,
    /// QoS 1 and 2 messages that wait; above, the session falls behind and reads from the log.
    pub feed_messages: usize,
    /// Bytes of QoS 1 and 2 messages that wait; above, the session falls behind.
    pub feed_bytes: usize,
}

/// A QoS 1 or 2 message and how this session gets it.
#[derive(Clone, Debug)]
pub(crate) struct Outgoing {
    /// The message.
    pub(crate) message: Arc<Message>,
    /// RETAIN flag to send.
    pub(crate) retain: bool,
    /// QoS to send it at.
    pub(crate) qos: QoS,
    /// Identifiers of the subscriptions that it matches.
    pub(crate) subscription_ids: Box<[NonZeroU32]>,
    /// The group that gave it, when a shared subscription did.
    pub(crate) share: Option<Share>,
}

/// Why the connection has to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// End now, with this reason.
    Close(ReasonCode),
    /// Finish what is in flight, then end with Server shutting down.
    Drain,
}

/// What a connection takes out at once.
#[derive(Debug, Default)]
pub(crate) struct Mail {
    /// Completions of publishes.
    pub(crate) stored: Vec<(u64, Result<Stored, PutError>)>,
    /// What shared subscriptions gave, with its position; it stays here until it is taken out.
    pub(crate) shared: VecDeque<(u64, Outgoing)>,
    /// Answers to publishes that something else than the store decided.
    pub(crate) told: Vec<Answer>,
    /// The order to end.
    pub(crate) order: Option<Order>,
    /// The record of the session, when it came later than the connection.
    pub(crate) owned: Option<Owned>,
    /// QoS 0 copies that were left since the last time, and the bytes of their payloads.
    pub(crate) qos0: [u64; 2],
}

#[derive(Debug)]
struct Lanes {
    qos0: Segments,
    qos0_counts: [u64; 2],
    /// Of the log that is always there.
    feed: Feed<Outgoing>,
    /// Of the others that it reads, by number.
    others: Vec<(u16, Feed<Outgoing>)>,
    /// Whose turn it is among the feeds.
    turn: usize,
    stored: Vec<(u64, Result<Stored, PutError>)>,
    /// What shared subscriptions gave, with its position. No more than the window has room for.
    shared: VecDeque<(u64, Outgoing)>,
    /// Wake those that give.
    share_wakes: Vec<Arc<Notify>>,
    told: Vec<Answer>,
    retained: Vec<RetainedCursor>,
    order: Option<Order>,
    owned: Option<Owned>,
    is_woken: bool,
    is_closed: bool,
    /// What a client of MQTT 3.x can answer.
    answerable: Option<Box<Answerable>>,
}

/// The mailbox of one connection.
#[derive(Debug)]
pub(crate) struct Mailbox {
    /// Names the session.
    pub(crate) id: SessionId,
    /// Its client id.
    pub(crate) client_id: ByteString,
    /// The version it speaks.
    pub(crate) version: Version,
    /// The largest packet it takes, in bytes.
    pub(crate) client_max_packet_size: u32,
    limits: MailboxLimits,
    lanes: Mutex<Lanes>,
    /// Set while a scan reads for this session, so that the scan need not take the lock of those it does not serve.
    is_scanning: AtomicBool,
    /// How many feeds of shared subscriptions give to this session.
    shares: AtomicUsize,
    /// How many messages they may give now.
    share_room: AtomicUsize,
    wake: Notify,
    room: Notify,
    has_ended: watch::Sender<bool>,
    /// Epoch of the connection in its session's record; 0 without one.
    epoch: AtomicU64,
    /// Its session outlives it, so what the log has lost may be in its backlog.
    has_backlog: AtomicBool,
    /// Where the log began when a scan could not serve the session because it is owed older messages; 0 before.
    log_begins_at: AtomicU64,
    /// What the connection leaves to the one that takes its session over.
    handed_over: watch::Sender<Option<Option<ProgressRecord>>>,
}

/// Mailboxes that got something in this batch and are to be woken at its end.
#[derive(Debug, Default)]
pub(crate) struct Wakes(Vec<Arc<Mailbox>>);

impl Wakes {
    /// Wakes all and forgets them.
    pub(crate) fn wake_all(&mut self) {
        for mailbox in self.0.drain(..) {
            mailbox.wake.notify_one();
        }
    }
}

impl Drop for Wakes {
    fn drop(&mut self) {
        self.wake_all();
    }
}

impl Mailbox {
    /// The mailbox of a session that is live.
    pub(crate) fn new(
        id: SessionId,
        client_id: ByteString,
        version: Version,
        client_max_packet_size: u32,
        limits: MailboxLimits,
    ) -> Self {
        Self {
            id,
            client_id,
            version,
            client_max_packet_size,
            limits,
            lanes: Mutex::new(Lanes {
                qos0: Segments::default(),
                qos0_counts: [0; 2],
                // The gates of its subscriptions say where each begins.
                feed: Feed::new(0, limits.feed_messages, limits.feed_bytes),
                others: Vec::new(),
                turn: 0,
                stored: Vec::new(),
                shared: VecDeque::new(),
                share_wakes: Vec::new(),
                told: Vec::new(),
                retained: Vec::new(),
                order: None,
                owned: None,
                is_woken: false,
                is_closed: false,
                answerable: None,
            }),
            is_scanning: AtomicBool::new(false),
            shares: AtomicUsize::new(0),
            share_room: AtomicUsize::new(0),
            wake: Notify::new(),
            room: Notify::new(),
            has_ended: watch::Sender::new(false),
            epoch: AtomicU64::new(0),
            has_backlog: AtomicBool::new(false),
            log_begins_at: AtomicU64::new(0),
            handed_over: watch::Sender::new(None),
        }
    }

    /// Waits until something is in the mailbox.
    pub(crate) fn notified(&self) -> tokio::sync::futures::Notified<'_> {
        self.wake.notified()
    }

    /// Waits until the connection took messages out of the feed.
    pub(crate) fn room(&self) -> tokio::sync::futures::Notified<'_> {
        self.room.notified()
    }

    /// Whether the session is behind the tail of the log.
    pub(crate) fn is_catching_up(&self) -> bool {
        self.lanes.lock().feeds().any(|(_, feed)| !matches!(feed.state(), FeedState::Live { .. }))
    }

    /// Whether a scan reads for this session. A hint: only the lanes know for sure.
    pub(crate) fn is_scanning(&self) -> bool {
        self.is_scanning.load(Ordering::Relaxed)
    }

    /// Leaves a QoS 0 copy. Returns false when it was dropped because the lane is full.
    pub(crate) fn offer_qos0(
        self: &Arc<Self>,
        message: &Message,
        retain: bool,
        subscription_ids: &[NonZeroU32],
        now_ms: u64,
        wakes: &mut Wakes,
    ) -> bool {
        let Ok(expiry_s) = message.expiry(now_ms) else { return true };
        let Some(frame) = message.frame(self.version, false) else { return true };
        if frame.len_with_subscription_ids(subscription_ids) > self.client_max_packet_size as usize {
            return true;
        }
        let mut lanes = self.lanes.lock();
        if lanes.is_closed {
            return true;
        }
        if lanes.qos0.len() + frame.len() > self.limits.qos0_bytes && !lanes.qos0.is_empty() {
            return false;
        }
        let tail = lanes.qos0.tail();
        let (dup, qos, packet_id) = (false, QoS::AtMostOnce, None);
        if frame.write_with_subscription_ids(dup, qos, retain, packet_id, expiry_s, subscription_ids, tail).is_err() {
            return true;
        }
        if let Some(payload) = frame.tail() {
            lanes.qos0.push(payload.clone());
        }
        lanes.qos0_counts[0] += 1;
        lanes.qos0_counts[1] += message.payload.len() as u64;
        lanes.remember_request(self.version, message);
        self.mark(&mut lanes, wakes);
        true
    }

    /// The tail of a log leaves a QoS 1 or 2 message.
    pub(crate) fn offer_live(
        self: &Arc<Self>,
        log: u16,
        sequence: u64,
        weight: usize,
        outgoing: impl FnOnce() -> Outgoing,
        wakes: &mut Wakes,
    ) {
        let mut lanes = self.lanes.lock();
        if !lanes.is_closed && lanes.feed(log, self.limits).offer_live(sequence, weight, outgoing) != Offer::Skipped {
            self.is_scanning.store(lanes.is_scanning(), Ordering::Relaxed);
            self.mark(&mut lanes, wakes);
        }
    }

    /// A scan leaves a QoS 1 or 2 message.
    pub(crate) fn offer_scanned(
        self: &Arc<Self>,
        log: u16,
        sequence: u64,
        weight: usize,
        outgoing: impl FnOnce() -> Outgoing,
        wakes: &mut Wakes,
    ) -> Offer {
        let mut lanes = self.lanes.lock();
        if lanes.is_closed {
            return Offer::Skipped;
        }
        let offer = lanes.feed(log, self.limits).offer_scanned(sequence, weight, outgoing);
        self.is_scanning.store(lanes.is_scanning(), Ordering::Relaxed);
        if offer != Offer::Skipped {
            self.mark(&mut lanes, wakes);
        }
        offer
    }

    /// Whether the lane of QoS 0 is half full or more.
    pub(crate) fn is_qos0_full(&self) -> bool {
        self.lanes.lock().qos0.len() * 2 >= self.limits.qos0_bytes
    }

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
        position: u64,
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
        self.mark(&mut lanes, wakes);
        true
    }

    /// Changes the position in a log, for scans.
    pub(crate) fn with_feed<R>(&self, log: u16, change: impl FnOnce(&mut Feed<Outgoing>) -> R) -> R {
        let mut lanes = self.lanes.lock();
        let result = change(lanes.feed(log, self.limits));
        self.is_scanning.store(lanes.is_scanning(), Ordering::Relaxed);
        result
    }

    /// The client gets a message at QoS 1 or 2: if it is a request that it will not know how to answer, we do.
    pub(crate) fn remember_request(&self, message: &Message) {
        if self.version != Version::V5 && message.properties.is_some() {
            self.lanes.lock().remember_request(self.version, message);
        }
    }

    /// Takes a request that the client answers.
    pub(crate) fn answerable(&self, take: impl FnOnce(&mut Answerable) -> Option<OpenRequest>) -> Option<OpenRequest> {
        self.lanes.lock().answerable.as_deref_mut().and_then(take)
    }

    /// Leaves an answer to a publish.
    pub(crate) fn tell(&self, token: Token, result: Result<ReasonCode, ReasonCode>) {
        self.lanes.lock().told.push((token, result));
        self.wake.notify_one();
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

    /// Orders the connection to end. The first order stays, but `Close` overrides `Drain`.
    pub(crate) fn order(&self, order: Order) {
        let mut lanes = self.lanes.lock();
        if lanes.order.is_none_or(|old| old == Order::Drain) {
            lanes.order = Some(order);
        }
        drop(lanes);
        self.wake.notify_one();
    }

    /// Wakes the connection to look again.
    pub(crate) fn nudge(&self) {
        self.wake.notify_one();
    }

    /// Gives a connection the record of its session. False when it has ended.
    pub(crate) fn give(&self, owned: Owned) -> bool {
        let mut lanes = self.lanes.lock();
        if lanes.is_closed {
            return false;
        }
        lanes.owned = Some(owned);
        drop(lanes);
        self.wake.notify_one();
        true
    }

    /// Waits for an order to end.
    pub(crate) async fn ordered(&self) {
        while self.lanes.lock().order.is_none() {
            self.wake.notified().await;
        }
    }

    /// Takes nothing more; what is queued is given up. Completions still come through.
    pub(crate) fn close(&self) {
        let mut lanes = self.lanes.lock();
        lanes.is_closed = true;
        lanes.qos0 = Segments::default();
        lanes.feed = Feed::new(u64::MAX, 0, 0);
        lanes.others = Vec::new();
        lanes.retained = Vec::new();
        lanes.shared = VecDeque::new();
        self.share_room.store(0, Ordering::Relaxed);
        drop(lanes);
        self.is_scanning.store(false, Ordering::Relaxed);
        self.room.notify_waiters();
    }

    /// Epoch of the connection in its session's record; 0 without one.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Relaxed)
    }

    /// The session has a record, with this epoch.
    pub(crate) fn set_epoch(&self, epoch: u64) {
        self.epoch.store(epoch, Ordering::Relaxed);
    }

    /// The session outlives its connection.
    pub(crate) fn expect_backlog(&self) {
        self.has_backlog.store(true, Ordering::Relaxed);
    }

    /// The log begins at this sequence. Whether the session has to read its backlog first: it is behind, and owed
    /// something older. It is woken to do so.
    pub(crate) fn needs_backlog(&self, first: u64) -> bool {
        if !self.has_backlog.load(Ordering::Relaxed) {
            return false;
        }
        let is_owed = matches!(self.with_feed(0, |feed| feed.state()),
            FeedState::Behind { next } | FeedState::Scanning { next } | FeedState::Joining { next, .. } if next < first);
        if is_owed {
            self.log_begins_at.store(first, Ordering::Release);
            self.nudge();
        }
        is_owed
    }

    /// Where the log begins, when the session is owed something older than that, from `next` on.
    pub(crate) fn log_begins_above(&self, next: u64) -> Option<u64> {
        Some(self.log_begins_at.load(Ordering::Acquire)).filter(|first| next < *first)
    }

    /// The connection has ended and leaves this to the one that takes its session over.
    pub(crate) fn hand_over(&self, progress: Option<ProgressRecord>) {
        self.handed_over.send_replace(Some(progress));
    }

    /// Waits for [`Mailbox::hand_over`].
    pub(crate) async fn handed_over(&self) -> Option<ProgressRecord> {
        // The sender is ours, so the wait cannot fail.
        let mut receiver = self.handed_over.subscribe();
        receiver.wait_for(Option::is_some).await.ok().and_then(|left| left.clone().flatten())
    }

    /// The connection is over, and everything it published is settled.
    pub(crate) fn end(&self) {
        self.has_ended.send_replace(true);
    }

    /// Waits for [`Mailbox::end`].
    pub(crate) async fn ended(&self) {
        // The sender is ours, so the wait cannot fail.
        let _ = self.has_ended.subscribe().wait_for(|ended| *ended).await;
    }

    /// Whether the connection takes nothing more.
    pub(crate) fn is_closed(&self) -> bool {
        self.lanes.lock().is_closed
    }

    /// Takes completions, what shared subscriptions gave, and orders. From now on the next thing left here wakes the connection again.
    pub(crate) fn take(&self, mail: &mut Mail) {
        let mut lanes = self.lanes.lock();
        lanes.is_woken = false;
        std::mem::swap(&mut mail.stored, &mut lanes.stored);
        mail.shared.append(&mut lanes.shared);
        mail.told.append(&mut lanes.told);
        mail.order = lanes.order;
        mail.owned = lanes.owned.take();
        mail.qos0 = std::mem::take(&mut lanes.qos0_counts);
    }

    /// Moves what was left at QoS 0 behind `out`, and up to `count` messages of the feeds, which take turns, into `messages`,
    /// each with its place. `behind` gets the places from which on the session is behind, so that it can ask for scans when
    /// it has read its queue.
    pub(crate) fn take_messages(
        &self,
        out: &mut Segments,
        count: usize,
        messages: &mut Vec<(u64, Outgoing)>,
        behind: &mut Vec<u64>,
    ) {
        let mut lanes = self.lanes.lock();
        if !lanes.qos0.is_empty() {
            out.append(&mut lanes.qos0);
        }
        lanes.qos0.shrink();
        let before = messages.len();
        lanes.pop(count, messages);
        let has_room = messages.len() > before && lanes.is_scanning_with_room(self.limits.feed_messages / 2);
        behind.extend(lanes.behind());
        drop(lanes);
        if has_room {
            self.room.notify_waiters();
        }
    }

    /// Takes the retained cursors that were left.
    pub(crate) fn take_retained(&self, cursors: &mut std::collections::VecDeque<RetainedCursor>) {
        cursors.extend(self.lanes.lock().retained.drain(..));
    }

    fn mark(self: &Arc<Self>, lanes: &mut Lanes, wakes: &mut Wakes) {
        if !lanes.is_woken {
            lanes.is_woken = true;
            wakes.0.push(Arc::clone(self));
        }
    }
}

impl Lanes {
    fn remember_request(&mut self, version: Version, message: &Message) {
        if version != Version::V5
            && let Some(request) = OpenRequest::of(message)
        {
            self.answerable.get_or_insert_default().push(request);
        }
    }

    /// The feed of a log. Of one that is new to the session it is live: the gates of its subscriptions say where each
    /// begins.
    fn feed(&mut self, log: u16, limits: MailboxLimits) -> &mut Feed<Outgoing> {
        if log == 0 {
            return &mut self.feed;
        }
        let index = self.others.iter().position(|(number, _)| *number == log).unwrap_or_else(|| {
            let (messages, bytes) = if self.is_closed { (0, 0) } else { (limits.feed_messages, limits.feed_bytes) };
            self.others.push((log, Feed::new(0, messages, bytes)));
            self.others.len() - 1
        });
        &mut self.others[index].1
    }

    fn feeds(&self) -> impl Iterator<Item = (u16, &Feed<Outgoing>)> {
        std::iter::once((0, &self.feed)).chain(self.others.iter().map(|(log, feed)| (*log, feed)))
    }

    fn is_scanning(&self) -> bool {
        self.feeds().any(|(_, feed)| is_scanning(feed.state()))
    }

    fn is_scanning_with_room(&self, queued_max: usize) -> bool {
        self.feeds().any(|(_, feed)| is_scanning(feed.state()) && feed.len() <= queued_max)
    }

    fn behind(&self) -> impl Iterator<Item = u64> {
        self.feeds().filter_map(|(log, feed)| match feed.state() {
            FeedState::Behind { next } => Some(position(log, next)),
            _ => None,
        })
    }

    /// Up to `count` messages, from each feed in its turn.
    fn pop(&mut self, count: usize, messages: &mut Vec<(u64, Outgoing)>) {
        let (mut left, mut empty) = (count, 0);
        while left > 0 && empty <= self.others.len() {
            let index = self.turn % (self.others.len() + 1);
            let (log, feed) = match index.checked_sub(1) {
                None => (0, &mut self.feed),
                Some(index) => {
                    let (log, feed) = &mut self.others[index];
                    (*log, feed)
                }
            };
            match feed.pop() {
                Some((sequence, outgoing)) => {
                    messages.push((position(log, sequence), outgoing));
                    (left, empty) = (left - 1, 0);
                }
                None => empty += 1,
            }
            self.turn = index + 1;
        }
    }
}

const fn is_scanning(state: FeedState) -> bool {
    matches!(state, FeedState::Scanning { .. } | FeedState::Joining { .. })
}

impl StoredSink for Mailbox {
    fn stored(&self, token: u64, result: Result<Stored, PutError>) {
        self.lanes.lock().stored.push((token, result));
    }

    fn flush(&self) {
        self.wake.notify_one();
    }
}
