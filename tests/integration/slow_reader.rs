//! A subscriber that does not read, or does not acknowledge, costs a bounded amount of memory and nobody else anything.

use mqtt_codec::{Ack, Packet, QoS, ReasonCode};

use crate::harness::{NatsServer, Options, Sidecar, World, eventually, heavy, msg, shown, unique};

const CHUNKS: usize = 50;
/// Messages of each QoS in a chunk.
const CHUNK: usize = 500;
const PAYLOAD: usize = 1024;
/// How much the process may grow while 50 MiB pass by.
const GROWTH_MAX_KIB: u64 = 100 * 1024;

/// A payload that begins with its number.
fn numbered(number: usize) -> Vec<u8> {
    let mut payload = format!("{number} ").into_bytes();
    payload.resize(PAYLOAD, b'.');
    payload
}

fn number_of(payload: &[u8]) -> usize {
    let text = std::str::from_utf8(payload).unwrap();
    text.split(' ').next().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_stops_costs_little_and_gets_its_qos_1_messages_when_it_reads_again() {
    let _turn = heavy().await;
    let nats = NatsServer::start();
    let sidecar = Sidecar::start(&nats, "sidecar").await;
    let mut slow = sidecar.connect(Options::v311("slow").receive_buffer(4096)).await;
    let mut fast = sidecar.v311("fast").await;
    for client in [&mut slow, &mut fast] {
        client.subscribe("s/0", 0).await;
        client.subscribe("s/1", 1).await;
    }
    let mut publisher = sidecar.v311("pub").await;
    let mut rss_before = 0;
    for chunk in 0..CHUNKS {
        let numbers = chunk * CHUNK..(chunk + 1) * CHUNK;
        let both = |number| [msg("s/0", numbered(number)), msg("s/1", numbered(number)).qos(1)];
        publisher.publish_all(numbers.clone().flat_map(both), 100, |_| {}).await;
        // It does read, and misses nothing.
        let mut next = [numbers.start; 2];
        for _ in 0..2 * CHUNK {
            let message = fast.receive().await;
            let expected = &mut next[message.qos() as usize];
            assert_eq!(number_of(&message.payload), *expected, "{:?}", message.qos());
            *expected += 1;
        }
        if chunk == 0 {
            rss_before = sidecar.rss_kib();
        }
    }
    let grown = sidecar.rss_kib().saturating_sub(rss_before);
    assert!(grown < GROWTH_MAX_KIB, "grown by {grown} KiB from {rss_before} KiB");
    eventually("one is behind, and two are not", async || {
        sidecar.metric("mqtt_sessions{state=\"catching_up\"}").await == 1.0
            && sidecar.metric("mqtt_sessions{state=\"live\"}").await == 2.0
    })
    .await;
    let dropped = sidecar.metric("mqtt_messages_dropped_total{reason=\"slow_reader\"}").await;
    assert!(dropped > 0.0);

    let (mut received0, mut received1, mut last0) = (0, 0, None);
    while received1 < CHUNKS * CHUNK {
        let message = slow.receive().await;
        assert!(!message.dup, "{} is a duplicate", number_of(&message.payload));
        let number = number_of(&message.payload);
        if message.qos() == QoS::AtMostOnce {
            assert!(last0 < Some(number), "QoS 0: {number} after {last0:?}");
            last0 = Some(number);
            received0 += 1;
        } else {
            assert_eq!(number, received1);
            received1 += 1;
        }
    }
    publisher.publish(msg("s/1", "end").qos(1)).await;
    assert!(slow.receive_until("end").await.is_empty());
    assert_eq!(received0 as f64 + dropped, (CHUNKS * CHUNK) as f64, "what is dropped is counted");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_never_acknowledges_gets_its_window_and_nothing_twice() {
    let world = World::shared().await;
    let t = unique("window");
    let topic = format!("{t}/x");
    let cases = [
        (Options::v5(&unique("silent")).receive_maximum(10), 10, 1),
        (Options::v5(&unique("silent")).receive_maximum(10), 10, 2),
        (Options::v311(&unique("silent")), 128, 1),
    ];
    for (options, window, qos) in cases {
        let mut silent = world.b.connect(options).await;
        silent.acknowledges = false;
        silent.subscribe(&topic, qos).await;
        let mut other = world.b.v311(&unique("other")).await;
        other.subscribe(&topic, qos).await;
        let mut publisher = world.a.v311(&unique("pub")).await;
        let count = 3 * window;
        publisher.publish_all((0..count).map(|n| msg(&topic, n.to_string()).qos(qos)), 50, |_| {}).await;
        for number in 0..count {
            assert_eq!(other.receive_shown().await, format!("{topic} {number} qos{qos}"));
        }
        let mut unacknowledged = Vec::new();
        for number in 0..window {
            let message = silent.receive().await;
            assert_eq!(shown(&message), format!("{topic} {number} qos{qos}"));
            unacknowledged.push(message.packet_id().unwrap());
        }
        silent.ping().await;
        // Acknowledged, the first three make room for three; whatever else is there would come before.
        for id in &unacknowledged[..3] {
            let ack = Ack::new(*id, ReasonCode::Success);
            silent.write(&if qos == 1 { Packet::PubAck(ack) } else { Packet::PubRec(ack) });
            if qos == 2 {
                silent.other(|packet| matches!(packet, Packet::PubRel(ack) if ack.packet_id == *id)).await;
                silent.write(&Packet::PubComp(Ack::new(*id, ReasonCode::Success)));
            }
        }
        for number in window..window + 3 {
            assert_eq!(silent.receive_shown().await, format!("{topic} {number} qos{qos}"));
        }
        silent.ping().await;
        assert!(silent.try_receive(std::time::Duration::ZERO).await.is_err(), "more than its window");
    }
}
