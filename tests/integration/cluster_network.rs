//! Three nats-servers, and a sidecar whose way to them is slow, or leads nowhere for longer than its lease.

use std::time::{Duration, Instant};

use mqtt_codec::{Packet, PacketType, ReasonCode};
use serde_json::json;

use crate::cluster::Received;
use crate::harness::cluster::Cluster;
use crate::harness::relay::Relay;
use crate::harness::sessions::{pid, progress, record};
use crate::harness::{Client, Ended, Options, Sidecar, SidecarBuilder, eventually, heavy, msg, shown, stored};

const LONG: u32 = 3600;
/// Longer than a lease may take to end and to be noticed.
const ADOPTED_WITHIN: Duration = Duration::from_secs(45);

/// A sidecar behind a relay, and one that has no relay.
async fn two(cluster: &Cluster) -> (Relay, Sidecar, Sidecar) {
    let relay = Relay::start(cluster.servers[0].url()).await;
    let replicas = cluster.replicas();
    let start = async |name, urls: &str| {
        let builder = SidecarBuilder::new(name, &["--nats", urls]);
        builder.set("JETSTREAM__REPLICAS", replicas).start().await
    };
    let b = start("sidecar b", &cluster.urls()).await;
    let a = start("sidecar a", &relay.url()).await;
    (relay, a, b)
}

async fn durable(sidecar: &Sidecar, id: &str) -> Client {
    sidecar.connect(Options::v5(id).durable(LONG)).await
}

async fn a_slow_way_to_jetstream_loses_nothing(relay: &Relay, a: &Sidecar, b: &Sidecar) {
    const COUNT: usize = 120;
    let mut subscriber = durable(a, "slow").await;
    subscriber.subscribe("c/#", 2).await;
    relay.delay(Duration::from_millis(200));
    let mut far = durable(a, "far").await;
    let mut near = durable(b, "near").await;
    let numbered = |topic: &'static str, qos| (0..COUNT).map(move |n| msg(topic, n.to_string()).qos(qos));
    let publish = async {
        tokio::join!(far.publish_all(numbered("c/1", 1), 32, |_| {}), near.publish_all(numbered("c/2", 2), 32, |_| {}))
    };
    // It moves in the middle of it, to the sidecar beside and back.
    let read = async {
        let mut received = Received::default();
        received.until(&mut subscriber, COUNT / 3).await;
        for (sidecar, count) in [(b, 2 * COUNT / 3), (a, COUNT)] {
            subscriber.reset();
            subscriber = durable(sidecar, "slow").await;
            assert!(subscriber.is_resumed());
            received.until(&mut subscriber, count).await;
        }
        subscriber.ping().await;
        received
    };
    let (_, received) = tokio::join!(publish, read);
    received.check(COUNT);
    relay.delay(Duration::ZERO);
}

async fn a_sidecar_without_nats_loses_its_sessions_to_others_and_ends_them_when_it_is_back(
    cluster: &Cluster,
    relay: &Relay,
    a: &Sidecar,
    b: &Sidecar,
) {
    let nats = cluster.servers[1].client().await;
    let mut watcher = b.v5("watch").await;
    watcher.subscribe("will/#", 1).await;
    let with_will = || Options::v5("dev").durable(LONG).will(msg("will/dev", "gone").qos(1));
    let mut dev = a.connect(with_will()).await;
    dev.subscribe("dev/#", 2).await;
    let mut publisher = durable(a, "pub").await;
    for number in 0..20 {
        publisher.publish(msg("dev/x", number.to_string()).qos(1 + number % 2)).await;
        assert_eq!(dev.receive_shown().await, format!("dev/x {number} qos{}", 1 + number % 2));
    }
    eventually("all of it is done with", async || {
        dev.ping().await;
        progress(&nats, "dev").await.is_some_and(|(_, progress)| progress["in_flight"] == json!([]))
    })
    .await;
    relay.dark(true);
    let since = Instant::now();
    // One that is not acknowledged, and must be published once all the same.
    let open = msg("dev/x", "open").qos(2);
    publisher.send_publish(&open, pid(100), false).await;
    let mut other = durable(b, "other").await;
    other.publish(msg("dev/x", "meanwhile").qos(2)).await;
    assert_eq!(
        watcher.try_receive(ADOPTED_WITHIN).await.map(|publish| shown(&publish)),
        Ok("will/dev gone qos1".to_owned())
    );
    println!("adopted after {:?}", since.elapsed());
    dev.ping().await;
    let (mut old_dev, mut old_publisher) = (dev, publisher);

    let mut dev = b.connect(with_will()).await;
    assert!(dev.is_resumed());
    assert_eq!(dev.receive_shown().await, "dev/x meanwhile qos2");
    let mut publisher = durable(b, "pub").await;
    assert!(publisher.is_resumed());
    publisher.send_publish(&open, pid(100), true).await;
    publisher.next_of(PacketType::PubRec).await;
    publisher.ack(Packet::PubRel, pid(100)).await;
    publisher.next_of(PacketType::PubComp).await;
    assert_eq!(dev.receive_shown().await, "dev/x open qos2");
    let (before, _) = record(&nats, "dev").await.expect("a record");

    // What was on its way arrives, and is too late.
    relay.dark(false);
    assert_eq!(old_dev.closed().await, Some(ReasonCode::SessionTakenOver));
    assert_eq!(old_publisher.closed().await, Some(ReasonCode::SessionTakenOver));
    eventually("it serves again", async || a.answers("/readyz", 200).await).await;
    assert_eq!(record(&nats, "dev").await.expect("a record").0, before, "it writes nothing more");
    assert_eq!(stored(&nats, "MQTT_log", "$NMQ.log.dev.>").await, 22, "each once");
    let more = dev.try_receive(Duration::from_millis(300)).await;
    assert_eq!(more.map(|publish| shown(&publish)), Err(Ended::Silent));
    dev.goodbye().await;
    // Ready is what it was all the time, as far as it knew; it takes its lease again first.
    let mut back = None;
    eventually("it accepts sessions again", async || {
        let opened = Client::open(a.mqtt_port, with_will()).await;
        back = Some(opened).filter(|client| client.connack.reason == ReasonCode::Success);
        back.is_some()
    })
    .await;
    let mut dev = back.expect("a client");
    assert!(dev.is_resumed());
    other.publish(msg("dev/x", "back").qos(2)).await;
    assert_eq!(dev.receive_shown().await, "dev/x back qos2");
    let more = watcher.try_receive(Duration::from_millis(300)).await;
    assert_eq!(more.map(|publish| shown(&publish)), Err(Ended::Silent), "once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_whose_network_is_slow_or_gone_loses_nothing() {
    let _turn = heavy().await;
    let cluster = Cluster::start(3);
    let (relay, a, b) = two(&cluster).await;
    a_slow_way_to_jetstream_loses_nothing(&relay, &a, &b).await;
    a_sidecar_without_nats_loses_its_sessions_to_others_and_ends_them_when_it_is_back(&cluster, &relay, &a, &b).await;
}
