//! Messages that NATS clients publish on core NATS, and that no stream captures, reach subscriptions above QoS 0 at their QoS,
//! once, in order, also after their device was away and whichever sidecar dies.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mqtt_codec::{QoS, ReasonCode, Version};

use crate::harness::{
    Client, NatsServer, Options, Sidecar, SidecarBuilder, Watch, World, eventually, msg, settle, stored, unique,
};

const LONG: u32 = 3600;

async fn durable(sidecar: &Sidecar, version: Version, id: &str) -> Client {
    sidecar.connect(Options::new(version, id).durable(LONG)).await
}

/// Whether one of these sidecars copies messages of NATS.
fn leads(sidecar: &Sidecar) -> bool {
    sidecar.log().contains("this sidecar copies messages of NATS")
}

async fn publish(nats: &async_nats::Client, subject: &str, payload: &str) {
    nats.publish(subject.to_owned(), payload.to_owned().into()).await.unwrap();
    settle(nats).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_core_publish_reaches_every_subscription_at_its_qos_once_on_both_sidecars() {
    let world = World::own().await;
    let nats = world.nats.client().await;
    eventually("somebody leads", async || leads(&world.a) || leads(&world.b)).await;
    let t = unique("core");
    let topic = format!("{t}/x");
    let mut subscribers = Vec::new();
    for sidecar in [&world.a, &world.b] {
        for qos in [0, 1, 2] {
            let mut client = sidecar.v311(&unique("sub")).await;
            client.subscribe("#", qos).await;
            client.subscribe(&format!("{t}/+"), qos).await;
            subscribers.push((client, qos));
        }
        let mut mixed = sidecar.v311(&unique("mixed")).await;
        mixed.subscribe("#", 0).await;
        mixed.subscribe(&topic, 1).await;
        subscribers.push((mixed, 1));
    }
    let mut publisher = world.a.v5(&unique("pub")).await;
    for round in 0..3 {
        publish(&nats, &format!("{t}.x"), &format!("nats {round}")).await;
        for (client, qos) in &mut subscribers {
            assert_eq!(client.receive_shown().await, format!("{topic} nats {round} qos{qos}"), "{}", client.id());
        }
        // What a client publishes at QoS 0 stays what it is, wherever it is received [MQTT-3.8.4-8].
        publisher.publish(msg(&topic, format!("mqtt {round}"))).await;
        for (client, _) in &mut subscribers {
            assert_eq!(client.receive_shown().await, format!("{topic} mqtt {round} qos0"), "{}", client.id());
        }
    }
    publisher.publish(msg(&topic, "end").qos(1)).await;
    for (client, _) in &mut subscribers {
        assert_eq!(client.shown_until("end").await, [""; 0], "nothing comes twice");
    }
    assert_eq!(stored(&world.nats.client().await, "MQTT_log", "").await, 4, "each once, whoever wants it");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_published_right_after_suback_arrives_wherever_it_was_published() {
    let world = World::own().await;
    let nats = world.nats.client().await;
    eventually("somebody leads", async || leads(&world.a) || leads(&world.b)).await;
    let mut publishers = [world.a.v5(&unique("pub")).await, world.b.v5(&unique("pub")).await];
    for round in 0..20 {
        for sidecar in [&world.a, &world.b] {
            let t = unique("fresh");
            let mut client = sidecar.v5(&unique("sub")).await;
            client.subscribe(&format!("{t}/x"), 1).await;
            for publisher in &mut publishers {
                publisher.publish(msg(&format!("{t}/x"), "mqtt")).await;
            }
            publish(&nats, &format!("{t}.x"), "nats").await;
            let mut got = Vec::new();
            while got.len() < 3 {
                got.push(client.receive_shown().await);
            }
            got.sort();
            assert!(got.contains(&format!("{t}/x nats qos1")), "round {round}: {got:?}");
            // A sidecar that has not heard of the subscription yet does not say that its client's publish is QoS 0.
            assert!(got.contains(&format!("{t}/x mqtt qos0")), "round {round}: {got:?}");
            assert_eq!(got.iter().filter(|shown| shown.contains("mqtt qos")).count(), 2, "round {round}: {got:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_qos_0_publish_says_so_only_where_somebody_would_take_it_for_more() {
    let world = World::shared().await;
    let nats = world.nats.client().await;
    let t = unique("plain");
    let mut watch = Watch::new(&nats, &format!("{t}.>")).await;
    let mut subscriber = world.b.v5(&unique("sub")).await;
    subscriber.subscribe(&format!("{t}/wanted"), 1).await;
    subscriber.subscribe(&format!("{t}/other"), 0).await;
    let mut publisher = world.a.v5(&unique("pub")).await;
    eventually("the other sidecar knows", async || {
        publisher.publish(msg(&format!("{t}/wanted"), "m")).await;
        let is_qos_0 = |m: async_nats::Message| m.headers.is_some_and(|h| h.get("Mqtt-QoS").is_some());
        is_qos_0(watch.next().await)
    })
    .await;
    publisher.publish(msg(&format!("{t}/other"), "m")).await;
    assert_eq!(watch.next().await.headers, None);
    while subscriber.receive().await.topic_name().unwrap().as_str() != format!("{t}/other") {}
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_was_away_gets_what_was_published_while_all_sidecars_restarted() {
    let mut world = World::own().await;
    let nats = world.nats.client().await;
    let t = unique("away");
    let ids = [(Version::V311, 1, unique("old")), (Version::V5, 2, unique("new"))];
    for (version, qos, id) in &ids {
        let mut device = durable(&world.a, *version, id).await;
        device.subscribe(&format!("{t}/#"), *qos).await;
        device.goodbye().await;
    }
    eventually("somebody leads", async || leads(&world.a) || leads(&world.b)).await;
    // One after the other, so that there is always one; the first one without a word.
    let subject = format!("{t}.x");
    let mut n = 0;
    let mut send = async |count: usize| {
        for _ in 0..count {
            nats.publish(subject.clone(), n.to_string().into()).await.unwrap();
            n += 1;
        }
        settle(&nats).await;
    };
    send(100).await;
    world.a.kill();
    send(100).await;
    world.a.restart().await;
    send(100).await;
    world.b.stop().await;
    send(100).await;
    world.b.restart().await;
    send(100).await;
    for (version, qos, id) in &ids {
        let mut device = durable(&world.b, *version, id).await;
        let mut got = Vec::new();
        while got.len() < 500 {
            let publish = device.receive().await;
            assert_eq!((publish.qos(), publish.dup), (QoS::try_from(*qos).unwrap(), false));
            got.push(String::from_utf8_lossy(&publish.payload).into_owned());
        }
        assert_eq!(got, (0..500).map(|n| n.to_string()).collect::<Vec<_>>());
        device.goodbye().await;
    }
}

/// A sidecar that ends and is started again leads again before the other one has noticed, and has not heard what that one has.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_leader_asks_the_others_what_the_last_one_has_left() {
    let mut world = World::own().await;
    let nats = world.nats.client().await;
    eventually("somebody leads", async || leads(&world.a) || leads(&world.b)).await;
    let (leader, other) = if leads(&world.a) { (&mut world.a, &world.b) } else { (&mut world.b, &world.a) };
    let t = unique("newcomer");
    let id = unique("device");
    let mut device = durable(other, Version::V5, &id).await;
    device.subscribe(&format!("{t}/x"), 1).await;
    let (subject, mut sent) = (format!("{t}.x"), 0);
    let mut send = async |count: usize| {
        for _ in 0..count {
            nats.publish(subject.clone(), format!("{sent:1000}").into()).await.unwrap();
            sent += 1;
        }
        settle(&nats).await;
    };
    for round in 0..3 {
        send(50).await;
        if round == 1 {
            leader.kill();
        } else {
            leader.stop().await;
        }
        // Large enough for several answers.
        send(500).await;
        leader.restart().await;
        send(50).await;
    }
    for n in 0..3 * 600 {
        let publish = device.receive().await;
        assert_eq!(String::from_utf8_lossy(&publish.payload).trim(), n.to_string());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_and_nothing_comes_twice_when_the_leader_is_killed() {
    let mut world = World::own().await;
    let nats = world.nats.client().await;
    eventually("somebody leads", async || leads(&world.a) || leads(&world.b)).await;
    let t = unique("leader");
    let is_a = leads(&world.a);
    let mut device = durable(if is_a { &world.b } else { &world.a }, Version::V5, &unique("device")).await;
    device.subscribe(&format!("{t}/x"), 1).await;
    // Both have heard of it when what is published arrives and the other one stands by.
    publish(&nats, &format!("{t}.x"), "first").await;
    assert_eq!(device.receive_shown().await, format!("{t}/x first qos1"));
    let stop = AtomicBool::new(false);
    let sending = async {
        let mut n = 0;
        while !stop.load(Ordering::Relaxed) {
            nats.publish(format!("{t}.x"), n.to_string().into()).await.unwrap();
            n += 1;
            // A rate, not a wait.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        settle(&nats).await;
        n
    };
    let killing = async {
        let mut got = vec![device.receive().await];
        let (leader, other) = if is_a { (&mut world.a, &world.b) } else { (&mut world.b, &world.a) };
        leader.kill();
        eventually("the other one leads", async || leads(other)).await;
        while got.len() < 50 {
            got.push(device.receive().await);
        }
        stop.store(true, Ordering::Relaxed);
        got
    };
    let (sent, mut got) = tokio::join!(sending, killing);
    while got.len() < sent {
        got.push(device.receive().await);
    }
    let payloads: Vec<String> = got.iter().map(|p| String::from_utf8_lossy(&p.payload).into_owned()).collect();
    assert_eq!(payloads, (0..sent).map(|n| n.to_string()).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_ingest_core_messages_are_qos_0_for_everybody() {
    let nats_server = NatsServer::start();
    let sidecar = SidecarBuilder::of(&nats_server, "sidecar").set("JETSTREAM__INGEST", "off").start().await;
    let nats = nats_server.client().await;
    let mut client = sidecar.v5("client").await;
    client.subscribe("a/#", 1).await;
    publish(&nats, "a.x", "m").await;
    assert_eq!(client.receive_shown().await, "a/x m qos0");
    assert_eq!(client.publish(msg("a/x", "n").qos(1)).await, ReasonCode::Success);
    assert_eq!(client.receive_shown().await, "a/x n qos1");
}
