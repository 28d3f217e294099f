//! The configuration of every stream that we make, as data; as the JSON of the JetStream API; and what about a stream
//! that is already there keeps us from using it. Who creates and updates them is not here.

use serde_json::{Value, json};

use crate::MapError;
use crate::names::Names;

/// Version of the mapping, in the metadata of every stream of ours. A change of what subjects, keys or headers mean
/// raises it, so that a sidecar can tell what it finds.
pub const MAPPING_VERSION: &str = "1";
/// Key of [`MAPPING_VERSION`] in the metadata.
pub const MAPPING_KEY: &str = "nats-mqtt.mapping";
/// Key of a log's topics in its metadata: filters, as a JSON list.
pub const TOPICS_KEY: &str = "nats-mqtt.topics";

const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// What goes when a limit of the stream is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Discard {
    /// The oldest messages.
    Old,
    /// The new message is refused.
    New,
    /// As `New`, and also when the limit of its subject is reached.
    NewPerSubject,
}

/// Where the stream is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    /// In files.
    File,
    /// In memory.
    Memory,
}

/// How many messages of one subject a stream keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PerSubject {
    /// No limit.
    Unlimited,
    /// Exactly so many; another number means something else to us.
    Exactly(u32),
    /// A limit that the operator can tune.
    AtMost(u32),
}

/// Configuration of one stream. Retention is always by limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamSpec {
    /// Name of the stream.
    pub name: String,
    /// For whoever lists the streams.
    pub description: &'static str,
    /// Subjects it captures.
    pub subjects: Vec<String>,
    /// Age in seconds at which messages go; `None` for never.
    pub max_age_s: Option<u64>,
    /// Size in bytes; `None` for no limit but the account's.
    pub max_bytes: Option<u64>,
    /// Messages of one subject.
    pub per_subject: PerSubject,
    /// What goes when a limit is reached.
    pub discard: Discard,
    /// Copies in the cluster, 1 to 5.
    pub replicas: u8,
    /// Where it is stored.
    pub storage: Storage,
    /// Messages can have a time to live of their own (`Nats-TTL`).
    pub allow_msg_ttl: bool,
    /// Any replica answers reads.
    pub allow_direct: bool,
    /// A message can replace all before it (`Nats-Rollup`).
    pub allow_rollup: bool,
    /// Single messages cannot be deleted over the API.
    pub deny_delete: bool,
    /// Seconds for which a marker stands where the last message of a subject expired; `None` for no markers.
    pub subject_delete_marker_ttl_s: Option<u64>,
    /// Seconds for which `Nats-Msg-Id` is remembered.
    pub duplicate_window_s: u64,
    /// Key and value pairs.
    pub metadata: Vec<(&'static str, String)>,
}

/// What the operator can choose about our streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpecOptions {
    /// Copies in the cluster; see [`replicas_for`].
    pub replicas: u8,
    /// Where the log and the backlog are stored. State is always in files.
    pub storage: Storage,
    /// Age in seconds up to which the log reaches back.
    pub log_max_age_s: u64,
    /// Size in bytes of the log.
    pub log_max_bytes: u64,
    /// Size in bytes of all backlogs together.
    pub backlog_max_bytes: u64,
    /// Messages in the backlog of one session.
    pub session_queue_max: u32,
    /// Whether a full session queue drops its oldest messages or refuses new ones.
    pub session_queue_discard_oldest: bool,
    /// Seconds for which `Nats-Msg-Id` is remembered in the log.
    pub duplicate_window_s: u64,
}

/// A log that the operator declares, beside the one that is always there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeclaredLog {
    /// Name of the log, a part of the stream's name.
    pub name: String,
    /// Filters of its topics.
    pub topics: Vec<String>,
    /// Age in seconds up to which it reaches back; `None` for no limit.
    pub max_age_s: Option<u64>,
    /// Size in bytes; `None` for no limit but the account's.
    pub max_bytes: Option<u64>,
    /// Where it is stored.
    pub storage: Storage,
}

impl Default for SpecOptions {
    fn default() -> Self {
        Self {
            replicas: 1,
            storage: Storage::File,
            log_max_age_s: 24 * 3600,
            log_max_bytes: 4 << 30,
            backlog_max_bytes: 4 << 30,
            session_queue_max: 1000,
            session_queue_discard_oldest: true,
            duplicate_window_s: 120,
        }
    }
}

/// The default number of replicas for a cluster of so many servers.
#[must_use]
pub const fn replicas_for(servers: usize) -> u8 {
    match servers {
        0 | 1 => 1,
        2 => 2,
        _ => 3,
    }
}

/// Markers of expired retained messages: long enough for every sidecar that is there, and for nats-server to have written down
/// that what expired is gone.
const RETAINED_MARKER_TTL_S: u64 = 3_600;
/// Markers of expired sessions start the clean-up of what the session leaves, also when no sidecar was there.
const SESSION_MARKER_TTL_S: u64 = 24 * 3600;
/// Markers of ended leases start the adoption of sessions, also when no sidecar was there.
const NODE_MARKER_TTL_S: u64 = 3600;
/// The server's own default.
const DUPLICATE_WINDOW_S: u64 = 120;

impl Names {
    /// Every stream of a deployment.
    #[must_use]
    pub fn specs(&self, options: &SpecOptions) -> Vec<StreamSpec> {
        vec![
            self.log_spec(options),
            self.retained_spec(options),
            self.sessions_spec(options),
            self.backlog_spec(options),
            self.nodes_spec(options),
            self.keys_spec(options),
        ]
    }

    /// The log.
    #[must_use]
    pub fn log_spec(&self, options: &SpecOptions) -> StreamSpec {
        StreamSpec {
            name: self.log_stream(),
            description: "QoS 1 and 2 messages that no other stream has",
            subjects: vec![self.log_subjects()],
            max_age_s: Some(options.log_max_age_s),
            max_bytes: Some(options.log_max_bytes),
            per_subject: PerSubject::Unlimited,
            discard: Discard::Old,
            replicas: options.replicas,
            storage: options.storage,
            allow_msg_ttl: true,
            allow_direct: true,
            allow_rollup: false,
            deny_delete: false,
            subject_delete_marker_ttl_s: None,
            // The server refuses a window longer than the age.
            duplicate_window_s: options.duplicate_window_s.min(options.log_max_age_s),
            metadata: vec![(MAPPING_KEY, MAPPING_VERSION.to_owned())],
        }
    }

    /// A log that the operator declared for some topics.
    ///
    /// # Errors
    /// [`MapError::InvalidName`] when its name cannot be part of a stream's name.
    pub fn declared_log_spec(&self, log: &DeclaredLog) -> Result<StreamSpec, MapError> {
        let options = SpecOptions {
            storage: log.storage,
            log_max_age_s: log.max_age_s.unwrap_or(u64::MAX),
            log_max_bytes: log.max_bytes.unwrap_or(u64::MAX),
            ..SpecOptions::default()
        };
        Ok(StreamSpec {
            name: self.declared_log_stream(&log.name)?,
            description: "QoS 1 and 2 messages of some topics",
            subjects: vec![format!("{}>", self.declared_log_root(&log.name)?)],
            max_age_s: log.max_age_s,
            max_bytes: log.max_bytes,
            metadata: vec![
                (MAPPING_KEY, MAPPING_VERSION.to_owned()),
                (TOPICS_KEY, Value::from(log.topics.clone()).to_string()),
            ],
            ..self.log_spec(&options)
        })
    }

    /// The bucket of retained messages.
    #[must_use]
    pub fn retained_spec(&self, options: &SpecOptions) -> StreamSpec {
        bucket(
            self.retained_stream(),
            "Last retained message of each topic",
            self.retained_subjects(),
            RETAINED_MARKER_TTL_S,
            options,
        )
    }

    /// The bucket of sessions.
    #[must_use]
    pub fn sessions_spec(&self, options: &SpecOptions) -> StreamSpec {
        bucket(self.sessions_stream(), "MQTT sessions", self.sessions_subjects(), SESSION_MARKER_TTL_S, options)
    }

    /// The bucket of leases.
    #[must_use]
    pub fn nodes_spec(&self, options: &SpecOptions) -> StreamSpec {
        bucket(self.nodes_stream(), "Live MQTT sidecars", self.nodes_subjects(), NODE_MARKER_TTL_S, options)
    }

    /// The bucket of accounts.
    #[must_use]
    pub fn accounts_spec(&self, options: &SpecOptions) -> StreamSpec {
        bucket(
            self.accounts_stream(),
            "Accounts that have MQTT sessions",
            self.accounts_subjects(),
            NODE_MARKER_TTL_S,
            options,
        )
    }

    /// The bucket of bans.
    #[must_use]
    pub fn bans_spec(&self, options: &SpecOptions) -> StreamSpec {
        bucket(self.bans_stream(), "Who may not connect over MQTT", self.bans_subjects(), NODE_MARKER_TTL_S, options)
    }

    /// The bucket of the account's keys. What is read of it is read from its leader, so that fewer ways lead to it.
    #[must_use]
    pub fn keys_spec(&self, options: &SpecOptions) -> StreamSpec {
        let spec = bucket(
            self.keys_stream(),
            "Keys that MQTT sidecars share, for nobody else",
            self.keys_subjects(),
            NODE_MARKER_TTL_S,
            options,
        );
        StreamSpec { allow_direct: false, ..spec }
    }

    /// The backlogs.
    #[must_use]
    pub fn backlog_spec(&self, options: &SpecOptions) -> StreamSpec {
        StreamSpec {
            name: self.backlog_stream(),
            description: "Messages for sessions that are offline longer than the log reaches back",
            subjects: vec![self.backlog_subjects()],
            max_age_s: None,
            max_bytes: Some(options.backlog_max_bytes),
            per_subject: PerSubject::AtMost(options.session_queue_max),
            discard: if options.session_queue_discard_oldest { Discard::Old } else { Discard::NewPerSubject },
            replicas: options.replicas,
            storage: options.storage,
            allow_msg_ttl: true,
            allow_direct: true,
            allow_rollup: false,
            deny_delete: false,
            subject_delete_marker_ttl_s: None,
            duplicate_window_s: DUPLICATE_WINDOW_S,
            metadata: vec![(MAPPING_KEY, MAPPING_VERSION.to_owned())],
        }
    }
}

/// A stream that the client tools of NATS take for a key-value bucket with a history of 1.
fn bucket(
    name: String,
    description: &'static str,
    subjects: String,
    marker_ttl_s: u64,
    options: &SpecOptions,
) -> StreamSpec {
    StreamSpec {
        name,
        description,
        subjects: vec![subjects],
        max_age_s: None,
        max_bytes: None,
        per_subject: PerSubject::Exactly(1),
        discard: Discard::New,
        replicas: options.replicas,
        storage: Storage::File,
        allow_msg_ttl: true,
        allow_direct: true,
        allow_rollup: true,
        deny_delete: true,
        subject_delete_marker_ttl_s: Some(marker_ttl_s),
        duplicate_window_s: DUPLICATE_WINDOW_S,
        metadata: vec![(MAPPING_KEY, MAPPING_VERSION.to_owned())],
    }
}

impl StreamSpec {
    /// The configuration in the field names of the JetStream API, durations in nanoseconds.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let metadata: serde_json::Map<String, Value> =
            self.metadata.iter().map(|(key, value)| ((*key).to_owned(), json!(value))).collect();
        let mut config = json!({
            "name": self.name,
            "description": self.description,
            "subjects": self.subjects,
            "retention": "limits",
            "max_consumers": -1,
            "max_msgs": -1,
            "max_msg_size": -1,
            "max_age": self.max_age_s.unwrap_or(0).saturating_mul(NANOS_PER_SECOND),
            "max_bytes": self.max_bytes.map_or(json!(-1), |bytes| json!(bytes)),
            "max_msgs_per_subject": self.per_subject.to_json(),
            "discard": self.discard.to_json(),
            "storage": self.storage.to_json(),
            "num_replicas": self.replicas,
            "duplicate_window": self.duplicate_window_s.saturating_mul(NANOS_PER_SECOND),
            "allow_msg_ttl": self.allow_msg_ttl,
            "allow_direct": self.allow_direct,
            "allow_rollup_hdrs": self.allow_rollup,
            "deny_delete": self.deny_delete,
            "metadata": metadata,
        });
        if self.discard == Discard::NewPerSubject {
            config["discard_new_per_subject"] = json!(true);
        }
        if let Some(seconds) = self.subject_delete_marker_ttl_s {
            config["subject_delete_marker_ttl"] = json!(seconds.saturating_mul(NANOS_PER_SECOND));
        }
        config
    }

    /// What about the configuration of an existing stream of this name, as the JetStream API gives it, makes it
    /// unusable for us, each as a phrase for a log line; empty when it can be used. What operators tune (age, bytes,
    /// replicas, storage, duplicate window, the length of backlogs) is no difference; see [`Self::warnings`].
    #[must_use]
    pub fn differences(&self, found: &Value) -> Vec<String> {
        let mut phrases = Vec::new();
        self.compare_subjects(found, &mut phrases);
        let retention = found["retention"].as_str().unwrap_or("limits");
        if retention != "limits" {
            phrases.push(format!("its retention is {retention}, not limits"));
        }
        self.compare_limits(found, &mut phrases);
        for (field, wanted, phrase) in [
            ("allow_msg_ttl", self.allow_msg_ttl, "it does not allow a time to live per message (allow_msg_ttl)"),
            ("allow_direct", self.allow_direct, "it does not allow direct reads (allow_direct)"),
            ("allow_rollup_hdrs", self.allow_rollup, "it does not allow rollups (allow_rollup_hdrs)"),
        ] {
            if wanted && !is_set(found, field) {
                phrases.push(phrase.to_owned());
            }
        }
        for (field, phrase) in [
            ("sealed", "it is sealed"),
            ("no_ack", "it does not acknowledge (no_ack)"),
            ("deny_purge", "it does not allow purging (deny_purge)"),
        ] {
            if is_set(found, field) {
                phrases.push(phrase.to_owned());
            }
        }
        for field in ["mirror", "sources", "subject_transform"] {
            if !is_absent(&found[field]) {
                phrases.push(format!("it has `{field}`"));
            }
        }
        self.compare_markers(found, &mut phrases);
        match found["metadata"][MAPPING_KEY].as_str() {
            None | Some(MAPPING_VERSION) => {}
            Some(other) => phrases.push(format!("its mapping has version {other}, not {MAPPING_VERSION}")),
        }
        phrases
    }

    /// What about the configuration of an existing stream lets us use it, but should be said once.
    #[must_use]
    pub fn warnings(&self, found: &Value) -> Vec<String> {
        let mut phrases = Vec::new();
        if self.storage == Storage::File && found["storage"] == "memory" {
            phrases.push("it is stored in memory and does not outlive its servers".to_owned());
        }
        if found["max_msgs"].as_i64().unwrap_or(-1) > 0 {
            phrases.push("it has a limit of messages (max_msgs)".to_owned());
        }
        if found["max_msg_size"].as_i64().unwrap_or(-1) > 0 {
            phrases.push("it has a limit of message size (max_msg_size)".to_owned());
        }
        if let Some(found) = found["num_replicas"].as_u64().filter(|found| *found < u64::from(self.replicas)) {
            phrases.push(format!("it has {found} replicas, not {}", self.replicas));
        }
        if found["metadata"][MAPPING_KEY].is_null() {
            phrases.push(format!("its metadata does not have {MAPPING_KEY}"));
        }
        phrases
    }

    fn compare_subjects(&self, found: &Value, phrases: &mut Vec<String>) {
        let mut subjects: Vec<&str> =
            found["subjects"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let mut wanted: Vec<&str> = self.subjects.iter().map(String::as_str).collect();
        subjects.sort_unstable();
        wanted.sort_unstable();
        if subjects != wanted {
            phrases.push(format!("its subjects are {}, not {}", subjects.join(" "), wanted.join(" ")));
        }
    }

    fn compare_limits(&self, found: &Value, phrases: &mut Vec<String>) {
        let limit = found["max_msgs_per_subject"].as_i64().filter(|limit| *limit > 0);
        match (self.per_subject, limit) {
            (PerSubject::Unlimited, None) | (PerSubject::AtMost(_), Some(_)) => {}
            (PerSubject::Exactly(wanted), Some(limit)) if limit == i64::from(wanted) => {}
            (PerSubject::Unlimited, Some(limit)) => {
                phrases.push(format!("it keeps {limit} messages of a subject, not all"));
            }
            (PerSubject::Exactly(wanted) | PerSubject::AtMost(wanted), limit) => {
                let limit = limit.map_or("all".to_owned(), |limit| limit.to_string());
                phrases.push(format!("it keeps {limit} messages of a subject, not {wanted}"));
            }
        }
        // A log that refuses new messages when it is full refuses publishes; a backlog's policy is the operator's.
        let discard = found["discard"].as_str().unwrap_or("old");
        if self.per_subject == PerSubject::Unlimited && discard != "old" {
            phrases.push(format!("it discards {discard} messages, not old ones"));
        }
    }

    fn compare_markers(&self, found: &Value, phrases: &mut Vec<String>) {
        let has_markers = found["subject_delete_marker_ttl"].as_u64().unwrap_or(0) > 0;
        match (self.subject_delete_marker_ttl_s.is_some(), has_markers) {
            (true, false) => {
                phrases.push("it leaves no markers of what expires (subject_delete_marker_ttl)".to_owned());
            }
            (false, true) => {
                phrases.push("it leaves markers of what expires (subject_delete_marker_ttl)".to_owned());
            }
            _ => {}
        }
    }
}

fn is_set(found: &Value, field: &str) -> bool {
    found[field].as_bool().unwrap_or(false)
}

fn is_absent(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    }
}

impl PerSubject {
    fn to_json(self) -> Value {
        match self {
            Self::Unlimited => json!(-1),
            Self::Exactly(limit) | Self::AtMost(limit) => json!(limit),
        }
    }
}

impl Discard {
    const fn name(self) -> &'static str {
        match self {
            Self::Old => "old",
            Self::New | Self::NewPerSubject => "new",
        }
    }

    fn to_json(self) -> Value {
        json!(self.name())
    }
}

impl Storage {
    fn to_json(self) -> Value {
        match self {
            Self::File => json!("file"),
            Self::Memory => json!("memory"),
        }
    }
}
