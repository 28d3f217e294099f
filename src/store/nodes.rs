//! Which sidecars are alive, and which of them does what only one may do: leases with a lifetime in one bucket.
//!
//! A lease is held as long as it is refreshed; every refresh is a compare-and-swap on the last one, so nobody holds what
//! somebody else has taken. Its holder is in doubt well before the lease ends, by its own monotonic clock: see
//! `mqtt_ownership::Tenure`. What holders do with that is the account's.

mod candidacy;
mod follower;
mod lease;
mod occupancy;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytestring::ByteString;
use proto_map::Names;
use serde::{Deserialize, Serialize};

pub use self::candidacy::Candidacy;
pub use self::follower::{Alive, NodesFollower, NodesSink};
#[cfg(test)]
pub(super) use self::lease::Grip;
pub use self::lease::{Lease, LeaseState, LeaseView};
pub use self::occupancy::Occupancy;
use super::api::Api;
use super::bucket::{Bucket, Fence, Value, Write};
use super::error::{Unavailable, WriteError};
use super::sessions::instant;

/// How long the mark of [`Nodes::is_gone`] stays, seconds.
const TOUCHED_TTL_S: u32 = 60;

/// The times of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseTimes {
    /// The server lets it expire when it was not refreshed for so many seconds.
    pub ttl_s: u32,
    /// How often it is refreshed.
    pub refresh_every: Duration,
    /// A holder is in doubt when its last successful refresh was sent so long ago; below `ttl_s`. Whoever leads something ends
    /// then.
    pub fence_after: Duration,
    /// The holder of the lease of a node gives up when its last successful refresh was sent so long ago.
    pub give_up_after: Duration,
    /// How long a node that was not heard for a while, or is new, is heard before it judges others.
    pub settle: Duration,
}

impl Default for LeaseTimes {
    fn default() -> Self {
        // A stream of three replicas whose leader is killed has no leader for 4 to 9 seconds, and the last refresh may have
        // been a while before that. Shorter times would have every sidecar in doubt together then.
        Self {
            ttl_s: 25,
            refresh_every: Duration::from_secs(4),
            fence_after: Duration::from_secs(20),
            give_up_after: Duration::from_secs(60),
            // A connection is made again within two seconds of the server's return, and a refresh is tried again within one. And
            // who judges may not see that nothing is stored for six.
            settle: Duration::from_secs(9),
        }
    }
}

/// The leases of an account.
#[derive(Clone, Debug)]
pub struct Nodes {
    shared: Arc<Shared>,
}

#[derive(Clone, Debug)]
struct Shared {
    bucket: Bucket,
    readers: Api,
    names: Names,
    times: LeaseTimes,
    /// The clients of this process.
    occupancy: Arc<Occupancy>,
    /// Whose elections are held, where these are leases for another account.
    account: Option<Arc<str>>,
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
    /// How many clients it has of accounts that limit them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub connections: BTreeMap<String, u32>,
    /// Listed accounts that it cannot enter, about: what is owed there is left to others.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub shut: BTreeSet<String>,
}

impl Nodes {
    pub(super) fn new(bucket: Bucket, readers: Api, names: Names) -> Self {
        Self::of(Shared {
            bucket,
            readers,
            names,
            times: LeaseTimes::default(),
            occupancy: Arc::default(),
            account: None,
        })
    }

    /// The same with other times, which all sidecars of an account should share.
    #[must_use]
    pub fn with_times(&self, times: LeaseTimes) -> Self {
        Self::of(Shared { times, ..(*self.shared).clone() })
    }

    /// The same sidecars for another account of theirs, whose elections are apart.
    #[must_use]
    pub fn for_account(&self, account: &str) -> Self {
        Self::of(Shared { account: Some(account.into()), ..(*self.shared).clone() })
    }

    fn of(shared: Shared) -> Self {
        Self { shared: Arc::new(shared) }
    }

    /// Whether JetStream answers where they are kept.
    ///
    /// # Errors
    /// It does not.
    pub(super) async fn has_jetstream(&self) -> Result<(), Unavailable> {
        let readers = &self.shared.readers;
        Ok(readers.call::<serde::de::IgnoredAny>("INFO", "").await.map(|_| ())?)
    }

    /// The times of leases.
    #[must_use]
    pub fn times(&self) -> LeaseTimes {
        self.shared.times
    }

    /// The clients of this process, which its lease tells of.
    #[must_use]
    pub fn occupancy(&self) -> &Arc<Occupancy> {
        &self.shared.occupancy
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
}

impl Shared {
    /// Where the lead in something is kept.
    fn lead_subject(&self, name: &str) -> ByteString {
        // An account whose name is too long for that is not opened.
        self.names.lead(self.account.as_deref(), name).unwrap_or_default()
    }

    /// Where keys are compared without being changed: two tokens as well.
    fn touched_subject(&self) -> ByteString {
        let subjects = self.names.nodes_subjects();
        format!("{}touched.lease", subjects.trim_end_matches('>')).into()
    }
}
