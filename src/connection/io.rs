//! The socket of a connection: bytes in, bytes out, and no memory while it is idle.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::broker::Segments;

/// Bytes that one read takes at most.
const READ_SIZE: usize = 32 * 1024;

/// Pieces that one write hands to the socket at most.
const WRITE_PIECES: usize = 32;

thread_local! {
    /// Where reads land. What was read is split off, so an idle connection holds no buffer of its own.
    static SCRATCH: RefCell<BytesMut> = RefCell::new(BytesMut::new());
}

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
    /// Something was read, and nothing was written after it.
    is_unanswered: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Io<S> {
    /// A socket with empty buffers.
    pub(crate) fn new(stream: S) -> Self {
        Self { stream, input: BytesMut::new(), output: Segments::default(), uncounted: [0; 2], is_unanswered: false }
    }

    /// Reads what is there behind `input`. Zero is the end of the stream.
    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        SCRATCH.with_borrow_mut(|scratch| {
            scratch.resize(READ_SIZE, 0);
            let mut buffer = ReadBuf::new(scratch);
            let polled = Pin::new(&mut self.stream).poll_read(cx, &mut buffer);
            let count = buffer.filled().len();
            match polled {
                Poll::Pending => Poll::Pending,
                Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
                Poll::Ready(Ok(())) => {
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

    /// Writes some of `output`, which must not be empty.
    pub(crate) fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
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
                self.is_unanswered = false;
                // A stream that buffers (WebSocket) sends its frame when it is flushed.
                if self.output.is_empty() { self.poll_flush(cx) } else { Poll::Ready(Ok(())) }
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
        match Pin::new(&mut self.stream).poll_flush(cx) {
            // What is left is flushed with the next write, or by the stream itself.
            Poll::Pending | Poll::Ready(Ok(())) => Poll::Ready(Ok(())),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
        }
    }

    /// Writes everything and closes; nothing follows. For the end of a connection; bounded in time by the caller.
    pub(crate) async fn finish(&mut self) -> io::Result<()> {
        use tokio::io::AsyncWriteExt;
        while !self.output.is_empty() {
            std::future::poll_fn(|cx| self.poll_write(cx)).await?;
        }
        self.stream.flush().await?;
        self.stream.shutdown().await
    }
}
