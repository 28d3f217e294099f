//! Sessions that are opened and left at a time, while JetStream takes long: they have a limit, and a crowd behind one address
//! delays nobody else.

use std::time::Duration;

use mqtt_codec::{ReasonCode, Version};
use tokio::task::JoinSet;

use crate::harness::{Client, NatsServer, Options, SidecarBuilder, eventually, msg, stored};

/// What sessions may take, bytes: that of two with a will of [`WILL`], while six others wait with theirs.
const SIZE: usize = 256 * 1024;

const WILL: usize = 20_000;

/// Clients in a crowd.
const CROWD: usize = 200;

/// Sessions whose wills come due together.
const DELAYED: usize = 12;

/// The last part of the address that the crowd comes from.
const ELSEWHERE: u8 = 77;

fn with_will(version: Version, n: usize) -> Options {
    let will = msg(&format!("gone/{n}"), vec![b'w'; WILL]).qos(1);
    Options::new(version, &format!("crowd-{n}")).will(will).from(ELSEWHERE)
}

/// Comes, and is gone without a goodbye as soon as it has its answer.
async fn come_and_go(port: u16, n: usize) -> ReasonCode {
    let version = if n.is_multiple_of(2) { Version::V5 } else { Version::V311 };
    let client = Client::open(port, with_will(version, n)).await;
    let reason = client.connack.reason;
    client.reset();
    reason
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_with_large_wills_has_a_limit_and_delays_nobody_else() {
    let server = NatsServer::start();
    let sidecar = SidecarBuilder::of(&server, "sidecar").set("MQTT__MAX_OPENING_SIZE", &SIZE.to_string()).start().await;
    let port = sidecar.mqtt_port;
    // Mode `nats` lets in only whom it knows, when it cannot ask.
    sidecar.v5("known").await.goodbye().await;
    // Nothing is written until everybody is there.
    server.pause();
    let mut crowd = JoinSet::new();
    for n in 0..CROWD {
        crowd.spawn(come_and_go(port, n));
    }
    let (mut accepted, mut refused) = (0, 0);
    // All but those whose turn it is, and those that may wait for it.
    while refused < CROWD - 8 {
        let reason = crowd.join_next().await.expect("somebody").expect("an answer");
        assert!(matches!(reason, ReasonCode::ServerBusy | ReasonCode::ServerUnavailable), "{reason:?}");
        refused += 1;
    }
    let other = tokio::spawn(async move { Client::open(port, Options::v5("other").durable(60)).await });
    eventually("the other one waits as well", async || {
        sidecar.metric("mqtt_opening_bytes{what=\"waiting\"}").await > 6.0 * WILL as f64 + 6.5 * 8_192.0
    })
    .await;
    server.go_on();
    let other = other.await.expect("an answer");
    assert_eq!(other.connack.reason, ReasonCode::Success);
    while let Some(reason) = crowd.join_next().await {
        match reason.expect("an answer") {
            ReasonCode::Success => accepted += 1,
            _ => refused += 1,
        }
    }
    assert_eq!((accepted, refused), (8, CROWD - 8));
    let nats = server.client().await;
    eventually("the wills of those who were accepted are there", async || {
        stored(&nats, "MQTT_log", "$NMQ.log.gone.>").await == accepted
    })
    .await;
    for (what, limit) in [("turn", SIZE), ("waiting", 6 * WILL + 7 * 8_192)] {
        let most = sidecar.metric(&format!("mqtt_opening_bytes_max{{what=\"{what}\"}}")).await;
        assert!(most > 0.0 && most <= limit as f64, "{what}: {most} bytes");
    }
    assert!(sidecar.metric("mqtt_over_limit_total{limit=\"opening_size\"}").await > (CROWD - 8) as f64 - 0.5);
    eventually("nobody is opened or left any more", async || {
        sidecar.metric("mqtt_opening_bytes{what=\"turn\"}").await < 0.5
    })
    .await;
    assert_eq!(stored(&nats, "MQTT_log", "$NMQ.log.gone.>").await, accepted, "no will of those who were refused");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_and_goes_keeps_its_place_until_its_session_is_in_order() {
    let server = NatsServer::start();
    // One at a time.
    let sidecar = SidecarBuilder::of(&server, "sidecar").set("MQTT__MAX_OPENING_SIZE", "16KiB").start().await;
    let port = sidecar.mqtt_port;
    let first = Client::connect(port, with_will(Version::V5, 0)).await;
    server.pause();
    first.reset();
    // Its will is read from JetStream again, and counts as it did when it came.
    eventually("it is being left", async || {
        sidecar.metric("mqtt_opening_bytes{what=\"turn\"}").await > 4.0 * WILL as f64
    })
    .await;
    // Its turn does not come. In 3.x the code is that of Server unavailable.
    let (v5, v311) = tokio::join!(come_and_go(port, 2), come_and_go(port, 3));
    let told = [v5, v311];
    server.go_on();
    assert_eq!(told, [ReasonCode::ServerBusy, ReasonCode::ServerUnavailable]);
    let last = tokio::time::timeout(Duration::from_secs(30), Client::connect(port, with_will(Version::V5, 4))).await;
    drop(last.expect("its turn comes"));
    let nats = server.client().await;
    eventually("both wills are there", async || stored(&nats, "MQTT_log", "$NMQ.log.gone.>").await == 2).await;
}

/// Whoever takes a session over publishes the will of the connection before, and may have none itself.
#[tokio::test(flavor = "multi_thread")]
async fn wills_of_others_that_come_due_together_have_a_limit() {
    let server = NatsServer::start();
    let sidecar = SidecarBuilder::of(&server, "sidecar").set("MQTT__MAX_OPENING_SIZE", &SIZE.to_string()).start().await;
    let (port, nats) = (sidecar.mqtt_port, server.client().await);
    let id = |n: usize| format!("delayed-{n}");
    for n in 0..DELAYED {
        let will = msg(&format!("gone/{n}"), vec![b'w'; WILL]).qos(1);
        Client::connect(port, Options::v5(&id(n)).durable(600).delayed_will(will, 300)).await.reset();
    }
    eventually("all of them have left", async || {
        sidecar.metric("mqtt_sessions_offline").await as usize == DELAYED
            && sidecar.metric("mqtt_opening_bytes{what=\"turn\"}").await < 0.5
    })
    .await;
    assert_eq!(stored(&nats, "MQTT_log", "$NMQ.log.gone.>").await, 0);
    // Their sessions end.
    let mut crowd = JoinSet::new();
    for n in 0..DELAYED {
        crowd.spawn(async move { Client::connect(port, Options::v5(&id(n))).await });
    }
    let _clients = crowd.join_all().await;
    eventually("their wills are there", async || stored(&nats, "MQTT_log", "$NMQ.log.gone.>").await == DELAYED as u64)
        .await;
    let most = sidecar.metric("mqtt_opening_bytes_max{what=\"wills\"}").await;
    assert!(most > 4.0 * WILL as f64 && most <= SIZE as f64, "{most} bytes");
    eventually("nothing is taken any more", async || sidecar.metric("mqtt_opening_bytes{what=\"wills\"}").await < 0.5)
        .await;
}
