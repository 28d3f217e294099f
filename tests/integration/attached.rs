//! Streams that somebody else has are the logs of their subjects: MQTT publishes go into them, what NATS clients put there
//! reaches MQTT subscribers at their QoS, and nobody gets anything twice.

use async_nats::HeaderMap;
use mqtt_codec::{ReasonCode, Version};
use serde_json::{Value, json};

use crate::harness::{
    Client, NatsServer, Options, Sidecar, SidecarBuilder, Watch, World, eventually, js_api, msg, settle, stored, unique,
};

const LONG: u32 = 3600;

/// Creates a stream, and waits until the sidecars follow it.
pub(crate) async fn create(nats: &async_nats::Client, sidecars: &[&Sidecar], config: &Value) {
    let name = config["name"].as_str().unwrap();
    let answer = js_api(nats, &format!("STREAM.CREATE.{name}"), config).await;
    assert!(answer["error"].is_null(), "{answer}");
    for sidecar in sidecars {
        follows(sidecar, name, 1).await;
    }
}

/// Waits until a sidecar has begun to follow a stream for the `times`-th time.
pub(crate) async fn follows(sidecar: &Sidecar, stream: &str, times: usize) {
    let is_said = |line: &str| line.contains(stream) && line.contains("is a log of these subjects");
    eventually(&format!("{stream} is followed"), async || {
        sidecar.log().lines().filter(|line| is_said(line)).count() >= times
    })
    .await;
}

/// Stores a message through JetStream, as a NATS client does.
pub(crate) async fn put(nats: &async_nats::Client, subject: &str, payload: &str) {
    let answer = nats.request(subject.to_owned(), payload.to_owned().into()).await.unwrap();
    let answer: Value = serde_json::from_slice(&answer.payload).unwrap();
    assert!(answer["error"].is_null() && answer["seq"].is_u64(), "{answer}");
}

async fn durable(sidecar: &Sidecar, version: Version, id: &str) -> Client {
    sidecar.connect(Options::new(version, id).durable(LONG)).await
}

async fn shown(client: &mut Client, count: usize) -> Vec<String> {
    let mut all = Vec::new();
    while all.len() < count {
        all.push(client.receive_shown().await);
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_stream_has_reaches_a_device_that_was_away_while_all_sidecars_restarted() {
    let mut world = World::own().await;
    let nats = world.nats.client().await;
    create(&nats, &[&world.a, &world.b], &json!({"name": "ORDERS", "subjects": ["orders.>"]})).await;
    put(&nats, "orders.old", "before anybody subscribed").await;
    for (version, qos) in [(Version::V311, 1), (Version::V5, 2)] {
        let id = unique("away");
        let mut device = durable(&world.a, version, &id).await;
        device.subscribe("orders/#", qos).await;
        put(&nats, "orders.live", "live").await;
        assert_eq!(device.receive_shown().await, format!("orders/live live qos{qos}"));
        device.goodbye().await;
        for n in 0..20 {
            put(&nats, "orders.new", &n.to_string()).await;
        }
        world.a.restart().await;
        world.b.kill();
        world.b.restart().await;
        for n in 20..40 {
            put(&nats, "orders.new", &n.to_string()).await;
        }
        let mut device = durable(&world.b, version, &id).await;
        let expected: Vec<String> = (0..40).map(|n| format!("orders/new {n} qos{qos}")).collect();
        assert_eq!(shown(&mut device, 40).await, expected);
        put(&nats, "orders.live", "end").await;
        assert_eq!(device.shown_until("end").await, [""; 0]);
        device.goodbye().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publish_goes_into_the_stream_that_has_its_subject_and_to_everybody_once() {
    // `#` sees what other tests do.
    let world = World::own().await;
    let nats = world.nats.client().await;
    let (t, stream) = (unique("cap"), unique("CAP"));
    create(&nats, &[&world.a, &world.b], &json!({"name": stream, "subjects": [format!("{t}.>")]})).await;
    let mut watch = Watch::new(&nats, &format!("{t}.>")).await;
    let mut subscribers = Vec::new();
    for sidecar in [&world.a, &world.b] {
        for qos in [0, 1, 2] {
            let mut client = sidecar.v311(&unique("sub")).await;
            client.subscribe("#", qos).await;
            client.subscribe(&format!("{t}/+"), qos).await;
            subscribers.push((client, qos));
        }
        let mut mixed = sidecar.v311(&unique("mixed")).await;
        mixed.subscribe("#", 0).await;
        mixed.subscribe(&format!("{t}/#"), 2).await;
        subscribers.push((mixed, 2));
    }
    let mut publisher = world.a.v5(&unique("pub")).await;
    let topic = format!("{t}/x");
    for qos in [0, 1, 2] {
        assert_eq!(publisher.publish(msg(&topic, format!("mqtt {qos}")).qos(qos)).await, ReasonCode::Success);
        let copy = watch.next().await;
        let is_said = |name: &str| !name.starts_with("Nats-") && !["Mqtt-Write", "Mqtt-Epoch"].contains(&name);
        let names = copy.headers.iter().flat_map(HeaderMap::iter).filter(|(name, _)| is_said(name.as_ref()));
        assert!(names.count() <= 1, "{:?}", copy.headers);
        // What JetStream has is ordered, what core NATS brings is beside it.
        for (client, granted) in &mut subscribers {
            let expected = format!("{topic} mqtt {qos} qos{}", qos.min(*granted));
            assert_eq!(client.receive_shown().await, expected, "{} at {granted}", client.id());
        }
    }
    nats.publish(format!("{t}.x"), "nats core".into()).await.unwrap();
    settle(&nats).await;
    for (client, granted) in &mut subscribers {
        assert_eq!(client.receive_shown().await, format!("{topic} nats core qos{granted}"));
    }
    put(&nats, &format!("{t}.x"), "end").await;
    for (client, _) in &mut subscribers {
        assert_eq!(client.shown_until("end").await, [""; 0], "nothing comes twice");
    }
    assert_eq!(stored(&nats, &stream, "").await, 5);
    assert_eq!(stored(&nats, "MQTT_log", &format!("$NMQ.log.{t}.>")).await, 0);
    js_api(&nats, &format!("STREAM.DELETE.{stream}"), &Value::Null).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_stream_is_told_in_5_and_not_acknowledged_in_3_1_1() {
    let world = World::shared().await;
    let nats = world.nats.client().await;
    let (t, stream) = (unique("full"), unique("FULL"));
    let config = json!({"name": stream, "subjects": [format!("{t}.>")], "max_msgs": 2, "discard": "new"});
    create(&nats, &[&world.a], &config).await;
    let topic = format!("{t}/x");
    let mut v5 = world.a.v5(&unique("v5")).await;
    for n in ["1", "2"] {
        assert_eq!(v5.publish(msg(&topic, n).qos(1)).await, ReasonCode::Success);
    }
    for qos in [1, 2] {
        assert_eq!(v5.publish(msg(&topic, "3").qos(qos)).await, ReasonCode::QuotaExceeded);
    }
    let mut v311 = world.a.v311(&unique("v311")).await;
    v311.start_publish(&msg(&topic, "4").qos(1));
    // No PUBACK: a closed connection, so that the device tries again.
    assert_eq!(v311.closed().await, None);
    assert_eq!(stored(&nats, &stream, "").await, 2);
    js_api(&nats, &format!("STREAM.DELETE.{stream}"), &Value::Null).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_appear_change_and_vanish_are_followed() {
    let world = World::shared().await;
    let nats = world.nats.client().await;
    let (t, stream) = (unique("coming"), unique("COMING"));
    let id = unique("device");
    let mut device = durable(&world.b, Version::V5, &id).await;
    device.subscribe(&format!("{t}/#"), 1).await;
    let mut publisher = world.a.v5(&unique("pub")).await;
    let mut watch = Watch::new(&nats, &format!("{t}.a")).await;
    publisher.publish(msg(&format!("{t}/a"), "in the log").qos(1)).await;
    assert_eq!(device.receive_shown().await, format!("{t}/a in the log qos1"));
    // NATS gets its copy after the PUBACK; a stream that is made before that copy comes would have it.
    watch.next().await;

    create(&nats, &[&world.a, &world.b], &json!({"name": stream, "subjects": [format!("{t}.a")]})).await;
    publisher.publish(msg(&format!("{t}/a"), "in the stream").qos(1)).await;
    publisher.publish(msg(&format!("{t}/b"), "in the log").qos(1)).await;
    let mut got = shown(&mut device, 2).await;
    got.sort();
    assert_eq!(got, [format!("{t}/a in the stream qos1"), format!("{t}/b in the log qos1")]);
    assert_eq!(stored(&nats, &stream, "").await, 1);
    device.goodbye().await;
    put(&nats, &format!("{t}.a"), "while away").await;

    let subjects = json!({"name": stream, "subjects": [format!("{t}.a"), format!("{t}.c")]});
    js_api(&nats, &format!("STREAM.UPDATE.{stream}"), &subjects).await;
    for sidecar in [&world.a, &world.b] {
        let is_said = |line: &str| line.contains(&*stream) && line.contains("has other subjects");
        eventually("the change is known", async || sidecar.log().lines().any(is_said)).await;
    }
    publisher.publish(msg(&format!("{t}/c"), "changed").qos(1)).await;
    assert_eq!(stored(&nats, &stream, &format!("{t}.c")).await, 1);
    let mut device = durable(&world.a, Version::V5, &id).await;
    assert!(device.is_resumed());
    let mut got = shown(&mut device, 2).await;
    got.sort();
    assert_eq!(got, [format!("{t}/a while away qos1"), format!("{t}/c changed qos1")]);

    js_api(&nats, &format!("STREAM.DELETE.{stream}"), &Value::Null).await;
    eventually("the stream is let go", async || {
        [&world.a, &world.b].iter().all(|s| s.log().lines().any(|l| l.contains(&*stream) && l.contains("any more")))
    })
    .await;
    publisher.publish(msg(&format!("{t}/a"), "in the log again").qos(1)).await;
    assert_eq!(device.receive_shown().await, format!("{t}/a in the log again qos1"));
    device.goodbye().await;

    // Another one of that name has sequences of its own.
    js_api(&nats, &format!("STREAM.CREATE.{stream}"), &json!({"name": stream, "subjects": [format!("{t}.a")]})).await;
    follows(&world.b, &stream, 2).await;
    put(&nats, &format!("{t}.a"), "anew").await;
    let mut device = durable(&world.b, Version::V5, &id).await;
    assert_eq!(device.receive_shown().await, format!("{t}/a anew qos1"));
    js_api(&nats, &format!("STREAM.DELETE.{stream}"), &Value::Null).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_cannot_be_logs_are_refused_with_a_reason() {
    let nats_server = NatsServer::start();
    let sidecar =
        SidecarBuilder::of(&nats_server, "sidecar").set("JETSTREAM__IGNORED_STREAMS", "IGNORED").start().await;
    let nats = nats_server.client().await;
    for (config, reason) in [
        (json!({"name": "WORK", "subjects": ["work.>"], "retention": "workqueue"}), Some("work queue")),
        (json!({"name": "INTEREST", "subjects": ["interest.>"], "retention": "interest"}), Some("interest retention")),
        (json!({"name": "MIRROR", "mirror": {"name": "MQTT_log"}}), None),
        (json!({"name": "INTERNAL", "subjects": ["$KV.mine.>"]}), None),
        (json!({"name": "IGNORED", "subjects": ["ignored.>"]}), None),
    ] {
        create(&nats, &[], &config).await;
        if let Some(reason) = reason {
            let name = config["name"].as_str().unwrap();
            eventually(reason, async || sidecar.log().lines().any(|line| line.contains(name) && line.contains(reason)))
                .await;
        }
    }
    let mut client = sidecar.v5("client").await;
    client.subscribe("#", 1).await;
    for topic in ["work/x", "interest/x", "ignored/x"] {
        assert_eq!(client.publish(msg(topic, "m").qos(1)).await, ReasonCode::Success);
        assert_eq!(client.receive_shown().await, format!("{topic} m qos1"));
    }
    assert_eq!(stored(&nats, "MQTT_log", "").await, 3);
    assert!(!sidecar.log().contains("is a log of these subjects"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_declared_log_keeps_its_topics_as_it_was_declared() {
    let nats_server = NatsServer::start();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("nats-mqtt.toml");
    let text = r#"
        [[jetstream.logs]]
        name = "tele"
        topics = ["tele/#", "+/status"]
        max_age = "10m"
        max_bytes = "1MB"
        storage = "memory"
    "#;
    std::fs::write(&file, text).unwrap();
    let args = ["--nats", &nats_server.url(), "-c", file.to_str().unwrap()];
    let a = SidecarBuilder::new("a", &args).start().await;
    // Whoever does not declare it finds it.
    let b = Sidecar::start(&nats_server, "b").await;
    let nats = nats_server.client().await;
    let info = js_api(&nats, "STREAM.INFO.MQTT_log_tele", &Value::Null).await;
    let config = &info["config"];
    assert_eq!(config["storage"], "memory", "{info}");
    assert_eq!((config["max_age"].as_u64(), config["max_bytes"].as_u64()), (Some(600_000_000_000), Some(1_000_000)));
    let id = unique("device");
    let mut device = durable(&b, Version::V311, &id).await;
    device.subscribe("#", 1).await;
    device.goodbye().await;
    let mut publisher = b.v5("pub").await;
    let mut watch = Watch::new(&nats, "tele.>").await;
    for topic in ["tele/x", "a/status", "other"] {
        assert_eq!(publisher.publish(msg(topic, "m").qos(1)).await, ReasonCode::Success);
    }
    assert_eq!(watch.next().await.subject.as_str(), "tele.x");
    assert_eq!(stored(&nats, "MQTT_log_tele", "").await, 2);
    assert_eq!(stored(&nats, "MQTT_log", "").await, 1);
    let mut device = durable(&a, Version::V311, &id).await;
    let mut got = shown(&mut device, 3).await;
    got.sort();
    assert_eq!(got, ["a/status m qos1", "other m qos1", "tele/x m qos1"]);
}
