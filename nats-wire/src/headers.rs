//! A header block, read leniently and in its order.
//!
//! ```text
//! NATS/1.0[ status[ description]] CR LF
//! name: value CR LF
//! …
//! CR LF
//! ```

/// What a block begins with.
const VERSION: &[u8] = b"NATS/1.0";

/// A header block. Nothing in it is an error: a line that is no header is a [`HeaderLine::Malformed`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeaderBlock<'a> {
    block: &'a [u8],
}

/// A line below the first one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderLine<'a> {
    /// A header. What stands before the first colon is its name, to the byte; what stands behind it is its value, without the
    /// spaces and tabs that it begins with. Neither need be UTF-8, and a single CR or LF can be part of them.
    Header {
        /// Not empty.
        name: &'a [u8],
        /// Can be empty.
        value: &'a [u8],
    },
    /// A line without a colon or with nothing before it.
    Malformed(&'a [u8]),
}

impl<'a> HeaderBlock<'a> {
    /// A block as it is stored and sent.
    #[must_use]
    pub const fn new(block: &'a [u8]) -> Self {
        Self { block }
    }

    /// The bytes of it.
    #[must_use]
    pub const fn as_bytes(self) -> &'a [u8] {
        self.block
    }

    /// The status in the first line.
    #[must_use]
    pub fn status(self) -> Option<u16> {
        let (status, _) = self.inline()?;
        let text = std::str::from_utf8(status).ok()?;
        (text.len() == 3).then(|| text.parse().ok())?
    }

    /// What stands behind the status; empty without.
    #[must_use]
    pub fn description(self) -> &'a [u8] {
        self.inline().map(|(_, description)| description).unwrap_or_default()
    }

    /// The lines below the first one, in their order, up to the empty one.
    pub fn lines(self) -> impl Iterator<Item = HeaderLine<'a>> {
        let mut rest = split_line(self.block).1;
        std::iter::from_fn(move || {
            let (line, behind) = split_line(rest);
            rest = behind;
            (!line.is_empty()).then(|| read_line(line))
        })
    }

    /// The first value of a name, compared without case, as clients write `Nats-` headers.
    #[must_use]
    pub fn first(self, name: &str) -> Option<&'a [u8]> {
        self.lines().find_map(|line| match line {
            HeaderLine::Header { name: found, value } if found.eq_ignore_ascii_case(name.as_bytes()) => Some(value),
            HeaderLine::Header { .. } | HeaderLine::Malformed(_) => None,
        })
    }

    fn inline(self) -> Option<(&'a [u8], &'a [u8])> {
        let line = split_line(self.block).0.strip_prefix(VERSION)?.trim_ascii();
        let end = line.iter().position(|byte| *byte == b' ').unwrap_or(line.len());
        let (status, description) = line.split_at(end);
        (!status.is_empty()).then_some((status, description.trim_ascii()))
    }
}

/// A line ends at CR LF and at nothing less: so does nats-server read it, and who ended it earlier would see headers that the
/// server has not seen.
fn split_line(block: &[u8]) -> (&[u8], &[u8]) {
    let mut from = 0;
    while let Some(at) = memchr::memchr(b'\r', &block[from..]) {
        let (end, behind) = (from + at, from + at + 1);
        if block.get(behind) == Some(&b'\n') {
            return (&block[..end], &block[behind + 1..]);
        }
        from = behind;
    }
    (block, &[])
}

fn read_line(line: &[u8]) -> HeaderLine<'_> {
    let Some(colon) = memchr::memchr(b':', line).filter(|at| *at > 0) else { return HeaderLine::Malformed(line) };
    let (name, value) = (&line[..colon], &line[colon + 1..]);
    let begin = value.iter().position(|byte| !matches!(byte, b' ' | b'\t')).unwrap_or(value.len());
    HeaderLine::Header { name, value: &value[begin..] }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(block: &[u8]) -> Vec<(&[u8], &[u8])> {
        let lines = HeaderBlock::new(block).lines();
        lines
            .map(|line| match line {
                HeaderLine::Header { name, value } => (name, value),
                HeaderLine::Malformed(line) => (&b"!"[..], line),
            })
            .collect()
    }

    #[test]
    fn headers_keep_their_order_and_their_bytes() {
        let block = b"NATS/1.0\r\nB: 1\r\na:2\r\nB: \t 3 \r\nC:\r\n\r\n";
        assert_eq!(read(block), [(&b"B"[..], &b"1"[..]), (b"a", b"2"), (b"B", b"3 "), (b"C", b"")]);
    }

    #[test]
    fn what_is_no_header_is_a_line_of_its_own_and_ends_nothing() {
        let block =
            b"NATS/1.0\r\nnonsense\r\n: x\r\nA: caf\xe9\0\r\n B : y\r\nNats-Stream-Source: S 1 \x0c > x\r\n\r\n";
        assert_eq!(
            read(block),
            [
                (&b"!"[..], &b"nonsense"[..]),
                (b"!", b": x"),
                (b"A", b"caf\xe9\0"),
                (b" B ", b"y"),
                (b"Nats-Stream-Source", b"S 1 \x0c > x"),
            ]
        );
    }

    #[test]
    fn only_cr_lf_ends_a_line() {
        let block = b"NATS/1.0\r\nA: 1\nMqtt-Retain: 9\rB: 2\r\n\r\n";
        assert_eq!(read(block), [(&b"A"[..], &b"1\nMqtt-Retain: 9\rB: 2"[..])]);
    }

    #[test]
    fn the_status_stands_in_the_first_line() {
        let of = |block: &'static [u8]| {
            let block = HeaderBlock::new(block);
            (block.status(), block.description())
        };
        assert_eq!(of(b"NATS/1.0 503\r\n\r\n"), (Some(503), &b""[..]));
        assert_eq!(of(b"NATS/1.0 409 Consumer Deleted\r\nA: 1\r\n\r\n"), (Some(409), &b"Consumer Deleted"[..]));
        assert_eq!(of(b"NATS/1.0   100  Idle Heartbeat \r\n\r\n"), (Some(100), &b"Idle Heartbeat"[..]));
        for none in [
            &b"NATS/1.0\r\n\r\n"[..],
            b"",
            b"\r\n",
            b"HTTP/1.1 200\r\n\r\n",
            b"NATS/1.0 abc\r\n\r\n",
            b"NATS/1.0 50\r\n",
        ] {
            assert_eq!(HeaderBlock::new(none).status(), None, "{none:?}");
        }
    }

    #[test]
    fn a_block_that_is_cut_off_is_read_as_far_as_it_goes() {
        assert_eq!(read(b"NATS/1.0\r\nA: 1"), [(&b"A"[..], &b"1"[..])]);
        assert_eq!(read(b"NATS/1.0"), []);
        assert_eq!(read(b""), []);
        assert_eq!(HeaderBlock::new(b"NATS/1.0\r\nNATS-sequence: 7\r\n").first("Nats-Sequence"), Some(&b"7"[..]));
    }
}
