//! Retained messages: all of them, on every sidecar, after every restart. What happens while subscribers come and go
//! is in `retained_race`.

use std::collections::BTreeMap;
use std::time::Duration;

use mqtt_codec::{QoS, RetainHandling, SubscriptionOptions};

use crate::harness::{Client, World, eventually, heavy, msg, unique};

const COUNT: usize = 1_000;
const ROUNDS: usize = 5;

/// What a new subscriber gets as retained messages, and how often; live messages are left out.
async fn retained_of(client: &mut Client, filter: &str, count: usize) -> BTreeMap<String, (String, u8)> {
    client.subscribe(filter, 1).await;
    let mut got = BTreeMap::new();
    while got.len() < count {
        let message = client.receive().await;
        assert!(message.retain, "{message:?}");
        let payload = String::from_utf8(message.payload.to_vec()).unwrap();
        let topic = message.topic_name().unwrap().to_string();
        let before = got.insert(topic, (payload, message.qos() as u8));
        assert_eq!(before, None, "{message:?} came twice");
    }
    got
}

/// [MQTT-3.1.2-7 of 3.1.1]
#[tokio::test(flavor = "multi_thread")]
async fn the_first_subscriber_after_a_restart_gets_all_of_them_on_either_sidecar() {
    let _turn = heavy().await;
    let mut world = World::own().await;
    let mut publisher = world.a.v5("pub").await;
    let topic = |number: usize| format!("r/{}/{number}", number % 7);
    let messages = (0..COUNT).map(|number| msg(&topic(number), number.to_string()).qos((number % 3) as u8).retained());
    publisher.publish_all(messages, 100, |_| {}).await;
    let wanted: BTreeMap<_, _> =
        (0..COUNT).map(|number| (topic(number), (number.to_string(), ((number % 3) as u8).min(1)))).collect();
    let nats = world.nats.client().await;
    // QoS 0 is not acknowledged.
    eventually("all are stored", async || crate::harness::stored(&nats, "KV_MQTT_retained", "").await == COUNT as u64)
        .await;
    drop((nats, publisher));
    for round in 0..ROUNDS {
        world.a.kill();
        if round % 2 == 0 {
            world.b.kill();
        }
        world.nats.kill();
        world.nats.restart();
        world.a.restart().await;
        if round % 2 == 0 {
            world.b.restart().await;
        }
        world.b.ready().await;
        let order = if round % 2 == 0 { [&world.a, &world.b] } else { [&world.b, &world.a] };
        for sidecar in order {
            let mut subscriber = sidecar.v311("first").await;
            assert_eq!(retained_of(&mut subscriber, "#", COUNT).await, wanted, "round {round}");
            // And nothing else: what comes next is what is published next.
            subscriber.publish(msg("live", "now").qos(1)).await;
            assert_eq!(subscriber.receive_shown().await, "live now qos1");
        }
    }
}

/// [MQTT-3.3.1-6, -7]
#[tokio::test(flavor = "multi_thread")]
async fn an_empty_payload_clears_it_and_is_forwarded() {
    let world = World::shared().await;
    let t = unique("clear");
    let topic = format!("{t}/x");
    let mut publisher = world.a.v311(&unique("pub")).await;
    let mut live = world.b.v311(&unique("live")).await;
    live.subscribe(&topic, 1).await;
    for qos in [0, 1, 2] {
        publisher.publish(msg(&topic, "kept").qos(1).retained()).await;
        assert_eq!(live.receive_shown().await, format!("{topic} kept qos1"));
        publisher.publish(msg(&topic, "").qos(qos).retained()).await;
        assert_eq!(live.receive_shown().await, format!("{topic}  qos{}", qos.min(1)));
        for sidecar in [&world.a, &world.b] {
            let mut late = sidecar.v311(&unique("late")).await;
            late.subscribe(&format!("{t}/#"), 1).await;
            late.publish(msg(&topic, "end").qos(1)).await;
            assert_eq!(late.shown_until("end").await, [""; 0], "cleared at {qos}");
        }
        assert_eq!(live.receive_shown().await, format!("{topic} end qos1"));
        assert_eq!(live.receive_shown().await, format!("{topic} end qos1"));
    }
}

/// [MQTT-3.3.1-5], [MQTT-3.3.1-8], [MQTT-3.3.1-8 of 3.1.1]
#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_replaces_another_is_the_only_one() {
    let world = World::shared().await;
    let topic = format!("{}/x", unique("replace"));
    let mut publisher = world.a.v311(&unique("pub")).await;
    for number in 0..10 {
        publisher.publish(msg(&topic, number.to_string()).qos(1).retained()).await;
        // Not retained: it replaces nothing.
        publisher.publish(msg(&topic, "passing").qos(1)).await;
        for sidecar in [&world.a, &world.b] {
            let mut late = sidecar.v311(&unique("late")).await;
            late.subscribe(&topic, 1).await;
            assert_eq!(late.receive_shown().await, format!("{topic} {number} qos1 retain"));
        }
    }
}

/// [MQTT-3.3.1-9, -10, -11]
#[tokio::test(flavor = "multi_thread")]
async fn retain_handling_says_when_they_are_sent() {
    let world = World::shared().await;
    let t = unique("handling");
    let topic = format!("{t}/x");
    let mut publisher = world.a.v5(&unique("pub")).await;
    publisher.publish(msg(&topic, "kept").qos(1).retained()).await;
    let kept = format!("{topic} kept qos1 retain");
    let cases = [
        (RetainHandling::Send, [true, true]),
        (RetainHandling::SendIfNew, [true, false]),
        (RetainHandling::DoNotSend, [false, false]),
    ];
    for (retain_handling, sent) in cases {
        let mut subscriber = world.b.v5(&unique("sub")).await;
        let options = SubscriptionOptions { qos: QoS::AtLeastOnce, retain_handling, ..Default::default() };
        for (time, sent) in sent.into_iter().enumerate() {
            subscriber.subscribe_with(&topic, options, None).await;
            publisher.publish(msg(&topic, "end").qos(1)).await;
            let wanted = if sent { vec![kept.clone()] } else { vec![] };
            assert_eq!(subscriber.shown_until("end").await, wanted, "{retain_handling:?}, time {time}");
        }
        // After UNSUBSCRIBE it is new again.
        subscriber.unsubscribe(&topic).await;
        subscriber.subscribe_with(&topic, options, None).await;
        publisher.publish(msg(&topic, "end").qos(1)).await;
        let wanted = if sent[0] { vec![kept.clone()] } else { vec![] };
        assert_eq!(subscriber.shown_until("end").await, wanted, "{retain_handling:?}, new again");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retained_message_expires() {
    let world = World::shared().await;
    let t = unique("expiry");
    let topic = format!("{t}/short");
    let mut publisher = world.a.v5(&unique("pub")).await;
    publisher.publish(msg(&topic, "short").qos(1).retained().expires(3)).await;
    publisher.publish(msg(&format!("{t}/long"), "long").qos(1).retained().expires(1_000)).await;
    for sidecar in [&world.a, &world.b] {
        let mut early = sidecar.v5(&unique("early")).await;
        early.subscribe(&topic, 1).await;
        if let Ok(message) = early.try_receive(Duration::from_secs(3)).await {
            let left = message.properties.and_then(|properties| properties.message_expiry_interval_s);
            assert!(left.is_some_and(|left| left <= 3), "{left:?}");
        }
    }
    eventually("the short one is gone", async || {
        let mut gone = 0;
        for sidecar in [&world.a, &world.b] {
            let mut late = sidecar.v5(&unique("late")).await;
            late.subscribe(&format!("{t}/#"), 1).await;
            late.publish(msg(&format!("{t}/live"), "end").qos(1)).await;
            let got = late.receive_until("end").await;
            let long = got.iter().find(|message| message.payload == "long").expect("the long one stays");
            let left = long.properties.as_ref().and_then(|properties| properties.message_expiry_interval_s);
            assert!(left.is_some_and(|left| (900..=1_000).contains(&left)), "{left:?}");
            gone += usize::from(got.len() == 1);
        }
        gone == 2
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_writer_wins_whatever_its_qos() {
    let world = World::shared().await;
    let t = unique("last");
    for (last, orders) in [(1, [0, 2, 0, 1]), (0, [1, 1, 2, 0]), (2, [0, 0, 1, 2])] {
        let topic = format!("{t}/{last}");
        let mut publisher = world.a.v311(&unique("pub")).await;
        let messages = (0..200).map(|number| msg(&topic, number.to_string()).qos(orders[number % 4]).retained());
        publisher.publish_all(messages, 50, |_| {}).await;
        eventually("the last one is what is kept", async || {
            let mut is_last = true;
            for sidecar in [&world.a, &world.b] {
                let mut late = sidecar.v311(&unique("late")).await;
                late.subscribe(&topic, 2).await;
                is_last &= late.receive_shown().await == format!("{topic} 199 qos{last} retain");
            }
            is_last
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_a_plain_value_in_the_bucket_and_a_value_put_there_is_retained() {
    let world = World::shared().await;
    let nats = world.nats.client().await;
    let plant = unique("plant");
    let mut publisher = world.a.v311(&unique("pub")).await;
    publisher.publish(msg(&format!("{plant}/line1/temp"), "21.5").qos(1).retained()).await;
    let key = format!("$KV.MQTT_retained.{plant}.line1.temp");
    let value = nats.request(format!("$JS.API.DIRECT.GET.KV_MQTT_retained.{key}"), "".into()).await.unwrap();
    assert_eq!(value.payload, "21.5", "{value:?}");

    let stored = nats.request(format!("$KV.MQTT_retained.{plant}.line2.temp"), "22".into()).await.unwrap();
    assert!(stored.payload.starts_with(b"{\"stream\""), "{stored:?}");
    for sidecar in [&world.a, &world.b] {
        let mut subscriber = sidecar.v311(&unique("sub")).await;
        let got = retained_of(&mut subscriber, &format!("{plant}/#"), 2).await;
        let payloads: Vec<&str> = got.values().map(|(payload, _)| payload.as_str()).collect();
        assert_eq!(payloads, ["21.5", "22"]);
    }
}
