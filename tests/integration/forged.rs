//! Somebody who can publish what only sidecars should: requests between sidecars, and acknowledgements of JetStream.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::StreamExt;
use mqtt_codec::{Packet, ReasonCode};
use serde_json::{Value, json};

use crate::harness::sessions::record;
use crate::harness::{NatsServer, Options, Sidecar, SidecarBuilder, World, eventually, msg, settle, unique};

const LONG: u32 = 3600;

#[tokio::test(flavor = "multi_thread")]
async fn a_forged_request_of_a_session_ends_no_connection_and_hands_nothing_over() {
    let world = World::own().await;
    let nats = world.nats.client().await;
    let mut device = world.a.connect(Options::v5("device").durable(LONG)).await;
    device.subscribe("t", 1).await;
    let (_, record) = record(&nats, "device").await.unwrap();
    let subject = format!("$NMQ.node.{}", record["owner"].as_str().unwrap());
    for epoch in [record["epoch"].as_u64().unwrap() + 1, u64::MAX] {
        let request = json!({ "client_id": "device", "epoch": epoch }).to_string();
        let answer =
            tokio::time::timeout(std::time::Duration::from_millis(700), nats.request(subject.clone(), request.into()));
        assert!(!matches!(answer.await, Ok(Ok(_))), "an answer to a forged request");
    }
    device.ping().await;
    let mut publisher = world.b.v5("pub").await;
    publisher.publish(msg("t", "m").qos(1)).await;
    assert_eq!(device.receive_shown().await, "t m qos1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_genuine_request_of_a_session_that_is_sent_again_ends_no_connection() {
    let world = World::own().await;
    let nats = world.nats.client().await;
    let mut seen = nats.subscribe("$NMQ.node.>").await.unwrap();
    settle(&nats).await;
    let mut old = world.a.connect(Options::v5("device").durable(LONG)).await;
    let device = world.b.connect(Options::v5("device").durable(LONG)).await;
    assert_eq!(old.closed().await, Some(ReasonCode::SessionTakenOver));
    let genuine = tokio::time::timeout(crate::harness::PATIENCE, seen.next()).await.unwrap().unwrap();
    device.goodbye().await;
    let mut back = world.a.connect(Options::v5("device").durable(LONG)).await;
    let inbox = nats.new_inbox();
    let mut answers = nats.subscribe(inbox.clone()).await.unwrap();
    for _ in 0..3 {
        let headers = genuine.headers.clone().unwrap_or_default();
        let (subject, payload) = (genuine.subject.clone(), genuine.payload.clone());
        nats.publish_with_reply_and_headers(subject, inbox.clone(), headers, payload).await.unwrap();
    }
    settle(&nats).await;
    back.ping().await;
    let answer = tokio::time::timeout(std::time::Duration::from_millis(500), answers.next()).await;
    assert!(answer.is_err(), "{answer:?}");
    back.ping().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn forged_wishes_and_news_change_nothing() {
    let world = World::own().await;
    let nats = world.nats.client().await;
    let mut device = world.a.connect(Options::v5("device").durable(LONG)).await;
    device.subscribe("t", 1).await;
    // A later leader, if it were true: nobody would copy messages any more.
    for term in [u64::MAX.to_string(), "999999".to_owned()] {
        nats.publish("$NMQ.ingest.news", term.into()).await.unwrap();
    }
    nats.publish("$NMQ.ingest.wishes", r##"["forged/#"]"##.into()).await.unwrap();
    settle(&nats).await;
    nats.publish("t", "m".into()).await.unwrap();
    assert_eq!(device.receive_shown().await, "t m qos1");
    nats.publish("forged.x", "m".into()).await.unwrap();
    nats.publish("t", "end".into()).await.unwrap();
    assert_eq!(device.receive_shown().await, "t end qos1");
    assert_eq!(crate::harness::stored(&nats, "MQTT_log", "$NMQ.log.forged.>").await, 0);
}

/// A stream that refuses what comes, and a sidecar that knows it.
async fn full(nats: &async_nats::Client, sidecar: &Sidecar) {
    let config = json!({"name": "FULL", "subjects": ["full.>"], "max_msgs": 1, "discard": "new"});
    crate::attached::create(nats, &[sidecar], &config).await;
    crate::attached::put(nats, "full.x", "first").await;
}

/// Answers in the place of JetStream, while the flag stands, to what comes and to the next messages of that sequence.
async fn answer_for_jetstream(nats: async_nats::Client, goes_on: Arc<AtomicBool>) {
    let mut seen = nats.subscribe("full.>").await.unwrap();
    let lie = json!({"stream": "FULL", "seq": 2}).to_string();
    while goes_on.load(Ordering::Relaxed) {
        let Some(message) = seen.next().await else { return };
        let Some(reply) = message.reply else { continue };
        let parts: Vec<&str> = reply.split('.').collect();
        let _ = nats.publish(reply.clone(), lie.clone().into()).await;
        for at in 0..parts.len() {
            let Ok(number) = parts[at].parse::<u64>() else { continue };
            for ahead in 1..=200 {
                let mut guess: Vec<String> = parts.iter().map(|part| (*part).to_owned()).collect();
                guess[at] = (number + ahead).to_string();
                let _ = nats.publish(guess.join("."), lie.clone().into()).await;
            }
        }
        let _ = nats.flush().await;
    }
}

/// How many of 400 publishes to a stream that refuses all of them are acknowledged.
async fn acknowledged(sidecar: &Sidecar, liar: async_nats::Client) -> usize {
    let goes_on = Arc::new(AtomicBool::new(true));
    let task = tokio::spawn(answer_for_jetstream(liar.clone(), Arc::clone(&goes_on)));
    settle(&liar).await;
    let mut device = sidecar.v5(&unique("device")).await;
    let mut acknowledged = 0;
    for _ in 0..20 {
        let count = 20;
        for _ in 0..count {
            device.start_publish(&msg("full/x", "lost").qos(1));
        }
        for _ in 0..count {
            let Packet::PubAck(ack) = device.other(|packet| matches!(packet, Packet::PubAck(_))).await else {
                unreachable!()
            };
            acknowledged += usize::from(!ack.reason.is_error());
        }
    }
    goes_on.store(false, Ordering::Relaxed);
    task.abort();
    acknowledged
}

#[tokio::test(flavor = "multi_thread")]
async fn who_sees_a_message_with_its_reply_subject_cannot_acknowledge_in_the_place_of_jetstream() {
    let server = NatsServer::start_with(
        true,
        "no_auth_user: admin
         authorization { users: [
           { user: admin, password: a }
           { user: service, password: s, permissions: { publish: { deny: [\"$NMQ.>\"] }, subscribe: { deny: [\"$NMQ.>\"] } } }
         ] }",
    );
    let sidecar = SidecarBuilder::of(&server, "sidecar").start().await;
    let nats = server.client().await;
    full(&nats, &sidecar).await;
    let options = async_nats::ConnectOptions::with_user_and_password("service".to_owned(), "s".to_owned());
    let liar = options.connect(server.url()).await.unwrap();
    assert_eq!(acknowledged(&sidecar, liar).await, 0);
    eventually("nothing was stored", async || {
        let info: Value = crate::harness::stream_info(&nats, "FULL").await;
        info["state"]["messages"] == 1
    })
    .await;
}
