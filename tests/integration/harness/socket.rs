//! A socket for bytes that no client would send.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::PATIENCE;

/// A TCP connection without a protocol.
#[derive(Debug)]
pub(crate) struct Socket(TcpStream);

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

impl Socket {
    pub(crate) async fn open(port: u16) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).await.expect("connect");
        stream.set_nodelay(true).expect("TCP_NODELAY");
        Self(stream)
    }

    /// With Nagle's algorithm, which most clients leave on: small pieces wait until those before are acknowledged.
    pub(crate) async fn open_with_nagle(port: u16) -> Self {
        let socket = Self::open(port).await;
        socket.0.set_nodelay(false).expect("TCP_NODELAY");
        socket
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        // The peer may have closed already, which reading will tell.
        let _ = self.0.write_all(bytes).await;
    }

    /// Reads exactly that many bytes; fewer when the peer closes before.
    pub(crate) async fn read(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        let mut filled = 0;
        while filled < count {
            match tokio::time::timeout(PATIENCE, self.0.read(&mut bytes[filled..])).await {
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
        let read = tokio::time::timeout(PATIENCE, self.0.read_to_end(&mut bytes)).await;
        assert!(read.is_ok(), "the connection stays open; it got {bytes:02x?}");
        bytes
    }
}
