//! Prints how long the mapping takes: `cargo run --release -p proto-map --example mapping_time`.
#![allow(clippy::print_stdout)] // Printing is what it is for.
#![allow(clippy::disallowed_methods, reason = "it is the one who measures")]

use std::hint::black_box;
use std::time::Instant;

use mqtt_codec::{MessageProperties, QoS, TopicName};
use proto_map::{
    Carrier, ClosedTrees, Envelope, Names, ReadOptions, from_headers, is_log_copy, log_marker, subject_of, to_headers,
    topic_of,
};

const ROUNDS: u32 = 1_000_000;

fn time(what: &str, mut call: impl FnMut()) {
    let start = Instant::now();
    for _ in 0..ROUNDS {
        call();
    }
    println!("{:8.1} ns  {what}", start.elapsed().as_secs_f64() * 1e9 / f64::from(ROUNDS));
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    for text in ["plant/line1/temp", "/spBv1.0/group/", "zigbee2mqtt/Living Room/state"] {
        let topic = TopicName::new(text)?;
        let subject = subject_of(&topic)?;
        time(&format!("subject_of {text}"), || drop(black_box(subject_of(black_box(&topic)))));
        time(&format!("topic_of {subject}"), || drop(black_box(topic_of(black_box(subject.as_str())))));
    }
    let subject = subject_of(&TopicName::new("plant/line1/temp")?)?;
    let (names, trees) = (Names::default(), ClosedTrees::default());
    let marker = log_marker(1_234_567, subject.as_str());
    time("log_subject", || drop(black_box(names.log_subject(black_box(&subject)))));
    time("retained_subject", || drop(black_box(names.retained_subject(black_box(&subject)))));
    time("is_closed_subject", || {
        black_box(trees.is_closed_subject(black_box(subject.as_str())));
    });
    time("log_marker", || drop(black_box(log_marker(black_box(1_234_567), subject.as_str()))));
    time("is_log_copy", || {
        black_box(is_log_copy(black_box(&marker), subject.as_str()));
    });

    let options = ReadOptions { carrier: Carrier::StreamWithTtl, nats_headers: false, is_genuine: true };
    let plain = Envelope { qos: QoS::AtLeastOnce, ..Envelope::default() };
    time("to_headers, no properties", || drop(black_box(to_headers(black_box(&plain), options.carrier))));
    time("from_headers, no headers", || {
        drop(black_box(from_headers(std::iter::empty(), black_box(options))));
    });
    let user_properties = vec![("site".into(), "Basel".into()), ("line".into(), "1".into())];
    let properties = MessageProperties { user_properties, ..MessageProperties::default() };
    let envelope = Envelope { properties: Some(Box::new(properties)), ..plain };
    let headers = to_headers(&envelope, options.carrier)?;
    time("to_headers, two user properties", || drop(black_box(to_headers(black_box(&envelope), options.carrier))));
    time("from_headers, two user properties", || {
        let pairs = headers.iter().map(|(name, value)| (&**name, &**value));
        drop(black_box(from_headers(pairs, black_box(options))));
    });
    Ok(())
}
