//! From bytes to what a server says.
//!
//! ```text
//!            a line that is no message
//!             ┌──────┐
//!             ▼      │      MSG, HMSG
//!   ────▶ State::Line ─┴──────────────▶ State::Body ──all of it──▶ (Line)
//!             ▲    └──too large, wrong──▶ State::Skipping ──the end──▶ (Line)
//!             └──────────────────────────────────┘
//! ```

use bytes::{Buf, Bytes, BytesMut};

use crate::args::{Args, number};
use crate::error::{FrameError, Skipped};
use crate::limits::Limits;
use crate::message::{Message, Place};

/// CR LF.
const END: usize = 2;
/// Beyond it a subscription id is none of ours, and nothing that is added to a length overflows.
const LENGTH_MAX: u64 = 1 << 40;

/// What a server sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerOp {
    /// A message for a subscription.
    Message(Message),
    /// A message was left out.
    Skipped {
        /// The subscription, when it could be read.
        sid: Option<u64>,
        /// Why.
        why: Skipped,
    },
    /// The JSON of INFO; see [`ServerInfo`](crate::ServerInfo).
    Info(Bytes),
    /// Wants a PONG.
    Ping,
    /// Answers a PING.
    Pong,
    /// +OK.
    Ok,
    /// -ERR, without its quotes. Subjects of anybody can stand in it.
    Error(Bytes),
}

/// Reads operations out of a buffer that grows at its end.
#[derive(Debug)]
pub struct Decoder {
    limits: Limits,
    state: State,
}

#[derive(Debug)]
enum State {
    /// A line begins at the start of the buffer; so much of it has no end.
    Line { looked_at: usize },
    /// A message stands at the start of the buffer, its control line with it.
    Body(Head),
    /// So much of a message is left out, its CR LF included.
    Skipping { remaining: u64, sid: Option<u64>, why: Skipped },
}

/// A message whose control line has been read. Places are those in its frame.
#[derive(Clone, Copy, Debug)]
struct Head {
    sid: u64,
    subject: Place,
    reply: Place,
    line: usize,
    headers: usize,
    total: usize,
}

impl Head {
    fn frame(&self) -> usize {
        self.line + self.total + END
    }
}

/// A frame of fewer bytes is copied out of the buffer: whoever keeps it keeps no more than itself, and the buffer can be used
/// again. A longer one takes its part of the buffer with it, which is not much more than itself.
const COPY_MAX: usize = 16 * 1024;

fn taken(buffer: &mut BytesMut, frame: usize) -> Bytes {
    if frame >= COPY_MAX {
        return buffer.split_to(frame).freeze();
    }
    let copy = Bytes::copy_from_slice(&buffer[..frame]);
    buffer.advance(frame);
    copy
}

impl Decoder {
    /// A decoder at the beginning of a stream.
    #[must_use]
    pub const fn new(limits: Limits) -> Self {
        Self { limits, state: State::Line { looked_at: 0 } }
    }

    /// The next operation, taken from the start of the buffer; `None` when more bytes are needed. When it knows how many, it
    /// has made room for them. `None` says nothing about the buffer: what is left out is taken away as it comes.
    ///
    /// # Errors
    /// The stream cannot be followed any further.
    pub fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<ServerOp>, FrameError> {
        loop {
            match &mut self.state {
                State::Line { looked_at } => {
                    let Some(end) = memchr::memchr(b'\n', buffer.get(*looked_at..).unwrap_or_default()) else {
                        *looked_at = buffer.len();
                        return self.line_goes_on(buffer.len());
                    };
                    let line = *looked_at + end + 1;
                    *looked_at = 0;
                    self.line_goes_on(line - 1)?;
                    if let Some(op) = self.line(buffer, line)? {
                        return Ok(Some(op));
                    }
                }
                State::Body(head) => {
                    let (head, frame) = (*head, head.frame());
                    if buffer.len() < frame {
                        buffer.reserve(frame - buffer.len());
                        return Ok(None);
                    }
                    self.state = State::Line { looked_at: 0 };
                    let frame = taken(buffer, frame);
                    return message(head, frame).map(|message| Some(ServerOp::Message(message)));
                }
                State::Skipping { remaining, sid, why } => {
                    let (sid, why) = (*sid, *why);
                    // The CR LF is looked at, to know that the length was right.
                    let without_end = remaining.saturating_sub(END as u64);
                    let taken = usize::try_from(without_end).unwrap_or(usize::MAX).min(buffer.len());
                    buffer.advance(taken);
                    *remaining -= taken as u64;
                    if *remaining > END as u64 || buffer.len() < END {
                        return Ok(None);
                    }
                    self.state = State::Line { looked_at: 0 };
                    if buffer.split_to(END)[..] != *b"\r\n" {
                        return Err(FrameError::NoEnd);
                    }
                    return Ok(Some(ServerOp::Skipped { sid, why }));
                }
            }
        }
    }

    fn line_goes_on(&self, length: usize) -> Result<Option<ServerOp>, FrameError> {
        let max = self.limits.control_line_max;
        if length > max { Err(FrameError::ControlLineTooLong { max }) } else { Ok(None) }
    }

    /// Reads the line of `length` bytes at the start of the buffer. `None` when a message begins with it.
    fn line(&mut self, buffer: &mut BytesMut, length: usize) -> Result<Option<ServerOp>, FrameError> {
        let line = buffer.get(..length - 1).unwrap_or_default();
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let op_end = line.iter().position(|byte| matches!(byte, b' ' | b'\t')).unwrap_or(line.len());
        let (op, end) = (&line[..op_end], line.len());
        if op == b"MSG" || op == b"HMSG" {
            self.state = self.begin(line, op_end, length, op.len() == 4)?;
            if matches!(self.state, State::Skipping { .. }) {
                buffer.advance(length);
            }
            return Ok(None);
        }
        let plain = match op {
            b"PING" => Some(ServerOp::Ping),
            b"PONG" => Some(ServerOp::Pong),
            b"+OK" => Some(ServerOp::Ok),
            b"INFO" | b"-ERR" => None,
            _ => return Err(FrameError::UnknownOperation),
        };
        if let Some(op) = plain {
            buffer.advance(length);
            return Ok(Some(op));
        }
        let is_info = op == b"INFO";
        let text = buffer.split_to(length).freeze().slice(op_end..end);
        let text = text.slice_ref(text.trim_ascii());
        Ok(Some(if is_info { ServerOp::Info(text) } else { ServerOp::Error(unquoted(&text)) }))
    }

    /// What to do with a message whose control line is `line`, `length` bytes with its end.
    fn begin(&self, line: &[u8], args_at: usize, length: usize, has_headers: bool) -> Result<State, FrameError> {
        let args = Args::split(line, args_at);
        // The length is the last argument, whatever else is wrong.
        let total = args.last().and_then(|last| number(&line[last])).filter(|total| *total < LENGTH_MAX);
        let total = total.ok_or(FrameError::NoLength)?;
        let numbers = if has_headers { 2 } else { 1 };
        let reply = match args.len().checked_sub(2 + numbers) {
            Some(0) => 0..0,
            Some(1) => args.get(2),
            _ => return Ok(skipping(total, None, Skipped::Arguments)),
        };
        let Some(sid) = number(&line[args.get(1)]) else { return Ok(skipping(total, None, Skipped::Arguments)) };
        let headers = if has_headers { number(&line[args.get(args.len() - 2)]) } else { Some(0) };
        let Some(headers) = headers.filter(|headers| *headers <= total) else {
            return Ok(skipping(total, Some(sid), Skipped::Arguments));
        };
        let fits = |size: u64, max: usize| usize::try_from(size).ok().filter(|size| *size <= max);
        let (Some(headers), Some(total)) =
            (fits(headers, self.limits.header_block_max), fits(total, self.limits.message_max))
        else {
            return Ok(skipping(total, Some(sid), Skipped::TooLarge));
        };
        let subject = Place::new(&args.get(0));
        Ok(State::Body(Head { sid, subject, reply: Place::new(&reply), line: length, headers, total }))
    }
}

const fn skipping(total: u64, sid: Option<u64>, why: Skipped) -> State {
    State::Skipping { remaining: total + END as u64, sid, why }
}

fn message(head: Head, frame: Bytes) -> Result<Message, FrameError> {
    let payload_at = head.line + head.headers;
    let end = head.line + head.total;
    if frame.get(end..) != Some(b"\r\n") {
        return Err(FrameError::NoEnd);
    }
    let headers_at = u32::try_from(head.line).unwrap_or(u32::MAX);
    let (sid, subject, reply) = (head.sid, head.subject, head.reply);
    Ok(Message { frame, sid, subject, reply, headers_at, payload: Place::new(&(payload_at..end)) })
}

/// `'text'` without its quotes.
fn unquoted(text: &Bytes) -> Bytes {
    let inner = text.strip_prefix(b"'").and_then(|rest| rest.strip_suffix(b"'"));
    inner.map_or_else(|| text.clone(), |inner| text.slice_ref(inner))
}
