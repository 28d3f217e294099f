//! Properties of MQTT 5 and headers of NATS, on every path between them: nothing is lost, nothing is injected.

use async_nats::HeaderMap;
use bytes::Bytes;
use mqtt_codec::{MessageProperties, Publish, ReasonCode, TopicName, UserProperties};

use crate::harness::{Message, NatsServer, SidecarBuilder, Watch, World, eventually, msg, settle, stored, unique};

/// Ten user properties that headers make hard: duplicates, no value, no name, UTF-8, line breaks, what looks like headers,
/// names of NATS and of ours.
fn hard() -> UserProperties {
    [
        ("tag", "1"),
        ("a", ""),
        ("tag", "2"),
        ("", "no name"),
        ("größe", "ß 漢字 🙂"),
        ("line", "one\r\nInjected: yes\r\n\r\nbody"),
        ("Injected: yes\r\nx", "\n"),
        (" spaces ", "  around  "),
        ("Nats-Rollup", "all"),
        ("Mqtt-QoS", "2"),
    ]
    .map(|(name, value)| (name.into(), value.into()))
    .to_vec()
}

fn everything(topic: &str, qos: u8) -> Message {
    let mut message = msg(topic, "payload").qos(qos);
    message.properties = Some(Box::new(MessageProperties {
        payload_is_utf8: Some(true),
        content_type: Some("text/plain; charset=\"ü\"\t%41".into()),
        response_topic: Some(TopicName::new("answers/to me/%2F").unwrap()),
        correlation_data: Some(Bytes::from((0..=255).collect::<Vec<u8>>())),
        user_properties: hard(),
        ..MessageProperties::default()
    }));
    message
}

/// Names of the user properties, sorted.
fn names(publish: &Publish) -> Vec<String> {
    let properties = publish.properties.as_deref().cloned().unwrap_or_default();
    let mut names: Vec<String> = properties.user_properties.iter().map(|(name, _)| name.to_string()).collect();
    names.sort();
    names
}

/// Without what is left of the expiry, which may be a second less than was sent.
fn without_expiry(publish: Publish) -> Option<Box<MessageProperties>> {
    let mut properties = publish.properties;
    if let Some(properties) = &mut properties {
        properties.message_expiry_interval_s = None;
    }
    properties
}

/// [MQTT-3.3.2-4], [MQTT-3.3.2-15, -16, -17, -18], [MQTT-3.3.2-20]
#[tokio::test(flavor = "multi_thread")]
async fn properties_survive_every_path_and_nothing_is_injected() {
    let world = World::shared().await;
    let nats = world.nats.client().await;
    let t = unique("hard");
    let mut publisher = world.a.v5(&unique("pub")).await;
    let mut subscribers = [world.a.v5(&unique("near")).await, world.b.v5(&unique("far")).await];
    for subscriber in &mut subscribers {
        subscriber.subscribe(&format!("{t}/+"), 2).await;
    }
    let mut watch = Watch::new(&nats, &format!("{t}.x")).await;
    for qos in 0..=2 {
        let sent = everything(&format!("{t}/x"), qos).expires(1000);
        let expected = everything("x", qos).properties;
        publisher.publish(sent).await;
        for subscriber in &mut subscribers {
            let got = subscriber.receive().await;
            let left = got.properties.as_ref().unwrap().message_expiry_interval_s.unwrap();
            assert!((990..=1000).contains(&left), "published at {qos}: {left}");
            assert_eq!(without_expiry(got), expected, "published at {qos}");
        }
        // A NATS client passes it on, headers and all.
        let seen = watch.next().await;
        let headers = seen.headers.expect("headers");
        assert!(headers.iter().all(|(name, _)| !["Injected", "Nats-Rollup"].contains(&name.as_ref())), "{headers:?}");
        assert_eq!(headers.get("Mqtt-Correlation-Data").unwrap().as_str().matches("%00").count(), 1);
        nats.publish_with_headers(format!("{t}.again"), headers, seen.payload).await.unwrap();
        for subscriber in &mut subscribers {
            let again = subscriber.receive().await;
            assert_eq!(again.topic_name().unwrap().as_str(), format!("{t}/again"));
            assert_eq!(without_expiry(again), expected, "published at {qos}, passed on");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn properties_survive_in_a_retained_message() {
    let world = World::shared().await;
    let t = unique("kept");
    let mut publisher = world.a.v5(&unique("pub")).await;
    for qos in 0..=2 {
        let topic = format!("{t}/{qos}");
        publisher.publish(everything(&topic, qos).retained()).await;
        publisher.ping().await;
        for sidecar in [&world.a, &world.b] {
            let mut subscriber = sidecar.v5(&unique("sub")).await;
            // At QoS 0 nothing says when it is in the bucket.
            eventually("the retained message", async || {
                subscriber.subscribe(&topic, 2).await;
                subscriber.ping().await;
                let got = subscriber.try_receive(std::time::Duration::ZERO).await;
                got.is_ok_and(|got| {
                    assert_eq!(got.properties, everything("x", qos).properties, "published at {qos}");
                    true
                })
            })
            .await;
        }
        publisher.publish(msg(&topic, "").qos(1).retained()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn mqtt_3_3_2_6_what_is_left_of_the_expiry_is_told() {
    let world = World::shared().await;
    let t = unique("expiry");
    let mut publisher = world.a.v5(&unique("pub")).await;
    publisher.publish(msg(&t, "m").qos(1).retained().expires(100)).await;
    let mut subscriber = world.b.v5(&unique("sub")).await;
    eventually("a second is over", async || {
        subscriber.subscribe(&t, 1).await;
        let left = subscriber.receive().await.properties.expect("properties").message_expiry_interval_s;
        left.is_some_and(|left| left < 100)
    })
    .await;
    publisher.publish(msg(&t, "").qos(1).retained()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_id_de_duplicates() {
    let world = World::shared().await;
    let nats = world.nats.client().await;
    let t = unique("id");
    let mut publisher = world.a.v5(&unique("pub")).await;
    let mut subscriber = world.b.v5(&unique("sub")).await;
    subscriber.subscribe(&t, 1).await;
    let with_id = |id: &str, payload: &str| {
        let mut message = msg(&t, payload.to_owned()).qos(1);
        let properties = message.properties.get_or_insert_default();
        properties.user_properties = vec![("Nats-Msg-Id".into(), id.into())];
        message
    };
    for (id, payload) in [("1", "first"), ("1", "again"), ("2", "second")] {
        let id = format!("{t}-{id}");
        assert_eq!(publisher.publish(with_id(&id, payload)).await, ReasonCode::Success);
    }
    for payload in ["first", "second"] {
        let got = subscriber.receive().await;
        assert_eq!(got.payload, payload);
        assert_eq!(got.properties.unwrap().user_properties.len(), 1, "it comes back as it was");
    }
    assert_eq!(stored(&nats, "MQTT_log", &format!("$NMQ.log.{t}")).await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn properties_beyond_the_headers_of_nats_are_refused_with_quota_exceeded() {
    let world = World::shared().await;
    let t = unique("large");
    let mut publisher = world.a.v5(&unique("pub")).await;
    let large = |qos| {
        let mut message = msg(&t, "m").qos(qos);
        let value: String = "x".repeat(33_000);
        message.properties.get_or_insert_default().user_properties = vec![("a".into(), value.as_str().into()); 2];
        message
    };
    for qos in [1, 2] {
        assert_eq!(publisher.publish(large(qos)).await, ReasonCode::QuotaExceeded, "{qos}");
        assert_eq!(publisher.publish(large(qos).retained()).await, ReasonCode::QuotaExceeded, "{qos}, retained");
    }
    let series = "mqtt_messages_dropped_total{reason=\"too_large\"}";
    let before = world.a.metric(series).await;
    publisher.publish(large(0)).await;
    publisher.ping().await;
    assert!(world.a.metric(series).await > before);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_id_is_told_when_it_is_to_be() {
    let server = NatsServer::start();
    let quiet = SidecarBuilder::of(&server, "quiet").start().await;
    let telling = SidecarBuilder::of(&server, "telling").set("PUBLISH__CLIENT_ID_HEADER", "true").start().await;
    let nats = server.client().await;
    let mut watch = Watch::new(&nats, "t").await;
    for (sidecar, expected) in [(&quiet, None), (&telling, Some("kitchen%25 sensor"))] {
        let mut client = sidecar.v5("kitchen% sensor").await;
        for qos in 0..=2 {
            client.publish(msg("t", "m").qos(qos)).await;
            let headers = watch.next().await.headers.unwrap_or_default();
            assert_eq!(headers.get("Mqtt-Client").map(|value| value.as_str()), expected, "published at {qos}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_of_nats_itself_are_told_when_they_are_to_be() {
    let server = NatsServer::start();
    let quiet = SidecarBuilder::of(&server, "quiet").start().await;
    let telling = SidecarBuilder::of(&server, "telling").set("MQTT__NATS_HEADERS", "true").start().await;
    let nats = server.client().await;
    for (sidecar, expected) in [(&quiet, vec!["Plain"]), (&telling, vec!["Nats-Trace-Dest", "Plain"])] {
        let mut client = sidecar.v5("client").await;
        client.subscribe("core", 0).await;
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Trace-Dest", "trace");
        headers.insert("Plain", "1");
        nats.publish_with_headers("core", headers, "m".into()).await.unwrap();
        settle(&nats).await;
        assert_eq!(names(&client.receive().await), expected);

        client.subscribe("log", 1).await;
        client.publish(msg("log", "m").qos(1).expires(100)).await;
        let ttl: &[&str] = if expected.len() > 1 { &["Nats-TTL"] } else { &[] };
        assert_eq!(names(&client.receive().await), ttl);
        client.publish(msg("kept", "m").qos(1).expires(100).retained()).await;
        client.subscribe("kept", 1).await;
        assert_eq!(names(&client.receive().await), ttl);
        client.publish(msg("kept", "").qos(1).retained()).await;
        client.disconnect(ReasonCode::Success).await;
    }
}
