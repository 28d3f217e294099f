//! The OpenMetrics text. `prometheus-client` writes the format; the numbers are read from our atomics at that moment.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
    },
};

use mqtt_codec::ReasonCode;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, text},
    metrics::{MetricType, exemplar::Exemplar},
    registry::Registry,
};

use super::{
    ACK_BUCKETS_US, DropReason, Limit, Metrics, RequestEvent, SessionState, ShareEvent, WillCause, process::Process,
};
use crate::store::ApiErrors;

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
        mqtt(&self.0, &mut out)?;
        shared(&self.0, &mut out)?;
        acknowledgements(&self.0, &mut out)?;
        connects(&self.0, &mut out)?;
        nats(&self.0, &mut out)?;
        out.counter(
            "log_lines_left_out",
            "Lines of the log that there were too many of",
            crate::logging::lines_left_out(),
        )?;
        process(&Process::read(), &mut out)
    }
}

fn mqtt(metrics: &Metrics, out: &mut Families<'_>) -> fmt::Result {
    out.gauge("mqtt_connections", "Connected clients", metrics.connections.load(Relaxed))?;
    out.gauge("mqtt_connections_max", "The most clients at once", metrics.connections_max.load(Relaxed))?;
    out.counter("mqtt_sockets", "Accepted sockets", metrics.sockets.load(Relaxed))?;
    let bytes = DIRECTIONS.iter().zip(&metrics.bytes);
    out.counters("mqtt_bytes", "Bytes of sockets", bytes.map(|(direction, n)| ([("direction", *direction)], n)))?;
    out.gauge("mqtt_subscriptions", "Subscriptions of connected clients", metrics.subscriptions.load(Relaxed))?;
    let sessions = SessionState::TEXTS.iter().zip(&metrics.sessions);
    out.gauges("mqtt_sessions", "Sessions by how they are fed", sessions.map(|(state, n)| ([("state", *state)], n)))?;
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

fn shared(metrics: &Metrics, out: &mut Families<'_>) -> fmt::Result {
    let (groups, members) = (metrics.share_groups.load(Relaxed), metrics.share_members.load(Relaxed));
    out.gauge("mqtt_shared_groups", "Groups of shared subscriptions that have members here", groups)?;
    out.gauge("mqtt_shared_members", "Members of these groups", members)?;
    let events = ShareEvent::TEXTS.iter().zip(&metrics.shared);
    let events = events.map(|(event, n)| ([("event", *event)], n));
    out.counters("mqtt_shared_messages", "Messages of shared subscriptions", events)
}

fn acknowledgements(metrics: &Metrics, out: &mut Families<'_>) -> fmt::Result {
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

fn connects(metrics: &Metrics, out: &mut Families<'_>) -> fmt::Result {
    let results = by_reason(&metrics.connects);
    let over_limit = ("over_limit".to_owned(), metrics.connects_over_limit.load(Relaxed));
    out.owned("mqtt_connect", "CONNECTs by what was answered", "result", results.chain([over_limit]))?;
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

fn nats(metrics: &Metrics, out: &mut Families<'_>) -> fmt::Result {
    out.gauge("nats_connected", "1 while the connection to NATS is there", metrics.nats_connected.load(Relaxed))?;
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

    fn gauges<'v, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        values: impl Iterator<Item = ([(&'static str, &'static str); N], &'v AtomicI64)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (labels, value) in values {
            family.encode_family(&labels)?.encode_gauge(&value.load(Relaxed))?;
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
mod tests {
    use std::time::Duration;

    use mqtt_codec::{PacketType, QoS};

    use super::*;
    use crate::metrics::{Direction, DisconnectReason};

    #[test]
    fn what_was_counted_is_in_the_text() {
        let metrics = Metrics::new();
        metrics.packets(Direction::In, PacketType::Publish, 3);
        metrics.packets(Direction::Out, PacketType::Auth, 1);
        metrics.messages(Direction::Out, QoS::ExactlyOnce, 7);
        metrics.dropped(DropReason::SlowReader, 2);
        metrics.publish_acknowledged(QoS::AtLeastOnce, Duration::from_micros(900));
        metrics.publish_acknowledged(QoS::AtLeastOnce, Duration::from_secs(60));
        metrics.publish_acknowledged(QoS::AtMostOnce, Duration::from_secs(60));
        metrics.connect(ReasonCode::NotAuthorized);
        metrics.connect_over_limit();
        metrics.disconnect(DisconnectReason::Client);
        metrics.disconnect(DisconnectReason::Server(ReasonCode::SessionTakenOver));
        metrics.sessions(SessionState::CatchingUp, 2);
        metrics.sessions(SessionState::Live, 1);
        metrics.retained(12, 340);
        metrics.request(RequestEvent::Offered);
        metrics.requests_pending(3);
        metrics.share_group(true);
        (0..3).for_each(|_| metrics.share_member(true));
        metrics.share_member(false);
        metrics.shared(ShareEvent::Redelivered, 4);
        metrics.will(WillCause::KeepAlive);
        metrics.nats_connected(true);
        let errors = ApiErrors::default();
        metrics.js_api_errors(&errors);
        errors.count(10_164);
        let first = metrics.connection();
        drop(metrics.connection());
        let text = metrics.render();
        drop(first);
        for line in [
            "mqtt_packets_total{direction=\"in\",type=\"publish\"} 3",
            "mqtt_packets_total{direction=\"out\",type=\"auth\"} 1",
            "mqtt_messages_total{direction=\"out\",qos=\"2\"} 7",
            "mqtt_messages_dropped_total{reason=\"slow_reader\"} 2",
            "mqtt_publish_ack_duration_seconds_bucket{le=\"0.0005\",qos=\"1\"} 0",
            "mqtt_publish_ack_duration_seconds_bucket{le=\"0.001\",qos=\"1\"} 1",
            "mqtt_publish_ack_duration_seconds_bucket{le=\"+Inf\",qos=\"1\"} 2",
            "mqtt_publish_ack_duration_seconds_count{qos=\"1\"} 2",
            "mqtt_publish_ack_duration_seconds_sum{qos=\"1\"} 60.0009",
            "mqtt_connect_total{result=\"success\"} 0",
            "mqtt_connect_total{result=\"not_authorized\"} 1",
            "mqtt_connect_total{result=\"over_limit\"} 1",
            "mqtt_disconnect_total{reason=\"client\"} 1",
            "mqtt_disconnect_total{reason=\"session_taken_over\"} 1",
            "mqtt_sessions{state=\"live\"} 1",
            "mqtt_sessions{state=\"catching_up\"} 2",
            "mqtt_retained_messages 12",
            "mqtt_retained_bytes 340",
            "mqtt_wills_total{cause=\"keep_alive\"} 1",
            "mqtt_requests_total{event=\"offered\"} 1",
            "mqtt_requests_pending 3",
            "mqtt_shared_groups 1",
            "mqtt_shared_members 2",
            "mqtt_shared_messages_total{event=\"given\"} 0",
            "mqtt_shared_messages_total{event=\"redelivered\"} 4",
            "nats_connected 1",
            "nats_js_api_errors_total{code=\"10164\"} 1",
            "mqtt_connections 1",
            "# EOF",
        ] {
            assert!(text.lines().any(|have| have == line), "no line {line}\n{text}");
        }
        for prefix in
            ["process_cpu_seconds_total ", "process_resident_memory_bytes ", "process_open_fds ", "build_info{version="]
        {
            assert!(text.lines().any(|have| have.starts_with(prefix)), "no line {prefix}\n{text}");
        }
        assert!(metrics.render().contains("\nmqtt_connections 0\n"));
    }

    #[test]
    fn every_limit_is_there_before_it_is_met() {
        let metrics = Metrics::new();
        metrics.over_limit(Limit::Subscriptions);
        let text = metrics.render();
        for line in
            ["mqtt_over_limit_total{limit=\"subscriptions\"} 1", "mqtt_over_limit_total{limit=\"session_size\"} 0"]
        {
            assert!(text.lines().any(|have| have == line), "no line {line}\n{text}");
        }
    }

    #[test]
    fn names_of_reason_codes_become_labels() {
        assert_eq!(snake_case("NotAuthorized"), "not_authorized");
        assert_eq!(snake_case("QoSNotSupported"), "qos_not_supported");
    }
}
