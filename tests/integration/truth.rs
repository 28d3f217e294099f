//! `/readyz` and the metrics say how it is now: not that it was well once, and not that it is when it is not.

use mqtt_codec::ReasonCode;
use serde_json::{Value, json};

use crate::harness::{
    Client, NatsServer, Options, Sidecar, SidecarBuilder, World, eventually, heavy, js_api, msg, stream_info,
};

/// Waits until `/readyz` names what is missing, all of `names`.
async fn misses(sidecar: &Sidecar, names: &[&str]) {
    eventually(&format!("{names:?} are missing"), async || {
        let (status, text) = sidecar.get("/readyz").await;
        let missing = text.trim_end().strip_prefix("not ready, missing: ").unwrap_or_default().to_owned();
        status == 503 && names.iter().all(|name| missing.split(", ").any(|have| have == *name))
    })
    .await;
    for name in names {
        assert_eq!(sidecar.metric(&format!("mqtt_ready{{condition=\"{name}\"}}")).await, 0.0, "{name}");
    }
}

/// Waits until nothing is missing.
async fn is_ready(sidecar: &Sidecar) {
    eventually("it is ready", async || sidecar.get("/readyz").await == (200, "ready\n".to_owned())).await;
    let (_, metrics) = sidecar.get("/metrics").await;
    let conditions: Vec<&str> = metrics.lines().filter_map(|line| line.strip_prefix("mqtt_ready{condition=")).collect();
    let names = ["nats", "assets", "lease", "retained", "tails", "publishing", "streams", "listeners", "not draining"];
    assert_eq!(conditions, names.map(|name| format!("\"{name}\"}} 1")));
}

async fn succeeds(nats: &async_nats::Client, what: &str, body: &Value) -> Value {
    let answer = js_api(nats, what, body).await;
    assert!(answer["error"].is_null(), "{what}: {answer}");
    answer
}

/// The consumers of the log whose names begin so.
async fn consumers(nats: &async_nats::Client, prefix: &str) -> Vec<String> {
    let list = succeeds(nats, "CONSUMER.NAMES.MQTT_log", &Value::Null).await;
    let names = list["consumers"].as_array().into_iter().flatten().filter_map(Value::as_str);
    names.filter(|name| name.starts_with(prefix)).map(str::to_owned).collect()
}

/// Tries to make a consumer of the log.
async fn consume(nats: &async_nats::Client, name: &str) -> bool {
    let config =
        json!({ "name": name, "ack_policy": "none", "mem_storage": true, "inactive_threshold": 600_000_000_000_u64 });
    let body = json!({ "stream_name": "MQTT_log", "action": "create", "config": config });
    js_api(nats, &format!("CONSUMER.CREATE.MQTT_log.{name}"), &body).await["error"].is_null()
}

async fn change_log(nats: &async_nats::Client, changes: &[(&str, Value)]) {
    let mut config = stream_info(nats, "MQTT_log").await["config"].clone();
    for (key, value) in changes {
        config[*key] = value.clone();
    }
    succeeds(nats, "STREAM.UPDATE.MQTT_log", &config).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tail_that_cannot_read_is_not_ready_until_it_can() {
    let nats = NatsServer::start();
    let mut sidecar = Sidecar::start(&nats, "sidecar").await;
    let client = nats.client().await;
    // The log again, with room for few consumers.
    sidecar.stop().await;
    let mut config = stream_info(&client, "MQTT_log").await["config"].clone();
    config["max_consumers"] = json!(2);
    succeeds(&client, "STREAM.DELETE.MQTT_log", &Value::Null).await;
    succeeds(&client, "STREAM.CREATE.MQTT_log", &config).await;
    sidecar.restart().await;
    is_ready(&sidecar).await;
    assert!(sidecar.metric("mqtt_tail_silence_seconds").await < 5.0);
    assert!(consume(&client, "first").await);
    assert!(!consume(&client, "second").await, "one is for the tail");
    // Its place is taken as soon as it is free.
    eventually("the tail has no consumer", async || {
        for tail in consumers(&client, "nmq-tail").await {
            js_api(&client, &format!("CONSUMER.DELETE.MQTT_log.{tail}"), &Value::Null).await;
        }
        consume(&client, "second").await
    })
    .await;
    misses(&sidecar, &["tails"]).await;
    assert!(sidecar.metric("mqtt_tail_silence_seconds").await > 5.0);
    succeeds(&client, "CONSUMER.DELETE.MQTT_log.second", &Value::Null).await;
    is_ready(&sidecar).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stands_still_is_seen_before_anybody_is_cut() {
    let _turn = heavy().await;
    let nats = NatsServer::start();
    let sidecar = SidecarBuilder::of(&nats, "sidecar").set("JETSTREAM__PUBLISH_INFLIGHT", "2").start().await;
    let mut device = sidecar.connect(Options::v5("device").durable(3_600)).await;
    let mut others: Vec<Client> = Vec::new();
    for number in 0..3 {
        others.push(sidecar.v5(&format!("other-{number}")).await);
    }
    assert_eq!(device.publish(msg("x", "before").qos(1)).await, ReasonCode::Success);
    is_ready(&sidecar).await;
    nats.pause();
    let id = device.start_publish(&msg("x", "meanwhile").qos(1));
    device.flush().await;
    for (number, other) in others.iter_mut().enumerate() {
        other.start_publish(&msg(&format!("y/{number}"), "meanwhile").qos(1));
        other.flush().await;
    }
    eventually("some wait for their turn", async || sidecar.metric("mqtt_permits_waiting").await >= 2.0).await;
    assert!(sidecar.metric("mqtt_permits_waited_total").await >= 2.0);
    assert_eq!(sidecar.metric("mqtt_publishes_under_way").await, 2.0);
    misses(&sidecar, &["publishing"]).await;
    assert!(sidecar.metric("mqtt_publish_oldest_seconds").await >= 5.0);
    misses(&sidecar, &["lease"]).await;
    let age = sidecar.metric("mqtt_lease_age_seconds").await;
    assert!((10.0..18.0).contains(&age), "{age}");
    nats.go_on();
    device.other(|packet| matches!(packet, mqtt_codec::Packet::PubAck(ack) if Some(ack.packet_id) == id)).await;
    is_ready(&sidecar).await;
    eventually("nobody waits", async || sidecar.metric("mqtt_permits_waiting").await == 0.0).await;
    assert!(sidecar.metric("mqtt_lease_age_seconds").await < 10.0);
    // Nobody was cut.
    device.ping().await;
    for other in &mut others {
        other.ping().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_is_full_and_keeps_what_it_has_has_no_room_until_it_is_made_larger() {
    let nats = NatsServer::start();
    let sidecar = Sidecar::start(&nats, "sidecar").await;
    let client = nats.client().await;
    is_ready(&sidecar).await;
    change_log(&client, &[("discard", json!("new")), ("max_bytes", json!(100_000))]).await;
    let mut device = sidecar.v5("device").await;
    let mut answer = ReasonCode::Success;
    while answer == ReasonCode::Success {
        answer = device.publish(msg("x", vec![0; 10_000]).qos(1)).await;
    }
    assert_eq!(answer, ReasonCode::QuotaExceeded);
    misses(&sidecar, &["streams"]).await;
    assert_eq!(sidecar.metric("mqtt_stream_full{stream=\"MQTT_log\"}").await, 1.0);
    // A smaller one still fits, and is no sign that there is room.
    assert_eq!(device.publish(msg("x", "small").qos(1)).await, ReasonCode::Success);
    misses(&sidecar, &["streams"]).await;
    change_log(&client, &[("max_bytes", json!(1_000_000))]).await;
    is_ready(&sidecar).await;
    assert_eq!(sidecar.metric("mqtt_stream_bytes_max{stream=\"MQTT_log\"}").await, 1_000_000.0);
    assert_eq!(device.publish(msg("x", vec![0; 10_000]).qos(1)).await, ReasonCode::Success);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_is_full_is_noticed_although_nobody_publishes() {
    let account =
        "accounts { A: { users: [{ user: a, password: a }], jetstream: { max_store: 300MB } } }\nno_auth_user: a";
    let nats = NatsServer::start_with(true, account);
    let sidecar = SidecarBuilder::of(&nats, "sidecar")
        .set("JETSTREAM__LOG__MAX_BYTES", "64MiB")
        .set("JETSTREAM__BACKLOG__MAX_BYTES", "64MiB")
        .start()
        .await;
    let client = nats.client().await;
    is_ready(&sidecar).await;
    succeeds(&client, "STREAM.CREATE.FILL", &json!({ "name": "FILL", "subjects": ["fill"] })).await;
    // Until not even a little has room.
    for bytes in [1_000_000, 10_000, 100, 1] {
        let mut taken = true;
        while taken {
            let answer = client.request("fill", vec![0; bytes].into()).await.unwrap();
            taken = serde_json::from_slice::<Value>(&answer.payload).unwrap()["error"].is_null();
        }
    }
    misses(&sidecar, &["streams"]).await;
    succeeds(&client, "STREAM.DELETE.FILL", &Value::Null).await;
    is_ready(&sidecar).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_ours_that_is_gone_is_missing_until_it_is_there() {
    let nats = NatsServer::start();
    let sidecar = Sidecar::start(&nats, "sidecar").await;
    let client = nats.client().await;
    let config = stream_info(&client, "MQTT_backlog").await["config"].clone();
    is_ready(&sidecar).await;
    // Nobody needs it at the moment, so nobody makes it again.
    succeeds(&client, "STREAM.DELETE.MQTT_backlog", &Value::Null).await;
    misses(&sidecar, &["assets"]).await;
    succeeds(&client, "STREAM.CREATE.MQTT_backlog", &config).await;
    is_ready(&sidecar).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happens_inside_is_counted() {
    const COUNT: usize = 3_000;
    let _turn = heavy().await;
    let world = World::own().await;
    let takeovers =
        async |sidecar: &Sidecar, by: &str| sidecar.metric(&format!("mqtt_takeovers_total{{by=\"{by}\"}}")).await;
    // A client comes again, here and there.
    let _first = world.a.connect(Options::v5("device").durable(3_600)).await;
    let second = world.a.connect(Options::v5("device").durable(3_600)).await;
    assert_eq!([takeovers(&world.a, "local").await, takeovers(&world.a, "other_sidecar").await], [1.0, 0.0]);
    let _third = world.b.connect(Options::v5("device").durable(3_600)).await;
    eventually("the other sidecar has taken it", async || takeovers(&world.a, "other_sidecar").await == 1.0).await;
    assert_eq!(takeovers(&world.b, "local").await + takeovers(&world.b, "other_sidecar").await, 0.0);
    drop(second);
    // A subscriber that does not read falls behind, and is brought up when it does.
    let mut slow = world.a.v311("slow").await;
    slow.subscribe("load/#", 1).await;
    assert_eq!(world.a.metric("mqtt_feeds_behind").await, 0.0);
    // Sessions that are resumed have been brought up.
    let scans = world.a.metric("mqtt_scans_total").await;
    let load = (0..COUNT).map(|n| msg("load/x", n.to_string()).qos(1));
    world.b.v311("filler").await.publish_all(load, 128, |_| {}).await;
    eventually("a feed is behind", async || world.a.metric("mqtt_feeds_behind").await == 1.0).await;
    for number in 0..COUNT {
        assert_eq!(slow.receive().await.payload, number.to_string());
    }
    eventually("no feed is behind", async || world.a.metric("mqtt_feeds_behind").await == 0.0).await;
    assert!(world.a.metric("mqtt_scans_total").await > scans);
    eventually("no scan runs", async || world.a.metric("mqtt_scans_running").await == 0.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_of_size_and_depth_are_counted() {
    let nats = NatsServer::start();
    let sidecar = SidecarBuilder::of(&nats, "sidecar")
        .set("MQTT__MAX_TOPIC_LEVELS", "3")
        .set("MQTT__MAX_PACKET_SIZE", "4096")
        .start()
        .await;
    let refusals = async |limit: &str| sidecar.metric(&format!("mqtt_over_limit_total{{limit=\"{limit}\"}}")).await;
    let mut client = sidecar.v5("deep").await;
    assert_eq!(client.asks_for("a/b/c/d", 1).await, ReasonCode::TopicFilterInvalid);
    assert_eq!(refusals("topic_levels").await, 1.0);
    assert_eq!(client.asks_for("a/#/c", 1).await, ReasonCode::TopicFilterInvalid, "another fault");
    assert_eq!(refusals("topic_levels").await, 1.0);
    client.start_publish(&msg("a/b/c/d", "x").qos(1));
    client.flush().await;
    client.closed().await;
    eventually("it is counted", async || refusals("topic_levels").await == 2.0).await;
    let mut client = sidecar.v5("large").await;
    client.start_publish(&msg("a", vec![0; 8_000]).qos(1));
    client.flush().await;
    assert_eq!(client.closed().await, Some(ReasonCode::PacketTooLarge));
    eventually("it is counted", async || refusals("packet_size").await == 1.0).await;
}
