//! What those take of the limits who come to one listener (`admission`), and a place among those that have not completed
//! CONNECT. Behind a proxy it is the address of the client that counts, once it is known.
//!
//! Whoever is refused is told so by CONNACK as long as that is cheap, and closed otherwise.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tracing::warn;

use super::admission::{Admitted, Gate, Hall, Telling};
use super::places::Handshakes;
use super::{Entrance, Peer, Refused};
use crate::config::Config;
use crate::metrics::{BanKind, Limit, Metrics};
use crate::network::PeerAddr;

/// Files that are kept for NATS connections, the admin listener, connections that are told that they are refused, and the rest of
/// the process.
const FILES_RESERVED: u64 = 192;

/// Connections when neither the configuration nor the system sets a limit.
const CONNECTIONS_MAX: u32 = 1_000_000;

/// The same warning comes at most once in this time.
const WARN_EVERY: Duration = Duration::from_secs(10);

/// What all listeners share.
#[derive(Clone, Debug)]
pub(super) struct Shared {
    hall: Arc<Hall>,
    /// Files that may be open.
    open_files: Option<u64>,
    handshakes: Arc<Handshakes>,
    /// Connections that were taken.
    taken: Arc<AtomicU64>,
}

impl Shared {
    pub(super) fn new(config: &Config, open_files: Option<u64>) -> Self {
        Self {
            hall: Hall::new(connections_max(config, open_files)),
            open_files,
            handshakes: Handshakes::new(config.listeners.max_handshakes),
            taken: Arc::default(),
        }
    }

    /// These limits of all listeners count from now on.
    pub(super) fn limit(&self, config: &Config) {
        self.hall.set_connections_max(connections_max(config, self.open_files));
    }

    /// A way into the hall, for one listener.
    pub(super) fn gate(&self, entrance: &Entrance) -> Gate {
        Gate::new(Arc::clone(&self.hall), Arc::clone(&entrance.limits))
    }
}

/// Connections of all listeners: never 0.
fn connections_max(config: &Config, open_files: Option<u64>) -> u32 {
    let most = config.limits.connections.filter(|most| *most > 0);
    most.unwrap_or_else(|| connections_of(open_files))
}

/// Connections that the open files leave.
fn connections_of(open_files: Option<u64>) -> u32 {
    let files = open_files.and_then(|files| u32::try_from(files.saturating_sub(FILES_RESERVED)).ok());
    files.map_or(CONNECTIONS_MAX, |files| files.clamp(1, CONNECTIONS_MAX))
}

/// What a connection takes, until it is over.
#[derive(Debug)]
pub(super) enum Taken {
    /// It was let in.
    Admitted(Admitted),
    /// It was not, and is told so.
    Telling(#[expect(dead_code, reason = "given back when it is dropped")] Telling),
}

/// Where those come in who come to one listener.
#[derive(Debug)]
pub(super) struct Reception {
    entrance: Arc<Entrance>,
    gate: Arc<Gate>,
    shared: Shared,
    metrics: Arc<Metrics>,
    refused: Mutex<Seldom>,
    evicted: Mutex<Seldom>,
}

impl Reception {
    /// `gate`: that of the listener, also of what it was before.
    pub(super) fn new(entrance: Arc<Entrance>, gate: Arc<Gate>, shared: Shared, metrics: Arc<Metrics>) -> Self {
        Self { entrance, gate, shared, metrics, refused: Mutex::default(), evicted: Mutex::default() }
    }

    /// What the listener counts.
    pub(super) fn gate(&self) -> Arc<Gate> {
        Arc::clone(&self.gate)
    }

    /// Takes somebody in, perhaps only to be told that it is refused; `None`: it is closed. `speaks_for_others`: it is a proxy, whose
    /// connections are not its own.
    pub(super) fn take(&self, addr: PeerAddr, speaks_for_others: bool) -> Option<(Peer, Taken)> {
        let mut peer = Peer::new(addr, Arc::clone(&self.entrance));
        let admitted = match speaks_for_others {
            true => self.gate.admit(None).map_err(Refused::Limit),
            false if self.is_banned(addr) => Err(Refused::Banned),
            false => self.gate.admit(Some(addr.counted_by())).map_err(Refused::Limit),
        };
        let taken = match admitted {
            Ok(admitted) => {
                let (handshake, has_evicted) = self.shared.handshakes.enter(addr.counted_by());
                if has_evicted {
                    self.metrics.connect_over_limit();
                    self.note(&self.evicted, addr, Refused::Limit(Limit::Handshakes), "closed");
                }
                peer.handshake = handshake;
                Taken::Admitted(admitted)
            }
            Err(why) => {
                let telling = self.refuse(addr, why)?;
                peer.refused = Some(why);
                Taken::Telling(telling)
            }
        };
        peer.place = self.shared.taken.fetch_add(1, Ordering::Relaxed);
        Some((peer, taken))
    }

    /// It is known now whose connection it is: what counts for addresses counts for that of the peer from now on. `false`: it is to
    /// be closed.
    pub(super) fn take_as(&self, peer: &mut Peer, taken: &mut Taken) -> bool {
        let Taken::Admitted(admitted) = taken else { return true };
        let moved = match self.is_banned(peer.addr) {
            true => Err(Refused::Banned),
            false => self.gate.move_to(admitted, peer.addr.counted_by()).map_err(Refused::Limit),
        };
        if moved.is_ok() {
            peer.handshake.move_to(peer.addr.counted_by());
        }
        self.stays(peer, taken, moved)
    }

    /// It is known now that it is nobody's but the proxy's. `false`: it is to be closed.
    pub(super) fn take_as_own(&self, peer: &mut Peer, taken: &mut Taken) -> bool {
        let Taken::Admitted(admitted) = taken else { return true };
        let settled = self.gate.settle(admitted).map_err(Refused::Limit);
        self.stays(peer, taken, settled)
    }

    /// Whether a connection stays, perhaps only to be told that it is refused.
    fn stays(&self, peer: &mut Peer, taken: &mut Taken, settled: Result<(), Refused>) -> bool {
        let Err(why) = settled else { return true };
        let Some(telling) = self.refuse(peer.addr, why) else { return false };
        (*taken, peer.refused) = (Taken::Telling(telling), Some(why));
        true
    }

    fn is_banned(&self, addr: PeerAddr) -> bool {
        addr.ip().is_some_and(|ip| self.entrance.bans.is_address_banned(ip))
    }

    /// Somebody is refused; `None`: it is not told.
    fn refuse(&self, addr: PeerAddr, why: Refused) -> Option<Telling> {
        let telling = self.shared.hall.tells();
        if telling.is_none() {
            self.metrics.connect_over_limit();
        }
        self.note(&self.refused, addr, why, if telling.is_some() { "refused" } else { "closed" });
        telling
    }

    /// A connection was closed or refused because of a limit or a ban.
    fn note(&self, seldom: &Mutex<Seldom>, remote: PeerAddr, why: Refused, was: &str) {
        match why {
            Refused::Limit(limit) => self.metrics.over_limit(limit),
            Refused::Banned => self.metrics.bans.refused(BanKind::Address),
        }
        let Some(suppressed) = seldom.lock().due() else { return };
        let listener = &*self.entrance.name;
        match why {
            Refused::Limit(limit) => {
                warn!(listener, %remote, suppressed, "a connection was {was}: {} is reached", limit.key());
            }
            Refused::Banned => warn!(listener, %remote, suppressed, "a connection was {was}: its address is banned"),
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
