//! What a CONNECT asks for beyond what there is: sessions, how long they stay, and wills.

use mqtt_codec::{MessageProperties, ReasonCode};

use crate::harness::{Client, Message, NatsServer, Options, SidecarBuilder, eventually, msg};

async fn connack(port: u16, options: Options) -> ReasonCode {
    Client::open(port, options).await.connack.reason
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_has_so_many_sessions_that_outlive_their_connections() {
    let server = NatsServer::start();
    let builder = |name| SidecarBuilder::of(&server, name).set("MQTT__MAX_SESSIONS", "2");
    let (a, b) = (builder("a").start().await, builder("b").start().await);
    for id in ["one", "two"] {
        a.connect(Options::v5(id).durable(600)).await.goodbye().await;
    }
    let port = b.mqtt_port;
    eventually("the other sidecar knows of them", async || b.metric("mqtt_sessions_stored").await > 1.5).await;
    assert_eq!(connack(port, Options::v5("three").durable(600)).await, ReasonCode::QuotaExceeded);
    let mut old = Options::v311("three");
    old.connect.clean_start = false;
    assert_eq!(connack(port, old).await, ReasonCode::ServerUnavailable);
    // Sessions that are there go on, and those that end with their connections need no room.
    assert!(b.connect(Options::v5("one").durable(600)).await.is_resumed());
    let mut clean = b.v5("three").await;
    clean.subscribe("t", 1).await;
    // One ends.
    b.connect(Options::v5("two")).await.goodbye().await;
    eventually("there is room again", async || {
        connack(port, Options::v5("four").durable(600)).await == ReasonCode::Success
    })
    .await;
    assert!(b.metric("mqtt_over_limit_total{limit=\"sessions\"}").await > 1.5);
    assert_eq!(b.log().matches("mqtt.max_sessions is reached").count(), 1, "once in the log\n{}", b.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn no_session_stays_for_ever_and_no_will_is_of_any_size() {
    let server = NatsServer::start();
    let sidecar = SidecarBuilder::of(&server, "sidecar").set("MQTT__MAX_WILL_SIZE", "40000").start().await;
    let client = sidecar.connect(Options::v5("for ever").durable(u32::MAX)).await;
    assert_eq!(client.connack.properties.session_expiry_interval_s, Some(90 * 86_400));
    let client = sidecar.connect(Options::v5("for a day").durable(86_400)).await;
    assert_eq!(client.connack.properties.session_expiry_interval_s, None);
    let properties = |len: usize| MessageProperties {
        user_properties: vec![("name".into(), "v".repeat(len - 4).into())],
        ..MessageProperties::default()
    };
    for (payload, with, expected) in [
        (40_000, 0, ReasonCode::Success),
        (40_001, 0, ReasonCode::QuotaExceeded),
        (10_000, 30_000, ReasonCode::Success),
        (10_001, 30_000, ReasonCode::QuotaExceeded),
    ] {
        let properties = (with > 0).then(|| Box::new(properties(with)));
        let will = Message { properties, ..msg("will", vec![b'w'; payload]) };
        assert_eq!(connack(sidecar.mqtt_port, Options::v5("dying").will(will.clone())).await, expected, "{payload}");
        if with == 0 {
            let expected = if expected.is_error() { ReasonCode::NotAuthorized } else { expected };
            assert_eq!(connack(sidecar.mqtt_port, Options::v311("dying").will(will)).await, expected, "{payload}");
        }
    }
    assert!(sidecar.metric("mqtt_over_limit_total{limit=\"will_size\"}").await > 2.5);
}
