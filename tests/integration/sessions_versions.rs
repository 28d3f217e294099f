//! Records that another version has written.

use async_nats::Client as Nats;
use mqtt_codec::ReasonCode;
use serde_json::{Value, json};

use crate::harness::sessions::record;
use crate::harness::{Client, Options, SidecarBuilder, World, eventually, msg, settle};

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
    let mut newer = json!({ "version": 2, "client_id": "readable", "epoch": 1, "owner": "gone", "connected": true,
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
