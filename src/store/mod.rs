//! JetStream and NATS for one account: everything durable, and the QoS 0 path beside it.
//!
//! Three seams are what others may stand in for, and what each promises is said there: [`SessionStore`], [`MessageLog`] and
//! [`Peers`]. `jetstream`: the three over what follows.
//!
//! # Layout
//! - `probe`: a look at an account; `connection`, `credentials`, `options`: six connections and who we are on them; `outage`: when
//!   they are lost
//! - `absent`, `without_jetstream`: an account without JetStream
//! - `specs`, `assets`, `shortage`: the streams that must exist, and what there is no room for
//! - `api`: raw JetStream requests; `ack`: the two replies read for every message
//! - `streams`: which streams there are; `clock`: the server's time
//! - `permissions`: what the NATS user has to be allowed
//! - `publisher`: pipelined puts with one subscription for their acknowledgements
//! - `reader`: the one way in which streams are read; `log` (tail and scan) and `retained` use it; `head`: last sequences;
//!   `horizon`: which answers know as much as we do; `pulse`: whether a reader reads;
//!   `ephemeral`: their consumers; `rooms`: whether streams are there and have room; `growth`: those that are smaller than configured
//! - `bucket`: keys written by compare-and-swap; `sessions` and `nodes` (leases, elections) are made of it
//! - `kv_updates`: what NATS clients put into the bucket of retained messages
//! - `backlog`: copies for sessions that are away for longer than the log reaches back
//! - `share`: the consumers of shared subscriptions
//! - `bans`: who may not connect
//! - `accounts`: which accounts have sessions, and `account_jwts`, which JWTs of them have counted; `home`: which account has the leases of the sidecars
//! - `reply_key`: what tokens of replies are made with; `keys`: what sidecars share and nobody else is to know
//! - `core`: plain NATS
//!
//! The links themselves are `crate::nats`. What a subject, a header or a key means is `proto-map`'s.

mod absent;
mod account_jwts;
mod account_room;
mod accounts;
mod ack;
mod api;
mod api_errors;
mod assets;
mod backlog;
mod bans;
mod bucket;
mod clock;
mod connection;
mod core;
mod credentials;
mod entry;
mod ephemeral;
mod error;
mod found_stream;
mod growth;
mod head;
mod headers;
mod home;
mod horizon;
mod jetstream;
mod keys;
mod kv_updates;
mod log;
mod lone_link;
#[cfg(test)]
pub(crate) mod memory;
mod message_log;
mod needs;
mod nodes;
mod options;
mod outage;
mod peers;
mod permissions;
#[cfg(test)]
pub(crate) mod played;
mod probe;
mod publisher;
mod pulse;
mod reader;
mod reply_key;
mod retained;
mod rooms;
mod session_store;
mod sessions;
mod share;
mod shortage;
mod specs;
mod streams;
mod time;
#[cfg(test)]
mod unconnected;
mod without_jetstream;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use proto_map::{Names, StreamSpec};
use tokio::sync::watch;

use self::absent::{Absent, Elsewhere};
pub use self::account_jwts::{AccountJwt, LastJwt};
pub use self::accounts::{Accounts, Listed};
pub use self::ack::is_same_delivery;
use self::api::Api;
pub use self::api_errors::ApiErrors;
use self::assets::Assets;
pub use self::backlog::{Backlog, BacklogEnd, BacklogPosition, BacklogReader, Lengths, LogInfo};
pub use self::bans::{BanError, BanNews, Bans, BansReader};
use self::bucket::Bucket;
pub use self::clock::{SERVERS_DIFFER_MS, ServerClock};
pub(crate) use self::connection::{Connector, Link, Role};
use self::core::Seals;
pub use self::core::{CoreMessage, CoreNats, CoreSink, Dropped, RequestError, Served};
pub use self::entry::LogEntry;
pub use self::error::{OpenError, PutError, Unavailable, WriteError};
use self::home::Home;
pub use self::home::Leases;
use self::horizon::Horizons;
pub use self::jetstream::{JetStreamLog, NatsPeers};
pub use self::keys::Keys;
pub use self::kv_updates::{ForeignReader, KvUpdate, KvUpdates};
pub use self::log::{Log, LogPosition, LogSink, Scan, Tail};
pub(crate) use self::lone_link::LoneLink;
pub use self::message_log::MessageLog;
use self::needs::Needs;
pub use self::nodes::{
    Alive, Candidacy, Lease, LeaseState, LeaseTimes, LeaseView, NodeInfo, Nodes, NodesFollower, NodesSink, Occupancy,
};
pub use self::options::{
    AssetOptions, CoreLimits, Credentials, Identity, IdentityAnswer, NatsOptions, PublisherLimits, StoreOptions,
    TlsOptions,
};
pub use self::outage::Outage;
pub use self::peers::Peers;
pub use self::probe::{Probed, probe};
pub use self::publisher::{Permit, Publisher, Put, PutGuard, PutTarget, Stored, StoredSink};
pub use self::reply_key::ReplyKeys;
pub use self::retained::{IndexState, Retained, RetainedEntry, RetainedIndex, RetainedMessage, RetainedSearch};
use self::rooms::Rooms;
pub use self::rooms::StreamRoom;
pub use self::session_store::SessionStore;
pub use self::sessions::{
    Arrival, Beside, FollowFrom, Following, Gone, InFlightRecord, InFlightRecordState, LastWill, Loaded, NEVER,
    PAGES_MAX, PageRecord, ProgressRecord, RECORD_VERSION, ReceivedRecord, Rest, RetainedProgress, SequencesInLogs,
    SessionRecord, SessionState, Sessions, SessionsScan, SessionsSink, StoredBefore, StoredPublisher, StoredRetained,
    StoredSubscription, StoredWill, WillNumber, WillState,
};
pub use self::share::{
    Heard, ListedShare, NoConsumer, ShareAnswer, ShareBegins, ShareConsumer, ShareEntry, ShareLog, SharePull,
    ShareSpec, ShareTimes, Shares,
};
use self::specs::Specs;
pub(crate) use self::time::rfc3339;
use crate::nats::Outbound;
pub use crate::nats::{LinkCounts, SkipReason};
use crate::tasks::{EndOnDrop, Tasks};

pub use self::found_stream::FoundStream;
pub use self::streams::Streams;

/// Commands between us and a socket that carries no flood of them.
const QUEUE: usize = 4_096;
/// Messages of one reader between the socket and us: several pulls, so that none is ever dropped.
const READER_QUEUE: usize = 16_384;

/// How long the server may take to hear them, and JetStream to answer.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Makes logs of streams.
#[derive(Clone)]
struct LogMaker {
    api: Api,
    tail: Link,
    payload_max: usize,
}

/// What the parts of a store may take.
struct Limits {
    publisher: PublisherLimits,
    /// See [`CoreLimits::subscription_queued_max`].
    core_queued: usize,
    connect_timeout: Option<Duration>,
}

/// An account that was looked at: what all of them have.
struct Found {
    connector: Connector,
    core_link: Link,
    api: Api,
    names: Names,
    specs: Specs,
    limits: Limits,
    ends: EndOnDrop,
}

/// NATS and JetStream of one account.
pub struct Store {
    core_link: Link,
    publisher: Publisher,
    log: Log,
    logs: LogMaker,
    streams: Streams,
    retained: Retained,
    sessions: Sessions,
    backlog: Backlog,
    home: Home,
    peers: NatsPeers,
    kv_updates: KvUpdates,
    reply_keys: ReplyKeys,
    keys: Keys,
    core: CoreNats,
    shares: Shares,
    /// Those that go on for as long as this does.
    links: Box<[Link]>,
    connected: watch::Receiver<bool>,
    tasks: Tasks,
    /// The connections.
    link_tasks: Tasks,
    /// In an account without JetStream: looks whether it has some by now.
    absent: Option<Absent>,
    _ends: EndOnDrop,
}

impl Store {
    /// Connects, checks that everything we need is allowed and there, creates what is missing. Messages of core
    /// subscriptions will go to `core_sink`.
    ///
    /// # Errors
    /// See [`OpenError`]; without `connect_timeout` it waits for a server for ever.
    pub async fn open(options: StoreOptions, core_sink: Arc<dyn CoreSink>) -> Result<Self, OpenError> {
        Box::pin(Self::open_with(options, Leases::Here, core_sink)).await
    }

    /// The same of an account whose sidecars may have their leases elsewhere, or that has those of others.
    ///
    /// # Errors
    /// See [`Self::open`].
    pub async fn open_with(
        options: StoreOptions,
        leases: Leases,
        core_sink: Arc<dyn CoreSink>,
    ) -> Result<Self, OpenError> {
        let StoreOptions { nats, assets, publisher, core, connect_timeout } = options;
        let AssetOptions { names, specs, declared, replicas } = assets;
        let connector = Connector::new(nats, names.inbox_prefix())?;
        let ends = EndOnDrop(connector.tasks.clone());
        let core_role = role("core", true, core.queued_max, core.subscription_queued_max);
        let core_link = connector.link(core_role, connect_timeout).await?;
        let (horizons, rooms) = (Horizons::default(), Rooms::new(streams_of(&names, &declared, &leases)));
        let link = connector.link(role("api", false, QUEUE, READER_QUEUE), connect_timeout).await?;
        let api = Api { link, horizons, rooms, is_absent: false };
        let specs = Specs::new(&names, &specs);
        let needed = specs.needed(&leases).map(|spec| (spec, None));
        let all = needed.chain(declared.iter().map(|(spec, own)| (spec, *own)));
        let needs = Needs::new(&names, connector.inbox_prefix(), leases.buckets(&names));
        let prepared = prepare(&api, needs.clone(), replicas, all).await;
        let limits = Limits { publisher, core_queued: core.subscription_queued_max, connect_timeout };
        let found = Found { connector, core_link, api, names, specs, limits, ends };
        match (prepared, Elsewhere::of(&leases)) {
            (Err(error), Some(elsewhere)) if error.says_no_jetstream() => {
                elsewhere.confirm(&found.api).await?;
                Box::pin(Self::without_jetstream(found, elsewhere, needs, core_sink)).await
            }
            (prepared, _) => Box::pin(Self::with_jetstream(found, prepared?, leases, core_sink)).await,
        }
    }

    /// What there is in an account whose streams are there.
    async fn with_jetstream(
        found: Found,
        assets: Assets,
        leases: Leases,
        core_sink: Arc<dyn CoreSink>,
    ) -> Result<Self, OpenError> {
        let Found { connector, core_link, api, names, specs, limits, ends: _ends } = found;
        let Limits { publisher, core_queued, connect_timeout } = limits;
        let (tasks, link_tasks) = (connector.tasks.clone(), connector.links.clone());
        let (horizons, rooms) = (api.horizons.clone(), api.rooms.clone());
        let link = async |name| connector.link(role(name, false, QUEUE, READER_QUEUE), connect_timeout).await;
        let tail = link("tail").await?;
        let state = Api { link: link("state").await?, ..api.clone() };

        let payload_max = core_link.client.max_payload();
        let connector_of_shares = connector.clone();
        let root = |subjects: String| subjects.trim_end_matches('>').to_owned();
        let publisher =
            Publisher::start(connector, &names, publisher, (horizons, rooms), is_replicated(&api, &names).await);
        let ours = Some((assets.clone(), specs.log));
        let log =
            Log::new(api.clone(), tail.clone(), &names.log_stream(), &root(names.log_subjects()), payload_max, ours);
        // Reading retained messages again is a burst; it goes where it does not hold up the tail.
        let retained =
            Retained::start(api.clone(), api.link.clone(), names.clone(), assets.clone(), specs.retained, payload_max);
        let retained_prefix = root(names.retained_subjects());
        // Nobody tails it, and it is made again by `retained`.
        let puts = Log::new(api.clone(), tail.clone(), &names.retained_stream(), &retained_prefix, payload_max, None);
        let bucket = |spec| Bucket::new(state.clone(), assets.clone(), spec);
        let sessions_bucket = bucket(specs.sessions);
        let (of_sessions, of_api, of_names) = (sessions_bucket.clone(), api.clone(), names.clone());
        let backlog = Backlog::new(of_sessions, of_api, of_names, payload_max, assets.clone(), specs.backlog);
        let kv_updates = KvUpdates::new(sessions_bucket.clone(), puts, names.clone());
        let sessions = Sessions::new(sessions_bucket.clone(), api.clone(), names.clone(), payload_max);
        let keys_bucket = bucket(specs.keys);
        let bans_are_here = leases.are_here();
        let mut home =
            Home::find(leases, &keys_bucket, bucket(specs.nodes), bucket(specs.accounts), &api, &names).await?;
        home.bans = bans_are_here.then(|| {
            let (of_bans, spec) = (bucket(specs.bans.clone()), specs.bans);
            Bans::new(of_bans, api.clone(), names.clone(), assets.clone(), spec)
        });
        let reply_keys = ReplyKeys::new(keys_bucket.clone(), sessions_bucket.clone(), &names);
        let keys = Keys::open(keys_bucket, names.account_keys()).await?;
        let echo = serve_echo(&api.link, &names).await?;
        let seals = Seals::new(keys.clone(), home.nodes.clone());
        let core = CoreNats::start(core_link.clone(), state.link.clone(), seals.clone(), &echo, core_sink);
        // Queue subscriptions have to hear what our own clients publish.
        let share = connector_of_shares.link(role("share", false, QUEUE, core_queued), connect_timeout).await?;
        let links = Box::new([&core_link, &api.link, &tail, &state.link, &share].map(Link::clone));
        let shares = Shares::new(api.clone(), share, state.link.clone(), seals, &echo);
        Ok(Self {
            connected: connected(&core_link),
            core_link,
            publisher,
            log,
            logs: LogMaker { api, tail, payload_max },
            streams: Streams::start(state),
            retained,
            sessions,
            backlog,
            peers: NatsPeers::new(&home.nodes, &core, names),
            home,
            kv_updates,
            reply_keys,
            keys,
            core,
            shares,
            links,
            tasks,
            link_tasks,
            absent: None,
            _ends,
        })
    }

    /// Whether the account has JetStream. Without it nothing is asked of it, and there is nothing but core NATS.
    pub const fn has_jetstream(&self) -> bool {
        self.absent.is_none()
    }

    /// Waits until an account without JetStream has it; for ever in one that has it.
    pub(crate) async fn jetstream_comes(&self) {
        match &self.absent {
            Some(absent) => absent.ends().await,
            None => std::future::pending().await,
        }
    }

    /// Ends everything that this has begun, and its connections: when it returns, no task of it runs, no connection of it is
    /// open, and the consumers of its readers are given up. What is under way is cut, so it is waited for before. Once more is
    /// nothing.
    pub async fn close(&self) {
        self.tasks.close().await;
        // The server has heard what they said last, and JetStream has given up the consumers of the readers.
        let flushed = join_all(self.links.iter().map(|link| link.client.flush()));
        let last_words = &self.core_link.last_words;
        let _ = tokio::time::timeout(LAST_WORDS, async { tokio::join!(flushed, last_words.idle()) }).await;
        last_words.close().await;
        self.link_tasks.close().await;
    }

    /// Where everything runs that goes on for as long as this does.
    pub(crate) const fn tasks(&self) -> &Tasks {
        &self.tasks
    }

    /// The account's public NKey, or the name that the server's configuration has for it, where sidecars have their leases for other
    /// accounts; `None` when we may not ask.
    pub fn account_name(&self) -> Option<&str> {
        self.home.account_name.as_deref()
    }

    /// The accounts that have sessions, where sidecars have their leases for other accounts.
    pub fn accounts(&self) -> Option<&Accounts> {
        self.home.accounts.as_ref()
    }

    /// Who may not connect, where sidecars have their leases. Its bucket need not be there.
    pub fn bans(&self) -> Option<&Bans> {
        self.home.bans.as_ref()
    }

    /// Errors that JetStream has answered.
    pub fn api_errors(&self) -> &ApiErrors {
        &self.core_link.errors
    }

    /// The server's time.
    pub fn clock(&self) -> &ServerClock {
        &self.core_link.clock
    }

    /// What became of messages that nobody saw.
    pub fn link_counts(&self) -> &LinkCounts {
        self.core_link.client.counts()
    }

    /// Stores messages.
    pub fn publisher(&self) -> &Publisher {
        &self.publisher
    }

    /// The log.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// Another stream as a log. `prefix`: what its subjects have before the natural subject.
    pub fn log_of(&self, stream: &str, prefix: &str) -> Log {
        let LogMaker { api, tail, payload_max, .. } = &self.logs;
        Log::new(api.clone(), tail.clone(), stream, prefix, *payload_max, None)
    }

    /// The streams of the account.
    pub fn streams(&self) -> &Streams {
        &self.streams
    }

    /// Retained messages.
    pub fn retained(&self) -> &Retained {
        &self.retained
    }

    /// Persistent sessions.
    pub fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    /// What sessions are owed that the log is about to lose, or has lost.
    pub fn backlog(&self) -> &Backlog {
        &self.backlog
    }

    /// Leases of sidecars, and elections among them.
    pub fn nodes(&self) -> &Nodes {
        &self.home.nodes
    }

    /// The other sidecars.
    pub fn peers(&self) -> &NatsPeers {
        &self.peers
    }

    /// The log, with who puts messages into it.
    pub fn message_log(&self) -> JetStreamLog {
        JetStreamLog::new(&self.log, &self.publisher)
    }

    /// The consumers of shared subscriptions.
    pub fn shares(&self) -> &Shares {
        &self.shares
    }

    /// What NATS clients put into the bucket of retained messages.
    pub fn kv_updates(&self) -> &KvUpdates {
        &self.kv_updates
    }

    /// The key of tokens of replies.
    pub fn reply_keys(&self) -> &ReplyKeys {
        &self.reply_keys
    }

    /// The keys of the account.
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// Plain NATS.
    pub fn core(&self) -> &CoreNats {
        &self.core
    }

    /// Largest message that the server takes, headers included, in bytes.
    pub fn server_max_payload(&self) -> usize {
        self.core_link.client.max_payload()
    }

    /// The connections that are lost now, by their names.
    pub fn lost_links(&self) -> Vec<String> {
        let lost = self.links.iter().filter(|link| !link.state.borrow().connected);
        let is_lost = self.has_jetstream() && !self.publisher.is_connected();
        let publisher = is_lost.then(|| "publish".to_owned());
        lost.map(|link| link.client.name().to_owned()).chain(publisher).collect()
    }

    /// The streams that are ours and that JetStream did not list when it was asked last.
    pub fn missing_streams(&self) -> Vec<Arc<str>> {
        self.logs.api.rooms.missing()
    }

    /// How the streams are that are ours or that were written into.
    pub fn stream_rooms(&self) -> Vec<StreamRoom> {
        self.logs.api.rooms.all()
    }

    /// Whether the core connection is up.
    pub fn connected(&self) -> watch::Receiver<bool> {
        self.connected.clone()
    }

    /// Whether JetStream stores what is sent to it.
    pub fn jetstream_available(&self) -> watch::Receiver<bool> {
        self.publisher.available()
    }
}

/// The names of the streams that are ours.
fn streams_of(names: &proto_map::Names, declared: &[(StreamSpec, Option<u8>)], leases: &Leases) -> Vec<String> {
    let buckets = [names.retained_stream(), names.sessions_stream(), names.keys_stream()].into_iter();
    let buckets = buckets.chain(leases.are_here().then(|| names.nodes_stream()));
    let buckets = buckets.chain(leases.are_for_others().then(|| names.accounts_stream()));
    let logs = [names.log_stream(), names.backlog_stream()].into_iter();
    logs.chain(buckets).chain(declared.iter().map(|(spec, _)| spec.name.clone())).collect()
}

/// Checks that everything we need is allowed, and makes streams with a number of replicas of their own, or with `replicas`.
async fn prepare<'a>(
    api: &Api,
    needs: Needs,
    replicas: Option<u8>,
    streams: impl Iterator<Item = (&'a StreamSpec, Option<u8>)>,
) -> Result<Assets, OpenError> {
    let assets = Assets::check(api.clone(), needs.clone(), replicas).await?;
    needs.try_all(&api.link).await.map_err(|error| OpenError::Unavailable { reason: error.to_string() })?;
    for (spec, replicas) in streams {
        assets.ensure_with(spec, replicas).await?;
    }
    needs.refused_on(&api.link).map_or(Ok(assets), Err)
}

/// What a connection is for. The one of core NATS does not hear itself, and NATS clients answer on it.
const fn role(name: &'static str, is_core: bool, queue: usize, subscription_queue: usize) -> Role {
    Role { name, no_echo: is_core, is_answered_by_anybody: is_core, queue, subscription_queue }
}

/// Whether the log or the bucket of retained messages has more than one replica, or may have.
async fn is_replicated(api: &Api, names: &proto_map::Names) -> bool {
    for stream in [names.log_stream(), names.retained_stream()] {
        let info = api.stream_info(&stream).await;
        if !info.is_ok_and(|info| info.config["num_replicas"] == 1) {
            return true;
        }
    }
    false
}

/// Answers requests on a subject, which is returned, with nothing, on another connection than the one that asks. An answer proves that the
/// server has dealt with everything that the asker sent before. (A subject that nobody listens to would do, if nobody
/// listened to `>`.)
async fn serve_echo(link: &Link, names: &proto_map::Names) -> Result<String, OpenError> {
    let subject = names.echo_subject(&format!("{:016x}", rand::random::<u64>()));
    let requests = link.client.subscribe(&subject, link.queue_limits());
    let mut requests = requests.map_err(|error| OpenError::Unavailable { reason: error.to_string() })?;
    let client = link.client.clone();
    link.tasks.spawn(async move {
        while let Some(request) = requests.next().await {
            // Who asked has left, or asks again.
            if let Some(subject) = request.reply() {
                let nothing = Bytes::new();
                let _ = client
                    .publish(&Outbound { payload: &nothing, subject, reply: None, first: &[], headers: &[] })
                    .await;
            }
        }
    });
    Ok(subject)
}

/// The state of a link as one bit.
fn connected(link: &Link) -> watch::Receiver<bool> {
    let mut state = link.state.clone();
    let (tx, rx) = watch::channel(state.borrow_and_update().connected);
    link.tasks.spawn(async move {
        while state.changed().await.is_ok() {
            let connected = state.borrow_and_update().connected;
            if tx.is_closed() {
                return;
            }
            tx.send_replace(connected);
        }
    });
    rx
}
