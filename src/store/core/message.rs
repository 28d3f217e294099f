//! What comes on core NATS, and to whom.

use bytes::Bytes;
use bytestring::ByteString;
use proto_map::Headers;

use crate::store::headers;

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

impl CoreMessage {
    /// Bytes that it takes while it waits.
    pub fn weight(&self) -> usize {
        let texts = self.subject.len() + self.reply.as_ref().map_or(0, |reply| reply.len());
        size_of::<Self>() + texts + headers::weight(self.headers.as_ref()) + self.payload.len()
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_weigh_more_than_their_text() {
        let message =
            |headers| CoreMessage { subject: "a".into(), headers, payload: Bytes::new(), reply: None, status: None };
        let header = || ("name".into(), "value".into());
        let (plain, told) = (message(None), message(Some(vec![header(); 1_000])));
        assert!(told.weight() - plain.weight() >= 1_000 * (9 + 2 * size_of::<ByteString>()));
    }
}
