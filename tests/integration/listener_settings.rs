//! What one listener says and another does not: versions, strictness.

use mqtt_codec::{ReasonCode, Version};

use crate::harness::{Client, NatsServer, Options, SidecarBuilder, msg, unique};

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_a_listener_does_not_speak_is_refused_in_its_own_words() {
    let nats = NatsServer::start();
    let all = [Version::V31, Version::V311, Version::V5];
    for (spoken, versions) in [("3.1.1", &[Version::V311][..]), ("3.1, 5", &[Version::V31, Version::V5])] {
        let builder = SidecarBuilder::of(&nats, "versions").set("LISTENERS__TCP__VERSIONS", spoken);
        let sidecar = builder.start().await;
        for version in all {
            let mut client = Client::open(sidecar.mqtt_port, Options::new(version, &unique("client"))).await;
            if versions.contains(&version) {
                assert_eq!(client.connack.reason, ReasonCode::Success, "{version} where {spoken} is spoken");
            } else {
                assert_eq!(client.connack.reason, ReasonCode::UnsupportedProtocolVersion, "{version}, {spoken}");
                assert_eq!(client.closed().await, None, "CONNACK said it");
            }
        }
        let refused = sidecar.metric("mqtt_connect_total{result=\"unsupported_protocol_version\"}").await;
        assert_eq!(refused, f64::from(u8::try_from(all.len() - versions.len()).unwrap()));
        assert!(sidecar.log().contains("is not supported"), "{}", sidecar.log());
    }
}

/// One that nobody stops publishes at QoS 0 with DUP, which is passed over where a listener is not strict.
#[tokio::test(flavor = "multi_thread")]
async fn a_listener_is_as_strict_as_it_says_whatever_is_said_for_all() {
    let nats = NatsServer::start();
    for (of_all, of_listener, is_strict) in [("true", "false", false), ("false", "true", true)] {
        let builder = SidecarBuilder::of(&nats, "strict").set("MQTT__STRICT", of_all);
        let sidecar = builder.set("LISTENERS__TCP__STRICT", of_listener).start().await;
        let mut client = Client::connect(sidecar.mqtt_port, Options::v5(&unique("client"))).await;
        client.write_raw(b"\x38\x05\0\x01a\0x");
        if is_strict {
            assert_eq!(client.closed().await, Some(ReasonCode::MalformedPacket));
        } else {
            assert_eq!(client.publish(msg(&unique("t"), "x").qos(1)).await, ReasonCode::Success);
        }
    }
}
