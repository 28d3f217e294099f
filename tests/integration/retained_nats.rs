//! The bucket of retained messages from the other side: what a NATS client puts, deletes and purges there reaches MQTT
//! subscribers like a retained publish, once, whoever is connected, offline, or subscribes at that moment.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_nats::Client as Nats;
use serde_json::json;
use tokio::sync::Barrier;

use crate::harness::{
    Client, Options, Sidecar, Watch, World, eventually, heavy, js_api, msg, put_retained, python, shown, stored, unique,
};

async fn put(nats: &Nats, key: &str, value: &str) {
    put_retained(nats, key, &[], value).await;
}

/// What came until now, of a client that is subscribed to `topic` at QoS 1 or 2.
async fn rest(client: &mut Client, publisher: &mut Client, topic: &str) -> Vec<String> {
    publisher.publish(msg(topic, "end").qos(1)).await;
    client.shown_until("end").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_put_reaches_every_subscriber_once() {
    let world = World::shared().await;
    let nats = world.nats.client().await;
    let t = unique("put");
    let topic = format!("{t}/line 1/temp");
    let mut natural = Watch::new(&nats, &format!("{t}.>")).await;
    let mut publisher = world.a.v5(&unique("pub")).await;
    let (plus, hash) = (format!("{t}/+/temp"), format!("{t}/#"));
    let cases: [(&[(&str, u8)], u8); 5] = [
        (&[(&topic, 0)], 0),
        (&[(&topic, 1)], 1),
        (&[(&plus, 2)], 1),
        // However many of its subscriptions match.
        (&[(&topic, 0), (&plus, 1), (&hash, 0)], 1),
        (&[(&hash, 0), (&topic, 0)], 0),
    ];
    let mut subscribers = Vec::new();
    for (filters, qos) in cases {
        for options in [Options::v5(&unique("sub")), Options::v311(&unique("sub"))] {
            for sidecar in [&world.a, &world.b] {
                let mut options = options.clone();
                options.connect.client_id = unique("sub").into();
                let mut client = sidecar.connect(options).await;
                for (filter, qos) in filters {
                    client.subscribe(filter, *qos).await;
                }
                subscribers.push((client, qos));
            }
        }
    }
    // A key as client tools take it: the subject has `line%201`.
    put(&nats, &format!("{t}.line=25201.temp"), "21.5").await;
    for (client, qos) in &mut subscribers {
        assert_eq!(client.receive_shown().await, format!("{topic} 21.5 qos{qos}"), "{}", client.id());
    }
    let copy = natural.next().await;
    assert_eq!((copy.subject.as_str(), &copy.payload[..]), (&*format!("{t}.line%201.temp"), &b"21.5"[..]));
    assert!(copy.headers.is_some_and(|headers| headers.get("Mqtt-Log").is_some()));
    publisher.publish(msg(&topic, "end").qos(1)).await;
    for (client, _) in &mut subscribers {
        assert_eq!(client.shown_until("end").await, [""; 0], "{} got it again", client.id());
    }
    // Who comes later gets it as retained, and only so.
    let mut late = world.b.v311(&unique("late")).await;
    late.subscribe(&hash, 1).await;
    assert_eq!(rest(&mut late, &mut publisher, &topic).await, [format!("{topic} 21.5 qos1 retain")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_put_on_a_subject_of_a_users_stream_goes_into_that_stream() {
    let world = World::own().await;
    let nats = world.nats.client().await;
    let config = json!({ "name": "PLANT", "subjects": ["plant.>"], "storage": "memory" });
    let created = js_api(&nats, "STREAM.CREATE.PLANT", &config).await;
    assert!(created["error"].is_null(), "{created}");
    eventually("it is attached", async || {
        let is_said = |line: &str| line.contains("PLANT") && line.contains("is a log of these subjects");
        [&world.a, &world.b].iter().all(|sidecar| sidecar.log().lines().any(is_said))
    })
    .await;
    let mut away = world.a.connect(Options::v5("away").durable(600)).await;
    away.subscribe("plant/#", 1).await;
    away.goodbye().await;
    let mut subscribers = Vec::new();
    for (sidecar, qos) in [(&world.a, 0), (&world.a, 1), (&world.b, 0), (&world.b, 2)] {
        let mut client = sidecar.v5(&unique("sub")).await;
        client.subscribe("plant/+", qos).await;
        subscribers.push((client, qos.min(1)));
    }
    put(&nats, "plant.temp", "21.5").await;
    let mut publisher = world.b.v5("pub").await;
    for (client, qos) in &mut subscribers {
        assert_eq!(client.receive_shown().await, format!("plant/temp 21.5 qos{qos}"));
    }
    publisher.publish(msg("plant/temp", "end").qos(1)).await;
    for (client, _) in &mut subscribers {
        assert_eq!(client.shown_until("end").await, [""; 0]);
    }
    let mut away = world.b.connect(Options::v5("away").durable(600)).await;
    assert_eq!(away.receive_shown().await, "plant/temp 21.5 qos1");
    assert_eq!(stored(&nats, "PLANT", "").await, 2, "the put and the end");
    assert_eq!(stored(&nats, "MQTT_log", "").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retained_publish_of_mqtt_is_not_taken_for_a_put() {
    let world = World::shared().await;
    let nats = world.nats.client().await;
    let t = unique("own");
    let topic = format!("{t}/x");
    let mut publisher = world.a.v5(&unique("pub")).await;
    let mut subscriber = world.a.v5(&unique("sub")).await;
    subscriber.subscribe(&topic, 2).await;
    for qos in [0, 1, 2] {
        publisher.publish(msg(&topic, "m").qos(qos).retained()).await;
        publisher.publish(msg(&topic, "").qos(qos).retained()).await;
    }
    // What is put after them is carried after them.
    put(&nats, &format!("{t}.x"), "end").await;
    let got = subscriber.shown_until("end").await;
    let wanted: Vec<String> =
        (0..3).flat_map(|qos| [format!("{topic} m qos{qos}"), format!("{topic}  qos{qos}")]).collect();
    assert_eq!(got, wanted);
    assert_eq!(stored(&nats, "MQTT_log", &format!("$NMQ.log.{t}.x")).await, 5, "four publishes and the put");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_clears_a_key_reaches_subscribers_as_an_empty_message() {
    let world = World::shared().await;
    let nats = world.nats.client().await;
    let t = unique("clear");
    let (topic, key) = (format!("{t}/x"), format!("{t}.x"));
    let mut publisher = world.a.v311(&unique("pub")).await;
    let mut live = world.b.v311(&unique("live")).await;
    live.subscribe(&topic, 1).await;
    let cases: [(&str, &[(&str, &str)]); 4] = [
        ("nats kv del", &[("KV-Operation", "DEL")]),
        ("nats kv purge", &[("KV-Operation", "PURGE"), ("Nats-Rollup", "sub")]),
        ("with a lifetime", &[("KV-Operation", "PURGE"), ("Nats-Rollup", "sub"), ("Nats-TTL", "60s")]),
        ("an empty value", &[]),
    ];
    for (what, headers) in cases {
        put(&nats, &key, "kept").await;
        assert_eq!(live.receive_shown().await, format!("{topic} kept qos1"), "{what}");
        put_retained(&nats, &key, headers, "").await;
        assert_eq!(live.receive_shown().await, format!("{topic}  qos1"), "{what}");
        for sidecar in [&world.a, &world.b] {
            let mut late = sidecar.v311(&unique("late")).await;
            late.subscribe(&format!("{t}/#"), 1).await;
            assert_eq!(rest(&mut late, &mut publisher, &topic).await, [""; 0], "{what}");
        }
        assert_eq!(live.shown_until("end").await, [""; 0], "{what}");
        assert_eq!(live.shown_until("end").await, [""; 0], "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_and_lifetime_of_a_put_come_with_it() {
    let world = World::shared().await;
    let nats = world.nats.client().await;
    let t = unique("headers");
    let topic = format!("{t}/x");
    let mut live = world.a.v5(&unique("live")).await;
    live.subscribe(&topic, 2).await;
    let headers = [("Unit", "K"), ("Content-Type", "text/plain"), ("Mqtt-QoS", "2"), ("Nats-TTL", "2s")];
    put_retained(&nats, &format!("{t}.x"), &headers, "21").await;
    let message = live.receive().await;
    assert_eq!(shown(&message), format!("{topic} 21 qos2"));
    let properties = message.properties.expect("properties");
    assert_eq!(properties.user_properties, [("Unit".into(), "K".into())]);
    assert_eq!(properties.content_type.as_deref(), Some("text/plain"));
    assert!(properties.message_expiry_interval_s.is_some_and(|s| s <= 2), "{properties:?}");
    eventually("its life ends", async || {
        let mut late = world.b.v5(&unique("late")).await;
        late.subscribe(&topic, 1).await;
        late.publish(msg(&topic, "end").qos(1)).await;
        late.receive_until("end").await.is_empty()
    })
    .await;
    // Nobody was told that it has ended.
    assert!(live.shown_until("end").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn offline_sessions_get_what_was_put_even_while_no_sidecar_ran() {
    let mut world = World::own().await;
    let nats = world.nats.client().await;
    for qos in [1, 2] {
        let mut client = world.a.connect(Options::v5(&format!("away-{qos}")).durable(600)).await;
        client.subscribe("plant/#", qos).await;
        client.goodbye().await;
    }
    put(&nats, "plant.a", "1").await;
    eventually("it is in the log", async || stored(&nats, "MQTT_log", "$NMQ.log.plant.a").await == 1).await;
    world.a.kill();
    world.b.kill();
    put(&nats, "plant.b", "old").await;
    put(&nats, "plant.b", "2").await;
    put_retained(&nats, "plant.c", &[("KV-Operation", "DEL")], "").await;
    world.b.restart().await;
    for qos in [1, 2] {
        let mut client = world.b.connect(Options::v5(&format!("away-{qos}")).durable(600)).await;
        assert!(client.is_resumed());
        // The last value of each key is what the bucket has.
        for wanted in ["plant/a 1 qos1", "plant/b 2 qos1", "plant/c  qos1"] {
            assert_eq!(client.receive_shown().await, wanted, "QoS {qos}");
        }
        assert_eq!(rest(&mut client, &mut world.b.v5("pub").await, "plant/end").await, [""; 0]);
    }
}

/// The sidecar that carries what is put.
fn carrier<'a>(a: &'a mut Sidecar, b: &'a mut Sidecar) -> &'a mut Sidecar {
    let term = |sidecar: &Sidecar| {
        let log = sidecar.log();
        let line = log.lines().rev().find(|line| line.contains("this sidecar keeps the retained"))?.to_owned();
        line.split("term=").nth(1)?.split_whitespace().next()?.parse::<u64>().ok()
    };
    if term(a) > term(b) { a } else { b }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_carries_puts_dies_and_each_is_stored_once() {
    const KEYS: usize = 300;
    let _turn = heavy().await;
    let mut world = World::own().await;
    let nats = world.nats.client().await;
    let mut client = world.a.connect(Options::v5("away").durable(600)).await;
    client.subscribe("plant/#", 1).await;
    client.goodbye().await;
    for key in 0..KEYS {
        if key == KEYS / 3 {
            eventually("it is in the middle of it", async || stored(&nats, "MQTT_log", "").await > 5).await;
            carrier(&mut world.a, &mut world.b).kill();
        }
        put(&nats, &format!("plant.{key}"), &key.to_string()).await;
    }
    let mut client = match Client::try_open(world.a.mqtt_port, Options::v5("away").durable(600)).await {
        Ok(client) => client,
        Err(_) => world.b.connect(Options::v5("away").durable(600)).await,
    };
    let mut got = BTreeMap::new();
    while got.len() < KEYS {
        let message = client.receive().await;
        *got.entry(String::from_utf8(message.payload.to_vec()).unwrap()).or_insert(0) += 1;
    }
    assert!(got.values().all(|times| *times == 1), "{got:?}");
    assert_eq!(stored(&nats, "MQTT_log", "$NMQ.log.plant.>").await, KEYS as u64);
}

const LANES: usize = 2;
const ITERATIONS: usize = 150;

/// Subscribes when everybody is there, and again for the next topic; each time the value has come, once.
async fn subscriber(mut client: Client, lane: usize, wildcard: &str, qos: u8, barrier: Arc<Barrier>) {
    for iteration in 0..ITERATIONS {
        let filter = format!("race/{lane}/{iteration}/{wildcard}");
        barrier.wait().await;
        client.subscribe(&filter, qos).await;
        let first = client.receive_shown().await;
        barrier.wait().await;
        let topic = format!("race/{lane}/{iteration}/x");
        assert!(first.starts_with(&format!("{topic} m qos{}", qos.min(1))), "{first}");
        assert_eq!(client.shown_until("end").await, [""; 0], "{} got it twice: {filter}, {first}", client.id());
        client.unsubscribe(&filter).await;
        client.ping().await;
    }
}

async fn putter(nats: Nats, mut client: Client, lane: usize, barrier: Arc<Barrier>) {
    client.subscribe(&format!("race/{lane}/#"), 1).await;
    for iteration in 0..ITERATIONS {
        barrier.wait().await;
        // Its moment among the SUBSCRIBEs varies.
        for _ in 0..iteration % 4 {
            client.ping().await;
        }
        put(&nats, &format!("race.{lane}.{iteration}.x"), "m").await;
        // The live copy has passed: a second one for the others would have, too.
        assert_eq!(client.receive_shown().await, format!("race/{lane}/{iteration}/x m qos1"));
        barrier.wait().await;
        client.publish(msg(&format!("race/{lane}/{iteration}/x"), "end").qos(1)).await;
        assert_eq!(client.shown_until("end").await, [""; 0]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_put_while_subscribers_come_and_go_arrives_exactly_once() {
    let _turn = heavy().await;
    let world = World::own().await;
    let mut tasks = Vec::new();
    for lane in 0..LANES {
        let cases = [("x", 1), ("+", 0), ("#", 2)];
        let barrier = Arc::new(Barrier::new(1 + 2 * cases.len()));
        let client = world.a.v311(&format!("pub-{lane}")).await;
        tasks.push(tokio::spawn(putter(world.nats.client().await, client, lane, Arc::clone(&barrier))));
        for (name, sidecar) in [("a", &world.a), ("b", &world.b)] {
            for (wildcard, qos) in cases {
                let client = sidecar.v311(&format!("sub-{lane}-{name}-{wildcard}")).await;
                tasks.push(tokio::spawn(subscriber(client, lane, wildcard, qos, Arc::clone(&barrier))));
            }
        }
    }
    // One that fails makes the others wait for it for ever.
    while !tasks.is_empty() {
        let (result, _, others) = futures_util::future::select_all(tasks).await;
        result.unwrap();
        tasks = others;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_library_puts_deletes_purges_and_watches() {
    let world = World::shared().await;
    let t = unique("py");
    let mut subscriber = world.a.v5(&unique("sub")).await;
    subscriber.subscribe(&format!("{t}/#"), 1).await;
    let url = world.nats.url();
    // A bucket has the last value of a key only, so what is put is seen before it is ended.
    for (what, wanted) in [("put", ["/a 1 qos1", "/b 2 qos1"]), ("end", ["/a  qos1", "/b  qos1"])] {
        python("kv.py", &[&url, what, &t]).await;
        let seen = [subscriber.receive_shown().await, subscriber.receive_shown().await];
        assert_eq!(seen, wanted.map(|rest| format!("{t}{rest}")));
    }
    let mut publisher = world.b.v5(&unique("pub")).await;
    publisher.publish(msg(&format!("{t}/mqtt/1"), "on").qos(1).retained()).await;
    publisher.publish(msg(&format!("{t}/mqtt/2"), "off").qos(0).retained()).await;
    publisher.publish(msg(&format!("{t}/mqtt/1"), "").qos(1).retained()).await;
    let watched = python("kv.py", &[&url, "watch", &format!("{t}.mqtt.>"), "2"]).await;
    let mut lines: Vec<&str> = watched.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, [format!("{t}.mqtt.1 PURGE"), format!("{t}.mqtt.2 off")]);
}
