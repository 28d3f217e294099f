//! What those take of the limits who come to one listener: a place among all connections, one of their address, and one among
//! those that have not completed CONNECT. Behind a proxy it is the address of the client that counts, once it is known.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::warn;

use super::places::{Addresses, Counted, Handshakes};
use super::{Entrance, Peer};
use crate::config::ListenersConfig;
use crate::metrics::{Limit, Metrics};
use crate::network::PeerAddr;

/// Files that are kept for NATS connections, the admin listener and the rest of the process.
const FILES_RESERVED: u64 = 128;

/// Connections when neither the configuration nor the system sets a limit.
const CONNECTIONS_MAX: u64 = 1_000_000;

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
        // As many as can be counted, when there is no limit worth naming.
        let connections = usize::try_from(connections).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        Self {
            connections: Arc::new(Semaphore::new(connections)),
            handshakes: Handshakes::new(config.max_handshakes),
            addresses: Addresses::new(config.max_connections_per_address),
            taken: Arc::default(),
        }
    }
}

/// What a connection takes of the limits, until it is over.
#[derive(Debug)]
pub(super) struct Taken {
    _connection: OwnedSemaphorePermit,
    /// `None`: it is not known yet whose it is.
    address: Option<Counted>,
}

/// Where those come in who come to one listener.
#[derive(Debug)]
pub(super) struct Reception {
    entrance: Arc<Entrance>,
    limits: Limits,
    metrics: Arc<Metrics>,
    refused: Mutex<Seldom>,
    evicted: Mutex<Seldom>,
}

impl Reception {
    pub(super) fn new(entrance: Arc<Entrance>, limits: Limits, metrics: Arc<Metrics>) -> Self {
        Self { entrance, limits, metrics, refused: Mutex::default(), evicted: Mutex::default() }
    }

    /// Takes somebody in; `None`: a limit is reached. `speaks_for_others`: it is a proxy, whose connections are not its own.
    pub(super) fn take(&self, addr: PeerAddr, speaks_for_others: bool) -> Option<(Peer, Taken)> {
        let counted = if speaks_for_others { Ok(None) } else { self.counted(addr).map(Some) };
        let permit = self.limits.connections.clone().try_acquire_owned().map_err(|_| Limit::Connections);
        let taken = permit.and_then(|_connection| Ok(Taken { _connection, address: counted? }));
        let taken = taken.map_err(|limit| self.over_limit(&self.refused, addr, limit)).ok()?;
        let (handshake, has_evicted) = self.limits.handshakes.enter(addr.counted_by());
        if has_evicted {
            self.over_limit(&self.evicted, addr, Limit::Handshakes);
        }
        let place = self.limits.taken.fetch_add(1, Ordering::Relaxed);
        let peer = Peer { place, handshake, ..Peer::new(addr, Arc::clone(&self.entrance)) };
        Some((peer, taken))
    }

    /// It is known now whose connection it is: what counts for addresses counts for that of the peer from now on. `false`: a
    /// limit is reached, and it is to be closed.
    pub(super) fn take_as(&self, peer: &mut Peer, taken: &mut Taken) -> bool {
        match self.counted(peer.addr) {
            Ok(counted) => {
                taken.address = Some(counted);
                peer.handshake.move_to(peer.addr.counted_by());
                true
            }
            Err(limit) => {
                self.over_limit(&self.refused, peer.addr, limit);
                false
            }
        }
    }

    fn counted(&self, addr: PeerAddr) -> Result<Counted, Limit> {
        self.limits.addresses.enter(addr.counted_by()).ok_or(Limit::ConnectionsPerAddress)
    }

    /// A connection was closed because of a limit.
    fn over_limit(&self, seldom: &Mutex<Seldom>, remote: PeerAddr, limit: Limit) {
        self.metrics.connect_over_limit();
        self.metrics.over_limit(limit);
        let limit = limit.key();
        if let Some(suppressed) = seldom.lock().due() {
            warn!(listener = &*self.entrance.name, %remote, suppressed, "a connection was closed: {limit} reached");
        }
    }
}

/// Keeps a warning from filling the log.
#[derive(Debug, Default)]
pub(super) struct Seldom {
    last: Option<Instant>,
    suppressed: u64,
}

impl Seldom {
    /// How many were left out since the last one, when it is time for one.
    pub(super) fn due(&mut self) -> Option<u64> {
        let now = Instant::now();
        if self.last.is_some_and(|last| now.duration_since(last) < WARN_EVERY) {
            self.suppressed += 1;
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.suppressed))
    }
}
