//! A will is judged at CONNECT, by what decides when its time comes: one that NATS cannot take is refused while somebody is
//! there to be told, and one that is accepted is published.

use mqtt_codec::{MessageProperties, QoS, ReasonCode, TopicName, UserProperties, Version};

use crate::harness::{Message, NatsServer, Options, SidecarBuilder, msg, shown, unique};

/// Largest message of the server.
const MAX_PAYLOAD: usize = 100_000;

/// What a will and the same PUBLISH get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gets {
    /// Both are taken.
    Taken,
    /// Both are refused with this; in 3.x the CONNECT is "not authorized".
    Refused(ReasonCode),
    /// Both are refused with "not authorized"; in 3.x both are accepted and dropped, as `mqtt.on_denied_publish` says.
    Denied,
    /// The message is taken, and refused as a will: the record of a session cannot hold it.
    WillRefused,
}

fn with_properties(message: Message, set: impl FnOnce(&mut MessageProperties)) -> Message {
    let mut properties = MessageProperties::default();
    set(&mut properties);
    Message { properties: Some(Box::new(properties)), ..message }
}

/// So many user properties, each of a name and a kilobyte of text.
fn user_properties(count: usize, text: &str) -> UserProperties {
    (0..count).map(|number| (format!("p{number}").into(), text.repeat(1000).into())).collect()
}

fn cases(t: &str) -> Vec<(&'static str, Message, Gets)> {
    let long = |len: usize, text: &str| format!("{t}/{}", text.repeat((len - t.len() - 1) / text.len()));
    let too_large = Gets::Refused(ReasonCode::QuotaExceeded);
    vec![
        ("a plain one", msg(&format!("{t}/plain"), "will"), Gets::Taken),
        ("retained", msg(&format!("{t}/retained"), "will").retained(), Gets::Taken),
        ("the longest topic", msg(&long(3840, "a"), "will"), Gets::Taken),
        ("a topic too long", msg(&long(3841, "a"), "will"), Gets::Refused(ReasonCode::TopicNameInvalid)),
        (
            "a topic whose subject is too long",
            msg(&long(2000, "."), "will"),
            Gets::Refused(ReasonCode::TopicNameInvalid),
        ),
        ("a topic with a long key", msg(&long(1800, "é"), "will"), Gets::Taken),
        ("retained with a key too long", msg(&long(1800, "é"), "will").retained(), too_large),
        (
            "many headers",
            with_properties(msg(&format!("{t}/many"), "will"), |p| p.user_properties = user_properties(60, "x")),
            Gets::Taken,
        ),
        (
            "headers beyond 64 KB",
            with_properties(msg(&format!("{t}/headers"), "will"), |p| p.user_properties = user_properties(70, "x")),
            too_large,
        ),
        (
            "headers and payload beyond the largest message",
            with_properties(msg(&format!("{t}/both"), vec![b'x'; 60_000]), |p| {
                p.user_properties = user_properties(20, "\n");
            }),
            too_large,
        ),
        ("more than a record can hold", msg(&format!("{t}/record"), vec![b'x'; 65_000]), Gets::WillRefused),
        ("into a closed tree", msg("$SRV/will", "will"), Gets::Denied),
        (
            "with answers into a closed tree",
            with_properties(msg(&format!("{t}/response"), "will"), |p| {
                p.response_topic = Some(TopicName::new("$SRV/will").unwrap());
            }),
            Gets::Denied,
        ),
    ]
}

/// [MQTT-3.1.4-2]
#[tokio::test(flavor = "multi_thread")]
async fn a_will_is_refused_with_what_the_same_publish_gets_and_published_when_it_is_accepted() {
    let nats = NatsServer::start_with(true, &format!("max_payload: {MAX_PAYLOAD}"));
    let sidecar = SidecarBuilder::of(&nats, "sidecar").set("MQTT__MAX_WILL_SIZE", "1MB").start().await;
    let t = unique("wills");
    let mut watcher = sidecar.v5(&unique("watcher")).await;
    watcher.subscribe(&format!("{t}/#"), 2).await;
    let mut publisher = sidecar.v5(&unique("publisher")).await;
    let mut failed = Vec::new();
    for (name, message, gets) in cases(&t) {
        let published = publisher.publish(message.clone().qos(1)).await;
        let expected = match gets {
            Gets::Taken | Gets::WillRefused => ReasonCode::Success,
            Gets::Refused(reason) => reason,
            Gets::Denied => ReasonCode::NotAuthorized,
        };
        if published != expected && published != ReasonCode::NoMatchingSubscribers {
            failed.push(format!("{name}: the PUBLISH gets {published:?}"));
        }
        for version in [Version::V5, Version::V311] {
            if version == Version::V311 && message.properties.is_some() {
                continue;
            }
            for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
                let expected = match gets {
                    Gets::Taken => ReasonCode::Success,
                    Gets::Denied if version == Version::V311 => ReasonCode::Success,
                    Gets::Denied => ReasonCode::NotAuthorized,
                    _ if version == Version::V311 => ReasonCode::NotAuthorized,
                    Gets::Refused(reason) => reason,
                    Gets::WillRefused => ReasonCode::QuotaExceeded,
                };
                let will = Message { qos, ..message.clone() };
                let options = Options::new(version, &unique("dying")).will(will.clone());
                let client = crate::harness::Client::open(sidecar.mqtt_port, options).await;
                let got = client.connack.reason;
                if got != expected {
                    failed.push(format!("{name}, {version:?}, {qos:?}: CONNACK {got:?} instead of {expected:?}"));
                }
                if got == ReasonCode::Success {
                    client.reset();
                }
                if gets == Gets::Taken {
                    let text = String::from_utf8_lossy(&will.payload).into_owned();
                    let wanted = format!("{} {text} qos{}", will.topic.as_str(), qos as u8);
                    loop {
                        // The PUBLISH comes before.
                        let got = shown(&watcher.receive().await);
                        if got == wanted {
                            break;
                        }
                    }
                }
            }
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}
