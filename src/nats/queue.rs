//! Messages between a link and whoever reads them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;
use nats_wire::Message;
use parking_lot::Mutex;

/// What happens to a message that finds no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OnFull {
    /// It is dropped and counted, and the link goes on.
    Drop,
    /// The link reads no more until there is room, so that the server holds back. For the only queue of a link: everything else
    /// on it waits too.
    StopReading,
}

/// How much may wait.
#[derive(Clone, Copy, Debug)]
pub(crate) struct QueueLimits {
    /// Messages of one subscription.
    pub(crate) of_each_max: usize,
    /// Bytes of all; one message always has room.
    pub(crate) bytes_max: usize,
    pub(crate) on_full: OnFull,
}

/// One subscription, as the link knows it.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) subject: Box<str>,
    pub(super) group: Option<Box<str>>,
    pub(super) delivery: Delivery,
    of_queue: Arc<OfQueue>,
}

/// What a message that waits knows of its subscription.
///
/// **Invariant:** it does not lead to the queue: what nobody reads any more goes with its queue, and does not hold it.
#[derive(Debug)]
struct OfQueue {
    /// What its reader calls it.
    tag: u64,
    waiting: AtomicU32,
    has_ended: AtomicBool,
}

/// Where its messages go.
#[derive(Clone, Debug)]
pub(super) enum Delivery {
    Queue(Arc<Queue>),
    /// They are answers to requests.
    Requests,
}

impl Entry {
    pub(super) fn new(subject: &str, group: Option<&str>, tag: u64, delivery: Delivery) -> Arc<Self> {
        let of_queue = Arc::new(OfQueue { tag, waiting: AtomicU32::new(0), has_ended: AtomicBool::new(false) });
        Arc::new(Self { subject: subject.into(), group: group.map(Into::into), delivery, of_queue })
    }

    /// Messages of it that nobody has read yet.
    pub(super) fn waiting(&self) -> usize {
        self.of_queue.waiting.load(Ordering::Relaxed) as usize
    }

    pub(super) fn end(&self) {
        self.of_queue.has_ended.store(true, Ordering::Release);
    }
}

/// A queue that any number of subscriptions lead to, read by one.
#[derive(Debug)]
pub(crate) struct Queue {
    limits: QueueLimits,
    inner: Mutex<Inner>,
    reader: AtomicWaker,
    /// The link, when it has stopped reading.
    link: AtomicWaker,
}

#[derive(Debug, Default)]
struct Inner {
    waiting: VecDeque<(Arc<OfQueue>, Message)>,
    bytes: usize,
    is_closed: bool,
}

/// What became of a message.
pub(super) enum Pushed {
    /// It waits. The reader is to be woken.
    Waits,
    Dropped,
    /// It has to be pushed again when there is room.
    Stop(Message),
    /// Nobody reads any more.
    Closed,
}

impl Queue {
    pub(crate) fn new(limits: QueueLimits) -> Arc<Self> {
        Arc::new(Self { limits, inner: Mutex::default(), reader: AtomicWaker::new(), link: AtomicWaker::new() })
    }

    /// Appends a message of a subscription. The reader is not woken: see [`Self::wake`].
    pub(super) fn push(&self, entry: &Arc<Entry>, message: Message) -> Pushed {
        let mut inner = self.inner.lock();
        if inner.is_closed {
            return Pushed::Closed;
        }
        let size = message.size();
        let is_too_much = inner.bytes + size > self.limits.bytes_max && !inner.waiting.is_empty();
        if is_too_much || entry.waiting() >= self.limits.of_each_max {
            return match self.limits.on_full {
                OnFull::Drop => Pushed::Dropped,
                OnFull::StopReading => Pushed::Stop(message),
            };
        }
        inner.bytes += size;
        entry.of_queue.waiting.fetch_add(1, Ordering::Relaxed);
        inner.waiting.push_back((Arc::clone(&entry.of_queue), message));
        Pushed::Waits
    }

    /// Wakes the reader.
    pub(super) fn wake(&self) {
        self.reader.wake();
    }

    /// The link wants to know when there is room.
    pub(super) fn register_link(&self, cx: &Context<'_>) {
        self.link.register(cx.waker());
    }

    /// Nothing more comes, and nothing more is taken in; what waits can be read.
    pub(crate) fn close(&self) {
        self.inner.lock().is_closed = true;
        self.reader.wake();
        self.link.wake();
    }

    /// Takes at most `max` messages, each with the tag of its subscription. `Ready(false)`: there is none, and none will come.
    pub(crate) fn poll_take(&self, cx: &Context<'_>, max: usize, take: &mut dyn FnMut(u64, Message)) -> Poll<bool> {
        match self.take_now(max, take) {
            (0, is_closed) => {
                if is_closed {
                    return Poll::Ready(false);
                }
                self.reader.register(cx.waker());
                // Something may have come before the waker was there.
                match self.take_now(max, take) {
                    (0, false) => Poll::Pending,
                    (count, _) => Poll::Ready(count > 0),
                }
            }
            _ => Poll::Ready(true),
        }
    }

    /// Takes what is there, at most `max`; how many, and whether nothing more will come.
    pub(crate) fn take_now(&self, max: usize, take: &mut dyn FnMut(u64, Message)) -> (usize, bool) {
        loop {
            let (taken, is_closed) = self.take_waiting(max);
            if taken.is_empty() {
                return (0, is_closed);
            }
            self.link.wake();
            let mut count = 0;
            for (subscription, message) in taken {
                subscription.waiting.fetch_sub(1, Ordering::Relaxed);
                // Of a subscription that has ended nothing more is seen.
                if !subscription.has_ended.load(Ordering::Acquire) {
                    count += 1;
                    take(subscription.tag, message);
                }
            }
            if count > 0 {
                return (count, is_closed);
            }
        }
    }

    fn take_waiting(&self, max: usize) -> (VecDeque<(Arc<OfQueue>, Message)>, bool) {
        let mut inner = self.inner.lock();
        let is_closed = inner.is_closed;
        // One lock for all that is there; the link goes on with an empty queue.
        if inner.waiting.len() <= max {
            inner.bytes = 0;
            return (std::mem::take(&mut inner.waiting), is_closed);
        }
        let taken: VecDeque<_> = inner.waiting.drain(..max).collect();
        let bytes: usize = taken.iter().map(|(_, message)| message.size()).sum();
        inner.bytes = inner.bytes.saturating_sub(bytes);
        (taken, is_closed)
    }
}
