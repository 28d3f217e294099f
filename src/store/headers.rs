//! Headers of NATS messages, as ours and back.
//!
//! **Invariant:** what [`incoming`] gives can be sent: what NATS cannot carry is left out or replaced on its way in, so a
//! message that was received can be stored and passed on.

use bytestring::ByteString;
use nats_wire::{HeaderBlock, HeaderLine, Message};
use proto_map::Headers;

use crate::nats::{LinkCounts, SkipReason};

/// Names a write: no other message of any stream has its value.
pub(crate) const WRITE_ID: &str = "Mqtt-Write";
/// In the place of a line end inside a value, and of what is no UTF-8.
const REPLACED: char = char::REPLACEMENT_CHARACTER;

/// Bytes of memory that headers take, each with its place.
pub(super) fn weight(headers: Option<&Headers>) -> usize {
    let lines = headers.into_iter().flatten();
    lines.map(|line| size_of_val(line) + line.0.len() + line.1.len()).sum()
}

/// Headers of a message that came in, in their order; `None` when there are none.
pub(crate) fn incoming(message: &Message, counts: &LinkCounts) -> Option<Headers> {
    incoming_but(message, counts, "")
}

/// The same of a message of a log, in which nobody asks which write it was: most have nothing else to say, and so cost
/// nothing.
pub(crate) fn incoming_of_log(message: &Message, counts: &LinkCounts) -> Option<Headers> {
    incoming_but(message, counts, WRITE_ID)
}

fn incoming_but(message: &Message, counts: &LinkCounts, without: &str) -> Option<Headers> {
    let block = message.headers()?;
    let mut is_whole = true;
    let text = |bytes: &[u8]| ByteString::try_from(message.share(bytes)).ok();
    let headers = read(block, text, without, &mut is_whole);
    if !is_whole {
        counts.skipped(SkipReason::Header);
    }
    (!headers.is_empty()).then_some(headers)
}

/// The block of header lines as it is stored.
pub(crate) fn from_block(block: &[u8]) -> Headers {
    read(HeaderBlock::new(block), |bytes| std::str::from_utf8(bytes).ok().map(Into::into), "", &mut true)
}

/// `text` gives the text of a part of the block when it is UTF-8. Headers of the name `without` are left out.
fn read(
    block: HeaderBlock<'_>,
    text: impl Fn(&[u8]) -> Option<ByteString>,
    without: &str,
    is_whole: &mut bool,
) -> Headers {
    let mut headers = Headers::new();
    for line in block.lines() {
        let HeaderLine::Header { name, value } = line else {
            *is_whole = false;
            continue;
        };
        if name == without.as_bytes() {
            continue;
        }
        let Some(name) = text(name).filter(|name| !has_line_end(name)) else {
            *is_whole = false;
            continue;
        };
        let value = text(value).filter(|value| !has_line_end(value)).unwrap_or_else(|| {
            *is_whole = false;
            String::from_utf8_lossy(value).replace(['\r', '\n'], REPLACED.encode_utf8(&mut [0; 4])).into()
        });
        headers.push((name, value));
    }
    headers
}

fn has_line_end(text: &str) -> bool {
    memchr::memchr2(b'\r', b'\n', text.as_bytes()).is_some()
}

/// The first value of a name.
pub(crate) fn first<'a>(headers: &'a Headers, name: &str) -> Option<&'a str> {
    headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| &**value)
}

/// A number in a header that the server wrote.
pub(crate) fn number(message: &Message, name: &'static str) -> Option<u64> {
    std::str::from_utf8(message.headers()?.first(name)?).ok()?.trim().parse().ok()
}

/// What the server says behind its status, in small letters.
pub(crate) fn description(message: &Message) -> String {
    let text = message.headers().map(HeaderBlock::description).unwrap_or_default();
    String::from_utf8_lossy(text).to_ascii_lowercase()
}

/// One header more.
pub(crate) fn push(headers: &mut Headers, name: &'static str, value: &str) {
    headers.push((ByteString::from_static(name), value.into()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_of_any_kind_is_read_and_can_be_sent_again() {
        let block =
            b"NATS/1.0\r\nMy Key: caf\xe9\r\nnonsense\r\n: x\r\nA\xff: 1\r\nB\nC: 1\r\nD: 1\nMqtt-Retain: 9\r\n\
            Nats-Stream-Source: S 1 \x0c >\r\nE: \0\r\n\r\n";
        let headers = from_block(block);
        let want: Vec<(ByteString, ByteString)> = vec![
            ("My Key".into(), "caf\u{fffd}".into()),
            ("D".into(), "1\u{fffd}Mqtt-Retain: 9".into()),
            ("Nats-Stream-Source".into(), "S 1 \u{c} >".into()),
            ("E".into(), "\0".into()),
        ];
        assert_eq!(headers, want);
        let publish = nats_wire::Publish { subject: b"a", reply: None, first: &[], headers: &headers, payload: 0 };
        publish.check().unwrap();
    }
}
