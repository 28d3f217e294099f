//! One account's sessions on this sidecar.
//!
//! # Layout
//!
//! - [`Account`]: attach, subscribe, unsubscribe, detach; `life`: opened, drained, closed; `duties`: what a drain waits for;
//!   `starting`: how its parts are put together
//! - `delivery`: from a stored or core message to the sessions that get it
//! - `publish`: from a connection to JetStream and core NATS
//! - `ownership`: the driver of the machines that decide who owns a session, and sessions in JetStream
//! - `shared`: shared subscriptions; `requests`: request and reply between MQTT and NATS
//! - `interop`: what NATS clients do that concerns sessions
//! - `sys`: `$SYS/broker/…`; `events`: who comes and goes, for NATS
//! - `membership`: our lease among the sidecars; `election`, `lead`: what one sidecar does for all; `registry`: who is connected; `rivals`: devices with one client id; `control`: what is ordered of a connection
//! - `publishers`: who is asked what users may do that are away
//! - `redirect`: where clients are told to go that are let go
//! - `quotas`: how much a client may have; `census`: how many sessions there are; `vitals`: how all of this is, for metrics
//!
//! The parts do not know the [`Account`]: it knows them, and so do the files that make something of several parts together.
//!
//! Deliberately absent: packets and the socket (`connection`), the state machine of a session (crate `mqtt-session`),
//! and how JetStream is spoken to (`store`).

mod census;
mod clock;
mod control;
mod delivery;
mod duties;
mod election;
mod events;
mod interop;
mod lead;
mod life;
mod membership;
mod ownership;
#[cfg(test)]
pub(in crate::account) mod played;
mod publish;
mod publishers;
mod quotas;
pub(crate) mod redirect;
mod registry;
mod requests;
mod rights;
mod rivals;
mod session_id;
mod session_user;
mod shared;
mod starting;
mod sys;
mod vitals;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytestring::ByteString;
use mqtt_access::User;
use mqtt_codec::TopicName;
use mqtt_session::{Cursors, FeedState, Limits, Position, Resend, Sequence};
use proto_map::{Names, Subject};

pub(crate) use control::{Control, Order, Taken};
pub(crate) use delivery::backlog::message_of_backlog;
pub(crate) use delivery::grant;
pub use delivery::inbox::InboxLimits;
pub(crate) use delivery::inbox::{Inbox, LogRestart, Mail, Outgoing, Wakes};
pub(crate) use delivery::message::Message;
use delivery::retained::Visible;
pub(crate) use delivery::retained::{RetainedCursor, RetainedNumber};
pub(crate) use delivery::segments::Segments;
pub(crate) use delivery::subscribing::{RecordRoom, Subscribed};
use events::Events;
pub(crate) use events::{
    Connect as EventConnect, Disconnect as EventDisconnect, Event, Overload as EventOverload,
    Subscription as EventSubscription,
};
pub use life::AccountSpec;
pub(crate) use membership::Membership;
pub(crate) use ownership::dividing;
pub(crate) use ownership::lifecycle::Attached;
pub(crate) use ownership::owned_session::{Claims, OwnedSession};
pub(crate) use ownership::records::{progress_record, protocol};
pub(crate) use ownership::{LeaveEnd, PeerSocket, Refusal, SessionError, SessionWritten, Told};
pub(crate) use publish::completions::PublishOutcome;
pub(crate) use publish::size_refusals::TooLarge;
pub(crate) use publish::{Done, Publishing, Refused};
pub use publishers::Publishers;
pub(crate) use publishers::{KnowsUsers, Looking};
pub use quotas::Quotas;
pub use redirect::Redirect;
pub(crate) use registry::Remote;
pub use requests::RequestOptions;
pub(crate) use rights::Rights;
pub use rights::RightsOptions;
pub(crate) use session_id::SessionId;
pub(crate) use shared::Share;
pub(crate) use starting::CoreInlet;

use tokio::sync::{Semaphore, watch};

use crate::metrics::{AccountMetrics, DropReason};
use crate::store::{Following, LogEntry, ShareTimes, Store, Tail};
use census::Census;
use delivery::core_subscriptions::CoreSubscriptions;
use delivery::logs::{Follower, Logs};
use delivery::router::Router;
use duties::Duties;
use interop::ingest::Ingest;
use ownership::OrphanedConnects;
use ownership::our_lease::OurLease;
use ownership::remains::Remains;
use ownership::turns::Turns;
use ownership::unrecorded::Unrecorded;
use ownership::will_room::WillRoom;
use publish::retained_writer::RetainedWriter;
use publish::size_refusals::SizeRefusals;
use quotas::Refusals;
use registry::Registry;
use requests::Requests;
use shared::Shares;
use sys::Sys;

/// How long a newcomer waits for the connection that has its client id to end.
const TAKEOVER_PATIENCE: Duration = Duration::from_secs(5);

/// How long to wait before JetStream is asked again.
const RETRY: Duration = Duration::from_millis(500);

/// What a client of MQTT 3.x, which cannot be told, gets for a publish that is denied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeniedPublish {
    /// An acknowledgement; the message is dropped.
    Drop,
    /// A closed connection.
    Disconnect,
}

/// How the account treats its clients.
#[derive(Clone, Debug)]
pub struct AccountOptions {
    /// What clients are offered.
    pub limits: Limits,
    /// Limits of what waits for one client.
    pub inbox: InboxLimits,
    /// How much clients may have.
    pub quotas: Quotas,
    /// Levels that a topic may have.
    pub max_topic_levels: u16,
    /// How rights are judged.
    pub rights: RightsOptions,
    /// Who knows what users may do that are not connected.
    pub publishers: Publishers,
    /// Where clients are told to go that are let go.
    pub redirect: Arc<Redirect>,
    /// See [`DeniedPublish`].
    pub denied_publish: DeniedPublish,
    /// A message that several subscriptions of a client take is sent once for each of them.
    pub copies_overlapping: bool,
    /// Every message says which client published it.
    pub client_id_header: bool,
    /// When a message of a shared subscription goes to another member, and when a group ends.
    pub share_times: ShareTimes,
    /// Whether NATS is told who comes and goes.
    pub tells_events: bool,
    /// `Nats-*` headers become user properties.
    pub nats_headers: bool,
    /// See [`RequestOptions`].
    pub requests: RequestOptions,
    /// Streams of others that are not attached, by name; `None` when none is attached.
    pub ignored_streams: Option<Vec<String>>,
    /// Messages that NATS clients publish, and that no stream captures, are copied into the log for subscriptions above
    /// QoS 0.
    pub ingests: bool,
}

/// One account, on this sidecar.
pub struct Account {
    pub(crate) options: AccountOptions,
    pub(crate) store: Store,
    pub(crate) metrics: Arc<AccountMetrics>,
    pub(crate) logs: Arc<Logs>,
    /// Names of what we keep in NATS.
    pub(crate) names: Names,
    /// Names this process in message ids of sessions that end with their connection.
    pub(crate) process: String,
    lease: OurLease,
    membership: Arc<Membership>,
    has_lease: watch::Sender<bool>,
    is_closing: watch::Sender<bool>,
    is_leaving: watch::Sender<bool>,
    is_retiring: AtomicBool,
    duties: Duties,
    router: Arc<Router>,
    sys: Sys,
    /// Tells NATS who comes and goes.
    pub(crate) events: Events,
    requests: Arc<Requests>,
    retained_writer: Arc<RetainedWriter>,
    follower: Arc<Follower>,
    pub(crate) ingest: Option<Arc<Ingest>>,
    interest: CoreSubscriptions,
    shares: Arc<Shares>,
    registry: Arc<Registry>,
    orphans: OrphanedConnects,
    size_refusals: SizeRefusals,
    census: Arc<Census>,
    /// Says that limits were met.
    pub(crate) refusals: Refusals,
    /// Room for sessions that are put in order.
    ordering: Arc<Semaphore>,
    /// Whose session is opened or left.
    turns: Arc<Turns>,
    will_room: WillRoom,
    /// What is done with beside the records of sessions.
    remains: Remains,
    next_session: AtomicU64,
    /// Sessions of an account without JetStream.
    unrecorded: Unrecorded,
    /// Neither is there without JetStream.
    _tail: Option<Tail>,
    records: Option<Following>,
}

impl Account {
    /// Where its messages are stored.
    #[must_use]
    pub const fn store(&self) -> &Store {
        &self.store
    }

    /// The name of one more session.
    pub(crate) fn next_session_id(&self) -> SessionId {
        SessionId(self.next_session.fetch_add(1, Ordering::Relaxed))
    }

    /// The node that our sessions have as their owner; `None` while we hold no lease, and nobody new can be ours.
    pub(crate) fn node(&self) -> Option<Arc<str>> {
        self.lease.node()
    }

    /// Whether devices have nothing to do with a topic, as it is configured.
    pub(crate) fn is_closed(&self, topic: &TopicName) -> bool {
        self.router.closed().is_closed_topic(topic)
    }

    /// A client id as a part of subjects. `None` when it is too long for one.
    pub(crate) fn client_key(&self, client_id: &ByteString) -> Option<ByteString> {
        self.names.client_key(client_id).ok()
    }

    /// How far a session has read in the logs in which it is live and has nothing queued.
    pub(crate) fn read_up_to(&self, inbox: &Inbox) -> Cursors {
        let is_through =
            |feed: &mut mqtt_session::Feed<_>| feed.is_empty() && matches!(feed.state(), FeedState::Live { .. });
        let read = |number| {
            let log = self.logs.get(number)?;
            let tail = log.hold();
            inbox.with_feed(number, is_through).then(|| log.position(tail.sequence()))
        };
        inbox.reads().into_iter().filter_map(read).collect()
    }

    /// A session is behind in a log from this place on: has it brought up.
    pub(crate) fn catch_up(&self, place: Position, inbox: &Arc<Inbox>) {
        match self.logs.get(place.log()) {
            Some(log) if !log.is_gone() => log.catch_up.ask(inbox),
            _ => inbox.forget_log(place.log()),
        }
    }

    /// Whether a publish at QoS 0 has to say that it is one, so that it is not taken for a message of NATS.
    pub(crate) fn says_qos(&self, topic: &TopicName, subject: &Subject) -> bool {
        self.logs.is_captured(subject.as_str())
            || self.ingest.as_ref().is_some_and(|ingest| ingest.wants.matches(topic))
    }

    /// Whether a session has a subscription that matches: one that is connected here, or one above QoS 0, wherever it is.
    pub(crate) fn has_subscriber(&self, topic: &TopicName) -> bool {
        self.router.has_subscriber(topic) || self.ingest.as_ref().is_some_and(|ingest| ingest.wants.matches(topic))
    }

    /// Something of a client was refused for its size: whoever runs this is told.
    pub(crate) fn tell_size_refusal(&self, client_id: &ByteString, what: TooLarge) {
        self.metrics.over_limit(what.limit());
        let packet_max = self.options.limits.max_packet_size.get() as usize;
        self.size_refusals.tell(client_id, what, packet_max, self.store.server_max_payload());
    }

    /// Where the log that is always there stands, or a little before.
    pub(crate) fn tail_sequence(&self) -> Sequence {
        self.logs.main().tail_sequence()
    }

    /// Fetches the messages that a session repeats. Those that are gone come without.
    pub(crate) async fn fetch_resends(
        &self,
        client_id: &str,
        resends: Vec<Resend>,
    ) -> Vec<(Resend, Option<Arc<Message>>)> {
        let mut places: Vec<Position> = resends
            .iter()
            .filter_map(|resend| match resend {
                Resend::Publish(_, _, place) if !place.is_retained() => Some(*place),
                Resend::Publish(..) | Resend::PubRel(_) => None,
            })
            .collect();
        places.sort_unstable_by_key(|place| (place.log(), *place));
        let mut found: HashMap<Position, Arc<Message>> = HashMap::new();
        for in_log in places.chunk_by(|a, b| a.log() == b.log()) {
            self.fetch_from_log(client_id, in_log, &mut found).await;
        }
        let retained: Vec<Sequence> = resends.iter().filter_map(Resend::retained).collect();
        let retained = self.find_retained(&retained).await;
        found.extend(retained.into_iter().map(|(sequence, message)| (Position::of_retained(sequence), message)));
        let with_message = |resend: Resend| match resend {
            Resend::Publish(_, _, place) => (resend, found.get(&place).cloned()),
            Resend::PubRel(_) => (resend, None),
        };
        resends.into_iter().map(with_message).collect()
    }

    /// Fetches messages of one log, at these places, from the log or, where it has lost them, from the session's backlog.
    async fn fetch_from_log(&self, client_id: &str, places: &[Position], found: &mut HashMap<Position, Arc<Message>>) {
        let Some(log) = places.first().and_then(|place| self.logs.get(place.log())) else { return };
        let sequences: Vec<u64> = places.iter().map(|place| place.sequence().0).collect();
        let mut entries = loop {
            match log.log.get_many(&sequences).await {
                Ok(entries) => break entries,
                Err(_) if log.is_gone() => return,
                Err(error) => tracing::warn!(%error, "messages in flight cannot be read yet"),
            }
            tokio::time::sleep(RETRY).await;
        };
        if entries.len() < sequences.len() && log.number == 0 {
            let has = |sequence: &u64| entries.iter().any(|entry| entry.sequence == *sequence);
            let missing = sequences.iter().copied().filter(|sequence| !has(sequence)).map(Sequence).collect();
            entries.extend(self.find_in_backlog(client_id, missing).await);
        }
        let message = |entry: &LogEntry| {
            let (nats_headers, keys) = (self.options.nats_headers, Some(self.store.keys()));
            let message = publish::convert::from_log(entry, log.carrier(), nats_headers, keys).ok()?;
            Some((entry.sequence, Arc::new(message)))
        };
        let by_sequence: HashMap<u64, Arc<Message>> = entries.iter().filter_map(message).collect();
        let at = |place: &Position| Some((*place, by_sequence.get(&place.sequence().0)?.clone()));
        found.extend(places.iter().filter_map(at));
    }

    /// Tells consumers of shared subscriptions that these messages have an owner, and waits until they know.
    pub(crate) async fn confirm_shared(&self, acks: &[ByteString]) {
        self.shares.confirm(acks).await;
    }

    /// The next retained messages of a cursor, after a look at so many topics at most; returns whether more may follow.
    pub(crate) fn retained_page(
        &self,
        cursor: &mut RetainedCursor,
        rights: &Rights,
        looks: &mut usize,
        out: &mut VecDeque<Outgoing>,
    ) -> bool {
        let closed = Some(self.router.closed()).filter(|_| cursor.leads_with_wildcard());
        let index = if cursor.is_sys { &self.sys.index } else { self.store.retained().index() };
        let now = self.store.clock().earliest();
        cursor.page(index, looks, now, &Visible { rights, closed }, self.options.nats_headers, out)
    }

    /// Whether we hold a lease, so that sessions can be ours.
    pub(crate) fn has_lease(&self) -> watch::Receiver<bool> {
        self.has_lease.subscribe()
    }

    /// The connections of all clients that are here.
    pub(crate) fn clients(&self) -> Vec<Arc<Control>> {
        self.registry.everyone_and_leaving()
    }

    /// Appends how many bytes wait for each client at QoS 0.
    pub(crate) fn qos0_waiting(&self, waiting: &mut Vec<usize>) {
        waiting.extend(self.registry.everyone().iter().map(|control| control.inbox().qos0_waiting()));
    }

    /// Gives up what waits at QoS 0 for those for whom so many bytes do, or more. Returns for how many.
    pub(crate) fn drop_qos0(&self, cut: usize) -> usize {
        let dropped = self.registry.everyone().into_iter().map(|control| control.inbox().drop_qos0(cut));
        let dropped: Vec<u64> = dropped.filter(|packets| *packets > 0).collect();
        self.metrics.dropped(DropReason::SlowReader, dropped.iter().sum());
        dropped.len()
    }

    /// The connection that has a session, also while it has yet to be answered.
    pub(crate) fn client(&self, session_name: &str) -> Option<Arc<Control>> {
        self.registry.find(session_name)
    }

    /// Whether a session is connected here, and by this user.
    pub(crate) fn has_connection_of(&self, user: &User, session_name: &str) -> bool {
        let is_of_user = |control: Arc<Control>| control.inbox().rights.principal().user.owner() == user.owner();
        self.registry.find(session_name).is_some_and(is_of_user)
    }

    /// Connected clients.
    #[must_use]
    pub fn connected(&self) -> usize {
        self.registry.everyone().len()
    }
}
