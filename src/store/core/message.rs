//! What comes on core NATS, and to whom.

use bytes::Bytes;
use bytestring::ByteString;
use proto_map::Headers;

/// A message that a subscription got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CoreMessage {
    /// Its subject.
    pub subject: ByteString,
    /// Its headers.
    pub headers: Option<Headers>,
    /// Its payload.
    pub payload: Bytes,
    /// Where an answer is expected.
    pub reply: Option<ByteString>,
    /// A status that the server sends instead of a message: 503 when nobody listens to a request.
    pub status: Option<u16>,
}

/// Gets the messages of all subscriptions. Must not block.
pub trait CoreSink: Send + Sync {
    /// One message of one subscription; in order within a subscription.
    fn message(&self, subscription_id: u64, message: CoreMessage);
    /// Whether a stream has a subject, as far as is known.
    fn is_captured(&self, _subject: &str) -> bool {
        false
    }
    /// What was there has been handed over: time to wake whoever waits.
    fn flush(&self);
}
