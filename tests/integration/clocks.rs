//! Sidecars whose clocks are an hour off, ahead and behind, beside one whose clock is right. Nothing that is somebody else's
//! is judged by them: sessions, messages and retained messages end when nats-server's clock says so.

use std::time::SystemTime;

use async_nats::Client as Nats;
use serde_json::{Value, json};

use crate::harness::sessions::record;
use crate::harness::{NatsServer, Options, Sidecar, SidecarBuilder, eventually, msg, settle};

/// Shorter than what the clocks are off by.
const EXPIRY_S: u32 = 600;
const OFF: [(&str, &str); 2] = [("ahead", "+3600s"), ("behind", "-3600s")];

async fn off(nats: &NatsServer, name: &str, by: &str) -> Sidecar {
    SidecarBuilder::of(nats, name).clock(by).start().await
}

/// A sidecar starts while no other is there, and has looked after the sessions of all that are gone: it has adopted one that
/// is planted here.
async fn look_after(nats: &Nats, sidecar: &mut Sidecar, id: &str) {
    sidecar.stop().await;
    let planted = json!({ "version": 1, "client_id": id, "epoch": 1, "owner": "gone", "connected": true, "expiry_s": EXPIRY_S,
        "since": "2026-01-01T00:00:00.000Z", "protocol": "5.0", "subscriptions": [] });
    nats.publish(format!("$KV.MQTT_sessions.{id}"), planted.to_string().into()).await.unwrap();
    settle(nats).await;
    sidecar.restart().await;
    let is_adopted = async || record(nats, id).await.is_some_and(|(_, record)| record["connected"] == false);
    eventually("it has looked after what is there", is_adopted).await;
    eventually("it is through", async || sidecar.log().contains("sessions of sidecars that are gone are in order"))
        .await;
}

/// How far a time in a record is from now, seconds; negative in the past.
fn from_now_s(time: &Value) -> f64 {
    let time = humantime::parse_rfc3339(time.as_str().unwrap()).unwrap();
    let since = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64();
    since(time) - since(SystemTime::now())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_whose_clock_is_an_hour_ahead_ends_nobody_s_session() {
    let server = NatsServer::start();
    let nats = server.client().await;
    let mut right = Sidecar::start(&server, "right").await;
    let mut client = right.connect(Options::v5("away").durable(EXPIRY_S)).await;
    client.subscribe("away/#", 1).await;
    client.goodbye().await;
    right.v5("pub").await.publish(msg("away/x", "kept").qos(1)).await;

    right.stop().await;
    let mut ahead = off(&server, "ahead", "+3600s").await;
    look_after(&nats, &mut ahead, "planted").await;
    right.restart().await;
    for sidecar in [&right, &ahead] {
        let mut client = sidecar.connect(Options::v5("away").durable(EXPIRY_S)).await;
        assert!(client.is_resumed());
        if sidecar.mqtt_port == right.mqtt_port {
            assert_eq!(client.receive_shown().await, "away/x kept qos1");
        }
        client.goodbye().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_sidecar_with_a_wrong_clock_writes_means_the_same_to_others() {
    let server = NatsServer::start();
    let nats = server.client().await;
    let mut right = Sidecar::start(&server, "right").await;
    for (name, by) in OFF {
        let mut wrong = off(&server, name, by).await;
        let mut client = wrong.connect(Options::v5(name).durable(EXPIRY_S)).await;
        client.subscribe(&format!("{name}/#"), 1).await;
        let (_, connected) = record(&nats, name).await.unwrap();
        client.goodbye().await;
        let is_away = async || record(&nats, name).await.is_some_and(|(_, record)| record["connected"] == false);
        eventually("the end of the connection is written", is_away).await;

        let (_, away) = record(&nats, name).await.unwrap();
        let now_ms = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis() as f64;
        assert!(
            (connected["epoch"].as_f64().unwrap() - now_ms).abs() < 30_000.0,
            "{name}: an epoch is a time: {connected}"
        );
        assert!(from_now_s(&connected["since"]).abs() < 30.0, "{name}: {connected}");
        assert!(from_now_s(&away["disconnected_at"]).abs() < 30.0, "{name}: {away}");
        // Somebody whose clock is right judges it.
        wrong.stop().await;
        look_after(&nats, &mut right, &format!("planted-{name}")).await;
        assert!(right.connect(Options::v5(name).durable(EXPIRY_S)).await.is_resumed(), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_expire_by_the_server_s_clock() {
    let server = NatsServer::start();
    let right = Sidecar::start(&server, "right").await;
    let mut publisher = right.v5("pub").await;
    publisher.publish(msg("kept/x", "retained").qos(1).retained().expires(EXPIRY_S)).await;
    for (name, by) in OFF {
        let wrong = off(&server, name, by).await;
        let mut subscriber = wrong.v5(name).await;
        subscriber.subscribe("kept/#", 1).await;
        subscriber.subscribe("live/#", 1).await;
        let retained = subscriber.receive().await;
        publisher.publish(msg("live/x", "live").qos(1).expires(EXPIRY_S)).await;
        let live = subscriber.receive().await;
        for publish in [retained, live] {
            let left_s = publish.properties.as_ref().and_then(|p| p.message_expiry_interval_s).unwrap();
            assert!((EXPIRY_S - 60..=EXPIRY_S).contains(&left_s), "{name}: {left_s} s are left of {EXPIRY_S}");
        }
    }
}
