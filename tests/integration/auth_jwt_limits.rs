//! Mode `jwt`: the account's `conn` over two sidecars, and what the tags of a user's JWT say of its client.

use std::time::{Duration, Instant};

use mqtt_codec::{QoS, ReasonCode, Version};
use serde_json::json;

use crate::auth_jwt::{Site, device, now_s, tenant};
use crate::harness::{Client, Options, Sidecar, eventually, msg};

async fn answer(sidecar: &Sidecar, options: Options) -> ReasonCode {
    Client::open(sidecar.mqtt_port, options).await.connack.reason
}

#[tokio::test(flavor = "multi_thread")]
async fn conn_of_an_account_counts_the_devices_of_every_sidecar() {
    use ReasonCode::{QuotaExceeded, Success};
    // Besides, the sidecars themselves have six connections each there, which nats-server counts.
    const CONN: usize = 14;
    let site = Site::start().await;
    let (one, other) = (&site.sidecar, site.another().await);
    let limited =
        |conn: usize| tenant().over_account(&json!({ "iat": now_s(), "nats": { "limits": { "conn": conn } } }));
    site.push(&limited(CONN)).await;
    let of = |id: &str| Options::v5(id).password(&tenant().user_jwt());
    let mut devices = Vec::new();
    for number in 0..CONN {
        devices.push(one.connect(of(&format!("c{number}"))).await);
    }
    // Each says now and then how many it has.
    eventually("the other one knows", async || answer(&other, of("further")).await == QuotaExceeded).await;
    assert!(other.metric("mqtt_over_limit_total{limit=\"account_connections\"}").await > 0.5);
    assert_eq!(answer(&other, of("c0")).await, QuotaExceeded, "its session is connected, and not to this one");
    devices[0].ping().await;
    // Who leaves one sidecar makes room on the other, and on neither for more than that.
    for _ in 0..2 {
        devices.pop().unwrap().goodbye().await;
    }
    for id in ["d0", "d1"] {
        eventually("a place is free", async || {
            let device = Client::open(other.mqtt_port, of(id)).await;
            let is_in = device.connack.reason == Success;
            devices.extend(is_in.then_some(device));
            is_in
        })
        .await;
    }
    assert_eq!(answer(&other, of("d2")).await, QuotaExceeded);
    eventually("the first one knows", async || answer(one, of("further")).await == QuotaExceeded).await;
    // A lower limit ends nobody.
    site.push(&limited(CONN - 1)).await;
    devices.remove(0).goodbye().await;
    eventually("they know", async || {
        let is_full = async |sidecar| answer(sidecar, of("further")).await == QuotaExceeded;
        is_full(one).await && is_full(&other).await
    })
    .await;
    assert_eq!(devices.len(), CONN - 1);
    for device in &mut devices {
        device.ping().await;
    }
}

/// The JWT of a user with tags.
fn tagged(name: &str, tags: &[&str]) -> String {
    device(name, &json!({ "nats": { "tags": tags } })).0
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_binds_the_client_id_to_the_name_of_the_user() {
    use ReasonCode::{ClientIdentifierNotValid, NotAuthorized, Success};
    let site = Site::start().await;
    let bound = tagged("lamp", &["site:x", "mqtt:client-id=name"]);
    for (from, (id, expected)) in (2..).zip([
        ("lamp", Success),
        ("lamp-1", Success),
        ("lamp/1", Success),
        ("lamps", ClientIdentifierNotValid),
        ("pump", ClientIdentifierNotValid),
        ("", ClientIdentifierNotValid),
    ]) {
        for version in [Version::V5, Version::V311] {
            let mut options = Options::new(version, id).from(from).password(&bound);
            // Who has not failed before is answered soon.
            options.connect.username = Some(format!("{version:?} {id}").into());
            assert_eq!(site.answer(options).await, expected, "{version:?} {id:?}");
        }
    }
    assert_eq!(site.refused("client_id").await, 6.0);
    // One of ours that was meant to forbid something lets nobody in when it cannot be understood.
    let unclear = tagged("lamp", &["mqtt:max-qos=7"]);
    assert_eq!(site.answer(Options::v5("lamp").from(9).password(&unclear)).await, NotAuthorized);
    assert_eq!(site.refused("tags").await, 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_tags_deny_is_said_in_connack_and_refused() {
    let site = Site::start().await;
    let tags = ["max-qos=1", "retain=deny", "share=deny", "session-expiry=60", "connections=1"];
    let small = tagged("small", &tags.map(|tag| format!("mqtt:{tag}")).each_ref().map(|tag| &**tag));
    let options = || Options::v5("small").durable(600).password(&small);
    let mut client = site.sidecar.connect(options()).await;
    let said = client.connack.properties.clone();
    assert_eq!((said.maximum_qos, said.retain_available), (Some(QoS::AtLeastOnce), Some(false)));
    assert_eq!((said.shared_subscription_available, said.session_expiry_interval_s), (Some(false), Some(60)));
    assert_eq!(site.answer(Options::v5("second").password(&small)).await, ReasonCode::QuotaExceeded);
    assert_eq!(client.asks_for("a", 2).await, ReasonCode::GrantedQoS1);
    assert_eq!(client.asks_for("$share/g/a", 1).await, ReasonCode::SharedSubscriptionsNotSupported);
    client.publish(msg("a", "x").qos(1)).await;
    assert_eq!(client.receive_shown().await, "a x qos1");
    for (message, reason) in [
        (msg("a", "x").qos(2), ReasonCode::QoSNotSupported),
        (msg("a", "x").qos(1).retained(), ReasonCode::RetainNotSupported),
    ] {
        client.start_publish(&message);
        assert_eq!(client.closed().await, Some(reason));
        client = site.sidecar.connect_in_the_end(options()).await;
    }
    let mute = tagged("mute", &["mqtt:will=deny"]);
    let with_will = Options::v5("mute").will(msg("a", "gone")).password(&mute);
    assert_eq!(site.answer(with_will).await, ReasonCode::NotAuthorized);
    assert_eq!(site.answer(Options::v5("mute").password(&mute)).await, ReasonCode::Success);
}

#[tokio::test(flavor = "multi_thread")]
async fn tags_say_how_fast_a_user_is_heard() {
    let site = Site::start().await;
    for (tag, limit, size) in [("msg-rate=20", "message_rate", 1), ("byte-rate=20480", "byte_rate", 1024)] {
        let slow = tagged("slow", &[&format!("mqtt:{tag}")]);
        let (mut client, began) = (site.sidecar.connect(Options::v5("slow").password(&slow)).await, Instant::now());
        let messages = (0..60).map(|_| msg("a", vec![b'x'; size]).qos(1));
        client.publish_all(messages, 60, |_| ()).await;
        // A second's worth at once, and the rest as it says.
        assert!(began.elapsed() >= Duration::from_secs(2), "{tag}: {:?}", began.elapsed());
        assert!(site.sidecar.metric(&format!("mqtt_over_limit_total{{limit=\"{limit}\"}}")).await > 0.5, "{tag}");
        client.goodbye().await;
    }
}
