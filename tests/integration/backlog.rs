//! Sessions that are away for longer than the log reaches back, with a log that holds 2 MB: less than two thousand of
//! the messages here.

use std::num::NonZeroU32;
use std::time::Duration;

use async_nats::Client as Nats;
use mqtt_codec::{Ack, Packet, Publish, QoS, ReasonCode, SubscriptionOptions};
use serde_json::json;

use crate::harness::{
    Client, Message, NatsServer, Options, Sidecar, SidecarBuilder, eventually, heavy, js_api, msg, stored, stream_info,
};

const LOG_BYTES: u64 = 2_000_000;
const PAYLOAD: usize = 1_000;
const WINDOW: usize = 32;

/// Two sidecars on a small log. The first one keeps the backlog.
struct Small {
    a: Sidecar,
    b: Sidecar,
    nats: NatsServer,
}

impl Small {
    async fn start(settings: &[(&str, &str)]) -> Self {
        let nats = NatsServer::start();
        let with = |name| {
            let builder = SidecarBuilder::of(&nats, name).set("JETSTREAM__LOG__MAX_BYTES", &LOG_BYTES.to_string());
            settings.iter().fold(builder, |builder, (key, value)| builder.set(key, value))
        };
        let a = with("sidecar a").start().await;
        eventually("a leads", async || a.log().contains("keeps the backlog")).await;
        let b = with("sidecar b").start().await;
        Self { a, b, nats }
    }
}

/// A session that does not end.
fn durable(id: &str) -> Options {
    let mut options = Options::v5(id);
    options.connect.clean_start = false;
    options.connect.properties.session_expiry_interval_s = Some(u32::MAX);
    options
}

/// Goes on with a device that has read its backlog, until that is removed: whenever progress is saved, it is looked at.
async fn cleared(publisher: &mut Client, device: &mut Client, nats: &Nats, topic: &str) {
    eventually("the backlog is gone when it is read", async || {
        publisher.publish(numbered(topic, 0).qos(1)).await;
        device.receive().await;
        copies(nats, "device").await == 0
    })
    .await;
}

/// A number as a large payload.
fn numbered(topic: &str, number: usize) -> Message {
    msg(topic, format!("{number:<PAYLOAD$}"))
}

fn number(publish: &Publish) -> usize {
    std::str::from_utf8(&publish.payload).unwrap().trim().parse().unwrap()
}

/// Subscribes a session and leaves it.
async fn subscribed(sidecar: &Sidecar, id: &str, filter: &str) {
    let mut client = sidecar.connect(durable(id)).await;
    client.subscribe(filter, 2).await;
    client.disconnect(ReasonCode::Success).await;
}

/// Publishes no faster than a writer with a busy machine can follow: a part of the log, then the writer has its turn.
async fn publish(publisher: &mut Client, nats: &Nats, messages: impl Iterator<Item = Message>) {
    const PART: usize = 250;
    let mut messages = messages.peekable();
    while messages.peek().is_some() {
        publisher.publish_all(messages.by_ref().take(PART), WINDOW, |_| {}).await;
        // Somewhat more than half of what the log holds is left alone.
        eventually("the log is copied", async || {
            let last = stream_info(nats, "MQTT_log").await["state"]["last_seq"].as_u64().unwrap();
            last - position(nats).await.unwrap_or(0) <= 1_000
        })
        .await;
    }
}

/// Publishes so much that the log keeps nothing of what was in it.
async fn overrun(publisher: &mut Client, nats: &Nats) {
    publish(publisher, nats, (0..2_500).map(|n| numbered("filler", n).qos(1))).await;
}

/// The numbers of messages up to one with payload `end`. They are in order, and none comes twice.
async fn numbers(client: &mut Client) -> Vec<usize> {
    let messages = client.receive_until("end").await;
    let numbers: Vec<usize> = messages.iter().map(number).collect();
    assert!(numbers.is_sorted_by(|a, b| a < b), "out of order, or twice: {numbers:?}");
    numbers
}

/// Up to where the log is copied.
async fn position(nats: &Nats) -> Option<u64> {
    use base64::Engine as _;
    let request = json!({ "last_by_subj": "$KV.MQTT_sessions.backlog.position" });
    let answer = js_api(nats, "STREAM.MSG.GET.KV_MQTT_sessions", &request).await;
    let data = base64::engine::general_purpose::STANDARD.decode(answer["message"]["data"].as_str()?).unwrap();
    serde_json::from_slice::<serde_json::Value>(&data).unwrap()["position"].as_u64()
}

async fn first_of_log(nats: &Nats) -> u64 {
    stream_info(nats, "MQTT_log").await["state"]["first_seq"].as_u64().unwrap()
}

async fn copies(nats: &Nats, id: &str) -> u64 {
    stored(nats, "MQTT_backlog", &format!("$NMQ.backlog.{id}")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_was_away_for_long_gets_its_last_thousand_in_order_and_goes_on_live() {
    let _turn = heavy().await;
    let world = Small::start(&[]).await;
    let nats = world.nats.client().await;
    subscribed(&world.b, "device", "fleet/mine").await;
    let mut publisher = world.b.v5("publisher").await;
    let (total, qos) = (12_000, |n: usize| 1 + u8::try_from(n / 4 % 2).unwrap());
    let topic = |n: usize| if n.is_multiple_of(4) { "fleet/mine" } else { "fleet/other" };
    publish(&mut publisher, &nats, (0..total).map(|n| numbered(topic(n), n).qos(qos(n)))).await;
    let position = position(&nats).await.expect("a pass was made");
    assert!(first_of_log(&nats).await > 8_000, "the log is small");

    let mut device = world.a.connect(durable("device")).await;
    assert!(device.connack.session_present);
    // QoS 1 may overtake QoS 2, which waits for its packet id to be saved, and not the other way.
    publisher.publish(msg("fleet/mine", "end").qos(2)).await;
    let messages = device.receive_until("end").await;
    let mut got: Vec<usize> = messages.iter().map(number).collect();
    for of_qos in 1..=2 {
        // [MQTT-4.6.0-6]: the order is that of a topic and a QoS.
        assert!(got.iter().filter(|n| qos(**n) == of_qos).is_sorted(), "out of order: {got:?}");
    }
    got.sort_unstable();
    let wanted: Vec<usize> = (0..total).step_by(4).rev().take(got.len()).rev().collect();
    assert_eq!(got, wanted, "{} messages", got.len());
    // The queue's limit, and what the log has.
    assert!((1_000..1_500).contains(&got.len()), "{} messages, position {position}", got.len());
    let gave_way = world.a.metric("mqtt_messages_dropped_total{reason=\"queue_full\"}").await;
    let missing = (total / 4 - got.len()) as f64;
    // What gave way and was still in the log came from there.
    assert!(gave_way >= missing, "{gave_way} gave way, and {missing} did not come");
    for message in &messages {
        let wanted = if qos(number(message)) == 1 { QoS::AtLeastOnce } else { QoS::ExactlyOnce };
        assert_eq!((message.qos(), message.dup), (wanted, false));
    }
    for n in 0..20 {
        publisher.publish(numbered("fleet/mine", n).qos(1)).await;
        assert_eq!(number(&device.receive().await), n);
    }
    cleared(&mut publisher, &mut device, &nats, "fleet/mine").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_that_is_killed_in_a_pass_loses_nothing() {
    const DEVICES: usize = 20;
    let _turn = heavy().await;
    let mut world = Small::start(&[("MQTT__SESSION_QUEUE", "10000")]).await;
    let nats = world.nats.client().await;
    let ids: Vec<String> = (0..DEVICES).map(|n| format!("device-{n}")).collect();
    for id in &ids {
        subscribed(&world.b, id, "fleet/#").await;
    }
    let mut publisher = world.b.v5("publisher").await;
    let fill = async {
        publisher.publish_all((0..1_000).map(|n| numbered("fleet/x", n).qos(1)), WINDOW, |_| {}).await;
        publisher
    };
    let kill = async {
        while stored(&nats, "MQTT_backlog", "").await < 100 {}
        world.a.kill();
    };
    let (mut publisher, ()) = tokio::join!(fill, kill);
    let (at_kill, copied) = (position(&nats).await, stored(&nats, "MQTT_backlog", "").await);
    assert_eq!(at_kill, None, "the pass was over already");
    eventually("b leads", async || world.b.log().contains("keeps the backlog")).await;
    eventually("a pass is over", async || position(&nats).await.is_some()).await;

    publish(&mut publisher, &nats, (1_000..4_000).map(|n| numbered("fleet/x", n).qos(1))).await;
    let first = first_of_log(&nats).await;
    assert!(first > 1_500, "the log begins at {first}");
    publisher.publish(msg("fleet/x", "end").qos(1)).await;
    for id in &ids {
        let mut device = world.b.connect(durable(id)).await;
        assert!(device.connack.session_present);
        let got = numbers(&mut device).await;
        assert_eq!(got.len(), 4_000, "{id}, killed after {copied} copies");
        device.disconnect(ReasonCode::Success).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_discard_newest_the_first_messages_are_kept() {
    let _turn = heavy().await;
    let world = Small::start(&[("MQTT__SESSION_QUEUE", "50"), ("MQTT__DISCARD", "newest")]).await;
    let nats = world.nats.client().await;
    subscribed(&world.a, "device", "fleet/mine").await;
    let mut publisher = world.a.v5("publisher").await;
    let topic = |n: usize| if n.is_multiple_of(10) { "fleet/mine" } else { "fleet/other" };
    publish(&mut publisher, &nats, (0..6_000).map(|n| numbered(topic(n), n).qos(1))).await;
    assert_eq!(copies(&nats, "device").await, 50);
    let mut device = world.b.connect(durable("device")).await;
    publisher.publish(msg("fleet/mine", "end").qos(1)).await;
    let got = numbers(&mut device).await;
    let (kept, rest) = got.split_at(50);
    assert_eq!(kept, (0..500).step_by(10).collect::<Vec<_>>());
    let wanted: Vec<usize> = (0..6_000).step_by(10).rev().take(rest.len()).rev().collect();
    assert_eq!(rest, wanted, "what the log has follows");
    assert!(rest.len() < 300, "{}", rest.len());
    assert!(world.a.metric("mqtt_messages_dropped_total{reason=\"queue_full\"}").await > 0.0);
    assert!(world.a.metric("nats_js_api_errors_total{code=\"10077\"}").await > 0.0, "JetStream refused them");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_in_a_backlog_expires_in_its_time() {
    let _turn = heavy().await;
    let world = Small::start(&[]).await;
    let nats = world.nats.client().await;
    subscribed(&world.a, "device", "mine").await;
    let mut publisher = world.a.v5("publisher").await;
    publisher.publish(numbered("mine", 1).qos(1).expires(6)).await;
    publisher.publish(numbered("mine", 2).qos(2).expires(600)).await;
    let published = tokio::time::Instant::now();
    overrun(&mut publisher, &nats).await;
    assert_eq!(copies(&nats, "device").await, 2);
    eventually("one expires in the backlog", async || copies(&nats, "device").await == 1).await;
    let waited_s = u32::try_from(published.elapsed().as_secs()).unwrap();
    assert!(waited_s <= 8, "it expired after {waited_s} s");
    let mut device = world.b.connect(durable("device")).await;
    let message = device.receive().await;
    assert_eq!((number(&message), message.qos()), (2, QoS::ExactlyOnce));
    let left_s = message.properties.unwrap().message_expiry_interval_s.unwrap();
    assert!((560..=601 - waited_s).contains(&left_s), "{left_s} s are left after {waited_s} s");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_log_discards_for_its_age_is_kept() {
    let world = Small::start(&[("JETSTREAM__LOG__MAX_AGE", "4s")]).await;
    let nats = world.nats.client().await;
    subscribed(&world.a, "device", "mine").await;
    let mut publisher = world.a.v5("publisher").await;
    publisher.publish_all((0..10).map(|n| numbered("mine", n).qos(1)), WINDOW, |_| {}).await;
    eventually("the log has discarded everything", async || stored(&nats, "MQTT_log", "").await == 0).await;
    assert_eq!(copies(&nats, "device").await, 10);
    let mut device = world.b.connect(durable("device")).await;
    publisher.publish(msg("mine", "end").qos(1)).await;
    assert_eq!(numbers(&mut device).await, (0..10).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_is_over_leaves_no_backlog() {
    let _turn = heavy().await;
    let world = Small::start(&[]).await;
    let nats = world.nats.client().await;
    let ids = ["started-anew", "ended"];
    for id in ids {
        subscribed(&world.a, id, "mine").await;
    }
    let mut publisher = world.a.v5("publisher").await;
    publisher.publish(numbered("mine", 1).qos(1)).await;
    overrun(&mut publisher, &nats).await;
    for id in ids {
        assert_eq!(copies(&nats, id).await, 1, "{id}");
    }
    let mut clean = durable(ids[0]);
    clean.connect.clean_start = true;
    let mut anew = world.b.connect(clean).await;
    assert!(!anew.connack.session_present);
    let mut ends = durable(ids[1]);
    ends.connect.properties.session_expiry_interval_s = None;
    let client = world.b.connect(ends).await;
    client.disconnect(ReasonCode::Success).await;
    for id in ids {
        eventually("its backlog is gone", async || copies(&nats, id).await == 0).await;
    }
    // Nothing of the old session comes into the new one.
    anew.subscribe("mine", 1).await;
    publisher.publish(msg("mine", "end").qos(1)).await;
    assert_eq!(anew.shown_until("end").await, [""; 0]);
}

/// [MQTT-3.3.4-4]
#[tokio::test(flavor = "multi_thread")]
async fn a_message_of_a_backlog_names_all_subscriptions_that_take_it() {
    let _turn = heavy().await;
    let world = Small::start(&[]).await;
    let nats = world.nats.client().await;
    let mut device = world.a.connect(durable("device")).await;
    for (filter, qos, id) in
        [("both/x", QoS::AtLeastOnce, 1), ("both/#", QoS::AtMostOnce, 2), ("x", QoS::AtLeastOnce, 3)]
    {
        device.subscribe_with(filter, SubscriptionOptions { qos, ..Default::default() }, Some(id)).await;
    }
    device.disconnect(ReasonCode::Success).await;
    let mut publisher = world.b.v5("publisher").await;
    publisher.publish(numbered("both/x", 7).qos(1)).await;
    overrun(&mut publisher, &nats).await;
    assert_eq!(copies(&nats, "device").await, 1);

    let mut device = world.b.connect(durable("device")).await;
    let message = device.receive().await;
    let mut ids: Vec<u32> = message.subscription_ids.iter().copied().map(NonZeroU32::get).collect();
    ids.sort_unstable();
    assert_eq!((number(&message), message.qos(), ids), (7, QoS::AtLeastOnce, vec![1, 2]));
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_in_flight_are_repeated_although_the_log_has_lost_them() {
    let _turn = heavy().await;
    let world = Small::start(&[]).await;
    let nats = world.nats.client().await;
    let mut device = world.a.connect(durable("device")).await;
    device.subscribe("mine", 2).await;
    let mut publisher = world.a.v5("publisher").await;
    device.acknowledges = false;
    let mut before = Vec::new();
    for n in 0..5 {
        publisher.publish(numbered("mine", n).qos(1 + u8::try_from(n % 2).unwrap())).await;
        let message = device.receive().await;
        before.push((number(&message), message.packet_id(), message.qos()));
    }
    device.disconnect(ReasonCode::Success).await;
    publisher.publish(numbered("mine", 5).qos(1)).await;
    overrun(&mut publisher, &nats).await;
    assert_eq!(copies(&nats, "device").await, 6);

    let mut device = world.b.connect(durable("device")).await;
    for (wanted, packet_id, qos) in before {
        let message = device.receive().await;
        assert_eq!((number(&message), message.packet_id(), message.qos()), (wanted, packet_id, qos));
        assert!(message.dup, "{wanted}");
    }
    let message = device.receive().await;
    assert_eq!((number(&message), message.dup), (5, false));
    publisher.publish(msg("mine", "end").qos(1)).await;
    assert_eq!(device.shown_until("end").await, [""; 0]);
    cleared(&mut publisher, &mut device, &nats, "mine").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connected_device_that_the_log_overtakes_gets_everything() {
    let _turn = heavy().await;
    let world = Small::start(&[("MQTT__SESSION_QUEUE", "10000")]).await;
    let nats = world.nats.client().await;
    let mut device = world.a.connect(durable("device")).await;
    device.subscribe("mine", 1).await;
    device.acknowledges = false;
    let mut publisher = world.b.v5("publisher").await;
    let total = 6_000;
    publish(&mut publisher, &nats, (0..total).map(|n| numbered("mine", n).qos(1))).await;
    let first = first_of_log(&nats).await;
    assert!(first > 3_000, "the log begins at {first}");
    let mut window = Vec::new();
    while let Ok(message) = device.try_receive(Duration::from_secs(1)).await {
        window.push(message);
    }
    device.acknowledges = true;
    for message in &window {
        device.write(&Packet::PubAck(Ack::new(message.packet_id().unwrap(), ReasonCode::Success)));
    }
    device.flush().await;
    publisher.publish(msg("mine", "end").qos(1)).await;
    let mut got: Vec<usize> = window.iter().map(number).collect();
    got.extend(numbers(&mut device).await);
    assert_eq!(got, (0..total).collect::<Vec<_>>());
}
