//! Streams that nobody would think of. proptest prints what fails, and how to see it again.

use bytes::BytesMut;
use nats_wire::{Decoder, Limits, Publish, ServerOp};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::server::{decoded, headers, published, sent};

/// Any bytes that a subject can have.
fn subject() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>().prop_filter("ends an argument", |byte| !b" \t\r\n".contains(byte)), 1..40)
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>().prop_filter("ends a name", |byte| !b":\r\n".contains(byte)), 1..12)
}

fn value() -> impl Strategy<Value = Vec<u8>> {
    let bytes = vec(any::<u8>().prop_filter("ends a line", |byte| !b"\r\n".contains(byte)), 0..30);
    bytes.prop_filter("begins with a space", |value| !value.first().is_some_and(|byte| b" \t".contains(byte)))
}

fn one_sent() -> impl Strategy<Value = Vec<u8>> {
    let block = prop::option::of(vec(any::<u8>(), 0..60));
    prop_oneof![
        (subject(), any::<u64>(), prop::option::of(subject()), block, vec(any::<u8>(), 0..200))
            .prop_map(|(s, sid, r, block, p)| sent(&s, sid, r.as_deref(), block.as_deref(), &p)),
        prop_oneof![Just("PING\r\n"), Just("PONG\r\n"), Just("+OK\r\n"), Just("INFO {}\r\n"), Just("-ERR 'x'\r\n")]
            .prop_map(|text| text.as_bytes().to_vec()),
        // Left out.
        Just(b"MSG a b 3\r\nxyz\r\n".to_vec()),
        Just([&b"MSG a 1 300\r\n"[..], &[b'x'; 300], b"\r\n"].concat()),
    ]
}

const LIMITS: Limits = Limits { control_line_max: 300, header_block_max: 50, message_max: 250 };

proptest! {
    #[test]
    fn however_a_stream_is_split_the_same_is_read(
        parts in vec(one_sent(), 0..20),
        sizes in vec(1_usize..90, 1..200),
    ) {
        let bytes = parts.concat();
        let whole = decoded(&bytes, &[bytes.len().max(1)], LIMITS).unwrap();
        prop_assert_eq!(whole.len(), parts.len());
        prop_assert_eq!(&whole, &decoded(&bytes, &sizes, LIMITS).unwrap());
        prop_assert_eq!(&whole, &decoded(&bytes, &[1], LIMITS).unwrap());
    }

    #[test]
    fn any_message_that_a_server_sends_is_read_as_it_was(
        subject in subject(), sid in any::<u64>(), reply in prop::option::of(subject()),
        lines in vec((name(), value()), 0..8), payload in vec(any::<u8>(), 0..300),
    ) {
        let mut block = b"NATS/1.0\r\n".to_vec();
        for (name, value) in &lines {
            block.extend([name, &b": "[..], value, b"\r\n"].concat());
        }
        block.extend(b"\r\n");
        let bytes = sent(&subject, sid, reply.as_deref(), Some(&block), &payload);
        let ops = decoded(&bytes, &[bytes.len()], Limits::default()).unwrap();
        let [ServerOp::Message(message)] = ops.as_slice() else { panic!("{ops:?}") };
        prop_assert_eq!((message.sid(), message.subject(), message.reply()), (sid, &subject[..], reply.as_deref()));
        prop_assert_eq!(message.payload(), &payload[..]);
        prop_assert_eq!(headers(message), lines);
    }

    #[test]
    fn what_is_sent_is_read_by_a_server_as_it_was_meant(
        subject in subject(), reply in prop::option::of(subject()),
        lines in vec((name(), value()), 0..8), payload in vec(any::<u8>(), 0..300),
    ) {
        let mut out = BytesMut::new();
        let publish =
            Publish { subject: &subject, reply: reply.as_deref(), first: &[], headers: &lines, payload: payload.len() };
        publish.head(&mut out).unwrap();
        out.extend_from_slice(&payload);
        out.extend_from_slice(b"\r\n");
        let read = published(&out);
        prop_assert_eq!(&read.arguments[0], &subject);
        prop_assert_eq!(read.arguments.get(1).filter(|_| reply.is_some()), reply.as_ref());
        prop_assert_eq!(&read.payload, &payload);
        prop_assert_eq!(publish.size(), read.block.len() + payload.len());
        // And the header block is what comes back from a server that passes it on.
        let back = decoded(&sent(b"a", 1, None, Some(&read.block), b""), &[7], Limits::default()).unwrap();
        let [ServerOp::Message(message)] = back.as_slice() else { panic!("{back:?}") };
        prop_assert_eq!(headers(message), lines);
    }

    #[test]
    fn any_subject_and_header_is_sent_whole_or_not_at_all(
        subject in vec(any::<u8>(), 0..12), name in vec(any::<u8>(), 0..6), value in vec(any::<u8>(), 0..12),
    ) {
        let mut out = BytesMut::new();
        let lines = [(&name, &value)];
        let publish = Publish { subject: &subject, reply: None, first: &[], headers: &lines, payload: 0 };
        if publish.head(&mut out).is_err() {
            prop_assert!(out.is_empty());
        } else {
            out.extend_from_slice(b"\r\n");
            let read = published(&out);
            prop_assert_eq!(read.arguments.len(), 3);
            prop_assert_eq!(&read.arguments[0], &subject);
            prop_assert_eq!(read.block.windows(2).filter(|pair| pair == b"\r\n").count(), 3);
        }
    }

    #[test]
    fn no_bytes_make_it_panic_or_hold_more_than_its_limits(bytes in vec(any::<u8>(), 0..600), sizes in vec(1_usize..50, 1..30)) {
        let _ = decoded(&bytes, &sizes, LIMITS);
        let (mut decoder, mut buffer) = (Decoder::new(LIMITS), BytesMut::new());
        for line in [&b"MSG a 1 "[..], b"HMSG a 1 2 ", b"-ERR ", b"INFO "] {
            buffer.extend_from_slice(line);
            buffer.extend_from_slice(&bytes);
            while let Ok(Some(_)) = decoder.decode(&mut buffer) {}
        }
    }
}
