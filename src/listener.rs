//! Where devices connect. Every kind of listener ends in the same two things, a byte stream and who is at its end,
//! which are given to one [`Serve`]. MQTT itself is not known here.
//!
//! # Layout
//! - `opening`: all of them, as configured.
//! - `socket`: binding in the network, and the options of sockets.
//! - `unix`: sockets of the file system; `listening`: those of both kinds.
//! - `accept`: the loop that takes connections; `reception`: who is taken in; `admission`: its limits; `pacing`: how often addresses
//!   come; `places`: places of addresses.
//! - `way`: from a socket to a byte stream; `proxied`: what proxies say by the PROXY protocol; `names`: what belongs to a host name.
//! - `tls`: TLS, where a listener has it; `stream`: a socket with it or without.
//! - `upgrade`: the HTTP side of WebSocket; `forwarded`: whom a proxy forwards for; `ws_frame`, `ws_stream`: its frames as a byte stream.
//! - `peer`: who is at the end of a stream; `entrance`: what its listener asks of it.
//! - `foreign`: what to say to HTTP and TLS on a plain MQTT port.

mod accept;
mod admission;
mod entrance;
mod foreign;
mod forwarded;
mod listening;
mod names;
mod opening;
mod pacing;
mod peer;
mod places;
mod proxied;
mod reception;
mod socket;
mod stream;
mod tls;
mod unix;
mod upgrade;
mod way;
mod ws_frame;
mod ws_stream;

use std::{future::Future, path::PathBuf, sync::Arc};

use tokio::io::{AsyncRead, AsyncWrite};

pub use admission::LimitsInForce;
pub use entrance::{Entrance, Protocol};
pub use foreign::Foreign;
pub(crate) use opening::spawn;
pub use opening::{Listening, Prepared, check};
pub use peer::{Peer, Refused};
pub use places::Handshake;
pub use tls::{Revocations, TlsError, TlsFileError};
pub use ws_stream::WsStream;

use crate::config::BindAddr;
pub use crate::network::{BoundTo, PeerAddr};
use reception::Taken;
pub(crate) use socket::listen;
use stream::Stream;
pub(crate) use unix::{SocketFile, listen as listen_at};
use way::Way;

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
    /// Where it is.
    pub to: BoundTo,
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
    /// The socket of the file system cannot be opened.
    #[error("listener {name}: cannot listen on {}: {source}", path.display())]
    Socket {
        /// Name of the listener.
        name: String,
        /// Where it was to be.
        path: PathBuf,
        /// What is wrong.
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
    /// Its mount point is none.
    #[error("listener {name}: mount_point: {source}")]
    Mount {
        /// Name of the listener.
        name: String,
        /// What is wrong.
        source: proto_map::MountPointError,
    },
    /// Nothing is configured to listen.
    #[error("no listener is configured: give --listen, or a [listeners.tcp], [listeners.ws] or [listeners.unix] table")]
    None,
}

impl ListenerError {
    /// Whether only a change of the configuration, or of its files, can help.
    #[must_use]
    pub fn is_configuration(&self) -> bool {
        match self {
            Self::Tls { .. } | Self::Mount { .. } => true,
            // A group that there is not.
            Self::Socket { source, .. } => source.kind() == std::io::ErrorKind::InvalidInput,
            Self::Bind { .. } | Self::None => false,
        }
    }
}

/// From an accepted socket to [`Serve`].
#[derive(Clone)]
struct Dispatch<H> {
    serve: H,
    way: Arc<Way>,
}

impl<H: Serve> Dispatch<H> {
    /// Serves a connection, which has what it has `taken` until it is over.
    async fn run(self, stream: Stream, mut peer: Peer, mut taken: Taken) {
        let (serve, way) = (self.serve, self.way);
        let is_plain = way.proxied.is_none() && way.tls.is_none();
        let stream = if is_plain {
            stream
        } else {
            // In the memory of a job of its own, as below.
            let Some(stream) = Box::pin(way.opened(stream, &mut peer, &mut taken)).await else { return };
            stream
        };
        match &way.upgrade {
            None => serve.serve(stream, peer).await,
            Some(upgrade) => {
                // In the memory of a job of its own, which a WebSocket that is open does without.
                let upgraded = Box::pin(way.upgraded(upgrade, stream, &mut peer, &mut taken)).await;
                let Some(stream) = upgraded else { return };
                serve.serve(stream, peer).await;
            }
        }
        drop(taken);
    }
}

#[cfg(test)]
mod tests;
