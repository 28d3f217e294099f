//! The stream of the main log is deleted while it is read, and made again: its sequences begin anew.

use mqtt_codec::Publish;
use proto_map::Names;
use serde_json::Value;

use crate::harness::{Client, NatsServer, Options, Sidecar, eventually, js_api, msg, shown, stream_info};

const LONG: u32 = 3600;

/// Deletes the log, and waits until a sidecar has made it again.
async fn delete_log(nats: &async_nats::Client) {
    let stream = Names::default().log_stream();
    let created = stream_info(nats, &stream).await["created"].clone();
    let deleted = js_api(nats, &format!("STREAM.DELETE.{stream}"), &Value::Null).await;
    assert_eq!(deleted["success"], true, "{deleted}");
    eventually("the log is made again", async || {
        let info = stream_info(nats, &stream).await;
        info["error"].is_null() && info["created"] != created
    })
    .await;
}

async fn publish(publisher: &mut Client, numbers: std::ops::Range<usize>) {
    publisher.publish_all(numbers.map(|n| msg("l/x", n.to_string()).qos(1)), 16, |_| {}).await;
}

fn all_shown(messages: &[Publish]) -> Vec<String> {
    messages.iter().map(shown).collect()
}

fn numbers(numbers: std::ops::Range<usize>, qos: u8) -> Vec<String> {
    numbers.map(|n| format!("l/x {n} qos{qos}")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn subscribers_and_sessions_go_on_with_a_log_that_was_deleted_and_made_again() {
    const BEFORE: usize = 300;
    let nats = NatsServer::start();
    let admin = nats.client().await;
    let a = Sidecar::start(&nats, "sidecar a").await;
    let b = Sidecar::start(&nats, "sidecar b").await;
    let mut publisher = a.v5("publisher").await;
    // Their subscriptions begin at a place that the log will not have again for long.
    publish(&mut publisher, 0..BEFORE).await;
    let mut live = a.connect(Options::v5("live").durable(LONG)).await;
    let mut fresh = b.v311("fresh").await;
    let mut away = b.connect(Options::v5("away").durable(LONG)).await;
    for client in [&mut live, &mut fresh, &mut away] {
        client.subscribe("l/#", 2).await;
    }
    publish(&mut publisher, 0..BEFORE).await;
    publisher.publish(msg("l/x", "end").qos(1)).await;
    for client in [&mut live, &mut fresh, &mut away] {
        assert_eq!(all_shown(&client.receive_until("end").await), numbers(0..BEFORE, 1));
    }
    away.goodbye().await;

    delete_log(&admin).await;
    publish(&mut publisher, BEFORE..BEFORE + 20).await;
    publisher.publish(msg("l/x", "end").qos(1)).await;
    for client in [&mut live, &mut fresh] {
        assert_eq!(all_shown(&client.receive_until("end").await), numbers(BEFORE..BEFORE + 20, 1));
    }
    // Whose cursor is of the log before; it was away all the time.
    let mut away = b.connect(Options::v5("away").durable(LONG)).await;
    assert!(away.is_resumed());
    assert_eq!(all_shown(&away.receive_until("end").await), numbers(BEFORE..BEFORE + 20, 1));

    // Whose cursor was lowered as it went: nothing is missing later, and nothing comes twice.
    live.goodbye().await;
    publish(&mut publisher, 0..10).await;
    publisher.publish(msg("l/x", "end").qos(1)).await;
    for sidecar in [&a, &b] {
        let mut live = sidecar.connect(Options::v5("live").durable(LONG)).await;
        assert!(live.is_resumed());
        assert_eq!(all_shown(&live.receive_until("end").await), numbers(0..10, 1));
        live.goodbye().await;
        publish(&mut publisher, 0..10).await;
        publisher.publish(msg("l/x", "end").qos(1)).await;
    }
}
