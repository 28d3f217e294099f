//! A TCP relay in front of nats-server that can lose what the server answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// A relay; it ends with the runtime of its test.
#[derive(Debug)]
pub(super) struct Relay {
    port: u16,
    is_mute: Arc<AtomicBool>,
    cuts: watch::Sender<u32>,
}

impl Relay {
    pub(super) async fn start(url: String) -> Self {
        let target = url.trim_start_matches("nats://").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let port = listener.local_addr().expect("an address").port();
        let is_mute = Arc::new(AtomicBool::new(false));
        let cuts = watch::channel(0).0;
        let (mute, tx) = (Arc::clone(&is_mute), cuts.clone());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (mute, mut cut) = (Arc::clone(&mute), tx.subscribe());
                cut.mark_unchanged();
                let Ok(server) = TcpStream::connect(&target).await else { continue };
                tokio::spawn(async move {
                    tokio::select! {
                        () = relay(client, server, mute) => {}
                        _ = cut.changed() => {}
                    }
                });
            }
        });
        Self { port, is_mute, cuts }
    }

    pub(super) fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Loses what the server sends, or stops to.
    pub(super) fn mute(&self, is_mute: bool) {
        self.is_mute.store(is_mute, Ordering::SeqCst);
    }

    /// Breaks all connections; new ones hear everything.
    pub(super) fn cut(&self) {
        self.mute(false);
        self.cuts.send_modify(|cuts| *cuts += 1);
    }
}

async fn relay(client: TcpStream, server: TcpStream, is_mute: Arc<AtomicBool>) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let down = async {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(count @ 1..) = from_server.read(&mut buffer).await {
            if !is_mute.load(Ordering::SeqCst) && to_client.write_all(&buffer[..count]).await.is_err() {
                return;
            }
        }
    };
    let up = async {
        let _ = tokio::io::copy(&mut from_client, &mut to_server).await;
    };
    tokio::select! {
        () = down => {}
        () = up => {}
    }
}
