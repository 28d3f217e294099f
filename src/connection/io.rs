//! The socket of a connection: bytes in, bytes out, and no memory while it is idle.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::account::{PeerSocket, Segments};
use crate::metrics::Counts;
use crate::overload::{Held, PROCESS};

/// Bytes that one read takes at most.
pub(super) const READ_SIZE: usize = 32 * 1024;

/// Reads of what is not handled any more, before a socket is closed: as much as a kernel keeps for one at first, or more.
const DISCARDED_READS: usize = 32;

/// Pieces that one write hands to the socket at most.
const WRITE_PIECES: usize = 32;

thread_local! {
    /// Where reads land. What was read is split off, so an idle connection holds no buffer of its own.
    static SCRATCH: RefCell<BytesMut> = RefCell::new(BytesMut::new());
}

/// How long the last packets may take to leave.
pub(crate) const GOODBYE: Duration = Duration::from_secs(2);

/// A socket with its buffers.
#[derive(Debug)]
pub(crate) struct Io<S> {
    stream: S,
    /// Read and not decoded.
    pub(crate) input: BytesMut,
    /// To be written.
    pub(crate) output: Segments,
    /// Bytes that were received and sent, and not counted yet.
    pub(crate) uncounted: [u64; 2],
    /// Bytes that the peer's side of the stream has taken.
    pub(crate) taken: u64,
    /// Nothing more comes: the stream is over, or reading failed.
    pub(crate) is_over: bool,
    /// Writing failed: what is to be written is dropped. There may be more to read all the same.
    is_broken: bool,
    /// Everything was handed to the stream, which has not sent all of it.
    is_unflushed: bool,
    /// Something was read, and nothing was written after it.
    is_unanswered: bool,
    /// What of the process's memory this holds, with what belongs to it elsewhere.
    held: Held,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Io<S> {
    /// A socket with empty buffers.
    pub(crate) fn new(stream: S) -> Self {
        let (input, output) = (BytesMut::new(), Segments::default());
        let (is_over, is_broken, is_unflushed, is_unanswered) = (false, false, false, false);
        let held = Held::of(&PROCESS.budget);
        Self {
            stream,
            input,
            output,
            uncounted: [0; 2],
            taken: 0,
            is_over,
            is_broken,
            is_unflushed,
            is_unanswered,
            held,
        }
    }

    /// Counts the bytes that are here, and so many more.
    pub(crate) fn hold(&mut self, more: usize) {
        self.held.set(self.input.len() + self.output.own() + more);
    }

    /// Reads what is there behind `input`. Zero is the end of the stream.
    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.poll_read_most(cx, READ_SIZE)
    }

    /// The same, and not more than so many bytes, which are not 0.
    pub(super) fn poll_read_most(&mut self, cx: &mut Context<'_>, most: usize) -> Poll<io::Result<usize>> {
        SCRATCH.with_borrow_mut(|scratch| {
            scratch.resize(READ_SIZE, 0);
            let mut buffer = ReadBuf::new(&mut scratch[..most.min(READ_SIZE)]);
            let polled = Pin::new(&mut self.stream).poll_read(cx, &mut buffer);
            let count = buffer.filled().len();
            match polled {
                Poll::Pending => {
                    if self.input.is_empty() {
                        // It may be the last piece of a buffer that is much larger.
                        self.input = BytesMut::new();
                    }
                    Poll::Pending
                }
                Poll::Ready(Err(error)) => {
                    self.is_over = true;
                    Poll::Ready(Err(error))
                }
                Poll::Ready(Ok(())) => {
                    self.is_over = count == 0;
                    self.uncounted[0] += count as u64;
                    self.is_unanswered = true;
                    if self.input.is_empty() && count >= READ_SIZE / 8 {
                        self.input = scratch.split_to(count);
                    } else {
                        self.input.extend_from_slice(&scratch[..count]);
                    }
                    Poll::Ready(Ok(count))
                }
            }
        })
    }

    /// Whether something waits to be written.
    pub(crate) fn has_output(&self) -> bool {
        !self.output.is_empty() || self.is_unflushed
    }

    /// Writes some of what [`Io::has_output`] tells of. After an error it is dropped, and so is what follows.
    pub(crate) fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let written = if self.is_broken {
            Poll::Ready(Ok(()))
        } else if self.output.is_empty() {
            self.poll_flush(cx)
        } else {
            self.poll_write_some(cx)
        };
        if self.is_broken || matches!(written, Poll::Ready(Err(_))) {
            (self.is_broken, self.is_unflushed, self.output) = (true, false, Segments::default());
        }
        written
    }

    fn poll_write_some(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut pieces = [io::IoSlice::new(&[]); WRITE_PIECES];
        let filled = self.output.chunks_vectored(&mut pieces);
        let written = if filled == 1 {
            Pin::new(&mut self.stream).poll_write(cx, self.output.chunk())
        } else {
            Pin::new(&mut self.stream).poll_write_vectored(cx, &pieces[..filled])
        };
        match written {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(0)) => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            Poll::Ready(Ok(count)) => {
                self.output.advance(count);
                self.uncounted[1] += count as u64;
                self.taken += count as u64;
                self.is_unanswered = false;
                // A stream that buffers (WebSocket) sends its frame when it is flushed.
                let is_refused = self.output.is_empty() && matches!(self.poll_flush(cx), Poll::Ready(Err(_)));
                Poll::Ready(if is_refused { Err(io::ErrorKind::BrokenPipe.into()) } else { Ok(()) })
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
        }
    }

    /// Nothing will be written for now: the peer, whose TCP may hold back what comes next until it knows, is told that what
    /// was read has arrived.
    pub(crate) fn acknowledge(&mut self, cx: &mut Context<'_>) {
        if std::mem::take(&mut self.is_unanswered) {
            // A socket that broke is for the next read to tell.
            let _ = self.poll_flush(cx);
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        self.is_unflushed = flushed.is_pending();
        flushed
    }

    /// Writes everything and closes; nothing follows. For the end of a connection; bounded in time by the caller.
    pub(crate) async fn finish(&mut self) -> io::Result<()> {
        use tokio::io::AsyncWriteExt;
        while !self.output.is_empty() {
            std::future::poll_fn(|cx| self.poll_write(cx)).await?;
        }
        if self.is_broken {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        self.stream.flush().await?;
        self.stream.shutdown().await?;
        // Closing a socket that has something unread resets it, and the last packets may be lost by that.
        std::future::poll_fn(|cx| self.poll_discard(cx)).await;
        Ok(())
    }

    /// Reads what is there, up to some limit, and forgets it; waits for nothing.
    fn poll_discard(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        for _ in 0..DISCARDED_READS {
            self.input.clear();
            if !matches!(self.poll_read(cx), Poll::Ready(Ok(1..))) {
                break;
            }
        }
        Poll::Ready(())
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> PeerSocket for Io<S> {
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // What came behind CONNECT is carried out, and its end seen then. Not more than one read of it is taken.
        while self.input.is_empty() {
            match self.poll_read(cx) {
                Poll::Ready(Ok(count)) if count > 0 => {}
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Pending
    }
}

/// Writes what is left, and closes.
pub(super) async fn close_socket<S>(mut io: Io<S>, metrics: &Counts)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    // A peer that is gone is no news here.
    let _ = tokio::time::timeout(GOODBYE, io.finish()).await;
    let [received, sent] = io.uncounted;
    metrics.bytes(received, sent);
}
