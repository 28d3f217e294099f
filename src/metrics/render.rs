//! The OpenMetrics text. `prometheus-client` writes the format; the numbers are read from our atomics at that moment.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use mqtt_codec::ReasonCode;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, text},
    metrics::{MetricType, exemplar::Exemplar},
    registry::Registry,
};

use super::{
    ACK_BUCKETS_US, AuthStep, BanCause, BanCounts, BanKind, Counts, DropReason, Limit, Metrics, Opening, ProxyRefusal,
    RequestEvent, SessionState, ShareEvent, TakenBy, TlsFailure, Vitals, WebSocketRefusal, WillCause, process::Process,
};
use crate::overload::{Deed, Overload, PROCESS};
use crate::readiness::Readiness;
use crate::store::{ApiErrors, StreamRoom};

/// Labels of the packet types; the first is not a type.
const PACKETS: [&str; super::PACKET_TYPES] = [
    "reserved",
    "connect",
    "connack",
    "publish",
    "puback",
    "pubrec",
    "pubrel",
    "pubcomp",
    "subscribe",
    "suback",
    "unsubscribe",
    "unsuback",
    "pingreq",
    "pingresp",
    "disconnect",
    "auth",
];
const DIRECTIONS: [&str; 2] = ["in", "out"];
const QOS: [&str; 3] = ["0", "1", "2"];

/// No exemplars are recorded.
type NoExemplar<'a> = Option<&'a Exemplar<[(&'static str, &'static str); 0], u64>>;

impl Metrics {
    /// All metrics as OpenMetrics text.
    #[must_use]
    pub fn render(self: &Arc<Self>) -> String {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Snapshot(Arc::clone(self))));
        let mut out = String::with_capacity(8 * 1024);
        if let Err(error) = text::encode(&mut out, &registry) {
            tracing::error!(%error, "metrics cannot be written");
        }
        out
    }
}

#[derive(Debug)]
struct Snapshot(Arc<Metrics>);

impl Collector for Snapshot {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut out = Families(encoder);
        let (total, vitals) = self.0.sum();
        if let Some(vitals) = vitals {
            state(&vitals, &total, &mut out)?;
            streams(&vitals.streams, &mut out)?;
        }
        let standings = self.0.conditions().map(Readiness::standings).unwrap_or_default();
        let ready = standings.iter().map(|(name, standing)| ([("condition", *name)], u64::from(standing.is_ok())));
        out.gauges("mqtt_ready", "1 for each condition of readiness that holds", ready)?;
        let accounts = i64::try_from(self.0.accounts()).unwrap_or(i64::MAX);
        out.gauge("mqtt_accounts", "Accounts that are open here, that of [nats] among them", accounts)?;
        let terms = self.0.shown_tls_terms();
        let terms =
            terms.iter().map(|((listener, key), until_s)| ([("listener", &**listener), ("file", *key)], *until_s));
        out.gauges(
            "mqtt_tls_valid_until_seconds",
            "When what is in a file of TLS expires, in seconds of Unix time; of several things, the first",
            terms,
        )?;
        mqtt(&total, &mut out)?;
        work(&total, &mut out)?;
        shared(&total, &mut out)?;
        acknowledgements(&total, &mut out)?;
        connects(&total, &mut out)?;
        bans(&self.0.bans, &mut out)?;
        nats(&total, &mut out)?;
        overload(&PROCESS, &mut out)?;
        out.counter(
            "mqtt_auth_signatures",
            "Signatures by NKeys that were verified, of JWTs and of challenges",
            mqtt_access::signatures_verified(),
        )?;
        out.counter(
            "log_lines_left_out",
            "Lines of the log that there were too many of",
            crate::logging::lines_left_out(),
        )?;
        process(&Process::read(), &mut out)
    }
}

fn mqtt(metrics: &Counts, out: &mut Families<'_>) -> fmt::Result {
    out.gauge("mqtt_connections", "Connected clients", metrics.connections.load(Relaxed))?;
    out.gauge("mqtt_connections_max", "The most clients at once", metrics.connections_max.load(Relaxed))?;
    out.counter("mqtt_sockets", "Accepted sockets", metrics.sockets.load(Relaxed))?;
    let bytes = DIRECTIONS.iter().zip(&metrics.bytes);
    out.counters("mqtt_bytes", "Bytes of sockets", bytes.map(|(direction, n)| ([("direction", *direction)], n)))?;
    out.gauge("mqtt_subscriptions", "Subscriptions of connected clients", metrics.subscriptions.load(Relaxed))?;
    let offline = metrics.sessions_offline.load(Relaxed);
    out.gauge("mqtt_sessions_offline", "Sessions of the account whose clients are away", offline)?;
    let stored = metrics.sessions_stored.load(Relaxed);
    out.gauge("mqtt_sessions_stored", "Sessions of the account that outlive their connections", stored)?;
    let packets = DIRECTIONS.iter().zip(&metrics.packets).flat_map(|(direction, counters)| {
        PACKETS.iter().zip(counters).skip(1).map(move |(kind, n)| ([("direction", *direction), ("type", *kind)], n))
    });
    out.counters("mqtt_packets", "Control packets", packets)?;
    let messages = DIRECTIONS.iter().zip(&metrics.messages).flat_map(|(direction, counters)| {
        QOS.iter().zip(counters).map(move |(qos, n)| ([("direction", *direction), ("qos", *qos)], n))
    });
    out.counters("mqtt_messages", "Application messages", messages)?;
    let bytes = DIRECTIONS.iter().zip(&metrics.payload_bytes);
    out.counters(
        "mqtt_payload_bytes",
        "Bytes of payloads of application messages",
        bytes.map(|(direction, n)| ([("direction", *direction)], n)),
    )?;
    let dropped = DropReason::TEXTS.iter().zip(&metrics.dropped);
    out.counters(
        "mqtt_messages_dropped",
        "Messages that did not reach a subscriber",
        dropped.map(|(reason, n)| ([("reason", *reason)], n)),
    )?;
    out.gauge("mqtt_retained_messages", "Retained messages", metrics.retained.load(Relaxed))?;
    let bytes = metrics.retained_bytes.load(Relaxed);
    out.gauge("mqtt_retained_bytes", "Bytes of retained messages: topics, headers, payloads", bytes)?;
    out.counter(
        "mqtt_events_dropped",
        "Events about clients that were not told",
        metrics.events_dropped.load(Relaxed),
    )?;
    let adopted = metrics.sessions_adopted.load(Relaxed);
    out.counter("mqtt_sessions_adopted", "Sessions of sidecars that are gone, put in order here", adopted)?;
    let over_limit = Limit::TEXTS.iter().zip(&metrics.over_limit);
    let over_limit = over_limit.map(|(limit, n)| ([("limit", *limit)], n));
    out.counters("mqtt_over_limit", "What clients were refused because of a limit of the configuration", over_limit)?;
    let wills = WillCause::TEXTS.iter().zip(&metrics.wills);
    out.counters("mqtt_wills", "Wills published", wills.map(|(cause, n)| ([("cause", *cause)], n)))?;
    let requests = RequestEvent::TEXTS.iter().zip(&metrics.requests);
    let requests = requests.map(|(event, n)| ([("event", *event)], n));
    out.counters("mqtt_requests", "Requests between MQTT and NATS", requests)?;
    let pending = metrics.requests_pending.load(Relaxed);
    out.gauge("mqtt_requests_pending", "Requests of clients that NATS may answer", pending)
}

/// How the parts are at this moment.
fn state(vitals: &Vitals, total: &Counts, out: &mut Families<'_>) -> fmt::Result {
    let [permits_waited, qos0_lost, qos0_gaps] = total.of_parts.each_ref().map(|n| n.load(Relaxed));
    let sessions = SessionState::TEXTS.iter().zip(vitals.sessions).map(|(state, n)| ([("state", *state)], n));
    out.gauges("mqtt_sessions", "Sessions by how they are fed", sessions)?;
    let behind = "Feeds of sessions that read a log again because they are behind its tail";
    out.gauge("mqtt_feeds_behind", behind, signed(vitals.feeds_behind))?;
    let under_way = "Messages that JetStream has neither acknowledged nor refused";
    out.gauge("mqtt_publishes_under_way", under_way, signed(vitals.publishes))?;
    let oldest = "How long the oldest message waits for JetStream, whichever stream it is for";
    out.seconds("mqtt_publish_oldest_seconds", oldest, Some(vitals.oldest_publish))?;
    let waiting = "Publishes that wait because as many as may be are under way";
    out.gauge("mqtt_permits_waiting", waiting, signed(vitals.permits_waiting))?;
    out.counter("mqtt_permits_waited", "Publishes that have waited for that", permits_waited)?;
    let silence = "How long nothing was heard of the tail that was last heard of longest ago";
    out.seconds("mqtt_tail_silence_seconds", silence, Some(vitals.tail_silence))?;
    let lag = "Messages that the tail has not read that has read least";
    out.gauge("mqtt_tail_lag", lag, signed(vitals.tail_lag))?;
    let age = "Since the last refresh of the lease was sent that was acknowledged";
    out.seconds("mqtt_lease_age_seconds", age, vitals.lease_age)?;
    out.counter("mqtt_qos0_lost", "QoS 0 messages that came from NATS and found no room", qos0_lost)?;
    out.counter("mqtt_qos0_gaps", "Losses of a connection to NATS that brings QoS 0", qos0_gaps)
}

/// What is known of the streams that we write into.
fn streams(streams: &[StreamRoom], out: &mut Families<'_>) -> fmt::Result {
    let each = |value: fn(&StreamRoom) -> Option<u64>| {
        streams.iter().filter_map(move |room| Some(([("stream", &*room.stream)], value(room)?)))
    };
    out.gauges("mqtt_stream_bytes", "Bytes of a stream", each(|room| room.bytes))?;
    out.gauges("mqtt_stream_bytes_max", "Bytes that a stream may have", each(|room| room.bytes_max))?;
    let full = "1 while a stream takes nothing more, or did not take what it was given last";
    out.gauges("mqtt_stream_full", full, each(|room| Some(u64::from(room.full.is_some()))))
}

/// What is done inside.
fn work(metrics: &Counts, out: &mut Families<'_>) -> fmt::Result {
    let takeovers = TakenBy::TEXTS.iter().zip(&metrics.takeovers).map(|(by, n)| ([("by", *by)], n));
    out.counters("mqtt_takeovers", "Connections whose client id another connection has taken", takeovers)?;
    out.counter("mqtt_scans", "Scans of logs for sessions that were behind", metrics.scans.load(Relaxed))?;
    out.gauge("mqtt_scans_running", "Scans that run", metrics.scans_running.load(Relaxed))?;
    let held = "Answers and messages that wait until the session's record or progress is saved";
    out.gauge("mqtt_outputs_held", held, metrics.outputs_held.load(Relaxed))
}

fn bans(bans: &BanCounts, out: &mut Families<'_>) -> fmt::Result {
    let in_force = BanKind::TEXTS.iter().zip(&bans.in_force).map(|(kind, n)| ([("kind", *kind)], n.load(Relaxed)));
    out.gauges("mqtt_bans", "Bans that are in force", in_force)?;
    let refused = BanKind::TEXTS.iter().zip(&bans.refused).map(|(kind, n)| ([("kind", *kind)], n));
    out.counters("mqtt_bans_refused", "Connections that were refused or ended since somebody is banned", refused)?;
    let made = BanCause::TEXTS.iter().zip(&bans.made).map(|(cause, n)| ([("cause", *cause)], n));
    out.counters("mqtt_bans_made", "Bans that were made here by a rule", made)
}

fn shared(metrics: &Counts, out: &mut Families<'_>) -> fmt::Result {
    let (groups, members) = (metrics.share_groups.load(Relaxed), metrics.share_members.load(Relaxed));
    out.gauge("mqtt_shared_groups", "Groups of shared subscriptions that have members here", groups)?;
    out.gauge("mqtt_shared_members", "Members of these groups", members)?;
    let events = ShareEvent::TEXTS.iter().zip(&metrics.shared);
    let events = events.map(|(event, n)| ([("event", *event)], n));
    out.counters("mqtt_shared_messages", "Messages of shared subscriptions", events)
}

fn acknowledgements(metrics: &Counts, out: &mut Families<'_>) -> fmt::Result {
    let mut family = out.0.encode_descriptor(
        "mqtt_publish_ack_duration_seconds",
        "From a QoS 1 or 2 PUBLISH to its PUBACK or PUBREC",
        None,
        MetricType::Histogram,
    )?;
    for (qos, histogram) in ["1", "2"].iter().zip(&metrics.ack) {
        let bounds = ACK_BUCKETS_US.iter().map(|us| *us as f64 / 1e6).chain([f64::INFINITY]);
        let buckets: Vec<(f64, u64)> = bounds.zip(histogram.buckets.iter().map(|n| n.load(Relaxed))).collect();
        let count = buckets.iter().map(|(_, n)| n).sum();
        let sum = histogram.sum_us.load(Relaxed) as f64 / 1e6;
        family.encode_family(&[("qos", *qos)])?.encode_histogram::<[(&str, &str); 0]>(sum, count, &buckets, None)?;
    }
    Ok(())
}

fn connects(metrics: &Counts, out: &mut Families<'_>) -> fmt::Result {
    let opening = Opening::TEXTS.iter().zip(&metrics.opening).map(|(what, n)| ([("what", *what)], n.load(Relaxed)));
    out.gauges("mqtt_opening_bytes", "Bytes of sessions that are being opened or left", opening)?;
    let most = Opening::TEXTS.iter().zip(&metrics.opening_max).map(|(what, n)| ([("what", *what)], n.load(Relaxed)));
    out.gauges("mqtt_opening_bytes_max", "The most of them at once", most)?;
    let results = by_reason(&metrics.connects);
    let over_limit = ("over_limit".to_owned(), metrics.connects_over_limit.load(Relaxed));
    out.owned("mqtt_connect", "CONNECTs by what was answered", "result", results.chain([over_limit]))?;
    let steps = AuthStep::TEXTS.iter().zip(&metrics.auth_refused).map(|(step, n)| ([("step", *step)], n));
    out.counters("mqtt_auth_refused", "CONNECTs that were refused for who they are, by the step at which", steps)?;
    let reasons = TlsFailure::TEXTS.iter().zip(&metrics.tls_failed).map(|(reason, n)| ([("reason", *reason)], n));
    out.counters(
        "mqtt_tls_failed",
        "Sockets of TLS listeners of which no TLS connection came, by the reason",
        reasons,
    )?;
    let reasons = ProxyRefusal::TEXTS.iter().zip(&metrics.proxy_refused).map(|(reason, n)| ([("reason", *reason)], n));
    out.counters("mqtt_proxy_refused", "Connections without a PROXY header that counts, by the reason", reasons)?;
    let reasons = WebSocketRefusal::TEXTS.iter().zip(&metrics.websocket_refused);
    let reasons = reasons.map(|(reason, n)| ([("reason", *reason)], n));
    out.counters("mqtt_websocket_refused", "Requests that did not become a WebSocket, by the reason", reasons)?;
    let ends = [
        ("client".to_owned(), metrics.disconnects_by_client.load(Relaxed)),
        ("connection_lost".to_owned(), metrics.disconnects_lost.load(Relaxed)),
    ];
    out.owned("mqtt_disconnect", "Ended connections", "reason", ends.into_iter().chain(by_reason(&metrics.disconnects)))
}

/// The reason codes that occurred, and success, which is worth seeing at zero.
fn by_reason(counters: &[AtomicU64]) -> impl Iterator<Item = (String, u64)> {
    (0..=u8::MAX).zip(counters).filter_map(|(code, n)| {
        let n = n.load(Relaxed);
        let name = ReasonCode::from_u8(code).filter(|code| n > 0 || *code == ReasonCode::Success)?;
        Some((snake_case(&format!("{name:?}")), n))
    })
}

/// `NotAuthorized` becomes `not_authorized`.
fn snake_case(name: &str) -> String {
    let mut out = String::with_capacity(name.len() + 4);
    let mut before_is_lower = false;
    for c in name.replace("QoS", "Qos").chars() {
        if c.is_ascii_uppercase() && before_is_lower {
            out.push('_');
        }
        before_is_lower = c.is_ascii_lowercase();
        out.push(c.to_ascii_lowercase());
    }
    out
}

fn nats(metrics: &Counts, out: &mut Families<'_>) -> fmt::Result {
    out.gauge(
        "nats_connected",
        "1 while the connection to NATS is there",
        metrics.nats_connected.load(Relaxed).max(0),
    )?;
    let errors = metrics.js_errors.get().map(ApiErrors::counts).unwrap_or_default();
    let errors = errors.into_iter().map(|(code, n)| (code.to_string(), n));
    out.owned("nats_js_api_errors", "Errors answered by the JetStream API", "code", errors)?;
    let Some(links) = metrics.links.get() else { return Ok(()) };
    let skips = links.skips().map(|(why, n)| (why.as_str().to_owned(), n));
    out.owned("nats_messages_skipped", "Messages of NATS that were left out, or a part of them", "reason", skips)?;
    let (overflows, reconnects) = (links.overflows(), links.reconnects());
    out.counter("nats_messages_overflowed", "Messages of NATS that were dropped because too many waited", overflows)?;
    out.counter("nats_reconnects", "Connections to NATS that were made again after a loss", reconnects)?;
    let said =
        "Requests that were told in the server's place that nobody listens, because a device listens to everything";
    out.counter("nats_no_responders_said", said, links.stand_ins())
}

fn overload(overload: &Overload, out: &mut Families<'_>) -> fmt::Result {
    out.gauge(
        "mqtt_overload_level",
        "How little is taken in: 0 everything, 3 the least",
        i64::from(overload.level() as u8),
    )?;
    let deeds = Deed::TEXTS.iter().zip(overload.deeds()).map(|(deed, n)| ([("action", *deed)], n));
    out.counters("mqtt_overload", "What was done because there was too much", deeds)?;
    let bytes = |bytes: usize| i64::try_from(bytes).unwrap_or(i64::MAX);
    let (held, max) = (overload.budget.held(), overload.budget.max());
    out.gauge("mqtt_waiting_bytes", "Bytes that wait in memory, for clients and for NATS", bytes(held))?;
    out.gauge("mqtt_waiting_bytes_max", "Bytes that may wait in memory", bytes(max))?;
    let memory = overload.memory();
    out.gauge("mqtt_memory_used_bytes", "Memory in use, as far as it counts against the limit", signed(memory.used))?;
    out.gauge("mqtt_memory_limit_bytes", "Memory that may be in use", signed(memory.limit))?;
    let lag = Duration::from_micros(overload.lag_us());
    out.seconds("mqtt_event_loop_lag_seconds", "By how much a task that slept was woken late", Some(lag))
}

fn process(process: &Process, out: &mut Families<'_>) -> fmt::Result {
    if let Some(seconds) = process.cpu_seconds {
        let mut family =
            out.0.encode_descriptor("process_cpu_seconds", "Processor time used", None, MetricType::Counter)?;
        family.encode_counter(&seconds, None as NoExemplar<'_>)?;
    }
    for (name, help, value) in [
        ("process_resident_memory_bytes", "Memory in use", process.resident_bytes),
        ("process_open_fds", "Open files", process.open_fds),
        ("process_max_fds", "Open files allowed", process.max_fds),
    ] {
        if let Some(value) = value {
            out.gauge(name, help, i64::try_from(value).unwrap_or(i64::MAX))?;
        }
    }
    out.0
        .encode_descriptor("process_start_time_seconds", "Start, in seconds of Unix time", None, MetricType::Gauge)?
        .encode_gauge(&process.start_time_seconds)?;
    out.0
        .encode_descriptor("build", "What is running", None, MetricType::Info)?
        .encode_info(&[("version", env!("CARGO_PKG_VERSION"))])
}

fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// The encoder, with one line for what takes three.
struct Families<'a>(DescriptorEncoder<'a>);

impl Families<'_> {
    fn gauge(&mut self, name: &str, help: &str, value: i64) -> fmt::Result {
        self.0.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&value)
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        let mut encoder = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        encoder.encode_counter(&value, None as NoExemplar<'_>)
    }

    /// Absent without a value.
    fn seconds(&mut self, name: &str, help: &str, value: Option<Duration>) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        value.map_or(Ok(()), |value| family.encode_gauge(&value.as_secs_f64()))
    }

    fn gauges<'v, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        values: impl Iterator<Item = ([(&'static str, &'v str); N], u64)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (labels, value) in values {
            family.encode_family(&labels)?.encode_gauge(&signed(value))?;
        }
        Ok(())
    }

    fn counters<'v, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        values: impl Iterator<Item = ([(&'static str, &'static str); N], &'v AtomicU64)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, value) in values {
            family.encode_family(&labels)?.encode_counter(&value.load(Relaxed), None as NoExemplar<'_>)?;
        }
        Ok(())
    }

    /// Counters whose label values are made when they are rendered.
    fn owned(
        &mut self,
        name: &str,
        help: &str,
        label: &'static str,
        values: impl Iterator<Item = (String, u64)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (text, value) in values {
            family.encode_family(&[(label, text)])?.encode_counter(&value, None as NoExemplar<'_>)?;
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "render_tests.rs"]
mod tests;
