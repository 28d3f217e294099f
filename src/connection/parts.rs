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
use mqtt_session::Input;
use tokio::time::Instant;

use crate::account::redirect::is_drain;
use crate::account::{Outgoing, SessionWritten};
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
    Progress(Result<(u64, Arrival), WriteError>),
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
    pub(super) until: Option<u64>,
    pub(super) fetching: Option<Fetching>,
    pub(super) reader: Option<Box<BacklogReader>>,
    pub(super) page: VecDeque<LogEntry>,
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
        self.page = page.into();
    }
}
