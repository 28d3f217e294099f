//! What is counted, of each account and of the process, as relaxed atomics in arrays: counting is one addition, without a lock and without a look-up.
//! `render` writes the OpenMetrics text when somebody asks. Labels are never made of what a device sends.

mod accounts;
mod bans;
mod guards;
mod labels;
mod process;
mod render;
mod sum;
mod totals;
mod vitals;

use std::{
    sync::{
        OnceLock,
        atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

pub use accounts::{AccountMetrics, Metrics};
pub use bans::BanCounts;
pub use guards::{ConnectionGuard, HeldOutputs, ScanGuard};
pub use labels::{
    AuthStep, BanCause, BanKind, Direction, DisconnectReason, DropReason, Limit, Opening, ProxyRefusal, RequestEvent,
    SessionState, ShareEvent, TakenBy, TlsFailure, WebSocketRefusal, WillCause,
};
pub(crate) use totals::{Totals, Work};
pub(crate) use vitals::Vitals;

use mqtt_codec::{PacketType, QoS, ReasonCode};

use crate::store::{ApiErrors, LinkCounts};

/// Packet types by their number on the wire; 0 is reserved.
const PACKET_TYPES: usize = 16;

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

/// Numbers that only the parts count: publishes that have waited for a permit, and QoS 0 messages and connections that were lost.
const OF_PARTS: usize = 3;

/// Counters and gauges: of one account, of what belongs to none, or of all.
#[derive(Debug)]
pub struct Counts {
    connections: AtomicI64,
    connections_max: AtomicI64,
    opening: [AtomicU64; Opening::TEXTS.len()],
    opening_max: [AtomicU64; Opening::TEXTS.len()],
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
    auth_refused: [AtomicU64; AuthStep::TEXTS.len()],
    tls_failed: [AtomicU64; TlsFailure::TEXTS.len()],
    proxy_refused: [AtomicU64; ProxyRefusal::TEXTS.len()],
    websocket_refused: [AtomicU64; WebSocketRefusal::TEXTS.len()],
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
    /// Negative: nobody knows.
    nats_connected: AtomicI64,
    js_errors: OnceLock<ApiErrors>,
    links: OnceLock<LinkCounts>,
    vitals: vitals::Source,
    /// As they were read last.
    of_parts: [AtomicU64; OF_PARTS],
}

impl Default for Counts {
    fn default() -> Self {
        Self {
            connections: AtomicI64::new(0),
            connections_max: AtomicI64::new(0),
            opening: Default::default(),
            opening_max: Default::default(),
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
            auth_refused: std::array::from_fn(|_| AtomicU64::default()),
            tls_failed: Default::default(),
            proxy_refused: Default::default(),
            websocket_refused: Default::default(),
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
            over_limit: [const { AtomicU64::new(0) }; Limit::COUNT],
            takeovers: Default::default(),
            scans: AtomicU64::new(0),
            scans_running: AtomicI64::new(0),
            outputs_held: AtomicI64::new(0),
            nats_connected: AtomicI64::new(-1),
            js_errors: OnceLock::new(),
            links: OnceLock::new(),
            vitals: vitals::Source::default(),
            of_parts: Default::default(),
        }
    }
}

fn add(counters: &[AtomicU64], index: usize, n: u64) {
    // Every caller's index comes from an enum or a byte that fits the array, so nothing is ever lost here.
    if let Some(counter) = counters.get(index) {
        counter.fetch_add(n, Relaxed);
    }
}

impl Counts {
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

    /// Counts a socket of which no TLS connection came.
    pub fn tls_failed(&self, failure: TlsFailure) {
        add(&self.tls_failed, failure as usize, 1);
    }

    /// Counts a connection of a listener behind proxies that was closed without having been let in.
    pub fn proxy_refused(&self, refusal: ProxyRefusal) {
        add(&self.proxy_refused, refusal as usize, 1);
    }

    /// Counts a request that did not become a WebSocket.
    pub fn websocket_refused(&self, refusal: WebSocketRefusal) {
        add(&self.websocket_refused, refusal as usize, 1);
    }

    /// Counts a CONNECT that was refused for who it is, or does not say.
    pub fn auth_refused(&self, step: AuthStep) {
        add(&self.auth_refused, step as usize, 1);
    }

    /// The first step at which anybody was refused.
    pub(crate) fn auth_refusal(&self) -> Option<&'static str> {
        let mut refused = AuthStep::TEXTS.iter().zip(&self.auth_refused);
        refused.find(|(_, count)| count.load(Relaxed) > 0).map(|(step, _)| *step)
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

    /// Sets the bytes that are taken of `mqtt.max_opening_size`.
    pub(crate) fn opening(&self, what: Opening, bytes: usize) {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        self.opening[what as usize].store(bytes, Relaxed);
        self.opening_max[what as usize].fetch_max(bytes, Relaxed);
    }

    /// Counts bytes that are taken beside those.
    pub(crate) fn opening_taken(&self, what: Opening, bytes: usize) {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        let taken = self.opening[what as usize].fetch_add(bytes, Relaxed) + bytes;
        self.opening_max[what as usize].fetch_max(taken, Relaxed);
    }

    /// Counts bytes that were counted with [`Self::opening_taken`] and are free again.
    pub(crate) fn opening_freed(&self, what: Opening, bytes: usize) {
        self.opening[what as usize].fetch_sub(u64::try_from(bytes).unwrap_or(u64::MAX), Relaxed);
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

    /// Shows what is read here when somebody asks. There is one account, so the first one stays.
    pub(crate) fn read_vitals(&self, read: impl Fn() -> Option<Vitals> + Send + Sync + 'static) {
        self.vitals.set(Box::new(read));
    }

    /// Reads how the parts are.
    pub(crate) fn vitals(&self) -> Option<Vitals> {
        let vitals = self.vitals.read()?;
        self.note(&vitals);
        Some(vitals)
    }

    /// Keeps of it what is counted, for when nobody is there to be read.
    pub(crate) fn note(&self, vitals: &Vitals) {
        let counted = [vitals.permits_waited, vitals.qos0_lost, vitals.qos0_gaps];
        for (counter, count) in self.of_parts.iter().zip(counted) {
            counter.fetch_max(count, Relaxed);
        }
    }
}
