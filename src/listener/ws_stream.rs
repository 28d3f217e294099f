//! WebSocket frames as a byte stream. MQTT packets and frames have nothing to do with each other: a frame may hold
//! several packets, and a packet may be spread over frames [MQTT-6.0.0-2]. What is written is gathered until it is
//! flushed and goes out as one binary frame. Pings are answered while reading.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes, BytesMut};
use futures_util::{Sink, Stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Error, Message, Utf8Bytes,
        error::ProtocolError,
        protocol::{CloseFrame, Role, WebSocketConfig, frame::coding::CloseCode},
    },
};

/// Bytes of one outgoing frame; more than this between two flushes becomes several frames.
const FRAME_OUT_MAX: usize = 64 * 1024;

/// Read from the socket at once. A connection keeps a buffer of this size, so it is small.
const READ_BUFFER: usize = 4 * 1024;

/// A WebSocket connection as a byte stream.
#[derive(Debug)]
pub struct WsStream<S> {
    ws: WebSocketStream<S>,
    /// What came in a frame and was not read yet.
    incoming: Bytes,
    /// What was written and not flushed yet.
    outgoing: BytesMut,
    state: State,
}

/// `Open` → `Refusing` (a Close frame has to go out) → `Refused` (it has to be flushed) → `Ended`; or `Open` → `Ended`.
#[derive(Debug)]
enum State {
    Open,
    Refusing(CloseCode, &'static str),
    Refused(&'static str),
    Ended,
}

impl<S: AsyncRead + AsyncWrite + Unpin> WsStream<S> {
    /// The server's side of a connection whose HTTP part is over. `read_before` came after the request. Incoming
    /// messages are at most `max_message` bytes.
    pub(super) async fn new(stream: S, read_before: Bytes, max_message: usize) -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER)
            .write_buffer_size(0)
            .max_write_buffer_size(4 * FRAME_OUT_MAX)
            .max_message_size(Some(max_message))
            .max_frame_size(Some(max_message));
        let ws = WebSocketStream::from_partially_read(stream, read_before.into(), Role::Server, Some(config)).await;
        Self { ws, incoming: Bytes::new(), outgoing: BytesMut::new(), state: State::Open }
    }

    /// Fills `incoming`. `false` is the end of the stream.
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        loop {
            match self.state {
                State::Open => {}
                State::Ended => return Poll::Ready(Ok(false)),
                State::Refusing(..) | State::Refused(_) => return self.poll_refuse(cx).map(Err),
            }
            match ready!(Pin::new(&mut self.ws).poll_next(cx)) {
                Some(Ok(Message::Binary(bytes))) if bytes.is_empty() => {}
                Some(Ok(Message::Binary(bytes))) => {
                    self.incoming = bytes;
                    return Poll::Ready(Ok(true));
                }
                // [MQTT-6.0.0-1]
                Some(Ok(Message::Text(_))) => {
                    self.state = State::Refusing(CloseCode::Unsupported, "MQTT travels in binary frames");
                }
                // Answering pings and Close is the crate's, which does it when it is polled again.
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Close(_) | Message::Frame(_))) => {}
                Some(Err(Error::Capacity(_))) => {
                    self.state = State::Refusing(CloseCode::Size, "the WebSocket message is too large");
                }
                None => self.state = State::Ended,
                Some(Err(error)) => {
                    self.state = State::Ended;
                    return Poll::Ready(match into_io(error) {
                        None => Ok(false),
                        Some(error) => Err(error),
                    });
                }
            }
        }
    }

    /// Sends the Close frame, then tells the reader why.
    fn poll_refuse(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        if let State::Refusing(code, reason) = self.state {
            if let Err(error) = ready!(Pin::new(&mut self.ws).poll_ready(cx)) {
                return self.ended(error);
            }
            let close = CloseFrame { code, reason: Utf8Bytes::from_static(reason) };
            if let Err(error) = Pin::new(&mut self.ws).start_send(Message::Close(Some(close))) {
                return self.ended(error);
            }
            self.state = State::Refused(reason);
        }
        let State::Refused(reason) = self.state else {
            return Poll::Ready(io::ErrorKind::NotConnected.into());
        };
        if let Err(error) = ready!(Pin::new(&mut self.ws).poll_flush(cx)) {
            return self.ended(error);
        }
        self.state = State::Ended;
        Poll::Ready(io::Error::new(io::ErrorKind::InvalidData, reason))
    }

    fn ended(&mut self, error: Error) -> Poll<io::Error> {
        self.state = State::Ended;
        Poll::Ready(into_io(error).unwrap_or_else(|| io::ErrorKind::ConnectionReset.into()))
    }

    /// Makes a frame of what was written. It is on its way to the socket then, not through.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.outgoing.is_empty() {
            return Poll::Ready(Ok(()));
        }
        ready!(Pin::new(&mut self.ws).poll_ready(cx)).map_err(broken)?;
        let frame = self.outgoing.split().freeze();
        Poll::Ready(Pin::new(&mut self.ws).start_send(Message::Binary(frame)).map_err(broken))
    }

    /// Room for more before a frame has to go out; never 0.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if !matches!(self.state, State::Open) {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if self.outgoing.len() >= FRAME_OUT_MAX {
            ready!(self.poll_send(cx))?;
        }
        Poll::Ready(Ok(FRAME_OUT_MAX - self.outgoing.len()))
    }
}

/// `None` when it is an ordinary end: the peer closed, with a Close frame or without.
fn into_io(error: Error) -> Option<io::Error> {
    match error {
        Error::ConnectionClosed | Error::AlreadyClosed => None,
        Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => None,
        Error::Io(error) => Some(error),
        other => Some(io::Error::new(io::ErrorKind::InvalidData, other)),
    }
}

fn broken(error: Error) -> io::Error {
    into_io(error).unwrap_or_else(|| io::ErrorKind::BrokenPipe.into())
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for WsStream<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.incoming.is_empty() && !ready!(this.poll_frame(cx))? {
            return Poll::Ready(Ok(()));
        }
        let n = this.incoming.len().min(buf.remaining());
        buf.put_slice(&this.incoming.split_to(n));
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for WsStream<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let room = ready!(this.poll_room(cx))?;
        let n = bytes.len().min(room);
        this.outgoing.extend_from_slice(bytes.get(..n).unwrap_or_default());
        Poll::Ready(Ok(n))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let mut room = ready!(this.poll_room(cx))?;
        let mut written = 0;
        for mut slice in slices.iter().map(|slice| &**slice) {
            let n = slice.len().min(room);
            this.outgoing.extend_from_slice(slice.get(..n).unwrap_or_default());
            slice.advance(n);
            room -= n;
            written += n;
            if room == 0 {
                break;
            }
        }
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_send(cx))?;
        Pin::new(&mut this.ws).poll_flush(cx).map_err(broken)
    }

    /// Flushes, sends a Close frame and ends the sending side of the socket.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if matches!(this.state, State::Open) {
            ready!(this.poll_send(cx))?;
            ready!(Pin::new(&mut this.ws).poll_close(cx)).map_err(broken)?;
        }
        Pin::new(this.ws.get_mut()).poll_shutdown(cx)
    }
}
