//! Retained messages that were owed when the connection broke. Those in flight are sent again as any message is, unless a
//! newer one has replaced them; those that were not sent yet come when the session goes on.

use std::collections::BTreeMap;

use mqtt_codec::{Packet, PacketType, Publish, Version};

use crate::harness::sessions::{progress, record};
use crate::harness::{Client, Options, PATIENCE, Sidecar, World, eventually, msg, unique};

const LONG: u32 = 3600;

async fn connect(world: &World, id: &str) -> Client {
    let mut client = world.b.connect(Options::v5(id).durable(LONG)).await;
    client.acknowledges = false;
    client
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retained_message_in_flight_is_repeated_and_one_that_was_replaced_is_not() {
    let world = World::shared().await;
    let nats = world.nats.client().await;
    let (t, id) = (unique("inflight"), unique("dev"));
    let mut publisher = world.a.v5(&unique("pub")).await;
    for (name, qos) in [("a1", 1), ("b2", 2), ("c2", 2), ("d1", 1), ("e2", 2)] {
        publisher.publish(msg(&format!("{t}/{name}"), "old").qos(qos).retained()).await;
    }
    let mut client = world.a.connect(Options::v5(&id).durable(LONG)).await;
    client.acknowledges = false;
    client.subscribe(&format!("{t}/+"), 2).await;
    let mut ids = BTreeMap::new();
    for _ in 0..5 {
        let publish = client.receive().await;
        assert!(publish.retain);
        ids.insert(publish.topic_name().unwrap().to_string(), publish.packet_id().unwrap());
    }
    let [a1, b2, c2, d1, e2] = *ids.into_values().collect::<Vec<_>>() else { panic!("five messages") };
    client.ack(Packet::PubRec, c2).await;
    client.next_of(PacketType::PubRel).await;
    client.ping().await;
    client.reset();
    eventually("what is in flight is saved", async || {
        let saved = progress(&nats, &id).await;
        saved.is_some_and(|(_, progress)| progress["in_flight"].as_array().is_some_and(|all| all.len() == 5))
    })
    .await;
    for (name, qos) in [("d1", 1), ("e2", 2)] {
        publisher.publish(msg(&format!("{t}/{name}"), "new").qos(qos).retained()).await;
    }
    let mut client = connect(&world, &id).await;
    assert!(client.is_resumed());
    assert_eq!(client.next_shown().await, format!("{t}/a1 old qos1 retain dup #{a1}"));
    assert_eq!(client.next_shown().await, format!("{t}/b2 old qos2 retain dup #{b2}"));
    assert_eq!(client.next_shown().await, format!("pubrel #{c2}"));
    // The client may have got it, so its packet id is released.
    let mut rest = vec![client.next_shown().await, client.next_shown().await, client.next_shown().await];
    rest.sort();
    assert!(rest[0].starts_with(&format!("{t}/d1 new qos1 #")), "{rest:?}, {d1}");
    assert!(rest[1].starts_with(&format!("{t}/e2 new qos2 #")), "{rest:?}");
    assert_eq!(rest[2], format!("pubrel #{e2}"));
    for id in [c2, e2] {
        client.ack(Packet::PubComp, id).await;
    }
    client.ack(Packet::PubAck, a1).await;
    client.ack(Packet::PubRec, b2).await;
    assert_eq!(client.next_shown().await, format!("pubrel #{b2}"));
    client.ack(Packet::PubComp, b2).await;
    // A reset can overtake what was sent before it.
    client.ping().await;
    client.reset();

    // What is acknowledged is not sent again.
    let mut client = connect(&world, &id).await;
    let mut rest = vec![client.next_shown().await, client.next_shown().await];
    rest.sort();
    assert!(rest[0].starts_with(&format!("{t}/d1 new qos1 dup #")), "{rest:?}");
    assert!(rest[1].starts_with(&format!("{t}/e2 new qos2 dup #")), "{rest:?}");
    client.goodbye().await;
}

/// Retained messages at `T/000` and so on, at QoS 1, 2, 0 and so on.
async fn retain(sidecar: &Sidecar, t: &str, count: usize) {
    let mut publisher = sidecar.v5(&unique("pub")).await;
    let message = |n: usize| msg(&format!("{t}/{n:03}"), n.to_string()).qos([1, 2, 0][n % 3]).retained();
    publisher.publish_all((0..count).map(message), 64, |_| {}).await;
    // At QoS 0 nothing says that a message is there.
    let mut watcher = sidecar.v5(&unique("watch")).await;
    watcher.subscribe(&format!("{t}/#"), 0).await;
    for _ in 0..count {
        watcher.receive().await;
    }
}

async fn device(sidecar: &Sidecar, version: Version, id: &str) -> Client {
    sidecar.connect(Options::new(version, id).durable(LONG).receive_maximum(20)).await
}

/// How often each topic came without DUP, and whether it came at all.
fn count(messages: &[Publish]) -> BTreeMap<String, usize> {
    let mut all = BTreeMap::new();
    for message in messages.iter().filter(|message| message.payload != "end") {
        *all.entry(message.topic_name().unwrap().to_string()).or_default() += usize::from(!message.dup);
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_sent_yet_comes_when_the_session_goes_on_whatever_became_of_the_sidecar() {
    const COUNT: usize = 300;
    let mut world = World::own().await;
    let nats = world.nats.client().await;
    for version in [Version::V5, Version::V311] {
        let (t, id) = (unique("rest"), unique("dev"));
        retain(&world.a, &t, COUNT).await;
        let mut client = device(&world.a, version, &id).await;
        // Retained messages may come before SUBACK, and nobody reads them.
        client.acknowledges = false;
        client.subscribe("rest/none/#", 1).await;
        client.subscribe(&format!("{t}/#"), 2).await;
        let mut messages = Vec::new();
        for (turn, is_killed) in [true, false, true].into_iter().enumerate() {
            // Dead right after SUBACK, later in the middle of it.
            for _ in 0..turn * 50 {
                messages.push(client.receive().await);
            }
            if is_killed {
                world.a.kill();
            }
            client.reset();
            client = device(&world.b, version, &id).await;
            assert!(client.is_resumed());
            if is_killed {
                world.a.restart().await;
            }
            std::mem::swap(&mut world.a, &mut world.b);
        }
        // What was sent at QoS 0 and not read is lost.
        let wanted: Vec<String> = (0..COUNT).filter(|n| n % 3 < 2).map(|n| format!("{t}/{n:03}")).collect();
        let missing = |messages: &[Publish]| {
            let came = count(messages);
            wanted.iter().filter(|topic| !came.contains_key(*topic)).cloned().collect::<Vec<_>>()
        };
        while !missing(&messages).is_empty() {
            let next = client.try_receive(PATIENCE).await;
            messages.push(next.unwrap_or_else(|ended| panic!("{ended:?}: {:?}", missing(&messages))));
        }
        world.a.v5(&unique("pub")).await.publish(msg(&format!("{t}/x"), "end").qos(2)).await;
        messages.extend(client.receive_until("end").await);
        let came = count(&messages);
        for message in messages.iter().filter(|message| message.payload != "end") {
            assert!(message.retain, "{message:?}");
        }
        let (twice, mut of_qos_2) = (came.values().filter(|n| **n > 1), (1..COUNT).step_by(3));
        println!("{version:?}: {} topics, {} of them twice", came.len(), twice.count());
        assert!(of_qos_2.all(|n| came[&format!("{t}/{n:03}")] <= 1), "QoS 2: {came:?}");
        // What is done is owed no more: not after another resumption, and not for ever in the record.
        client.subscribe("rest/other", 1).await;
        eventually("the record owes nothing", async || {
            client.ping().await;
            let owes = |s: &serde_json::Value| !s["retained"].is_null();
            let is_owed = |record: &serde_json::Value| record["subscriptions"].as_array().unwrap().iter().any(owes);
            client.subscribe("rest/other", 1).await;
            record(&nats, &id).await.is_some_and(|(_, record)| !is_owed(&record))
        })
        .await;
        client.goodbye().await;
        let mut client = device(&world.b, version, &id).await;
        world.a.v5(&unique("pub")).await.publish(msg(&format!("{t}/x"), "end").qos(1)).await;
        assert_eq!(client.shown_until("end").await, [""; 0]);
        client.goodbye().await;
    }
}

/// [MQTT-3.10.4-2]
#[tokio::test(flavor = "multi_thread")]
async fn unsubscribe_ends_what_was_not_sent_yet() {
    let world = World::shared().await;
    let t = unique("unrest");
    retain(&world.a, &t, 60).await;
    let mut client = device(&world.a, Version::V5, &unique("dev")).await;
    client.acknowledges = false;
    client.subscribe(&format!("{t}/#"), 1).await;
    let mut sent = Vec::new();
    while sent.iter().filter(|message: &&Publish| message.packet_id().is_some()).count() < 20 {
        sent.push(client.receive().await);
    }
    client.unsubscribe(&format!("{t}/#")).await;
    let end = format!("{t}-end");
    client.subscribe(&end, 1).await;
    for id in sent.iter().filter_map(Publish::packet_id) {
        client.ack(Packet::PubAck, id).await;
    }
    world.b.v5(&unique("pub")).await.publish(msg(&end, "end").qos(1)).await;
    let more = client.shown_until("end").await;
    assert!(more.len() < 3, "only what stood between: {more:?}");
}
