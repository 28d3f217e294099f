//! What servers send, one after the other.

use nats_wire::{Limits, ServerOp};

use crate::server::{decoded, headers, one, sent};

#[test]
fn everything_that_a_server_says_is_read() {
    let bytes = b"INFO {\"a\":1} \r\nPING\r\nPONG\r\n+OK\r\n-ERR 'Unknown Protocol Operation'\r\n-ERR plain\r\n\
        MSG a.b 1 0\r\n\r\nMSG a 2 r 3\r\nx\r\n\r\nHMSG a 3 12 14\r\nNATS/1.0\r\n\r\nok\r\n";
    let ops = decoded(bytes, &[bytes.len()], Limits::default()).unwrap();
    let shown: Vec<String> = ops
        .iter()
        .map(|op| match op {
            ServerOp::Message(m) => {
                let reply = m.reply().unwrap_or_default().escape_ascii();
                format!("{} {} {reply} {}", m.sid(), m.subject().escape_ascii(), m.payload().escape_ascii())
            }
            ServerOp::Info(text) | ServerOp::Error(text) => text.escape_ascii().to_string(),
            other => format!("{other:?}"),
        })
        .collect();
    let want = [
        r#"{\"a\":1}"#,
        "Ping",
        "Pong",
        "Ok",
        "Unknown Protocol Operation",
        "plain",
        "1 a.b  ",
        r"2 a r x\r\n",
        "3 a  ok",
    ];
    assert_eq!(shown, want);
}

#[test]
fn a_subject_is_any_bytes_but_spaces_tabs_and_line_ends() {
    let subjects: &[&[u8]] = &[
        "caf\u{e9}.te\u{a0}mp".as_bytes(),
        "\u{2028}".as_bytes(),
        "a\u{85}b\u{3000}".as_bytes(),
        "\u{1680}\u{2003}\u{205f}\u{feff}".as_bytes(),
        b"\xff\xfe.\xc3",
        b"a\x0cb\x0bc",
        b"\0",
        b"'\"{}",
    ];
    for subject in subjects {
        for block in [None, Some(&b"NATS/1.0\r\nA: 1\r\n\r\n"[..])] {
            for reply in [None, Some(*subject)] {
                let message = one(&sent(subject, 9, reply, block, b"p"));
                assert_eq!((message.subject(), message.reply(), message.payload()), (*subject, reply, &b"p"[..]));
                assert_eq!(message.subject_bytes(), *subject);
                assert_eq!(headers(&message).len(), usize::from(block.is_some()));
            }
        }
    }
}

#[test]
fn a_header_block_of_any_kind_is_a_message_all_the_same() {
    let blocks: &[(&[u8], usize)] = &[
        (b"NATS/1.0\r\nNats-Stream-Source: S 1 \x0c > \x0c\r\n\r\n", 1),
        (b"NATS/1.0\r\nA: \0\r\nB: caf\xe9\r\n\r\n", 2),
        (b"NATS/1.0\r\nno colon\r\n: no name\r\nC: 1\r\n\r\n", 1),
        (b"NATS/1.0\r\n\r\n", 0),
        (b"NATS/1.0", 0),
        (b"\r\n\r\n", 0),
        (b"garbage", 0),
        (b"NATS/1.0\r\nA: not ended", 1),
        (b"\0\xff", 0),
    ];
    for (block, count) in blocks {
        let message = one(&sent(b"a", 1, None, Some(block), b"payload"));
        assert_eq!(
            (message.payload(), headers(&message).len()),
            (&b"payload"[..], *count),
            "{:?}",
            block.escape_ascii()
        );
    }
    let large = [&b"NATS/1.0\r\nA: "[..], &vec![b'x'; 70_000], b"\r\n\r\n"].concat();
    let message = one(&sent(b"a", 1, None, Some(&large), b""));
    assert_eq!(headers(&message)[0].1.len(), 70_000);
}

#[test]
fn a_status_of_the_server_is_read() {
    let message = one(&sent(b"_INBOX.1", 1, None, Some(b"NATS/1.0 503\r\n\r\n"), b""));
    assert_eq!((message.status(), message.payload()), (Some(503), &b""[..]));
    assert_eq!(one(&sent(b"_INBOX.1", 1, None, None, b"NATS/1.0 503\r\n\r\n")).status(), None);
}

#[test]
fn parts_of_a_message_share_its_buffer() {
    let message = one(&sent(b"a", 1, Some(b"r"), Some(b"NATS/1.0\r\nA: value\r\n\r\n"), b"payload"));
    let value = message.headers().and_then(|headers| headers.first("a")).unwrap();
    assert_eq!(message.share(value).as_ptr(), value.as_ptr());
    assert_eq!(message.share(b""), b""[..]);
    assert_eq!(message.payload_bytes().as_ptr(), message.payload().as_ptr());
    assert_eq!(message.reply_bytes().unwrap(), b"r"[..]);
}
