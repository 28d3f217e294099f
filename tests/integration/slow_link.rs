//! The way to NATS is slow: everything takes its round trips, and nothing is begun anew for ever.

use std::time::Duration;

use crate::harness::relay::Relay;
use crate::harness::{NatsServer, Sidecar, SidecarBuilder, eventually, msg};

/// In each direction.
const DELAY: Duration = Duration::from_millis(300);

#[tokio::test(flavor = "multi_thread")]
async fn retained_messages_are_read_over_a_round_trip_of_more_than_half_a_second() {
    let nats = NatsServer::start();
    let near = Sidecar::start(&nats, "near").await;
    let mut publisher = near.v5("publisher").await;
    for number in 0..50 {
        publisher.publish(msg(&format!("kept/{number:02}"), number.to_string()).qos(1).retained()).await;
    }
    let relay = Relay::start(nats.url()).await;
    relay.delay(DELAY);
    let far = SidecarBuilder::new("far", &["--nats", &relay.url()]).start().await;
    let mut subscriber = far.v5("subscriber").await;
    subscriber.subscribe("kept/#", 1).await;
    for number in 0..50 {
        assert_eq!(subscriber.receive_shown().await, format!("kept/{number:02} {number} qos1 retain"));
    }
    // Also when the reader has to begin anew.
    relay.cut();
    publisher.publish(msg("kept/00", "new").qos(1).retained()).await;
    assert_eq!(subscriber.receive_shown().await, "kept/00 new qos1");
    eventually("it is read again", async || far.answers("/readyz", 200).await).await;
    let mut late = far.v5("late").await;
    late.subscribe("kept/00", 1).await;
    assert_eq!(late.receive_shown().await, "kept/00 new qos1 retain");
}
