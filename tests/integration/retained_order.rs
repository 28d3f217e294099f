//! The order of what one client publishes on a topic, whatever its QoS: the last value is the one that stays.

use std::collections::BTreeMap;

use mqtt_codec::{Ack, Packet, ReasonCode, Version};

use crate::harness::{Client, Options, World, msg, unique};

const LONG: u32 = 3600;

/// Takes acknowledgements until all of these packet ids are acknowledged in full.
async fn acknowledged(client: &mut Client, mut open: usize) {
    while open > 0 {
        match client.other(|_| true).await {
            Packet::PubRec(ack) => client.write(&Packet::PubRel(Ack::new(ack.packet_id, ReasonCode::Success))),
            Packet::PubAck(_) | Packet::PubComp(_) => open -= 1,
            other => panic!("unexpected {other:?}"),
        }
    }
}

/// What is retained below `t`, by topic.
async fn retained(world: &World, t: &str, count: usize) -> BTreeMap<String, String> {
    let mut reader = world.b.v5(&unique("reader")).await;
    reader.subscribe(&format!("{t}/#"), 0).await;
    let mut values = BTreeMap::new();
    for _ in 0..count {
        let publish = reader.receive().await;
        assert!(publish.retain);
        let payload = String::from_utf8(publish.payload.to_vec()).unwrap();
        values.insert(publish.topic_name().unwrap().to_string(), payload);
    }
    values
}

#[tokio::test(flavor = "multi_thread")]
async fn mqtt_4_6_0_6_the_last_retained_value_stays_whatever_the_qos() {
    const TOPICS: usize = 20;
    let world = World::shared().await;
    for (version, [first, second]) in
        [(Version::V5, [2, 1]), (Version::V311, [2, 1]), (Version::V5, [2, 0]), (Version::V5, [1, 0]), (Version::V5, [1, 2])]
    {
        let t = unique("mixed");
        let mut publisher = world.a.connect(Options::new(version, &unique("pub")).durable(LONG)).await;
        let mut open = 0;
        for n in 0..TOPICS {
            for (payload, qos) in [("old", first), ("new", second)] {
                open += usize::from(publisher.start_publish(&msg(&format!("{t}/{n}"), payload).qos(qos).retained()).is_some());
            }
        }
        // Behind all of them in the bucket.
        open += usize::from(publisher.start_publish(&msg(&format!("{t}/end"), "end").qos(2).retained()).is_some());
        acknowledged(&mut publisher, open).await;
        let values = retained(&world, &t, TOPICS + 1).await;
        let old = values.values().filter(|value| *value == "old").count();
        assert_eq!(old, 0, "QoS {first}, then {second} in {version:?}: {old} of {TOPICS} topics keep the old value");
        publisher.goodbye().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn mqtt_4_6_0_6_a_subscriber_sees_qos_1_behind_qos_2_of_its_topic() {
    const COUNT: usize = 60;
    let world = World::shared().await;
    let t = unique("behind");
    let mut subscriber = world.b.v5(&unique("sub")).await;
    subscriber.subscribe(&t, 2).await;
    let mut publisher = world.a.connect(Options::v5(&unique("pub")).durable(LONG)).await;
    for n in 0..COUNT {
        publisher.start_publish(&msg(&t, n.to_string()).qos(if n % 3 == 0 { 2 } else { 1 }));
    }
    acknowledged(&mut publisher, COUNT).await;
    let mut got = Vec::new();
    for _ in 0..COUNT {
        got.push(String::from_utf8(subscriber.receive().await.payload.to_vec()).unwrap());
    }
    assert_eq!(got, (0..COUNT).map(|n| n.to_string()).collect::<Vec<_>>());
}
