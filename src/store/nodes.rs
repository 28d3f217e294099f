//! Which sidecars are alive, and which of them does what only one may do: leases with a lifetime in one bucket.
//!
//! A lease is held as long as it is refreshed; every refresh is a compare-and-swap on the last one, so nobody holds what
//! somebody else has taken. The holder's own view ends well before the lease does, by its own monotonic clock: see
//! [`lease`]. What holders do with that is the broker's.

mod candidacy;
mod follower;
mod lease;

use std::sync::Arc;

use bytestring::ByteString;
use proto_map::Names;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

pub use self::candidacy::Candidacy;
pub use self::follower::{Alive, NodesFollower, NodesSink};
use self::lease::Keeper;
pub use self::lease::{Lease, LeaseState, LeaseTimes};
use super::api::Api;
use super::bucket::{Bucket, Fence, Value, Write};
use super::error::{Unavailable, WriteError};
use super::sessions::{RECORD_VERSION, instant};

/// How long the mark of [`Nodes::is_gone`] stays, seconds.
const TOUCHED_TTL_S: u32 = 60;

/// The leases of an account.
#[derive(Clone, Debug)]
pub struct Nodes {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    bucket: Bucket,
    readers: Api,
    names: Names,
    times: LeaseTimes,
}

/// A sidecar that is alive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeInfo {
    /// Version of whoever wrote it, as in session records.
    #[serde(default)]
    pub version: u32,
    /// Its name.
    pub node: String,
    /// Another one each time that it takes its lease.
    pub boot: String,
    /// When it took its lease, milliseconds since the epoch, by the server's clock.
    #[serde(rename = "since", with = "instant")]
    pub since_ms: u64,
    /// Where it listens for MQTT.
    #[serde(default)]
    pub mqtt: Vec<String>,
    /// It seals what it asks and answers.
    #[serde(default)]
    pub seals: bool,
}

impl Nodes {
    pub(super) fn new(bucket: Bucket, readers: Api, names: Names) -> Self {
        Self { shared: Arc::new(Shared { bucket, readers, names, times: LeaseTimes::default() }) }
    }

    /// The same with other times, which all sidecars of an account should share.
    #[must_use]
    pub fn with_times(&self, times: LeaseTimes) -> Self {
        let Shared { bucket, readers, names, .. } = &*self.shared;
        let (bucket, readers, names) = (bucket.clone(), readers.clone(), names.clone());
        Self { shared: Arc::new(Shared { bucket, readers, names, times }) }
    }

    /// Takes the lease of a node and keeps it. A lease of the same name that is there is taken over: an earlier process of
    /// this node did not end well, or, which is an error of the operator, is still there and becomes [`LeaseState::Lost`].
    ///
    /// # Errors
    /// When JetStream does not answer.
    pub async fn acquire(&self, node: &str, mqtt: Vec<String>) -> Result<Lease, Unavailable> {
        let subject = self.shared.names.node_lease(node).map_err(Unavailable::new)?;
        let boot = format!("{:016x}", rand::random::<u64>());
        let since_ms = self.shared.bucket.api.link.clock.earliest_ms();
        let info = NodeInfo { version: RECORD_VERSION, node: node.to_owned(), boot, since_ms, mqtt, seals: true };
        let value = serde_json::to_vec(&info).map_err(Unavailable::new)?;
        let keeper = Keeper::new(&self.shared, subject, value.into(), &info.boot);
        let Some(grip) = keeper.take(true).await? else {
            return Err(Unavailable::new("another process takes the lease of this node at the same time"));
        };
        let (tx, state) = watch::channel(LeaseState::Held);
        Ok(Lease::start(info, keeper, grip, tx, state))
    }

    /// Whether a node has a lease, from the leader.
    ///
    /// # Errors
    /// When JetStream does not answer.
    pub async fn is_alive(&self, node: &str) -> Result<bool, Unavailable> {
        let subject = self.shared.names.node_lease(node).map_err(Unavailable::new)?;
        Ok(self.shared.bucket.last(&subject).await?.is_some_and(|last| last.value().is_some()))
    }

    /// Whether a node has no lease for certain. Reads may be answered by a leader that knows less than was acknowledged, to which a
    /// lease that has just been taken is none; this ends in a write that is compared with the key of the lease.
    ///
    /// # Errors
    /// When JetStream does not answer.
    pub async fn is_gone(&self, node: &str) -> Result<bool, Unavailable> {
        let Shared { bucket, names, .. } = &*self.shared;
        let lease = names.node_lease(node).map_err(Unavailable::new)?;
        let last = bucket.last(&lease).await?;
        if last.as_ref().is_some_and(|last| last.value().is_some()) {
            return Ok(false);
        }
        let touched = self.shared.touched_subject();
        let (value, fence) = (Value::Cleaned, Fence::Of(&lease, last.map_or(0, |last| last.sequence)));
        match bucket.write(&Write { subject: &touched, value, fence, ttl_s: Some(TOUCHED_TTL_S) }).await {
            Ok(_) => Ok(true),
            Err(WriteError::Fenced) => Ok(false),
            Err(error) => Err(Unavailable::new(error)),
        }
    }

    /// The nodes that have a lease, as they were at some moment after the call or later.
    ///
    /// # Errors
    /// When JetStream does not answer.
    pub async fn alive(&self) -> Result<Vec<NodeInfo>, Unavailable> {
        follower::alive(&self.shared).await
    }

    /// Follows which nodes have a lease, until what this returns is dropped.
    pub fn follow(&self, sink: Arc<dyn NodesSink>) -> NodesFollower {
        NodesFollower::start(Arc::clone(&self.shared), sink)
    }

    /// Stands for the lead in something that one sidecar of the account does at a time, until what this returns is dropped.
    /// `name` is made of letters, digits, `-` and `_`.
    pub fn lead(&self, name: &str) -> Candidacy {
        Candidacy::start(Arc::clone(&self.shared), name)
    }
}

impl Shared {
    /// Where the lead in something is kept: two tokens, which no node has.
    fn lead_subject(&self, name: &str) -> ByteString {
        let subjects = self.names.nodes_subjects();
        format!("{}lead.{name}", subjects.trim_end_matches('>')).into()
    }

    /// Where keys are compared without being changed: two tokens as well.
    fn touched_subject(&self) -> ByteString {
        let subjects = self.names.nodes_subjects();
        format!("{}touched.lease", subjects.trim_end_matches('>')).into()
    }
}
