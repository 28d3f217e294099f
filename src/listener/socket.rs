//! Binding, and the options of sockets. Listening sockets may reuse an address in TIME_WAIT, so that a restart does
//! not have to wait. Accepted sockets send at once, acknowledge when they are told to, and notice a peer that is gone
//! (devices behind carrier NAT vanish without a word).

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
};

use crate::config::BindAddr;
use crate::systemd;

/// Connections that wait in the kernel to be accepted. The kernel's own limit (`somaxconn`) applies too.
pub(super) const BACKLOG: i32 = 4_096;

/// Silence after which the kernel asks whether the peer is still there, how often it asks again, and how many times.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
const KEEPALIVE_RETRIES: u32 = 4;

/// Listens on the first address that `bind` resolves to and that can be bound: TCP carries MQTT [MQTT-4.2.0-1], [MQTT-7.1.1-1].
/// Or on a socket that the service manager has opened for us, which is ours while what comes with it is kept.
pub(crate) async fn listen(bind: &BindAddr) -> io::Result<(TcpListener, Option<systemd::Claim>)> {
    if let Some(name) = bind.passed() {
        let (socket, claim) = systemd::passed(name)?;
        return Ok((TcpListener::from_std(socket)?, Some(claim)));
    }
    let mut last = io::Error::new(io::ErrorKind::AddrNotAvailable, "the name has no address");
    for addr in tokio::net::lookup_host((bind.host.as_str(), bind.port)).await? {
        match listen_on(addr) {
            Ok(listener) => return Ok((listener, None)),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn listen_on(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Sets the options of an accepted socket. It may be gone already, which reading will tell, so errors are not told.
pub(super) fn prepare(stream: &TcpStream) {
    let keepalive =
        TcpKeepalive::new().with_time(KEEPALIVE_IDLE).with_interval(KEEPALIVE_INTERVAL).with_retries(KEEPALIVE_RETRIES);
    let results = [stream.set_nodelay(true), SockRef::from(stream).set_tcp_keepalive(&keepalive)];
    for error in results.into_iter().filter_map(Result::err) {
        tracing::trace!(%error, "socket option not set");
    }
}

/// An accepted socket. A flush of it with nothing written since the last read says that no answer is near: then the kernel
/// acknowledges what was read now, not 40 ms later in the hope of an answer to send the acknowledgement with.
///
/// Most clients leave Nagle's algorithm on, so what they send next waits for that acknowledgement: the PUBLISH behind a
/// PUBACK, the second of two messages at QoS 0.
#[derive(Debug)]
pub(super) struct Prompt {
    stream: TcpStream,
    /// Something was read, and nothing was written after it.
    is_unanswered: bool,
}

impl Prompt {
    pub(super) const fn new(stream: TcpStream) -> Self {
        Self { stream, is_unanswered: false }
    }

    /// What the peer begins with, which is still to be read then; `None`: it has nothing to say.
    pub(super) async fn first_byte(&self) -> io::Result<Option<u8>> {
        let mut first = [0];
        let count = self.stream.peek(&mut first).await?;
        Ok((count > 0).then_some(first[0]))
    }

    #[cfg(target_os = "linux")]
    fn acknowledge(&self) {
        // The kernel forgets it again, which is why it is said each time. A socket that is gone is for reading to notice.
        let _ = SockRef::from(&self.stream).set_tcp_quickack(true);
    }

    #[cfg(not(target_os = "linux"))]
    fn acknowledge(&self) {}

    fn wrote(&mut self, polled: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        // What is written takes the acknowledgement along.
        self.is_unanswered &= polled.is_pending();
        polled
    }
}

impl AsyncRead for Prompt {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.is_unanswered |= buf.filled().len() > before;
        polled
    }
}

impl AsyncWrite for Prompt {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.wrote(polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.wrote(polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if std::mem::take(&mut self.is_unanswered) {
            self.acknowledge();
        }
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Raises the number of files this process may open to what the system allows it, and answers that number; `None`
/// is no limit.
pub(super) fn raise_open_files_limit() -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(error) => {
            tracing::debug!(%error, "the limit of open files stays as it is");
            limit.current
        }
    }
}
