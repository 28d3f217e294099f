//! `$SYS/broker/…`: mosquitto's names, what the metrics say, and nothing of NATS's own `$SYS`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mqtt_codec::{ReasonCode, SubscriptionOptions};

use crate::harness::{
    Client, Ended, MosquittoSub, NatsServer, Options, Sidecar, SidecarBuilder, Watch, eventually, msg, shown,
};

const TICK: &str = "200ms";

const TOPICS: [&str; 21] = [
    "bytes/received",
    "bytes/sent",
    "clients/active",
    "clients/connected",
    "clients/disconnected",
    "clients/inactive",
    "clients/maximum",
    "clients/total",
    "messages/received",
    "messages/sent",
    "messages/stored",
    "publish/bytes/received",
    "publish/bytes/sent",
    "publish/messages/dropped",
    "publish/messages/received",
    "publish/messages/sent",
    "retained messages/count",
    "store/messages/count",
    "subscriptions/count",
    "uptime",
    "version",
];

const LOADS: [&str; 9] = [
    "bytes/received",
    "bytes/sent",
    "connections",
    "messages/received",
    "messages/sent",
    "publish/dropped",
    "publish/received",
    "publish/sent",
    "sockets",
];

fn names() -> BTreeSet<String> {
    let loads = LOADS.iter().flat_map(|load| ["1min", "5min", "15min"].map(|window| format!("load/{load}/{window}")));
    loads.chain(TOPICS.map(str::to_owned)).map(|name| format!("$SYS/broker/{name}")).collect()
}

async fn sidecar(nats: &NatsServer) -> Sidecar {
    SidecarBuilder::of(nats, "sidecar").set("MQTT__SYS_INTERVAL", TICK).start().await
}

fn value_of(payload: &[u8]) -> f64 {
    let text = std::str::from_utf8(payload).unwrap();
    text.trim_end_matches(" seconds").parse().unwrap_or_else(|_| panic!("{text:?} is no number"))
}

#[tokio::test(flavor = "multi_thread")]
async fn mosquitto_sub_sees_every_topic_of_mosquitto() {
    let nats = NatsServer::start();
    let sidecar = SidecarBuilder::of(&nats, "sidecar").start().await;
    for version in ["mqttv311", "mqttv5"] {
        // The interval is 10 s: what comes at once is what is retained.
        let mut sub = MosquittoSub::start(sidecar.mqtt_port, &["-V", version, "-t", "$SYS/#"]).await;
        let mut seen = BTreeMap::new();
        while seen.len() < names().len() {
            let line = sub.next().await;
            let (topic, value) = if let Some((topic, value)) = line.split_once(" messages/count ") {
                (format!("{topic} messages/count"), value)
            } else {
                let (topic, value) = line.split_once(' ').unwrap();
                (topic.to_owned(), value)
            };
            seen.insert(topic, value.to_owned());
        }
        assert_eq!(seen.keys().cloned().collect::<BTreeSet<_>>(), names());
        assert!(seen["$SYS/broker/version"].starts_with("nats-mqtt version "), "{seen:?}");
        assert!(seen["$SYS/broker/uptime"].ends_with(" seconds"), "{seen:?}");
        assert!(seen["$SYS/broker/load/sockets/1min"].contains('.'), "{seen:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn values_come_retained_and_then_as_they_change_and_agree_with_the_metrics() {
    let nats = NatsServer::start();
    let sidecar = sidecar(&nats).await;
    let mut publisher = sidecar.v5("pub").await;
    let mut away = sidecar.connect(Options::v5("away").durable(600)).await;
    away.subscribe("a/#", 1).await;
    for number in 0..30_u8 {
        let message = msg(&format!("a/{number}"), "12345").qos(number % 3);
        publisher.publish(if number < 9 { message.retained() } else { message }).await;
    }
    for _ in 0..30 {
        away.receive().await;
    }
    away.goodbye().await;
    let mut sub = sidecar.v5("sub").await;
    sub.subscribe("$SYS/broker/#", 0).await;
    let mut flag = sidecar.v5("flag").await;
    let options = SubscriptionOptions { retain_as_published: true, ..Default::default() };
    flag.subscribe_with("$SYS/broker/uptime", options, None).await;
    let mut values = BTreeMap::new();
    while values.len() < names().len() {
        let message = sub.receive().await;
        let before = values.insert(message.topic_name().unwrap().to_string(), message.payload.clone());
        // A change may come before the last of them.
        assert_eq!(message.retain, before.is_none(), "{message:?}");
    }
    let series = [
        ("clients/connected", vec!["mqtt_connections"]),
        ("clients/maximum", vec!["mqtt_connections_max"]),
        ("subscriptions/count", vec!["mqtt_subscriptions"]),
        ("retained messages/count", vec!["mqtt_retained_messages"]),
        ("bytes/received", vec!["mqtt_bytes_total{direction=\"in\"}"]),
        ("publish/bytes/received", vec!["mqtt_payload_bytes_total{direction=\"in\"}"]),
        (
            "publish/messages/received",
            vec![
                "mqtt_messages_total{direction=\"in\",qos=\"0\"}",
                "mqtt_messages_total{direction=\"in\",qos=\"1\"}",
                "mqtt_messages_total{direction=\"in\",qos=\"2\"}",
            ],
        ),
    ];
    // The one that is away may have been counted until its record was written.
    eventually("three are connected", async || (sidecar.metric("mqtt_connections").await - 3.0).abs() < 0.1).await;
    let expected = [3.0, f64::NAN, 2.0, 9.0, f64::NAN, 150.0, 30.0];
    for ((name, series), expected) in series.into_iter().zip(expected) {
        let topic = format!("$SYS/broker/{name}");
        let mut metric = 0.0;
        for series in &series {
            metric += sidecar.metric(series).await;
        }
        assert!(expected.is_nan() || (metric - expected).abs() < 0.1, "{series:?}: {metric}");
        while (value_of(&values[&topic]) - metric).abs() > 0.1 {
            let message = sub.receive().await;
            assert!(!message.retain, "{message:?}");
            values.insert(message.topic_name().unwrap().to_string(), message.payload.clone());
        }
    }
    let first = flag.receive().await;
    let second = flag.receive().await;
    assert!(first.retain && second.retain, "as published");
    assert_ne!(first.payload, second.payload);
    assert!(sidecar.metric("mqtt_bytes_total{direction=\"out\"}").await > 1000.0);
    assert!(sidecar.metric("mqtt_payload_bytes_total{direction=\"out\"}").await >= 150.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_read_only_hidden_from_wildcards_and_not_the_sys_of_nats() {
    let nats = NatsServer::start();
    let sidecar = sidecar(&nats).await;
    let client = nats.client().await;
    let mut watch = Watch::new(&client, "$SYS.>").await;
    let mut all = sidecar.v5("all").await;
    for filter in ["#", "+/broker/#", "+/+/uptime"] {
        all.subscribe(filter, 1).await;
    }
    let mut sub = sidecar.v5("sub").await;
    for filter in ["$SYS/broker/+", "$SYS/broker/+/total", "$SYS/ACCOUNT/#"] {
        sub.subscribe(filter, 2).await;
    }
    let mut publisher = sidecar.v5("pub").await;
    for topic in ["$SYS/broker/uptime", "$SYS/REQ/SERVER/PING"] {
        assert_eq!(publisher.publish(msg(topic, "x").qos(1)).await, ReasonCode::NotAuthorized, "{topic}");
    }
    for subject in ["$SYS.broker.uptime", "$SYS.ACCOUNT.A.CONNECT"] {
        client.publish(subject, "from NATS".into()).await.unwrap();
    }
    let mut uptimes = BTreeSet::new();
    while uptimes.len() < 3 {
        let message = sub.receive().await;
        let topic = message.topic_name().unwrap().to_string();
        assert!(message.payload != "from NATS" && message.qos() as u8 == 0, "{}", shown(&message));
        assert!(
            ["$SYS/broker/uptime", "$SYS/broker/version", "$SYS/broker/clients/total"].contains(&&*topic),
            "{topic}"
        );
        if topic.ends_with("uptime") {
            assert!(uptimes.insert(message.payload), "a value came twice");
        }
    }
    publisher.publish(msg("end", "end").qos(1)).await;
    assert_eq!(all.shown_until("end").await, [""; 0]);
    // Nothing of it is on NATS.
    client.publish("$SYS.end", "end".into()).await.unwrap();
    for expected in ["$SYS.broker.uptime", "$SYS.ACCOUNT.A.CONNECT", "$SYS.end"] {
        let mut subject = watch.next().await.subject;
        while &*subject == "$SYS.REQ.USER.INFO" {
            // Who a client is, in mode `nats`.
            subject = watch.next().await.subject;
        }
        assert_eq!(subject.as_str(), expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_comes_back_goes_on_and_unsubscribe_ends_it() {
    let nats = NatsServer::start();
    let sidecar = sidecar(&nats).await;
    let connect = async || sidecar.connect(Options::v5("poller").durable(600)).await;
    let mut client = connect().await;
    client.subscribe("$SYS/broker/uptime", 1).await;
    assert!(client.receive().await.retain);
    client.goodbye().await;
    let mut client = connect().await;
    assert!(client.is_resumed());
    assert!(!client.receive().await.retain, "what it says at a reconnect was not asked for");
    assert_eq!(client.unsubscribe("$SYS/broker/uptime").await, [ReasonCode::Success]);
    eventually("the subscription is gone", async || sidecar.metric("mqtt_subscriptions").await < 0.5).await;
    client.ping().await;
    while client.try_receive(Duration::ZERO).await.is_ok() {}
    assert_eq!(quiet(&mut client).await, Err(Ended::Silent));
}

/// Whether something comes within some intervals.
async fn quiet(client: &mut Client) -> Result<String, Ended> {
    client.try_receive(Duration::from_millis(1_500)).await.map(|publish| shown(&publish))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interval_of_zero_turns_it_off() {
    let nats = NatsServer::start();
    let sidecar = SidecarBuilder::of(&nats, "sidecar").set("MQTT__SYS_INTERVAL", "0s").start().await;
    let mut client = sidecar.v311("client").await;
    client.subscribe("$SYS/#", 0).await;
    assert_eq!(quiet(&mut client).await, Err(Ended::Silent));
}
