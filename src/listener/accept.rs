//! The loop that takes connections. At the limit of handshakes the oldest one of the address that has most makes room; at a limit
//! of connections it accepts and closes, so that devices try elsewhere. What the system refuses (no more
//! files, no more memory) is tried again later.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{net::TcpListener, sync::Semaphore};
use tokio_util::task::TaskTracker;
use tracing::warn;

use super::places::{Addresses, Handshakes};
use super::{Bound, Dispatch, Entrance, ListenerError, Peer, Serve, semaphore, socket};
use crate::{
    config::{BindAddr, ListenersConfig},
    metrics::{Limit, Metrics},
    shutdown::ShutdownSignal,
};

/// Files that are kept for NATS connections, the admin listener and the rest of the process.
const FILES_RESERVED: u64 = 128;

/// Connections when neither the configuration nor the system sets a limit.
const CONNECTIONS_MAX: u64 = 1_000_000;

const BACKOFF_MIN: Duration = Duration::from_millis(10);
const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// The same warning comes at most once in this time.
const WARN_EVERY: Duration = Duration::from_secs(10);

/// Limits of all listeners together.
#[derive(Clone, Debug)]
pub(super) struct Limits {
    connections: Arc<Semaphore>,
    handshakes: Arc<Handshakes>,
    addresses: Arc<Addresses>,
    /// Connections that were taken.
    taken: Arc<AtomicU64>,
}

impl Limits {
    pub(super) fn new(config: &ListenersConfig, open_files: Option<u64>) -> Self {
        let connections = match config.max_connections {
            0 => open_files
                .map_or(CONNECTIONS_MAX, |files| files.saturating_sub(FILES_RESERVED).clamp(1, CONNECTIONS_MAX)),
            limit => u64::from(limit),
        };
        Self {
            connections: semaphore(usize::try_from(connections).unwrap_or(usize::MAX)),
            handshakes: Handshakes::new(config.max_handshakes),
            addresses: Addresses::new(config.max_connections_per_address),
            taken: Arc::default(),
        }
    }
}

/// A bound listener before it runs.
pub(super) struct Acceptor {
    pub(super) bound: Bound,
    listener: TcpListener,
}

impl Acceptor {
    pub(super) async fn bind(entrance: Arc<Entrance>, bind: &BindAddr) -> Result<Self, ListenerError> {
        let opened = async {
            let listener = socket::listen(bind).await?;
            let addr = listener.local_addr()?;
            Ok((listener, addr))
        };
        match opened.await {
            Ok((listener, addr)) => Ok(Self { bound: Bound { entrance, addr }, listener }),
            Err(source) => Err(ListenerError::Bind { name: entrance.name.to_string(), bind: bind.clone(), source }),
        }
    }

    /// Accepts until shutdown; connections run as tasks of `connections`.
    pub(super) async fn run<H: Serve>(
        self,
        dispatch: Dispatch<H>,
        limits: Limits,
        metrics: Arc<Metrics>,
        connections: TaskTracker,
        shutdown: ShutdownSignal,
    ) {
        let (mut refused, mut evicted) = (Seldom::default(), Seldom::default());
        let mut failed = Seldom::default();
        let mut backoff = BACKOFF_MIN;
        while let Some(accepted) = tokio::select! {
            biased;
            () = shutdown.wait() => None,
            accepted = self.listener.accept() => Some(accepted),
        } {
            let (stream, addr) = match accepted {
                Ok(accepted) => accepted,
                Err(error) if is_of_the_connection(&error) => continue,
                Err(error) => {
                    if let Some(suppressed) = failed.due() {
                        warn!(listener = &*self.bound.entrance.name, %error, suppressed, "cannot accept; trying again");
                    }
                    tokio::select! {
                        () = shutdown.wait() => break,
                        () = tokio::time::sleep(backoff) => {}
                    }
                    backoff = (backoff * 2).min(BACKOFF_MAX);
                    continue;
                }
            };
            backoff = BACKOFF_MIN;
            let permit = limits.connections.clone().try_acquire_owned().map_err(|_| Limit::Connections);
            let counted = limits.addresses.enter(addr.ip()).ok_or(Limit::ConnectionsPerAddress);
            let admitted = permit.and_then(|permit| Ok((permit, counted?)));
            let (admitted, handshake) = match admitted {
                Ok(admitted) => {
                    let (handshake, has_evicted) = limits.handshakes.enter(addr.ip());
                    if has_evicted {
                        self.over_limit(&metrics, &mut evicted, addr, Limit::Handshakes);
                    }
                    (admitted, handshake)
                }
                Err(limit) => {
                    self.over_limit(&metrics, &mut refused, addr, limit);
                    continue;
                }
            };
            socket::prepare(&stream);
            let place = limits.taken.fetch_add(1, Ordering::Relaxed);
            let peer = Peer { place, handshake, ..Peer::new(addr, Arc::clone(&self.bound.entrance)) };
            connections.spawn(dispatch.clone().run(stream, peer, admitted));
        }
    }

    /// A connection was closed because of a limit.
    fn over_limit(&self, metrics: &Metrics, seldom: &mut Seldom, remote: SocketAddr, limit: Limit) {
        metrics.connect_over_limit();
        metrics.over_limit(limit);
        let limit = limit.key();
        if let Some(suppressed) = seldom.due() {
            warn!(listener = &*self.bound.entrance.name, %remote, suppressed, "a connection was closed: {limit} reached");
        }
    }
}

/// The error is about the one connection that would have been accepted; the next one may be fine.
fn is_of_the_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted, TimedOut};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted | TimedOut)
}

/// Keeps a warning from filling the log.
#[derive(Debug, Default)]
struct Seldom {
    last: Option<Instant>,
    suppressed: u64,
}

impl Seldom {
    /// How many were left out since the last one, when it is time for one.
    fn due(&mut self) -> Option<u64> {
        let now = Instant::now();
        if self.last.is_some_and(|last| now.duration_since(last) < WARN_EVERY) {
            self.suppressed += 1;
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.suppressed))
    }
}
