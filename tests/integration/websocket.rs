//! MQTT over WebSocket, with a client that others have written.

use bytes::BytesMut;
use mqtt_codec::{Packet, PacketId, Version};

use crate::harness::{Options, Socket, World, msg, python, unique};

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
