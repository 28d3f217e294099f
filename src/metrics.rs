//! What is counted, as relaxed atomics in arrays: counting is one addition, without a lock and without a look-up.
//! `render` writes the OpenMetrics text when somebody asks. Labels are never made of what a device sends.

mod process;
mod render;
mod totals;
mod vitals;

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

pub(crate) use totals::Totals;
pub(crate) use vitals::Vitals;

use mqtt_codec::{PacketType, QoS, ReasonCode};

use crate::store::{ApiErrors, LinkCounts};

/// Which way a packet or a message goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the client.
    In = 0,
    /// To the client.
    Out = 1,
}

/// Packet types by their number on the wire; 0 is reserved.
const PACKET_TYPES: usize = 16;

/// Makes an enum whose variants are the values of one label.
macro_rules! labels {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $($(#[$variant_doc])* $variant,)* }

        impl $name {
            const TEXTS: &[&str] = &[$($text,)*];
        }
    };
}

labels! {
    /// How the session of a connected client is fed.
    SessionState {
        /// From the tail of the log.
        Live = "live",
        /// From its cursor.
        CatchingUp = "catching_up",
    }
}

labels! {
    /// Why a message did not reach a subscriber.
    DropReason {
        /// The subscriber reads too slowly and its QoS 0 buffer is full.
        SlowReader = "slow_reader",
        /// The queue of the offline session is full.
        QueueFull = "queue_full",
        /// Its expiry passed.
        Expired = "expired",
        /// It is larger than the client accepts.
        TooLarge = "too_large",
        /// The publisher or the subscriber may not use its topic.
        NotAuthorized = "not_authorized",
        /// The log discarded it before the session read it.
        LogDiscarded = "log_discarded",
        /// JetStream or NATS could not take it.
        NatsUnavailable = "nats_unavailable",
        /// Its subject has no topic or its topic no subject.
        NoTopic = "no_topic",
        /// Its publisher's connection had ended, and its client had published something later when it was stored.
        EndedEpoch = "ended_epoch",
    }
}

labels! {
    /// Why a will was published.
    WillCause {
        /// The connection was lost.
        ConnectionLost = "connection_lost",
        /// Nothing came within 1.5 × keep alive.
        KeepAlive = "keep_alive",
        /// DISCONNECT with reason 0x04.
        Requested = "requested",
        /// Another connection took the session over.
        TakenOver = "taken_over",
        /// We closed the connection because of an error.
        ServerClosed = "server_closed",
        /// The sidecar that had the connection is gone.
        NodeLost = "node_lost",
    }
}

labels! {
    /// What became of requests between MQTT and NATS.
    RequestEvent {
        /// A client asked NATS.
        Asked = "asked",
        /// NATS answered a client.
        Answered = "answered",
        /// NATS answered when the request was over.
        AnsweredLate = "answered_late",
        /// Nobody on NATS listens.
        NoResponders = "no_responders",
        /// NATS did not answer in time.
        TimedOut = "timed_out",
        /// It was given up unanswered, because there were too many.
        Evicted = "evicted",
        /// A request of NATS was given a Response Topic.
        Offered = "offered",
        /// A device answered NATS.
        Replied = "replied",
        /// A device could not answer: too late, or nothing to answer.
        Refused = "refused",
    }
}

labels! {
    /// What became of messages of shared subscriptions.
    ShareEvent {
        /// A member got it.
        Given = "given",
        /// Of those, one that the group had given to somebody before.
        Redelivered = "redelivered",
        /// A member left that had not acknowledged it.
        Left = "left",
        /// No member had room for it.
        NoRoom = "no_room",
    }
}

labels! {
    /// Who has taken the client id of a connection of this sidecar.
    TakenBy {
        /// A connection to the same sidecar.
        Local = "local",
        /// A connection to another one.
        Other = "other_sidecar",
    }
}

labels! {
    /// What a client had no more of.
    Limit {
        /// `mqtt.max_subscriptions`.
        Subscriptions = "subscriptions",
        /// `mqtt.max_filters_per_packet`.
        FiltersPerPacket = "filters_per_packet",
        /// `mqtt.max_filter_length`.
        FilterLength = "filter_length",
        /// `mqtt.max_session_size`.
        SessionSize = "session_size",
        /// `mqtt.max_sessions`.
        Sessions = "sessions",
        /// `mqtt.max_will_size`.
        WillSize = "will_size",
        /// `mqtt.max_retained_messages`.
        RetainedMessages = "retained_messages",
        /// `mqtt.max_retained_bytes`.
        RetainedBytes = "retained_bytes",
        /// `mqtt.max_retained_size`.
        RetainedSize = "retained_size",
        /// `jetstream.shared.max_groups`.
        Groups = "groups",
        /// Consumers of a stream, of which some are kept for sidecars.
        Consumers = "consumers",
        /// `jetstream.shared.max_groups_per_client`.
        GroupsPerClient = "groups_per_client",
        /// `jetstream.shared.max_name_length`.
        ShareNameLength = "share_name_length",
        /// `mqtt.max_topic_levels`.
        TopicLevels = "topic_levels",
        /// `mqtt.max_packet_size`.
        PacketSize = "packet_size",
        /// What NATS takes in one message: `max_payload` of nats-server, `max_msg_size` of a stream.
        MessageSize = "message_size",
        /// Clients that say something about themselves below `$SYS/broker/connection`.
        BridgeStates = "bridge_states",
        /// `listeners.max_connections`.
        Connections = "connections",
        /// `listeners.max_connections_per_address`.
        ConnectionsPerAddress = "connections_per_address",
        /// `listeners.max_handshakes`.
        Handshakes = "handshakes",
    }
}

impl Limit {
    /// How many there are.
    pub(crate) const COUNT: usize = Self::TEXTS.len();
}

/// Why a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DisconnectReason {
    /// The client sent DISCONNECT.
    Client,
    /// The connection broke, or ended without DISCONNECT.
    ConnectionLost,
    /// We ended it, for this reason (also where MQTT 3.x cannot be told).
    Server(ReasonCode),
}

/// Upper bounds of the buckets of the acknowledgement histogram, in microseconds.
const ACK_BUCKETS_US: [u64; 16] = [
    100, 250, 500, 1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 64_000, 125_000, 250_000, 500_000, 1_000_000, 2_500_000,
    10_000_000,
];

#[derive(Debug, Default)]
struct AckHistogram {
    /// One per bound and one for what is slower.
    buckets: [AtomicU64; ACK_BUCKETS_US.len() + 1],
    sum_us: AtomicU64,
}

/// Values of a reason code, each its own counter.
const REASON_CODES: usize = 256;

/// All counters of the process. One per process, shared by `Arc`.
#[derive(Debug)]
pub struct Metrics {
    connections: AtomicI64,
    connections_max: AtomicI64,
    sockets: AtomicU64,
    bytes: [AtomicU64; 2],
    subscriptions: AtomicI64,
    sessions_offline: AtomicI64,
    sessions_stored: AtomicI64,
    packets: [[AtomicU64; PACKET_TYPES]; 2],
    messages: [[AtomicU64; 3]; 2],
    payload_bytes: [AtomicU64; 2],
    dropped: [AtomicU64; DropReason::TEXTS.len()],
    ack: [AckHistogram; 2],
    connects: [AtomicU64; REASON_CODES],
    connects_over_limit: AtomicU64,
    disconnects: [AtomicU64; REASON_CODES],
    disconnects_by_client: AtomicU64,
    disconnects_lost: AtomicU64,
    retained: AtomicI64,
    retained_bytes: AtomicI64,
    events_dropped: AtomicU64,
    sessions_adopted: AtomicU64,
    wills: [AtomicU64; WillCause::TEXTS.len()],
    requests: [AtomicU64; RequestEvent::TEXTS.len()],
    requests_pending: AtomicI64,
    share_groups: AtomicI64,
    share_members: AtomicI64,
    shared: [AtomicU64; ShareEvent::TEXTS.len()],
    over_limit: [AtomicU64; Limit::TEXTS.len()],
    takeovers: [AtomicU64; TakenBy::TEXTS.len()],
    scans: AtomicU64,
    scans_running: AtomicI64,
    outputs_held: AtomicI64,
    nats_connected: AtomicI64,
    js_errors: OnceLock<ApiErrors>,
    links: OnceLock<LinkCounts>,
    vitals: vitals::Source,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            connections: AtomicI64::new(0),
            connections_max: AtomicI64::new(0),
            sockets: AtomicU64::new(0),
            bytes: Default::default(),
            subscriptions: AtomicI64::new(0),
            sessions_offline: AtomicI64::new(0),
            sessions_stored: AtomicI64::new(0),
            payload_bytes: Default::default(),
            events_dropped: AtomicU64::new(0),
            packets: Default::default(),
            messages: Default::default(),
            dropped: Default::default(),
            ack: Default::default(),
            connects: [const { AtomicU64::new(0) }; REASON_CODES],
            connects_over_limit: AtomicU64::new(0),
            disconnects: [const { AtomicU64::new(0) }; REASON_CODES],
            disconnects_by_client: AtomicU64::new(0),
            disconnects_lost: AtomicU64::new(0),
            retained: AtomicI64::new(0),
            retained_bytes: AtomicI64::new(0),
            sessions_adopted: AtomicU64::new(0),
            wills: Default::default(),
            requests: Default::default(),
            requests_pending: AtomicI64::new(0),
            share_groups: AtomicI64::new(0),
            share_members: AtomicI64::new(0),
            shared: Default::default(),
            over_limit: Default::default(),
            takeovers: Default::default(),
            scans: AtomicU64::new(0),
            scans_running: AtomicI64::new(0),
            outputs_held: AtomicI64::new(0),
            nats_connected: AtomicI64::new(0),
            js_errors: OnceLock::new(),
            links: OnceLock::new(),
            vitals: vitals::Source::default(),
        }
    }
}

fn add(counters: &[AtomicU64], index: usize, n: u64) {
    // Every caller's index comes from an enum or a byte that fits the array, so nothing is ever lost here.
    if let Some(counter) = counters.get(index) {
        counter.fetch_add(n, Relaxed);
    }
}

impl Metrics {
    /// Counters at zero.
    #[must_use]
    pub fn new() -> Arc<Self> {
        // The first call remembers the time.
        process::start_time_seconds();
        Arc::default()
    }

    /// Counts `n` packets. Callers on the hot path count a batch at once.
    pub fn packets(&self, direction: Direction, packet: PacketType, n: u64) {
        let [incoming, outgoing] = &self.packets;
        let counters = if direction == Direction::In { incoming } else { outgoing };
        add(counters, packet as usize, n);
    }

    /// Counts `n` application messages.
    pub fn messages(&self, direction: Direction, qos: QoS, n: u64) {
        let [incoming, outgoing] = &self.messages;
        let counters = if direction == Direction::In { incoming } else { outgoing };
        add(counters, qos as usize, n);
    }

    /// Counts bytes of payloads of application messages.
    pub fn payload_bytes(&self, direction: Direction, n: u64) {
        add(&self.payload_bytes, direction as usize, n);
    }

    /// Counts bytes of sockets, in and out.
    pub fn bytes(&self, received: u64, sent: u64) {
        let [incoming, outgoing] = &self.bytes;
        incoming.fetch_add(received, Relaxed);
        outgoing.fetch_add(sent, Relaxed);
    }

    /// Counts a socket that was accepted.
    pub fn socket(&self) {
        self.sockets.fetch_add(1, Relaxed);
    }

    /// Counts events about clients that were dropped.
    pub fn events_dropped(&self, n: u64) {
        self.events_dropped.fetch_add(n, Relaxed);
    }

    /// Sets the number of subscriptions.
    pub fn subscriptions(&self, count: usize) {
        self.subscriptions.store(i64::try_from(count).unwrap_or(i64::MAX), Relaxed);
    }

    /// Counts `n` messages that did not reach a subscriber.
    pub fn dropped(&self, reason: DropReason, n: u64) {
        add(&self.dropped, reason as usize, n);
    }

    /// Counts the time from a QoS 1 or 2 PUBLISH to its PUBACK or PUBREC. QoS 0 has none and is not counted.
    pub fn publish_acknowledged(&self, qos: QoS, after: Duration) {
        let [qos1, qos2] = &self.ack;
        let histogram = match qos {
            QoS::AtMostOnce => return,
            QoS::AtLeastOnce => qos1,
            QoS::ExactlyOnce => qos2,
        };
        let us = u64::try_from(after.as_micros()).unwrap_or(u64::MAX);
        add(&histogram.buckets, ACK_BUCKETS_US.partition_point(|bound| *bound < us), 1);
        histogram.sum_us.fetch_add(us, Relaxed);
    }

    /// Counts a CONNECT by what was answered.
    pub fn connect(&self, result: ReasonCode) {
        add(&self.connects, usize::from(result as u8), 1);
    }

    /// Counts a connection that was closed when it was accepted, because there are too many.
    pub fn connect_over_limit(&self) {
        self.connects_over_limit.fetch_add(1, Relaxed);
    }

    /// Counts the end of a connection that had been accepted with CONNACK.
    pub fn disconnect(&self, reason: DisconnectReason) {
        match reason {
            DisconnectReason::Client => {
                self.disconnects_by_client.fetch_add(1, Relaxed);
            }
            DisconnectReason::ConnectionLost => {
                self.disconnects_lost.fetch_add(1, Relaxed);
            }
            DisconnectReason::Server(code) => add(&self.disconnects, usize::from(code as u8), 1),
        }
    }

    /// Adds a connection until the guard is dropped.
    #[must_use]
    pub fn connection(self: &Arc<Self>) -> ConnectionGuard {
        let before = self.connections.fetch_add(1, Relaxed);
        self.connections_max.fetch_max(before + 1, Relaxed);
        ConnectionGuard(self.clone())
    }

    /// Sets the numbers of sessions of the account that outlive their connections, and of those whose clients are away.
    pub fn sessions_stored(&self, stored: usize, offline: usize) {
        self.sessions_stored.store(i64::try_from(stored).unwrap_or(i64::MAX), Relaxed);
        self.sessions_offline.store(i64::try_from(offline).unwrap_or(i64::MAX), Relaxed);
    }

    /// Sets the number of retained messages, and their bytes.
    pub fn retained(&self, count: usize, bytes: usize) {
        self.retained.store(i64::try_from(count).unwrap_or(i64::MAX), Relaxed);
        self.retained_bytes.store(i64::try_from(bytes).unwrap_or(i64::MAX), Relaxed);
    }

    /// Counts a session of a sidecar that is gone, which was put in order here.
    pub fn session_adopted(&self) {
        self.sessions_adopted.fetch_add(1, Relaxed);
    }

    /// Counts a will that was published.
    pub fn will(&self, cause: WillCause) {
        add(&self.wills, cause as usize, 1);
    }

    /// Counts what became of a request.
    pub fn request(&self, event: RequestEvent) {
        add(&self.requests, event as usize, 1);
    }

    /// Sets the number of requests of clients that NATS may answer.
    pub fn requests_pending(&self, count: u64) {
        self.requests_pending.store(i64::try_from(count).unwrap_or(i64::MAX), Relaxed);
    }

    /// A group of a shared subscription has its first member here, or none any more.
    pub fn share_group(&self, is_there: bool) {
        self.share_groups.fetch_add(if is_there { 1 } else { -1 }, Relaxed);
    }

    /// A group has a member more, or one less.
    pub fn share_member(&self, is_there: bool) {
        self.share_members.fetch_add(if is_there { 1 } else { -1 }, Relaxed);
    }

    /// Counts what became of `n` messages of shared subscriptions.
    pub fn shared(&self, event: ShareEvent, n: u64) {
        add(&self.shared, event as usize, n);
    }

    /// Counts what was refused because of a limit.
    pub fn over_limit(&self, limit: Limit) {
        add(&self.over_limit, limit as usize, 1);
    }

    /// Counts a connection whose client id somebody else has taken.
    pub fn takeover(&self, by: TakenBy) {
        add(&self.takeovers, by as usize, 1);
    }

    /// Counts a scan of a log, which runs until the guard is dropped.
    #[must_use]
    pub fn scan(self: &Arc<Self>) -> ScanGuard {
        self.scans.fetch_add(1, Relaxed);
        self.scans_running.fetch_add(1, Relaxed);
        ScanGuard(self.clone())
    }

    /// What a connection holds back until it is saved, none at first.
    #[must_use]
    pub fn held_outputs(self: &Arc<Self>) -> HeldOutputs {
        HeldOutputs { metrics: self.clone(), count: 0 }
    }

    /// Sets whether the connection to NATS is there.
    pub fn nats_connected(&self, connected: bool) {
        self.nats_connected.store(i64::from(connected), Relaxed);
    }

    /// Shows these errors of JetStream, by their `err_code`. There is one store, so the first ones stay.
    pub fn js_api_errors(&self, errors: &ApiErrors) {
        let _ = self.js_errors.set(errors.clone());
    }

    /// Shows what the links to NATS have skipped and dropped. There is one store, so the first ones stay.
    pub fn link_counts(&self, counts: &LinkCounts) {
        let _ = self.links.set(counts.clone());
    }

    /// Shows what is read here when somebody asks. There is one broker, so the first one stays.
    pub(crate) fn read_vitals(&self, read: impl Fn() -> Option<Vitals> + Send + Sync + 'static) {
        self.vitals.set(Box::new(read));
    }
}

/// One connection in `mqtt_connections`, for as long as it lives.
#[derive(Debug)]
pub struct ConnectionGuard(Arc<Metrics>);

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Relaxed);
    }
}

/// One scan in `mqtt_scans_running`, for as long as it runs.
#[derive(Debug)]
pub struct ScanGuard(Arc<Metrics>);

impl Drop for ScanGuard {
    fn drop(&mut self) {
        self.0.scans_running.fetch_sub(1, Relaxed);
    }
}

/// The part of one connection in `mqtt_outputs_held`.
#[derive(Debug)]
pub struct HeldOutputs {
    metrics: Arc<Metrics>,
    count: usize,
}

impl HeldOutputs {
    /// So many are held now.
    pub fn set(&mut self, count: usize) {
        if count != self.count {
            let signed = |count| i64::try_from(count).unwrap_or(i64::MAX);
            self.metrics.outputs_held.fetch_add(signed(count) - signed(self.count), Relaxed);
            self.count = count;
        }
    }
}

impl Drop for HeldOutputs {
    fn drop(&mut self) {
        self.set(0);
    }
}
