//! What no server should send. One message that is wrong is one message; a length that is wrong is the end.

use nats_wire::{FrameError, Limits, ServerOp, Skipped};

use crate::server::{decoded, sent};

fn after(bytes: &[u8]) -> Result<Vec<ServerOp>, FrameError> {
    let marker = sent(b"marker", 1, None, None, b"");
    decoded(&[bytes, &marker].concat(), &[3, 1, 7], Limits::default())
}

#[test]
fn a_message_that_cannot_be_understood_is_left_out_and_the_next_one_comes() {
    let wrong: &[(&[u8], Option<u64>)] = &[
        (b"MSG 3\r\nabc\r\n", None),
        (b"MSG a 3\r\nabc\r\n", None),
        (b"MSG a x 3\r\nabc\r\n", None),
        (b"MSG a -1 3\r\nabc\r\n", None),
        (b"MSG a 99999999999999999999 3\r\nabc\r\n", None),
        (b"MSG a 1 r s 3\r\nabc\r\n", None),
        (b"MSG a 1 r s t u v 3\r\nabc\r\n", None),
        (b"HMSG a 1 3\r\nabc\r\n", None),
        (b"HMSG a 1 9 3\r\nabc\r\n", Some(1)),
        (b"HMSG a 1 x 3\r\nabc\r\n", Some(1)),
        (b"HMSG a 1 99999999999999999999 3\r\nabc\r\n", Some(1)),
        (b"HMSG a 1 r s 1 3\r\nabc\r\n", None),
    ];
    for (bytes, sid) in wrong {
        let ops = after(bytes).unwrap();
        assert_eq!(ops[0], ServerOp::Skipped { sid: *sid, why: Skipped::Arguments }, "{:?}", bytes.escape_ascii());
        assert!(matches!(&ops[1..], [ServerOp::Message(m)] if m.subject() == b"marker"), "{:?}", bytes.escape_ascii());
    }
}

#[test]
fn a_length_that_cannot_be_believed_ends_the_stream() {
    let wrong: &[(&[u8], FrameError)] = &[
        (b"MSG a 1 x\r\n", FrameError::NoLength),
        (b"MSG\r\n", FrameError::NoLength),
        (b"MSG a 1 -5\r\n", FrameError::NoLength),
        (b"MSG a 1 18446744073709551615\r\n", FrameError::NoLength),
        (b"HMSG a 1 18446744073709551615 18446744073709551616\r\n", FrameError::NoLength),
        (b"MSG a 1 2\r\nabc\r\n", FrameError::NoEnd),
        (b"MSG a x 2\r\nabc\r\n", FrameError::NoEnd),
        (b"MSG a 1 4\r\nabc\r\n", FrameError::NoEnd),
        (b"PUB a 0\r\n", FrameError::UnknownOperation),
        (b"\r\n", FrameError::UnknownOperation),
        (b"\xff\n", FrameError::UnknownOperation),
        (b"MESSAGE a 1 0\r\n", FrameError::UnknownOperation),
    ];
    for (bytes, error) in wrong {
        assert_eq!(after(bytes), Err(*error), "{:?}", bytes.escape_ascii());
    }
}
