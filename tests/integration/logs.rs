//! What the log says, and how often: refusals with what to change, outages once, floods of devices not at all.

use std::collections::BTreeMap;

use mqtt_codec::{Packet, ReasonCode};

use crate::harness::{Client, NatsServer, Options, Sidecar, SidecarBuilder, eventually, msg};

fn lines_with(sidecar: &Sidecar, parts: &[&str]) -> Vec<String> {
    let log = sidecar.log();
    let has_all = |line: &&str| parts.iter().all(|part| line.contains(part));
    log.lines().filter(has_all).map(ToOwned::to_owned).collect()
}

/// Publishes something of this size, whatever comes of it; waits until the connection is closed or the publish is answered.
async fn publish_large(sidecar: &Sidecar, id: &str, bytes: usize) -> Option<ReasonCode> {
    let mut client = sidecar.connect(Options::v311(id)).await;
    client.start_publish(&msg("zigbee2mqtt/bridge/devices", vec![b'x'; bytes]).qos(1));
    let deadline = tokio::time::Instant::now() + crate::harness::PATIENCE;
    loop {
        match client.packet(deadline).await {
            Ok(Packet::PubAck(ack)) => return Some(ack.reason),
            Ok(_) => {}
            Err(_) => return None,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_for_its_size_is_said_once_of_each_client_with_what_to_raise() {
    const LARGE: usize = 1_100_000;
    // nats-server's default is 1 MB.
    let nats = NatsServer::start();
    let by_default = SidecarBuilder::of(&nats, "by default").start().await;
    let configured = SidecarBuilder::of(&nats, "configured").set("MQTT__MAX_PACKET_SIZE", "256KiB").start().await;
    let generous = SidecarBuilder::of(&nats, "generous").set("MQTT__MAX_PACKET_SIZE", "4MiB").start().await;
    for (sidecar, remedy) in [
        (&by_default, "max_payload in the configuration of nats-server"),
        (&configured, "mqtt.max_packet_size"),
        (&generous, "max_payload in the configuration of nats-server"),
    ] {
        for id in ["z2m", "z2m", "other"] {
            assert_ne!(publish_large(sidecar, id, LARGE).await, Some(ReasonCode::Success));
        }
        for id in ["z2m", "other"] {
            let said =
                || lines_with(sidecar, &["WARN", "refused for its size", remedy, &format!("client_id=\"{id}\"")]);
            eventually("it is said", async || !said().is_empty()).await;
            assert_eq!(said().len(), 1, "{:?}", said());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_publishes_without_end_are_some_lines_and_a_count() {
    const COUNT: usize = 20_000;
    let nats = NatsServer::start();
    let sidecar = Sidecar::start(&nats, "sidecar").await;
    let mut client = sidecar.v311("loud").await;
    for _ in 0..COUNT {
        client.start_publish(&msg("$JS/API/STREAM/DELETE/ORD", "x"));
    }
    client.ping().await;
    let refused = lines_with(&sidecar, &["a publish was refused"]);
    assert!((1..=5).contains(&refused.len()), "{} lines", refused.len());
    assert!(refused[0].contains("closed to devices") && refused[0].contains("loud"), "{}", refused[0]);
    assert!(sidecar.log().len() < 32 * 1024, "{} bytes of log", sidecar.log().len());
    assert!(sidecar.metric("log_lines_left_out_total").await >= (COUNT - 5) as f64);
    // Other clients are heard of all the same, and so are other things of this one.
    let mut other = sidecar.v311("quiet").await;
    other.start_publish(&msg("$JS/x", "x"));
    other.ping().await;
    assert_eq!(lines_with(&sidecar, &["a publish was refused", "quiet"]).len(), 1);
    client.write_raw(&[0x30, 0x04, 0x00, 0x01, b'#', b'x']);
    client.closed().await;
    eventually("its violation is said", async || !lines_with(&sidecar, &["loud", "no topic name"]).is_empty()).await;
    // Many names at one address.
    for number in 0..60 {
        let mut client = sidecar.v311(&format!("name-{number}")).await;
        client.start_publish(&msg("$JS/x", "x"));
        client.ping().await;
    }
    assert!(lines_with(&sidecar, &["a publish was refused"]).len() <= 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_of_nats_is_said_once_when_it_begins_and_once_when_it_is_over() {
    let mut nats = NatsServer::start();
    let mut sidecar = Sidecar::start(&nats, "sidecar").await;
    let mut client = sidecar.v5("client").await;
    client.subscribe("a", 1).await;
    for outage in 1..=2 {
        let before = sidecar.log().len();
        nats.kill();
        eventually("the sidecar notices", async || sidecar.get("/readyz").await.0 == 503).await;
        // Links try to connect again several times meanwhile, and clients come.
        let mut newcomer = sidecar.v5(&format!("newcomer-{outage}")).await;
        newcomer.ping().await;
        nats.restart();
        sidecar.ready().await;
        client.publish(msg("a", "x").qos(1)).await;
        eventually("all is well", async || sidecar.log()[before..].contains("NATS is back")).await;
        let log = sidecar.log()[before..].to_owned();
        let count = |text: &str| log.lines().filter(|line| line.contains(text)).count();
        assert_eq!(count("NATS is back; it was away for"), 1, "{log}");
        // The second outage is in the minute of the first.
        assert_eq!(count("disconnected from NATS"), usize::from(outage == 1), "{log}");
        assert_eq!(count(" ERROR "), 0, "{log}");
        let mut warnings: BTreeMap<String, usize> = BTreeMap::new();
        for line in log.lines().filter(|line| line.contains(" WARN ") && !line.contains("client_id=")) {
            let text = line.split(" WARN ").nth(1).unwrap_or_default();
            let about = ["stream=", "lease=", "consumer="].iter().find_map(|name| text.split(name).nth(1));
            let kind = text.split(['=']).next().unwrap_or_default();
            *warnings.entry(format!("{kind} {about:?}")).or_default() += 1;
        }
        assert!(warnings.values().all(|times| *times == 1), "{warnings:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn at_debug_it_is_said_of_each_client_what_it_asks_for_and_gets() {
    let nats = NatsServer::start();
    let sidecar = SidecarBuilder::of(&nats, "sidecar").set("LOG__LEVEL", "debug").start().await;
    let mut client: Client = sidecar.v5("lamp").await;
    client.subscribe("light/#", 1).await;
    assert!(client.asks_for("$JS/#", 0).await.is_error());
    for _ in 0..20 {
        client.start_publish(&msg("$JS/API", "x"));
    }
    client.ping().await;
    client.goodbye().await;
    for (parts, count) in [
        (&["connected", "remote=127.0.0.1", "protocol=\"5.0\""][..], 1),
        (&["SUBSCRIBE", "light/# QoS 1"], 1),
        (&["SUBACK", "GrantedQoS1"], 1),
        (&["SUBACK", "NotAuthorized"], 1),
        (&["a publish was refused", "closed to devices", "NotAuthorized"], 20),
        (&["disconnected"], 1),
    ] {
        let of_lamp: Vec<&str> = parts.iter().copied().chain(["client_id=\"lamp\""]).collect();
        eventually(parts[0], async || lines_with(&sidecar, &of_lamp).len() >= count).await;
    }
}
