//! Headers: their names, and what can be one.

use bytestring::ByteString;

/// Names and values in order; no headers at all when empty.
pub type Headers = Vec<(ByteString, ByteString)>;

/// Longest header block in bytes that is made here. JetStream stores 65,535; the rest is for what the writer adds:
/// message id, time to live and expected sequences.
pub const HEADER_BLOCK_MAX: usize = 64_511;

/// Names of headers.
pub mod name {
    /// Content Type [MQTT 5, 3.3.2.3.9].
    pub const CONTENT_TYPE: &str = "Content-Type";
    /// A Content Type that [`CONTENT_TYPE`] cannot carry, percent-encoded.
    pub const ENCODED_CONTENT_TYPE: &str = "Mqtt-Content-Type";
    /// QoS of the publish: `0`, `1` or `2`.
    pub const QOS: &str = "Mqtt-QoS";
    /// In the bucket of retained messages: it was published over MQTT, and subscribers get it from there. What NATS
    /// clients put into the bucket does not have it.
    pub const ORIGIN: &str = "Mqtt-Origin";
    /// The message was retained: its sequence in the bucket of retained messages.
    pub const RETAIN: &str = "Mqtt-Retain";
    /// The topic of an escaped subject, percent-encoded; for readers on NATS only.
    pub const TOPIC: &str = "Mqtt-Topic";
    /// Payload Format Indicator: `0` or `1` [MQTT 5, 3.3.2.3.2].
    pub const PAYLOAD_FORMAT: &str = "Mqtt-Payload-Format";
    /// Response Topic, percent-encoded [MQTT 5, 3.3.2.3.5].
    pub const RESPONSE_TOPIC: &str = "Mqtt-Response-Topic";
    /// Correlation Data, percent-encoded [MQTT 5, 3.3.2.3.6].
    pub const CORRELATION_DATA: &str = "Mqtt-Correlation-Data";
    /// Message Expiry Interval in seconds, where `Nats-TTL` does not say it [MQTT 5, 3.3.2.3.3].
    pub const EXPIRY: &str = "Mqtt-Expiry";
    /// Of a message in the log: it was published on core NATS, and who takes QoS 0 has had it from there.
    pub const INGESTED: &str = "Mqtt-Ingested";
    /// The copy of a stored message on its natural subject.
    pub const LOG: &str = "Mqtt-Log";
    /// Of a copy in a backlog: its sequence in the log.
    pub const LOG_SEQUENCE: &str = "Mqtt-Log-Sequence";
    /// Of a copy in a backlog: its natural subject.
    pub const SUBJECT: &str = "Mqtt-Subject";
    /// Client id of the publisher, percent-encoded.
    pub const CLIENT: &str = "Mqtt-Client";
    /// A sidecar has made this, and it is as it was: see [`crate::KeyRing`]. On messages where others can write too, and on
    /// what sidecars ask of each other.
    pub const MAC: &str = "Mqtt-Mac";
    /// Names one attempt of a sidecar to write, by which it knows what is its own.
    pub const WRITE: &str = "Mqtt-Write";
    /// In a log: which connection of which client published it, so that what arrives when that has ended is recognised.
    /// With a seal, see [`crate::KeyRing::seal_epoch`], where others can write too.
    pub const EPOCH: &str = "Mqtt-Epoch";
    /// What plain headers lose of user properties.
    pub const USER_PROPERTIES: &str = "Mqtt-User-Properties";
    /// Time to live of a message in a stream.
    pub const NATS_TTL: &str = "Nats-TTL";
    /// De-duplicates in a stream.
    pub const NATS_MSG_ID: &str = "Nats-Msg-Id";
}

/// Whether a name begins like this, whatever the case.
pub(crate) fn has_prefix(name: &str, prefix: &str) -> bool {
    name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

/// Whether a header can have this name: visible ASCII without `:`. Others end the connection of the reader.
pub(crate) fn is_header_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':')
}

/// Whether a header carries this value unchanged: nothing that ends the line or that a client refuses, and nothing at
/// either end that a client trims.
pub(crate) fn is_header_value(value: &str) -> bool {
    !value.bytes().any(|byte| byte.is_ascii_control() && byte != b'\t') && value.trim().len() == value.len()
}
