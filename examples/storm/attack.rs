//! What the storm is made of. Each of many tasks opens connection after connection, and does with each what costs a server something.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::BytesMut;
use mqtt_codec::{Packet, Version};
use rand::RngExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore};

use crate::PASSWORD;
use crate::harness::Options;

/// Tasks that attack at the same time.
const AT_ONCE: usize = 256;

/// Connections that stay open are these at most: with what else is open, less than a process may have.
const HELD_MAX: u64 = 6_000;

/// How long a connection stays that only holds its place.
const HELD_FOR: Duration = Duration::from_secs(8);

/// Connections of the client id that is everywhere.
const SAME_ID: u32 = 100;

/// Where the storm comes from and goes to.
#[derive(Clone)]
struct Storm {
    is_from_many: bool,
    mqtt: u16,
    tls: u16,
    hello: Arc<[u8]>,
    attempts: Arc<AtomicU64>,
    held: Arc<AtomicU64>,
}

/// Attacks as the text says (where from, ports, seconds), and tells how often a connection was tried.
pub(crate) fn main(text: &str) {
    let words: Vec<&str> = text.split(' ').collect();
    let number = |index: usize| words[index].parse::<u64>().expect("a number");
    let storm = Storm {
        is_from_many: words[0] == "Many",
        mqtt: number(1) as u16,
        tls: number(2) as u16,
        hello: hello(),
        attempts: Arc::default(),
        held: Arc::default(),
    };
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let until = Instant::now() + Duration::from_secs(number(3));
        let tasks: Vec<_> = (0..AT_ONCE).map(|_| tokio::spawn(storm.clone().attack(until))).collect();
        for task in tasks {
            let _ = task.await;
        }
    });
    println!("{}", storm.attempts.load(Ordering::Relaxed));
}

/// What begins a TLS connection.
fn hello() -> Arc<[u8]> {
    let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()));
    let builder = builder.with_safe_default_protocol_versions().expect("versions");
    let config = builder.with_root_certificates(RootCertStore::empty()).with_no_client_auth();
    let name = "localhost".try_into().expect("a name");
    let mut connection = ClientConnection::new(Arc::new(config), name).expect("a client");
    let mut hello = Vec::new();
    connection.write_tls(&mut hello).expect("a hello");
    hello.into()
}

fn connect_packet(id: &str, password: &str) -> BytesMut {
    let mut options = Options::v5(id).password(password);
    options.connect.username = Some("device".into());
    let mut bytes = BytesMut::new();
    mqtt_codec::encode(&Packet::Connect(Box::new(options.connect)), Version::V5, &mut bytes).expect("a packet");
    bytes
}

impl Storm {
    async fn attack(self, until: Instant) {
        while Instant::now() < until {
            self.attempts.fetch_add(1, Ordering::Relaxed);
            // What the server does with it is its own affair.
            let _ = timeout(HELD_FOR * 2, self.once()).await;
        }
    }

    async fn open(&self, port: u16) -> Option<TcpStream> {
        let socket = TcpSocket::new_v4().ok()?;
        if self.is_from_many {
            let [a, b, c] = rand::random::<[u8; 3]>();
            socket.bind(SocketAddr::from((Ipv4Addr::new(127, a, b, c.max(2)), 0))).ok()?;
        }
        timeout(Duration::from_secs(2), socket.connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))).await.ok()?.ok()
    }

    /// One connection.
    async fn once(&self) -> Option<()> {
        let kind = rand::rng().random_range(0..12);
        let is_tls = matches!(kind, 6..=8);
        let mut stream = self.open(if is_tls { self.tls } else { self.mqtt }).await?;
        match kind {
            0 | 1 => {
                let garbage: Vec<u8> = (0..64).map(|_| rand::random()).collect();
                stream.write_all(&garbage).await.ok()?;
            }
            2..=4 => {
                stream.write_all(b"\x10\x20\x00\x04MQ").await.ok()?;
                self.hold(stream);
            }
            5 => self.hold(stream),
            6 => {
                stream.write_all(&self.hello[..self.hello.len() / 2]).await.ok()?;
                self.hold(stream);
            }
            7 => {
                for byte in self.hello.iter().take(40) {
                    stream.write_all(&[*byte]).await.ok()?;
                    sleep(Duration::from_millis(50)).await;
                }
            }
            8 => {
                stream.write_all(&self.hello).await.ok()?;
                // The server signs, and nobody goes on.
                let _ = stream.read(&mut [0; 512]).await;
            }
            9 => {
                stream.write_all(&connect_packet("stranger", "wrong")).await.ok()?;
                let _ = timeout(Duration::from_millis(500), stream.read(&mut [0; 64])).await;
            }
            10 => {
                stream.write_all(&connect_packet("stranger", &rand::random::<u64>().to_string())).await.ok()?;
            }
            _ => {
                stream.write_all(&connect_packet(&self.same_id(), PASSWORD)).await.ok()?;
                let _ = timeout(Duration::from_millis(500), stream.read(&mut [0; 64])).await;
            }
        }
        Some(())
    }

    /// The id that is on many connections, of which there is one for each hundred tasks.
    fn same_id(&self) -> String {
        format!("everywhere-{}", rand::random::<u32>() % (AT_ONCE as u32 / SAME_ID))
    }

    /// Keeps a connection open for a while, without waiting for it.
    fn hold(&self, stream: TcpStream) {
        let held = Arc::clone(&self.held);
        if held.fetch_add(1, Ordering::Relaxed) >= HELD_MAX {
            held.fetch_sub(1, Ordering::Relaxed);
            return;
        }
        tokio::spawn(async move {
            sleep(HELD_FOR).await;
            drop(stream);
            held.fetch_sub(1, Ordering::Relaxed);
        });
    }
}
