//! What is written, line by line, and that the documentation has all of it.

use std::collections::BTreeSet;

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
    metrics.read_vitals(|| Some(Vitals { sessions: [1, 2], ..Vitals::default() }));
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
    let account = metrics.account();
    let first = account.connection();
    drop(account.connection());
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

/// With everything that can be shown.
fn everything() -> Arc<Metrics> {
    let metrics = Metrics::new();
    metrics.read_vitals(|| Some(Vitals { lease_age: Some(Duration::from_secs(1)), ..Vitals::default() }));
    metrics.link_counts(&crate::store::LinkCounts::default());
    metrics.readiness(&Readiness::new());
    metrics
}

/// A section of the documentation.
fn section(name: &str) -> &'static str {
    let (_, text) = include_str!("../../docs/operations.md").split_once(&format!("\n## {name}\n")).unwrap();
    text.split_once("\n## ").unwrap().0
}

/// The first column of the table of metrics in the documentation.
fn documented() -> BTreeSet<String> {
    let text = section("Metrics");
    let names = text.lines().filter_map(|line| line.strip_prefix("| `")?.split(" | ").next());
    names.flat_map(|names| names.split(", ").map(|name| name.trim_matches('`').to_owned())).collect()
}

#[test]
fn every_metric_is_documented_and_every_documented_one_is_there() {
    let text = everything().render();
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    let names = types.map(|(name, kind)| match kind {
        "counter" => format!("{name}_total"),
        "info" => format!("{name}_info"),
        _ => name.to_owned(),
    });
    assert_eq!(names.collect::<BTreeSet<_>>(), documented());
}

#[test]
fn every_reason_why_tls_fails_is_documented() {
    let text = include_str!("../../docs/tls.md");
    for reason in TlsFailure::TEXTS {
        assert!(text.lines().any(|line| line.starts_with("| `") && line.contains(&format!("`{reason}`"))), "{reason}");
    }
}

#[test]
fn every_reason_why_a_connection_is_not_let_in_is_documented() {
    let text = include_str!("../../docs/proxies.md");
    for reason in ProxyRefusal::TEXTS.iter().chain(WebSocketRefusal::TEXTS) {
        assert!(text.lines().any(|line| line.starts_with("| `") && line.contains(&format!("`{reason}`"))), "{reason}");
    }
}

#[test]
fn every_limit_is_documented_and_every_key_that_is_one_says_what_counts_it() {
    let text = section("Limits");
    let rows = text.lines().filter_map(|line| line.strip_prefix("| ")?.split(" | ").nth(2));
    let labels: BTreeSet<&str> = rows.filter_map(|label| label.strip_prefix('`')?.strip_suffix('`')).collect();
    assert_eq!(labels, Limit::TEXTS.iter().copied().chain(["limit"]).collect());
    let mut table = "";
    for line in include_str!("../../examples/nats-mqtt.toml").lines() {
        if let Some(name) = line.strip_prefix('[') {
            table = name.trim_end_matches(']');
        }
        let Some((key, _)) = line.trim_start_matches("# ").split_once(" = ") else { continue };
        // Those of one log are those of `[jetstream.log]`.
        if key.starts_with("max_") && table != "jetstream" {
            assert!(text.contains(&format!("`{table}.{key}`")), "{table}.{key}");
        }
    }
}

#[test]
fn what_the_parts_say_is_read_when_somebody_asks() {
    let metrics = Metrics::new();
    let asked = Arc::new(AtomicU64::new(0));
    let counts = Arc::clone(&asked);
    metrics.read_vitals(move || {
        let publishes = counts.fetch_add(1, Relaxed);
        let oldest_publish = Duration::from_millis(2_500);
        Some(Vitals { publishes, oldest_publish, permits_waited: 3, ..Vitals::default() })
    });
    assert!(metrics.render().contains("\nmqtt_publishes_under_way 0\n"));
    let text = metrics.render();
    for line in ["mqtt_publishes_under_way 1", "mqtt_publish_oldest_seconds 2.5", "mqtt_permits_waited_total 3"] {
        assert!(text.lines().any(|have| have == line), "no line {line}\n{text}");
    }
    assert!(!text.contains("\nmqtt_lease_age_seconds "), "there is no lease\n{text}");
    assert_eq!(asked.load(Relaxed), 2);
}

#[test]
fn conditions_and_streams_are_shown_as_they_are_now() {
    let (metrics, readiness) = (Metrics::new(), Readiness::new());
    let (lease, _tails) = (readiness.condition("lease"), readiness.condition("tails"));
    metrics.readiness(&readiness);
    lease.open();
    let room = |stream: &str, bytes_max, full: Option<&str>| StreamRoom {
        stream: stream.into(),
        is_ours: true,
        bytes: Some(70),
        bytes_max,
        full: full.map(str::to_owned),
    };
    let streams = vec![room("MQTT_log", Some(80), Some("why")), room("KV_MQTT_nodes", None, None)];
    metrics.read_vitals(move || Some(Vitals { streams: streams.clone(), ..Vitals::default() }));
    let text = metrics.render();
    for line in [
        "mqtt_ready{condition=\"lease\"} 1",
        "mqtt_ready{condition=\"tails\"} 0",
        "mqtt_ready{condition=\"not draining\"} 1",
        "mqtt_stream_bytes{stream=\"MQTT_log\"} 70",
        "mqtt_stream_bytes_max{stream=\"MQTT_log\"} 80",
        "mqtt_stream_full{stream=\"MQTT_log\"} 1",
        "mqtt_stream_full{stream=\"KV_MQTT_nodes\"} 0",
    ] {
        assert!(text.lines().any(|have| have == line), "no line {line}\n{text}");
    }
    assert!(!text.contains("mqtt_stream_bytes_max{stream=\"KV_MQTT_nodes\"}"), "{text}");
}

#[test]
fn what_is_there_for_a_while_is_counted_for_that_while() {
    let metrics = Metrics::new();
    let account = metrics.account();
    let (scan, mut held) = (account.scan(), account.held_outputs());
    held.set(3);
    held.set(2);
    metrics.takeover(TakenBy::Other);
    let lines = |text: String| {
        let names = ["mqtt_scans", "mqtt_outputs_held", "mqtt_takeovers"];
        let is_one = |line: &&str| names.iter().any(|name| line.starts_with(name));
        text.lines().filter(is_one).map(str::to_owned).collect::<Vec<_>>()
    };
    let taken = ["mqtt_takeovers_total{by=\"local\"} 0", "mqtt_takeovers_total{by=\"other_sidecar\"} 1"];
    let during = ["mqtt_scans_total 1", "mqtt_scans_running 1", "mqtt_outputs_held 2"];
    assert_eq!(lines(metrics.render()), [&taken[..], &during].concat());
    drop((scan, held));
    let after = ["mqtt_scans_total 1", "mqtt_scans_running 0", "mqtt_outputs_held 0"];
    assert_eq!(lines(metrics.render()), [&taken[..], &after].concat());
}

#[test]
fn every_limit_is_there_before_it_is_met() {
    let metrics = Metrics::new();
    metrics.over_limit(Limit::Subscriptions);
    let text = metrics.render();
    for line in ["mqtt_over_limit_total{limit=\"subscriptions\"} 1", "mqtt_over_limit_total{limit=\"session_size\"} 0"]
    {
        assert!(text.lines().any(|have| have == line), "no line {line}\n{text}");
    }
}

#[test]
fn names_of_reason_codes_become_labels() {
    assert_eq!(snake_case("NotAuthorized"), "not_authorized");
    assert_eq!(snake_case("QoSNotSupported"), "qos_not_supported");
}
