//! MQTT over WebSocket, with a client that others have written.

use crate::harness::{Socket, World, python, unique};

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
