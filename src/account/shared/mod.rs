//! Shared subscriptions: groups whose members share the messages of a filter.
//!
//! # Layout
//!
//! - [`Shares`]: the groups that have members on this sidecar; members come and go
//! - `group`: one group, its members and what they were given; `dispatcher`: whose turn it is, without I/O
//! - `given`: a message that a session was given
//! - `feed`: the task that asks a group's consumer for messages and answers it
//! - `holders`: which groups somebody holds; `tending`: when the others end
//! - `claims`: who can have something at QoS 2 of which its consumer does not know; `doubtful`: what that is
//!
//! Groups on different sidecars know nothing of each other: their consumer in JetStream and the queue group in NATS do the
//! sharing. Ordinary subscriptions are the router's; nothing of a shared one is in there.

mod claims;
mod dispatcher;
mod doubtful;
mod feed;
mod given;
mod group;
mod holders;
mod tending;

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use foldhash::HashMap as FastMap;
use mqtt_codec::{QoS, SubscriptionOptions, TopicFilter};
use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;

pub(crate) use self::claims::Claimants;
pub(crate) use self::given::Share;
use self::group::{Answer, Group, GroupKey, Member, key_of};
pub(in crate::account) use self::tending::tend_groups;
use crate::account::delivery::core_subscriptions::{CoreSubscriptionId, SubscriptionOrder};
use crate::account::delivery::inbox::{Inbox, Wakes};
use crate::account::delivery::logs::{LogHandle, Logs, LogsVersion, Owner};
use crate::account::delivery::router::Router;
use crate::account::interop::durable_interest::DurableInterest;
use crate::account::publish::convert;
use crate::account::session_id::SessionId;
use crate::metrics::{AccountMetrics, Limit};
use crate::store::{
    CoreMessage, CoreNats, CoreSink, NoConsumer, Sessions, ShareBegins, ShareLog, ShareSpec, ShareTimes, Store,
    Unavailable,
};
use crate::tasks::Tasks;

/// How long the last feeds may take to give back what they have.
const END_WITHIN: Duration = Duration::from_secs(3);

/// A shared subscription to be made.
#[derive(Clone, Debug)]
pub(crate) struct NewShare {
    /// The filter as the client wrote it: `$share/NAME/FILTER`.
    pub(crate) filter: TopicFilter,
    /// Its options.
    pub(crate) options: SubscriptionOptions,
    /// Subscription Identifier.
    pub(crate) subscription_id: Option<NonZeroU32>,
}

/// Why a session has not become a member.
#[derive(Debug)]
pub(crate) enum NotJoined {
    /// JetStream does not answer.
    Unavailable(Unavailable),
    /// There are too many groups.
    Over(Limit),
}

impl From<NoConsumer> for NotJoined {
    fn from(error: NoConsumer) -> Self {
        match error {
            NoConsumer::Unavailable(error) => Self::Unavailable(error),
            NoConsumer::NoRoom { .. } => Self::Over(Limit::Consumers),
        }
    }
}

/// The groups of an account that have members on this sidecar.
pub(crate) struct Shares {
    store: crate::store::Shares,
    sessions: Sessions,
    claimants: Arc<Claimants>,
    times: ShareTimes,
    /// Groups with consumers that the account may have.
    groups_max: usize,
    logs: Arc<Logs>,
    router: Arc<Router>,
    /// Is told what groups want, so that messages of NATS are stored for them.
    wants: Option<Arc<DurableInterest>>,
    metrics: Arc<AccountMetrics>,
    core: OnceLock<CoreNats>,
    /// What ordinary subscriptions use.
    ordinary: CoreNats,
    next_order: AtomicU64,
    members: Mutex<Memberships>,
    /// By the order in the ids of queue subscriptions.
    queues: RwLock<FastMap<SubscriptionOrder, Arc<Group>>>,
    /// Woken at the end of a batch from core NATS.
    core_wakes: Mutex<Wakes>,
    /// Feeds that run.
    feeds: watch::Sender<usize>,
    tasks: Tasks,
}

#[derive(Default)]
struct Memberships {
    groups: HashMap<GroupKey, Arc<Group>>,
    /// Groups of each session, also those that it has left and that have given it something.
    sessions: FastMap<SessionId, Vec<Arc<Group>>>,
}

impl std::fmt::Debug for Shares {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shares").field("groups", &self.members.lock().groups.len()).finish_non_exhaustive()
    }
}

impl Shares {
    /// No groups yet.
    pub(crate) fn start(
        store: &Store,
        claimants: Arc<Claimants>,
        (times, groups_max): (ShareTimes, usize),
        logs: Arc<Logs>,
        router: Arc<Router>,
        wants: Option<Arc<DurableInterest>>,
        metrics: Arc<AccountMetrics>,
    ) -> Arc<Self> {
        let shares = Arc::new(Self {
            store: store.shares().clone(),
            sessions: store.sessions().clone(),
            claimants,
            times,
            groups_max,
            logs,
            router,
            wants,
            metrics,
            core: OnceLock::new(),
            ordinary: store.core().clone(),
            next_order: AtomicU64::new(0),
            members: Mutex::default(),
            queues: RwLock::default(),
            core_wakes: Mutex::default(),
            feeds: watch::Sender::new(0),
            tasks: store.tasks().clone(),
        });
        // Set once: `shares` was made here.
        let _ = shares.core.set(store.shares().core(Arc::clone(&shares) as Arc<dyn CoreSink>));
        shares
    }

    fn spec(key: &GroupKey) -> Option<ShareSpec> {
        let (name, filter) = key;
        let subjects = proto_map::subjects_of(filter).ok()?;
        Some(ShareSpec {
            consumer: proto_map::share_consumer(name, &subjects),
            group: name.clone(),
            filter: filter.as_str().to_owned().into(),
            subjects: subjects.iter().map(|subject| subject.as_str().to_owned().into()).collect(),
        })
    }

    /// Makes a session a member. At QoS 1 and 2 the group's consumers are there when this returns, so that everything that
    /// is published later is for the group.
    ///
    /// # Errors
    /// See [`NotJoined`]; the session is what it was before.
    pub(crate) async fn join(self: &Arc<Self>, inbox: &Arc<Inbox>, new: &NewShare) -> Result<(), NotJoined> {
        let Some((key, spec)) = key_of(&new.filter).and_then(|key| Some((key.clone(), Self::spec(&key)?))) else {
            return Err(NotJoined::Unavailable(Unavailable { reason: "no shared subscription".to_owned() }));
        };
        let mut has_consumer = new.options.qos != QoS::AtMostOnce;
        if has_consumer {
            if !self.has_room_for(&key) {
                return Err(NotJoined::Over(Limit::Groups));
            }
            // The first log comes first: with its consumer the group begins.
            let mut begins = ShareBegins::Now;
            for log in self.logs_of(&key) {
                let consumer = self.store.ensure(&share_log(&log), &spec, self.times, begins).await?;
                if log.number == 0 && !consumer.is_new {
                    begins = ShareBegins::At(consumer.created_ms);
                }
            }
        } else {
            // A group of which others want stored messages gets those from its consumer only, each once.
            for log in self.logs_of(&key) {
                has_consumer |= self.store.find(&share_log(&log), &spec).await.is_ok_and(|found| found.is_some());
            }
        }
        self.seat(inbox, new, key, spec, has_consumer);
        if let Some(core) = self.core.get() {
            // Without a connection QoS 0 begins when there is one. What is to be stored for the group is asked for on the other
            // one.
            let _ = tokio::join!(core.flush(), self.ordinary.flush());
        }
        Ok(())
    }

    /// Whether a group may have a consumer: one that somebody is a member of has.
    fn has_room_for(&self, key: &GroupKey) -> bool {
        let members = self.members.lock();
        let is_there = members.groups.contains_key(key) || self.claimants.is_held(key);
        is_there || self.claimants.groups().max(members.groups.len()) < self.groups_max
    }

    /// Makes a session a member again that was one before it was disconnected. The group's consumer is looked for later.
    pub(crate) fn restore(self: &Arc<Self>, inbox: &Arc<Inbox>, new: &NewShare) {
        if let Some((key, spec)) = key_of(&new.filter).and_then(|key| Some((key.clone(), Self::spec(&key)?))) {
            self.seat(inbox, new, key, spec, new.options.qos != QoS::AtMostOnce);
        }
    }

    fn seat(self: &Arc<Self>, inbox: &Arc<Inbox>, new: &NewShare, key: GroupKey, spec: ShareSpec, has_consumer: bool) {
        let mut members = self.members.lock();
        if inbox.is_closed() {
            // It has left already.
            return;
        }
        let (router, metrics) = (Arc::clone(&self.router), Arc::clone(&self.metrics));
        let group = members
            .groups
            .entry(key)
            .or_insert_with_key(|key| Arc::new(Group::new(key.clone(), spec, router, metrics)));
        let group = Arc::clone(group);
        let of_session = members.sessions.entry(inbox.id).or_default();
        if !of_session.iter().any(|other| Arc::ptr_eq(other, &group)) {
            of_session.push(Arc::clone(&group));
        }
        if has_consumer {
            self.feed(&group);
        }
        if let Some(wants) = self.wants.as_ref().filter(|_| group.is_fed()) {
            // Also for one at QoS 0: its group gets what is published in NATS by the consumer.
            wants.subscribed(inbox.id, &new.filter, QoS::AtLeastOnce);
        }
        let order = self.listen(&group);
        let (options, subscription_id) = (new.options, new.subscription_id);
        let before = group.enter(Member { inbox: Arc::clone(inbox), options, subscription_id, order });
        if let Some(before) = before {
            self.unlisten(before.order);
        }
    }

    /// The logs that can have messages for a group.
    fn logs_of(&self, key: &GroupKey) -> Vec<Arc<LogHandle>> {
        self.logs.overlapping(&key.1).into_iter().filter_map(|number| self.logs.get(number)).collect()
    }

    /// Whether the group is fed from all logs, as far as can be said without looking at each.
    fn is_known(&self, group: &Group) -> bool {
        let LogsVersion(version) = self.logs.version();
        group.logs_version.swap(version, Ordering::Relaxed) == version
    }

    /// QoS 0 messages of groups that were lost on their way here, and how often others may have been.
    pub(crate) fn core_losses(&self) -> (u64, u64) {
        self.core.get().map_or((0, 0), |core| (core.overflows(), core.gaps()))
    }

    /// One queue subscription a member, so that the share of a sidecar is as large as the number of its members.
    fn listen(&self, group: &Arc<Group>) -> SubscriptionOrder {
        let order = SubscriptionOrder(self.next_order.fetch_add(1, Ordering::Relaxed));
        self.queues.write().insert(order, Arc::clone(group));
        if let Some(core) = self.core.get() {
            let queue = proto_map::queue_group(&group.key.0);
            // It could be mapped when the group was made.
            let subjects = self.router.closed().subjects_of(&group.key.1).unwrap_or_default();
            for (id, subject) in order.ids().zip(&subjects) {
                core.subscribe(subject.as_str(), Some(&queue), id.0);
            }
        }
        order
    }

    fn unlisten(&self, order: SubscriptionOrder) {
        self.queues.write().remove(&order);
        if let Some(core) = self.core.get() {
            for id in order.ids() {
                core.unsubscribe(id.0);
            }
        }
    }

    /// UNSUBSCRIBE: the session gets nothing new; what it was sent it may acknowledge still.
    pub(crate) fn withdraw(&self, filter: &TopicFilter, session: SessionId) {
        let Some(key) = key_of(filter) else { return };
        let mut members = self.members.lock();
        let Some(group) = members.groups.get(&key).cloned() else { return };
        if let Some(member) = group.withdraw(session) {
            self.unlisten(member.order);
        }
        if let Some(wants) = &self.wants {
            wants.unsubscribed(session, filter);
        }
        forget(&mut members, &group);
    }

    /// The connection of a session is over: what it was given and has not acknowledged goes to other members.
    /// `filters`: its shared ones.
    pub(crate) fn leave<'a>(&self, session: SessionId, filters: impl Iterator<Item = &'a TopicFilter>) {
        if let Some(wants) = &self.wants {
            filters.for_each(|filter| wants.unsubscribed(session, filter));
        }
        let mut members = self.members.lock();
        for group in members.sessions.remove(&session).unwrap_or_default() {
            if let Some(member) = group.leave(session) {
                self.unlisten(member.order);
            }
            forget(&mut members, &group);
        }
    }

    /// Waits until all members are gone and what they had is given back.
    pub(crate) async fn ended(&self) {
        let mut feeds = self.feeds.subscribe();
        let _ = tokio::time::timeout(END_WITHIN, feeds.wait_for(|running| *running == 0)).await;
    }

    /// Ends the feed of a group that nobody here needs. Returns what is to be said when nothing is asked for any more.
    fn end_feed(&self, group: &Arc<Group>, log: &LogHandle) -> Option<Vec<Answer>> {
        // Nobody becomes a member meanwhile.
        let mut members = self.members.lock();
        let left = group.end_feed(log)?;
        forget(&mut members, group);
        Some(left)
    }
}

/// A log as the store knows it.
fn share_log(log: &LogHandle) -> ShareLog {
    let prefix = match &log.owner {
        Owner::Ours { prefix } => prefix.as_ref(),
        Owner::Attached { .. } => "",
    };
    ShareLog { stream: log.log.stream().into(), prefix: prefix.into(), created_ms: log.created().map(|at| at.0) }
}

/// Forgets a group without members and feeds.
fn forget(members: &mut Memberships, group: &Arc<Group>) {
    if group.is_over() && members.groups.get(&group.key).is_some_and(|known| Arc::ptr_eq(known, group)) {
        members.groups.remove(&group.key);
    }
}

impl CoreSink for Shares {
    fn message(&self, subscription_id: u64, message: CoreMessage) {
        if message.status.is_some() || convert::is_delivery(&message) {
            return;
        }
        let group = self.queues.read().get(&SubscriptionOrder::of(CoreSubscriptionId(subscription_id))).cloned();
        if let Some(group) = group {
            group.give_core(&message, &mut self.core_wakes.lock());
        }
    }

    fn flush(&self) {
        self.core_wakes.lock().wake_all();
    }
}
