//! What comes on core NATS: to whom, in how many copies, and what is known of it from elsewhere.

use mqtt_codec::{QoS, SubscriptionOptions, TopicName};
use serde_json::json;

use crate::account::Segments;
use crate::account::played::{PlayedClient, World, until};
use crate::config::Ingest;
use crate::store::CoreMessage;

/// How many copies at QoS 0 were left since the last time.
fn copies(client: &PlayedClient) -> u64 {
    let mut mail = crate::account::Mail::default();
    client.control.inbox().take(&mut mail);
    let mut out = Segments::default();
    let [copies, _] = client.control.inbox().take_messages(&mut out, 0, &mut Vec::new(), &mut Vec::new());
    copies
}

async fn receives(client: &PlayedClient, count: u64) {
    let seen = std::sync::atomic::AtomicU64::new(0);
    let look = || {
        let now = seen.fetch_add(copies(client), std::sync::atomic::Ordering::Relaxed);
        (now >= count).then_some(now)
    };
    assert_eq!(until("copies", look).await, count);
}

#[tokio::test]
async fn overlapping_filters_of_a_session_get_one_copy_and_what_is_closed_none() {
    let world = World::start().await;
    let (mut one, mut two) = (world.client("one"), world.client("two"));
    one.subscribe(&["a/+", "a/#", "#", "a/b"], QoS::AtMostOnce).await;
    two.subscribe(&["a/b"], QoS::AtMostOnce).await;
    world.server.publish("a.b", &[], "x");
    receives(&one, 1).await;
    receives(&two, 1).await;
    // Nobody's topic, nobody's business, and the copy of what a log brings.
    world.server.publish("$SYS.x", &[], "x");
    world.server.publish("a.b", &[("Mqtt-Log", &proto_map::log_marker(9, "a.b"))], "x");
    world.server.publish("a.b", &[], "y");
    receives(&one, 1).await;
    receives(&two, 1).await;
    assert_eq!(
        two.account
            .unsubscribe(two.control.inbox(), &mut two.filters, &[Ok(mqtt_codec::TopicFilter::new("a/b").unwrap())])
            .len(),
        1
    );
    world.server.publish("a.b", &[], "z");
    receives(&one, 1).await;
    assert_eq!(copies(&two), 0);
}

/// [MQTT-3.8.3-3]
#[tokio::test]
async fn no_local_keeps_away_what_the_client_has_published_whichever_way_it_comes() {
    let world = World::start().await;
    let mut client = world.client("c");
    let mut other = world.client("other");
    for qos in [QoS::AtMostOnce, QoS::AtLeastOnce] {
        let topic = ["zero", "one"][qos as usize];
        client.subscribe_with(&[topic], SubscriptionOptions { qos, no_local: true, ..Default::default() }).await;
        other.subscribe(&[topic], qos).await;
        client.publishing.tells_publisher = true;
        client.publish(topic, qos, false, "own");
        client.settle().await;
    }
    receives(&other, 1).await;
    assert_eq!(other.receives(1).await, ["own"]);
    other.publish("one", QoS::AtLeastOnce, false, "of another");
    other.settle().await;
    assert_eq!(client.receives(1).await, ["of another"]);
    assert_eq!(copies(&client), 0);
}

#[tokio::test]
async fn a_retained_message_of_another_sidecar_is_in_the_index_in_the_instant_in_which_it_comes_live() {
    let world = World::start().await;
    let other = World::on(world.server.clone(), |_| ()).await;
    let mut client = world.client("c");
    client.subscribe(&["a"], QoS::AtMostOnce).await;
    let mut publisher = other.client("p");
    publisher.publish("a", QoS::AtMostOnce, true, "kept");
    publisher.settle().await;
    receives(&client, 1).await;
    let index = world.account.store.retained().index();
    assert!(index.get(&TopicName::new("a").unwrap()).is_some());
    // Who subscribes now gets it as retained, once.
    let mut late = world.client("late");
    let subscribed = late.subscribe(&["a"], QoS::AtMostOnce).await;
    assert_eq!(subscribed.retained.len(), 1);
    assert_eq!(copies(&late), 0);
    // What says that it is retained and is no sidecar's is not.
    world.server.publish("b", &[("Mqtt-Retain", "99")], "forged");
    world.server.publish("a", &[], "behind");
    receives(&client, 1).await;
    assert!(index.get(&TopicName::new("b").unwrap()).is_none());
}

/// Which way a message comes is said by the highest QoS of the subscriptions that match.
#[tokio::test]
async fn of_what_a_stream_has_captured_each_session_gets_one_copy() {
    let world = World::start().await;
    world.server.make_stream(json!({ "name": "S", "subjects": ["m.>"], "retention": "limits" }));
    until("it is followed", || world.account.logs.is_captured("m.x").then_some(())).await;
    let (mut zero, mut one, mut both) = (world.client("zero"), world.client("one"), world.client("both"));
    zero.subscribe(&["m/#"], QoS::AtMostOnce).await;
    one.subscribe(&["m/#"], QoS::AtLeastOnce).await;
    both.subscribe(&["m/+"], QoS::AtMostOnce).await;
    both.subscribe(&["m/#"], QoS::AtLeastOnce).await;
    world.server.publish("m.x", &[], "captured");
    receives(&zero, 1).await;
    assert_eq!(one.receives(1).await, ["captured"]);
    assert_eq!(both.receives(1).await, ["captured"]);
    assert_eq!((copies(&one), copies(&both)), (0, 0));
    // The publish of a client at QoS 0 is nothing else for anybody.
    world.server.publish("m.x", &[("Mqtt-QoS", "0")], "live");
    for client in [&zero, &one, &both] {
        receives(client, 1).await;
        assert!(client.stored().is_empty());
    }
    let core = |subject: &'static str, headers: Option<proto_map::Headers>| CoreMessage {
        subject: subject.into(),
        headers,
        payload: Default::default(),
        reply: None,
        status: None,
    };
    let at_qos0 = Some(vec![("Mqtt-QoS".into(), "0".into())]);
    assert!(!world.account.router.is_on_core_only(&core("m.x", None)));
    assert!(!world.account.router.is_on_core_only(&core("other", None)), "it is copied into the log");
    assert!(world.account.router.is_on_core_only(&core("m.x", at_qos0)));
    assert!(world.account.router.message_of_core(&core("m.x", None)).is_some_and(|message| &*message.topic == "m/x"));
    assert!(world.account.router.message_of_core(&core("..", None)).is_none());
    let off = World::with(|config| config.jetstream.ingest = Ingest::Off).await;
    assert!(off.account.router.is_on_core_only(&core("other", None)));
}

#[tokio::test]
async fn what_is_copied_into_the_log_comes_from_there_to_who_wants_it_above_qos_0() {
    let world = World::with(|config| config.jetstream.ingest = Ingest::Interest).await;
    let (mut zero, mut one) = (world.client("zero"), world.client("one"));
    zero.subscribe(&["n/#"], QoS::AtMostOnce).await;
    one.subscribe(&["n/#"], QoS::AtLeastOnce).await;
    world.account.wait_for_lease(std::time::Duration::from_secs(5)).await;
    // Whoever leads hears of it in a moment.
    let mut sent = 0;
    let first = loop {
        sent += 1;
        world.server.publish("n.x", &[], &sent.to_string());
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        if let Some(first) = one.stored().into_iter().next() {
            break first.parse::<u64>().unwrap();
        }
        assert!(sent < 1_000);
    };
    receives(&zero, sent).await;
    assert!(first >= 1 && copies(&one) == 0, "one way or the other");
}

#[tokio::test]
async fn a_full_lane_at_qos_0_drops_and_counts() {
    let world = World::with(|config| config.mqtt.qos0_buffer = crate::config::ByteSize(1_000)).await;
    let mut client = world.client("c");
    client.subscribe(&["a", "b"], QoS::AtMostOnce).await;
    let payload = "x".repeat(300);
    for _ in 0..10 {
        client.publish("a", QoS::AtMostOnce, false, &payload);
    }
    let kept = copies(&client);
    assert!((1..10).contains(&kept), "{kept}");
    for _ in 0..10 {
        world.server.publish("b", &[], &payload);
    }
    world.account.store.core().flush().await.unwrap();
    let mut all = 0;
    until("some", || {
        let more = copies(&client);
        (more > 0).then_some(more)
    })
    .await;
    all += copies(&client);
    assert!(all < 10);
}
