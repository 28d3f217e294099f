//! Prints how long decoding and writing take: `cargo run --release -p mqtt-codec --example throughput`. Numbers are for
//! comparing two states of the code on one quiet machine, and for nothing else.

#![allow(clippy::print_stdout, clippy::expect_used, reason = "a program to look at")]
#![allow(clippy::disallowed_methods, reason = "it is the one who measures")]

use std::{hint::black_box, num::NonZeroU32, time::Instant};

use bytes::{Bytes, BytesMut};
use mqtt_codec::{
    Ack, Decoder, DecoderOptions, Delivery, MessageProperties, Packet, PacketId, Publish, PublishFrame, PublishTopic,
    QoS, ReasonCode, TopicName, Version, encode,
};

/// Packets in one filled read buffer.
const BATCH: usize = 64;
const ROUNDS: usize = 30_000;

fn main() {
    let plain = publish(Delivery::AtMostOnce, None);
    let properties = MessageProperties {
        message_expiry_interval_s: Some(60),
        user_properties: vec![("trace".into(), "0af7651916cd43dd".into())],
        ..MessageProperties::default()
    };
    let id = PacketId::new(7).expect("not zero");
    decode("PUBLISH QoS 0, 3.1.1", Version::V311, &plain);
    decode("PUBLISH QoS 0, 5", Version::V5, &plain);
    decode("PUBLISH QoS 1, 5", Version::V5, &publish(Delivery::AtLeastOnce(id), None));
    decode("PUBLISH QoS 1, 5, properties", Version::V5, &publish(Delivery::AtLeastOnce(id), Some(properties.clone())));
    decode("PUBACK, 5", Version::V5, &Packet::PubAck(Ack::new(id, ReasonCode::Success)));
    write("encode, PUBLISH QoS 0, 5", |out| encode(&plain, Version::V5, out).expect("it can be written"));
    let puback = Packet::PubAck(Ack::new(id, ReasonCode::Success));
    write("encode, PUBACK, 5", |out| encode(&puback, Version::V5, out).expect("it can be written"));
    frames(&properties, id);
}

fn frames(properties: &MessageProperties, id: PacketId) {
    let topic = TopicName::new("site/7/line/3/temperature").expect("a topic");
    let payload = Bytes::from_static(&[b'x'; 128]);
    let frame = PublishFrame::new(Version::V311, false, &topic, None, &payload).expect("it can be written");
    write("frame, QoS 0, 3.1.1", |out| {
        frame.write(false, QoS::AtMostOnce, false, None, None, out).expect("the frame is for QoS 0");
    });
    let frame = PublishFrame::new(Version::V5, true, &topic, Some(properties), &payload).expect("it can be written");
    write("frame, QoS 1, 5, expiry", |out| {
        frame.write(false, QoS::AtLeastOnce, false, Some(id), Some(30), out).expect("the frame is for QoS 1");
    });
    let ids = [NonZeroU32::MIN];
    write("frame, QoS 1, 5, expiry, one identifier", |out| {
        frame
            .write_with_subscription_ids(false, QoS::AtLeastOnce, false, Some(id), Some(30), &ids, out)
            .expect("the frame is for QoS 1");
    });
}

fn publish(delivery: Delivery, properties: Option<MessageProperties>) -> Packet {
    Packet::Publish(Publish {
        dup: false,
        delivery,
        retain: false,
        topic: PublishTopic::Name(TopicName::new("site/7/line/3/temperature").expect("a topic")),
        subscription_ids: Vec::new(),
        properties: properties.map(Box::new),
        payload: Bytes::from_static(&[b'x'; 128]),
    })
}

fn decode(name: &str, version: Version, packet: &Packet) {
    let mut batch = BytesMut::new();
    for _ in 0..BATCH {
        encode(packet, version, &mut batch).expect("it can be written");
    }
    let mut decoder = Decoder::new(DecoderOptions { version: Some(version), ..DecoderOptions::default() });
    let mut buf = BytesMut::with_capacity(64 * 1024);
    report(name, || {
        buf.extend_from_slice(&batch);
        while let Some(packet) = decoder.decode(&mut buf).expect("it is right") {
            black_box(packet);
        }
    });
}

fn write(name: &str, mut write: impl FnMut(&mut BytesMut)) {
    let mut out = BytesMut::with_capacity(64 * 1024);
    report(name, || {
        out.clear();
        for _ in 0..BATCH {
            write(&mut out);
        }
        black_box(&out);
    });
}

/// The best of three, because everything that disturbs makes it slower.
fn report(name: &str, mut batch: impl FnMut()) {
    let mut best = f64::INFINITY;
    for _ in 0..3 {
        let start = Instant::now();
        for _ in 0..ROUNDS {
            batch();
        }
        let packets = u32::try_from(ROUNDS * BATCH).unwrap_or(u32::MAX);
        best = best.min(start.elapsed().as_secs_f64() * 1e9 / f64::from(packets));
    }
    println!("{name:<40} {best:>7.1} ns");
}
