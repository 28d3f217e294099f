//! Sidecars in memory: leases that end, and requests that are a call.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mqtt_ownership::{Found, PutNumber, Revision, TenureInput, TenureStep};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::MemoryServer;
use super::link::{Link, LinkState};
use super::table::{Content, Fence, Write};
use crate::store::core::RequestError;
use crate::store::error::{Unavailable, WriteError};
use crate::store::nodes::{Grip, LeaseTimes, LeaseView, NodeInfo};
use crate::store::peers::Peers;
use crate::store::sessions::RECORD_VERSION;

/// How long the marker of a lease that was released stays, seconds.
const RELEASED_TTL_S: u32 = 600;
/// Before a refresh is tried again.
const PAUSE: Duration = Duration::from_millis(50);

type Answer = Pin<Box<dyn Future<Output = Option<Bytes>> + Send>>;
type Handler = Arc<dyn Fn(Bytes) -> Answer + Send + Sync>;

/// Who serves which name, over which link.
#[derive(Default)]
pub(super) struct Services(Mutex<HashMap<String, (Handler, Arc<Link>)>>);

/// See the module.
#[derive(Clone)]
pub(crate) struct MemoryPeers {
    server: MemoryServer,
    link: Arc<Link>,
    times: LeaseTimes,
}

/// A lease that is kept.
pub(crate) struct MemoryLease {
    keeper: Keeper,
    grip: watch::Receiver<Grip>,
    task: JoinHandle<()>,
}

impl Drop for MemoryLease {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A name being served.
pub(crate) struct MemoryServed {
    server: MemoryServer,
    node: String,
}

impl Drop for MemoryServed {
    fn drop(&mut self) {
        self.server.services.0.lock().remove(&self.node);
    }
}

#[derive(Clone)]
struct Keeper {
    peers: MemoryPeers,
    info: NodeInfo,
    /// Begins the names of its writes.
    boot: u64,
}

impl MemoryPeers {
    pub(super) fn new(server: MemoryServer, link: Arc<Link>) -> Self {
        Self { server, link, times: LeaseTimes::default() }
    }
}

impl Peers for MemoryPeers {
    type Lease = MemoryLease;
    type Served = MemoryServed;

    async fn acquire(&self, node: &str, mqtt: Vec<String>) -> Result<MemoryLease, Unavailable> {
        let (boot, since_ms) = (rand::random::<u64>(), self.server.now_ms());
        let (node, version) = (node.to_owned(), RECORD_VERSION);
        let (name, connections) = (format!("{boot:016x}"), std::collections::BTreeMap::new());
        let info = NodeInfo {
            version,
            node,
            boot: name,
            since_ms,
            mqtt,
            seals: true,
            connections,
            shut: std::collections::BTreeSet::new(),
        };
        let keeper = Keeper { peers: self.clone(), info, boot };
        let last = self.server.leases.last(&self.link, &keeper.info.node).await?;
        let began = Instant::now();
        let expected = last.map_or(0, |last| last.sequence);
        let sequence =
            keeper.put(expected, PutNumber(0), began + self.times.fence_after).await.map_err(Unavailable::new)?;
        let grip = Grip::new(self.times.of_node(), sequence, began);
        let (told, seen) = watch::channel(grip.clone());
        let task = tokio::spawn(keeper.clone().keep(grip, told));
        Ok(MemoryLease { keeper, grip: seen, task })
    }

    fn view(&self, lease: &MemoryLease) -> LeaseView {
        LeaseView::of(lease.grip.clone())
    }

    async fn release(&self, lease: MemoryLease) {
        lease.task.abort();
        let grip = lease.grip.borrow().clone();
        if grip.state().is_held() {
            let _ = lease
                .keeper
                .write(Content::Deleted, grip.sequence(), u64::MAX, RELEASED_TTL_S, self.times.refresh_every)
                .await;
        }
    }

    async fn alive(&self) -> Result<Vec<NodeInfo>, Unavailable> {
        self.link.reads().await?;
        Ok(self.server.leases.values().into_iter().map(|(_, info)| info).collect())
    }

    async fn is_gone(&self, node: &str) -> Result<bool, Unavailable> {
        let last = self.server.leases.last(&self.link, &node.to_owned()).await?;
        Ok(last.is_none_or(|last| !matches!(last.content, Content::Value(_))))
    }

    async fn serve<F, Fut>(&self, node: &str, handler: F) -> Result<MemoryServed, Unavailable>
    where
        F: Fn(Bytes) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Option<Bytes>> + Send + 'static,
    {
        self.link.reads().await?;
        let handler: Handler = Arc::new(move |request| Box::pin(handler(request)));
        self.server.services.0.lock().insert(node.to_owned(), (handler, Arc::clone(&self.link)));
        Ok(MemoryServed { server: self.server.clone(), node: node.to_owned() })
    }

    async fn ask(&self, node: &str, request: Bytes, within: Duration) -> Result<Bytes, RequestError> {
        let deadline = Instant::now() + within;
        self.link.pass();
        if self.link.state() == LinkState::Down {
            return Err(Unavailable::new("not connected").into());
        }
        let served = self.server.services.0.lock().get(node).cloned();
        let Some((handler, link)) = served else { return Err(RequestError::Nobody) };
        let answered = async {
            let answer = handler(request).await.filter(|_| link.state() == LinkState::Up);
            answer.filter(|_| self.link.state() == LinkState::Up)
        };
        if link.state() != LinkState::Down
            && let Ok(Some(answer)) = tokio::time::timeout_at(deadline, answered).await
        {
            return Ok(answer);
        }
        tokio::time::sleep_until(deadline).await;
        Err(RequestError::TimedOut)
    }
}

impl Keeper {
    async fn write(
        &self,
        content: Content<NodeInfo>,
        expected: u64,
        number: u64,
        ttl_s: u32,
        within: Duration,
    ) -> Result<u64, WriteError> {
        let (key, fence) = (self.info.node.clone(), Fence::Own(expected));
        let write = Write { key, content, fence, ttl_s: Some(ttl_s), id: (self.boot, number) };
        self.peers.server.leases.write(&self.peers.link, &write, Instant::now() + within).await.0
    }

    async fn put(&self, expected: u64, PutNumber(number): PutNumber, deadline: Instant) -> Result<u64, WriteError> {
        let within = deadline.saturating_duration_since(Instant::now());
        self.write(Content::Value(self.info.clone()), expected, number, self.peers.times.ttl_s, within).await
    }

    async fn found(&self) -> TenureInput {
        let node = &self.info.node;
        let Ok(last) = self.peers.server.leases.last(&self.peers.link, node).await else {
            return TenureInput::NoAnswer;
        };
        TenureInput::Found(match last {
            None => Found::Nobody(Revision(0)),
            Some(last) if !matches!(last.content, Content::Value(_)) => Found::Nobody(Revision(last.sequence)),
            Some(last) if last.id.0 == self.boot => Found::Ours(PutNumber(last.id.1), Revision(last.sequence)),
            Some(_) => Found::Theirs,
        })
    }

    /// As the keeper of a lease over JetStream.
    async fn keep(self, mut grip: Grip, told: watch::Sender<Grip>) {
        let mut step = grip.begin();
        loop {
            let until = grip.changes_at();
            let input = match step {
                TenureStep::Wait(at) => {
                    tokio::time::sleep_until(grip.at(at).min(until)).await;
                    TenureInput::Time
                }
                TenureStep::Pause => {
                    tokio::time::sleep(PAUSE).await;
                    TenureInput::Time
                }
                TenureStep::Put { expected, number } => {
                    let deadline = until.min(Instant::now() + self.peers.times.refresh_every / 4);
                    match self.put(expected.0, number, deadline).await {
                        Ok(sequence) => TenureInput::Stored(Revision(sequence)),
                        Err(WriteError::Fenced) => TenureInput::Refused,
                        Err(_) => TenureInput::NoAnswer,
                    }
                }
                TenureStep::Look => tokio::time::timeout_at(until, self.found()).await.unwrap_or(TenureInput::NoAnswer),
                TenureStep::End => return,
            };
            step = grip.handle(input);
            told.send_replace(grip.clone());
        }
    }
}
