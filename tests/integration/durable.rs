//! QoS 1 and 2 in quantity: every message stored once, delivered once, in order, on whichever sidecar. What happens
//! while nats-server is away is in `outage`.

use std::collections::HashMap;

use mqtt_codec::Publish;

use crate::harness::{Message, World, heavy, mosquitto_pub, msg, python, stored};

const RAW_QOS_1: usize = 15_000;
const RAW_QOS_2: usize = 5_000;
const PAHO: usize = 2_000;
const MOSQUITTO: usize = 1_000;
const WINDOW: usize = 128;

fn numbered(topic: &str, count: usize, qos: u8) -> impl Iterator<Item = Message> {
    (0..count).map(move |number| msg(topic, number.to_string()).qos(qos))
}

/// Checks that every topic got its numbers once and in order.
fn check_order(messages: &[Publish], expected: &[(&str, usize)]) {
    let mut next: HashMap<&str, usize> = HashMap::new();
    for message in messages {
        let topic = message.topic_name().unwrap().as_str();
        let number: usize = std::str::from_utf8(&message.payload).unwrap().parse().unwrap();
        let wanted = next.entry(topic).or_default();
        assert_eq!(number, *wanted, "{topic}");
        assert!(!message.dup, "{topic} {number} came as a duplicate");
        *wanted += 1;
    }
    for (topic, count) in expected {
        assert_eq!(next.get(topic), Some(count), "{topic}");
    }
    assert_eq!(next.len(), expected.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_arrive_once_and_in_order_through_two_sidecars_and_are_stored_once() {
    let _turn = heavy().await;
    let world = World::own().await;
    let expected = [("d/raw1", RAW_QOS_1), ("d/raw2", RAW_QOS_2), ("d/paho", PAHO), ("d/mosquitto", MOSQUITTO)];
    let total: usize = expected.iter().map(|(_, count)| count).sum();
    let mut readers = Vec::new();
    for (sidecar, qos) in [(&world.a, 1), (&world.b, 2)] {
        let mut subscriber = sidecar.v5(&format!("sub{qos}")).await;
        subscriber.subscribe("d/#", qos).await;
        readers.push(tokio::spawn(async move {
            let mut messages = Vec::with_capacity(total);
            while messages.len() < total {
                messages.push(subscriber.receive().await);
            }
            (subscriber, messages)
        }));
    }

    let (a, b) = (world.a.mqtt_port.to_string(), world.b.mqtt_port);
    let mut raw1 = world.a.v5("raw1").await;
    let mut raw2 = world.b.v311("raw2").await;
    let lines: String = (0..MOSQUITTO).map(|number| format!("{number}\n")).collect();
    let paho = [a.as_str(), "5", "2", "d/paho", &PAHO.to_string()].map(str::to_owned);
    let paho: Vec<&str> = paho.iter().map(String::as_str).collect();
    let ((), (), _, finished) = tokio::join!(
        raw1.publish_all(numbered("d/raw1", RAW_QOS_1, 1), WINDOW, |_| {}),
        raw2.publish_all(numbered("d/raw2", RAW_QOS_2, 2), WINDOW, |_| {}),
        python("publish.py", &paho),
        mosquitto_pub(b, &["-V", "mqttv311", "-q", "1", "-t", "d/mosquitto", "-l"], lines),
    );
    assert_eq!(finished.code, 0, "{}", finished.stderr);
    let nats = world.nats.client().await;
    assert_eq!(stored(&nats, "MQTT_log", "").await, total as u64);

    for reader in readers {
        let (mut subscriber, messages) = reader.await.unwrap();
        check_order(&messages, &expected);
        // Nothing comes twice behind them.
        raw1.publish(msg("d/raw1", "end").qos(1)).await;
        assert_eq!(subscriber.shown_until("end").await, [""; 0]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_subscriber_never_sees_older_messages() {
    let world = World::shared().await;
    let t = crate::harness::unique("older");
    let topic = format!("{t}/x");
    let mut publisher = world.a.v5(&format!("{t}-pub")).await;
    for round in 0..50 {
        publisher.publish_all(numbered(&topic, 20, 1), WINDOW, |_| {}).await;
        for sidecar in [&world.a, &world.b] {
            let mut subscriber = sidecar.v311(&format!("{t}-{round}")).await;
            subscriber.subscribe(&format!("{t}/#"), 1).await;
            publisher.publish(msg(&topic, "end").qos(1)).await;
            assert_eq!(subscriber.shown_until("end").await, [""; 0], "round {round}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_qos_0_and_a_qos_1_subscriber_both_get_a_qos_1_publish_once() {
    let world = World::shared().await;
    let t = crate::harness::unique("mixed");
    let topic = format!("{t}/x");
    let mut subscribers = Vec::new();
    for sidecar in [&world.a, &world.b] {
        for qos in [0, 1] {
            let mut subscriber = sidecar.v311(&crate::harness::unique("sub")).await;
            subscriber.subscribe(&topic, qos).await;
            subscribers.push((qos, subscriber));
        }
    }
    let mut publisher = world.a.v311(&crate::harness::unique("pub")).await;
    let count = 300;
    publisher.publish_all(numbered(&topic, count, 1), WINDOW, |_| {}).await;
    publisher.publish(msg(&topic, "end").qos(1)).await;
    for (qos, subscriber) in &mut subscribers {
        let wanted: Vec<String> = (0..count).map(|number| format!("{topic} {number} qos{qos}")).collect();
        assert_eq!(subscriber.shown_until("end").await, wanted);
    }
}
