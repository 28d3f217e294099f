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

impl Default for JetStreamConfig {
    fn default() -> Self {
        Self {
            prefix: "MQTT".to_owned(),
            subject_prefix: "$NMQ".to_owned(),
            replicas: 0,
            log: LogLimits::default(),
            backlog: BacklogLimits::default(),
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
