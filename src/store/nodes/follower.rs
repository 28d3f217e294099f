//! Which nodes are alive, as the bucket of leases says.
//!
//! A lease that ends leaves a marker, which is the event. After every loss of the connection the bucket is read from the
//! beginning, so that a node whose marker has gone meanwhile is noticed too.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::{NodeInfo, Nodes, Shared};
use crate::store::bucket::Content;
use crate::store::entry::LogEntry;
use crate::store::error::Unavailable;
use crate::store::reader::{Pace, Progress, Reader, Source};

const BATCH_MAX: usize = 512;
const MISSING_PAUSE: Duration = Duration::from_millis(500);

/// Is told which nodes come and go. Called synchronously from the follower's task, must not block.
pub trait NodesSink: Send + Sync {
    /// A node has taken its lease. When it was alive before with another `boot`, that one is gone.
    fn alive(&self, node: &NodeInfo);
    /// A node has taken or refreshed its lease; not for leases that are found at the start.
    fn heard(&self, _node: &str) {}
    /// A node has given its lease back. [`NodesSink::gone`] follows.
    fn released(&self, _node: &str) {}
    /// The lease of a node has ended: it expired or was released. Also for nodes whose marker is found at the start.
    fn gone(&self, node: &str);
}

impl Nodes {
    /// The nodes that have a lease, as they were at some moment after the call or later.
    ///
    /// # Errors
    /// When JetStream does not answer.
    pub async fn alive(&self) -> Result<Vec<NodeInfo>, Unavailable> {
        alive(&self.shared).await
    }

    /// Follows which nodes have a lease, until what this returns is dropped.
    pub fn follow(&self, sink: Arc<dyn NodesSink>) -> NodesFollower {
        NodesFollower::start(Arc::clone(&self.shared), sink)
    }
}

/// Which nodes are alive.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Alive {
    /// The bucket has been read to its end since the connection was made.
    pub is_complete: bool,
    /// Nodes with a lease, by name.
    pub nodes: Arc<BTreeMap<String, NodeInfo>>,
}

/// The nodes being followed. It ends when this is dropped.
#[derive(Debug)]
pub struct NodesFollower {
    alive: watch::Receiver<Alive>,
    task: JoinHandle<()>,
}

impl NodesFollower {
    pub(super) fn start(shared: Arc<Shared>, sink: Arc<dyn NodesSink>) -> Self {
        let (tx, alive) = watch::channel(Alive::default());
        let known = Known { sink, tx, nodes: BTreeMap::new(), seen: None };
        let tasks = shared.bucket.api.link.tasks.clone();
        Self { alive, task: tasks.spawn(run(shared, known)) }
    }

    /// Which nodes are alive.
    pub fn alive(&self) -> watch::Receiver<Alive> {
        self.alive.clone()
    }
}

impl Drop for NodesFollower {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What an entry of the bucket says.
enum Event {
    Alive(NodeInfo),
    Released(String),
    Gone(String),
}

impl Shared {
    fn reader(&self) -> Reader {
        let subjects = self.names.nodes_subjects();
        let source = Source {
            stream: Arc::clone(&self.bucket.stream),
            prefix: Arc::from(subjects.trim_end_matches('>')),
            purpose: "nodes",
            last_per_subject: true,
            pace: Pace { batch: 512, bytes: 2 << 20, overlap: true },
        };
        Reader::new(self.readers.clone(), self.readers.link.clone(), source, 1)
    }

    /// `None` for what is no lease of a node.
    fn event(&self, entry: LogEntry) -> Option<Event> {
        let node = self.names.strip_node_lease(entry.stream_subject())?;
        let headers = entry.headers.unwrap_or_default();
        Some(match Content::of(&headers, entry.payload) {
            Content::Value(value) => match serde_json::from_slice::<NodeInfo>(&value) {
                Ok(info) => Event::Alive(NodeInfo { node, ..info }),
                Err(error) => {
                    tracing::error!(%node, %error, "the lease of a node cannot be read and is ignored");
                    return None;
                }
            },
            Content::Deleted => Event::Released(node),
            Content::Expired | Content::Cleaned => Event::Gone(node),
        })
    }
}

async fn alive(shared: &Shared) -> Result<Vec<NodeInfo>, Unavailable> {
    let mut reader = shared.reader();
    let mut batch = Vec::with_capacity(BATCH_MAX);
    let mut nodes = BTreeMap::new();
    loop {
        match reader.next(&mut batch, BATCH_MAX).await? {
            Progress::StreamMissing => return Err(Unavailable::new("the stream is gone")),
            Progress::SnapshotBegins { .. } => nodes.clear(),
            Progress::Restarted { .. } | Progress::Read => {}
        }
        for event in batch.drain(..).filter_map(|entry| shared.event(entry)) {
            match event {
                Event::Alive(info) => nodes.insert(info.node.clone(), info),
                Event::Released(node) | Event::Gone(node) => nodes.remove(&node),
            };
        }
        if reader.is_caught_up() {
            return Ok(nodes.into_values().collect());
        }
    }
}

/// What the follower knows.
struct Known {
    sink: Arc<dyn NodesSink>,
    tx: watch::Sender<Alive>,
    nodes: BTreeMap<String, NodeInfo>,
    /// While a snapshot is being read: the nodes that are in it.
    seen: Option<Vec<String>>,
}

async fn run(shared: Arc<Shared>, mut known: Known) {
    let mut reader = shared.reader();
    let mut batch = Vec::with_capacity(BATCH_MAX);
    loop {
        match reader.next(&mut batch, BATCH_MAX).await {
            Ok(Progress::SnapshotBegins { .. }) => {
                known.seen = Some(Vec::new());
                known.tx.send_modify(|alive| alive.is_complete = false);
            }
            Ok(Progress::StreamMissing) => {
                shared.bucket.make_again().await;
                tokio::time::sleep(MISSING_PAUSE).await;
            }
            Ok(Progress::Restarted { .. } | Progress::Read) => {}
            // The reader has paused already.
            Err(_) => continue,
        }
        let events: Vec<Event> = batch.drain(..).filter_map(|entry| shared.event(entry)).collect();
        known.apply(events, reader.is_caught_up());
    }
}

impl Known {
    /// Returns whether it was there.
    fn end(&mut self, node: &str) -> bool {
        let was_there = self.nodes.remove(node).is_some();
        if let Some(seen) = &mut self.seen {
            seen.retain(|seen| seen != node);
        }
        self.sink.gone(node);
        was_there
    }

    fn apply(&mut self, events: Vec<Event>, is_caught_up: bool) {
        let mut changed = false;
        for event in events {
            match event {
                Event::Alive(info) => {
                    match &mut self.seen {
                        Some(seen) => seen.push(info.node.clone()),
                        None => self.sink.heard(&info.node),
                    }
                    // Most are refreshes, which say nothing new.
                    if self.nodes.get(&info.node) != Some(&info) {
                        changed = true;
                        self.sink.alive(&info);
                        self.nodes.insert(info.node.clone(), info);
                    }
                }
                Event::Released(node) => {
                    self.sink.released(&node);
                    changed |= self.end(&node);
                }
                Event::Gone(node) => changed |= self.end(&node),
            }
        }
        if is_caught_up && let Some(seen) = self.seen.take() {
            changed = true;
            let gone: Vec<String> = self.nodes.keys().filter(|node| !seen.contains(node)).cloned().collect();
            for node in gone {
                self.nodes.remove(&node);
                self.sink.gone(&node);
            }
        }
        if changed {
            let alive = Alive { is_complete: self.seen.is_none(), nodes: Arc::new(self.nodes.clone()) };
            self.tx.send_replace(alive);
        }
    }
}
