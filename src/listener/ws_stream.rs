//! WebSocket frames as a byte stream. MQTT packets and frames have nothing to do with each other: a frame may hold
//! several packets, and a packet may be spread over frames [MQTT-6.0.0-2]. So frames are not gathered: their payload is
//! handed on as it comes, and a message may have any size. What is written is gathered until it is flushed and goes out as
//! one binary frame. Pings are answered while reading.
//!
//! **Invariant:** reading does not end because something cannot be written.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::ws_frame::{CONTROL_MAX, HEADER_MAX, HEADER_OUT_MAX, Header, Mask, Opcode, Refusal, write_header};

/// Payload of one outgoing frame; more than this between two flushes becomes several frames.
const FRAME_OUT_MAX: usize = 0xFFFF;

/// Bytes that are read for a header: what follows it comes along.
const READ_HEADER: usize = 4 * 1024;

/// An empty buffer keeps no more than this, so that ten thousand idle connections cost little.
const KEPT_CAPACITY: usize = 4 * 1024;

/// `Open` → `Refusing` (a Close frame has to go out) → `Ended`; or `Open` → `Ended`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    Refusing(Refusal),
    Ended,
}

/// A WebSocket connection as a byte stream.
#[derive(Debug)]
pub struct WsStream<S> {
    stream: S,
    /// Read: headers, control frames, and payload that came with them.
    incoming: BytesMut,
    /// What is left of the payload of the data frame that is being read.
    left: u64,
    mask: Mask,
    /// The message goes on in another frame.
    is_unfinished: bool,
    /// Frames on their way to the socket.
    sending: BytesMut,
    /// A control frame to be sent next. Of several pings the last one is answered [RFC 6455, 5.5.3].
    control: Bytes,
    /// What was written and not flushed yet, behind room for a header.
    outgoing: BytesMut,
    /// Writing failed.
    is_broken: bool,
    state: State,
}

/// What reading a header came to.
enum Step {
    /// There is payload, or another header.
    Again,
    /// It is not complete.
    More,
}

impl<S: AsyncRead + AsyncWrite + Unpin> WsStream<S> {
    /// The server's side of a connection whose HTTP part is over. `read_before` came after the request.
    pub(super) fn new(stream: S, read_before: &[u8]) -> Self {
        Self {
            stream,
            incoming: BytesMut::from(read_before),
            left: 0,
            mask: Mask::default(),
            is_unfinished: false,
            sending: BytesMut::new(),
            control: Bytes::new(),
            outgoing: BytesMut::new(),
            is_broken: false,
            state: State::Open,
        }
    }

    /// Takes a header, and a control frame with its payload, out of what was read.
    fn step(&mut self) -> Result<Step, Refusal> {
        let Some((header, header_len)) = Header::read(&self.incoming)? else { return Ok(Step::More) };
        if !header.opcode.is_control() {
            let begins = header.opcode != Opcode::Continuation;
            if begins == self.is_unfinished {
                return Err(Refusal::Protocol);
            }
            if header.opcode == Opcode::Text {
                return Err(Refusal::Text);
            }
            self.incoming.advance(header_len);
            (self.left, self.mask, self.is_unfinished) = (header.payload_len, header.mask, !header.is_final);
            return Ok(Step::Again);
        }
        let payload_len = usize::try_from(header.payload_len).unwrap_or(CONTROL_MAX);
        if self.incoming.len() < header_len + payload_len {
            return Ok(Step::More);
        }
        self.incoming.advance(header_len);
        let (mut mask, mut payload) = (header.mask, self.incoming.split_to(payload_len));
        mask.remove(&mut payload);
        match header.opcode {
            Opcode::Ping => self.control = frame(Opcode::Pong, &payload),
            Opcode::Close => {
                self.control = frame(Opcode::Close, payload.get(..2).unwrap_or_default());
                self.state = State::Ended;
            }
            _ => {}
        }
        Ok(Step::Again)
    }

    /// Payload that came with a header.
    fn take_payload(&mut self, buf: &mut ReadBuf<'_>) {
        let wanted = usize::try_from(self.left).unwrap_or(usize::MAX).min(buf.remaining());
        let mut payload = self.incoming.split_to(wanted.min(self.incoming.len()));
        self.mask.remove(&mut payload);
        self.left -= payload.len() as u64;
        buf.put_slice(&payload);
        if self.incoming.is_empty() {
            self.incoming = BytesMut::new();
        }
    }

    /// Payload from the socket, without a copy.
    fn poll_payload(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let wanted = usize::try_from(self.left).unwrap_or(usize::MAX).min(buf.remaining());
        let mut part = ReadBuf::new(buf.initialize_unfilled_to(wanted));
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut part))?;
        let count = part.filled().len();
        buf.advance(count);
        self.mask.remove(buf.filled_mut().get_mut(before..).unwrap_or_default());
        self.left -= count as u64;
        if count == 0 && wanted > 0 {
            self.state = State::Ended;
        }
        Poll::Ready(Ok(()))
    }

    /// More for a header. `false` is the end of the stream.
    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let mut room = [0; READ_HEADER];
        let mut buf = ReadBuf::new(&mut room);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buf))?;
        self.incoming.reserve(HEADER_MAX + CONTROL_MAX);
        self.incoming.extend_from_slice(buf.filled());
        Poll::Ready(Ok(!buf.filled().is_empty()))
    }

    /// Sends the Close frame, then tells the reader why.
    fn poll_refuse(&mut self, cx: &mut Context<'_>, refusal: Refusal) -> Poll<io::Error> {
        // A peer that is gone needs none.
        let _ = ready!(self.poll_drain(cx));
        self.state = State::Ended;
        Poll::Ready(io::Error::new(io::ErrorKind::InvalidData, refusal.reason()))
    }

    fn refuse(&mut self, refusal: Refusal) {
        let payload = [&refusal.code().to_be_bytes()[..], refusal.reason().as_bytes()].concat();
        self.control = frame(Opcode::Close, &payload);
        self.state = State::Refusing(refusal);
    }

    /// Sends what is on its way, and then a control frame.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if self.sending.is_empty() {
                if self.sending.capacity() > KEPT_CAPACITY {
                    self.sending = BytesMut::new();
                }
                if self.control.is_empty() {
                    return Poll::Ready(if self.is_broken { Err(broken()) } else { Ok(()) });
                }
                self.sending.extend_from_slice(&std::mem::take(&mut self.control));
            }
            match ready!(Pin::new(&mut self.stream).poll_write(cx, &self.sending)) {
                Ok(count @ 1..) => self.sending.advance(count),
                Ok(0) | Err(_) => {
                    self.is_broken = true;
                    (self.sending, self.control, self.outgoing) = Default::default();
                }
            }
        }
    }

    /// Makes a frame of what was written. It is on its way to the socket then, not through.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        if let Some((room, payload)) = self.outgoing.split_first_chunk_mut::<HEADER_OUT_MAX>() {
            // No longer than this, by `poll_room`.
            let len = u16::try_from(payload.len()).unwrap_or(u16::MAX);
            let unused = write_header(Opcode::Binary, len, room);
            self.sending = std::mem::take(&mut self.outgoing);
            self.sending.advance(unused);
        }
        Poll::Ready(Ok(()))
    }

    /// Room for more before a frame has to go out; never 0.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.state != State::Open || self.is_broken {
            return Poll::Ready(Err(broken()));
        }
        if self.outgoing.len() >= HEADER_OUT_MAX + FRAME_OUT_MAX {
            ready!(self.poll_send(cx))?;
        }
        if self.outgoing.is_empty() {
            self.outgoing.extend_from_slice(&[0; HEADER_OUT_MAX]);
        }
        Poll::Ready(Ok(HEADER_OUT_MAX + FRAME_OUT_MAX - self.outgoing.len()))
    }
}

/// A control frame.
fn frame(opcode: Opcode, payload: &[u8]) -> Bytes {
    let payload = payload.get(..CONTROL_MAX).unwrap_or(payload);
    let mut room = [0; HEADER_OUT_MAX];
    let unused = write_header(opcode, u16::try_from(payload.len()).unwrap_or(0), &mut room);
    let mut frame = BytesMut::from(&room[unused..]);
    frame.extend_from_slice(payload);
    frame.freeze()
}

fn broken() -> io::Error {
    io::ErrorKind::BrokenPipe.into()
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for WsStream<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // What could not leave before leaves as soon as it can; that it never can is for a write to tell.
        let _ = this.poll_drain(cx);
        loop {
            match this.state {
                State::Open => {}
                State::Refusing(refusal) => return this.poll_refuse(cx, refusal).map(Err),
                State::Ended => return Poll::Ready(Ok(())),
            }
            if this.left > 0 {
                if this.incoming.is_empty() {
                    return this.poll_payload(cx, buf);
                }
                this.take_payload(buf);
                return Poll::Ready(Ok(()));
            }
            match this.step() {
                Ok(Step::Again) => {
                    let _ = this.poll_drain(cx);
                }
                Ok(Step::More) => {
                    if !ready!(this.poll_more(cx))? {
                        this.state = State::Ended;
                    }
                }
                Err(refusal) => this.refuse(refusal),
            }
        }
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
        for slice in slices {
            let n = slice.len().min(room);
            this.outgoing.extend_from_slice(slice.get(..n).unwrap_or_default());
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
        ready!(this.poll_drain(cx))?;
        Pin::new(&mut this.stream).poll_flush(cx)
    }

    /// Flushes, sends a Close frame and ends the sending side of the socket.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.state == State::Open {
            ready!(this.poll_send(cx))?;
            this.control = frame(Opcode::Close, &[]);
            this.state = State::Ended;
        }
        ready!(this.poll_drain(cx))?;
        Pin::new(&mut this.stream).poll_shutdown(cx)
    }
}
