//! A socket for bytes that no client would send.

use bytes::BytesMut;
use mqtt_codec::{Decoder, DecoderOptions, Packet, Role, Version};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::PATIENCE;

/// A TCP connection without a protocol.
#[derive(Debug)]
pub(crate) struct Socket {
    stream: TcpStream,
    is_websocket: bool,
}

/// Bytes from hexadecimal text with spaces; what is in `'…'` stands for its own bytes.
pub(crate) fn hex(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (index, part) in text.split('\'').enumerate() {
        if index % 2 == 1 {
            bytes.extend_from_slice(part.as_bytes());
            continue;
        }
        let digits: Vec<char> = part.chars().filter(|c| !c.is_whitespace()).collect();
        for pair in digits.chunks(2) {
            let pair: String = pair.iter().collect();
            bytes.push(u8::from_str_radix(&pair, 16).unwrap_or_else(|_| panic!("{pair:?} of {text:?} is no byte")));
        }
    }
    bytes
}

/// A binary frame of a client, masked with zeros.
fn frame(bytes: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x82, 0xFF];
    frame.extend_from_slice(&(bytes.len() as u64).to_be_bytes());
    frame.extend_from_slice(&[0; 4]);
    frame.extend_from_slice(bytes);
    frame
}

impl Socket {
    pub(crate) async fn open(port: u16) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).await.expect("connect");
        stream.set_nodelay(true).expect("TCP_NODELAY");
        Self { stream, is_websocket: false }
    }

    /// With Nagle's algorithm, which most clients leave on: small pieces wait until those before are acknowledged.
    pub(crate) async fn open_with_nagle(port: u16) -> Self {
        let socket = Self::open(port).await;
        socket.stream.set_nodelay(false).expect("TCP_NODELAY");
        socket
    }

    /// Has become a WebSocket: bytes are sent as binary frames, and what comes is not looked at.
    pub(crate) async fn open_websocket(port: u16) -> Self {
        let mut socket = Self::open(port).await;
        let request = "GET /mqtt HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
            Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
            Sec-WebSocket-Protocol: mqtt\r\n\r\n";
        socket.send(request.as_bytes()).await;
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            let byte = socket.read(1).await;
            assert!(!byte.is_empty(), "no WebSocket: {}", String::from_utf8_lossy(&answer));
            answer.extend(byte);
        }
        socket.is_websocket = true;
        socket
    }

    /// Sends nothing more, which the peer is told, and can still read.
    pub(crate) async fn half_close(&mut self) {
        let _ = self.stream.shutdown().await;
    }

    /// Waits until the kernel of the peer has everything: closing a socket with something unread discards what it has not
    /// sent.
    pub(crate) async fn all_arrived(&self) {
        let port = self.stream.local_addr().expect("a socket").port();
        super::eventually("what was sent has arrived", async || {
            let sockets = std::fs::read_to_string("/proc/net/tcp").expect("the kernel's sockets");
            let own = format!(":{port:04X}");
            // Its own address, that of the peer, its state, and the bytes that wait to be acknowledged and to be read.
            sockets.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).any(|fields| {
                let (address, queues) = (fields.get(1), fields.get(4));
                address.is_some_and(|a| a.ends_with(&own)) && queues.is_some_and(|q| q.starts_with("00000000:"))
            })
        })
        .await;
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        // The peer may have closed already, which reading will tell.
        if self.is_websocket {
            let _ = self.stream.write_all(&frame(bytes)).await;
        } else {
            let _ = self.stream.write_all(bytes).await;
        }
    }

    pub(crate) async fn send_packet(&mut self, packet: &Packet, version: Version) {
        let mut bytes = BytesMut::new();
        mqtt_codec::encode(packet, version, &mut bytes).expect("a packet that can be written");
        self.send(&bytes).await;
    }

    /// Reads one packet; of a WebSocket a frame that has one.
    pub(crate) async fn packet(&mut self, version: Version) -> Packet {
        let reads = DecoderOptions { role: Role::Client, version: Some(version), ..DecoderOptions::default() };
        let (mut decoder, mut input) = (Decoder::new(reads), BytesMut::new());
        if self.is_websocket {
            let head = self.read(2).await;
            assert!(matches!(head[..], [0x82, 0..126]), "no short binary frame: {head:02x?}");
        }
        loop {
            if let Some(packet) = decoder.decode(&mut input).expect("what a server sends") {
                return packet;
            }
            let byte = self.read(1).await;
            assert!(!byte.is_empty(), "it was closed before a packet was complete: {input:02x?}");
            input.extend_from_slice(&byte);
        }
    }

    /// Reads exactly that many bytes; fewer when the peer closes before.
    pub(crate) async fn read(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        let mut filled = 0;
        while filled < count {
            match tokio::time::timeout(PATIENCE, self.stream.read(&mut bytes[filled..])).await {
                Ok(Ok(0) | Err(_)) => break,
                Ok(Ok(more)) => filled += more,
                Err(_) => panic!("{filled} of {count} bytes came: {:02x?}", &bytes[..filled]),
            }
        }
        bytes.truncate(filled);
        bytes
    }

    /// Reads until the peer closes.
    pub(crate) async fn read_to_end(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let read = tokio::time::timeout(PATIENCE, self.stream.read_to_end(&mut bytes)).await;
        assert!(read.is_ok(), "the connection stays open; it got {bytes:02x?}");
        bytes
    }
}
