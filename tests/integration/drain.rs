//! A sidecar that ends lets its clients go one after the other, tells them where to go, and takes in nobody any more.

use std::time::Duration;

use mqtt_codec::{Packet, ReasonCode, Version};
use tokio::time::Instant;

use crate::harness::sessions::record;
use crate::harness::{
    Client, Ended, NatsServer, Options, PATIENCE, Sidecar, SidecarBuilder, Socket, eventually, msg, unique,
};

const ELSEWHERE: &str = "other.example:8883";

/// A sidecar that takes so long to let its clients go, and sends them there.
async fn sidecar(nats: &NatsServer, duration: &str, moved: &str) -> Sidecar {
    let builder = SidecarBuilder::of(nats, "sidecar").set("DRAIN__DURATION", duration);
    builder.set("DRAIN__SERVER_REFERENCE", ELSEWHERE).set("DRAIN__MOVED", moved).start().await
}

/// How a connection ended: when, and with which reason and server.
async fn end_of(mut client: Client) -> (Instant, Option<(ReasonCode, Option<String>)>) {
    let mut told = None;
    loop {
        match client.packet(Instant::now() + PATIENCE).await {
            Ok(Packet::Disconnect(disconnect)) => {
                told = Some((disconnect.reason, disconnect.server_reference.map(|server| server.to_string())));
            }
            Ok(other) => panic!("{other:?}"),
            Err(Ended::Closed) => return (Instant::now(), told),
            Err(Ended::Silent) => panic!("{} is not let go", client.id()),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_are_let_go_in_even_steps_and_told_where_to_go() {
    const CLIENTS: usize = 20;
    let nats = NatsServer::start();
    let mut sidecar = sidecar(&nats, "2s", "false").await;
    let mut clients = Vec::new();
    for n in 0..CLIENTS {
        let version = if n % 4 == 0 { Version::V311 } else { Version::V5 };
        let client = sidecar.connect(Options::new(version, &unique("paced"))).await;
        clients.push((version, tokio::spawn(end_of(client))));
    }
    let began = Instant::now();
    sidecar.terminate();
    eventually("it is not ready", async || sidecar.answers("/readyz", 503).await).await;
    let mut ends = Vec::new();
    for (version, client) in clients {
        let (at, told) = client.await.unwrap();
        let expected = (version == Version::V5).then(|| (ReasonCode::UseAnotherServer, Some(ELSEWHERE.to_owned())));
        assert_eq!(told, expected, "{version:?}");
        ends.push(at.duration_since(began));
    }
    ends.sort_unstable();
    // One every 100 ms; a machine that is busy has some go together.
    assert!(ends[0] < Duration::from_millis(700), "the first one goes at once: {ends:?}");
    assert!((1_400..4_000).contains(&ends[CLIENTS - 1].as_millis()), "the last one near the end: {ends:?}");
    let half = ends.iter().filter(|end| end.as_millis() < 1_000).count();
    assert!((5..=15).contains(&half), "half of them in half of the time: {ends:?}");
    assert_eq!(sidecar.ended().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_under_way_when_the_drain_begins_is_sent_elsewhere_and_leaves_nothing() {
    let nats = NatsServer::start();
    let mut sidecar = sidecar(&nats, "3s", "true").await;
    let connecting = |version, id: &str| Packet::Connect(Box::new(Options::new(version, id).durable(3600).connect));
    let (mut early, mut old) = (Socket::open(sidecar.mqtt_port).await, Socket::open(sidecar.mqtt_port).await);
    let mut web = Socket::open_websocket(sidecar.ws_port).await;
    // Two, so that the drain takes its time.
    let staying = [sidecar.v5(&unique("stays")).await, sidecar.v5(&unique("stays")).await];
    sidecar.terminate();
    eventually("nothing is accepted", async || {
        tokio::net::TcpStream::connect(("127.0.0.1", sidecar.mqtt_port)).await.is_err()
    })
    .await;
    let ids = [unique("early"), unique("old"), unique("web")];
    early.send_packet(&connecting(Version::V5, &ids[0]), Version::V5).await;
    old.send_packet(&connecting(Version::V311, &ids[1]), Version::V311).await;
    web.send_packet(&connecting(Version::V5, &ids[2]), Version::V5).await;
    for socket in [&mut early, &mut web] {
        let connack = socket.packet(Version::V5).await;
        let Packet::ConnAck(connack) = connack else { panic!("{connack:?}") };
        let server = connack.properties.server_reference.as_deref();
        assert_eq!((connack.reason, server), (ReasonCode::ServerMoved, Some(ELSEWHERE)));
    }
    let connack = old.packet(Version::V311).await;
    assert!(matches!(&connack, Packet::ConnAck(it) if it.reason == ReasonCode::ServerUnavailable), "{connack:?}");
    let nats = nats.client().await;
    for id in &ids {
        assert_eq!(record(&nats, id).await, None, "{id}");
    }
    for client in staying {
        assert_eq!(end_of(client).await.1, Some((ReasonCode::ServerMoved, Some(ELSEWHERE.to_owned()))));
    }
    assert_eq!(sidecar.ended().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_a_drain_at_once() {
    let nats = NatsServer::start();
    let mut sidecar = sidecar(&nats, "1h", "false").await;
    let mut clients = [sidecar.v5(&unique("first")).await, sidecar.v5(&unique("second")).await];
    sidecar.terminate();
    eventually("it drains", async || sidecar.answers("/readyz", 503).await).await;
    let ended = async {
        // The same signal at once is the same one.
        loop {
            sidecar.terminate();
            if let Ok(status) = tokio::time::timeout(Duration::from_millis(300), sidecar.ended()).await {
                return status;
            }
        }
    };
    assert_eq!(ended.await.code(), Some(1));
    let reasons = [clients[0].closed().await, clients[1].closed().await];
    assert!(reasons.contains(&None), "the one whose turn was far away: {reasons:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn before_the_drain_balancers_have_time_to_notice() {
    let nats = NatsServer::start();
    let builder = SidecarBuilder::of(&nats, "sidecar").set("DRAIN__NOTICE", "1s");
    let mut sidecar = builder.start().await;
    let began = Instant::now();
    sidecar.terminate();
    eventually("it is not ready", async || sidecar.answers("/readyz", 503).await).await;
    let mut late = sidecar.v5(&unique("late")).await;
    late.ping().await;
    assert_eq!(late.closed().await, Some(ReasonCode::ServerShuttingDown));
    assert!(began.elapsed() >= Duration::from_secs(1));
    assert_eq!(sidecar.ended().await.code(), Some(0));
}

/// Whoever is let go takes memory until the end of that.
#[tokio::test(flavor = "multi_thread")]
async fn memory_is_looked_at_until_the_last_one_is_gone() {
    let nats = NatsServer::start();
    let sidecar = SidecarBuilder::of(&nats, "sidecar").set("DRAIN__NOTICE", "60s").start().await;
    let mut client = sidecar.v5("late").await;
    sidecar.terminate();
    eventually("it drains", async || sidecar.answers("/readyz", 503).await).await;
    let used = async || sidecar.metric("mqtt_memory_used_bytes").await;
    let before = used().await;
    for n in 0..100 {
        client.publish(msg(&format!("kept/{n}"), vec![b'.'; 100_000]).qos(1).retained()).await;
    }
    eventually("it is seen", async || used().await > before + 5e6).await;
}
