//! What a connection is made of: what it remembers for each of its tasks, and what these wait for.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use mqtt_access::{Ending, UnixTime};
use mqtt_codec::{PacketId, ReasonCode};
use mqtt_session::{Input, ProgressVersion, Resend, Sequence};
use tokio::time::Instant;

use crate::account::redirect::is_drain;
use crate::account::{Message, Outgoing, SessionWritten};
use crate::store::{Arrival, BacklogReader, LogEntry, WriteError};

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The client said so.
    ByClient { with_will: bool },
    /// We said so, or would have in a version that can.
    ByServer(ReasonCode),
    /// The socket broke, or was closed without DISCONNECT.
    Lost,
}

/// Something that is under way.
pub(super) type Eventual<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// How old changes get before they are saved without anybody waiting for them.
pub(super) const LAZY_AGE: Duration = Duration::from_secs(1);

/// What is repeated, each with its message, unless that is lost.
pub(super) type Fetched = Vec<(Resend, Option<Arc<Message>>)>;

/// What of the last connection is repeated.
#[derive(Default)]
pub(super) struct Resending {
    /// Messages that are being fetched. Nothing new is delivered meanwhile.
    pub(super) fetching: Option<Eventual<Fetched>>,
    pub(super) piece: Piece,
}

/// How many messages are fetched at a time that are to be repeated: as many as the output has room for, going by the last ones.
#[derive(Debug)]
pub(super) struct Piece(usize);

impl Default for Piece {
    fn default() -> Self {
        Self(Self::FIRST)
    }
}

impl Piece {
    /// So many before anything is known of their size, and at most.
    const FIRST: usize = 8;
    const MOST: usize = 512;

    /// How many are fetched next.
    pub(super) fn count(&self, is_memory_short: bool) -> usize {
        if is_memory_short { 1 } else { self.0 }
    }

    /// So many were, of so many bytes together, and there was room for so many.
    pub(super) fn took(&mut self, count: usize, bytes: usize, room: usize) {
        self.0 = (count * room / bytes.max(1)).clamp(1, Self::MOST.min(self.0 * 8));
    }
}

/// An answer that waits until what is answered is written.
pub(super) enum Answered {
    /// SUBACK.
    Subscribed(PacketId, Vec<ReasonCode>),
    /// UNSUBACK.
    Unsubscribed(PacketId, Vec<ReasonCode>),
}

impl From<Answered> for Input<Outgoing> {
    fn from(answered: Answered) -> Self {
        match answered {
            Answered::Subscribed(id, reasons) => Self::Subscribed(id, reasons),
            Answered::Unsubscribed(id, reasons) => Self::Unsubscribed(id, reasons),
        }
    }
}

/// A write that ended.
pub(super) enum Written {
    /// The record, pages or both, and how many answers wait for it.
    Session(SessionWritten, usize),
    /// The progress, up to this version, and how it was written.
    Progress(Result<(ProgressVersion, Arrival), WriteError>),
}

/// Messages that are the session's, with their packet ids.
pub(super) type Claimed = Vec<(PacketId, Outgoing)>;

/// What is counted in one turn and added to the metrics at its end.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) published: [u64; 3],
    pub(super) delivered: [u64; 3],
    /// Bytes of payloads, in and out.
    pub(super) payload_bytes: [u64; 2],
}

/// What was noticed of a client beside its bytes.
#[derive(Debug, Default)]
pub(super) struct Life {
    /// Bytes that it had taken when it was heard last.
    pub(super) taken: u64,
    /// Answers to PINGREQ that wait until there is room for them: a client that asks and does not read costs a number.
    pub(super) pings_owed: u64,
    /// When the client may not be connected any more, and why.
    pub(super) ends: Option<(UnixTime, Ending)>,
}

/// The exchange is over; what had come before is still handled.
#[derive(Debug)]
pub(super) struct Remainder {
    /// How the connection ends, unless DISCONNECT is found.
    pub(super) end: End,
    /// What is left then is given up; `None` once it is.
    pub(super) until: Option<Instant>,
    /// The connection ends then, whatever it still waits for.
    pub(super) over: Instant,
    /// Bytes that may still be read.
    pub(super) bytes: usize,
    /// Nothing more is read.
    pub(super) is_read: bool,
}

impl Remainder {
    pub(super) fn is_draining(&self) -> bool {
        matches!(self.end, End::ByServer(reason) if is_drain(reason))
    }
}

/// What a read of the backlog brought: its reader, when there is a backlog, and the next messages, when there are more.
pub(super) struct Page(pub(super) Option<Box<BacklogReader>>, pub(super) Vec<LogEntry>);

/// A read of the backlog that is under way.
pub(super) type Fetching = Eventual<Page>;

/// The backlog of a session being read, if it is.
#[derive(Default)]
pub(super) struct Reading {
    /// The log begins here: the rest comes from there. `None` when nothing is read.
    pub(super) until: Option<Sequence>,
    pub(super) fetching: Option<Fetching>,
    pub(super) reader: Option<Box<BacklogReader>>,
    page: VecDeque<LogEntry>,
    /// Bytes of it, which wait for the client.
    page_bytes: usize,
    /// No page follows.
    pub(super) is_last: bool,
    /// Something was read, and is not yet known to be gone.
    pub(super) is_left: Arc<AtomicBool>,
}

impl Reading {
    /// What a save of the progress has to see to, when a backlog was read.
    pub(super) fn is_left(&self) -> Option<Arc<AtomicBool>> {
        (self.until.is_none() && self.is_left.load(Ordering::Relaxed)).then(|| Arc::clone(&self.is_left))
    }

    /// Waits for the next page.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Page> {
        match &mut self.fetching {
            Some(fetching) => fetching.as_mut().poll(cx),
            None => Poll::Pending,
        }
    }

    /// A page is there.
    pub(super) fn take(&mut self, Page(reader, page): Page) {
        self.fetching = None;
        self.is_last = page.is_empty();
        self.reader = reader;
        self.page_bytes = page.iter().map(LogEntry::weight).sum();
        self.page = page.into();
    }

    /// The next message of the page.
    pub(super) fn pop(&mut self) -> Option<LogEntry> {
        let entry = self.page.pop_front()?;
        self.page_bytes = self.page_bytes.saturating_sub(entry.weight());
        Some(entry)
    }

    /// Bytes that wait for the client.
    pub(super) const fn bytes(&self) -> usize {
        self.page_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_ones_are_fetched_together_and_large_ones_one_by_one() {
        let mut piece = Piece::default();
        assert_eq!((piece.count(false), piece.count(true)), (8, 1));
        piece.took(8, 8 * 300, 64 * 1_024);
        assert_eq!(piece.count(false), 64, "not all at once");
        piece.took(64, 64 * 300, 64 * 1_024);
        assert_eq!(piece.count(false), 218);
        piece.took(218, 218 * 1_000_000, 64 * 1_024);
        assert_eq!(piece.count(false), 1);
        // Those that are gone have no size.
        piece.took(1, 0, 64 * 1_024);
        assert_eq!(piece.count(false), 8);
    }
}
