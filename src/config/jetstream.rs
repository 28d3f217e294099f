//! `[jetstream]`: names and limits of what is stored.

use serde::Deserialize;

use super::{ByteSize, Duration};

/// `[jetstream]`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
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
    /// `[[jetstream.logs]]`: logs of their own for some topics.
    pub logs: Vec<DeclaredLogConfig>,
    /// `[jetstream.backlog]`.
    pub backlog: BacklogLimits,
    /// Streams of others are the logs of their subjects. Default `true`.
    pub attach: bool,
    /// Names of streams that are not attached all the same.
    pub ignored_streams: Vec<String>,
    /// What becomes of messages that NATS clients publish and no stream captures. Default `interest`.
    pub ingest: Ingest,
    /// `[jetstream.shared]`.
    pub shared: SharedLimits,
    /// Publishes of one connection that JetStream has not acknowledged yet. Default 512.
    pub publish_inflight: u32,
}

/// What becomes of messages that NATS clients publish and no stream captures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ingest {
    /// They are copied into the log where a subscription above QoS 0 matches, so that sessions that are offline get them
    /// too.
    #[default]
    Interest,
    /// They reach who is connected, at QoS 0.
    Off,
}

/// One of `[[jetstream.logs]]`: topics whose QoS 1 and 2 messages have a stream of their own. What is written here counts
/// when the stream is made.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct DeclaredLogConfig {
    /// Part of the stream's name: `MQTT_log_<name>`.
    pub name: String,
    /// Filters of the topics.
    pub topics: Vec<String>,
    /// Age of the oldest message. Default 24 h; 0 is no limit.
    #[serde(default = "default_age")]
    pub max_age: Duration,
    /// Size of the stream. Default 0: no limit but the account's.
    #[serde(default)]
    pub max_bytes: ByteSize,
    /// Replicas, 1 to 5. 0 (default): as other streams of ours.
    #[serde(default)]
    pub replicas: u8,
    /// Where it is stored. Default `file`.
    #[serde(default)]
    pub storage: LogStorage,
}

/// Where a stream is stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogStorage {
    /// In files.
    #[default]
    File,
    /// In memory: it is gone when the servers are.
    Memory,
}

const fn default_age() -> Duration {
    Duration::from_secs(24 * 3600)
}

/// `[jetstream.log]`: how much the log of QoS 1 and 2 messages keeps; whichever limit is reached first counts.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct LogLimits {
    /// Age of the oldest message. Default 24 h.
    pub max_age: Duration,
    /// Size of the stream. Default 4 GiB.
    pub max_bytes: ByteSize,
}

/// `[jetstream.backlog]`: how much is kept for sessions that are offline for longer than the log reaches back.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct BacklogLimits {
    /// Size of the stream, for all sessions together. Default 1 GiB.
    pub max_bytes: ByteSize,
}

/// `[jetstream.shared]`: the groups of shared subscriptions.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct SharedLimits {
    /// How long the members of a sidecar that has died keep their messages from the others. Holds for groups that are
    /// new. Default 15 s.
    pub ack_wait: Duration,
    /// A group whose messages nobody has asked for in so long ends, with its backlog. Default 7 days.
    pub inactive_threshold: Duration,
    /// The same of a group that no session is a member of, connected or not. Default 1 h.
    pub unheld_threshold: Duration,
    /// Groups, above QoS 0, of the account. Default 500.
    pub max_groups: u32,
    /// Groups of one client. Default 100.
    pub max_groups_per_client: u32,
    /// Bytes of a share name. Default 256.
    pub max_name_length: u16,
}

impl Default for SharedLimits {
    fn default() -> Self {
        Self {
            ack_wait: Duration::from_secs(15),
            inactive_threshold: Duration::from_secs(7 * 24 * 3600),
            unheld_threshold: Duration::from_secs(3_600),
            max_groups: 500,
            max_groups_per_client: 100,
            max_name_length: 256,
        }
    }
}

impl Default for JetStreamConfig {
    fn default() -> Self {
        Self {
            prefix: "MQTT".to_owned(),
            subject_prefix: "$NMQ".to_owned(),
            replicas: 0,
            log: LogLimits::default(),
            logs: Vec::new(),
            backlog: BacklogLimits::default(),
            attach: true,
            ignored_streams: Vec::new(),
            ingest: Ingest::default(),
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
