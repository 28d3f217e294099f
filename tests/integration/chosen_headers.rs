//! Headers that somebody outside chooses change nothing but the message that has them: not what is retained, not what
//! subscribers get of others.

use async_nats::{Client as Nats, HeaderMap};
use mqtt_codec::{MessageProperties, Packet, ReasonCode, SubscriptionOptions, UserProperties};
use serde_json::{Value, json};

use crate::harness::{Client, Message, Options, Sidecar, Watch, World, js_api, msg, settle, shown, stored, unique};

/// Publishes on core NATS with these headers.
async fn forge(nats: &Nats, subject: &str, headers: &[(&str, &str)], payload: &str) {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.insert(*name, *value);
    }
    nats.publish_with_headers(subject.to_owned(), map, payload.to_owned().into()).await.unwrap();
    settle(nats).await;
}

/// What a new subscriber of a topic gets with its SUBSCRIBE.
async fn retained(sidecar: &Sidecar, topic: &str, qos: u8) -> Vec<String> {
    let mut late = sidecar.v5(&unique("late")).await;
    late.subscribe(topic, qos).await;
    let mut publisher = sidecar.v5(&unique("end")).await;
    publisher.publish(msg(topic, "end").qos(1)).await;
    late.shown_until("end").await
}

fn properties(pairs: &[(&str, &str)]) -> UserProperties {
    pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
}

fn with_properties(message: Message, pairs: &[(&str, &str)]) -> Message {
    let user_properties = properties(pairs);
    Message { properties: Some(Box::new(MessageProperties { user_properties, ..Default::default() })), ..message }
}

/// Every way on which a NATS client's message comes to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// Core NATS, to subscribers at QoS 0.
    Core,
    /// Core NATS, and copied into the log, for subscribers above QoS 0.
    Ingested,
    /// A stream of the user's.
    Attached,
}

const WAYS: [Way; 3] = [Way::Core, Way::Ingested, Way::Attached];

impl Way {
    const fn qos(self) -> u8 {
        if matches!(self, Self::Core) { 0 } else { 1 }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_of_ours_from_outside_freezes_no_topic_and_makes_no_phantom() {
    let world = World::own().await;
    let nats = world.nats.client().await;
    crate::attached::create(&nats, &[&world.a, &world.b], &json!({"name": "OWN", "subjects": ["own.>"]})).await;
    let mut publisher = world.a.v5("pub").await;
    for way in WAYS {
        for sequence in ["18446744073709551615", "1000", "7"] {
            let root = if way == Way::Attached { "own" } else { "plain" };
            let name = unique("topic");
            let (frozen, phantom) = (format!("{root}/{name}/frozen"), format!("{root}/{name}/phantom"));
            let mut watches = Vec::new();
            for sidecar in [&world.a, &world.b] {
                let mut client = sidecar.v5(&unique("sub")).await;
                client.subscribe(&format!("{root}/{name}/#"), way.qos()).await;
                watches.push(client);
            }
            for topic in [&frozen, &phantom] {
                forge(&nats, &topic.replace('/', "."), &[("Mqtt-Retain", sequence)], "forged").await;
                for watch in &mut watches {
                    let got = watch.receive().await;
                    assert!(got.payload == "forged" && !got.retain, "{way:?}: {}", shown(&got));
                }
            }
            assert_eq!(publisher.publish(msg(&frozen, "true").qos(1).retained()).await, ReasonCode::Success);
            for sidecar in [&world.a, &world.b] {
                let got = retained(sidecar, &frozen, 1).await;
                assert_eq!(got, [format!("{frozen} true qos1 retain")], "{way:?} {sequence}");
                assert_eq!(retained(sidecar, &phantom, 1).await, [""; 0], "{way:?} {sequence}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_genuine_mark_of_a_retained_message_is_worth_nothing_on_another_message() {
    let world = World::own().await;
    let nats = world.nats.client().await;
    let mut publisher = world.a.v5("pub").await;
    let mut far = world.b.v5("far").await;
    let options = SubscriptionOptions { retain_as_published: true, ..SubscriptionOptions::default() };
    far.subscribe_with("mark/#", options, None).await;
    let mut watch = Watch::new(&nats, "mark.x").await;
    publisher.publish(msg("mark/x", "first").retained()).await;
    assert_eq!(far.receive_shown().await, "mark/x first qos0 retain", "what a sidecar says is believed");
    let genuine = watch.next().await.headers.expect("headers");
    assert!(genuine.get("Mqtt-Retain").is_some(), "{genuine:?}");
    for (subject, payload) in [("mark.x", "forged"), ("mark.y", "first")] {
        nats.publish_with_headers(subject, genuine.clone(), payload.into()).await.unwrap();
        settle(&nats).await;
        let got = far.receive().await;
        assert!(got.payload == payload && !got.retain, "{}", shown(&got));
    }
    // Again as it was, when another one has taken its place.
    publisher.publish(msg("mark/x", "second").qos(1).retained()).await;
    assert_eq!(far.receive().await.payload, "second");
    nats.publish_with_headers("mark.x", genuine, "first".into()).await.unwrap();
    settle(&nats).await;
    for sidecar in [&world.a, &world.b] {
        assert_eq!(retained(sidecar, "mark/x", 0).await[0], "mark/x second qos0 retain");
        assert_eq!(retained(sidecar, "mark/y", 0).await, [""; 0]);
    }
}

/// User properties that are headers with a meaning to nats-server, to buckets, or to us.
const WITH_A_MEANING: [(&str, &str); 18] = [
    ("KV-Operation", "DEL"),
    ("kv-operation", "PURGE"),
    ("Nats-Rollup", "all"),
    ("Nats-TTL", "1"),
    ("Nats-Expected-Last-Sequence", "1"),
    ("Nats-Expected-Stream", "nowhere"),
    ("Nats-Schedule", "@at 2000-01-01T00:00:00Z"),
    ("Nats-Schedule-Target", "elsewhere"),
    ("Nats-Batch-Id", "1"),
    ("Nats-Batch-Commit", "1"),
    ("Nats-Marker-Reason", "MaxAge"),
    ("Nats-Incr", "1"),
    ("Nats-Required-Api-Level", "99"),
    ("Mqtt-Retain", "18446744073709551615"),
    ("Mqtt-Log", "1:811c9dc5"),
    ("Mqtt-Client", "somebody"),
    ("Mqtt-Subject", "elsewhere"),
    ("Mqtt-Write", "1"),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_user_property_with_the_name_of_such_a_header_is_a_user_property_and_no_more() {
    let world = World::own().await;
    let nats = world.nats.client().await;
    crate::attached::create(&nats, &[&world.a, &world.b], &json!({"name": "OWN", "subjects": ["own.>"]})).await;
    let mut publisher = world.a.v5("pub").await;
    for (name, value) in WITH_A_MEANING {
        for topic in [unique("plain"), format!("own/{}", unique("x"))] {
            for qos in 0..=2 {
                let topic = format!("{topic}/{qos}");
                let mut live = world.b.v5(&unique("sub")).await;
                live.subscribe(&topic, 2).await;
                let message = with_properties(msg(&topic, "m").qos(qos).retained(), &[("a", "1"), (name, value)]);
                assert_eq!(publisher.publish(message).await, ReasonCode::Success);
                let got = live.receive().await;
                assert_eq!(shown(&got), format!("{topic} m qos{qos}"), "{name}");
                let expected = properties(&[("a", "1"), (name, value)]);
                assert_eq!(got.properties.unwrap().user_properties, expected, "{name}");
                publisher.ping().await;
                let mut late = world.b.v5(&unique("late")).await;
                late.subscribe(&topic, 2).await;
                let got = late.receive().await;
                assert_eq!(shown(&got), format!("{topic} m qos{qos} retain"), "{name}");
                assert_eq!(got.properties.unwrap().user_properties, expected, "{name}");
            }
        }
    }
    assert_eq!(stored(&nats, "KV_MQTT_retained", "").await, WITH_A_MEANING.len() as u64 * 6);
}

/// What the sessions of one sidecar get of one message, which has these headers, on each way.
async fn gets(nats: &Nats, subject: &str, headers: &[(&str, &str)], clients: &mut [Client]) -> Vec<Vec<String>> {
    forge(nats, subject, headers, "m").await;
    forge(nats, subject, &[], "end").await;
    let mut all = Vec::new();
    for client in clients {
        all.push(client.receive_until("end").await.iter().map(shown).collect());
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_of_ours_from_outside_do_not_change_the_route_of_a_message() {
    let world = World::own().await;
    let nats = world.nats.client().await;
    crate::attached::create(&nats, &[&world.a, &world.b], &json!({"name": "OWN", "subjects": ["own.>"]})).await;
    for subject in ["plain.x", "own.x"] {
        let mut clients = Vec::new();
        for qos in 0..=2 {
            let mut client = world.b.connect(Options::v5(&format!("client-{qos}"))).await;
            client.subscribe(&subject.replace('.', "/"), qos).await;
            clients.push(client);
        }
        let plain = gets(&nats, subject, &[], &mut clients).await;
        for header in [
            ("Mqtt-Ingested", "1"),
            ("mqtt-ingested", "1"),
            ("Mqtt-Retain", "1"),
            ("Mqtt-Log-Sequence", "1"),
            ("mqtt-log-sequence", "1"),
            ("Mqtt-Subject", "plain.y"),
            ("Mqtt-Origin", "mqtt"),
            ("Mqtt-Mac", "1"),
            ("Mqtt-Write", "1"),
            ("Mqtt-Cleaned", "1"),
            ("Nats-Marker-Reason", "MaxAge"),
            ("KV-Operation", "DEL"),
        ] {
            assert_eq!(gets(&nats, subject, &[header], &mut clients).await, plain, "{subject} {header:?}");
        }
        for client in clients {
            client.goodbye().await;
        }
    }
    js_api(&nats, "STREAM.DELETE.OWN", &Value::Null).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_session_is_owed_from_its_backlog_is_not_changed_by_headers_of_those_names() {
    let world = World::own().await;
    let nats = world.nats.client().await;
    let mut device = world.a.connect(Options::v5("away").durable(3600)).await;
    device.subscribe("owed/#", 1).await;
    device.goodbye().await;
    for (name, value) in [("Mqtt-Log-Sequence", "1"), ("mqtt-log-sequence", "999999"), ("mqtt-subject", "secret.x")] {
        forge(&nats, "owed.x", &[(name, value)], "m").await;
    }
    let names = proto_map::Names::default();
    let subject = names.log_subject(&proto_map::Subject::new("owed.x").unwrap());
    crate::harness::eventually("they are stored", async || stored(&nats, "MQTT_log", &subject).await == 3).await;
    for sequence in 1..=3 {
        let stored = js_api(&nats, "STREAM.MSG.GET.MQTT_log", &json!({ "seq": sequence })).await;
        use base64::Engine as _;
        let block = stored["message"]["hdrs"].as_str().unwrap();
        let block = base64::engine::general_purpose::STANDARD.decode(block).unwrap();
        let block = String::from_utf8(block).unwrap().to_lowercase();
        assert!(!block.contains("mqtt-log-sequence") && !block.contains("mqtt-subject"), "{block}");
    }
    let mut device = world.b.connect(Options::v5("away").durable(3600)).await;
    for _ in 0..3 {
        assert_eq!(device.receive_shown().await, "owed/x m qos1");
    }
    device.write(&Packet::PingReq);
    device.flush().await;
}
