//! MQTT and core NATS see each other's messages, each of them once, on whichever sidecar they are. What goes through
//! JetStream in quantity is in `durable`.

use async_nats::HeaderMap;
use mqtt_codec::{QoS, SubscriptionOptions};

use crate::harness::{Client, MosquittoSub, Watch, World, msg, settle, shown, unique};

const END: &str = "end";

fn at(qos: u8) -> SubscriptionOptions {
    SubscriptionOptions { qos: QoS::try_from(qos).unwrap(), ..SubscriptionOptions::default() }
}

/// Names of the headers of a NATS message.
fn header_names(headers: Option<&HeaderMap>) -> Vec<String> {
    headers.map(|headers| headers.iter().map(|(name, _)| name.to_string()).collect()).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_qos_0_publish_reaches_nats_unchanged_and_without_headers() {
    let world = World::shared().await;
    let plant = unique("plant");
    let mut watch = Watch::new(&world.nats.client().await, &format!("{plant}.>")).await;
    let mut device = world.a.v311(&unique("device")).await;
    let payload: Vec<u8> = (0..=255).collect();
    device.publish(msg(&format!("{plant}/line1/temp"), payload.clone())).await;
    let message = watch.next().await;
    assert_eq!(message.subject.as_str(), format!("{plant}.line1.temp"));
    assert_eq!(message.payload, payload);
    assert_eq!(message.headers, None);
    assert_eq!(message.reply, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_qos_1_or_2_publish_reaches_nats_with_at_most_the_marker() {
    let world = World::shared().await;
    let plant = unique("plant");
    let mut watch = Watch::new(&world.nats.client().await, &format!("{plant}.>")).await;
    let mut device = world.a.v5(&unique("device")).await;
    for qos in [1, 2] {
        device.publish(msg(&format!("{plant}/line1/temp"), format!("21.{qos}")).qos(qos)).await;
    }
    for qos in [1, 2] {
        let message = watch.next().await;
        assert_eq!(message.subject.as_str(), format!("{plant}.line1.temp"));
        assert_eq!(message.payload, format!("21.{qos}"));
        let names = header_names(message.headers.as_ref());
        // Of QoS 2 the log has to know, and its copy says so too.
        let allowed: &[&str] = &["Mqtt-Log"];
        assert!(
            names.len() <= allowed.len() && names.iter().all(|name| allowed.contains(&&**name)),
            "{qos}: {names:?}"
        );
    }
}

/// [MQTT-7.0.0-2]
#[tokio::test(flavor = "multi_thread")]
async fn a_nats_publish_reaches_mosquitto_sub_of_every_version() {
    let world = World::shared().await;
    let nats = world.nats.client().await;
    for version in ["mqttv31", "mqttv311", "mqttv5"] {
        let plant = unique("plant");
        let args = ["-V", version, "-t", &format!("{plant}/#"), "-q", "1"];
        let mut subscriber = MosquittoSub::start(world.a.mqtt_port, &args).await;
        nats.publish(format!("{plant}.line1.temp"), "21.5".into()).await.unwrap();
        nats.publish(plant.clone(), "itself".into()).await.unwrap();
        settle(&nats).await;
        assert_eq!(subscriber.next().await, format!("{plant}/line1/temp 21.5"), "{version}");
        assert_eq!(subscriber.next().await, format!("{plant} itself"), "{version}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_of_nats_become_user_properties_and_back() {
    let world = World::shared().await;
    let t = unique("headers");
    let nats = world.nats.client().await;
    let mut client = world.a.v5(&unique("client")).await;
    client.subscribe(&format!("{t}/in"), 1).await;
    let mut headers = HeaderMap::new();
    headers.append("Unit", "°C");
    headers.append("Tag", "one");
    headers.append("Tag", "two");
    nats.publish_with_headers(format!("{t}.in"), headers, "21".into()).await.unwrap();
    settle(&nats).await;
    let properties = client.receive().await.properties.expect("properties").user_properties;
    let mut pairs: Vec<(&str, &str)> = properties.iter().map(|(name, value)| (&**name, &**value)).collect();
    pairs.sort_unstable();
    assert_eq!(pairs, [("Tag", "one"), ("Tag", "two"), ("Unit", "°C")]);

    let mut watch = Watch::new(&nats, &format!("{t}.out")).await;
    for qos in [0, 1] {
        let mut message = msg(&format!("{t}/out"), "22").qos(qos);
        message.properties.get_or_insert_default().user_properties = vec![("Unit".into(), "K".into())];
        client.publish(message).await;
        let headers = watch.next().await.headers.expect("headers");
        assert_eq!(headers.get("Unit").map(|value| value.as_str()), Some("K"), "qos {qos}");
    }
}

/// Publishes one message and an end at `qos` on A; what each subscriber got before the end.
async fn round(publisher: &mut Client, topic: &str, qos: u8, subscribers: &mut [Client]) -> Vec<Vec<String>> {
    publisher.publish(msg(topic, "m").qos(qos)).await;
    publisher.publish(msg(topic, END).qos(qos)).await;
    let mut got = Vec::new();
    for subscriber in subscribers {
        let messages = subscriber.receive_until(END).await;
        got.push(messages.iter().map(|m| format!("{} {:?}", shown(m), m.subscription_ids)).collect());
    }
    got
}

/// [MQTT-3.3.4-2], [MQTT-3.8.4-8]
#[tokio::test(flavor = "multi_thread")]
async fn overlapping_filters_of_3_1_1_give_one_copy_at_the_highest_qos_on_both_sidecars() {
    let world = World::shared().await;
    let t = unique("overlap");
    let topic = format!("{t}/x");
    let mut subscribers = Vec::new();
    for sidecar in [&world.a, &world.b] {
        let mut client = sidecar.v311(&unique("sub")).await;
        client.subscribe(&format!("{t}/#"), 0).await;
        client.subscribe(&topic, 2).await;
        client.subscribe(&format!("{t}/+"), 1).await;
        subscribers.push(client);
    }
    let mut publisher = world.a.v311(&unique("pub")).await;
    for qos in [0, 1, 2] {
        let got = round(&mut publisher, &topic, qos, &mut subscribers).await;
        // The ends of the overlapping filters are one copy too, or they would be in the next round.
        assert_eq!(got, vec![vec![format!("{topic} m qos{qos} []")]; 2], "published at {qos}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn overlapping_filters_of_mqtt_5_tell_all_their_identifiers_on_both_sidecars() {
    let world = World::shared().await;
    let t = unique("overlap");
    let topic = format!("{t}/x");
    let mut subscribers = Vec::new();
    for sidecar in [&world.a, &world.b] {
        let mut client = sidecar.v5(&unique("sub")).await;
        for (filter, qos, id) in [(format!("{t}/#"), 2, 7), (topic.clone(), 1, 300), (format!("{t}/+"), 0, 100_000)] {
            assert_eq!(client.subscribe_with(&filter, at(qos), Some(id)).await as u8, qos);
        }
        subscribers.push(client);
    }
    let mut publisher = world.a.v5(&unique("pub")).await;
    for qos in [0, 1, 2] {
        publisher.publish(msg(&topic, "m").qos(qos)).await;
        publisher.publish(msg(&topic, END).qos(qos)).await;
        for subscriber in &mut subscribers {
            // The specification allows one copy with all identifiers, or one for each subscription: 3.3.4.
            let mut got = subscriber.receive_until(END).await;
            let mut ids: Vec<u32> = got.iter().flat_map(|m| &m.subscription_ids).map(|id| id.get()).collect();
            ids.sort_unstable();
            assert_eq!(ids, [7, 300, 100_000], "published at {qos}");
            assert!(got.iter().any(|m| m.qos() as u8 == qos), "published at {qos}");
            // As many ends as messages.
            for _ in 1..got.len() {
                assert!(subscriber.receive_until(END).await.is_empty());
            }
            got.clear();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn overlapping_filters_give_one_copy_of_a_nats_publish() {
    let world = World::shared().await;
    let t = unique("overlap");
    let nats = world.nats.client().await;
    let mut subscribers = Vec::new();
    for sidecar in [&world.a, &world.b] {
        let mut client = sidecar.v311(&unique("sub")).await;
        for (filter, qos) in [(format!("{t}/#"), 0), (format!("{t}/x"), 1), (format!("{t}/+"), 0)] {
            client.subscribe(&filter, qos).await;
        }
        subscribers.push(client);
    }
    for payload in ["1", "2", END] {
        nats.publish(format!("{t}.x"), payload.into()).await.unwrap();
    }
    settle(&nats).await;
    for subscriber in &mut subscribers {
        let got: Vec<_> = subscriber.receive_until(END).await.into_iter().map(|m| m.payload).collect();
        assert_eq!(got, ["1", "2"]);
    }
}

/// [MQTT-3.8.3-3]
#[tokio::test(flavor = "multi_thread")]
async fn no_local_keeps_the_own_messages_away_and_no_others() {
    let world = World::shared().await;
    let t = unique("no-local");
    let no_local = |qos| SubscriptionOptions { no_local: true, ..at(qos) };
    let mut own = world.a.v5(&unique("own")).await;
    own.subscribe_with(&format!("{t}/nl"), no_local(1), None).await;
    own.subscribe_with(&format!("{t}/echo"), at(1), None).await;
    let mut others = Vec::new();
    for sidecar in [&world.a, &world.b] {
        let mut other = sidecar.v5(&unique("other")).await;
        other.subscribe_with(&format!("{t}/nl"), no_local(1), None).await;
        others.push(other);
    }
    let mut stranger = world.b.v5(&unique("stranger")).await;
    for qos in [0, 1, 2] {
        let sent = format!("own {qos}");
        own.publish(msg(&format!("{t}/nl"), sent.clone()).qos(qos)).await;
        own.publish(msg(&format!("{t}/echo"), sent.clone()).qos(qos)).await;
        let delivered = qos.min(1);
        // The stranger publishes when the others have the message, so it is later on every path.
        for other in &mut others {
            assert_eq!(other.receive_shown().await, format!("{t}/nl {sent} qos{delivered}"));
        }
        assert_eq!(own.receive_shown().await, format!("{t}/echo {sent} qos{delivered}"));
        stranger.publish(msg(&format!("{t}/nl"), "stranger").qos(qos)).await;
        assert_eq!(own.receive_shown().await, format!("{t}/nl stranger qos{delivered}"));
        for other in &mut others {
            assert_eq!(other.receive_shown().await, format!("{t}/nl stranger qos{delivered}"));
        }
    }
}

/// [MQTT-3.3.1-12, -13]
#[tokio::test(flavor = "multi_thread")]
async fn retain_as_published_keeps_the_flag_and_without_it_live_messages_have_none() {
    let world = World::shared().await;
    let t = unique("rap");
    let topic = format!("{t}/x");
    let mut keeping = Vec::new();
    let mut plain = Vec::new();
    for sidecar in [&world.a, &world.b] {
        let mut client = sidecar.v5(&unique("keeping")).await;
        let options = SubscriptionOptions { retain_as_published: true, ..at(1) };
        client.subscribe_with(&topic, options, None).await;
        keeping.push(client);
        let mut client = sidecar.v5(&unique("plain")).await;
        client.subscribe_with(&topic, at(1), None).await;
        plain.push(client);
    }
    let mut publisher = world.a.v5(&unique("pub")).await;
    for qos in [0, 1] {
        for retain in [false, true] {
            let mut message = msg(&topic, format!("{qos} {retain}")).qos(qos);
            message.retain = retain;
            publisher.publish(message).await;
            for client in &mut keeping {
                let flag = if retain { " retain" } else { "" };
                assert_eq!(client.receive_shown().await, format!("{topic} {qos} {retain} qos{qos}{flag}"));
            }
            for client in &mut plain {
                assert_eq!(client.receive_shown().await, format!("{topic} {qos} {retain} qos{qos}"));
            }
        }
    }
    publisher.publish(msg(&topic, "").qos(1).retained()).await;
}

/// [MQTT-3.3.2-4], [MQTT-3.3.2-15, -16, -17, -18], [MQTT-3.3.2-20]
#[tokio::test(flavor = "multi_thread")]
async fn properties_of_mqtt_5_arrive_as_they_were_on_the_other_sidecar() {
    let world = World::shared().await;
    let t = unique("properties");
    let mut subscriber = world.b.v5(&unique("sub")).await;
    subscriber.subscribe(&format!("{t}/#"), 2).await;
    let mut publisher = world.a.v5(&unique("pub")).await;
    for qos in [0, 1, 2] {
        let mut message = msg(&format!("{t}/x"), "p").qos(qos);
        let properties = message.properties.get_or_insert_default();
        properties.payload_is_utf8 = Some(true);
        properties.content_type = Some("text/plain; é".into());
        properties.response_topic = Some(mqtt_codec::TopicName::new("answers/to me").unwrap());
        properties.correlation_data = Some(vec![0, 1, 255].into());
        properties.user_properties = [("b", "2"), ("a", "1"), ("b", "3"), ("", ""), ("with: colon", "and\r\nline")]
            .map(|(n, v)| (n.into(), v.into()))
            .to_vec();
        let sent = message.properties.clone();
        publisher.publish(message).await;
        assert_eq!(subscriber.receive().await.properties, sent, "published at {qos}");
    }
}
