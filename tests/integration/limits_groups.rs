//! Groups of shared subscriptions: how many there can be, and when one ends that nobody holds.

use std::time::Duration;

use async_nats::Client as NatsClient;
use mqtt_codec::ReasonCode;
use serde_json::{Value, json};

use crate::harness::{Client, NatsServer, Options, Sidecar, SidecarBuilder, eventually, js_api, msg, stream_info};

/// What JetStream says of a consumer, also that there is none.
async fn consumer(nats: &NatsClient, stream: &str, name: &str) -> Value {
    js_api(nats, &format!("CONSUMER.INFO.{stream}.{name}"), &Value::Null).await
}

async fn asked(client: &mut Client, filters: &[&str], qos: u8) -> Vec<u8> {
    let mut reasons = Vec::new();
    for filter in filters {
        reasons.push(client.asks_for(filter, qos).await as u8);
    }
    reasons
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_has_so_many_groups_and_who_joins_one_makes_none() {
    let server = NatsServer::start();
    let builder = |name| SidecarBuilder::of(&server, name).set("JETSTREAM__SHARED__MAX_GROUPS", "3");
    let (a, b) = (builder("a").start().await, builder("b").start().await);
    let mut first = a.v5("first").await;
    assert_eq!(asked(&mut first, &["$share/a/x", "$share/b/x", "$share/c/x", "$share/d/x"], 1).await, [1, 1, 1, 0x97]);
    assert_eq!(a.connect(Options::v311("old")).await.asks_for("$share/d/x", 1).await as u8, 0x80);
    let mut second = b.v5("second").await;
    // What the records say is known a moment later.
    eventually("the other sidecar knows of them", async || {
        let reason = second.asks_for("$share/d/x", 1).await;
        if reason != ReasonCode::QuotaExceeded {
            second.unsubscribe("$share/d/x").await;
        }
        reason == ReasonCode::QuotaExceeded
    })
    .await;
    assert_eq!(asked(&mut second, &["$share/a/x", "$share/d/x"], 2).await, [2, 0x97]);
    assert_eq!(second.asks_for("$share/e/x", 0).await, ReasonCode::Success, "it has no consumer");
    first.unsubscribe("$share/b/x").await;
    eventually("there is room again", async || second.asks_for("$share/d/x", 1).await == ReasonCode::GrantedQoS1).await;
    assert!(a.metric("mqtt_over_limit_total{limit=\"groups\"}").await > 0.5);
}

/// A stream of the user's own, with few consumers.
#[tokio::test(flavor = "multi_thread")]
async fn groups_leave_sidecars_the_consumers_of_a_stream() {
    let server = NatsServer::start();
    let nats = server.client().await;
    let config = json!({ "name": "OWN", "subjects": ["own.>"], "max_consumers": 8 });
    assert!(js_api(&nats, "STREAM.CREATE.OWN", &config).await["error"].is_null());
    let mut sidecar = Sidecar::start(&server, "sidecar").await;
    let mut client = sidecar.v5("hostile").await;
    let filters: Vec<String> = (0..8).map(|i| format!("$share/g{i}/own/x")).collect();
    let filters: Vec<&str> = filters.iter().map(String::as_str).collect();
    let reasons = asked(&mut client, &filters, 1).await;
    assert_eq!(reasons.last(), Some(&0x97), "{reasons:?}");
    assert!(stream_info(&nats, "OWN").await["state"]["consumer_count"].as_u64() <= Some(4));
    assert!(sidecar.metric("mqtt_over_limit_total{limit=\"consumers\"}").await > 0.5);
    sidecar.stop().await;
    sidecar.restart().await;
    let mut client = sidecar.v5("well-behaved").await;
    client.subscribe("own/t", 1).await;
    client.publish(msg("own/t", "after the restart").qos(1)).await;
    assert_eq!(client.receive_shown().await, "own/t after the restart qos1");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_consumer_of_a_group_that_nobody_holds_ends_and_others_stay() {
    let server = NatsServer::start();
    let nats = server.client().await;
    let sidecar = SidecarBuilder::of(&server, "sidecar")
        .set("JETSTREAM__SHARED__UNHELD_THRESHOLD", "1s")
        .set("JETSTREAM__SHARED__INACTIVE_THRESHOLD", "1h")
        .start()
        .await;
    let mut away = sidecar.connect(Options::v5("away").durable(600)).await;
    away.subscribe("$share/held/x", 1).await;
    away.goodbye().await;
    let mut here = sidecar.v5("here").await;
    for filter in ["$share/used/x", "$share/left/x"] {
        here.subscribe(filter, 1).await;
    }
    let mut gone = sidecar.v5("gone").await;
    gone.subscribe("$share/ended/x", 1).await;
    gone.goodbye().await;
    here.unsubscribe("$share/left/x").await;
    for name in ["left@x", "ended@x"] {
        eventually("the consumer ends", async || consumer(&nats, "MQTT_log", name).await["error"]["code"] == 404).await;
    }
    // These had the same time.
    for name in ["held@x", "used@x"] {
        let info = consumer(&nats, "MQTT_log", name).await;
        assert_eq!(info["config"]["inactive_threshold"], json!(3_600_000_000_000_u64), "{name}: {info}");
    }
    here.publish(msg("x", "for the group").qos(1)).await;
    assert_eq!(here.receive_shown().await, "x for the group qos1");
    // Its session ends.
    let away = sidecar.connect(Options::v5("away")).await;
    assert!(!away.is_resumed());
    eventually("the consumer ends", async || consumer(&nats, "MQTT_log", "held@x").await["error"]["code"] == 404).await;
    // Whoever comes again before the end is in time.
    let mut away = away;
    away.subscribe("$share/again/x", 1).await;
    away.unsubscribe("$share/again/x").await;
    let threshold = async || consumer(&nats, "MQTT_log", "again@x").await["config"]["inactive_threshold"].as_u64();
    eventually("it ends soon", async || threshold().await.is_none_or(|ns| ns == 1_000_000_000)).await;
    away.subscribe("$share/again/x", 1).await;
    assert_eq!(threshold().await, Some(3_600_000_000_000));
    tokio::time::timeout(Duration::from_secs(5), away.publish(msg("x", "again").qos(1))).await.unwrap();
    assert_eq!(away.receive_shown().await, "x again qos1");
}
