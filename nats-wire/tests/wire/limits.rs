//! Sizes are checked before anything is buffered.

use bytes::BytesMut;
use nats_wire::{Decoder, FrameError, Limits, ServerOp, Skipped};

use crate::server::{decoded, sent};

const SMALL: Limits = Limits { control_line_max: 64, header_block_max: 32, message_max: 100 };

#[test]
fn what_is_too_large_is_left_out_without_being_held() {
    let (mut decoder, mut buffer) = (Decoder::new(SMALL), BytesMut::with_capacity(1_000));
    buffer.extend_from_slice(b"MSG a 5 1000000000\r\n");
    let mut held = 0;
    for _ in 0..1_000 {
        buffer.extend_from_slice(&[b'x'; 1_000]);
        assert_eq!(decoder.decode(&mut buffer), Ok(None));
        held = held.max(buffer.len());
    }
    assert_eq!(held, 0);
    assert!(buffer.capacity() < 10_000);
}

#[test]
fn a_message_is_left_out_beyond_each_limit_and_not_at_it() {
    let block = |size: usize| [&b"NATS/1.0\r\nA: "[..], &vec![b'x'; size - 17], b"\r\n\r\n"].concat();
    let cases = [
        (sent(b"a", 1, None, None, &[0; 100]), true),
        (sent(b"a", 1, None, None, &[0; 101]), false),
        (sent(b"a", 1, None, Some(&block(32)), &[0; 68]), true),
        (sent(b"a", 1, None, Some(&block(33)), &[0; 2]), false),
        (sent(b"a", 1, None, Some(&block(32)), &[0; 69]), false),
    ];
    for (bytes, fits) in cases {
        for size in [1, 50, 1_000] {
            let ops = decoded(&[&bytes[..], b"PING\r\n"].concat(), &[size], SMALL).unwrap();
            let [first, ServerOp::Ping] = ops.as_slice() else { panic!("{ops:?}") };
            let skipped = ServerOp::Skipped { sid: Some(1), why: Skipped::TooLarge };
            assert!(if fits { matches!(first, ServerOp::Message(_)) } else { *first == skipped }, "{first:?}");
        }
    }
}

#[test]
fn a_line_without_an_end_is_not_waited_for() {
    for line in [vec![b'x'; 65], [&b"INFO "[..], &[b'x'; 70], b"\r\n"].concat()] {
        for size in [1, 200] {
            assert_eq!(decoded(&line, &[size], SMALL), Err(FrameError::ControlLineTooLong { max: 64 }));
        }
    }
    assert_eq!(decoded(&[b'x'; 64], &[200], SMALL), Ok(vec![]));
}
