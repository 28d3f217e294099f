//! Topics that are awkward in NATS come back as they were; what belongs to NATS itself is closed.

use mqtt_codec::ReasonCode;
use serde_json::Value;

use crate::harness::{Client, World, js_api, msg, settle, shown, stored, unique};

/// Topics, and a filter with a wildcard that matches each.
const TOPICS: [(&str, &str); 17] = [
    ("home/Living Room/temp", "home/+/temp"),
    ("a.b/c d", "a.b/#"),
    ("x/*/y", "x/+/y"),
    ("x/>/y", "x/+/y"),
    ("x/a*b>c/y", "x/#"),
    ("/", "+/+"),
    ("//", "/#"),
    ("a//b/", "a/+/b/+"),
    ("/lead", "/+"),
    ("trail/", "trail/+"),
    ("🌡/küche", "🌡/#"),
    ("\u{feff}a/\u{feff}", "\u{feff}a/+"),
    ("tab\there", "+"),
    ("100%/%20", "100%/+"),
    (".", "+"),
    ("..", "+"),
    ("$aws/things/x", "$aws/#"),
];

/// Only messages of this test: others share the broker, and `+` and `#` see them.
async fn receive_from(client: &mut Client, payloads: &str) -> String {
    loop {
        let publish = client.receive().await;
        if publish.payload.starts_with(payloads.as_bytes()) {
            return shown(&publish);
        }
    }
}

/// [MQTT-1.5.4-3], [MQTT-3.3.2-3]
#[tokio::test(flavor = "multi_thread")]
async fn awkward_topics_come_back_as_they_were_on_both_sidecars() {
    let world = World::shared().await;
    let run = unique("awkward");
    let mut publisher = world.a.v311(&unique("pub")).await;
    for (topic, wildcard) in TOPICS {
        let mut subscribers = Vec::new();
        for sidecar in [&world.a, &world.b] {
            for filter in [topic, wildcard] {
                let mut subscriber = sidecar.v311(&unique("sub")).await;
                subscriber.subscribe(filter, 1).await;
                subscribers.push(subscriber);
            }
        }
        for qos in [0, 1] {
            publisher.publish(msg(topic, format!("{run} {qos}")).qos(qos)).await;
            for subscriber in &mut subscribers {
                assert_eq!(receive_from(subscriber, &run).await, format!("{topic} {run} {qos} qos{qos}"));
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn awkward_topics_are_retained_as_they_were() {
    let world = World::shared().await;
    let run = unique("kept");
    let mut publisher = world.a.v5(&unique("pub")).await;
    for (topic, wildcard) in TOPICS {
        publisher.publish(msg(topic, run.clone()).qos(1).retained()).await;
        for (sidecar, filter) in [(&world.a, topic), (&world.b, topic), (&world.b, wildcard)] {
            let mut subscriber = sidecar.v5(&unique("sub")).await;
            subscriber.subscribe(filter, 1).await;
            assert_eq!(receive_from(&mut subscriber, &run).await, format!("{topic} {run} qos1 retain"), "{filter}");
        }
        publisher.publish(msg(topic, "").qos(1).retained()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_star_in_a_filter_is_a_star_and_no_wildcard() {
    let world = World::shared().await;
    let sec = unique("sec");
    let mut subscriber = world.a.v311(&unique("sub")).await;
    for filter in ["*/x", ">", "*"] {
        subscriber.subscribe(&format!("{sec}/{filter}"), 1).await;
    }
    for sidecar in [&world.a, &world.b] {
        let mut publisher = sidecar.v311(&unique("pub")).await;
        for qos in [0, 1] {
            publisher.publish(msg(&format!("{sec}/alice/x"), "secret").qos(qos)).await;
            publisher.publish(msg(&format!("{sec}/alice"), "secret").qos(qos)).await;
            publisher.publish(msg(&format!("{sec}/*/x"), "meant").qos(qos)).await;
            assert_eq!(subscriber.receive_shown().await, format!("{sec}/*/x meant qos{qos}"));
        }
    }
    let nats = world.nats.client().await;
    nats.publish(format!("{sec}.alice.x"), "secret".into()).await.unwrap();
    nats.publish(format!("{sec}.alice"), "secret".into()).await.unwrap();
    settle(&nats).await;
    let mut publisher = world.a.v311(&unique("pub")).await;
    publisher.publish(msg(&format!("{sec}/*"), "meant").qos(1)).await;
    assert_eq!(subscriber.receive_shown().await, format!("{sec}/* meant qos1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn wildcards_at_the_first_level_show_nothing_internal_while_jetstream_is_busy() {
    let world = World::shared().await;
    let t = unique("visible");
    let mut watchers = Vec::new();
    for (sidecar, filter, qos) in [(&world.a, "#", 1), (&world.b, "#", 0), (&world.a, "+/#", 0), (&world.b, "+/+/#", 1)]
    {
        let mut watcher = sidecar.v311(&unique("watcher")).await;
        watcher.subscribe(filter, qos).await;
        watchers.push(watcher);
    }
    let nats = world.nats.client().await;
    let mut publisher = world.a.v5(&unique("pub")).await;
    for number in 0..100 {
        publisher.publish(msg(&format!("{t}/x"), number.to_string()).qos(number % 3).retained()).await;
        publisher.publish(msg(&format!("$aws/things/{t}"), "shadow").qos(number % 2)).await;
        js_api(&nats, "INFO", &Value::Null).await;
        for subject in ["_INBOX.x.y", "$other.x.y", "$JS.EVENT.METRIC.x", "$SYS.x.y", "$KV.bucket.key", "_R_.x.y"] {
            nats.publish(subject, "internal".into()).await.unwrap();
        }
    }
    nats.publish(format!("{t}.x"), "core".into()).await.unwrap();
    settle(&nats).await;
    publisher.publish(msg(&format!("{t}/x"), "").qos(1).retained()).await;
    let end = format!("{t} end");
    publisher.publish(msg(&format!("{t}/x"), end.clone()).qos(1)).await;
    publisher.publish(msg(&format!("{t}/x"), end.clone())).await;
    for watcher in &mut watchers {
        let mut own = 0;
        // Once by each path.
        for _ in 0..2 {
            for message in watcher.receive_until(&end).await {
                let topic = message.topic_name().unwrap().as_str();
                assert!(!topic.starts_with(['$', '_']), "{}", shown(&message));
                own += usize::from(topic.starts_with(&t));
            }
        }
        assert!(own >= 100, "{own}");
    }
}

/// [MQTT-3.3.5-2 of 3.1.1]
#[tokio::test(flavor = "multi_thread")]
async fn publishing_into_nats_is_refused_and_changes_nothing() {
    let world = World::shared().await;
    let nats = world.nats.client().await;
    let mut v5 = world.a.v5(&unique("v5")).await;
    let mut v311 = world.a.v311(&unique("v311")).await;
    v5.publish(msg(&unique("something"), "x").qos(1)).await;
    let own = unique("watch");
    let mut watcher = world.b.v5(&own).await;
    watcher.subscribe(&own, 1).await;
    for topic in [
        "$JS/API/STREAM/DELETE/MQTT_log",
        "$JS/API/STREAM/PURGE/MQTT_log",
        "$SYS/REQ/SERVER/PING",
        "$KV/MQTT_sessions/x",
        "$KV/MQTT_retained/x",
        "_INBOX/x",
        "$NMQ/log/x",
        "$NMQ",
        "$MQTT/msgs/x",
        "_R_/x",
        "$SRV/PING",
    ] {
        for qos in [1, 2] {
            assert_eq!(v5.publish(msg(topic, "{}").qos(qos)).await, ReasonCode::NotAuthorized, "{topic}");
            // 3.1.1 cannot be told: acknowledged and dropped.
            assert_eq!(v311.publish(msg(topic, "{}").qos(qos)).await, ReasonCode::Success, "{topic}");
        }
        for client in [&mut v5, &mut v311] {
            client.publish(msg(topic, "{}")).await;
            client.publish(msg(topic, "{}").retained()).await;
            client.ping().await;
        }
    }
    assert!(stored(&nats, "MQTT_log", "").await > 0);
    assert_eq!(stored(&nats, "MQTT_log", "$NMQ.log.$NMQ.>").await, 0);
    assert_eq!(stored(&nats, "MQTT_log", "$NMQ.log.x").await, 0);
    assert_eq!(stored(&nats, "KV_MQTT_retained", "$KV.MQTT_retained.x").await, 0);
    v5.publish(msg(&own, "fine").qos(1)).await;
    assert_eq!(watcher.receive_shown().await, format!("{own} fine qos1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn subscribing_to_nats_is_refused() {
    let world = World::shared().await;
    let mut v5 = world.a.v5(&unique("v5")).await;
    let mut v311 = world.a.v311(&unique("v311")).await;
    for filter in [
        "$JS/#",
        "$JS/API/INFO",
        "_INBOX/#",
        "_INBOX/+/x",
        "$NMQ/#",
        "$NMQ",
        "$KV/#",
        "$SRV/#",
        "$MQTT/+",
        "_R_/#",
        "$O/#",
    ] {
        assert_eq!(v5.asks_for(filter, 1).await, ReasonCode::NotAuthorized, "{filter}");
        assert_eq!(v311.asks_for(filter, 1).await, ReasonCode::UnspecifiedError, "{filter}");
    }
    v5.ping().await;
    v311.ping().await;
}
