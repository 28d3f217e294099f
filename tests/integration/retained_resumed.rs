//! Retained messages that were in flight when the connection broke: they are sent again as any message is, unless a newer
//! one has replaced them.

use std::collections::BTreeMap;

use mqtt_codec::{Packet, PacketType};

use crate::harness::sessions::progress;
use crate::harness::{Client, Options, World, eventually, msg, unique};

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
