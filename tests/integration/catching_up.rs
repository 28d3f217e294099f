//! A subscriber that is behind is brought up without a pause, however the log grows meanwhile.

use std::time::Duration;

use tokio::time::Instant;

use crate::harness::{NatsServer, Sidecar, heavy, msg};

/// Far more than it takes to be brought up a little further, and less than anything waits for by the clock.
const PAUSE_MAX: Duration = Duration::from_millis(1_500);

#[tokio::test(flavor = "multi_thread")]
async fn a_subscriber_does_not_stand_still_while_a_hundred_publish() {
    const PUBLISHERS: usize = 100;
    const EACH: usize = 150;
    const BACKLOG: usize = 3_000;
    let _turn = heavy().await;
    let nats = NatsServer::start();
    let sidecar = Sidecar::start(&nats, "sidecar").await;
    let mut subscriber = sidecar.v311("subscriber").await;
    subscriber.subscribe("load/#", 1).await;
    // It falls behind, since nothing is read of it.
    let backlog = (0..BACKLOG).map(|n| msg("load/backlog", n.to_string()).qos(1));
    sidecar.v311("filler").await.publish_all(backlog, 128, |_| {}).await;
    let mut publishers = Vec::new();
    for number in 0..PUBLISHERS {
        let mut publisher = sidecar.v311(&format!("publisher-{number}")).await;
        publishers.push(tokio::spawn(async move {
            let topic = format!("load/{number}");
            publisher.publish_all((0..EACH).map(|n| msg(&topic, n.to_string()).qos(1)), 16, |_| {}).await;
        }));
    }
    let mut next = std::collections::HashMap::<String, usize>::new();
    let (mut last, mut longest, mut at) = (Instant::now(), Duration::ZERO, 0);
    for count in 0..BACKLOG + PUBLISHERS * EACH {
        let message = subscriber.receive().await;
        let wanted = next.entry(message.topic_name().unwrap().to_string()).or_default();
        assert_eq!(message.payload, wanted.to_string());
        *wanted += 1;
        if last.elapsed() > longest {
            (longest, at) = (last.elapsed(), count);
        }
        if count % 32 == 0 {
            // As a device that has something to do with each: the scan has to wait for it.
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        last = Instant::now();
    }
    for publisher in publishers {
        publisher.await.unwrap();
    }
    assert!(longest < PAUSE_MAX, "nothing came for {longest:?} after {at} messages");
}
