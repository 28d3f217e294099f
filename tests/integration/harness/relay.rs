//! A TCP relay in front of nats-server, in which answers are lost, bytes are late, or nothing passes at all.

use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

/// Chunks that are on their way in one direction of a connection.
const ON_THE_WAY: usize = 1_024;

/// What happens to what passes.
#[derive(Clone, Debug, Default)]
struct Weather {
    /// How late everything is, in each direction.
    delay: Duration,
    /// Nothing passes; it does later.
    is_dark: bool,
    /// What the server sends is lost.
    is_mute: bool,
    /// Becomes mute when a client sends this.
    mute_at: Bytes,
    /// What a client sends together with this is lost.
    lost: Bytes,
    /// What clients of connections with lower numbers send does not pass; it does later, also when they are gone.
    held_below: u64,
    /// What of that there is, and what was lost.
    held: Vec<Bytes>,
    cuts: u64,
}

/// A relay; it ends with the runtime of its test.
#[derive(Debug)]
pub(crate) struct Relay {
    port: u16,
    weather: watch::Sender<Weather>,
    opened: watch::Receiver<u64>,
}

impl Relay {
    pub(crate) async fn start(url: String) -> Self {
        let target = url.trim_start_matches("nats://").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let port = listener.local_addr().expect("an address").port();
        let weather = watch::channel(Weather::default()).0;
        let (count, opened) = watch::channel(0);
        let here = weather.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let number = *count.borrow();
                count.send_replace(number + 1);
                let (target, weather) = (target.clone(), here.clone());
                tokio::spawn(async move {
                    if let Ok(server) = TcpStream::connect(&target).await {
                        relay(client, server, number, weather).await;
                    }
                });
            }
        });
        Self { port, weather, opened }
    }

    pub(crate) fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Loses what the server sends, or stops to.
    pub(crate) fn mute(&self, is_mute: bool) {
        self.weather.send_modify(|weather| weather.is_mute = is_mute);
    }

    /// Becomes mute when a client sends these bytes; they do pass.
    pub(crate) fn mute_at(&self, bytes: &str) {
        self.weather.send_modify(|weather| weather.mute_at = Bytes::copy_from_slice(bytes.as_bytes()));
    }

    /// Loses what a client sends together with these bytes.
    pub(crate) fn lose(&self, bytes: &str) {
        self.weather.send_modify(|weather| weather.lost = Bytes::copy_from_slice(bytes.as_bytes()));
    }

    /// Waits until a client has sent these bytes in vain.
    pub(crate) async fn has_held(&self, bytes: &str) {
        let mut weather = self.weather.subscribe();
        let is_there = |weather: &Weather| weather.held.iter().any(|chunk| contains(chunk, bytes.as_bytes()));
        let waited = tokio::time::timeout(super::PATIENCE, weather.wait_for(is_there)).await;
        waited.expect("what is to be held is sent").expect("the relay is there");
    }

    /// Lets nothing pass, in no direction, or lets it pass again. Connections stay open.
    pub(crate) fn dark(&self, is_dark: bool) {
        self.weather.send_modify(|weather| weather.is_dark = is_dark);
    }

    /// Everything is so late, in each direction.
    pub(crate) fn delay(&self, delay: Duration) {
        self.weather.send_modify(|weather| weather.delay = delay);
    }

    /// Holds what clients send over the connections that there are, until [`Self::release`].
    pub(crate) fn hold(&self) {
        let opened = *self.opened.borrow();
        self.weather.send_modify(|weather| weather.held_below = opened);
    }

    /// What was held arrives now, though its connection may be long gone.
    pub(crate) fn release(&self) {
        self.weather.send_modify(|weather| (weather.held_below, weather.held) = (0, Vec::new()));
    }

    /// Breaks all connections; new ones hear everything.
    pub(crate) fn cut(&self) {
        self.weather.send_modify(|weather| {
            (weather.is_mute, weather.mute_at) = (false, Bytes::new());
            weather.cuts += 1;
        });
    }
}

async fn relay(client: TcpStream, server: TcpStream, number: u64, weather: watch::Sender<Weather>) {
    for stream in [&client, &server] {
        stream.set_nodelay(true).expect("a socket");
    }
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let (up_tx, up_rx) = mpsc::channel(ON_THE_WAY);
    let (down_tx, down_rx) = mpsc::channel(ON_THE_WAY);
    let cuts = weather.borrow().cuts;
    // It outlives the connection of the client: what was sent arrives.
    let is_held = move |weather: &Weather| weather.is_dark || number < weather.held_below;
    let up = tokio::spawn(deliver(up_rx, to_server, weather.subscribe(), is_held));
    let mut cut = weather.subscribe();
    let notices = weather.clone();
    tokio::select! {
        () = take(from_client, up_tx, |bytes| {
            let mut is_lost = false;
            notices.send_if_modified(|weather| {
                let is_it = !weather.mute_at.is_empty() && contains(bytes, &weather.mute_at);
                weather.is_mute |= is_it;
                is_lost = !weather.lost.is_empty() && contains(bytes, &weather.lost);
                let is_held = is_lost || number < weather.held_below;
                if is_held {
                    weather.held.push(bytes.clone());
                }
                is_it || is_held
            });
            !is_lost
        }) => {}
        () = take(from_server, down_tx, |_| !weather.borrow().is_mute) => {}
        () = deliver(down_rx, to_client, weather.subscribe(), |weather| weather.is_dark) => {}
        _ = cut.wait_for(|weather| weather.cuts > cuts) => {}
    }
    drop(up);
}

fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|window| window == wanted)
}

/// Reads what comes, and passes on what `passes` takes.
async fn take(mut from: OwnedReadHalf, to: mpsc::Sender<(Instant, Bytes)>, passes: impl Fn(&Bytes) -> bool) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        let chunk = Bytes::copy_from_slice(&buffer[..count]);
        if passes(&chunk) && to.send((Instant::now(), chunk)).await.is_err() {
            return;
        }
    }
}

async fn deliver(
    mut from: mpsc::Receiver<(Instant, Bytes)>,
    mut to: OwnedWriteHalf,
    mut weather: watch::Receiver<Weather>,
    is_held: impl Fn(&Weather) -> bool,
) {
    while let Some((came, chunk)) = from.recv().await {
        let Ok(delay) = weather.wait_for(|weather| !is_held(weather)).await.map(|weather| weather.delay) else {
            return;
        };
        tokio::time::sleep_until(came + delay).await;
        if to.write_all(&chunk).await.is_err() {
            return;
        }
    }
}
