//! One message, in the bytes that it came in.

use std::fmt;
use std::ops::Range;

use bytes::Bytes;

use crate::headers::HeaderBlock;

/// A MSG or HMSG. Its parts are ranges of the one buffer that holds all of it, so reading it costs one reference count, and
/// each part that is taken out of it costs another.
#[derive(Clone, PartialEq, Eq)]
pub struct Message {
    /// Control line, header block, payload, and the CR LF behind them.
    pub(crate) frame: Bytes,
    pub(crate) sid: u64,
    pub(crate) subject: Place,
    /// Empty when there is none.
    pub(crate) reply: Place,
    pub(crate) headers_at: u32,
    pub(crate) payload: Place,
}

/// A range in 8 bytes. [`Limits`](crate::Limits) keep frames far below 4 GiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Place {
    start: u32,
    end: u32,
}

impl Place {
    pub(crate) fn new(range: &Range<usize>) -> Self {
        let small = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
        Self { start: small(range.start), end: small(range.end) }
    }

    fn range(self) -> Range<usize> {
        self.start as usize..self.end as usize
    }

    fn is_empty(self) -> bool {
        self.start == self.end
    }
}

impl Message {
    /// Which subscription of ours it is for.
    #[must_use]
    pub fn sid(&self) -> u64 {
        self.sid
    }

    /// Its subject. Bytes: a publisher chose them.
    #[must_use]
    pub fn subject(&self) -> &[u8] {
        self.part(self.subject)
    }

    /// Its subject, sharing the buffer.
    #[must_use]
    pub fn subject_bytes(&self) -> Bytes {
        self.frame.slice(self.subject.range())
    }

    /// Where an answer is expected.
    #[must_use]
    pub fn reply(&self) -> Option<&[u8]> {
        (!self.reply.is_empty()).then(|| self.part(self.reply))
    }

    /// Where an answer is expected, sharing the buffer.
    #[must_use]
    pub fn reply_bytes(&self) -> Option<Bytes> {
        (!self.reply.is_empty()).then(|| self.frame.slice(self.reply.range()))
    }

    /// Its payload.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        self.part(self.payload)
    }

    /// Its payload, sharing the buffer.
    #[must_use]
    pub fn payload_bytes(&self) -> Bytes {
        self.frame.slice(self.payload.range())
    }

    /// Its header block, when it has one.
    #[must_use]
    pub fn headers(&self) -> Option<HeaderBlock<'_>> {
        let block = self.frame.get(self.headers_at as usize..self.payload.start as usize)?;
        (!block.is_empty()).then(|| HeaderBlock::new(block))
    }

    /// A part of it that was read from [`Self::headers`], sharing the buffer.
    #[must_use]
    pub fn share(&self, part: &[u8]) -> Bytes {
        if part.is_empty() { Bytes::new() } else { self.frame.slice_ref(part) }
    }

    /// What the server says instead of a message, 503 for instance.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        self.headers()?.status()
    }

    /// Bytes that it holds.
    #[must_use]
    pub fn size(&self) -> usize {
        self.frame.len()
    }

    fn part(&self, place: Place) -> &[u8] {
        self.frame.get(place.range()).unwrap_or_default()
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("sid", &self.sid)
            .field("subject", &self.subject().escape_ascii().to_string())
            .field("reply", &self.reply().map(|reply| reply.escape_ascii().to_string()))
            .field("headers", &self.headers().map(|headers| headers.as_bytes().len()))
            .field("payload", &self.payload().len())
            .finish()
    }
}
