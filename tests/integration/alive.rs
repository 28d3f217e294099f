//! Well-behaved devices are never cut: bytes that come are signs of life, and what a device waits for because of us is not
//! held against it.

use std::time::Duration;

use mqtt_codec::{Packet, PacketId};
use tokio::time::{Instant, sleep_until};

use crate::harness::{Client, Ended, NatsServer, Options, Sidecar, SidecarBuilder, eventually, heavy, msg};

/// Asks every client and gets its answer, while nothing of JetStream can come.
async fn ping_all(clients: &mut [Client]) {
    for client in clients.iter_mut() {
        client.write(&Packet::PingReq);
        client.flush().await;
    }
    for client in clients {
        client.other(|packet| matches!(packet, Packet::PingResp)).await;
    }
}

async fn acknowledged(client: &mut Client, id: PacketId) {
    let is_it =
        |packet: &Packet| matches!(packet, Packet::PubAck(ack) if ack.packet_id == id && !ack.reason.is_error());
    client.other(is_it).await;
}

/// A sidecar in which few publishes may be under way, and a nats-server.
async fn narrow() -> (NatsServer, Sidecar) {
    let nats = NatsServer::start();
    let sidecar = SidecarBuilder::of(&nats, "sidecar").set("JETSTREAM__PUBLISH_INFLIGHT", "8").start().await;
    (nats, sidecar)
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_a_permit_while_jetstream_stalls_is_heard_and_answered() {
    const CLIENTS: usize = 40;
    const STALL: Duration = Duration::from_secs(6);
    let _turn = heavy().await;
    let (nats, sidecar) = narrow().await;
    let mut heir = sidecar.v5("heir").await;
    heir.subscribe("wills/#", 0).await;
    let mut listener = sidecar.connect(Options::v5("listener").keep_alive(1)).await;
    listener.subscribe("now/#", 0).await;
    let mut clients = Vec::new();
    for number in 0..CLIENTS {
        let id = format!("device-{number}");
        let will = msg(&format!("wills/{number}"), "gone").qos(1);
        clients.push(sidecar.connect(Options::v311(&id).keep_alive(1).will(will)).await);
    }
    nats.pause();
    let until = Instant::now() + STALL;
    let mut waiting = Vec::new();
    for (number, client) in clients.iter_mut().enumerate() {
        waiting.push(client.start_publish(&msg(&format!("later/{number}"), "stored").qos(1)).unwrap());
        client.flush().await;
    }
    let mut rounds = 0;
    while Instant::now() < until {
        let next = Instant::now() + Duration::from_millis(500);
        ping_all(&mut clients).await;
        // QoS 0 goes on as well, behind what waits on another topic.
        let publisher = &mut clients[rounds % CLIENTS];
        publisher.start_publish(&msg("now/x", rounds.to_string()));
        publisher.flush().await;
        assert_eq!(listener.receive_shown().await, format!("now/x {rounds} qos0"));
        listener.ping().await;
        rounds += 1;
        sleep_until(next).await;
    }
    nats.go_on();
    for (client, id) in clients.iter_mut().zip(waiting) {
        acknowledged(client, id).await;
    }
    ping_all(&mut clients).await;
    assert_eq!(heir.try_receive(Duration::ZERO).await.unwrap_err(), Ended::Silent, "a will went out");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_more_under_way_than_may_be_is_heard_and_answered() {
    /// More than the receive maximum, which binds no client of MQTT 3.
    const COUNT: usize = 200;
    let _turn = heavy().await;
    let nats = NatsServer::start();
    let sidecar = Sidecar::start(&nats, "sidecar").await;
    let mut reader = sidecar.connect(Options::v311("reader").keep_alive(1)).await;
    reader.acknowledges = false;
    reader.subscribe("in/#", 1).await;
    let mut other = sidecar.v5("other").await;
    for number in 0..3 {
        other.publish(msg("in/x", number.to_string()).qos(1)).await;
    }
    let mut delivered = Vec::new();
    for _ in 0..3 {
        delivered.push(reader.receive().await.packet_id().unwrap());
    }
    nats.pause();
    let until = Instant::now() + Duration::from_secs(5);
    let ids: Vec<PacketId> =
        (0..COUNT).map(|n| reader.start_publish(&msg("out/x", n.to_string()).qos(1)).unwrap()).collect();
    reader.flush().await;
    while Instant::now() < until {
        let next = Instant::now() + Duration::from_millis(500);
        if let Some(id) = delivered.pop() {
            reader.write(&Packet::PubAck(mqtt_codec::Ack::new(id, mqtt_codec::ReasonCode::Success)));
        }
        reader.ping().await;
        sleep_until(next).await;
    }
    nats.go_on();
    for id in ids {
        // In the order in which they came [MQTT-4.6.0-2].
        let next = reader.other(|packet| matches!(packet, Packet::PubAck(_))).await;
        assert!(matches!(&next, Packet::PubAck(ack) if ack.packet_id == id), "{next:?} before {id:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_reads_slowly_is_heard_while_much_waits_for_it() {
    const SIZE: usize = 900_000;
    /// More than kernels keep for a socket.
    const MESSAGES: usize = 12;
    const EVERY: Duration = Duration::from_millis(100);
    let _turn = heavy().await;
    let nats = NatsServer::start();
    let sidecar = Sidecar::start(&nats, "sidecar").await;
    let mut reader = sidecar.connect(Options::v311("reader").keep_alive(1).receive_buffer(4096)).await;
    reader.subscribe("large", 1).await;
    let mut publisher = sidecar.v5("publisher").await;
    for _ in 0..MESSAGES {
        publisher.publish(msg("large", vec![b'x'; SIZE]).qos(1)).await;
    }
    // Some 50 KB a second, as a link does that has no more.
    let mut pings = 0;
    let since = Instant::now();
    for tick in 0..60 {
        sleep_until(since + tick * EVERY).await;
        if tick % 5 == 0 {
            reader.write(&Packet::PingReq);
            reader.flush().await;
            pings += 1;
        }
        assert!(reader.trickle(5_000), "cut after {:?}", since.elapsed());
    }
    for _ in 0..MESSAGES {
        assert_eq!(reader.receive().await.payload.len(), SIZE);
    }
    for _ in 0..pings {
        reader.other(|packet| matches!(packet, Packet::PingResp)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_sends_a_packet_for_longer_than_the_keep_alive_is_heard() {
    const SIZE: usize = 500_000;
    let nats = NatsServer::start();
    let sidecar = Sidecar::start(&nats, "sidecar").await;
    let mut subscriber = sidecar.v5("subscriber").await;
    subscriber.subscribe("upload", 1).await;
    let mut publisher = sidecar.connect(Options::v311("publisher").keep_alive(1)).await;
    let id = publisher.packet_id();
    let mut packet = bytes::BytesMut::new();
    let publish = Packet::Publish(msg("upload", vec![b'x'; SIZE]).qos(1).packet(Some(id)));
    mqtt_codec::encode(&publish, mqtt_codec::Version::V311, &mut packet).unwrap();
    let since = Instant::now();
    for (tick, piece) in (0..).zip(packet.chunks(SIZE / 20)) {
        sleep_until(since + tick * Duration::from_millis(250)).await;
        publisher.write_raw(piece);
        publisher.flush().await;
    }
    acknowledged(&mut publisher, id).await;
    assert_eq!(subscriber.receive().await.payload.len(), SIZE);
}

#[tokio::test(flavor = "multi_thread")]
async fn mqtt_3_1_2_22_who_is_silent_is_cut_also_when_it_has_publishes_under_way_and_takes_nothing() {
    let _turn = heavy().await;
    let nats = NatsServer::start();
    let sidecar = Sidecar::start(&nats, "sidecar").await;
    // One waits for us, the other has much to read and does not.
    let mut waiting = sidecar.connect(Options::v5("waiting").keep_alive(1)).await;
    let mut full = sidecar.connect(Options::v5("full").keep_alive(1).receive_buffer(4096)).await;
    full.subscribe("large", 1).await;
    let mut publisher = sidecar.v5("publisher").await;
    for _ in 0..8 {
        publisher.publish(msg("large", vec![b'x'; 900_000]).qos(1)).await;
    }
    nats.pause();
    let since = Instant::now();
    waiting.start_publish(&msg("x", "x").qos(1));
    waiting.flush().await;
    assert_eq!(waiting.closed().await, Some(mqtt_codec::ReasonCode::KeepAliveTimeout));
    assert!((Duration::from_secs(1)..Duration::from_secs(4)).contains(&since.elapsed()), "{:?}", since.elapsed());
    let timeouts = "mqtt_disconnect_total{reason=\"keep_alive_timeout\"}";
    eventually("who takes nothing is cut", async || sidecar.metric(timeouts).await > 1.5).await;
    nats.go_on();
}
