//! From what we say to bytes.
//!
//! **Invariant:** nothing that is given as a subject, a header name or a header value can end its argument or its line, so
//! nobody who chose one of them can say anything else in our name. What could is refused, and then nothing is written.
//!
//! A payload is not copied: [`Publish::head`] writes what stands before it, and the caller sends the payload and
//! [`LINE_END`] behind it.

use bytes::{BufMut, BytesMut};

use crate::error::EncodeError;
use crate::info::ConnectInfo;

/// Behind every line and every payload.
pub const LINE_END: &[u8] = b"\r\n";
/// What nats-server takes as the arguments of one line unless it is told otherwise, in bytes. It ends the connection beyond,
/// and INFO does not say what it is.
pub const ARGUMENTS_MAX: usize = 4_096;

/// Two numbers, of header block and of all, and the spaces before them.
const NUMBERS_MAX: usize = 2 * 21;
const HEADERS_BEGIN: &[u8] = b"NATS/1.0\r\n";
const SEPARATOR: &[u8] = b": ";

/// A message to be sent.
#[derive(Clone, Copy, Debug)]
pub struct Publish<'a, H> {
    /// Where to.
    pub subject: &'a [u8],
    /// Where an answer is expected.
    pub reply: Option<&'a [u8]>,
    /// Names and values that stand before the others.
    pub first: &'a [(&'a str, &'a str)],
    /// Names and values, sent in this order; none here and before: no header block.
    pub headers: &'a [H],
    /// Bytes of the payload that follows.
    pub payload: usize,
}

/// A header as the encoder sees it.
pub trait Header {
    /// Its name.
    fn name(&self) -> &[u8];
    /// Its value.
    fn value(&self) -> &[u8];
}

impl<N: AsRef<[u8]>, V: AsRef<[u8]>> Header for (N, V) {
    fn name(&self) -> &[u8] {
        self.0.as_ref()
    }

    fn value(&self) -> &[u8] {
        self.1.as_ref()
    }
}

impl<H: Header> Publish<'_, H> {
    /// Bytes of header block and payload, which is what the server compares with its `max_payload`.
    #[must_use]
    pub fn size(&self) -> usize {
        self.block(&mut |_, _| Ok(())).unwrap_or(0) + self.payload
    }

    /// Checks it, so that [`Self::head`] cannot fail.
    ///
    /// # Errors
    /// Something in it cannot be sent.
    pub fn check(&self) -> Result<(), EncodeError> {
        self.checked_block().map(|_| ())
    }

    /// Checks it, in one walk over it; bytes of the header block.
    fn checked_block(&self) -> Result<usize, EncodeError> {
        check_subject(self.subject)?;
        if let Some(reply) = self.reply {
            check_subject(reply)?;
        }
        let block = self.block(&mut check_header)?;
        // Most are so short that their numbers need not be counted.
        if !can_publish(self.subject.len(), self.reply.map(<[u8]>::len)) {
            let subjects = self.subject.len() + self.reply.map_or(0, |reply| reply.len() + 1);
            let numbers = 1 + digits(block + self.payload) + if block == 0 { 0 } else { 1 + digits(block) };
            if subjects + numbers > ARGUMENTS_MAX {
                return Err(EncodeError::ControlLineTooLong);
            }
        }
        Ok(block)
    }

    /// Appends everything that stands before the payload.
    ///
    /// # Errors
    /// Something in it cannot be sent; then nothing was appended.
    pub fn head(&self, out: &mut BytesMut) -> Result<(), EncodeError> {
        let block = self.checked_block()?;
        out.reserve(self.subject.len() + self.reply.map_or(0, <[u8]>::len) + block + 64);
        out.put_slice(if block == 0 { b"PUB " } else { b"HPUB " });
        out.put_slice(self.subject);
        out.put_u8(b' ');
        if let Some(reply) = self.reply {
            out.put_slice(reply);
            out.put_u8(b' ');
        }
        if block > 0 {
            put_number(out, block);
            out.put_u8(b' ');
        }
        put_number(out, block + self.payload);
        out.put_slice(LINE_END);
        if block == 0 {
            return Ok(());
        }
        out.put_slice(HEADERS_BEGIN);
        self.each_header(&mut |name, value| {
            for part in [name, SEPARATOR, value, LINE_END] {
                out.put_slice(part);
            }
            Ok(())
        })?;
        out.put_slice(LINE_END);
        Ok(())
    }

    /// Bytes of the header block, each header of which is shown to `look`.
    fn block(&self, look: &mut impl FnMut(&[u8], &[u8]) -> Result<(), EncodeError>) -> Result<usize, EncodeError> {
        if self.first.is_empty() && self.headers.is_empty() {
            return Ok(0);
        }
        let mut length = HEADERS_BEGIN.len() + LINE_END.len();
        self.each_header(&mut |name, value| {
            length += name.len() + SEPARATOR.len() + value.len() + LINE_END.len();
            look(name, value)
        })?;
        Ok(length)
    }

    fn each_header(&self, take: &mut impl FnMut(&[u8], &[u8]) -> Result<(), EncodeError>) -> Result<(), EncodeError> {
        self.first.iter().try_for_each(|(name, value)| take(name.as_bytes(), value.as_bytes()))?;
        self.headers.iter().try_for_each(|header| take(header.name(), header.value()))
    }
}

/// Bytes of the arguments of SUB for a subject and a queue group that are so long, which nats-server compares with
/// [`ARGUMENTS_MAX`].
#[must_use]
pub fn subscribe_len(subject: usize, queue: Option<usize>, sid: u64) -> usize {
    subject + queue.map_or(0, |queue| queue + 1) + 1 + decimal(sid).as_ref().len()
}

/// Whether SUB of such a subject and queue group can be sent, whichever id it gets.
#[must_use]
pub fn can_subscribe(subject: usize, queue: Option<usize>) -> bool {
    subscribe_len(subject, queue, u64::MAX) <= ARGUMENTS_MAX
}

/// Whether a message to such a subject, with such a reply subject, has arguments that can be sent, whatever its sizes are.
#[must_use]
pub const fn can_publish(subject: usize, reply: Option<usize>) -> bool {
    let reply = match reply {
        Some(reply) => reply + 1,
        None => 0,
    };
    subject + reply + NUMBERS_MAX <= ARGUMENTS_MAX
}

/// Appends a message to `reply` without a payload, that says what nats-server says when nobody listens to `subject`: status 503.
///
/// # Errors
/// One of the two cannot be sent; then nothing was appended.
pub fn no_responders(out: &mut BytesMut, reply: &[u8], subject: &[u8]) -> Result<(), EncodeError> {
    check_subject(reply)?;
    check_subject(subject)?;
    let parts = [&b"NATS/1.0 503\r\nNats-Subject: "[..], subject, LINE_END, LINE_END];
    let block = parts.iter().map(|part| part.len()).sum();
    if reply.len() + 2 * (1 + digits(block)) > ARGUMENTS_MAX {
        return Err(EncodeError::ControlLineTooLong);
    }
    out.put_slice(b"HPUB ");
    out.put_slice(reply);
    for size in [block, block] {
        out.put_u8(b' ');
        put_number(out, size);
    }
    out.put_slice(LINE_END);
    parts.iter().for_each(|part| out.put_slice(part));
    out.put_slice(LINE_END);
    Ok(())
}

/// Appends SUB. With `queue`, one member of that group gets each message.
///
/// # Errors
/// Subject or group cannot be sent; then nothing was appended.
pub fn subscribe(out: &mut BytesMut, subject: &[u8], queue: Option<&[u8]>, sid: u64) -> Result<(), EncodeError> {
    check_subject(subject)?;
    if let Some(queue) = queue {
        check_subject(queue)?;
    }
    if subscribe_len(subject.len(), queue.map(<[u8]>::len), sid) > ARGUMENTS_MAX {
        return Err(EncodeError::ControlLineTooLong);
    }
    let sid = decimal(sid);
    for part in [&b"SUB "[..], subject, b" "] {
        out.put_slice(part);
    }
    if let Some(queue) = queue {
        out.put_slice(queue);
        out.put_u8(b' ');
    }
    out.put_slice(sid.as_ref());
    out.put_slice(LINE_END);
    Ok(())
}

/// Appends UNSUB; with `after`, it ends when so many messages have come.
pub fn unsubscribe(out: &mut BytesMut, sid: u64, after: Option<u64>) {
    out.put_slice(b"UNSUB ");
    out.put_slice(decimal(sid).as_ref());
    if let Some(after) = after {
        out.put_u8(b' ');
        out.put_slice(decimal(after).as_ref());
    }
    out.put_slice(LINE_END);
}

/// Appends PING.
pub fn ping(out: &mut BytesMut) {
    out.put_slice(b"PING\r\n");
}

/// Appends PONG.
pub fn pong(out: &mut BytesMut) {
    out.put_slice(b"PONG\r\n");
}

/// Appends CONNECT.
pub fn connect(out: &mut BytesMut, info: &ConnectInfo) {
    // There are secrets in it: it is written to where it stays, and to nothing that is left behind when that grows.
    let mut length = Length(0);
    // Strings, numbers and flags: nothing in it can fail to become JSON.
    let _ = serde_json::to_writer(&mut length, info);
    out.reserve(b"CONNECT ".len() + length.0 + LINE_END.len());
    out.put_slice(b"CONNECT ");
    let _ = serde_json::to_writer(out.writer(), info);
    out.put_slice(LINE_END);
}

/// How many bytes were written.
struct Length(usize);

impl std::io::Write for Length {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Whether a subject, or the name of a queue group, can be sent.
///
/// # Errors
/// It cannot.
pub fn check_subject(subject: &[u8]) -> Result<(), EncodeError> {
    let has_end = memchr::memchr3(b' ', b'\r', b'\n', subject).is_some() || memchr::memchr(b'\t', subject).is_some();
    if subject.is_empty() || has_end { Err(EncodeError::Subject) } else { Ok(()) }
}

fn check_header(name: &[u8], value: &[u8]) -> Result<(), EncodeError> {
    if name.is_empty() || memchr::memchr3(b':', b'\r', b'\n', name).is_some() {
        return Err(EncodeError::HeaderName);
    }
    if memchr::memchr2(b'\r', b'\n', value).is_some() {
        return Err(EncodeError::HeaderValue);
    }
    Ok(())
}

fn put_number(out: &mut BytesMut, number: usize) {
    out.put_slice(decimal(number as u64).as_ref());
}

fn digits(number: usize) -> usize {
    decimal(number as u64).as_ref().len()
}

/// A number in digits, without an allocation.
struct Decimal {
    digits: [u8; 20],
    start: usize,
}

impl AsRef<[u8]> for Decimal {
    fn as_ref(&self) -> &[u8] {
        &self.digits[self.start..]
    }
}

fn decimal(mut number: u64) -> Decimal {
    let mut decimal = Decimal { digits: [b'0'; 20], start: 20 };
    loop {
        decimal.start -= 1;
        decimal.digits[decimal.start] = b'0' + u8::try_from(number % 10).unwrap_or(0);
        number /= 10;
        if number == 0 {
            return decimal;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(
        subject: &str,
        reply: Option<&str>,
        headers: &[(&str, &str)],
        payload: usize,
    ) -> Result<String, EncodeError> {
        let mut out = BytesMut::new();
        let (subject, reply) = (subject.as_bytes(), reply.map(str::as_bytes));
        let publish = Publish { subject, reply, first: &[], headers, payload };
        let result = publish.head(&mut out);
        assert!(result.is_ok() || out.is_empty(), "nothing is written of what cannot be sent");
        result.map(|()| String::from_utf8(out.to_vec()).unwrap())
    }

    #[test]
    fn what_is_sent_is_what_the_protocol_says() {
        assert_eq!(head("a.b", None, &[], 0).unwrap(), "PUB a.b 0\r\n");
        assert_eq!(head("a.b", Some("r"), &[], 12).unwrap(), "PUB a.b r 12\r\n");
        let with_headers = "HPUB a r 23 26\r\nNATS/1.0\r\nA: 1\r\nB: \r\n\r\n";
        assert_eq!(head("a", Some("r"), &[("A", "1"), ("B", "")], 3).unwrap(), with_headers);
        let mut out = BytesMut::new();
        let publish = Publish { subject: b"a", reply: None, first: &[("X", "0")], headers: &[("A", "1")], payload: 3 };
        publish.head(&mut out).unwrap();
        assert_eq!(&out[..], b"HPUB a 24 27\r\nNATS/1.0\r\nX: 0\r\nA: 1\r\n\r\n");
        assert_eq!(publish.size(), 27);
        let mut out = BytesMut::new();
        subscribe(&mut out, b"a.>", None, 7).unwrap();
        subscribe(&mut out, b"a.*", Some(b"g"), u64::MAX).unwrap();
        unsubscribe(&mut out, 7, None);
        unsubscribe(&mut out, 0, Some(10));
        ping(&mut out);
        pong(&mut out);
        assert_eq!(
            &out[..],
            b"SUB a.> 7\r\nSUB a.* g 18446744073709551615\r\nUNSUB 7\r\nUNSUB 0 10\r\nPING\r\nPONG\r\n"
        );
    }

    fn check_first(name: &str, value: &str) -> Result<(), EncodeError> {
        let none: &[(&str, &str)] = &[];
        Publish { subject: b"a", reply: None, first: &[(name, value)], headers: none, payload: 0 }.check()
    }

    #[test]
    fn nothing_that_somebody_chose_can_end_an_argument_or_a_line() {
        for bad in ["", "a b", "a\tb", "a\rb", "a\nb", "a 0\r\n\r\nPUB x 0", " "] {
            assert_eq!(head(bad, None, &[], 0), Err(EncodeError::Subject), "{bad:?}");
            assert_eq!(head("a", Some(bad), &[], 0), Err(EncodeError::Subject), "{bad:?}");
            assert_eq!(subscribe(&mut BytesMut::new(), bad.as_bytes(), None, 1), Err(EncodeError::Subject));
            assert_eq!(subscribe(&mut BytesMut::new(), b"a", Some(bad.as_bytes()), 1), Err(EncodeError::Subject));
        }
        for bad in ["", ":", "A:", "A\r", "\nA", "A\r\nB"] {
            assert_eq!(head("a", None, &[(bad, "x")], 0), Err(EncodeError::HeaderName), "{bad:?}");
            assert_eq!(check_first(bad, "x"), Err(EncodeError::HeaderName), "{bad:?}");
        }
        for bad in ["\r", "\n", "x\r\nB: y", "x\r\n\r\nPUB a 0"] {
            assert_eq!(head("a", None, &[("A", bad)], 0), Err(EncodeError::HeaderValue), "{bad:?}");
            assert_eq!(check_first("A", bad), Err(EncodeError::HeaderValue), "{bad:?}");
        }
        assert!(head("caf\u{e9}\u{a0}\u{2028}", None, &[("My Key", "\u{e9}\0\u{c} x: y")], 0).is_ok());
    }

    #[test]
    fn a_line_that_nats_server_would_end_the_connection_for_is_refused() {
        let longest = "s".repeat(ARGUMENTS_MAX - " 0".len());
        assert!(head(&longest, None, &[], 0).is_ok());
        assert_eq!(head(&longest, None, &[], 10), Err(EncodeError::ControlLineTooLong));
        assert_eq!(head(&longest, Some("r"), &[], 0), Err(EncodeError::ControlLineTooLong));
        for queue in [None, Some("q".repeat(100))] {
            let queue = queue.as_deref();
            let room = ARGUMENTS_MAX - " 18446744073709551615".len() - queue.map_or(0, |queue| queue.len() + 1);
            for (len, is_taken) in [(room, true), (room + 1, false)] {
                let subject = "s".repeat(len);
                assert_eq!(can_subscribe(len, queue.map(str::len)), is_taken);
                let mut out = BytesMut::new();
                let written = subscribe(&mut out, subject.as_bytes(), queue.map(str::as_bytes), u64::MAX);
                assert_eq!(written.is_ok(), is_taken, "{written:?}");
                let line = "SUB ".len() + subscribe_len(len, queue.map(str::len), u64::MAX) + LINE_END.len();
                assert_eq!(out.len(), if is_taken { line } else { 0 });
            }
        }
    }

    #[test]
    fn what_can_be_published_whatever_its_sizes_are_is_known_before() {
        for reply in [None, Some("r".repeat(100))] {
            let (reply, len) = (reply.as_deref(), reply.as_ref().map(String::len));
            let room = ARGUMENTS_MAX - NUMBERS_MAX - len.map_or(0, |len| len + 1);
            assert!(can_publish(room, len) && !can_publish(room + 1, len));
            assert!(head(&"s".repeat(room), reply, &[("A", "b")], usize::MAX / 2).is_ok());
        }
    }

    #[test]
    fn a_connect_is_one_line() {
        let mut out = BytesMut::new();
        let info = ConnectInfo { name: Some("a\r\nPUB x 0".to_owned()), ..ConnectInfo::default() };
        connect(&mut out, &info);
        assert!(out.starts_with(b"CONNECT {") && out.ends_with(b"}\r\n"));
        assert_eq!(out.iter().filter(|byte| **byte == b'\n').count(), 1);
    }
}
