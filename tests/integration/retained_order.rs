//! The order of what one client publishes on a topic, whatever its QoS: the last value is the one that stays.

use std::collections::{BTreeMap, HashSet, VecDeque};

use mqtt_codec::{Ack, Packet, PacketId, Publish, ReasonCode, Version};

use serde_json::json;

use tokio::time::Instant;

use crate::harness::sessions::pid;
use crate::harness::{Client, Ended, Options, PATIENCE, Sidecar, World, eventually, js_api, msg, unique};

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
    for (version, [first, second]) in [
        (Version::V5, [2, 1]),
        (Version::V311, [2, 1]),
        (Version::V5, [2, 0]),
        (Version::V5, [1, 0]),
        (Version::V5, [1, 2]),
    ] {
        let t = unique("mixed");
        let mut publisher = world.a.connect(Options::new(version, &unique("pub")).durable(LONG)).await;
        let mut open = 0;
        for n in 0..TOPICS {
            for (payload, qos) in [("old", first), ("new", second)] {
                open += usize::from(
                    publisher.start_publish(&msg(&format!("{t}/{n}"), payload).qos(qos).retained()).is_some(),
                );
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

/// Publishes numbers on a topic at QoS 1, up to 32 at a time. Closed, it comes back and sends again what is not acknowledged.
async fn publish_all(sidecar: &Sidecar, topic: &str, count: usize, acked: tokio::sync::watch::Sender<usize>) {
    let id = unique("pub");
    let (mut done, mut open) = (0, VecDeque::<usize>::new());
    let mut next = 0;
    while done < count {
        let mut client = sidecar.connect(Options::v5(&id).durable(LONG)).await;
        for n in &open {
            client.send_publish(&msg(topic, n.to_string()).qos(1), pid_of(*n), true).await;
        }
        while done < count {
            while next < count && open.len() < 32 {
                client.send_publish(&msg(topic, next.to_string()).qos(1), pid_of(next), false).await;
                open.push_back(next);
                next += 1;
            }
            match client.packet(Instant::now() + 2 * PATIENCE).await {
                Ok(Packet::PubAck(ack)) => {
                    assert_eq!(open.pop_front().map(pid_of), Some(ack.packet_id), "in order");
                    done += 1;
                    acked.send_replace(done);
                }
                Ok(Packet::Disconnect(_)) | Err(Ended::Closed) => break,
                other => panic!("{other:?} after {done}"),
            }
        }
    }
}

fn pid_of(n: usize) -> PacketId {
    pid(u16::try_from(n + 1).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_published_while_its_stream_is_deleted_keeps_its_order() {
    const COUNT: usize = 400;
    let world = World::own().await;
    let nats = world.nats.client().await;
    let (t, stream) = (unique("gone"), unique("GONE"));
    let config = json!({"name": stream, "subjects": [format!("{t}.>")]});
    js_api(&nats, &format!("STREAM.CREATE.{stream}"), &config).await;
    for sidecar in [&world.a, &world.b] {
        eventually("the stream is attached", async || sidecar.log().contains(&stream)).await;
    }
    let mut subscriber = world.b.v5(&unique("sub")).await;
    subscriber.subscribe(&format!("{t}/#"), 1).await;
    let (acked, mut is_at) = tokio::sync::watch::channel(0);
    let topic = format!("{t}/x");
    let publish = publish_all(&world.a, &topic, COUNT, acked);
    let delete = async {
        is_at.wait_for(|count| *count >= COUNT / 4).await.unwrap();
        js_api(&nats, &format!("STREAM.DELETE.{stream}"), &serde_json::Value::Null).await;
    };
    tokio::join!(publish, delete);
    let mut publisher = world.a.v5(&unique("pub")).await;
    publisher.publish(msg(&format!("{t}/end"), "end").qos(1)).await;
    let got = subscriber.receive_until("end").await;
    let got: Vec<usize> = got.iter().map(|m| std::str::from_utf8(&m.payload).unwrap().parse().unwrap()).collect();
    // What the stream had and nobody had read is gone with it; what was not acknowledged may come twice.
    let (mut highest, mut behind, mut seen) = (0, 0, HashSet::new());
    for n in got.iter().filter(|n| seen.insert(**n)) {
        behind += usize::from(*n < highest);
        highest = highest.max(*n);
    }
    assert_eq!(behind, 0, "out of order: {got:?}");
    assert_eq!(highest, COUNT - 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn mqtt_4_4_0_1_what_is_repeated_leaves_the_last_value_retained() {
    const TOPICS: usize = 5;
    let world = World::shared().await;
    for (version, back_at) in [(Version::V5, &world.a), (Version::V311, &world.b)] {
        let t = unique("repeated");
        let options = Options::new(version, &unique("pub")).durable(LONG);
        let mut publisher = world.a.connect(options.clone()).await;
        let mut sent = Vec::new();
        for n in 0..TOPICS {
            for (payload, qos) in [("old", 1), ("new", 2)] {
                let message = msg(&format!("{t}/{n}"), payload).qos(qos).retained();
                let id = publisher.start_publish(&message);
                sent.push(message.packet(id));
            }
        }
        for _ in &sent {
            publisher.other(|packet| matches!(packet, Packet::PubAck(_) | Packet::PubRec(_))).await;
        }
        // It has not heard of that, and repeats all of it in its order.
        publisher.reset();
        let mut publisher = back_at.connect(options).await;
        assert!(publisher.is_resumed());
        for packet in &sent {
            publisher.write(&Packet::Publish(Publish { dup: true, ..packet.clone() }));
        }
        acknowledged(&mut publisher, sent.len()).await;
        let values = retained(&world, &t, TOPICS).await;
        let old = values.values().filter(|value| *value == "old").count();
        assert_eq!(old, 0, "{version:?}: {old} of {TOPICS} topics keep the old value");
        publisher.goodbye().await;
    }
}
