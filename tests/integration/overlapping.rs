//! A message that several subscriptions of a client take: one copy with all identifiers, or a copy for each.

use std::num::NonZeroU32;

use mqtt_codec::{Packet, Publish, SubscriptionOptions};

use crate::harness::{Client, Options, World, msg, shown, unique};
use crate::harness::{NatsServer, Sidecar, SidecarBuilder};

async fn each(nats: &NatsServer) -> Sidecar {
    SidecarBuilder::of(nats, "each").set("MQTT__OVERLAPPING", "each").start().await
}

/// Filter, QoS and identifier.
type Asked = (&'static str, u8, Option<u32>);

async fn subscribe(client: &mut Client, t: &str, all: &[Asked]) {
    for (filter, qos, id) in all {
        let qos = mqtt_codec::QoS::try_from(*qos).unwrap();
        let options = SubscriptionOptions { qos, ..Default::default() };
        let reason = client.subscribe_with(&format!("{t}/{filter}"), options, *id).await;
        assert!(!reason.is_error());
    }
}

/// Payload, QoS and identifiers: `x qos1 [2, 3]`.
fn with_ids(publish: &Publish) -> String {
    let mut ids: Vec<u32> = publish.subscription_ids.iter().copied().map(NonZeroU32::get).collect();
    ids.sort_unstable();
    let text = shown(publish);
    format!("{} {ids:?}", text.split_once(' ').unwrap().1)
}

/// What comes until everything has come, sorted.
async fn sorted(client: &mut Client, publisher: &mut Client, t: &str) -> Vec<String> {
    publisher.publish(msg(&format!("{t}/end"), "end").qos(1)).await;
    let mut got: Vec<String> = client.receive_until("end").await.iter().map(with_ids).collect();
    got.sort();
    got
}

const ASKED: [Asked; 3] = [("x", 1, Some(1)), ("+", 2, Some(2)), ("x/#", 0, Some(3))];

/// [MQTT-3.3.4-2, -3, -4]
#[tokio::test(flavor = "multi_thread")]
async fn by_default_one_copy_has_all_identifiers() {
    let world = World::shared().await;
    for qos in [0, 1, 2] {
        let t = unique("merge");
        let mut client = world.a.v5(&unique("sub")).await;
        subscribe(&mut client, &t, &ASKED).await;
        subscribe(&mut client, &t, &[("end", 1, None)]).await;
        let mut publisher = world.a.v5(&unique("pub")).await;
        publisher.publish(msg(&format!("{t}/x"), "m").qos(qos)).await;
        let mut got = sorted(&mut client, &mut publisher, &t).await;
        // The end matches `+` as well.
        got.retain(|message| message.starts_with("m "));
        assert_eq!(got, [format!("m qos{qos} [1, 2, 3]")]);
    }
}

/// [MQTT-3.3.4-3], [MQTT-3.3.4-5]
#[tokio::test(flavor = "multi_thread")]
async fn each_subscription_gets_a_copy_with_its_qos_and_its_identifier() {
    let nats = NatsServer::start();
    let sidecar = each(&nats).await;
    let mut publisher = sidecar.v5("pub").await;
    for (qos, wanted) in [
        (0, ["m qos0 [1]", "m qos0 [2]", "m qos0 [3]"]),
        (1, ["m qos0 [3]", "m qos1 [1]", "m qos1 [2]"]),
        (2, ["m qos0 [3]", "m qos1 [1]", "m qos2 [2]"]),
    ] {
        let t = unique("each");
        let mut client = sidecar.v5(&unique("sub")).await;
        subscribe(&mut client, &t, &ASKED).await;
        let mut old = sidecar.v311(&unique("old")).await;
        subscribe(&mut old, &t, &[("x", 1, None), ("#", 2, None)]).await;
        publisher.publish(msg(&format!("{t}/x"), "m").qos(qos)).await;
        publisher.publish(msg(&format!("{t}/end"), "end").qos(1)).await;
        let mut got: Vec<String> = client.receive_until("end").await.iter().map(with_ids).collect();
        got.sort();
        assert_eq!(got, wanted, "QoS {qos}");
        let mut got = old.shown_until("end").await;
        got.sort();
        assert_eq!(got, [format!("{t}/x m qos{}", qos.min(1)), format!("{t}/x m qos{qos}")]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_obey_a_small_receive_maximum_and_none_is_missing() {
    const COUNT: usize = 60;
    let nats = NatsServer::start();
    let sidecar = each(&nats).await;
    let mut publisher = sidecar.v5("pub").await;
    for (maximum, wanted) in [(1, vec!["[1, 2]"]), (2, vec!["[1]", "[2]"]), (3, vec!["[1]", "[2]"])] {
        let t = unique("window");
        let id = unique("sub");
        let mut client = sidecar.connect(Options::v5(&id).durable(600).receive_maximum(maximum)).await;
        subscribe(&mut client, &t, &[("x", 1, Some(1)), ("+", 1, Some(2))]).await;
        let messages = |from: usize| (from..from + COUNT).map(|n| msg(&format!("{t}/x"), n.to_string()).qos(1));
        publisher.publish_all(messages(0), 20, |_| ()).await;
        for number in 0..COUNT {
            let mut got = Vec::new();
            for _ in &wanted {
                got.push(with_ids(&client.receive().await));
            }
            got.sort();
            let wanted: Vec<String> = wanted.iter().map(|ids| format!("{number} qos1 {ids}")).collect();
            assert_eq!(got, wanted, "Receive Maximum {maximum}");
        }
        // What was published while it was away is read from the log.
        client.goodbye().await;
        publisher.publish_all(messages(COUNT), 20, |_| ()).await;
        let mut client = sidecar.connect(Options::v5(&id).durable(600).receive_maximum(maximum)).await;
        for number in COUNT..2 * COUNT {
            for _ in &wanted {
                assert!(with_ids(&client.receive().await).starts_with(&format!("{number} qos1 ")));
            }
        }
        client.ping().await;
        client.goodbye().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_repeated_is_repeated_for_the_subscription_that_has_not_acknowledged_it() {
    let nats = NatsServer::start();
    let sidecar = each(&nats).await;
    let mut publisher = sidecar.v5("pub").await;
    for (qos, acknowledged) in [(1, 1), (1, 2), (2, 1), (2, 2)] {
        let t = unique("again");
        let id = unique("sub");
        let mut client = sidecar.connect(Options::v5(&id).durable(600)).await;
        client.acknowledges = false;
        subscribe(&mut client, &t, &[("x", 2, Some(1)), ("+", 2, Some(2))]).await;
        publisher.publish(msg(&format!("{t}/x"), "m").qos(qos)).await;
        let copies = [client.receive().await, client.receive().await];
        let of = |copy: &Publish| copy.subscription_ids[0].get();
        let done = copies.iter().find(|copy| of(copy) == acknowledged).unwrap();
        let packet_id = done.packet_id().unwrap();
        if qos == 1 {
            client.ack(Packet::PubAck, packet_id).await;
        } else {
            client.ack(Packet::PubRec, packet_id).await;
            client.next_of(mqtt_codec::PacketType::PubRel).await;
            client.ack(Packet::PubComp, packet_id).await;
        }
        client.ping().await;
        client.reset();
        let mut client = sidecar.connect(Options::v5(&id).durable(600)).await;
        let again = client.receive().await;
        assert!(again.dup);
        assert_eq!(with_ids(&again), format!("m qos{qos} dup [{}]", 3 - acknowledged), "{acknowledged}");
        publisher.publish(msg(&format!("{t}/x"), "end").qos(1)).await;
        assert_eq!(client.shown_until("end").await, [""; 0]);
    }
}
