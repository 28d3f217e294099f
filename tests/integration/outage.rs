//! nats-server goes away and comes back: what is acknowledged is not lost, QoS 0 flows within a sidecar, nobody hangs.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use mqtt_codec::{Packet, Publish};

use crate::harness::{Client, Message, World, eventually, heavy, msg, shown, unique};

const COUNT: usize = 15_000;
const WINDOW: usize = 64;
const TOPICS: [(&str, u8); 3] = [("o/one", 1), ("o/two", 2), ("o/three", 1)];

fn numbered(topic: &str, qos: u8) -> impl Iterator<Item = Message> {
    (0..COUNT).map(move |number| msg(topic, number.to_string()).qos(qos))
}

/// Reads until it has every number of every topic; what came, in order.
async fn read_all(mut subscriber: Client) -> (Client, Vec<Publish>) {
    let mut seen: HashSet<(String, Vec<u8>)> = HashSet::new();
    let mut messages = Vec::new();
    while seen.len() < TOPICS.len() * COUNT {
        let message = subscriber.receive().await;
        seen.insert((message.topic_name().unwrap().to_string(), message.payload.to_vec()));
        messages.push(message);
    }
    (subscriber, messages)
}

/// First occurrences are in order; QoS 2 has no others.
fn check(messages: &[Publish]) {
    let mut next: HashMap<&str, usize> = HashMap::new();
    for message in messages {
        let topic = message.topic_name().unwrap().as_str();
        let number: usize = std::str::from_utf8(&message.payload).unwrap().parse().unwrap();
        let wanted = next.entry(topic).or_default();
        if number == *wanted {
            *wanted += 1;
        } else {
            assert!(number < *wanted, "{topic}: {number} came before {wanted}");
            assert_ne!(topic, "o/two", "{number} came twice at QoS 2");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_acknowledged_message_is_missing_when_nats_server_is_killed_under_load() {
    let _turn = heavy().await;
    let mut world = World::own().await;
    let mut readers = Vec::new();
    for sidecar in [&world.a, &world.b] {
        let mut subscriber = sidecar.v5(&unique("reader")).await;
        subscriber.subscribe("o/#", 2).await;
        readers.push(tokio::spawn(read_all(subscriber)));
    }
    let acked = Arc::new(AtomicUsize::new(0));
    let mut publishers = Vec::new();
    for (topic, qos) in TOPICS {
        let mut publisher = world.a.v5(topic).await;
        let acked = Arc::clone(&acked);
        publishers.push(tokio::spawn(async move {
            let count = |_| _ = acked.fetch_add(1, Ordering::Relaxed);
            publisher.publish_all(numbered(topic, qos), WINDOW, count).await;
        }));
    }
    for share in [1, 2] {
        let wanted = TOPICS.len() * COUNT * share / 3;
        eventually("a part is acknowledged", async || acked.load(Ordering::Relaxed) >= wanted).await;
        world.nats.kill();
        world.nats.restart();
    }
    for publisher in publishers {
        publisher.await.unwrap();
    }
    for reader in readers {
        let (_subscriber, messages) = reader.await.unwrap();
        check(&messages);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_sidecar_acknowledged_before_it_was_killed_arrives_at_the_other() {
    let _turn = heavy().await;
    let mut world = World::own().await;
    let mut subscriber = world.b.v5("reader").await;
    subscriber.subscribe("k/#", 1).await;
    let mut total = 0;
    for round in 0..5 {
        let topic = format!("k/{round}");
        let mut publisher = world.a.v5("pub").await;
        for number in 0..2_000 {
            publisher.start_publish(&msg(&topic, number.to_string()).qos(1));
        }
        let mut acked = 0;
        let kill_at = 100 * (round + 1);
        let deadline = tokio::time::Instant::now() + crate::harness::PATIENCE;
        // What was on its way when it died may still come.
        while let Ok(packet) = publisher.packet(deadline).await {
            assert!(matches!(&packet, Packet::PubAck(ack) if !ack.reason.is_error()), "{packet:?}");
            acked += 1;
            if acked == kill_at {
                world.a.kill();
            }
        }
        assert!(acked >= kill_at);
        total += acked;
        for number in 0..acked {
            assert_eq!(subscriber.receive_shown().await, format!("{topic} {number} qos1"));
        }
        world.a.restart().await;
        // More may have been stored than was acknowledged.
        let mut publisher = world.a.v5("pub").await;
        publisher.publish(msg(&topic, "end").qos(1)).await;
        let more = subscriber.receive_until("end").await;
        for (number, message) in (acked..).zip(&more) {
            assert_eq!(shown(message), format!("{topic} {number} qos1"));
        }
    }
    assert!(total < 5 * 2_000, "no kill came in the midst of it");
}

#[tokio::test(flavor = "multi_thread")]
async fn qos_0_flows_and_connect_is_answered_while_nats_server_is_away() {
    let mut world = World::own().await;
    let mut subscriber = world.a.v311("sub").await;
    subscriber.subscribe("away/0", 0).await;
    subscriber.subscribe("away/1", 1).await;
    let mut publisher = world.a.v5("pub").await;
    publisher.publish(msg("away/1", "before").qos(1)).await;
    assert_eq!(subscriber.receive_shown().await, "away/1 before qos1");

    world.nats.kill();
    eventually("the sidecar notices", async || world.a.get("/readyz").await.0 == 503).await;
    assert_eq!(world.a.get("/livez").await.0, 200);
    for number in 0..100 {
        publisher.publish(msg("away/0", number.to_string())).await;
        assert_eq!(subscriber.receive_shown().await, format!("away/0 {number} qos0"));
    }
    let newcomer = tokio::time::timeout(Duration::from_secs(10), world.a.v311("newcomer")).await;
    let mut newcomer = newcomer.expect("CONNECT is answered without nats-server");
    newcomer.ping().await;

    // It waits, and is acknowledged when JetStream is there again.
    let waiting = publisher.start_publish(&msg("away/1", "meanwhile").qos(1));
    publisher.flush().await;
    publisher.publish(msg("away/0", "behind it")).await;
    assert_eq!(subscriber.receive_shown().await, "away/0 behind it qos0");
    world.nats.restart();
    let wanted = |packet: &Packet| matches!(packet, Packet::PubAck(ack) if Some(ack.packet_id) == waiting);
    publisher.other(wanted).await;
    assert_eq!(subscriber.receive_shown().await, "away/1 meanwhile qos1");
    world.a.ready().await;
    newcomer.subscribe("away/1", 1).await;
    publisher.publish(msg("away/1", "after").qos(1)).await;
    assert_eq!(newcomer.receive_shown().await, "away/1 after qos1");
}

#[tokio::test(flavor = "multi_thread")]
async fn qos_0_between_sidecars_is_back_after_nats_server() {
    let mut world = World::own().await;
    let mut subscriber = world.b.v311("sub").await;
    subscriber.subscribe("back/#", 0).await;
    let mut publisher = world.a.v311("pub").await;
    publisher.publish(msg("back/x", "before")).await;
    assert_eq!(subscriber.receive_shown().await, "back/x before qos0");
    world.nats.kill();
    world.nats.restart();
    world.a.ready().await;
    world.b.ready().await;
    // Ready can be said before subscriptions are; QoS 0 may be lost until they are.
    let mut number = 0;
    loop {
        number += 1;
        assert!(number < 300, "nothing arrives");
        publisher.publish(msg("back/x", number.to_string())).await;
        if subscriber.try_receive(Duration::from_millis(100)).await.is_ok() {
            return;
        }
    }
}
