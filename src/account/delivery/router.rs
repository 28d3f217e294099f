//! From a message to the inboxes of its subscribers. A message comes from one of three places, and each copy of it
//! counts in exactly one of them:
//!
//! - QoS 0 of a client here: routed at once; its copy on core NATS is not echoed to us.
//! - core NATS: QoS 0 of other sidecars and whatever NATS clients publish. Several of our NATS subscriptions may match, and
//!   one copy counts for each session (`matched`). The natural-subject copy of a stored message is recognised and dropped.
//! - the logs: everything at QoS 1 and 2, from here and from elsewhere, to subscriptions of any QoS.
//!
//! What NATS clients publish comes on core NATS, and from a log when a stream has captured it or a sidecar has copied it
//! there ([`Audience`]): a session whose matching subscriptions are all of QoS 0 gets the one, the others get the other.

mod matched;

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use mqtt_codec::{QoS, SubscriptionOptions, TopicFilter, TopicName};
use mqtt_ownership::ServerTime;
use mqtt_session::{Cursors, Offer, Position, Sequence};
use parking_lot::{Mutex, RwLock};
use proto_map::ClosedTrees;

use self::matched::{Matched, Source};
use crate::account::delivery::core_subscriptions::{CoreSubscriptionId, SubscriptionOrder};
use crate::account::delivery::grant::{Audience, Permits as _};
use crate::account::delivery::inbox::{Inbox, Wakes};
use crate::account::delivery::logs::{LogHandle, Logs};
use crate::account::delivery::message::{IndexVersion, Message};
use crate::account::delivery::subscriptions::{Before, CameRetained, CreationOrder, Gates, Subscriber, Subscriptions};
use crate::account::interop::ingest::Ingest;
use crate::account::publish::convert;
use crate::account::registry::Registry;
use crate::account::requests::Requests;
use crate::account::session_id::SessionId;
use crate::metrics::{AccountMetrics, DropReason};
use crate::store::{CoreMessage, CoreSink, IndexState, Keys, LogEntry, LogSink, RetainedIndex, ServerClock};

/// How messages of NATS are read.
#[derive(Clone, Debug)]
pub(crate) struct Reading {
    /// `Nats-*` headers become user properties.
    pub(crate) nats_headers: bool,
    /// The server's time.
    pub(crate) clock: ServerClock,
    /// By which is known what a sidecar has written where others write too.
    pub(crate) keys: Keys,
}

/// Routes messages to the sessions of this sidecar.
pub(crate) struct Router {
    /// Locked after the tails, which are locked in the order of their numbers, by whoever needs them to stand still.
    subscriptions: RwLock<Subscriptions>,
    logs: Arc<Logs>,
    /// Copies core messages into the log for subscriptions above QoS 0.
    ingest: Option<Arc<Ingest>>,
    reading: Reading,
    index: Arc<RetainedIndex>,
    closed: ClosedTrees,
    requests: Arc<Requests>,
    metrics: Arc<AccountMetrics>,
    /// Woken at the end of a batch from core NATS.
    core_wakes: Mutex<Wakes>,
    /// Each of several subscriptions of a session that match gets a copy.
    copies_overlapping: AtomicBool,
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
    pub(crate) order: SubscriptionOrder,
    /// Numbers of the logs that can have messages for it.
    pub(crate) logs: Vec<u16>,
    /// Whether retained messages come with the SUBSCRIBE.
    pub(crate) is_owed_retained: bool,
    /// What it was in its session before.
    pub(crate) before: Option<Before>,
}

/// Subscriptions that were made.
#[derive(Clone, Debug)]
pub(crate) struct Made {
    /// State of the retained index that holds what they are owed.
    pub(crate) seen: IndexState,
    /// Of each, the places above which messages are for it, in the logs that can have some.
    pub(crate) after: Vec<Cursors>,
}

impl Router {
    /// A router without subscriptions.
    pub(crate) fn new(
        logs: Arc<Logs>,
        index: Arc<RetainedIndex>,
        closed: ClosedTrees,
        ingest: Option<Arc<Ingest>>,
        reading: Reading,
        requests: Arc<Requests>,
        metrics: Arc<AccountMetrics>,
    ) -> Self {
        let (subscriptions, core_wakes, copies_overlapping) = Default::default();
        Self { subscriptions, logs, ingest, reading, index, closed, requests, metrics, core_wakes, copies_overlapping }
    }

    /// Where it counts.
    pub(crate) const fn metrics(&self) -> &Arc<AccountMetrics> {
        &self.metrics
    }

    /// Whether each of several subscriptions of a session that match gets a copy, or all get one together.
    pub(in crate::account) fn copy_overlapping(&self, each: bool) {
        self.copies_overlapping.store(each, Ordering::Relaxed);
    }

    /// The server's time.
    pub(crate) const fn clock(&self) -> &ServerClock {
        &self.reading.clock
    }

    /// The trees that devices cannot reach.
    pub(crate) fn closed(&self) -> &ClosedTrees {
        &self.closed
    }

    /// Makes subscriptions at one instant: messages above the places `ends`, and above what the tails have routed, are for
    /// them, and of the retained messages those that the index does not hold yet. Returns which they are.
    pub(crate) fn subscribe(&self, inbox: &Arc<Inbox>, ends: &Cursors, new: &[NewSubscription]) -> Made {
        let logs = self.logs.all();
        let tails: Vec<_> = logs.iter().map(|log| log.hold()).collect();
        let mut subscriptions = self.subscriptions.write();
        let state = self.index.state();
        let stands = |log: &u16| {
            let index = logs.binary_search_by_key(log, |handle| handle.number).ok()?;
            Some(Position::new(*log, tails[index].sequence().max(ends.get(*log).unwrap_or_default())))
        };
        let mut all = Vec::with_capacity(new.len());
        for s in new {
            let after: Cursors = s.logs.iter().filter_map(stands).collect();
            let subscriber = Subscriber {
                inbox: Arc::clone(inbox),
                options: s.options,
                subscription_id: s.subscription_id,
                leads: inbox.leads(&s.filter),
                gates: Gates::new(&after),
                before: None,
                retained: if s.is_owed_retained { CameRetained::of(state) } else { CameRetained::default() },
                made: CreationOrder::default(),
            };
            subscriptions.insert(&s.filter, subscriber, s.order);
            if s.options.qos > QoS::AtMostOnce {
                after.iter().for_each(|place| inbox.with_feed(place.log(), |_| ()));
            }
            all.push(after);
        }
        Made { seen: state, after: all }
    }

    /// Makes a subscription again that begins after these places.
    pub(crate) fn restore(&self, inbox: &Arc<Inbox>, after: &Cursors, s: &NewSubscription) {
        let (leads, options, subscription_id) = (inbox.leads(&s.filter), s.options, s.subscription_id);
        let inbox = Arc::clone(inbox);
        let (gates, retained, made) = (Gates::new(after), CameRetained::default(), CreationOrder::default());
        let before = s.before.clone().map(Box::new);
        let subscriber = Subscriber { inbox, options, subscription_id, leads, gates, before, retained, made };
        self.subscriptions.write().insert(&s.filter, subscriber, s.order);
    }

    /// Subscriptions of these sessions begin in a log after this sequence at the latest.
    pub(crate) fn lower_gates(&self, log: u16, sequence: Sequence, is_of: impl Fn(SessionId) -> bool) {
        self.subscriptions.write().visit_all(&mut |subscriber| {
            if is_of(subscriber.inbox.id) {
                subscriber.gates.lower(log, sequence);
                if let Some(before) = &mut subscriber.before {
                    before.until.lower(log, sequence);
                }
            }
        });
    }

    /// Ends a session's subscription.
    pub(crate) fn unsubscribe(&self, filter: &TopicFilter, session: SessionId) {
        self.subscriptions.write().remove(filter, session);
    }

    /// How many subscriptions there are.
    pub(crate) fn subscription_count(&self) -> usize {
        self.subscriptions.read().count()
    }

    /// Whether a client here is subscribed to a topic.
    pub(crate) fn has_subscriber(&self, topic: &TopicName) -> bool {
        let is_hidden = self.closed.hides_topic_from_wildcard(topic);
        let mut has_one = false;
        self.subscriptions.read().matching(topic.as_str(), is_hidden, &mut |_| has_one = true);
        has_one
    }

    /// A client of this sidecar published at QoS 0.
    pub(crate) fn route_local(&self, message: &mut Message, publisher: SessionId, wakes: &mut Wakes) {
        let _held = message.retain.then(|| self.logs.main().hold());
        self.index(message, QoS::AtMostOnce);
        let subscriptions = self.subscriptions.read();
        let entries = self.matching(&subscriptions, message);
        self.deliver_qos0(&entries, message, Source::Local { publisher }, Audience::Everyone, wakes);
    }

    /// Retained messages go into the index in the same instant as to the subscribers, with the tail held, so that who
    /// subscribes meanwhile gets them one way or the other, and not both.
    fn index(&self, message: &mut Message, qos: QoS) {
        if let Some(sequence) = message.retained_at {
            let retained = convert::retained_of(message, qos);
            message.indexed_at = self.index.apply_live(sequence.0, &message.topic, retained).map(IndexVersion);
        }
    }

    fn matching<'a>(&self, subscriptions: &'a Subscriptions, message: &Message) -> Matched<'a> {
        let is_hidden = self.closed.hides_topic_from_wildcard(&message.topic);
        let mut entries = Matched::new(self.copies_overlapping.load(Ordering::Relaxed));
        subscriptions.matching(message.topic.as_str(), is_hidden, &mut |e| entries.push(e));
        entries
    }

    fn deliver_qos0(
        &self,
        entries: &Matched<'_>,
        message: &Message,
        source: Source,
        audience: Audience,
        wakes: &mut Wakes,
    ) {
        if entries.is_empty() {
            return;
        }
        let now = self.reading.clock.earliest();
        let mut dropped = 0;
        entries.targets(message, source, audience, |target| {
            dropped += u64::from(!target.inbox.offer_qos0(message, target.grant, now, wakes));
        });
        if dropped > 0 {
            self.metrics.dropped(DropReason::SlowReader, dropped);
        }
    }

    /// Offers one message of a log to the sessions that match [MQTT-3.3.2-3], [MQTT-4.5.0-1].
    fn deliver_logged(
        &self,
        subscriptions: &Subscriptions,
        log: &LogHandle,
        sequence: Sequence,
        message: &Arc<Message>,
        now: ServerTime,
        wakes: &mut Wakes,
    ) {
        let mut dropped = 0;
        let source = Source::Log { log: log.number, sequence };
        self.matching(subscriptions, message).targets(message, source, audience_of(message, log), |t| {
            if t.grant.qos == QoS::AtMostOnce {
                dropped += u64::from(!t.inbox.offer_qos0(message, t.grant, now, wakes));
            } else {
                t.inbox.offer_live(log.number, sequence, message.weight(), || t.outgoing(message), wakes);
            }
        });
        if dropped > 0 {
            self.metrics.dropped(DropReason::SlowReader, dropped);
        }
    }

    /// Offers one message that a scan read to the sessions that the scan serves. `on_full` is told of each that had no
    /// room.
    pub(crate) fn route_scanned(
        &self,
        log: &LogHandle,
        entry: &LogEntry,
        wakes: &mut Wakes,
        mut on_full: impl FnMut(&Arc<Inbox>),
    ) {
        let Some(message) = self.message_of(log, entry) else { return };
        let message = Arc::new(message);
        let subscriptions = self.subscriptions.read();
        let source = Source::Log { log: log.number, sequence: Sequence(entry.sequence) };
        self.matching(&subscriptions, &message).targets(&message, source, audience_of(&message, log), |t| {
            if t.grant.qos != QoS::AtMostOnce && t.inbox.is_scanning() {
                let (sequence, weight) = (Sequence(entry.sequence), message.weight());
                let offer = t.inbox.offer_scanned(log.number, sequence, weight, || t.outgoing(&message), wakes);
                if offer == Offer::Full {
                    on_full(t.inbox);
                }
            }
        });
    }

    /// A message of a log, unless its subject is no topic of ours or it comes from elsewhere: a stream that captures a
    /// subject has the natural copies of stored messages too, and what clients published at QoS 0. What an ended connection
    /// had under way and what came too late is none either.
    pub(in crate::account) fn message_of(&self, log: &LogHandle, entry: &LogEntry) -> Option<Message> {
        if self.closed.is_closed_subject(entry.subject()) {
            return None;
        }
        if log.is_attached() && convert::has_come_live(entry) {
            return None;
        }
        let keys = &self.reading.keys;
        if let Some((of, text)) = convert::publisher_epoch(entry) {
            let is_genuine = || log.carrier().is_ours() || keys.ring().is_epoch_genuine(text);
            if log.epochs.is_late(of, Sequence(entry.sequence), is_genuine) {
                self.metrics.dropped(DropReason::EndedEpoch, 1);
                return None;
            }
        }
        convert::from_log(entry, log.carrier(), self.reading.nats_headers, Some(keys))
            .inspect_err(|error| {
                self.metrics.dropped(DropReason::NoTopic, 1);
                tracing::debug!(sequence = entry.sequence, %error, "a stored message is not a message");
            })
            .ok()
    }

    /// Routes what the tail of a log brings.
    fn entries(&self, log: &LogHandle, batch: &mut Vec<LogEntry>) {
        let mut wakes = Wakes::default();
        let mut tail = log.hold();
        let subscriptions = self.subscriptions.read();
        let now = self.reading.clock.earliest();
        for entry in batch.drain(..) {
            tail.0 = Sequence(entry.sequence);
            let Some(mut message) = self.message_of(log, &entry) else { continue };
            if let Some(ingest) = self.ingest.as_ref().filter(|_| message.is_ingested) {
                ingest.seen(entry.subject(), &entry.payload);
            }
            let qos = message.qos;
            self.index(&mut message, qos);
            self.deliver_logged(&subscriptions, log, tail.0, &Arc::new(message), now, &mut wakes);
        }
        log.routed(&tail);
    }

    /// Whether those who want a message of core NATS above QoS 0 get it from there too, since no log will have it.
    pub(in crate::account) fn is_on_core_only(&self, core: &CoreMessage) -> bool {
        matches!(self.audience_on_core(core), Audience::Everyone)
    }

    /// A message of core NATS, with a topic to answer on when it is a request. It is not put into the retained index.
    pub(in crate::account) fn message_of_core(&self, core: &CoreMessage) -> Option<Message> {
        let Reading { clock, nats_headers, keys } = &self.reading;
        let mut message = convert::from_core(core, clock.latest(), *nats_headers, keys).ok()?;
        self.requests.make_answerable(core, &mut message, || true);
        Some(message)
    }

    /// Which sessions get a message of core NATS from there.
    fn audience_on_core(&self, core: &CoreMessage) -> Audience {
        // The publish of a client at QoS 0 is nothing else for anybody.
        if convert::is_at_most_once(core.headers.as_ref()) {
            return Audience::Everyone;
        }
        if self.ingest.is_some() || self.logs.is_captured(&core.subject) {
            Audience::Qos0Only
        } else {
            Audience::Everyone
        }
    }
}

/// Which sessions get a message of a log from there.
const fn audience_of(message: &Message, log: &LogHandle) -> Audience {
    if message.is_ingested || log.is_attached() { Audience::DurableOnly } else { Audience::Everyone }
}

/// What the tail of a log is handed to.
pub(crate) struct LogTail {
    router: Arc<Router>,
    log: Arc<LogHandle>,
    registry: Arc<Registry>,
}

impl LogTail {
    /// Of one log, which these sessions read.
    pub(crate) const fn new(router: Arc<Router>, log: Arc<LogHandle>, registry: Arc<Registry>) -> Self {
        Self { router, log, registry }
    }
}

impl LogSink for LogTail {
    fn entries(&self, batch: &mut Vec<LogEntry>) {
        self.router.entries(&self.log, batch);
    }

    fn restarted(&self, next: u64) {
        // Sequences start again. **Invariant:** nobody waits for a higher one: no tail, gate, feed or cursor.
        let (next, mut tail) = (Sequence(next), self.log.hold());
        tail.0 = next.before();
        self.log.epochs.forget();
        self.router.lower_gates(self.log.number, tail.0, |_| true);
        for control in self.registry.everyone() {
            control.inbox().log_restarted(self.log.number, next);
        }
        self.log.routed(&tail);
    }
}

impl CoreSink for Router {
    fn message(&self, subscription_id: u64, core: CoreMessage) {
        if self.closed.is_closed_subject(&core.subject) || convert::is_stored_copy(&core) {
            return;
        }
        let audience = self.audience_on_core(&core);
        let Reading { clock, nats_headers, keys } = &self.reading;
        let Ok(mut message) = convert::from_core(&core, clock.latest(), *nats_headers, keys) else {
            self.metrics.dropped(DropReason::NoTopic, 1);
            return;
        };
        let _held = message.retain.then(|| self.logs.main().hold());
        // Whichever copy comes first, and also when nobody has subscribed yet: whoever does now gets it from there.
        if message.retain {
            let qos = convert::published_qos(core.headers.as_ref(), || self.logs.is_captured(&core.subject));
            self.index(&mut message, qos);
        }
        let subscriptions = self.subscriptions.read();
        let entries = self.matching(&subscriptions, &message);
        if entries.is_empty() {
            return;
        }
        let order = SubscriptionOrder::of(CoreSubscriptionId(subscription_id));
        self.requests.make_answerable(&core, &mut message, || entries.is_counted(order));
        self.deliver_qos0(&entries, &message, Source::Core { order }, audience, &mut self.core_wakes.lock());
    }

    fn flush(&self) {
        self.core_wakes.lock().wake_all();
    }
}
