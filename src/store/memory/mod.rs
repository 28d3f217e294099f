//! The three seams over memory, for unit tests: one [`MemoryServer`], and a [`MemoryStore`] for each sidecar on it. They keep
//! the same contract as JetStream does (`tests/contract`), over a link that can be broken in the ways in which a connection can:
//! see [`Link`]. Its time is tokio's, so a test may pause it.
//!
//! Not here: that a server forgets what it acknowledged, or knows less than another one. What is done about that is JetStream's,
//! below the seams.

mod link;
mod log;
mod peers;
mod sessions;
mod table;

#[path = "../../../tests/contract/mod.rs"]
mod contract;

use std::sync::Arc;

use tokio::time::Instant;

pub(crate) use self::link::{Link, LinkState};
pub(crate) use self::log::MemoryLog;
use self::log::Messages;
pub(crate) use self::peers::MemoryPeers;
use self::peers::Services;
pub(crate) use self::sessions::MemorySessions;
use self::table::Table;

/// What all sidecars of an account share.
#[derive(Clone)]
pub(crate) struct MemoryServer {
    sessions: Arc<Table<sessions::Key, sessions::Kept>>,
    leases: Arc<Table<String, super::NodeInfo>>,
    messages: Arc<Messages>,
    services: Arc<Services>,
    began: Instant,
}

/// The time at which a server begins, milliseconds since the epoch.
const BEGAN_MS: u64 = 1_700_000_000_000;

impl MemoryServer {
    pub(crate) fn start() -> Self {
        let (sessions, leases) = (Arc::default(), Arc::default());
        let (messages, services) = (Arc::default(), Arc::default());
        Self { sessions, leases, messages, services, began: Instant::now() }
    }

    /// The server's time, milliseconds since the epoch.
    pub(crate) fn now_ms(&self) -> u64 {
        BEGAN_MS + u64::try_from(self.began.elapsed().as_millis()).unwrap_or(0)
    }

    /// Writes of sessions that are on their way arrive.
    pub(crate) fn release(&self) {
        self.sessions.release();
    }

    /// A sidecar's view of it.
    pub(crate) fn connect(&self) -> MemoryStore {
        let link = Arc::new(Link::default());
        MemoryStore {
            sessions: MemorySessions::new(Arc::clone(&self.sessions), Arc::clone(&link)),
            log: MemoryLog::start(self.clone(), Arc::clone(&self.messages), Arc::clone(&link)),
            peers: MemoryPeers::new(self.clone(), Arc::clone(&link)),
            link,
        }
    }
}

/// What one sidecar has of a [`MemoryServer`].
#[derive(Clone)]
pub(crate) struct MemoryStore {
    pub(crate) sessions: MemorySessions,
    pub(crate) log: MemoryLog,
    pub(crate) peers: MemoryPeers,
    pub(crate) link: Arc<Link>,
}

/// Two sidecars, the link of one of which breaks.
struct MemoryBench {
    server: MemoryServer,
    near: contract::Side<Self>,
    far: contract::Side<Self>,
    link: Arc<Link>,
}

impl contract::Bench for MemoryBench {
    type Sessions = MemorySessions;
    type Log = MemoryLog;
    type Peers = MemoryPeers;

    async fn start() -> Self {
        let server = MemoryServer::start();
        let side = |MemoryStore { sessions, log, peers, link }| (contract::Side { sessions, log, peers }, link);
        let ((near, _), (far, link)) = (side(server.connect()), side(server.connect()));
        Self { server, near, far, link }
    }

    fn near(&self) -> &contract::Side<Self> {
        &self.near
    }

    fn far(&self) -> &contract::Side<Self> {
        &self.far
    }

    fn lose_answers(&self) {
        self.link.set(LinkState::Deaf);
    }

    fn hold(&self) {
        self.link.set(LinkState::Held);
    }

    async fn has_held(&self) {
        contract::eventually("something is held", async || self.server.sessions.has_held()).await;
    }

    async fn release(&self) {
        self.server.release();
    }

    fn stall(&self) {
        self.link.set(LinkState::Down);
    }

    fn mend(&self) {
        self.link.set(LinkState::Up);
    }
}

mod session_store {
    use super::{MemoryBench, contract};

    contract::session_contract!(tokio::test(start_paused = true), MemoryBench);
}

mod message_log {
    use super::{MemoryBench, contract};

    contract::log_contract!(tokio::test(start_paused = true), MemoryBench);
}

mod of_peers {
    use super::{MemoryBench, contract};

    contract::peers_contract!(tokio::test(start_paused = true), MemoryBench);
}
