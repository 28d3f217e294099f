//! From a message to the mailboxes of its subscribers. A message comes from one of three places, and each copy of it
//! counts in exactly one of them:
//!
//! - QoS 0 of a client here: routed at once; its copy on core NATS is not echoed to us.
//! - core NATS: QoS 0 of other sidecars and whatever NATS clients publish. Several of our NATS subscriptions may match;
//!   the copy of the oldest one counts. The natural-subject copy of a stored message is recognised and dropped.
//! - the log: everything at QoS 1 and 2, from here and from elsewhere, to subscriptions of any QoS.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use mqtt_codec::{QoS, SubscriptionOptions, TopicFilter, TopicName};
use mqtt_session::Offer;
use parking_lot::{Mutex, MutexGuard, RwLock};
use proto_map::ClosedTrees;

use super::clock::now_ms;
use super::convert;
use super::mailbox::{Mailbox, SessionId, Wakes};
use super::message::Message;
use super::requests::{REPLIES_ID, Requests};
use super::subscriptions::{Entry, Subscriber, Subscriptions};
use crate::metrics::{DropReason, Metrics};
use crate::store::{CoreMessage, CoreSink, IndexState, LogEntry, LogSink, RetainedIndex};

/// Where a message comes from.
#[derive(Clone, Copy, Debug)]
enum Source {
    /// A client of this sidecar, at QoS 0.
    Local { publisher: SessionId },
    /// Core NATS.
    Core,
    /// The log, at this sequence.
    Log { sequence: u64 },
}

/// What one session gets of a message.
struct Target<'a> {
    mailbox: &'a Arc<Mailbox>,
    qos: QoS,
    retain: bool,
    subscription_ids: &'a [NonZeroU32],
}

/// Where the tail stands: everything up to this log sequence was routed. Holding it holds the tail.
#[derive(Debug)]
pub(crate) struct TailPosition(u64);

/// Routes messages to the sessions of this sidecar.
#[derive(Debug)]
pub(crate) struct Router {
    subscriptions: RwLock<Subscriptions>,
    /// Locked before `subscriptions`, by whoever needs the tail to stand still.
    tail: Mutex<TailPosition>,
    /// The same position, for those who need a lower bound only.
    tail_sequence: AtomicU64,
    index: Arc<RetainedIndex>,
    closed: ClosedTrees,
    requests: Arc<Requests>,
    metrics: Arc<Metrics>,
    /// Woken at the end of a batch from core NATS.
    core_wakes: Mutex<Wakes>,
}

/// A subscription to be made, whose NATS subscription stands.
#[derive(Clone, Debug)]
pub(crate) struct NewSubscription {
    /// The filter.
    pub(crate) filter: TopicFilter,
    /// Its options.
    pub(crate) options: SubscriptionOptions,
    /// Subscription Identifier.
    pub(crate) subscription_id: Option<NonZeroU32>,
    /// Order of the filter; see [`Entry::order`].
    pub(crate) order: u64,
    /// Whether retained messages come with the SUBSCRIBE.
    pub(crate) is_owed_retained: bool,
}

/// Subscriptions that were made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Made {
    /// State of the retained index that holds what they are owed.
    pub(crate) seen: IndexState,
    /// Messages above this log sequence are for them.
    pub(crate) after: u64,
}

impl Router {
    /// A router without subscriptions.
    pub(crate) fn new(
        index: Arc<RetainedIndex>,
        closed: ClosedTrees,
        requests: Arc<Requests>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            subscriptions: RwLock::default(),
            tail: Mutex::new(TailPosition(0)),
            tail_sequence: AtomicU64::new(0),
            index,
            closed,
            requests,
            metrics,
            core_wakes: Mutex::default(),
        }
    }

    /// The trees that devices cannot reach.
    pub(crate) fn closed(&self) -> &ClosedTrees {
        &self.closed
    }

    /// Makes subscriptions at one instant: messages above `log_sequence` and above what the tail has routed are for
    /// them, and of the retained messages those that the index does not hold yet. Returns which they are.
    pub(crate) fn subscribe(&self, mailbox: &Arc<Mailbox>, log_sequence: u64, new: &[NewSubscription]) -> Made {
        let tail = self.tail.lock();
        let mut subscriptions = self.subscriptions.write();
        let state = self.index.state();
        let after = log_sequence.max(tail.0);
        for s in new {
            let subscriber = Subscriber {
                mailbox: Arc::clone(mailbox),
                options: s.options,
                subscription_id: s.subscription_id,
                after,
                retained: if s.is_owed_retained { state } else { IndexState::default() },
            };
            subscriptions.insert(&s.filter, subscriber, s.order);
        }
        Made { seen: state, after }
    }

    /// Makes a subscription again that was made when the log stood at `since`.
    pub(crate) fn restore(&self, mailbox: &Arc<Mailbox>, since: u64, s: &NewSubscription) {
        let (mailbox, options, subscription_id) = (Arc::clone(mailbox), s.options, s.subscription_id);
        let retained = IndexState::default();
        let subscriber = Subscriber { mailbox, options, subscription_id, after: since, retained };
        self.subscriptions.write().insert(&s.filter, subscriber, s.order);
    }

    /// A log sequence that the tail has routed; it may have routed more.
    pub(crate) fn tail_sequence(&self) -> u64 {
        self.tail_sequence.load(Ordering::Acquire)
    }

    /// Ends a session's subscription.
    pub(crate) fn unsubscribe(&self, filter: &TopicFilter, session: SessionId) {
        self.subscriptions.write().remove(filter, session);
    }

    /// The tail begins with this log sequence.
    pub(crate) fn starts_at(&self, first: u64) {
        let mut tail = self.tail.lock();
        tail.0 = tail.0.max(first.saturating_sub(1));
        self.tail_sequence.store(tail.0, Ordering::Release);
    }

    /// Whether a client here is subscribed to a topic.
    pub(crate) fn has_subscriber(&self, topic: &TopicName) -> bool {
        let is_hidden = self.closed.hides_topic_from_wildcard(topic);
        let mut has_one = false;
        self.subscriptions.read().matching(topic.as_str(), is_hidden, &mut |_| has_one = true);
        has_one
    }

    /// Stops the tail while the guard lives.
    pub(crate) fn hold_tail(&self) -> MutexGuard<'_, TailPosition> {
        self.tail.lock()
    }

    /// A client of this sidecar published at QoS 0.
    pub(crate) fn route_local(&self, message: &mut Message, publisher: SessionId, wakes: &mut Wakes) {
        let _held = message.retain.then(|| self.tail.lock());
        self.index(message);
        let subscriptions = self.subscriptions.read();
        let entries = self.matching(&subscriptions, message);
        self.deliver_qos0(&entries, message, Source::Local { publisher }, wakes);
    }

    /// Retained messages go into the index in the same instant as to the subscribers, with the tail held, so that who
    /// subscribes meanwhile gets them one way or the other, and not both.
    fn index(&self, message: &mut Message) {
        if let Some(sequence) = message.retained_at {
            message.indexed_at = self.index.apply_live(sequence, &message.topic, convert::retained_of(message));
        }
    }

    fn matching<'a>(&self, subscriptions: &'a Subscriptions, message: &Message) -> Matched<'a> {
        let is_hidden = self.closed.hides_topic_from_wildcard(&message.topic);
        let mut entries = Matched::default();
        subscriptions.matching(message.topic.as_str(), is_hidden, &mut |e| entries.push(e));
        entries
    }

    fn deliver_qos0(&self, entries: &Matched<'_>, message: &Message, source: Source, wakes: &mut Wakes) {
        if entries.is_empty() {
            return;
        }
        let now_ms = now_ms();
        let mut dropped = 0;
        entries.targets(message, source, |target| {
            let ids = target.subscription_ids;
            dropped += u64::from(!target.mailbox.offer_qos0(message, target.retain, ids, now_ms, wakes));
        });
        if dropped > 0 {
            self.metrics.dropped(DropReason::SlowReader, dropped);
        }
    }

    /// Offers one message of the log to those that `offer` picks.
    fn deliver_logged(
        &self,
        subscriptions: &Subscriptions,
        sequence: u64,
        message: &Arc<Message>,
        now_ms: u64,
        wakes: &mut Wakes,
    ) {
        let mut dropped = 0;
        self.matching(subscriptions, message).targets(message, Source::Log { sequence }, |t| {
            if t.qos == QoS::AtMostOnce {
                let ids = t.subscription_ids;
                dropped += u64::from(!t.mailbox.offer_qos0(message, t.retain, ids, now_ms, wakes));
            } else {
                t.mailbox.offer_live(sequence, message.weight(), || t.outgoing(message), wakes);
            }
        });
        if dropped > 0 {
            self.metrics.dropped(DropReason::SlowReader, dropped);
        }
    }

    /// Offers one message that a scan read to the sessions that the scan serves. `on_full` is told of each that had no
    /// room.
    pub(crate) fn route_scanned(&self, entry: &LogEntry, wakes: &mut Wakes, mut on_full: impl FnMut(&Arc<Mailbox>)) {
        let Some(message) = self.message_of(entry) else { return };
        let message = Arc::new(message);
        let subscriptions = self.subscriptions.read();
        self.matching(&subscriptions, &message).targets(&message, Source::Log { sequence: entry.sequence }, |t| {
            if t.qos != QoS::AtMostOnce && t.mailbox.is_scanning() {
                let offer = t.mailbox.offer_scanned(entry.sequence, message.weight(), || t.outgoing(&message), wakes);
                if offer == Offer::Full {
                    on_full(t.mailbox);
                }
            }
        });
    }

    /// A message of the log, unless its subject is no topic of ours.
    fn message_of(&self, entry: &LogEntry) -> Option<Message> {
        if self.closed.is_closed_subject(entry.subject()) {
            return None;
        }
        convert::from_log(entry)
            .inspect_err(|error| tracing::warn!(sequence = entry.sequence, %error, "a stored message is not a message"))
            .ok()
    }
}

impl TailPosition {
    /// The last log sequence that the tail has routed.
    pub(crate) const fn sequence(&self) -> u64 {
        self.0
    }
}

impl LogSink for Router {
    fn entries(&self, batch: &mut Vec<LogEntry>) {
        let mut wakes = Wakes::default();
        let mut tail = self.tail.lock();
        let subscriptions = self.subscriptions.read();
        let now_ms = now_ms();
        for entry in batch.drain(..) {
            tail.0 = entry.sequence;
            let Some(mut message) = self.message_of(&entry) else { continue };
            self.index(&mut message);
            self.deliver_logged(&subscriptions, entry.sequence, &Arc::new(message), now_ms, &mut wakes);
        }
        self.tail_sequence.store(tail.0, Ordering::Release);
    }

    fn restarted(&self, next: u64) {
        // Sequences start again: whoever waits for a higher one would wait for long.
        let mut tail = self.tail.lock();
        tail.0 = next.saturating_sub(1);
        self.tail_sequence.store(tail.0, Ordering::Release);
    }
}

impl CoreSink for Router {
    fn message(&self, subscription_id: u64, core: CoreMessage) {
        if subscription_id == REPLIES_ID {
            return self.requests.arrived(core);
        }
        if self.closed.is_closed_subject(&core.subject) || convert::is_stored_copy(&core) {
            return;
        }
        let Ok(mut message) = convert::from_core(&core, now_ms()) else { return };
        let _held = message.retain.then(|| self.tail.lock());
        // Whichever copy comes first, and also when nobody has subscribed yet: whoever does now gets it from there.
        self.index(&mut message);
        let subscriptions = self.subscriptions.read();
        let entries = self.matching(&subscriptions, &message);
        if entries.oldest() == Some(subscription_id / super::interest::SUBJECTS_PER_FILTER) {
            self.requests.make_answerable(&core, &mut message);
            self.deliver_qos0(&entries, &message, Source::Core, &mut self.core_wakes.lock());
        }
    }

    fn flush(&self) {
        self.core_wakes.lock().wake_all();
    }
}

/// The entries that a message matches. Mostly one, which costs no allocation.
#[derive(Default)]
struct Matched<'a> {
    first: Option<&'a Entry>,
    others: Vec<&'a Entry>,
}

impl<'a> Matched<'a> {
    fn push(&mut self, entry: &'a Entry) {
        if self.first.is_none() {
            self.first = Some(entry);
        } else {
            self.others.push(entry);
        }
    }

    const fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    /// The lowest order among the entries.
    fn oldest(&self) -> Option<u64> {
        self.first.iter().chain(&self.others).map(|e| e.order).min()
    }

    /// Calls `deliver` once for each session: at the highest QoS of its matching subscriptions, with the identifiers
    /// of all of them [MQTT-3.3.4-2].
    fn targets(&self, message: &Message, source: Source, mut deliver: impl FnMut(Target<'_>)) {
        let Some(first) = self.first else { return };
        if self.others.is_empty() {
            for s in first.subscribers.iter().filter(|s| s.takes(message, source)) {
                deliver(Target {
                    mailbox: &s.mailbox,
                    qos: message.qos.min(s.options.qos),
                    retain: message.retain && s.options.retain_as_published,
                    subscription_ids: s.subscription_id.as_slice(),
                });
            }
            return;
        }
        let entries = std::iter::once(&first).chain(&self.others);
        let mut all: Vec<&Subscriber> =
            entries.flat_map(|e| &e.subscribers).filter(|s| s.takes(message, source)).collect();
        all.sort_unstable_by_key(|s| s.mailbox.id);
        for of_session in all.chunk_by(|a, b| a.mailbox.id == b.mailbox.id) {
            let ids: Vec<NonZeroU32> = of_session.iter().filter_map(|s| s.subscription_id).collect();
            let qos = of_session.iter().map(|s| s.options.qos).max().unwrap_or_default();
            deliver(Target {
                mailbox: &of_session[0].mailbox,
                qos: message.qos.min(qos),
                retain: message.retain && of_session.iter().any(|s| s.options.retain_as_published),
                subscription_ids: &ids,
            });
        }
    }
}

impl Subscriber {
    fn takes(&self, message: &Message, source: Source) -> bool {
        let is_new = match source {
            Source::Log { sequence } => sequence > self.after,
            Source::Local { .. } | Source::Core => true,
        };
        // It came with the SUBSCRIBE already.
        let is_known = message.retained_at.is_some_and(|sequence| sequence <= self.retained.applied)
            || message.indexed_at.is_some_and(|version| version <= self.retained.version);
        is_new && !is_known && !(self.options.no_local && self.is_own(message, source))
    }

    /// The session is the publisher's [MQTT-3.8.3-3].
    fn is_own(&self, message: &Message, source: Source) -> bool {
        match source {
            Source::Local { publisher } => publisher == self.mailbox.id,
            Source::Core | Source::Log { .. } => message.publisher.as_ref() == Some(&self.mailbox.client_id),
        }
    }
}

impl Target<'_> {
    fn outgoing(&self, message: &Arc<Message>) -> super::mailbox::Outgoing {
        super::mailbox::Outgoing {
            message: Arc::clone(message),
            retain: self.retain,
            qos: self.qos,
            subscription_ids: self.subscription_ids.into(),
        }
    }
}
