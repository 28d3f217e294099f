//! Real sockets on localhost: whom a proxy speaks for, and who is not let in.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use crate::config::{
    Config, FileMode, ListenerConfig, ListenerKind, ProxyIdentity, ProxyProtocolConfig, ProxySniConfig,
};
use crate::listener::Protocol;
use crate::listener::tests::{Running, assert_counted};

const CLIENT: &[u8] = b"PROXY TCP4 192.0.2.7 198.51.100.1 9 1883\r\n";

/// A header of version 2, from 192.0.2.7:9, with what stands behind the addresses.
fn binary(command: u8, more: &[u8]) -> Vec<u8> {
    let behind = [&[192, 0, 2, 7, 198, 51, 100, 1, 0, 9, 7, 0x5B][..], more].concat();
    let len = u16::try_from(behind.len()).unwrap().to_be_bytes();
    [&b"\r\n\r\n\0\r\nQUIT\n"[..], &[command, 0x11], &len, &behind].concat()
}

/// That the client has shown a certificate for `lamp`, and asked for `t2.example`.
fn certified(verify: u8) -> Vec<u8> {
    let ssl = [&[0x20, 0, 12, 7, 0, 0, 0, verify][..], &[0x22, 0, 4], b"lamp"].concat();
    binary(0x21, &[&ssl[..], &[2, 0, 10], b"t2.example"].concat())
}

fn networks(list: &[&'static str]) -> crate::config::Networks {
    let list = serde::de::value::SeqDeserializer::<_, serde::de::value::Error>::new(list.iter().copied());
    serde::Deserialize::deserialize(list).unwrap()
}

fn behind_proxies(config: &mut Config) {
    let sni = ProxySniConfig { names: vec!["*.example".to_owned()], account: "T2".to_owned() };
    let proxied =
        ProxyProtocolConfig { trusted: networks(&["127.0.0.1/32"]), identity: ProxyIdentity::Cn, sni: vec![sni] };
    config.listeners.tcp[0].proxy_protocol = Some(proxied);
}

/// Sends bytes, and reads one that comes back; `None`: it is closed.
async fn echo<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, bytes: &[u8]) -> Option<u8> {
    // It may be closed already, which reading tells.
    let _ = stream.write_all(bytes).await;
    stream.read_u8().await.ok()
}

async fn tcp(running: &Running) -> TcpStream {
    TcpStream::connect(running.addr(Protocol::Mqtt)).await.unwrap()
}

fn has(running: &Running, line: &str) -> bool {
    running.metrics.render().lines().any(|have| have == line)
}

#[tokio::test]
async fn a_proxy_says_who_a_client_is() {
    let running = Running::with(behind_proxies, true).await;
    for (header, came) in
        [(CLIENT.to_vec(), "- "), (binary(0x21, b""), "- "), (certified(0), "T2 cn:lamp"), (certified(10), "T2 ")]
    {
        let mut stream = tcp(&running).await;
        assert_eq!(echo(&mut stream, &[&header[..], b"x"].concat()).await, Some(b'x'));
        assert_eq!(running.remotes.lock().pop().unwrap(), "192.0.2.7:9");
        assert_eq!(running.came.lock().pop().unwrap(), came);
    }
    // Of its own connections the proxy says nobody else's address.
    for header in [binary(0x20, b""), b"PROXY UNKNOWN\r\n".to_vec()] {
        let mut stream = tcp(&running).await;
        assert_eq!(echo(&mut stream, &[&header[..], b"x"].concat()).await, Some(b'x'));
        assert_eq!(running.remotes.lock().pop().unwrap(), stream.local_addr().unwrap().to_string());
    }
}

#[tokio::test]
async fn an_identity_that_is_not_asked_for_does_not_count() {
    let without = |config: &mut Config| {
        behind_proxies(config);
        let proxied = config.listeners.tcp[0].proxy_protocol.as_mut().unwrap();
        (proxied.identity, proxied.sni) = (ProxyIdentity::None, Vec::new());
    };
    let running = Running::with(without, true).await;
    assert_eq!(echo(&mut tcp(&running).await, &[&certified(0)[..], b"x"].concat()).await, Some(b'x'));
    assert_eq!(running.came.lock().pop().unwrap(), "- ");
}

#[tokio::test]
async fn whoever_has_no_header_that_counts_is_closed_and_counted() {
    let running = Running::with(behind_proxies, true).await;
    for (bytes, reason) in [
        (&b"\x10\x0C\0\x04MQTT\x04\0\0\0\0\0"[..], "absent"),
        (b"PROXY TCP4 garbage\r\n", "malformed"),
        (b"PROXY TCP4 192.0.2.7 1", "closed"),
    ] {
        let mut stream = tcp(&running).await;
        stream.write_all(bytes).await.unwrap();
        stream.shutdown().await.unwrap();
        assert!(stream.read_u8().await.is_err());
        assert!(has(&running, &format!("mqtt_proxy_refused_total{{reason=\"{reason}\"}} 1")), "{reason}");
    }
    // A health check.
    let mut silent = tcp(&running).await;
    silent.shutdown().await.unwrap();
    assert!(silent.read_u8().await.is_err());
    let untrusted = Running::with(
        |config| {
            behind_proxies(config);
            config.listeners.tcp[0].proxy_protocol.as_mut().unwrap().trusted = networks(&["10.0.0.0/8"]);
        },
        true,
    )
    .await;
    assert_eq!(echo(&mut tcp(&untrusted).await, &[CLIENT, b"x"].concat()).await, None);
    assert!(has(&untrusted, "mqtt_proxy_refused_total{reason=\"untrusted\"} 1"));
    let refused = |running: &Running| {
        let text = running.metrics.render();
        let counted = text.lines().filter(|line| line.starts_with("mqtt_proxy_refused_total"));
        counted.map(|line| line.rsplit(' ').next().unwrap().parse::<u32>().unwrap()).sum::<u32>()
    };
    assert_eq!((refused(&running), refused(&untrusted)), (3, 1));
    assert!(running.remotes.lock().is_empty() && untrusted.remotes.lock().is_empty());
}

#[tokio::test]
async fn a_header_that_never_comes_is_not_waited_for() {
    let short = |config: &mut Config| {
        behind_proxies(config);
        config.mqtt.connect_timeout = crate::config::Duration(Duration::from_millis(50));
    };
    let running = Running::with(short, true).await;
    assert_eq!(echo(&mut tcp(&running).await, b"PROXY").await, None);
    assert!(has(&running, "mqtt_proxy_refused_total{reason=\"timeout\"} 1"));
}

#[tokio::test]
async fn limits_of_addresses_are_those_of_clients_and_never_of_the_proxy() {
    let limited = |config: &mut Config| {
        behind_proxies(config);
        config.limits.connections_per_address = Some(1);
    };
    let running = Running::with(limited, true).await;
    let client = |last: u8| format!("PROXY TCP4 192.0.2.{last} 198.51.100.1 9 1883\r\nx").into_bytes();
    let mut held = Vec::new();
    for header in [client(1), client(2), b"PROXY UNKNOWN\r\nx".to_vec(), b"PROXY UNKNOWN\r\nx".to_vec()] {
        let mut stream = tcp(&running).await;
        assert_eq!(echo(&mut stream, &header).await, Some(b'x'));
        held.push(stream);
    }
    assert_eq!(echo(&mut tcp(&running).await, &client(1)).await, None);
    assert_counted(&running, "connections_per_address");
}

#[tokio::test]
async fn the_oldest_half_connection_of_a_client_makes_room_also_behind_a_proxy() {
    let limited = |config: &mut Config| {
        behind_proxies(config);
        config.listeners.max_handshakes = 2;
    };
    let running = Running::with(limited, false).await;
    let client = |last: u8| format!("PROXY TCP4 192.0.2.{last} 198.51.100.1 9 1883\r\nx").into_bytes();
    let mut loud = [tcp(&running).await, tcp(&running).await];
    for stream in &mut loud {
        assert_eq!(echo(stream, &client(1)).await, Some(b'x'));
    }
    let mut quiet = tcp(&running).await;
    assert_eq!(echo(&mut quiet, &client(2)).await, Some(b'x'));
    assert!(loud[0].read_u8().await.is_err(), "it was the oldest of the address that has most");
    assert_eq!(echo(&mut loud[1], b"y").await, Some(b'y'));
}

/// A request for a WebSocket with more headers.
fn request(more: &str) -> String {
    format!(
        "GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: mqtt\r\n{more}\r\n"
    )
}

/// The status of the answer, and the connection.
async fn ask(running: &Running, more: &str) -> (String, TcpStream, String) {
    ask_behind(running, "", more).await
}

/// The same behind a header of a proxy.
async fn ask_behind(running: &Running, header: &str, more: &str) -> (String, TcpStream, String) {
    let mut stream = TcpStream::connect(running.addr(Protocol::Ws)).await.unwrap();
    stream.write_all([header, &request(more)].concat().as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => answer.push(byte),
            Err(_) => break,
        }
    }
    let answer = String::from_utf8(answer).unwrap();
    (answer.split(' ').nth(1).unwrap_or_default().to_owned(), stream, answer)
}

/// Sends one byte in a frame and has it sent back, so that the client was served.
async fn served(stream: &mut TcpStream) -> bool {
    let mut answer = [0; 3];
    let _ = stream.write_all(&[0x82, 0x81, 0, 0, 0, 0, b'x']).await;
    stream.read_exact(&mut answer).await.is_ok() && answer == [0x82, 1, b'x']
}

#[tokio::test]
async fn a_page_of_another_origin_is_refused() {
    let only = |config: &mut Config| {
        config.listeners.ws[0].allowed_origins = Some(vec!["https://app.example".parse().unwrap()]);
    };
    let running = Running::with(only, true).await;
    for (headers, status) in [
        ("Origin: https://app.example\r\n", "101"),
        ("", "101"),
        ("Origin: https://evil.example\r\n", "403"),
        ("Origin: http://app.example\r\n", "403"),
        ("Origin: null\r\n", "403"),
        ("Origin: https://app.example\r\nOrigin: https://evil.example\r\n", "403"),
        ("Origin: \u{e4}\r\n", "403"),
    ] {
        assert_eq!(ask(&running, headers).await.0, status, "{headers:?}");
    }
    assert!(has(&running, "mqtt_websocket_refused_total{reason=\"origin\"} 5"));
    let nobody = Running::with(|config| config.listeners.ws[0].allowed_origins = Some(Vec::new()), true).await;
    assert_eq!(ask(&nobody, "Origin: https://app.example\r\n").await.0, "403");
    assert_eq!(ask(&nobody, "").await.0, "101");
    let anybody = Running::with(|_| (), true).await;
    assert_eq!(ask(&anybody, "Origin: https://evil.example\r\n").await.0, "101");
}

#[tokio::test]
async fn compression_is_not_agreed_on() {
    let mut running = Running::with(|_| (), true).await;
    let offer = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n";
    let (status, mut stream, answer) = ask(&running, offer).await;
    assert_eq!(status, "101");
    assert!(!answer.to_lowercase().contains("sec-websocket-extensions"), "{answer}");
    // A frame that says that it is compressed (RSV1).
    stream.write_all(&[0xC2, 0x81, 0, 0, 0, 0, b'x']).await.unwrap();
    let mut close = [0; 4];
    stream.read_exact(&mut close).await.unwrap();
    assert_eq!((close[0], u16::from_be_bytes([close[2], close[3]])), (0x88, 1002));
    assert!(running.ended.recv().await.unwrap().is_err());
}

#[tokio::test]
async fn whom_a_trusted_proxy_forwards_for_is_who_counts() {
    let trusting = |config: &mut Config| {
        config.limits.connections_per_address = Some(1);
        config.listeners.ws[0].trusted_forwarders = networks(&["127.0.0.0/8", "10.0.0.0/8"]);
    };
    let running = Running::with(trusting, true).await;
    let mut held = Vec::new();
    for (header, remote) in [
        ("X-Forwarded-For: 203.0.113.9, 192.0.2.7, 10.0.0.1\r\n", Some("192.0.2.7:0")),
        ("X-Forwarded-For: 192.0.2.8:77\r\n", Some("192.0.2.8:77")),
        ("X-Forwarded-For: garbage\r\n", None),
    ] {
        let (_, mut stream, _) = ask(&running, header).await;
        assert!(served(&mut stream).await, "{header}");
        let own = stream.local_addr().unwrap().to_string();
        assert_eq!(running.remotes.lock().pop().unwrap(), remote.unwrap_or(&own));
        held.push(stream);
    }
    let (status, mut again, _) = ask(&running, "X-Forwarded-For: 192.0.2.7\r\n").await;
    assert!(status == "101" && !served(&mut again).await, "it has one already");
    assert_counted(&running, "connections_per_address");
    let strange = Running::with(|_| (), true).await;
    let (_, mut stream, _) = ask(&strange, "X-Forwarded-For: 192.0.2.7\r\n").await;
    assert!(served(&mut stream).await);
    assert_eq!(strange.remotes.lock().pop().unwrap(), stream.local_addr().unwrap().to_string());
}

#[tokio::test]
async fn who_forwards_behind_a_proxy_says_it_after_its_header() {
    let both = |config: &mut Config| {
        let trusted = networks(&["127.0.0.1/32"]);
        config.limits.connections_per_address = Some(1);
        config.listeners.ws[0].proxy_protocol = Some(ProxyProtocolConfig { trusted, ..ProxyProtocolConfig::default() });
        config.listeners.ws[0].trusted_forwarders = networks(&["192.0.2.0/24"]);
    };
    let running = Running::with(both, true).await;
    let from = |addr: &str| format!("PROXY TCP4 {addr} 198.51.100.1 9 8083\r\n");
    let mut held = Vec::new();
    for (proxied, forwarded, remote) in [
        ("192.0.2.7", "203.0.113.5", "203.0.113.5:0"),
        ("192.0.2.7", "203.0.113.6", "203.0.113.6:0"),
        // It is trusted to say who it is, and nobody else.
        ("198.51.100.9", "203.0.113.7", "198.51.100.9:9"),
    ] {
        let (status, mut stream, _) =
            ask_behind(&running, &from(proxied), &format!("X-Forwarded-For: {forwarded}\r\n")).await;
        assert!(status == "101" && served(&mut stream).await, "{proxied} {forwarded}");
        assert_eq!(running.remotes.lock().pop().unwrap(), remote);
        held.push(stream);
    }
    let (_, mut again, _) = ask_behind(&running, &from("192.0.2.8"), "X-Forwarded-For: 203.0.113.5\r\n").await;
    assert!(!served(&mut again).await, "it has one already");
}

#[tokio::test]
async fn a_process_connects_by_the_file_system() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mqtt.sock");
    let local = |config: &mut Config| {
        let (name, path) = ("local".to_owned(), path.clone());
        let mode: FileMode = "0600".parse().unwrap();
        config.listeners.unix =
            vec![ListenerConfig { name, path, mode, kind: ListenerKind::Unix, ..ListenerConfig::default() }];
        config.limits.connections_per_address = Some(1);
    };
    let running = Running::with(local, true).await;
    let mut stream = UnixStream::connect(&path).await.unwrap();
    assert_eq!(echo(&mut stream, b"x").await, Some(b'x'));
    let uid = rustix::process::getuid().as_raw();
    assert_eq!(running.remotes.lock().pop().unwrap(), format!("unix:{uid}:{}", std::process::id()));
    // A user counts as an address does, and is none of the network.
    assert_eq!(echo(&mut UnixStream::connect(&path).await.unwrap(), b"x").await, None);
    assert_eq!(echo(&mut tcp(&running).await, b"x").await, Some(b'x'));
}

#[tokio::test]
async fn who_may_open_the_file_may_say_who_is_behind_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mqtt.sock");
    let local = |config: &mut Config| {
        config.listeners.unix = vec![ListenerConfig {
            name: "local".to_owned(),
            path: path.clone(),
            kind: ListenerKind::Unix,
            proxy_protocol: Some(ProxyProtocolConfig::default()),
            ..ListenerConfig::default()
        }];
    };
    let running = Running::with(local, true).await;
    let mut stream = UnixStream::connect(&path).await.unwrap();
    assert_eq!(echo(&mut stream, &[CLIENT, b"x"].concat()).await, Some(b'x'));
    assert_eq!(running.remotes.lock().pop().unwrap(), "192.0.2.7:9");
    assert_eq!(echo(&mut UnixStream::connect(&path).await.unwrap(), b"\x10\x0C").await, None);
}
