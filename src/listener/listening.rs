//! The sockets that connections are taken from, of the network and of the file system.

use std::io;
use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tracing::debug;

use super::socket::{self, Prompt};
use super::stream::Stream;
use super::unix::{self, SocketFile};
use super::{Entrance, ListenerError};
use crate::config::ListenerConfig;
use crate::network::{BoundTo, PeerAddr};
use crate::systemd::Claim;

/// A socket that listens.
#[derive(Debug)]
pub(super) enum ListeningSocket {
    Tcp(TcpListener, SocketAddr, #[expect(dead_code, reason = "given back when it is dropped")] Option<Claim>),
    /// The file goes first: one whose socket is closed is taken for one that was left, and what took its place would be removed.
    Unix(SocketFile, UnixListener),
}

impl ListeningSocket {
    /// Opens that of a listener; `None`: it is turned off.
    pub(super) async fn open(listener: &ListenerConfig) -> Result<Option<Self>, ListenerError> {
        let name = &listener.name;
        if let Some(socket) = listener.unix_socket() {
            let opened = unix::listen(&socket).map(|(listener, file)| Some(Self::Unix(file, listener)));
            let failed = |source| ListenerError::Socket { name: name.clone(), path: socket.path.clone(), source };
            return opened.map_err(failed);
        }
        let Some(bind) = &listener.bind else { return Ok(None) };
        let opened = socket::listen(bind).await.and_then(|(listener, claim)| {
            let addr = listener.local_addr()?;
            Ok(Some(Self::Tcp(listener, addr, claim)))
        });
        opened.map_err(|source| ListenerError::Bind { name: name.clone(), bind: bind.clone(), source })
    }

    /// Where it is.
    pub(super) fn bound_to(&self) -> BoundTo {
        match self {
            Self::Tcp(_, addr, _) => BoundTo::Ip(*addr),
            Self::Unix(file, _) => BoundTo::Unix(file.path().to_owned()),
        }
    }

    /// The next who connects.
    pub(super) async fn accept(&self) -> io::Result<Accepted> {
        match self {
            Self::Tcp(listener, ..) => listener.accept().await.map(|(stream, addr)| Accepted::Tcp(stream, addr)),
            Self::Unix(_, listener) => listener.accept().await.map(|(stream, _)| Accepted::Unix(stream)),
        }
    }
}

/// A connection that was taken.
#[derive(Debug)]
pub(super) enum Accepted {
    Tcp(TcpStream, SocketAddr),
    Unix(UnixStream),
}

impl Accepted {
    /// Who it is. A process is known by what the kernel said when it connected.
    pub(super) fn peer(&self, entrance: &Entrance) -> io::Result<PeerAddr> {
        match self {
            Self::Tcp(_, addr) => Ok((*addr).into()),
            Self::Unix(stream) => {
                let process = stream.peer_cred()?;
                let (uid, gid, pid) = (process.uid(), process.gid(), process.pid().unwrap_or_default());
                let peer = PeerAddr::Unix { uid, pid };
                debug!(remote = %peer, listener = &*entrance.name, pid, uid, gid, "a process has connected");
                Ok(peer)
            }
        }
    }

    /// As a stream, with the options that its socket is to have.
    pub(super) fn into_stream(self) -> Stream {
        match self {
            Self::Tcp(stream, _) => {
                socket::prepare(&stream);
                Stream::Plain(Prompt::new(stream))
            }
            Self::Unix(stream) => Stream::Unix(stream),
        }
    }
}
