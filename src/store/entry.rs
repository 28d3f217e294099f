//! One message of a stream, as it is handed to the account.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use bytestring::ByteString;
use proto_map::Headers;

use super::ack::Delivery;
use super::api::StoredMessageBody;
use super::headers;
use crate::nats::{LinkCounts, Message, SkipReason};

/// A message that was read from a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEntry {
    /// Sequence in the stream.
    pub sequence: u64,
    /// Headers as they are stored.
    pub headers: Option<Headers>,
    /// Payload.
    pub payload: Bytes,
    /// When it was stored, milliseconds since the epoch, by the server's clock.
    pub stored_at_ms: u64,
    subject: ByteString,
    // The subject without the log's prefix starts here.
    natural_at: u16,
}

impl LogEntry {
    /// Bytes that it takes while it waits.
    pub fn weight(&self) -> usize {
        size_of::<Self>() + self.subject.len() + headers::weight(self.headers.as_ref()) + self.payload.len()
    }

    /// The natural subject: without the log's prefix.
    pub fn subject(&self) -> &str {
        self.subject.get(usize::from(self.natural_at)..).unwrap_or_default()
    }

    /// The subject in the stream.
    pub fn stream_subject(&self) -> &str {
        &self.subject
    }

    /// `None` when its subject is no text, so that no topic is meant; that is counted. `headers`: those of the message that
    /// whoever reads wants.
    pub(crate) fn of_message(
        message: &Message,
        prefix: &str,
        delivery: Delivery,
        counts: &LinkCounts,
        headers: fn(&Message, &LinkCounts) -> Option<Headers>,
    ) -> Option<Self> {
        let Ok(subject) = ByteString::try_from(message.subject_bytes()) else {
            counts.skipped(SkipReason::Subject);
            return None;
        };
        Some(Self {
            sequence: delivery.stream_sequence,
            headers: headers(message, counts),
            payload: message.payload_bytes(),
            stored_at_ms: delivery.stored_at_ns / 1_000_000,
            natural_at: natural_at(&subject, prefix),
            subject,
        })
    }

    /// The message of the log of which this, from a backlog, is a copy; its time is that of the copy, as its time to live
    /// is. `None` when it is none.
    pub(crate) fn of_copy(copy: Self) -> Option<Self> {
        let value = |name| headers::first(copy.headers.as_ref()?, name);
        let sequence = value(proto_map::name::LOG_SEQUENCE)?.parse().ok()?;
        let subject = ByteString::from(value(proto_map::name::SUBJECT)?);
        Some(Self { sequence, subject, natural_at: 0, ..copy })
    }

    /// `None` when the answer cannot be read.
    pub(crate) fn of_stored(stored: StoredMessageBody, prefix: &str) -> Option<Self> {
        let decode = |text: Option<String>| BASE64.decode(text.unwrap_or_default()).ok();
        let block = decode(stored.hdrs)?;
        Some(Self {
            sequence: stored.seq,
            headers: (!block.is_empty()).then(|| headers::from_block(&block)),
            payload: decode(stored.data)?.into(),
            stored_at_ms: super::time::rfc3339_ms(&stored.time)?,
            natural_at: natural_at(&stored.subject, prefix),
            subject: stored.subject.into(),
        })
    }
}

fn natural_at(subject: &str, prefix: &str) -> u16 {
    if subject.starts_with(prefix) { u16::try_from(prefix.len()).unwrap_or(0) } else { 0 }
}
