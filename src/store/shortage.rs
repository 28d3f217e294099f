//! What account or servers have too little of for a stream, as JetStream says it.

use super::api::ApiFailure;

/// JetStream error: replicas in a server that is not clustered.
const REPLICAS_NOT_SUPPORTED: u32 = 10074;
/// JetStream error: not enough servers for the replicas, or not enough that have room for them.
const NO_SUITABLE_PEERS: u32 = 10005;
/// What tells the second from the first, in its description.
const NO_STORAGE: &str = "insufficient storage";
/// JetStream errors: what a stream would reserve (`max_bytes`) is more than account or server have left.
const NO_ROOM: [u32; 2] = [10002, 10047];

/// What a refusal is to be answered with, where trying the same again does not help.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Shortage {
    /// The server is not clustered.
    Alone,
    /// The cluster has fewer servers than replicas were asked for.
    Servers,
    /// Its servers are enough, and have too little room.
    PeerRoom,
    /// Account or server have too little room.
    Room,
}

impl Shortage {
    /// What a refusal says of it, if anything.
    pub(super) fn of(failure: &ApiFailure) -> Option<Self> {
        match failure.code() {
            REPLICAS_NOT_SUPPORTED => Some(Self::Alone),
            NO_SUITABLE_PEERS if failure.to_string().contains(NO_STORAGE) => Some(Self::PeerRoom),
            NO_SUITABLE_PEERS => Some(Self::Servers),
            code if NO_ROOM.contains(&code) => Some(Self::Room),
            _ => None,
        }
    }

    /// Whether account or servers have too little room.
    pub(super) fn is_of_room(failure: &ApiFailure) -> bool {
        matches!(Self::of(failure), Some(Self::Room | Self::PeerRoom))
    }

    /// Whether it may pass: a server of the cluster is late, or has not told the others yet what room it has.
    pub(super) fn may_pass(&self) -> bool {
        matches!(self, Self::Servers | Self::PeerRoom)
    }
}
