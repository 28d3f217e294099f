//! The process as an operator meets it: start, health, drain, and what it says when it cannot start.

use std::process::Command;
use std::time::Duration;

use mqtt_codec::{Packet, ReasonCode};
use serde_json::json;
use tempfile::TempDir;
use tokio::net::TcpStream;

use crate::harness::relay::Relay;
use crate::harness::{
    Ended, Finished, NatsServer, Options, PATIENCE, PROGRAM, Sidecar, SidecarBuilder, World, eventually, js_api, msg,
    nats_server_program, run, stored, unique,
};

/// Runs the program to its end.
async fn program(args: &[&str]) -> Finished {
    let mut command = Command::new(PROGRAM);
    command.args(args);
    run(command, PATIENCE).await
}

/// `run` with these arguments has to end with exit code 78 and one line that has all of `words`.
async fn is_refused(args: &[&str], words: &[&str]) {
    let finished = program(&[&["run", "--listen", "127.0.0.1:0", "--admin", ""], args].concat()).await;
    assert_eq!(finished.code, 78, "{finished:?}");
    let lines: Vec<&str> = finished.stderr.lines().filter(|line| line.starts_with("nats-mqtt: ")).collect();
    assert_eq!(lines.len(), 1, "{finished:?}");
    for word in words {
        assert!(lines[0].to_lowercase().contains(&word.to_lowercase()), "{word:?} is not in {:?}", lines[0]);
    }
    assert!(!finished.stderr.contains("panicked"), "{finished:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_jetstream_it_ends_with_78() {
    let nats = NatsServer::start_with(false, "");
    is_refused(&["--nats", &nats.url()], &["jetstream"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_stream_of_the_logs_name_ends_it_with_78() {
    let nats = NatsServer::start();
    let client = nats.client().await;
    let config = json!({ "name": "MQTT_log", "subjects": ["orders.>"], "storage": "file" });
    let created = js_api(&client, "STREAM.CREATE.MQTT_log", &config).await;
    assert!(created["error"].is_null(), "{created}");
    is_refused(&["--nats", &nats.url()], &["MQTT_log"]).await;
    // It is left as it was.
    let info = crate::harness::stream_info(&client, "MQTT_log").await;
    assert_eq!(info["config"]["subjects"], json!(["orders.>"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_key_ends_it_with_78_and_a_suggestion() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("nats-mqtt.toml");
    std::fs::write(&file, "[mqtt]\nwindw = 3\n").unwrap();
    is_refused(&["-c", file.to_str().unwrap()], &["nats-mqtt.toml:2", "windw", "\"window\""]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_without_the_jetstream_api_ends_it_with_78() {
    let users = r#"authorization { users: [
        { user: poor, password: pw, permissions: { publish: ["devices.>"], subscribe: ["devices.>", "_INBOX.>"] } }
    ] }"#;
    let nats = NatsServer::start_with(true, users);
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("nats-mqtt.toml");
    let config = format!("[nats]\nurls = [\"{}\"]\nuser = \"poor\"\npassword = \"pw\"\n", nats.url());
    std::fs::write(&file, config).unwrap();
    is_refused(&["-c", file.to_str().unwrap()], &["not allowed", "$JS.API"]).await;
}

/// The subjects in a row of the table of permissions in the documentation, and those of the devices, as a list for nats-server.
fn documented(row: &str) -> String {
    let text = include_str!("../../docs/operations.md");
    let line = text.lines().find(|line| line.starts_with(&format!("| {row} |"))).expect("a row of the table");
    let subjects = line.split('`').skip(1).step_by(2).chain(["dev", "dev.>"]);
    subjects.map(|subject| format!("{subject:?}")).collect::<Vec<_>>().join(", ")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_permissions_of_the_documentation_are_enough() {
    let (publish, subscribe) = (documented("publish"), documented("subscribe"));
    let nats = NatsServer::start_with(
        true,
        &format!(
            "no_auth_user: admin
            authorization {{ users: [
              {{ user: admin, password: a }}
              {{ user: mqtt, password: pw, permissions: {{ publish: [{publish}], subscribe: [{subscribe}] }} }}
            ] }}"
        ),
    );
    let start = async |name: &str| {
        SidecarBuilder::of(&nats, name).set("NATS__USER", "mqtt").set("NATS__PASSWORD", "pw").start().await
    };
    let (a, b) = (start("a").await, start("b").await);
    let client = nats.client().await;
    // A stream of the operator's, retained, sessions, a group on both sidecars whose members leave, requests both ways.
    let stream = json!({ "name": "DEV", "subjects": ["dev.stream.>"] });
    assert!(js_api(&client, "STREAM.CREATE.DEV", &stream).await["error"].is_null());
    let mut device = a.connect(Options::v5("device").durable(3600)).await;
    device.subscribe("dev/#", 1).await;
    let mut publisher = b.v5("publisher").await;
    let mut retained = msg("dev/retained", "r").qos(1);
    retained.retain = true;
    publisher.publish(retained).await;
    assert_eq!(device.receive_shown().await, "dev/retained r qos1");
    client.publish("dev.plain", "p".into()).await.unwrap();
    assert_eq!(device.receive_shown().await, "dev/plain p qos1");
    device.reset();
    // Until the sidecar knows, what it sends counts as delivered once, and what comes again has DUP [MQTT-3.3.1-1].
    eventually("its connection has ended", async || a.metric("mqtt_connections").await < 0.5).await;
    publisher.publish(msg("dev/stream/x", "s").qos(1)).await;
    let mut device = b.connect(Options::v5("device").durable(3600)).await;
    assert_eq!(device.receive_shown().await, "dev/stream/x s qos1");
    for qos in [1, 2] {
        let filter = format!("$share/g{qos}/dev/shared");
        let mut first = crate::shared::member(&a, "first", &filter, qos).await;
        publisher.publish(msg("dev/shared", "1").qos(qos)).await;
        assert_eq!(first.receive_shown().await, format!("dev/shared 1 qos{qos}"));
        first.goodbye().await;
        let mut second = crate::shared::member(&b, "second", &filter, qos).await;
        publisher.publish(msg("dev/shared", "2").qos(qos)).await;
        assert_eq!(second.receive_shown().await, format!("dev/shared 2 qos{qos}"));
        second.goodbye().await;
        let name = format!("g{qos}@dev,shared");
        eventually("nothing is left of the group's", async || {
            crate::shared::consumer(&client, &name).await["num_ack_pending"] == 0
        })
        .await;
    }
    let asked = crate::requests::ask(&client, "dev.cmd", async_nats::HeaderMap::new(), "question");
    loop {
        let got = device.receive().await;
        if got.topic_name().unwrap().as_str() == "dev/cmd" {
            device.publish(crate::requests::answer_to(&got, "answer", 1)).await;
            break;
        }
    }
    assert_eq!(asked.await.unwrap().payload, "answer");
    for sidecar in [&a, &b] {
        assert!(!sidecar.log().contains("ermissions"), "{}", sidecar.log());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn check_says_whether_nats_can_be_used() {
    let world = World::shared().await;
    let good = program(&["check", "--nats", &world.nats.url()]).await;
    assert_eq!(good.code, 0, "{good:?}");
    for word in ["configuration: ok", "nats: ok", "jetstream: ok"] {
        assert!(good.stdout.contains(word), "{good:?}");
    }
    let away = program(&["check", "--nats", "nats://127.0.0.1:9"]).await;
    assert_eq!(away.code, 1, "{away:?}");
    assert!(away.stderr.contains("127.0.0.1:9"), "{away:?}");
    let offline = program(&["check", "--offline", "--nats", "nats://127.0.0.1:9"]).await;
    assert_eq!(offline.code, 0, "{offline:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_maps_topics_and_says_its_version() {
    for (args, expected) in [
        (&["topic", "map", "home/Living Room/temp"][..], "home."),
        (&["topic", "map", "a.b/c"], "a//b.c"),
        (&["topic", "map", "foo/#"], "foo.>"),
        (&["topic", "unmap", "a//b.c"], "a.b/c"),
        (&["--version"], env!("CARGO_PKG_VERSION")),
    ] {
        let finished = program(args).await;
        assert_eq!(finished.code, 0, "{args:?}: {finished:?}");
        assert!(finished.stdout.contains(expected), "{args:?}: {finished:?}");
    }
    for args in [&["topic", "map", "a/#/b"][..], &["--no-such-option"], &["--listen", "nowhere"]] {
        assert_eq!(program(args).await.code, 2, "{args:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn health_and_metrics_tell_what_goes_on() {
    let world = World::shared().await;
    assert_eq!(world.a.get("/livez").await.0, 200);
    assert_eq!(world.a.get("/readyz").await.0, 200);
    assert_eq!(world.a.get("/elsewhere").await.0, 404);
    let admin = format!("127.0.0.1:{}", world.a.admin_port);
    assert_eq!(program(&["health", "--admin", &admin]).await.code, 0);
    assert_eq!(program(&["health", "--admin", "127.0.0.1:9"]).await.code, 1);

    let published = "mqtt_messages_total{direction=\"in\",qos=\"1\"}";
    let before = world.a.metric(published).await;
    let topic = unique("counted");
    let mut client = world.a.v311(&unique("client")).await;
    client.subscribe(&topic, 1).await;
    client.publish(msg(&topic, "x").qos(1)).await;
    client.receive().await;
    let before_out = "mqtt_packets_total{direction=\"out\",type=\"puback\"}";
    eventually("it is counted", async || world.a.metric(published).await > before).await;
    assert!(world.a.metric(before_out).await >= 1.0);
    assert!(world.a.metric("mqtt_connections").await >= 1.0);
    assert_eq!(world.a.metric("nats_connected").await, 1.0);
    let (_, text) = world.a.get("/metrics").await;
    for family in [
        "mqtt_connections",
        "mqtt_sessions",
        "mqtt_packets",
        "mqtt_messages",
        "mqtt_messages_dropped",
        "mqtt_publish_ack_duration_seconds",
        "mqtt_connect",
        "mqtt_disconnect",
        "mqtt_retained_messages",
        "mqtt_wills",
        "nats_connected",
        "nats_js_api_errors",
        "process_resident_memory_bytes",
        "build",
    ] {
        assert!(text.contains(&format!("# TYPE {family} ")), "{family}");
    }
    assert!(text.ends_with("# EOF\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn it_waits_for_a_nats_server_that_comes_later() {
    let mut nats = NatsServer::prepared(true, "");
    let mut sidecar = SidecarBuilder::of(&nats, "sidecar").launch();
    eventually("it lives", async || sidecar.answers("/livez", 200).await).await;
    eventually("it is not ready", async || sidecar.answers("/readyz", 503).await).await;
    nats.restart();
    sidecar.ready().await;
    let mut client = sidecar.v5("client").await;
    assert_eq!(client.publish(msg("x", "y").qos(1)).await, ReasonCode::Success);
}

#[tokio::test(flavor = "multi_thread")]
async fn it_waits_for_an_answer_that_was_lost_while_it_starts() {
    let nats = NatsServer::start();
    let relay = Relay::start(nats.url()).await;
    // The last that is asked before the log is read.
    relay.mute_at("retained.position");
    let mut sidecar = SidecarBuilder::new("sidecar", &["--nats", &relay.url()]).launch();
    eventually("it says what it waits for", async || sidecar.log().contains("waiting for JetStream")).await;
    assert!(sidecar.answers("/readyz", 503).await);
    relay.cut();
    sidecar.ready().await;
    let mut client = sidecar.v5("client").await;
    assert_eq!(client.publish(msg("x", "y").qos(1)).await, ReasonCode::Success);
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_while_it_waits_for_nats_ends_it_with_0() {
    let nats = NatsServer::prepared(true, "");
    let mut sidecar = SidecarBuilder::of(&nats, "sidecar").launch();
    eventually("it lives", async || sidecar.answers("/livez", 200).await).await;
    assert_eq!(sidecar.stop().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_acknowledges_what_is_in_flight_and_says_goodbye() {
    let nats = NatsServer::start();
    let mut sidecar = Sidecar::start(&nats, "sidecar").await;
    let mut idle = sidecar.v5("idle").await;
    let mut old = sidecar.v311("old").await;
    let mut busy = sidecar.v5("busy").await;
    for number in 0..100 {
        busy.start_publish(&msg("drain/x", number.to_string()).qos(1));
    }
    busy.other(|packet| matches!(packet, Packet::PubAck(_))).await;
    sidecar.terminate();
    let (mut acked, mut goodbye) = (1, None);
    let ended = loop {
        match busy.packet(tokio::time::Instant::now() + PATIENCE).await {
            Ok(Packet::PubAck(ack)) => {
                assert!(!ack.reason.is_error() && goodbye.is_none(), "{ack:?} {goodbye:?}");
                acked += 1;
            }
            Ok(Packet::Disconnect(disconnect)) => goodbye = Some(disconnect.reason),
            Ok(other) => panic!("{other:?}"),
            Err(ended) => break ended,
        }
    };
    assert_eq!((ended, goodbye), (Ended::Closed, Some(ReasonCode::ServerShuttingDown)));
    assert_eq!(idle.closed().await, Some(ReasonCode::ServerShuttingDown));
    assert_eq!(old.closed().await, None);
    assert_eq!(sidecar.ended().await.code(), Some(0));
    assert_eq!(stored(&nats.client().await, "MQTT_log", "").await, acked, "what is stored is what was acknowledged");
}

/// The port of the embedded nats-server, from the line that says that all is ready.
fn embedded_port(sidecar: &Sidecar) -> u16 {
    let log = sidecar.log();
    let line = log.lines().rfind(|line| line.contains("NATS at nats://127.0.0.1:")).expect("the line that says ready");
    let (_, rest) = line.split_once("NATS at nats://127.0.0.1:").unwrap();
    rest.chars().take_while(char::is_ascii_digit).collect::<String>().parse().expect("a port")
}

async fn is_gone(port: u16) {
    eventually("nats-server is gone", async || TcpStream::connect(("127.0.0.1", port)).await.is_err()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn embedded_starts_a_nats_server_keeps_its_data_and_stops_it() {
    let server = nats_server_program();
    let builder = SidecarBuilder::new("sidecar", &["--embedded", "--embedded-port", "0"])
        .set("EMBEDDED__SERVER", server.to_str().unwrap());
    // The nats-server that it starts has no accounts.
    let mut sidecar = builder.open().start().await;
    let first = embedded_port(&sidecar);
    let mut client = sidecar.v5("client").await;
    client.publish(msg("kept", "here").qos(1).retained()).await;
    // Devices send messages of more than the megabyte that nats-server takes by default.
    let large = "x".repeat(2 << 20);
    client.subscribe("large", 1).await;
    client.publish(msg("large", large.clone()).qos(1)).await;
    assert_eq!(client.receive().await.payload.len(), large.len());
    assert_eq!(sidecar.stop().await.code(), Some(0));
    assert_eq!(client.closed().await, Some(ReasonCode::ServerShuttingDown));
    is_gone(first).await;

    sidecar.restart().await;
    let mut client = sidecar.v5("client").await;
    client.subscribe("kept", 1).await;
    assert_eq!(client.receive_shown().await, "kept here qos1 retain");
    let second = embedded_port(&sidecar);
    assert!(TcpStream::connect(("127.0.0.1", second)).await.is_ok());
    // kill -9 leaves no nats-server behind either.
    sidecar.kill();
    is_gone(second).await;
    tokio::time::timeout(Duration::from_secs(60), sidecar.restart()).await.expect("it starts again");
}
