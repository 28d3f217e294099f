//! Where devices connect. Every kind of listener ends in the same two things, a byte stream and who is at its end,
//! which are given to one [`Serve`]. MQTT itself is not known here.
//!
//! # Layout
//! - `opening`: all of them, as configured.
//! - `socket`: binding, and the options of sockets.
//! - `accept`: the loop that takes connections, and its limits; `places`: those of addresses.
//! - `tls`: TLS, where a listener has it; `stream`: a socket with it or without.
//! - `upgrade`: the HTTP side of WebSocket; `ws_frame`, `ws_stream`: its frames as a byte stream.
//! - `peer`: who is at the end of a stream; `entrance`: what its listener asks of it.
//! - `foreign`: what to say to HTTP and TLS on a plain MQTT port.

mod accept;
mod entrance;
mod foreign;
mod opening;
mod peer;
mod places;
mod socket;
mod stream;
mod tls;
mod upgrade;
mod ws_frame;
mod ws_stream;

use std::{future::Future, net::SocketAddr, sync::Arc};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::Semaphore,
};
use tokio_util::task::TaskTracker;
use tracing::debug;

pub use entrance::{Entrance, Protocol};
pub use foreign::Foreign;
pub use opening::{check, spawn};
pub use peer::Peer;
pub use places::Handshake;
use places::Taken;
pub use tls::{Revocations, TlsError, TlsFileError};
pub use ws_stream::WsStream;

use crate::config::BindAddr;
use socket::Prompt;
pub(crate) use socket::listen;
use stream::Stream;
use tls::Tls;
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

/// A listener that is bound.
#[derive(Clone, Debug)]
pub struct Bound {
    /// What it is, and asks.
    pub entrance: Arc<Entrance>,
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
    /// TLS cannot be set up.
    #[error("listener {name}: tls: {source}")]
    Tls {
        /// Name of the listener.
        name: String,
        /// What is wrong.
        source: TlsError,
    },
    /// Nothing is configured to listen.
    #[error("no listener is configured: give --listen, or a [listeners.tcp] or [listeners.ws] table")]
    None,
}

impl ListenerError {
    /// Whether only a change of the configuration, or of its files, can help.
    #[must_use]
    pub const fn is_configuration(&self) -> bool {
        matches!(self, Self::Tls { .. })
    }
}

/// From an accepted socket to [`Serve`].
#[derive(Clone)]
struct Dispatch<H> {
    serve: H,
    /// For listeners with TLS.
    tls: Option<Arc<Tls>>,
    /// For WebSocket listeners.
    upgrade: Option<Arc<Upgrade>>,
}

impl<H: Serve> Dispatch<H> {
    /// Serves a connection, whose `places` are its own until it is over.
    async fn run(self, stream: TcpStream, mut peer: Peer, places: Taken) {
        let stream = match self.tls {
            None => Stream::Plain(Prompt::new(stream)),
            Some(tls) => {
                // In the memory of a job of its own, as below.
                let Some(stream) = Box::pin(encrypted(tls, Prompt::new(stream), &mut peer)).await else { return };
                stream
            }
        };
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

async fn encrypted(tls: Arc<Tls>, stream: Prompt, peer: &mut Peer) -> Option<Stream> {
    tls.accept(stream, peer).await
}

async fn upgraded(upgrade: Arc<Upgrade>, stream: Stream, peer: &Peer) -> Option<WsStream<Stream>> {
    let upgraded = tokio::select! {
        biased;
        () = peer.handshake.evicted() => return None,
        upgraded = upgrade.accept(stream, peer.since) => upgraded,
    };
    if let Err(error) = &upgraded {
        debug!(remote = %peer.addr, listener = &*peer.entrance.name, %error, "no WebSocket connection");
    }
    upgraded.ok()
}

/// As many as `tokio` can count, when there is no limit worth naming.
fn semaphore(permits: usize) -> Arc<Semaphore> {
    Arc::new(Semaphore::new(permits.min(Semaphore::MAX_PERMITS)))
}

#[cfg(test)]
mod tests;
