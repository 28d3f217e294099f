//! A stream as it is listed.

/// A stream of the account.
#[derive(Clone, Debug)]
pub struct FoundStream {
    /// Its name.
    pub name: String,
    /// When it was created, milliseconds since the epoch: tells it from another one of the same name.
    pub created_ms: u64,
    /// Its configuration, as the JetStream API gives it.
    pub config: serde_json::Value,
    /// Its last sequence.
    pub last_sequence: u64,
    /// Bytes that it has.
    pub bytes: u64,
    /// Messages that it has.
    pub messages: u64,
}
