//! Where devices connect. Every kind of listener ends in the same two things, a byte stream and who is at its end,
//! which are given to one [`Serve`]. MQTT itself is not known here.
//!
//! # Layout
//! - `opening`: all of them, as configured.
//! - `socket`: binding, and the options of sockets.
//! - `accept`: the loop that takes connections, and its limits; `places`: those of addresses.
//! - `upgrade`: the HTTP side of WebSocket; `ws_frame`, `ws_stream`: its frames as a byte stream.
//! - `foreign`: what to say to HTTP and TLS on a plain MQTT port.

mod accept;
mod foreign;
mod opening;
mod places;
mod socket;
mod upgrade;
mod ws_frame;
mod ws_stream;

use std::{fmt, future::Future, net::SocketAddr, sync::Arc};

use mqtt_access::Certificate;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::Semaphore,
};
use tokio_util::task::TaskTracker;
use tracing::debug;

pub use foreign::Foreign;
pub use opening::spawn;
pub use places::Handshake;
use places::Taken;
pub use ws_stream::WsStream;

use crate::config::BindAddr;
use socket::Prompt;
pub(crate) use socket::listen;
use upgrade::Upgrade;

/// What is done with a connection. One value serves all listeners; it is cloned for each connection.
pub trait Serve: Clone + Send + Sync + 'static {
    /// Serves the connection until it ends. The future owns the stream: returning closes it. Written bytes may stay
    /// in the stream until it is flushed, so flush before waiting, also when what was read has no answer: that tells the
    /// peer that it arrived. End with `shutdown` where the peer shall know that
    /// this was on purpose (WebSocket sends its Close frame then).
    fn serve<S>(&self, stream: S, peer: Peer) -> impl Future<Output = ()> + Send
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static;
}

/// Who is at the other end.
#[derive(Debug)]
pub struct Peer {
    /// Address of the peer, for the log field `remote`.
    pub addr: SocketAddr,
    /// Name of the listener, for the log field `listener`.
    pub listener: Arc<str>,
    /// What the listener speaks, for the log field `protocol`.
    pub protocol: Protocol,
    /// Its place in the order in which connections were taken, of all listeners.
    pub place: u64,
    /// This connection's place among those that have not completed CONNECT.
    pub handshake: Handshake,
    /// The certificate that it has shown, verified.
    pub certificate: Option<Box<Certificate>>,
}

impl Peer {
    /// One that nobody waits behind and that has shown no certificate.
    #[must_use]
    pub fn new(addr: SocketAddr, listener: Arc<str>, protocol: Protocol) -> Self {
        Self { addr, listener, protocol, place: 0, handshake: Handshake::default(), certificate: None }
    }
}

/// What a listener speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// MQTT on the stream itself.
    Mqtt,
    /// MQTT in WebSocket frames.
    Ws,
}

impl Protocol {
    /// `mqtt` or `ws`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Mqtt => "mqtt",
            Self::Ws => "ws",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A listener that is bound.
#[derive(Clone, Debug)]
pub struct Bound {
    /// Its name.
    pub name: Arc<str>,
    /// What it speaks.
    pub protocol: Protocol,
    /// Where it is bound; the port is the real one, also when the configuration says 0.
    pub addr: SocketAddr,
}

/// The listeners that run, and the connections they took.
#[derive(Debug)]
pub struct Listening {
    /// In the order of the configuration, TCP first.
    pub bound: Vec<Bound>,
    connections: TaskTracker,
}

impl Listening {
    /// Connections that are being served, WebSocket handshakes included.
    #[must_use]
    pub fn open_connections(&self) -> usize {
        self.connections.len()
    }

    /// Resolves when shutdown was triggered, nothing is accepted any more and every connection has ended. Ending them
    /// is up to [`Serve`].
    pub async fn drained(&self) {
        self.connections.wait().await;
    }
}

/// A listener cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum ListenerError {
    /// The address cannot be resolved or bound.
    #[error("listener {name}: cannot listen on {bind}: {source}")]
    Bind {
        /// Name of the listener.
        name: String,
        /// What was configured.
        bind: BindAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// Nothing is configured to listen.
    #[error("no listener is configured: give --listen, or a [listeners.tcp] or [listeners.ws] table")]
    None,
}

/// From an accepted socket to [`Serve`].
#[derive(Clone)]
struct Dispatch<H> {
    serve: H,
    /// For WebSocket listeners.
    upgrade: Option<Arc<Upgrade>>,
}

impl<H: Serve> Dispatch<H> {
    /// Serves a connection, whose `places` are its own until it is over.
    async fn run(self, stream: TcpStream, peer: Peer, places: Taken) {
        let stream = Prompt::new(stream);
        match self.upgrade {
            None => self.serve.serve(stream, peer).await,
            Some(upgrade) => {
                // In the memory of a job of its own, which a WebSocket that is open does without.
                let Some(stream) = Box::pin(upgraded(upgrade, stream, &peer)).await else { return };
                self.serve.serve(stream, peer).await;
            }
        }
        drop(places);
    }
}

async fn upgraded(upgrade: Arc<Upgrade>, stream: Prompt, peer: &Peer) -> Option<WsStream<Prompt>> {
    let upgraded = tokio::select! {
        biased;
        () = peer.handshake.evicted() => return None,
        upgraded = upgrade.accept(stream) => upgraded,
    };
    if let Err(error) = &upgraded {
        debug!(remote = %peer.addr, listener = &*peer.listener, %error, "no WebSocket connection");
    }
    upgraded.ok()
}

/// As many as `tokio` can count, when there is no limit worth naming.
fn semaphore(permits: usize) -> Arc<Semaphore> {
    Arc::new(Semaphore::new(permits.min(Semaphore::MAX_PERMITS)))
}

#[cfg(test)]
mod tests;
