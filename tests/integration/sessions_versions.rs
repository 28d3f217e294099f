//! Records that another version has written, and sessions from when the configuration was another.

use std::time::Duration;

use async_nats::Client as Nats;
use mqtt_codec::ReasonCode;
use serde_json::{Value, json};

use crate::harness::sessions::record;
use crate::harness::{Client, Ended, NatsServer, Options, SidecarBuilder, World, eventually, msg, settle};

const LONG: u32 = 3600;

async fn write(nats: &Nats, id: &str, record: &Value) {
    nats.publish(format!("$KV.MQTT_sessions.{id}"), record.to_string().into()).await.unwrap();
    settle(nats).await;
}

async fn away(nats: &Nats, id: &str) -> Value {
    let is_away = async || record(nats, id).await.is_some_and(|(_, record)| record["connected"] == false);
    eventually("the end of the connection is written", is_away).await;
    record(nats, id).await.unwrap().1
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_newer_version_has_added_survives_a_connection_to_an_older_one() {
    let world = World::own().await;
    let nats = world.nats.client().await;
    let options = || Options::v5("mixed").durable(LONG);
    let mut client = world.a.connect(options()).await;
    client.subscribe("mixed/#", 1).await;
    client.goodbye().await;
    let mut newer = away(&nats, "mixed").await;
    newer["colour"] = json!({ "hue": 3 });
    newer["subscriptions"][0]["taste"] = "sweet".into();
    write(&nats, "mixed", &newer).await;

    let mut client = world.b.connect(options()).await;
    assert!(client.is_resumed());
    client.subscribe("other", 1).await;
    client.publish(msg("mixed/x", "1").qos(1)).await;
    assert_eq!(client.receive_shown().await, "mixed/x 1 qos1");
    client.goodbye().await;
    let older = away(&nats, "mixed").await;
    assert_eq!(older["colour"], json!({ "hue": 3 }));
    assert_eq!(older["subscriptions"][0]["taste"], "sweet", "{older}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_of_a_newer_version_is_left_alone() {
    let world = World::own().await;
    let nats = world.nats.client().await;
    // One that can be read, and one in which a field has another type; both of a sidecar that is gone, with a will.
    let mut newer = json!({ "version": 3, "client_id": "readable", "epoch": 1, "owner": "gone", "connected": true,
        "expiry_s": 60, "disconnected_at": "2020-01-01T00:00:00.000Z", "since": "2020-01-01T00:00:00.000Z",
        "protocol": "5.0", "subscriptions": [], "will": { "topic": "will/newer", "payload": "", "qos": 1 } });
    write(&nats, "readable", &newer).await;
    (newer["client_id"], newer["subscriptions"]) = ("changed".into(), json!({ "a": 1 }));
    write(&nats, "changed", &newer).await;
    // One of ours beside them shows that they were looked at.
    let ours = json!({ "version": 1, "client_id": "ours", "epoch": 1, "owner": "gone", "connected": true, "expiry_s": 60,
        "since": "2020-01-01T00:00:00.000Z", "protocol": "5.0", "subscriptions": [] });
    write(&nats, "ours", &ours).await;
    let before = [record(&nats, "readable").await, record(&nats, "changed").await];
    let _c = SidecarBuilder::of(&world.nats, "sidecar c").start().await;
    away(&nats, "ours").await;

    for id in ["readable", "changed"] {
        for options in [Options::v5(id).durable(LONG), Options::v5(id)] {
            let client = Client::open(world.a.mqtt_port, options).await;
            assert_eq!(client.connack.reason, ReasonCode::ServerUnavailable, "{id}");
        }
        let old = Client::open(world.a.mqtt_port, Options::v311(id)).await;
        assert_eq!(old.connack.reason, ReasonCode::ServerUnavailable, "{id}");
    }
    assert!(world.a.log().contains("the session was written by a newer version"));
    assert_eq!([record(&nats, "readable").await, record(&nats, "changed").await], before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_does_not_bring_back_what_today_s_configuration_refuses() {
    let server = NatsServer::start();
    let nats = server.client().await;
    let mut open = SidecarBuilder::of(&server, "open").set("OPEN_TREES", "$SRV").start().await;
    let mut publisher = open.v5("pub").await;
    for n in 1..=3 {
        publisher.publish(msg(&format!("$SRV/config/{n}"), "retained").qos(1).retained()).await;
    }
    // It has got the first of three retained messages, and has not acknowledged it.
    let options = || Options::v5("from before").durable(LONG).receive_maximum(1);
    let mut client = open.connect(options()).await;
    client.acknowledges = false;
    client.subscribe("$SRV/config/#", 1).await;
    client.subscribe("plain", 1).await;
    assert!(client.receive_shown().await.starts_with("$SRV/config/1 retained qos1"));
    client.reset();
    away(&nats, "from before").await;
    publisher.publish(msg("$SRV/config/4", "logged").qos(1)).await;
    publisher.publish(msg("plain", "logged").qos(1)).await;
    open.kill();

    let closed = SidecarBuilder::of(&server, "closed").start().await;
    let mut client = closed.connect(options()).await;
    assert!(client.is_resumed());
    assert_eq!(client.receive_shown().await, "plain logged qos1");
    nats.publish("$SRV.config.5", "live".into()).await.unwrap();
    settle(&nats).await;
    closed.v5("pub").await.publish(msg("plain", "live").qos(1)).await;
    assert_eq!(client.receive_shown().await, "plain live qos1");
    assert_eq!(client.try_receive(Duration::from_millis(300)).await.map(|_| ()), Err(Ended::Silent));
    assert_eq!(client.asks_for("$SRV/config/#", 1).await, ReasonCode::NotAuthorized);
}
