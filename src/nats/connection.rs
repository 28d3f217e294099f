//! One connection, polled by the one task of its link: it writes what waits and hands on what comes.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use nats_wire::{Decoder, Message, ServerInfo, ServerOp};
use tokio::io::{AsyncReadExt as _, AsyncWrite as _};
use tokio::time::{Interval, MissedTickBehavior};

use super::handshake::Established;
use super::options::Event;
use super::queue::Entry;
use super::queue::Queue;
use super::shared::{Handed, Shared};
use super::stream::Stream;

/// How often the server is asked whether it is there, and how many questions in a row may be without an answer.
const PING_EVERY: Duration = Duration::from_secs(10);
const UNANSWERED_MAX: usize = 2;
/// What is read at once.
const READ: usize = 64 * 1_024;
/// Less room than this and the buffer is renewed.
const READ_MIN: usize = 8 * 1_024;
/// Pieces of one write.
const SLICES: usize = 64;
/// Reads in a row before what waits is written.
const READS: usize = 8;

/// What a connection has to tell the link.
pub(super) enum Heard {
    /// The server says something of itself.
    Info(ServerInfo),
    /// It is over, for this reason.
    Over(String),
}

pub(super) struct Connection {
    shared: Arc<Shared>,
    stream: Stream,
    decoder: Decoder,
    buffer: BytesMut,
    /// Taken from what waits, and not written yet.
    writing: VecDeque<Bytes>,
    is_flushed: bool,
    /// A message whose queue has no room.
    stopped: Option<(Arc<Entry>, Arc<Queue>, Message)>,
    /// Queues that were handed something.
    touched: Vec<Arc<Queue>>,
    pings: Interval,
    /// Reading has made something to be written.
    owes_write: bool,
}

impl Connection {
    pub(super) fn new(shared: Arc<Shared>, established: Established) -> Self {
        let Established { stream, decoder, buffer, .. } = established;
        let mut pings = tokio::time::interval_at(tokio::time::Instant::now() + PING_EVERY, PING_EVERY);
        pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (writing, touched) = (VecDeque::new(), Vec::new());
        Self {
            shared,
            stream,
            decoder,
            buffer,
            writing,
            is_flushed: true,
            stopped: None,
            touched,
            pings,
            owes_write: false,
        }
    }

    /// Runs until there is something to tell.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Heard> {
        self.shared.task.register(cx.waker());
        loop {
            let written = self.poll_write(cx);
            if let Poll::Ready(Err(error)) = written {
                return Poll::Ready(self.over(cx, &error));
            }
            match self.poll_reads(cx) {
                Poll::Ready(Some(heard)) => return Poll::Ready(heard),
                // Much has come; what waits meanwhile is written before more is read.
                Poll::Ready(None) => {}
                Poll::Pending if std::mem::take(&mut self.owes_write) => {}
                Poll::Pending => break,
            }
        }
        if self.poll_pings(cx) {
            return Poll::Ready(Heard::Over("the server does not answer".to_owned()));
        }
        Poll::Pending
    }

    /// Writes what waits, as long as the socket takes it. `Pending`: the socket does not.
    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if self.shared.is_closed.load(Ordering::Acquire) {
                return Poll::Ready(Ok(()));
            }
            if self.writing.is_empty() {
                let has_more = self.shared.outgoing.lock().take(&mut self.writing);
                if has_more {
                    self.shared.room.notify_waiters();
                } else if self.is_flushed {
                    return Poll::Ready(Ok(()));
                } else {
                    ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
                    self.is_flushed = true;
                    continue;
                }
            }
            self.is_flushed = false;
            let mut slices = [IoSlice::new(&[]); SLICES];
            let count = self.writing.len().min(SLICES);
            for (slice, chunk) in slices.iter_mut().zip(&self.writing) {
                *slice = IoSlice::new(chunk);
            }
            let mut written = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, &slices[..count]))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            while let Some(chunk) = self.writing.front_mut() {
                let taken = chunk.len().min(written);
                chunk.advance(taken);
                written -= taken;
                if !chunk.is_empty() {
                    break;
                }
                self.writing.pop_front();
            }
        }
    }

    /// Reads and hands on. `Ready(None)`: there may be more.
    fn poll_reads(&mut self, cx: &mut Context<'_>) -> Poll<Option<Heard>> {
        // What has come with the handshake, or behind a message that had to wait.
        if let Some(heard) = self.hand_on(cx) {
            return Poll::Ready(Some(heard));
        }
        for _ in 0..READS {
            if self.stopped.is_some() {
                return Poll::Pending;
            }
            if self.buffer.capacity() - self.buffer.len() < READ_MIN {
                self.buffer.reserve(READ);
            }
            let read = match ready!(pin!(self.stream.read_buf(&mut self.buffer)).poll(cx)) {
                Ok(read) => read,
                Err(error) => return Poll::Ready(Some(Heard::Over(error.to_string()))),
            };
            if read == 0 {
                return Poll::Ready(Some(Heard::Over("the server has closed it".to_owned())));
            }
            if let Some(heard) = self.hand_on(cx) {
                return Poll::Ready(Some(heard));
            }
        }
        Poll::Ready(None)
    }

    /// Hands on everything in the buffer that is complete, as far as there is room.
    fn hand_on(&mut self, cx: &Context<'_>) -> Option<Heard> {
        let heard = self.hand_on_all(cx);
        for queue in self.touched.drain(..) {
            queue.wake();
        }
        heard
    }

    fn hand_on_all(&mut self, cx: &Context<'_>) -> Option<Heard> {
        if let Some((entry, queue, message)) = self.stopped.take() {
            queue.register_link(cx);
            let handed = self.shared.hand_to(entry, message);
            self.note(handed, cx);
        }
        while self.stopped.is_none() {
            match self.decoder.decode(&mut self.buffer) {
                Ok(Some(ServerOp::Message(message))) => {
                    let handed = self.shared.hand_on(message);
                    self.note(handed, cx);
                }
                Ok(Some(op)) => {
                    if let Some(heard) = self.take(op) {
                        return Some(heard);
                    }
                }
                Ok(None) => break,
                Err(error) => return Some(Heard::Over(error.to_string())),
            }
        }
        None
    }

    fn note(&mut self, handed: Handed, cx: &Context<'_>) {
        match handed {
            Handed::Done => {}
            Handed::To(queue) => {
                if !self.touched.last().is_some_and(|last| Arc::ptr_eq(last, &queue)) {
                    self.touched.push(queue);
                }
            }
            Handed::Stop(entry, queue, message) => {
                queue.register_link(cx);
                // Room that was made before the waker was there.
                match self.shared.hand_to(entry, message) {
                    Handed::Stop(entry, queue, message) => self.stopped = Some((entry, queue, message)),
                    Handed::To(queue) => self.touched.push(queue),
                    Handed::Done => {}
                }
            }
        }
    }

    /// What is no message.
    fn take(&mut self, op: ServerOp) -> Option<Heard> {
        match op {
            ServerOp::Ping => {
                self.shared.outgoing.lock().pong();
                self.owes_write = true;
            }
            ServerOp::Pong => self.shared.outgoing.lock().answered(),
            ServerOp::Error(text) => self.shared.emit(Event::ServerError(&String::from_utf8_lossy(&text))),
            ServerOp::Skipped { why, .. } => self.shared.skipped(why),
            ServerOp::Info(json) => match ServerInfo::parse(&json) {
                Ok(info) => return Some(Heard::Info(info)),
                Err(error) => tracing::warn!(%error, "what nats-server says of itself is ignored"),
            },
            ServerOp::Ok | ServerOp::Message(_) => {}
        }
        None
    }

    /// Asks whether the server is there; `true` when it does not seem to be.
    fn poll_pings(&mut self, cx: &mut Context<'_>) -> bool {
        while self.pings.poll_tick(cx).is_ready() {
            // Its answers cannot be read while we do not read.
            if self.stopped.is_some() {
                continue;
            }
            let mut outgoing = self.shared.outgoing.lock();
            if !outgoing.ask(UNANSWERED_MAX) {
                return true;
            }
            drop(outgoing);
            // The registered waker is ours.
            cx.waker().wake_by_ref();
        }
        false
    }

    /// Nothing more can be written. What the server has sent before it closed counts.
    fn over(&mut self, cx: &mut Context<'_>, error: &io::Error) -> Heard {
        while let Poll::Ready(heard) = self.poll_reads(cx) {
            if let Some(Heard::Over(_)) = heard {
                break;
            }
        }
        Heard::Over(error.to_string())
    }
}
