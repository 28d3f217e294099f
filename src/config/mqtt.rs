//! `[mqtt]`: limits and habits of the protocol.

use mqtt_codec::TopicName;
use proto_map::ROOT_TREES_MAX;
use serde::Deserialize;

use super::{ByteSize, Duration};

/// `[mqtt]`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct MqttConfig {
    /// Largest control packet, both ways; told to MQTT 5 clients. 0 (default): what the server's `max_payload` leaves.
    pub max_packet_size: ByteSize,
    /// QoS 1 and 2 messages a client may have sent that we have not acknowledged. Default 128, at least 1.
    pub receive_maximum: u16,
    /// QoS 1 and 2 messages we may have sent that the client has not acknowledged. An MQTT 5 client can ask for
    /// another number. Default 128, at least 1.
    pub window: u16,
    /// Longest Session Expiry Interval that is granted; 0: what the client asks for. Default 90 days.
    pub max_session_expiry: Duration,
    /// Sessions of the account that outlive their connections. Default 100,000.
    pub max_sessions: u32,
    /// Bytes of a will, its properties included. Default 64 KiB.
    pub max_will_size: ByteSize,
    /// Bytes that sessions take which are being opened or left, and wait for JetStream; the wills of CONNECTs that wait for their
    /// turn take half of it. Default 8 MiB.
    pub max_opening_size: ByteSize,
    /// Retained messages of the account; every sidecar has them in memory. Default 500,000.
    pub max_retained_messages: u32,
    /// Bytes of their topics, headers and payloads. Default 512 MiB.
    pub max_retained_bytes: ByteSize,
    /// Bytes of the payload of one. Default 4 MiB.
    pub max_retained_size: ByteSize,
    /// Subscriptions of one client. Default 10,000.
    pub max_subscriptions: u32,
    /// Topic filters of one SUBSCRIBE. Default 2,000.
    pub max_filters_per_packet: u32,
    /// Bytes of a topic filter, of a shared one without `$share/NAME/`. Default 1,024.
    pub max_filter_length: u16,
    /// Bytes that the subscriptions of one session take where they are stored, at most 16 MiB. Default 768 KiB.
    pub max_session_size: ByteSize,
    /// How long a session of MQTT 3.x with clean session 0 outlives its connection. Default 7 days.
    pub session_expiry_v3: Duration,
    /// Longest keep alive; MQTT 5 clients that ask for more, or for none, are told this one. Absent (default): none.
    pub max_keep_alive: Option<Duration>,
    /// From accepting a connection until its CONNECT is complete. Default 10 s.
    pub connect_timeout: Duration,
    /// Levels of a topic name or filter. Default 128.
    pub max_topic_levels: u16,
    /// Topic aliases, each way. Default 32; 0 turns them off.
    pub topic_alias_maximum: u16,
    /// End connections that break a rule which many clients break. Default `false`.
    pub strict: bool,
    /// What an MQTT 3.x client meets that publishes where it may not. Default `acknowledge`.
    pub on_denied_publish: OnDeniedPublish,
    /// What a client gets of a message that several of its subscriptions take. Default `merge`.
    pub overlapping: Overlapping,
    /// MQTT 5 clients get the `Nats-*` headers of a message too, as user properties. Default `false`.
    pub nats_headers: bool,
    /// QoS 0 bytes that wait for a slow reader before more are dropped. Default 1 MiB.
    pub qos0_buffer: ByteSize,
    /// Messages that are kept for a session that is offline for longer than the log reaches back, at least 1. Default
    /// 1,000. Counts when the stream of backlogs is made.
    pub session_queue: u32,
    /// What filters cover whose first level is a wildcard (`#`, `+`, `+/…`): everything, some trees of topics, or nothing.
    /// Default `full`.
    pub root_wildcard: RootWildcard,
    /// How often `$SYS/broker/…` is brought up to date. Default 10 s; 0 turns it off.
    pub sys_interval: Duration,
    /// Which message is given up when there are more than `session_queue`. Default `oldest`.
    pub discard: Discard,
}

/// What an MQTT 3.x client meets that publishes where it may not; it cannot be told a reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnDeniedPublish {
    /// The message is acknowledged and dropped.
    #[default]
    Acknowledge,
    /// The connection ends.
    Disconnect,
}

/// What a client gets of a message that several of its subscriptions take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Overlapping {
    /// One copy, at the highest QoS of them, with the identifiers of all of them.
    #[default]
    Merge,
    /// A copy for each of them, with its QoS and its identifier.
    Each,
}

/// What filters cover whose first level is a wildcard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum RootWildcard {
    /// `full`: all that is published, by devices and by NATS clients.
    #[default]
    Full,
    /// `refuse`: they are refused, with 0x8F, or 0x80 in 3.x.
    Refuse,
    /// A list: what is published in these trees of topics, `["home", "sensors/hall"]`.
    Trees(Vec<String>),
}

impl<'de> Deserialize<'de> for RootWildcard {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let invalid = |message: String| Err(serde::de::Error::custom(message));
        // A text alone is a list of one.
        let words = Vec::<String>::deserialize(deserializer)?;
        match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            ["full"] => return Ok(Self::Full),
            ["refuse"] => return Ok(Self::Refuse),
            [] => return invalid("nothing would be left: write \"refuse\", \"full\" or trees of topics".to_owned()),
            _ => {}
        }
        if words.len() > ROOT_TREES_MAX {
            return invalid(format!("{} trees are too many: write {ROOT_TREES_MAX} at most", words.len()));
        }
        for word in &words {
            let tree = word.strip_suffix("/#").unwrap_or(word);
            if matches!(tree, "full" | "refuse") || tree.starts_with('$') || TopicName::new(tree).is_err() {
                return invalid(format!(
                    "{word:?} is no tree of topics: write \"full\", \"refuse\", or a list as [\"home\", \"sensors/hall\"]"
                ));
            }
        }
        Ok(Self::Trees(words))
    }
}

/// Which message a full queue gives up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Discard {
    /// The one that waits longest.
    #[default]
    Oldest,
    /// The one that comes.
    Newest,
}

impl Default for MqttConfig {
    fn default() -> Self {
        Self {
            max_packet_size: ByteSize(0),
            receive_maximum: 128,
            window: 128,
            max_session_expiry: Duration::from_secs(90 * 24 * 3600),
            max_sessions: 100_000,
            max_will_size: ByteSize(64 << 10),
            max_opening_size: ByteSize(8 << 20),
            max_retained_messages: 500_000,
            max_retained_bytes: ByteSize(512 << 20),
            max_retained_size: ByteSize(4 << 20),
            max_subscriptions: 10_000,
            max_filters_per_packet: 2_000,
            max_filter_length: 1_024,
            max_session_size: ByteSize(768 << 10),
            session_expiry_v3: Duration::from_secs(7 * 24 * 3600),
            max_keep_alive: None,
            connect_timeout: Duration::from_secs(10),
            max_topic_levels: 128,
            topic_alias_maximum: 32,
            strict: false,
            on_denied_publish: OnDeniedPublish::default(),
            overlapping: Overlapping::default(),
            nats_headers: false,
            qos0_buffer: ByteSize(1 << 20),
            session_queue: 1_000,
            root_wildcard: RootWildcard::default(),
            sys_interval: Duration::from_secs(10),
            discard: Discard::default(),
        }
    }
}
