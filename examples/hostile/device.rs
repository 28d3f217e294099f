//! What says anything to a server, and does not care for the answer.

use bytes::BytesMut;
use mqtt_codec::{Packet, Version};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use crate::harness::Options;

/// One connection of the hostile device.
pub(crate) struct Device {
    version: Version,
    write: OwnedWriteHalf,
    /// Kept, so that what comes is left unread.
    _unread: Option<OwnedReadHalf>,
}

impl Device {
    /// Opens a connection and says nothing. `reads`: takes what comes, and forgets it.
    pub(crate) async fn open(port: u16, reads: bool) -> Option<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
        let (mut read, write) = stream.into_split();
        let unread = if reads {
            tokio::spawn(async move {
                let mut discarded = vec![0; 64 * 1024];
                while matches!(read.read(&mut discarded).await, Ok(1..)) {}
            });
            None
        } else {
            Some(read)
        };
        Some(Self { version: Version::V5, write, _unread: unread })
    }

    /// Opens a connection with a CONNECT.
    pub(crate) async fn connect(port: u16, options: Options, reads: bool) -> Option<Self> {
        let mut device = Self::open(port, reads).await?;
        device.version = options.connect.version;
        device.send(&Packet::Connect(Box::new(options.connect))).await.then_some(device)
    }

    /// False when it is shut out.
    pub(crate) async fn send(&mut self, packet: &Packet) -> bool {
        let mut bytes = BytesMut::new();
        mqtt_codec::encode(packet, self.version, &mut bytes).expect("a packet that can be written");
        self.raw(&bytes).await
    }

    /// False when it is shut out.
    pub(crate) async fn raw(&mut self, bytes: &[u8]) -> bool {
        self.write.write_all(bytes).await.is_ok()
    }
}
