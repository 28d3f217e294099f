//! Retained messages: so many, so many bytes, and of such a size.

use mqtt_codec::ReasonCode;

use crate::harness::{Client, NatsServer, SidecarBuilder, eventually, msg};

/// What is retained below a filter, as a new subscriber gets it.
async fn retained(client: &mut Client, topics: &[&str]) -> Vec<String> {
    let mut all = Vec::new();
    client.subscribe("#", 1).await;
    for _ in topics {
        all.push(client.receive().await.topic_name().unwrap().as_str().to_owned());
    }
    client.unsubscribe("#").await;
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_has_so_many_retained_messages_of_such_a_size() {
    let server = NatsServer::start();
    let sidecar = SidecarBuilder::of(&server, "sidecar")
        .set("MQTT__MAX_RETAINED_MESSAGES", "3")
        .set("MQTT__MAX_RETAINED_BYTES", "1000")
        .set("MQTT__MAX_RETAINED_SIZE", "600")
        .start()
        .await;
    let mut client = sidecar.v5("client").await;
    let is_taken = |reason: ReasonCode| !reason.is_error();
    let retain = |topic: &str, len: usize, qos: u8| msg(topic, vec![b'x'; len]).qos(qos).retained();
    assert!(is_taken(client.publish(retain("a", 600, 1)).await));
    // What is retained is counted when the log has brought it.
    let counted = async |series: &str, at_least: f64| sidecar.metric(series).await > at_least - 0.5;
    eventually("it is counted", async || counted("mqtt_retained_bytes", 601.0).await).await;
    assert_eq!(client.publish(retain("b", 601, 1)).await, ReasonCode::QuotaExceeded, "its size");
    assert_eq!(client.publish(retain("b", 500, 2)).await, ReasonCode::QuotaExceeded, "the bytes of all");
    assert!(is_taken(client.publish(msg("b", vec![b'x'; 5_000]).qos(1)).await), "it is not retained");
    for topic in ["b", "c"] {
        assert!(is_taken(client.publish(retain(topic, 10, 1)).await));
    }
    eventually("they are counted", async || counted("mqtt_retained_messages", 3.0).await).await;
    assert_eq!(client.publish(retain("d", 1, 1)).await, ReasonCode::QuotaExceeded, "how many");
    // What is there may change, and what nobody can be told goes out.
    assert!(is_taken(client.publish(retain("c", 20, 2)).await));
    let mut watcher = sidecar.v5("watcher").await;
    watcher.subscribe("d", 1).await;
    client.publish(retain("d", 1, 0)).await;
    assert_eq!(watcher.receive_shown().await, "d x qos0");
    let mut old = sidecar.v311("old").await;
    old.publish(retain("d", 1, 1)).await;
    assert_eq!(retained(&mut sidecar.v5("new").await, &["a", "b", "c"]).await, ["a", "b", "c"]);
    // A message less.
    assert!(is_taken(client.publish(retain("a", 0, 1)).await));
    eventually("there is room again", async || is_taken(client.publish(retain("d", 1, 1)).await)).await;
    assert_eq!(retained(&mut sidecar.v5("new").await, &["b", "c", "d"]).await, ["b", "c", "d"]);
    for limit in ["retained_messages", "retained_bytes", "retained_size"] {
        assert!(sidecar.metric(&format!("mqtt_over_limit_total{{limit=\"{limit}\"}}")).await > 0.5, "{limit}");
    }
}
