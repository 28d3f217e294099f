//! Bytes in, bytes out, and whether the connection goes on: what clients do that is odd, wrong, or old. What needs a
//! second client is in `protocol`.

use crate::harness::{SidecarBuilder, Socket, World, credentials, hex};

/// CONNECT with a clean session and the client id `w1`.
const C31: &str = "10 10 0006 'MQIsdp' 03 02 0000 0002 'w1'";
const C311: &str = "10 0E 0004 'MQTT' 04 02 0000 0002 'w1'";
const C5: &str = "10 0F 0004 'MQTT' 05 02 0000 00 0002 'w1'";

/// How an exchange goes on after the bytes that were compared.
#[derive(Clone, Copy, Debug)]
enum Then {
    /// The connection answers PINGREQ.
    Open,
    /// It is closed, without another byte.
    Closed,
    /// It is closed after these, in hexadecimal. Nothing follows a packet; of HTTP and TLS this is the beginning.
    Says(&'static str),
}
use Then::{Closed, Open, Says};

/// Name, what the client sends, what it gets, what then. `<c31>`, `<c311>` and `<c5>` stand for the CONNECTs above;
/// after `<c5>` the CONNACK, whose properties are not looked at, is left out of what it gets.
type Case = (&'static str, &'static str, &'static str, Then);

const OK: &str = "20 02 00 00";

const CONNECTS: &[Case] = &[
    ("3.1", "<c31>", OK, Open),
    ("3.1.1", "<c311>", OK, Open),
    (
        "3.1 with an id of 30 characters",
        "10 2C 0006 'MQIsdp' 03 02 0000 001E '123456789012345678901234567890'",
        OK,
        Open,
    ),
    ("3.1 with DUP, QoS and RETAIN in its first byte", "1F 10 0006 'MQIsdp' 03 02 0000 0002 'w1'", OK, Open),
    ("3.1.1 with DUP in its first byte", "18 0E 0004 'MQTT' 04 02 0000 0002 'w1'", "", Closed),
    ("a bridge of 3.1.1", "10 0E 0004 'MQTT' 84 02 0000 0002 'w1'", OK, Open),
    ("a bridge of 3.1", "10 10 0006 'MQIsdp' 83 02 0000 0002 'w1'", OK, Open),
    ("an empty id with clean session", "10 0C 0004 'MQTT' 04 02 0000 0000", OK, Open),
    ("an empty id without clean session", "10 0C 0004 'MQTT' 04 00 0000 0000", "20 02 00 02", Closed),
    ("an empty id without clean session in 3.1", "10 0E 0006 'MQIsdp' 03 00 0000 0000", "20 02 00 02", Closed),
    ("an id with spaces, dots and wildcards", "10 16 0004 'MQTT' 04 02 0000 000A 'a b.c*>+#/' ", OK, Open),
    ("empty user name and password", "10 12 0004 'MQTT' 04 C2 0000 0002 'w1' 0000 0000", OK, Open),
    ("a user name without password", "10 11 0004 'MQTT' 04 82 0000 0002 'w1' 0001 'u'", OK, Open),
    ("keep alive 65,535", "10 0E 0004 'MQTT' 04 02 FFFF 0002 'w1'", OK, Open),
    ("bytes after the end of CONNECT", "10 10 0004 'MQTT' 04 02 0000 0002 'w1' AABB", OK, Open),
    ("the reserved flag", "10 0E 0004 'MQTT' 04 03 0000 0002 'w1'", "", Closed),
    ("the reserved flag in MQTT 5", "10 0F 0004 'MQTT' 05 03 0000 00 0002 'w1'", "", Says("20 03 00 81 00")),
    ("another protocol name", "10 0E 0004 'MQTX' 04 02 0000 0002 'w1'", "", Closed),
    ("level 6", "10 0E 0004 'MQTT' 06 02 0000 0002 'w1'", "", Says("20 03 00 84 00")),
    ("level 3 of MQTT", "10 0E 0004 'MQTT' 03 02 0000 0002 'w1'", "", Says("20 02 00 01")),
    ("a will QoS of 3", "10 14 0004 'MQTT' 04 1E 0000 0002 'w1' 0001 'w' 0001 'w'", "", Closed),
    ("what follows a CONNECT that is refused", "10 0C 0004 'MQTT' 04 00 0000 0000 C0 00 E0 00", "20 02 00 02", Closed),
    ("an authentication method", "10 15 0004 'MQTT' 05 02 0000 06 15 0003 'abc' 0002 'w1'", "", Says("20 03 00 8C 00")),
    ("a property twice", "10 15 0004 'MQTT' 05 02 0000 06 21 0001 21 0001 0002 'w1'", "", Says("20 03 00 82 00")),
    (
        "CONNACK beyond the Maximum Packet Size",
        "10 14 0004 'MQTT' 05 02 0000 05 27 00000005 0002 'w1'",
        "20 03 00 95 00",
        Closed,
    ),
    ("no CONNACK fits", "10 14 0004 'MQTT' 05 02 0000 05 27 00000004 0002 'w1'", "", Closed),
    ("PINGREQ first", "C0 00", "", Closed),
    ("PUBLISH first", "30 03 0001 'w'", "", Closed),
    ("a second CONNECT", "<c311> <c311>", OK, Closed),
    ("a second CONNECT of MQTT 5", "<c5> <c5>", "", Says("E0 01 82")),
    ("TLS gets an alert", "16 03 01 00 05 01 00 00 01 00", "", Says("15 03")),
    ("HTTP", "'GET / HTTP/1.1' 0D0A 'Host: x' 0D0A 0D0A", "", Says("'HTTP/1.1 400 '")),
    ("a length of five bytes", "10 FF FF FF FF 01", "", Closed),
    ("DISCONNECT", "<c311> E0 00", OK, Closed),
    ("DISCONNECT with bytes in 3.1.1", "<c311> E0 02 00 00", OK, Closed),
];

const PUBLISHES: &[Case] = &[
    ("QoS 1 before CONNACK", "<c311> 32 06 0001 'w' 0001 'x'", "20 02 00 00  40 02 0001", Open),
    ("QoS 2 before CONNACK", "<c311> 34 06 0001 'w' 0001 'x'", "20 02 00 00  50 02 0001", Open),
    ("DUP with QoS 0", "<c311> 38 04 0001 'w' 'x'", OK, Open),
    ("DUP at first", "<c311> 3A 06 0001 'w' 0001 'x'", "20 02 00 00  40 02 0001", Open),
    ("an empty message", "<c311> 30 03 0001 'w'", OK, Open),
    ("QoS 3", "<c311> 36 06 0001 'w' 0001 'x'", OK, Closed),
    ("packet id 0", "<c311> 32 06 0001 'w' 0000 'x'", OK, Closed),
    ("a wildcard in a topic", "<c311> 30 03 0001 '+'", OK, Closed),
    ("a wildcard in a topic of MQTT 5", "<c5> 30 04 0001 '#' 00", "", Says("E0 01 90")),
    ("U+0000 in a topic", "<c311> 30 05 0003 'a' 00 'b'", OK, Closed),
    ("an empty topic", "<c311> 30 02 0000", OK, Closed),
    ("alias 0", "<c5> 30 07 0001 'w' 03 23 0000", "", Says("E0 01 94")),
    ("an alias above the maximum", "<c5> 30 07 0001 'w' 03 23 7FFF", "", Says("E0 01 94")),
    ("an alias that was not set", "<c5> 30 06 0000 03 23 0001", "", Says("E0 01 82")),
    (
        "an alias that was set",
        "<c5> 32 0A 0001 'w' 0001 03 23 0001 'x' 32 09 0000 0002 03 23 0001 'x'",
        "40 02 0001 40 02 0002",
        Open,
    ),
    ("more than the largest packet", "<c5> 30 FF FF FF 7F", "", Says("E0 01 95")),
    ("PUBREL of an unknown id", "<c311> 62 02 0009", "20 02 00 00  70 02 0009", Open),
    ("PUBREL of an unknown id in MQTT 5", "<c5> 62 02 0009", "70 03 0009 92", Open),
    ("PUBREL with wrong flags", "<c311> 60 02 0009", OK, Closed),
    ("PUBREL with wrong flags in MQTT 5", "<c5> 60 02 0009", "", Says("E0 01 81")),
    ("DISCONNECT with wrong flags", "<c311> E1 00", OK, Closed),
    ("DISCONNECT with wrong flags in MQTT 5", "<c5> E1 00", "", Says("E0 01 81")),
    ("AUTH with wrong flags", "<c5> F1 00", "", Says("E0 01 81")),
    ("AUTH without a method", "<c5> F0 05 18 03 15 0000", "", Says("E0 01 82")),
    ("PUBACK of an unknown id", "<c311> 40 02 0007", OK, Open),
    ("PUBACK of an unknown id in MQTT 5", "<c5> 40 02 0007", "", Open),
    ("PUBCOMP of an unknown id", "<c311> 70 02 0007", OK, Open),
    ("a PUBACK that is too short", "<c311> 40 01 00", OK, Closed),
];

const SUBSCRIBES: &[Case] = &[
    (
        "several at once",
        "<c311> 82 0E 0001 0001 'f' 00 0001 'g' 01 0001 'h' 02",
        "20 02 00 00  90 05 0001 000102",
        Open,
    ),
    ("an invalid filter", "<c311> 82 0D 0001 0003 'a#b' 00 0002 'ok' 01", "20 02 00 00  90 04 0001 8001", Open),
    ("an invalid filter in 3.1", "<c31> 82 08 0001 0003 'a#b' 00", "20 02 00 00  90 03 0001 80", Open),
    ("an invalid filter in MQTT 5", "<c5> 82 0E 0001 00 0003 'a#b' 00 0002 'ok' 01", "90 05 0001 00 8F01", Open),
    ("an invalid share", "<c5> 82 0E 0001 00 0008 '$share/g' 00", "", Says("90 04 0001 00 8F")),
    ("a shared subscription", "<c5> 82 10 0001 00 000A '$share/g/f' 01", "90 04 0001 00 01", Open),
    ("a shared subscription in 3.1.1", "<c311> 82 0F 0001 000A '$share/g/f' 01", "20 02 00 00  90 03 0001 01", Open),
    ("no filter", "<c311> 82 02 0001", OK, Closed),
    ("flags 0", "<c311> 80 06 0001 0001 'f' 00", OK, Closed),
    ("flags 0 in MQTT 5", "<c5> 80 07 0001 00 0001 'f' 00", "", Says("E0 01 81")),
    ("UNSUBSCRIBE with flags 0", "<c311> A0 05 0003 0001 'f'", OK, Closed),
    ("UNSUBSCRIBE with flags 0 in MQTT 5", "<c5> A0 06 0003 00 0001 'f'", "", Says("E0 01 81")),
    ("QoS 3 ", "<c311> 82 06 0001 0001 'f' 03", OK, Closed),
    ("UNSUBSCRIBE", "<c311> A2 05 0003 0001 'f'", "20 02 00 00  B0 02 0003", Open),
    (
        "UNSUBSCRIBE in MQTT 5",
        "<c5> 82 07 0001 00 0001 'f' 00  A2 09 0003 00 0001 'f' 0001 'g'",
        "90 04 0001 00 00  B0 05 0003 00 0011",
        Open,
    ),
    ("UNSUBSCRIBE without a filter", "<c311> A2 02 0003", OK, Closed),
];

/// CONNECT of a client id, in hexadecimal, with user name and password where the tests run with authentication.
fn introduced(connect: &str) -> String {
    let Some((user, password)) = credentials() else { return connect.to_owned() };
    let mut body = hex(connect).split_off(2);
    let flags = 2 + usize::from(body[1]) + 1;
    body[flags] |= 0xC0;
    for text in [user, password] {
        body.extend(u16::try_from(text.len()).unwrap().to_be_bytes());
        body.extend_from_slice(text.as_bytes());
    }
    let mut length = Vec::new();
    let mut rest = body.len();
    while rest > 127 {
        length.push((rest % 128) as u8 | 0x80);
        rest /= 128;
    }
    length.push(rest as u8);
    [&[0x10], &length[..], &body].concat().iter().map(|byte| format!("{byte:02X}")).collect()
}

fn bytes_of(text: &str) -> Vec<u8> {
    let connects = [("<c311>", C311), ("<c31>", C31), ("<c5>", C5)];
    hex(&connects.iter().fold(text.to_owned(), |text, (name, connect)| text.replace(name, &introduced(connect))))
}

/// Reads a CONNACK of MQTT 5 that accepts.
async fn skip_connack(socket: &mut Socket) -> Result<(), String> {
    let head = socket.read(2).await;
    let [0x20, length] = head[..] else { return Err(format!("no CONNACK: {head:02x?}")) };
    let rest = socket.read(usize::from(length)).await;
    if rest.get(1) == Some(&0) { Ok(()) } else { Err(format!("refused: {rest:02x?}")) }
}

/// Plays one case, with the bytes of the client in pieces of `piece`.
async fn play(port: u16, (_, send, expect, then): Case, piece: usize) -> Result<(), String> {
    let mut socket = Socket::open(port).await;
    for part in bytes_of(send).chunks(piece) {
        socket.send(part).await;
    }
    if send.starts_with("<c5>") {
        skip_connack(&mut socket).await?;
    }
    let expected = bytes_of(expect);
    let got = socket.read(expected.len()).await;
    if got != expected {
        return Err(format!("expected {expected:02x?}, got {got:02x?}"));
    }
    match then {
        Open => {
            socket.send(&[0xC0, 0]).await;
            let got = socket.read(2).await;
            (got == [0xD0, 0]).then_some(()).ok_or_else(|| format!("no PINGRESP but {got:02x?}"))
        }
        Closed => {
            let got = socket.read_to_end().await;
            got.is_empty().then_some(()).ok_or_else(|| format!("before the end {got:02x?}"))
        }
        Says(prefix) => {
            if prefix.starts_with("90") {
                let got = socket.read(bytes_of(prefix).len()).await;
                return (got == bytes_of(prefix)).then_some(()).ok_or_else(|| format!("said {got:02x?}"));
            }
            let got = socket.read_to_end().await;
            if prefix.starts_with("E0") && got.first() == Some(&0xE0) {
                // Behind the reason code there may be words, and behind the packet nothing.
                let is_last = got.get(1).is_some_and(|len| got.len() == 2 + usize::from(*len));
                let same = is_last && got.get(2) == bytes_of(prefix).last();
                return same.then_some(()).ok_or_else(|| format!("said {got:02x?}"));
            }
            if prefix.starts_with("20") {
                return (got == bytes_of(prefix)).then_some(()).ok_or_else(|| format!("said {got:02x?}"));
            }
            got.starts_with(&bytes_of(prefix)).then_some(()).ok_or_else(|| format!("said {got:02x?}"))
        }
    }
}

// The tables share client ids, so they are played one after the other.
/// CONNECT: [MQTT-3.1.0-1, -2], [MQTT-3.1.2-1, -2], [MQTT-3.1.2-2 of 3.1.1], [MQTT-3.1.3-8 of 3.1.1], [MQTT-3.1.4-1, -2],
/// [MQTT-3.1.4-5, -6], [MQTT-3.2.0-1, -2], [MQTT-3.2.2-6, -7], [MQTT-3.2.2-6 of 3.1.1], [MQTT-3.14.0-1].
/// Publishing: [MQTT-3.3.4-1], [MQTT-3.6.1-1]. Subscribing: [MQTT-3.8.1-1], [MQTT-3.8.4-1, -2], [MQTT-3.8.4-5, -6, -7],
/// [MQTT-3.9.3-1], [MQTT-3.10.1-1], [MQTT-3.10.4-4, -5, -6], [MQTT-3.11.3-1].
/// The end of it: [MQTT-3.14.1-1], [MQTT-3.14.4-1, -2], [MQTT-3.15.1-1], [MQTT-4.13.1-1], [MQTT-4.13.2-1]; and PINGREQ
/// [MQTT-3.12.4-1]. The bytes come over TCP [MQTT-4.2.0-1], [MQTT-7.1.1-1].
#[tokio::test(flavor = "multi_thread")]
async fn bytes_are_answered_as_the_tables_say_also_when_they_come_one_by_one() {
    let world = World::shared().await;
    // What clients say of who they are is odd in these, too.
    let open = SidecarBuilder::of(&world.nats, "open").open().start().await;
    let tables = [(CONNECTS, &open), (PUBLISHES, &world.a), (SUBSCRIBES, &world.a)];
    let mut failed = Vec::new();
    for piece in [usize::MAX, 1] {
        for (case, sidecar) in tables.iter().flat_map(|(cases, sidecar)| cases.iter().map(move |case| (case, sidecar)))
        {
            if let Err(why) = play(sidecar.mqtt_port, *case, piece).await {
                let pieces = if piece == 1 { "byte by byte" } else { "at once" };
                failed.push(format!("{}, {pieces}: {why}", case.0));
            }
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_no_answer_is_acknowledged_at_once_so_that_the_next_packet_leaves() {
    const ROUNDS: usize = 20;
    let world = World::shared().await;
    // A PUBACK of nothing, and a message at QoS 0: the server has nothing to say to either. PINGREQ is held back by the TCP
    // of the client until they are acknowledged.
    for (name, silent) in [("PUBACK", "40 02 0001"), ("PUBLISH", "30 03 0001 'n'")] {
        let mut socket = Socket::open_with_nagle(world.a.mqtt_port).await;
        // The tables have the other id.
        socket.send(&hex(&introduced(&C311.replace("w1", "w3")))).await;
        assert_eq!(socket.read(4).await, hex(OK));
        let mut times = Vec::new();
        for _ in 0..ROUNDS {
            socket.send(&hex(silent)).await;
            let sent = std::time::Instant::now();
            socket.send(&hex("C0 00")).await;
            assert_eq!(socket.read(2).await, hex("D0 00"));
            times.push(sent.elapsed());
        }
        // The kernel acknowledges the first packets of a connection at once in any case, and those later 40 ms late.
        let best = times[ROUNDS / 2..].iter().min().unwrap();
        assert!(best.as_millis() < 30, "{name}: {times:?}");
    }
}

/// [MQTT-3.1.2-29]
#[tokio::test(flavor = "multi_thread")]
async fn a_disconnect_says_why_in_words_unless_the_client_wants_none() {
    let world = World::shared().await;
    let asks = [
        ("10 0F 0004 'MQTT' 05 02 0000 00 0002 'w2'", true),
        ("10 11 0004 'MQTT' 05 02 0000 02 17 00 0002 'w2'", false),
    ];
    for (connect, wants) in asks {
        let mut socket = Socket::open(world.a.mqtt_port).await;
        socket.send(&[hex(&introduced(connect)), hex("30 04 0001 '#' 00")].concat()).await;
        skip_connack(&mut socket).await.unwrap();
        let said = socket.read_to_end().await;
        if wants {
            let text = String::from_utf8_lossy(&said).into_owned();
            assert_eq!((said[0], said[2], said[4]), (0xE0, 0x90, 0x1F), "{said:02x?}");
            assert!(text.contains("the topic is no topic name"), "{text}");
        } else {
            assert_eq!(said, hex("E0 01 90"));
        }
    }
}
