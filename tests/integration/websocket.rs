//! MQTT over WebSocket, with a client that others have written.

use std::time::Duration;

use bytes::BytesMut;
use mqtt_codec::{Packet, PacketId, Version};

use crate::harness::{NatsServer, Options, SidecarBuilder, Socket, World, msg, python, unique};

#[tokio::test(flavor = "multi_thread")]
async fn paho_speaks_mqtt_over_websocket_on_both_paths() {
    let world = World::shared().await;
    for (path, version, qos, size) in
        [("/mqtt", "5", 1, 10), ("/", "3.1.1", 2, 10), ("/mqtt", "3.1.1", 0, 300_000), ("/", "5", 1, 300_000)]
    {
        let topic = format!("{}/x", unique("ws"));
        let port = world.a.ws_port.to_string();
        let got = python("websocket.py", &[&port, path, version, &qos.to_string(), &topic, &size.to_string()]).await;
        assert_eq!(got.trim(), format!("{topic} qos{qos} same {size}"), "{path} {version}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_path_is_not_found() {
    let world = World::shared().await;
    let mut socket = Socket::open(world.a.ws_port).await;
    let request = "GET /elsewhere HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n";
    socket.send(request.as_bytes()).await;
    let answer = socket.read(12).await;
    assert_eq!(String::from_utf8_lossy(&answer), "HTTP/1.1 404");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_may_hold_many_packets_that_are_larger_together_than_any_may_be() {
    const COUNT: u16 = 50;
    let world = World::shared().await;
    let topic = unique("ws");
    let mut watcher = world.a.v5(&unique("watcher")).await;
    watcher.subscribe(&topic, 1).await;
    let mut socket = Socket::open_websocket(world.a.ws_port).await;
    let connect = Packet::Connect(Box::new(Options::v311(&unique("queue")).connect));
    let mut bytes = BytesMut::new();
    mqtt_codec::encode(&connect, Version::V311, &mut bytes).unwrap();
    // As a library does that has queued while it was offline: 3 MB.
    for number in 1..=COUNT {
        let message = msg(&topic, format!("{number:>60000}")).qos(1);
        let publish = Packet::Publish(message.packet(PacketId::new(number)));
        mqtt_codec::encode(&publish, Version::V311, &mut bytes).unwrap();
    }
    socket.send(&bytes).await;
    for number in 1..=COUNT {
        assert_eq!(String::from_utf8_lossy(&watcher.receive().await.payload).trim(), number.to_string());
    }
}

/// A frame of a client, masked with zeros, with its first byte.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let len = u8::try_from(payload.len()).unwrap();
    assert!(len < 126);
    [&[first, 0x80 | len, 0, 0, 0, 0][..], payload].concat()
}

/// A socket that has become a WebSocket, of which bytes are read and written as they are.
async fn upgraded(port: u16, headers: &str) -> (Socket, String) {
    let mut socket = Socket::open(port).await;
    let request = format!(
        "GET /mqtt HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqtt\r\n{headers}\r\n"
    );
    socket.send(request.as_bytes()).await;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        let byte = socket.read(1).await;
        assert!(!byte.is_empty(), "{}", String::from_utf8_lossy(&answer));
        answer.extend(byte);
    }
    (socket, String::from_utf8(answer).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_is_read_as_its_fragments_come_with_pings_between() {
    let world = World::shared().await;
    let mut connect = BytesMut::new();
    let options = Options::v311(&unique("fragments"));
    mqtt_codec::encode(&Packet::Connect(Box::new(options.connect)), Version::V311, &mut connect).unwrap();
    let (mut socket, _) = upgraded(world.a.ws_port, "").await;
    // The message has begun, and never ends: what is in it is answered all the same.
    for (index, byte) in connect.iter().enumerate() {
        socket.send(&frame(if index == 0 { 0x02 } else { 0x00 }, &[*byte])).await;
        if index % 5 == 0 {
            socket.send(&frame(0x89, b"p")).await;
            assert_eq!(socket.read(3).await, [0x8A, 1, b'p']);
        }
    }
    assert_eq!(socket.read(6).await, [0x82, 4, 0x20, 2, 0, 0]);
    // Two and a half PINGREQs in one fragment, and the rest in another.
    socket.send(&frame(0x00, &[0xC0, 0, 0xC0, 0, 0xC0])).await;
    socket.send(&frame(0x80, &[0])).await;
    let mut answers = 0;
    while answers < 3 {
        let head = socket.read(2).await;
        assert_eq!(head[0], 0x82);
        let packets = socket.read(head[1].into()).await;
        assert!(packets.chunks(2).all(|packet| packet == [0xD0, 0]), "{packets:02x?}");
        answers += packets.len() / 2;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_large_before_connect_is_refused_before_it_has_come() {
    let world = World::shared().await;
    let (mut socket, _) = upgraded(world.a.ws_port, "").await;
    // A frame of a gigabyte, in which a CONNECT of 200 MB begins.
    let mut bytes = vec![0x02, 0xFF];
    bytes.extend_from_slice(&(1_u64 << 30).to_be_bytes());
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&[0x10, 0xFF, 0xFF, 0xFF, 0x5F]);
    socket.send(&bytes).await;
    socket.read_to_end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn compression_is_not_agreed_on_and_ends_the_connection() {
    let world = World::shared().await;
    let offer = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n";
    let (mut socket, answer) = upgraded(world.a.ws_port, offer).await;
    assert!(answer.starts_with("HTTP/1.1 101 ") && !answer.to_lowercase().contains("extensions"), "{answer}");
    socket.send(&frame(0xC2, b"x")).await;
    let close = socket.read(4).await;
    assert_eq!((close[0], &close[2..]), (0x88, &1002_u16.to_be_bytes()[..]));
}

#[tokio::test(flavor = "multi_thread")]
async fn http_and_connect_have_one_time_together() {
    let nats = NatsServer::start();
    let sidecar = SidecarBuilder::of(&nats, "slow").set("MQTT__CONNECT_TIMEOUT", "3s").start().await;
    let began = std::time::Instant::now();
    let mut socket = Socket::open(sidecar.ws_port).await;
    socket.send(b"GET /mqtt HTTP/1.1\r\n").await;
    // Most of the time goes by with HTTP, as it does on a link that is slow.
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    socket
        .send(
            b"Host: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
            Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n",
        )
        .await;
    let answer = socket.read_to_end().await;
    assert!(answer.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&answer));
    let took = began.elapsed();
    assert!((Duration::from_millis(2_900)..Duration::from_millis(5_400)).contains(&took), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_other_origins_are_refused_and_told() {
    let (nats, dir) = (NatsServer::start(), tempfile::tempdir().unwrap());
    let config = dir.path().join("nats-mqtt.toml");
    std::fs::write(&config, "[listeners.ws]\nallowed_origins = [\"https://app.example\"]\n[log]\nlevel = \"debug\"\n")
        .unwrap();
    let builder = SidecarBuilder::new("origins", &["--nats", &nats.url(), "-c", config.to_str().unwrap()]);
    let sidecar = builder.open().start().await;
    for (headers, status) in [
        ("Origin: https://app.example\r\n", "101"),
        ("", "101"),
        ("Origin: https://evil.example\r\n", "403"),
        ("Origin: null\r\n", "403"),
    ] {
        let (_, answer) = upgraded(sidecar.ws_port, headers).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{headers:?} {answer}");
    }
    assert_eq!(sidecar.metric("mqtt_websocket_refused_total{reason=\"origin\"}").await, 2.0);
    let log = sidecar.log();
    assert!(log.contains("is not in allowed_origins") && log.contains("origin=\"https://evil.example\""), "{log}");
    assert!(
        log.contains("a WebSocket was asked for") && log.contains("path=\"/mqtt\" origin=\"https://app.example\""),
        "{log}"
    );
}
