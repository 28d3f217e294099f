//! What a client was sent and has not acknowledged when its connection broke, on the next one.

use std::time::Duration;

use mqtt_codec::PacketType;
use serde_json::json;

use crate::harness::sessions::pid;
use crate::harness::{Options, World, eventually, js_api, msg, unique};

/// [MQTT-3.1.2-24], [MQTT-3.1.2-25]
#[tokio::test(flavor = "multi_thread")]
async fn what_is_repeated_obeys_the_maximum_packet_size_of_the_new_connection() {
    let world = World::shared().await;
    for qos in [1, 2] {
        let topic = unique("large");
        let id = unique("small");
        let mut publisher = world.a.v5(&unique("pub")).await;
        let mut client = world.a.connect(Options::v5(&id).durable(600)).await;
        client.acknowledges = false;
        client.subscribe(&topic, qos).await;
        for payload in ["x".repeat(5_000), "y".to_owned()] {
            publisher.publish(msg(&topic, payload).qos(qos)).await;
        }
        for (number, payload) in [(1, "x".repeat(5_000)), (2, "y".to_owned())] {
            assert_eq!(client.next_shown().await, format!("{topic} {payload} qos{qos} #{number}"));
        }
        client.reset();

        // It takes less now, and is not sent what would end its connection, again and again.
        let before = world.b.metric("mqtt_messages_dropped_total{reason=\"too_large\"}").await;
        let options = Options::v5(&id).durable(600).maximum_packet_size(1_000);
        let mut client = world.b.connect(options).await;
        assert!(client.is_resumed());
        client.acknowledges = false;
        let mut got = vec![client.next_shown().await];
        if qos == 2 {
            got.push(client.next_shown().await);
        }
        got.sort();
        let small = format!("{topic} y qos{qos} dup #2");
        let wanted = if qos == 1 { vec![small] } else { vec![small, "pubrel #1".to_owned()] };
        let mut wanted = wanted;
        wanted.sort();
        assert_eq!(got, wanted);
        let after = world.b.metric("mqtt_messages_dropped_total{reason=\"too_large\"}").await;
        assert!(after >= before + 1.0, "{before} {after}");
        if qos == 1 {
            client.ack(mqtt_codec::Packet::PubAck, pid(2)).await;
        } else {
            client.ack(mqtt_codec::Packet::PubComp, pid(1)).await;
            client.ack(mqtt_codec::Packet::PubRec, pid(2)).await;
            client.next_of(PacketType::PubRel).await;
            client.ack(mqtt_codec::Packet::PubComp, pid(2)).await;
        }
        client.ping().await;
        // Nothing of it is left: it counts as delivered, and its packet identifier is free.
        client.goodbye().await;
        let mut client = world.a.connect(Options::v5(&id).durable(600)).await;
        publisher.publish(msg(&topic, "end").qos(1)).await;
        assert_eq!(client.shown_until("end").await, [""; 0], "QoS {qos}");
    }
}

/// [MQTT-4.3.3-7]
#[tokio::test(flavor = "multi_thread")]
async fn what_was_sent_does_not_expire() {
    let world = World::own().await;
    let nats = world.nats.client().await;
    // The log, a stream of somebody else, and what comes by core NATS into the log.
    let config = json!({ "name": "PLANT", "subjects": ["plant.>"], "storage": "memory" });
    let created = js_api(&nats, "STREAM.CREATE.PLANT", &config).await;
    assert!(created["error"].is_null(), "{created}");
    eventually("it is attached", async || world.a.log().contains("PLANT")).await;
    let mut publisher = world.a.v5("pub").await;
    let mut clients = Vec::new();
    for (kind, qos) in [("own", 1), ("own", 2), ("plant", 1), ("plant", 2), ("core", 1), ("core", 2)] {
        let topic = format!("{kind}/{qos}");
        let id = format!("client-{kind}-{qos}");
        let mut client = world.a.connect(Options::v5(&id).durable(600)).await;
        client.acknowledges = false;
        client.subscribe(&topic, qos).await;
        let mut away = world.a.connect(Options::v5(&format!("away-{kind}-{qos}")).durable(600)).await;
        away.subscribe(&topic, qos).await;
        away.goodbye().await;
        if kind == "core" {
            let mut headers = async_nats::HeaderMap::new();
            headers.insert("Mqtt-Expiry", "2");
            nats.publish_with_headers(format!("{kind}.{qos}"), headers, "short".into()).await.unwrap();
        } else {
            publisher.publish(msg(&topic, "short").qos(qos).expires(2)).await;
        }
        assert_eq!(client.next_shown().await, format!("{topic} short qos{qos} #1"));
        clients.push((kind, qos, client));
    }
    for (_, _, client) in &mut clients {
        client.ping().await;
    }
    // Time goes by: that it does is what is tested.
    tokio::time::sleep(Duration::from_millis(3_500)).await;
    for (kind, qos, client) in clients {
        client.reset();
        let topic = format!("{kind}/{qos}");
        let mut client = world.b.connect(Options::v5(&format!("client-{kind}-{qos}")).durable(600)).await;
        let again = client.receive().await;
        assert_eq!(crate::harness::shown(&again), format!("{topic} short qos{qos} dup"));
        // Nothing is left of its lifetime.
        assert_eq!(again.properties.and_then(|p| p.message_expiry_interval_s), Some(0));
        // What was not sent yet has expired.
        let mut away = world.a.connect(Options::v5(&format!("away-{kind}-{qos}")).durable(600)).await;
        publisher.publish(msg(&topic, "end").qos(1)).await;
        assert_eq!(away.shown_until("end").await, [""; 0], "{topic}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_jetstream_has_removed_cannot_be_sent_again() {
    let world = World::shared().await;
    let nats = world.nats.client().await;
    let mut publisher = world.a.v5(&unique("pub")).await;
    for qos in [1, 2] {
        let (topic, id) = (unique("removed"), unique("client"));
        let mut client = world.a.connect(Options::v5(&id).durable(600)).await;
        client.acknowledges = false;
        client.subscribe(&topic, qos).await;
        publisher.publish(msg(&topic, "short").qos(qos).expires(1)).await;
        assert_eq!(client.next_shown().await, format!("{topic} short qos{qos} #1"));
        client.ping().await;
        client.reset();
        // Long after it has expired; nobody waits for that here.
        let subject = format!("$NMQ.log.{topic}");
        let purged = js_api(&nats, "STREAM.PURGE.MQTT_log", &json!({ "filter": subject })).await;
        assert_eq!(purged["purged"], 1, "{purged}");
        // At QoS 2 its packet identifier is released.
        let mut client = world.a.connect(Options::v5(&id).durable(600)).await;
        client.acknowledges = false;
        if qos == 2 {
            assert_eq!(client.next_shown().await, "pubrel #1");
        }
        publisher.publish(msg(&topic, "next").qos(1)).await;
        assert!(client.next_shown().await.starts_with(&format!("{topic} next qos1")));
    }
}

/// It may have more in flight than the sidecar has memory.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_repeated_is_fetched_as_far_as_the_client_reads() {
    const MESSAGES: usize = 100;
    const SIZE: usize = 200_000;
    let world = World::own().await;
    let mut publisher = world.a.v5("publisher").await;
    let mut client = world.a.connect(Options::v5("large").durable(600)).await;
    client.acknowledges = false;
    client.subscribe("large", 1).await;
    for _ in 0..MESSAGES {
        publisher.publish(msg("large", vec![b'.'; SIZE]).qos(1)).await;
    }
    for _ in 0..MESSAGES {
        client.receive().await;
    }
    client.reset();

    let mut client = world.b.connect(Options::v5("large").durable(600).receive_buffer(4_096)).await;
    assert!(client.is_resumed());
    let waiting = async || world.b.metric("mqtt_waiting_bytes").await;
    let (mut most, mut last) = (0.0_f64, -1.0);
    eventually("it waits for the client", async || {
        let now = waiting().await;
        most = most.max(now);
        // Nothing more comes.
        std::mem::replace(&mut last, now) == now && now >= SIZE as f64
    })
    .await;
    assert!(most < (MESSAGES * SIZE / 4) as f64, "{most} bytes");
    for _ in 0..MESSAGES {
        let message = client.receive().await;
        assert!(message.dup && message.payload.len() == SIZE);
    }
    client.ping().await;
}
