//! Records that nats-server brings back when it is killed at a bad moment, written here by hand: what in them, or beside
//! them, proves to be of the past is no session, and no will.

use std::time::Duration;

use async_nats::{Client as Nats, HeaderMap};
use serde_json::{Value, json};

use crate::harness::sessions::{progress, record};
use crate::harness::{Options, Sidecar, World, eventually, msg, settle};

const LONG: u32 = 3600;

/// Writes a record by hand.
async fn write(nats: &Nats, id: &str, record: &Value) {
    nats.publish(format!("$KV.MQTT_sessions.{id}"), record.to_string().into()).await.unwrap();
    settle(nats).await;
}

/// The same, with the marker behind it that the end of the session has left.
async fn bring_back(nats: &Nats, id: &str, record: &Value) {
    write(nats, id, record).await;
    let mut headers = HeaderMap::new();
    for (name, value) in [("KV-Operation", "PURGE"), ("Nats-Rollup", "sub"), ("Mqtt-Write", "by hand")] {
        headers.insert(name, value);
    }
    let subject = format!("$KV.MQTT_sessions.{id}.progress");
    nats.publish_with_headers(subject, headers, Vec::new().into()).await.unwrap();
    settle(nats).await;
}

/// A session that is over, with its record as it was while the client was connected to a sidecar that is gone.
async fn over(world: &World, nats: &Nats, id: &str) -> Value {
    let options = Options::v5(id).durable(LONG).will(msg(&format!("will/{id}"), "gone").qos(1));
    let mut client = world.a.connect(options).await;
    client.subscribe(&format!("past/{id}"), 1).await;
    client.publish(msg(&format!("past/{id}"), "x").qos(1)).await;
    client.receive().await;
    client.ping().await;
    let (_, mut record) = record(nats, id).await.expect("a record");
    client.disconnect_expiring(0).await;
    eventually("the session is over", async || progress(nats, id).await.is_none()).await;
    record["owner"] = "gone".into();
    record
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_of_a_session_that_is_over_is_none() {
    let world = World::own().await;
    let nats = world.nats.client().await;
    let mut watcher = world.b.v5("watch").await;
    watcher.subscribe("will/#", 1).await;

    // The client comes back to it.
    let first = over(&world, &nats, "back").await;
    bring_back(&nats, "back", &first).await;
    let mut client = world.b.connect(Options::v5("back").durable(LONG)).await;
    assert!(!client.is_resumed());
    client.ping().await;
    let (_, now) = record(&nats, "back").await.expect("a new session");
    assert_eq!(now["subscriptions"], json!([]));
    assert!(now["epoch"].as_u64() > first["epoch"].as_u64());

    // A sidecar finds it, and one that has expired by its own words.
    let forgotten = over(&world, &nats, "forgotten").await;
    bring_back(&nats, "forgotten", &forgotten).await;
    let mut expired = over(&world, &nats, "expired").await;
    (expired["connected"], expired["owner"], expired["will"]) = (false.into(), Value::Null, Value::Null);
    (expired["expiry_s"], expired["disconnected_at"]) = (60.into(), "2020-01-01T00:00:00.000Z".into());
    write(&nats, "expired", &expired).await;
    // One that has not, for comparison: nobody can tell.
    let mut lasting = over(&world, &nats, "lasting").await;
    (lasting["connected"], lasting["owner"], lasting["will"]) = (false.into(), Value::Null, Value::Null);
    lasting["disconnected_at"] = lasting["since"].clone();
    write(&nats, "lasting", &lasting).await;
    let _c = Sidecar::start(&world.nats, "sidecar c").await;
    for id in ["forgotten", "expired"] {
        eventually("it is gone", async || record(&nats, id).await.is_none()).await;
    }
    assert!(record(&nats, "lasting").await.is_some());

    // And one that has expired is not gone on with before that.
    write(&nats, "expired", &expired).await;
    assert!(!world.a.connect(Options::v5("expired").durable(LONG)).await.is_resumed());
    let heard = watcher.try_receive(Duration::from_millis(500)).await;
    assert!(heard.is_err(), "a will of the past: {heard:?}");
}

/// [MQTT-4.1.0-1]
#[tokio::test(flavor = "multi_thread")]
async fn what_was_to_expire_while_the_client_was_away_stays_when_it_is_back() {
    let world = World::shared().await;
    let nats = world.nats.client().await;
    let id = crate::harness::unique("brief");
    let mut client = world.a.connect(Options::v5(&id).durable(2)).await;
    client.subscribe(&format!("brief/{id}"), 2).await;
    client.publish(msg(&format!("brief/{id}"), "1").qos(2)).await;
    client.receive().await;
    client.ping().await;
    client.goodbye().await;
    let (with_a_lifetime, left) = progress(&nats, &id).await.expect("its progress");
    let mut client = world.b.connect(Options::v5(&id).durable(2)).await;
    assert!(client.is_resumed());
    client.ping().await;
    eventually("it is saved without one", async || {
        progress(&nats, &id).await.is_some_and(|(sequence, _)| sequence > with_a_lifetime)
    })
    .await;
    let (_, now) = progress(&nats, &id).await.expect("its progress");
    assert!(now["cursor"].as_u64() >= left["cursor"].as_u64());
    client.goodbye().await;
}
