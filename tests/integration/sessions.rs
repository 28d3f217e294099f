//! Sessions that outlive their connections, on two sidecars: what is kept, what is repeated, and what ends with them.
//! Takeovers are in `sessions_takeover`, killed and stopped sidecars in `sessions_leases`.

use std::time::Duration;

use mqtt_codec::{
    Ack, Packet, PacketType, Publish, ReasonCode, SubscribeEntry, SubscriptionOptions, TopicFilter, Version,
};

use crate::harness::sessions::{pid, progress, record};
use crate::harness::{Client, Ended, Message, Options, Sidecar, World, eventually, msg, stored, unique};

const LONG: u32 = 3600;
/// How long nothing has to come for "nothing comes", where no later message can say so.
const SILENCE: Duration = Duration::from_millis(300);

fn options(version: Version, id: &str) -> Options {
    Options::new(version, id).durable(LONG)
}

/// A connected client with a session that may be an old one.
async fn resume(sidecar: &Sidecar, id: &str) -> Client {
    sidecar.connect(Options::v5(id).durable(LONG)).await
}

/// [MQTT-3.1.2-5, -6], [MQTT-3.1.2-5 of 3.1.1], [MQTT-3.1.2-23], [MQTT-3.2.2-3], [MQTT-4.5.0-1]
#[tokio::test(flavor = "multi_thread")]
async fn a_session_goes_on_on_the_other_sidecar_with_what_came_while_it_was_offline() {
    let world = World::shared().await;
    for version in [Version::V311, Version::V5, Version::V31] {
        let (t, id) = (unique("resume"), unique("res"));
        let mut publisher = world.b.v5(&unique("pub")).await;
        let mut client = world.a.connect(options(version, &id)).await;
        assert!(!client.is_resumed());
        client.subscribe(&format!("{t}/one/#"), 1).await;
        client.subscribe(&format!("{t}/two/#"), 2).await;
        client.goodbye().await;
        // One QoS a subscription gets: order is that of a topic and a QoS [MQTT-4.6.0-5], and QoS 2 waits to be saved.
        let mut expected = Vec::new();
        for n in 0..30_u8 {
            let (level, granted) = [("one/a", 1), ("two/b", 2), ("one", 1)][usize::from(n) % 3];
            let qos = 1 + n % 2;
            let topic = format!("{t}/{level}");
            assert_eq!(publisher.publish(msg(&topic, n.to_string()).qos(qos)).await, ReasonCode::Success);
            publisher.publish(msg(&topic, "qos 0 is not kept")).await;
            expected.push(format!("{topic} {n} qos{}", qos.min(granted)));
        }
        let mut client = world.b.connect(options(version, &id)).await;
        // 3.1 has no such flag in CONNACK.
        assert_eq!(client.is_resumed(), version != Version::V31, "{version:?}");
        let mut got = Vec::new();
        while got.len() < expected.len() {
            got.push(client.receive_shown().await);
        }
        for qos in ["qos1", "qos2"] {
            let of = |all: &[String]| all.iter().filter(|shown| shown.ends_with(qos)).cloned().collect::<Vec<_>>();
            assert_eq!(of(&got), of(&expected), "{version:?}");
        }
        publisher.publish(msg(&format!("{t}/one"), "live").qos(1)).await;
        assert_eq!(client.shown_until("live").await, [""; 0], "{version:?}: nothing comes twice");

        assert_eq!(client.unsubscribe(&format!("{t}/one/#")).await.len(), usize::from(version == Version::V5));
        client.goodbye().await;
        for level in ["one/a", "two/b"] {
            publisher.publish(msg(&format!("{t}/{level}"), "later").qos(1)).await;
        }
        let mut client = world.a.connect(options(version, &id)).await;
        publisher.publish(msg(&format!("{t}/two"), "end").qos(1)).await;
        assert_eq!(client.shown_until("end").await, [format!("{t}/two/b later qos1")], "{version:?}");
        client.goodbye().await;
    }
}

/// [MQTT-3.1.2-4], [MQTT-3.1.4-4], [MQTT-3.2.2-2, -3]
#[tokio::test(flavor = "multi_thread")]
async fn a_clean_start_discards_the_session_and_all_it_is_owed() {
    let world = World::shared().await;
    let nats = world.nats.client().await;
    for version in [Version::V311, Version::V5] {
        let (t, id) = (unique("clean"), unique("cl"));
        let mut publisher = world.b.v5(&unique("pub")).await;
        let mut client = world.a.connect(options(version, &id)).await;
        client.subscribe(&format!("{t}/#"), 2).await;
        client.goodbye().await;
        publisher.publish(msg(&format!("{t}/x"), "old").qos(2)).await;
        let mut client = world.b.connect(Options::new(version, &id)).await;
        assert!(!client.is_resumed());
        publisher.publish(msg(&format!("{t}/x"), "nobody is subscribed").qos(1)).await;
        client.ping().await;
        client.subscribe(&format!("{t}/#"), 2).await;
        publisher.publish(msg(&format!("{t}/x"), "end").qos(1)).await;
        assert_eq!(client.shown_until("end").await, [""; 0], "{version:?}");
        client.goodbye().await;
        // It was clean, so nothing of it is left.
        eventually("the record is gone", async || record(&nats, &id).await.is_none()).await;
        let client = world.a.connect(options(version, &id)).await;
        assert!(!client.is_resumed());
        client.goodbye().await;
    }
}

/// How the expiry of a session is said.
#[derive(Clone, Copy, Debug)]
struct Expiry {
    at_connect: u32,
    at_disconnect: Option<u32>,
    is_kept_at_first: bool,
    is_kept_later: bool,
}

const EXPIRIES: [Expiry; 6] = [
    Expiry { at_connect: 0, at_disconnect: None, is_kept_at_first: false, is_kept_later: false },
    Expiry { at_connect: 2, at_disconnect: None, is_kept_at_first: true, is_kept_later: false },
    Expiry { at_connect: LONG, at_disconnect: Some(0), is_kept_at_first: false, is_kept_later: false },
    Expiry { at_connect: LONG, at_disconnect: Some(2), is_kept_at_first: true, is_kept_later: false },
    Expiry { at_connect: 2, at_disconnect: Some(LONG), is_kept_at_first: true, is_kept_later: true },
    Expiry { at_connect: u32::MAX, at_disconnect: None, is_kept_at_first: true, is_kept_later: true },
];

/// [MQTT-3.1.2-23], [MQTT-4.1.0-2]
#[tokio::test(flavor = "multi_thread")]
async fn a_session_ends_when_its_expiry_says_so_and_leaves_nothing() {
    let world = World::shared().await;
    let nats = world.nats.client().await;
    let mut ids = Vec::new();
    for expiry in EXPIRIES {
        let id = unique("expires");
        let mut client = world.a.connect(Options::v5(&id).durable(expiry.at_connect)).await;
        client.subscribe("never/#", 1).await;
        match expiry.at_disconnect {
            Some(expiry_s) => assert_eq!(client.disconnect_expiring(expiry_s).await, None),
            None => client.goodbye().await,
        }
        ids.push((expiry, id));
    }
    for (expiry, id) in &ids {
        // The server closes before the last write of the session is done.
        eventually("disconnected", async || record(&nats, id).await.is_none_or(|(_, r)| r["connected"] == false)).await;
        assert_eq!(record(&nats, id).await.is_some(), expiry.is_kept_at_first, "{expiry:?}");
    }
    for (expiry, id) in &ids {
        if !expiry.is_kept_later {
            eventually("the session is gone", async || record(&nats, id).await.is_none()).await;
            eventually("its progress too", async || progress(&nats, id).await.is_none()).await;
        }
        let client = world.b.connect(Options::v5(id).durable(0)).await;
        assert_eq!(client.is_resumed(), expiry.is_kept_later, "{expiry:?}");
        client.goodbye().await;
    }
    let client = world.a.v5(&unique("zero")).await;
    assert_eq!(client.disconnect_expiring(1).await, Some(ReasonCode::ProtocolError), "[MQTT-3.14.2.2.2]");
}

/// [MQTT-3.3.1-1], [MQTT-4.4.0-1], [MQTT-4.6.0-1]
#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_flight_is_repeated_with_dup_and_its_packet_id_in_its_old_order() {
    let world = World::shared().await;
    let nats = world.nats.client().await;
    for version in [Version::V311, Version::V5] {
        let (t, id) = (unique("flight"), unique("fl"));
        let mut publisher = world.b.v5(&unique("pub")).await;
        let mut client = world.a.connect(options(version, &id)).await;
        client.acknowledges = false;
        client.subscribe(&format!("{t}/+"), 2).await;
        for n in 1..=6 {
            publisher.publish(msg(&format!("{t}/{n}"), n.to_string()).qos(1 + n % 2)).await;
        }
        let messages: Vec<Publish> = collect(&mut client, 6).await;
        // 1 and 2 are done, 3 is released, 4 is acknowledged; 5 and 6 were only sent. They may come in another order.
        let find = |n: u8| messages.iter().find(|m| m.payload == n.to_string().as_bytes()).unwrap();
        let ids: Vec<_> = (1..=6).map(|n| find(n).packet_id().unwrap()).collect();
        client.ack(Packet::PubRec, ids[0]).await;
        client.next_of(PacketType::PubRel).await;
        client.ack(Packet::PubComp, ids[0]).await;
        client.ack(Packet::PubAck, ids[1]).await;
        client.ack(Packet::PubRec, ids[2]).await;
        client.next_of(PacketType::PubRel).await;
        client.ack(Packet::PubAck, ids[3]).await;
        client.ping().await;
        client.reset();
        eventually("it is seen", async || record(&nats, &id).await.is_some_and(|(_, r)| r["connected"] == false)).await;
        publisher.publish(msg(&format!("{t}/7"), "7").qos(1)).await;
        let at = |n: usize| ids[n - 1].get();
        let mut expected = vec![
            (at(3), format!("pubrel #{}", at(3))),
            (at(5), format!("{t}/5 5 qos2 dup #{}", at(5))),
            (at(6), format!("{t}/6 6 qos1 dup #{}", at(6))),
        ];
        // Packet ids ascend in the order of sending.
        expected.sort();
        let mut expected: Vec<String> = expected.into_iter().map(|(_, shown)| shown).collect();
        expected.push(format!("{t}/7 7 qos1 #7"));
        for sidecar in [&world.b, &world.a, &world.a] {
            let mut client = sidecar.connect(options(version, &id)).await;
            assert!(client.is_resumed());
            for expected in &expected {
                assert_eq!(client.next_shown().await, *expected, "{version:?}");
            }
            // What was new on one connection is a repetition on the next.
            expected[3] = format!("{t}/7 7 qos1 dup #7");
            client.reset();
        }
        let mut client = world.b.connect(options(version, &id)).await;
        client.receive().await;
        client.receive().await;
        client.receive().await;
        client.ping().await;
        client.goodbye().await;
        let mut client = world.a.connect(options(version, &id)).await;
        publisher.publish(msg(&format!("{t}/8"), "end").qos(1)).await;
        assert_eq!(client.shown_until("end").await, [""; 0], "all was acknowledged");
        client.goodbye().await;
    }
}

async fn collect(client: &mut Client, count: usize) -> Vec<Publish> {
    let mut messages = Vec::new();
    while messages.len() < count {
        messages.push(client.receive().await);
    }
    messages
}

#[tokio::test(flavor = "multi_thread")]
async fn a_qos_2_publish_repeated_on_the_other_sidecar_is_stored_once_and_released_there() {
    let world = World::shared().await;
    let nats = world.nats.client().await;
    let (t, id) = (unique("inbound"), unique("in"));
    let topic = format!("{t}/x");
    let filter = format!("$NMQ.log.{t}.>");
    let mut at_b = world.b.v5(&unique("sub")).await;
    at_b.subscribe(&topic, 2).await;
    for round in 0..20_u16 {
        let id = format!("{id}-{}", round % 4);
        let packet_id = pid(round + 1);
        let message = msg(&topic, round.to_string()).qos(2);
        let (here, there) = if round % 2 == 0 { (&world.a, &world.b) } else { (&world.b, &world.a) };
        let mut client = resume(here, &id).await;
        client.send_publish(&message, packet_id, false).await;
        // Sometimes the message is not even stored when the connection is cut, sometimes it is acknowledged.
        match round % 5 {
            0 => drop(client),
            1 => client.reset(),
            2 => {
                tokio::time::sleep(Duration::from_micros(u64::from(round) * 100)).await;
                client.reset();
            }
            3 => {
                client.next_of(PacketType::PubRec).await;
                client.reset();
            }
            // Nobody cuts it: it is taken over.
            _ => std::mem::forget(client),
        }
        let mut client = resume(there, &id).await;
        for _ in 0..2 {
            client.send_publish(&message, packet_id, true).await;
            let Packet::PubRec(ack) = client.next_of(PacketType::PubRec).await else { unreachable!() };
            assert_eq!((ack.packet_id, ack.reason), (packet_id, ReasonCode::Success), "round {round}");
        }
        // And the release moves again.
        client.reset();
        let mut client = resume(here, &id).await;
        client.ack(Packet::PubRel, packet_id).await;
        let Packet::PubComp(ack) = client.next_of(PacketType::PubComp).await else { unreachable!() };
        assert_eq!((ack.packet_id, ack.reason), (packet_id, ReasonCode::Success), "round {round}");
        client.reset();
        // A client that lost that PUBCOMP asks again, and is answered [MQTT-4.3.3-11].
        let mut client = resume(there, &id).await;
        client.ack(Packet::PubRel, packet_id).await;
        let Packet::PubComp(ack) = client.next_of(PacketType::PubComp).await else { unreachable!() };
        assert_eq!(ack.reason, ReasonCode::PacketIdentifierNotFound);
        // The id is free for another message.
        assert_eq!(stored(&nats, "MQTT_log", &filter).await, u64::from(round) + 1, "round {round}");
        client.goodbye().await;
    }
    let mut publisher = world.a.v5(&unique("pub")).await;
    publisher.publish(msg(&topic, "end").qos(1)).await;
    let got: Vec<String> = at_b.receive_until("end").await.iter().map(payload).collect();
    assert_eq!(got, (0..20).map(|n| n.to_string()).collect::<Vec<_>>());
}

fn payload(publish: &Publish) -> String {
    String::from_utf8_lossy(&publish.payload).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_packet_id_that_is_used_again_after_pubcomp_is_another_message() {
    let world = World::shared().await;
    let nats = world.nats.client().await;
    let (t, id) = (unique("again"), unique("ag"));
    for round in 0..10 {
        let sidecar = if round % 2 == 0 { &world.a } else { &world.b };
        let mut client = resume(sidecar, &id).await;
        client.send_publish(&msg(&format!("{t}/x"), round.to_string()).qos(2), pid(1), false).await;
        client.next_of(PacketType::PubRec).await;
        client.ack(Packet::PubRel, pid(1)).await;
        client.next_of(PacketType::PubComp).await;
        client.reset();
    }
    assert_eq!(stored(&nats, "MQTT_log", &format!("$NMQ.log.{t}.>")).await, 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_tells_a_person_who_is_connected_where_and_to_what() {
    let world = World::shared().await;
    let nats = world.nats.client().await;
    let (t, id) = (unique("readable"), unique("rd"));
    let will = msg(&format!("{t}/will"), "gone").qos(1).retained();
    let mut client = world.a.connect(Options::v5(&id).durable(LONG).delayed_will(will, 7)).await;
    let options = SubscriptionOptions { no_local: true, retain_as_published: true, ..SubscriptionOptions::default() };
    client.subscribe_with(&format!("{t}/#"), options, Some(77)).await;
    let (_, connected) = record(&nats, &id).await.unwrap();
    assert_eq!(connected["client_id"], id.as_str());
    assert_eq!(connected["connected"], true);
    assert_eq!(connected["expiry_s"], LONG);
    assert_eq!(connected["protocol"], "5.0");
    assert!(connected["remote"].as_str().unwrap().starts_with("127.0.0.1:"));
    assert!(connected["since"].as_str().unwrap().ends_with('Z'));
    let subscription = &connected["subscriptions"][0];
    assert_eq!(subscription["filter"], format!("{t}/#"));
    assert_eq!((&subscription["id"], &subscription["no_local"]), (&77.into(), &true.into()));
    assert_eq!(connected["will"]["topic"], format!("{t}/will"));
    assert_eq!((&connected["will"]["payload"], &connected["will"]["delay_s"]), (&"Z29uZQ==".into(), &7.into()));
    client.goodbye().await;
    eventually("the record has no owner", async || {
        let (_, left) = record(&nats, &id).await.unwrap();
        left["owner"].is_null() && left["connected"] == false && left["will"].is_null()
    })
    .await;
    let (_, left) = record(&nats, &id).await.unwrap();
    assert!(left["disconnected_at"].as_str().unwrap() >= connected["since"].as_str().unwrap());
    let mut client = resume(&world.b, &id).await;
    client.ping().await;
    let (_, again) = record(&nats, &id).await.unwrap();
    assert!(again["epoch"].as_u64() > connected["epoch"].as_u64());
    assert_ne!(again["owner"], connected["owner"], "the other sidecar has it");
    client.goodbye().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn options_and_identifiers_of_subscriptions_survive() {
    let world = World::shared().await;
    let (t, id) = (unique("kept"), unique("kp"));
    let mut client = resume(&world.a, &id).await;
    let qos = mqtt_codec::QoS::AtLeastOnce;
    let o = SubscriptionOptions { qos, no_local: true, retain_as_published: true, ..SubscriptionOptions::default() };
    client.subscribe_with(&format!("{t}/own"), o, Some(5)).await;
    client
        .subscribe_with(&format!("{t}/#"), SubscriptionOptions { qos, ..SubscriptionOptions::default() }, Some(6))
        .await;
    client.goodbye().await;
    let mut publisher = world.a.v5(&unique("pub")).await;
    publisher.publish(msg(&format!("{t}/own"), "1").qos(1).retained()).await;
    let mut client = resume(&world.b, &id).await;
    let message = client.receive().await;
    let mut ids: Vec<u32> = message.subscription_ids.iter().map(|id| id.get()).collect();
    ids.sort_unstable();
    assert_eq!((ids, message.retain), (vec![5, 6], true));
    // Its own message matches only the subscription that lets it through.
    client.publish(msg(&format!("{t}/own"), "2").qos(1)).await;
    let message = client.receive().await;
    let ids: Vec<u32> = message.subscription_ids.iter().map(|id| id.get()).collect();
    assert_eq!((ids, message.retain), (vec![6], false));
    client.goodbye().await;
    publisher.publish(msg(&format!("{t}/own"), "").retained().qos(1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_durable_subscriber_that_does_not_read_gets_all_in_order_across_a_move() {
    const COUNT: usize = 6_000;
    let world = World::shared().await;
    let (t, id) = (unique("slow"), unique("sl"));
    let topic = format!("{t}/x");
    let mut client = world.a.connect(Options::v5(&id).durable(LONG).receive_buffer(8192)).await;
    client.subscribe(&topic, 1).await;
    let mut publisher = world.b.v5(&unique("pub")).await;
    let text = |n: usize| format!("{n:>1000}");
    publisher.publish_all((0..COUNT).map(|n| msg(&topic, text(n)).qos(1)), 128, |_| {}).await;
    let mut got: Vec<String> = Vec::new();
    for publish in collect(&mut client, COUNT / 3).await {
        got.push(payload(&publish));
    }
    client.reset();
    let mut client = resume(&world.b, &id).await;
    publisher.publish(msg(&topic, "end").qos(1)).await;
    let rest = client.receive_until("end").await;
    let repeated = rest.iter().filter(|p| p.dup).count();
    let mut last = None;
    let first_new = rest.iter().position(|p| !p.dup).unwrap();
    assert_eq!(first_new, repeated, "repetitions come first");
    for publish in &rest {
        let text = payload(publish);
        if !got.contains(&text) {
            assert!(last.as_ref() < Some(&text), "{} after {last:?}", text.trim());
            last = Some(text.clone());
            got.push(text);
        }
    }
    let numbers: Vec<usize> = got.iter().map(|text| text.trim().parse().unwrap()).collect();
    assert_eq!(numbers, (0..COUNT).collect::<Vec<_>>());
    assert!(repeated <= 128, "{repeated} were repeated, more than were in flight");
    client.goodbye().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_subscriptions_survive_a_reconnect() {
    const COUNT: usize = 10_000;
    let world = World::shared().await;
    let (t, id) = (unique("many"), unique("mn"));
    let mut client = resume(&world.a, &id).await;
    let filters: Vec<String> = (0..COUNT).map(|n| format!("{t}/room{n}/temperature")).collect();
    let qos = mqtt_codec::QoS::AtLeastOnce;
    for chunk in filters.chunks(500) {
        let options = SubscriptionOptions { qos, ..SubscriptionOptions::default() };
        let entry =
            |f: &String| SubscribeEntry { filter: TopicFilter::new(f.as_str()).map_err(|_| "".into()), options };
        let reasons = client.subscribe_all(chunk.iter().map(entry).collect(), None).await;
        assert!(reasons.iter().all(|reason| *reason == ReasonCode::GrantedQoS1));
    }
    client.goodbye().await;
    let mut publisher = world.a.v5(&unique("pub")).await;
    let every = (0..COUNT).step_by(97).map(|n| msg(&filters[n], n.to_string()).qos(1));
    publisher.publish_all(every, 64, |_| {}).await;
    let mut client = resume(&world.b, &id).await;
    assert!(client.is_resumed());
    publisher.publish(msg(&filters[0], "end").qos(1)).await;
    let got: Vec<String> = client.receive_until("end").await.iter().map(payload).collect();
    assert_eq!(got, (0..COUNT).step_by(97).map(|n| n.to_string()).collect::<Vec<_>>());
    client.goodbye().await;
}

/// [MQTT-3.1.3-2]
#[tokio::test(flavor = "multi_thread")]
async fn any_client_id_has_a_session_of_its_own() {
    let world = World::shared().await;
    let nats = world.nats.client().await;
    let ids = [
        "esp.kitchen.1",
        "Shelly Plug",
        "küche/温度 🔥",
        "a/b>c*",
        "a/b>c+",
        ".",
        "..",
        "*",
        ">",
        "$SYS",
        "a b",
        "a.b",
        "A.b",
        "a%20b",
    ];
    let t = unique("ids");
    for (n, id) in ids.iter().enumerate() {
        let mut client = world.a.connect(Options::v311(id).durable(LONG)).await;
        assert!(!client.is_resumed(), "{id}");
        client.subscribe(&format!("{t}/{n}"), 1).await;
        client.goodbye().await;
    }
    let mut publisher = world.a.v5(&unique("pub")).await;
    for n in 0..ids.len() {
        publisher.publish(msg(&format!("{t}/{n}"), n.to_string()).qos(1)).await;
    }
    for (n, id) in ids.iter().enumerate() {
        let mut client = world.b.connect(Options::v311(id).durable(LONG)).await;
        assert!(client.is_resumed(), "{id}");
        assert_eq!(client.receive_shown().await, format!("{t}/{n} {n} qos1"), "{id}");
        assert_eq!(record(&nats, id).await.unwrap().1["client_id"], *id);
        client.goodbye().await;
        world.b.connect(Options::v311(id)).await.goodbye().await;
    }
}

/// [MQTT-3.3.2-5, -6]
#[tokio::test(flavor = "multi_thread")]
async fn messages_that_expire_offline_do_not_come_and_others_have_less_time_left() {
    let world = World::shared().await;
    let (t, id) = (unique("offexp"), unique("oe"));
    let mut client = resume(&world.a, &id).await;
    client.subscribe(&format!("{t}/#"), 1).await;
    client.goodbye().await;
    let mut publisher = world.b.v5(&unique("pub")).await;
    publisher.publish(msg(&format!("{t}/short"), "1").qos(1).expires(1)).await;
    publisher.publish(msg(&format!("{t}/long"), "2").qos(1).expires(100)).await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let mut client = resume(&world.b, &id).await;
    let message = client.receive().await;
    assert_eq!(payload(&message), "2");
    let left = message.properties.unwrap().message_expiry_interval_s.unwrap();
    assert!((90..=99).contains(&left), "{left}");
    assert_eq!(client.try_receive(SILENCE).await.err(), Some(Ended::Silent));
    client.goodbye().await;
}

/// QoS 1 publishes of a durable client on a connection that ends are stored although nobody waits for them any more.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_published_just_before_it_was_cut_off_is_not_half_done() {
    let world = World::shared().await;
    let (t, id) = (unique("cut"), unique("ct"));
    let mut subscriber = resume(&world.b, &unique("sub")).await;
    subscriber.subscribe(&format!("{t}/#"), 1).await;
    for round in 0..10 {
        let mut client = resume(if round % 2 == 0 { &world.a } else { &world.b }, &id).await;
        let mut messages: Vec<(u16, Message)> = Vec::new();
        for n in 1..=20_u16 {
            let message = msg(&format!("{t}/{round}"), n.to_string()).qos(2);
            client.write(&Packet::Publish(message.packet(Some(pid(n)))));
            messages.push((n, message));
        }
        client.flush().await;
        client.reset();
        let mut client = resume(if round % 2 == 0 { &world.b } else { &world.a }, &id).await;
        for (n, message) in messages {
            client.send_publish(&message, pid(n), true).await;
        }
        for _ in 1..=20 {
            let Packet::PubRec(Ack { packet_id, .. }) = client.next_of(PacketType::PubRec).await else {
                unreachable!()
            };
            client.ack(Packet::PubRel, packet_id).await;
        }
        for _ in 1..=20 {
            client.next_of(PacketType::PubComp).await;
        }
        client.goodbye().await;
        let got: Vec<String> = collect(&mut subscriber, 20).await.iter().map(payload).collect();
        assert_eq!(got, (1..=20).map(|n| n.to_string()).collect::<Vec<_>>(), "round {round}");
    }
    assert_eq!(subscriber.try_receive(SILENCE).await.err(), Some(Ended::Silent));
}
