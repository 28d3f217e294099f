//! One group of a shared subscription on this sidecar: its members, and what they were given.
//!
//! Stored messages come from the group's consumers, one for each log (`feed`), and are answered when a member has
//! acknowledged them. What core NATS brings at QoS 0 comes by queue subscriptions, one a member, so that each sidecar gets
//! its share. **Invariant:** nothing waits here: a message that no member has room for goes back at once.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use bytestring::ByteString;
use mqtt_codec::{QoS, SubscriptionOptions, TopicFilter};
use mqtt_ownership::ServerTime;
use mqtt_session::{Position, Sequence};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::dispatcher::{Dispatcher, Left};
use super::given::{Giver, Hold, Share};
use crate::account::clock::uptime;
use crate::account::delivery::core_subscriptions::SubscriptionOrder;
use crate::account::delivery::grant::{Grant, MessageFacts, Permits as _, Terms, grant};
use crate::account::delivery::inbox::{Inbox, Outgoing, Wakes};
use crate::account::delivery::logs::LogHandle;
use crate::account::delivery::message::Message;
use crate::account::delivery::router::Router;
use crate::account::publish::convert;
use crate::account::session_id::SessionId;
use crate::metrics::{AccountMetrics, DropReason, ShareEvent};
use crate::store::{CoreMessage, ShareAnswer, ShareEntry, ShareSpec};

/// Messages that are asked for on behalf of a member at QoS 0, whose own buffer is the limit.
const ROOM_QOS0: usize = 16;

/// Share name and filter.
pub(super) type GroupKey = (ByteString, TopicFilter);

/// The group of a shared subscription.
pub(super) fn key_of(filter: &TopicFilter) -> Option<GroupKey> {
    let shared = filter.shared()?;
    // Copies: the text of a packet keeps the whole read buffer alive.
    Some((shared.name.to_string().into(), shared.filter.to_owned_copy()))
}

/// Where it is said of a message what becomes of it, and what.
pub(super) type Answer = (ByteString, ShareAnswer);

/// One member.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) inbox: Arc<Inbox>,
    pub(super) options: SubscriptionOptions,
    pub(super) subscription_id: Option<NonZeroU32>,
    /// Names its queue subscriptions.
    pub(super) order: SubscriptionOrder,
}

/// A log that the group is fed from.
#[derive(Debug)]
struct Feed {
    log: u16,
    /// Wakes the task that asks and answers.
    wake: Arc<Notify>,
    /// To be said, in this order. Bounded by what members were given.
    answers: Vec<Answer>,
}

#[derive(Debug, Default)]
struct State {
    members: Dispatcher<SessionId, Member, ByteString>,
    feeds: Vec<Feed>,
}

/// A group.
pub(super) struct Group {
    pub(super) key: GroupKey,
    pub(super) spec: ShareSpec,
    router: Arc<Router>,
    metrics: Arc<AccountMetrics>,
    /// Version of the logs that it is fed from.
    pub(super) logs_version: AtomicU64,
    state: Mutex<State>,
}

/// What came of offering a message to a member.
enum Taken {
    Yes,
    Full,
    TooLarge,
    Denied,
}

/// What came of offering a message to all members, and what is to be said of it now.
enum Offered {
    Given(Option<ShareAnswer>),
    NotTaken(ShareAnswer),
}

impl std::fmt::Debug for Group {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Group").field(&self.key.0).field(&self.key.1).finish()
    }
}

impl Giver for Group {
    fn finish(&self, position: Position, answer: Option<ShareAnswer>) {
        let mut state = self.state.lock();
        if let Some(ack) = state.members.finish(position) {
            if let Some(answer) = answer {
                state.answer(position, ack, answer);
            }
            state.wake(position);
        }
    }

    fn ack(&self, position: Position) -> Option<ByteString> {
        self.state.lock().members.answer_of(position)
    }

    fn set_hold(&self, position: Position, hold: Hold) {
        self.state.lock().members.set_hold(position, hold);
    }
}

impl State {
    fn answer(&mut self, position: Position, ack: ByteString, answer: ShareAnswer) {
        if let Some(feed) = self.feeds.iter_mut().find(|feed| feed.log == position.log()) {
            feed.answers.push((ack, answer));
        }
    }

    fn wake(&self, position: Position) {
        if let Some(feed) = self.feeds.iter().find(|feed| feed.log == position.log()) {
            feed.wake.notify_one();
        }
    }
}

impl Group {
    pub(super) fn new(key: GroupKey, spec: ShareSpec, router: Arc<Router>, metrics: Arc<AccountMetrics>) -> Self {
        Self { key, spec, router, metrics, logs_version: AtomicU64::new(0), state: Mutex::default() }
    }

    /// A member comes, or comes again with other options. Returns the one that it was before.
    pub(super) fn enter(&self, member: Member) -> Option<Member> {
        let mut state = self.state.lock();
        let is_first = state.members.members().next().is_none();
        for feed in &state.feeds {
            member.inbox.join_share(&feed.wake);
            feed.wake.notify_one();
        }
        let before = state.members.enter(member.inbox.id, member);
        if before.is_none() {
            self.metrics.share_member(true);
        }
        if is_first {
            self.metrics.share_group(true);
        }
        before
    }

    /// A member has gone.
    fn count_gone(&self, state: &State) {
        self.metrics.share_member(false);
        if state.members.members().next().is_none() {
            self.metrics.share_group(false);
        }
    }

    /// The group is fed from this log from now on. Returns what wakes the task that does it; `None` when one does.
    pub(super) fn begin_feed(&self, log: u16) -> Option<Arc<Notify>> {
        let mut state = self.state.lock();
        if state.feeds.iter().any(|feed| feed.log == log) {
            return None;
        }
        let wake = Arc::new(Notify::new());
        for member in state.members.members() {
            member.inbox.join_share(&wake);
        }
        state.feeds.push(Feed { log, wake: Arc::clone(&wake), answers: Vec::new() });
        Some(wake)
    }

    /// Ends the feed of a log when nobody here needs it: no member, and nothing given. Or when the log is gone. Returns what
    /// is to be said still.
    pub(super) fn end_feed(&self, log: &LogHandle) -> Option<Vec<Answer>> {
        let mut state = self.state.lock();
        if !state.members.is_idle() && !log.is_gone() {
            return None;
        }
        let ended: Vec<Feed> = state.feeds.extract_if(.., |feed| feed.log == log.number).collect();
        for feed in &ended {
            for member in state.members.members() {
                member.inbox.leave_share(&feed.wake);
            }
        }
        Some(ended.into_iter().flat_map(|feed| feed.answers).collect())
    }

    /// Whether it has members here.
    pub(super) fn has_members(&self) -> bool {
        self.state.lock().members.members().next().is_some()
    }

    /// Whether the group is fed, from any log.
    pub(super) fn is_fed(&self) -> bool {
        !self.state.lock().feeds.is_empty()
    }

    /// Whether there is neither a member nor a feed.
    pub(super) fn is_over(&self) -> bool {
        let state = self.state.lock();
        state.members.is_idle() && state.feeds.is_empty()
    }

    /// A member gets nothing new. What it was sent it may acknowledge still [MQTT-3.10.4-3].
    pub(super) fn withdraw(&self, id: SessionId) -> Option<Member> {
        let mut state = self.state.lock();
        let member = state.members.withdraw(id)?;
        self.count_gone(&state);
        for feed in &state.feeds {
            member.inbox.leave_share(&feed.wake);
            feed.wake.notify_one();
        }
        Some(member)
    }

    /// A member's connection is over: what it has not acknowledged goes to others, at once.
    pub(super) fn leave(&self, id: SessionId) -> Option<Member> {
        let mut state = self.state.lock();
        let Left { member, back, kept } = state.members.leave(id);
        if member.is_some() {
            self.count_gone(&state);
        }
        self.metrics.shared(ShareEvent::Left, back.len() as u64);
        for (position, ack) in back {
            state.answer(position, ack, ShareAnswer::Nak);
        }
        for (position, ack) in kept {
            state.answer(position, ack, ShareAnswer::Ack);
        }
        for feed in &state.feeds {
            feed.wake.notify_one();
        }
        member
    }

    /// How many messages the members take now, of this group's share of their windows.
    pub(super) fn room(&self) -> usize {
        let state = self.state.lock();
        let rooms = state.members.members().map(|member| match member.options.qos {
            QoS::AtMostOnce if member.inbox.is_qos0_full() => 0,
            QoS::AtMostOnce => ROOM_QOS0,
            QoS::AtLeastOnce | QoS::ExactlyOnce => member.inbox.share_room(),
        });
        rooms.sum()
    }

    /// Takes what is to be said.
    pub(super) fn take_answers(&self, log: u16) -> Vec<Answer> {
        let mut state = self.state.lock();
        let feed = state.feeds.iter_mut().find(|feed| feed.log == log);
        feed.map(|feed| std::mem::take(&mut feed.answers)).unwrap_or_default()
    }

    /// Says of what members have had for `age` that they have it still.
    pub(super) fn keep(&self, age: Duration) {
        let mut state = self.state.lock();
        for (position, ack) in state.members.due(uptime(), age) {
            state.answer(position, ack, ShareAnswer::InProgress);
        }
    }

    /// Takes out what a session may have already, and no member here has: messages at QoS 2 that come again.
    pub(super) fn doubtful(&self, log: &LogHandle, entries: &mut Vec<ShareEntry>) -> Vec<ShareEntry> {
        let state = self.state.lock();
        let is_doubtful = |entry: &mut ShareEntry| {
            entry.is_again
                && !state.members.has(log.position(Sequence(entry.entry.sequence)).by_share())
                && self.router.message_of(log, &entry.entry).is_some_and(|m| m.qos == QoS::ExactlyOnce)
        };
        entries.extract_if(.., is_doubtful).collect()
    }

    /// Says of a message that no member was given what becomes of it.
    pub(super) fn say(&self, log: &LogHandle, entry: &ShareEntry, answer: ShareAnswer) {
        self.state.lock().answer(log.position(Sequence(entry.entry.sequence)), entry.ack.clone(), answer);
    }

    /// Gives messages of a log to members.
    pub(super) fn give(self: &Arc<Self>, log: &LogHandle, entries: &mut Vec<ShareEntry>) {
        let mut wakes = Wakes::default();
        let now = self.router.clock().earliest();
        let mut state = self.state.lock();
        for ShareEntry { entry, ack, is_again } in entries.drain(..) {
            let place = log.position(Sequence(entry.sequence)).by_share();
            if state.members.renew(place, &ack, uptime()) {
                continue;
            }
            let message = self.router.message_of(log, &entry).filter(|message| self.is_for(message));
            let Some(message) = message else {
                state.answer(place, ack, ShareAnswer::Ack);
                continue;
            };
            if message.expiry(now).is_err() {
                self.metrics.dropped(DropReason::Expired, 1);
                state.answer(place, ack, ShareAnswer::Ack);
                continue;
            }
            match self.offer(&mut state, place, &ack, Arc::new(message), now, &mut wakes) {
                Offered::Given(answer) => {
                    self.metrics.shared(ShareEvent::Given, 1);
                    self.metrics.shared(ShareEvent::Redelivered, u64::from(is_again));
                    if let Some(answer) = answer {
                        state.answer(place, ack, answer);
                    }
                }
                Offered::NotTaken(answer) => {
                    self.metrics.shared(ShareEvent::NoRoom, u64::from(answer == ShareAnswer::Nak));
                    state.answer(place, ack, answer);
                }
            }
        }
    }

    /// A wildcard at the first level does not see what begins with `$` [MQTT-4.7.2-1], and no closed trees.
    fn is_for(&self, message: &Message) -> bool {
        let filter = &self.key.1;
        let begins_wild = filter.as_str().starts_with(['+', '#']);
        let is_hidden = begins_wild && self.router.closed().hides_topic_from_wildcard(&message.topic);
        !is_hidden && filter.matches(&message.topic)
    }

    /// Gives a message to the next member that takes it.
    fn offer(
        self: &Arc<Self>,
        state: &mut State,
        place: Position,
        ack: &ByteString,
        message: Arc<Message>,
        now: ServerTime,
        wakes: &mut Wakes,
    ) -> Offered {
        let (mut is_qos0, mut too_large, mut denied, mut full) = (false, false, false, false);
        let facts = MessageFacts::of(&message);
        let taken = state.members.pass(|member| {
            let taken = match member.grant(&facts, &self.key) {
                None => Taken::Denied,
                Some(grant) => {
                    is_qos0 = grant.qos == QoS::AtMostOnce;
                    let share = || Share::new(Arc::clone(self) as Arc<dyn Giver>, place);
                    if is_qos0 {
                        member.offer_qos0(&message, &grant, now, wakes)
                    } else {
                        member.offer_stored(&message, grant, share, wakes)
                    }
                }
            };
            too_large |= matches!(taken, Taken::TooLarge);
            denied |= matches!(taken, Taken::Denied);
            full |= matches!(taken, Taken::Full);
            matches!(taken, Taken::Yes)
        });
        match taken {
            // Nobody acknowledges what is sent at QoS 0.
            Some(_) if is_qos0 => Offered::Given(Some(ShareAnswer::Ack)),
            Some(id) => {
                state.members.note(place, id, ack.clone(), uptime());
                Offered::Given(None)
            }
            // None of the members can take it, so it counts as sent [MQTT-3.1.2-25].
            None if (too_large || denied) && !full => {
                self.metrics.dropped(if too_large { DropReason::TooLarge } else { DropReason::NotAuthorized }, 1);
                Offered::NotTaken(ShareAnswer::Ack)
            }
            // It would come back at once, to the members that cannot take it.
            None if too_large || denied => Offered::NotTaken(ShareAnswer::NakDelay),
            None => Offered::NotTaken(ShareAnswer::Nak),
        }
    }

    /// Gives a message of core NATS to a member. One that a log has, or will have, comes by the consumer, when the group has
    /// one.
    pub(super) fn give_core(&self, core: &CoreMessage, wakes: &mut Wakes) {
        if self.router.closed().is_closed_subject(&core.subject) {
            return;
        }
        let mut state = self.state.lock();
        if !state.feeds.is_empty() && (convert::is_stored_copy(core) || !self.router.is_on_core_only(core)) {
            return;
        }
        let now = self.router.clock().earliest();
        let message = self.router.message_of_core(core).filter(|message| self.is_for(message));
        let Some(message) = message else { return };
        let (facts, mut reason) = (MessageFacts::of(&message), DropReason::SlowReader);
        let taken = state.members.pass(|member| {
            let Some(grant) = member.grant(&facts, &self.key) else {
                reason = DropReason::NotAuthorized;
                return false;
            };
            !matches!(member.offer_qos0(&message, &grant, now, wakes), Taken::Full)
        });
        match taken {
            Some(_) => self.metrics.shared(ShareEvent::Given, 1),
            None => self.metrics.dropped(reason, 1),
        }
    }
}

impl Member {
    /// What it gets of a message, if anything.
    fn grant(&self, message: &MessageFacts<'_>, (name, filter): &GroupKey) -> Option<Grant> {
        let permits = self.inbox.rights.in_group(name);
        let leads = permits.leads(filter);
        grant(&Terms { leads, ..Terms::new(self.options, self.subscription_id) }, message, &permits)
    }

    fn offer_qos0(&self, message: &Message, grant: &Grant, now: ServerTime, wakes: &mut Wakes) -> Taken {
        if self.inbox.offer_qos0(message, grant, now, wakes) { Taken::Yes } else { Taken::Full }
    }

    fn offer_stored(
        &self,
        message: &Arc<Message>,
        grant: Grant,
        share: impl FnOnce() -> Share,
        wakes: &mut Wakes,
    ) -> Taken {
        let frame = self.inbox.frame(message, true);
        let size = frame.map_or(usize::MAX, |frame| frame.len_with_subscription_ids(grant.ids.as_slice()));
        if size > self.inbox.client_max_packet_size as usize {
            return Taken::TooLarge;
        }
        let share = share();
        let is_taken = self.inbox.offer_shared(share.position(), wakes, || Outgoing {
            message: Arc::clone(message),
            grant,
            others: Box::default(),
            share: Some(share),
        });
        if is_taken { Taken::Yes } else { Taken::Full }
    }
}
