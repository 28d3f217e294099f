//! `[jetstream]`: names and limits of what is stored.

use serde::Deserialize;

use super::{ByteSize, Duration};

/// `[jetstream]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub struct JetStreamConfig {
    /// First part of the names of streams and buckets. Default `MQTT`.
    pub prefix: String,
    /// First token of the subjects of our own streams. Default `$NMQ`.
    pub subject_prefix: String,
    /// Replicas of every stream, 1 to 5. 0 (default): as many as there are servers, three at most.
    pub replicas: u8,
    /// `[jetstream.log]`.
    pub log: LogLimits,
    /// `[jetstream.backlog]`.
    pub backlog: BacklogLimits,
    /// `[jetstream.shared]`.
    pub shared: SharedLimits,
    /// Publishes of one connection that JetStream has not acknowledged yet. Default 512.
    pub publish_inflight: u32,
}

/// `[jetstream.log]`: how much the log of QoS 1 and 2 messages keeps; whichever limit is reached first counts.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub struct LogLimits {
    /// Age of the oldest message. Default 24 h.
    pub max_age: Duration,
    /// Size of the stream. Default 4 GiB.
    pub max_bytes: ByteSize,
}

/// `[jetstream.backlog]`: how much is kept for sessions that are offline for longer than the log reaches back.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub struct BacklogLimits {
    /// Size of the stream, for all sessions together. Default 1 GiB.
    pub max_bytes: ByteSize,
}

/// `[jetstream.shared]`: the groups of shared subscriptions.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub struct SharedLimits {
    /// How long the members of a sidecar that has died keep their messages from the others. Holds for groups that are
    /// new. Default 15 s.
    pub ack_wait: Duration,
    /// A group whose messages nobody has asked for in so long ends, with its backlog. Default 7 days.
    pub inactive_threshold: Duration,
}

impl Default for SharedLimits {
    fn default() -> Self {
        Self { ack_wait: Duration::from_secs(15), inactive_threshold: Duration::from_secs(7 * 24 * 3600) }
    }
}

impl Default for JetStreamConfig {
    fn default() -> Self {
        Self {
            prefix: "MQTT".to_owned(),
            subject_prefix: "$NMQ".to_owned(),
            replicas: 0,
            log: LogLimits::default(),
            backlog: BacklogLimits::default(),
            shared: SharedLimits::default(),
            publish_inflight: 512,
        }
    }
}

impl Default for LogLimits {
    fn default() -> Self {
        Self { max_age: Duration::from_secs(24 * 3600), max_bytes: ByteSize(4 << 30) }
    }
}

impl Default for BacklogLimits {
    fn default() -> Self {
        Self { max_bytes: ByteSize(1 << 30) }
    }
}
