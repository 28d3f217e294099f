//! Version 1: a line of text, `PROXY TCP4 192.0.2.1 198.51.100.1 50112 8883`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::header::{Decoded, Header, HeaderError};

pub(crate) const SIGNATURE: &[u8] = b"PROXY ";

/// Bytes of the longest line, its end included.
const LINE_MAX: usize = 107;

/// The shortest lines, by how they begin.
const SHORTEST: [(&[u8], &[u8]); 2] =
    [(b"PROXY TCP4 ", b"PROXY TCP4 1.1.1.1 1.1.1.1 1 1\r\n"), (b"PROXY TCP6 ", b"PROXY TCP6 :: :: 1 1\r\n")];

/// The shortest line that there is.
const SHORTEST_OF_ALL: usize = b"PROXY UNKNOWN\r\n".len();

/// `bytes` begin as [`SIGNATURE`] does.
pub(crate) fn decode(bytes: &[u8]) -> Result<Decoded, HeaderError> {
    let line = &bytes[..bytes.len().min(LINE_MAX)];
    let Some(len) = line.windows(2).position(|pair| pair == b"\r\n") else {
        if line.len() == LINE_MAX {
            return Err(HeaderError::TooLong);
        }
        let shortest =
            SHORTEST.iter().find(|(begin, _)| line.starts_with(begin)).map_or(SHORTEST_OF_ALL, |(_, line)| line.len());
        let end = if line.ends_with(b"\r") { 1 } else { 2 };
        return Ok(Decoded::Part(shortest.saturating_sub(line.len()).max(end)));
    };
    let text =
        std::str::from_utf8(&line[SIGNATURE.len().min(len)..len]).map_err(|_| HeaderError::Malformed("no text"))?;
    Ok(Decoded::Whole(header(text)?, len + 2))
}

/// What stands behind the signature.
fn header(text: &str) -> Result<Header, HeaderError> {
    let mut words = text.split(' ');
    let family = words.next().unwrap_or_default();
    if family == "UNKNOWN" {
        // What stands behind it is not looked at.
        return Ok(Header::default());
    }
    let mut word = || words.next().ok_or(HeaderError::Malformed("a word is missing"));
    let (source, destination) = (word()?, word()?);
    let source_port = port(word()?)?;
    port(word()?)?;
    if words.next().is_some() {
        return Err(HeaderError::Malformed("there is more behind the ports"));
    }
    let source = addr(family, source)?;
    // It is of no use here, but has to be right.
    addr(family, destination)?;
    Ok(Header { source: Some(SocketAddr::new(source, source_port)), ..Header::default() })
}

fn addr(family: &str, text: &str) -> Result<IpAddr, HeaderError> {
    let addr = match family {
        "TCP4" => text.parse::<Ipv4Addr>().map(IpAddr::V4).ok(),
        "TCP6" => text.parse::<Ipv6Addr>().map(IpAddr::V6).ok(),
        _ => return Err(HeaderError::Malformed("neither TCP4, TCP6 nor UNKNOWN")),
    };
    addr.ok_or(HeaderError::Malformed("an address"))
}

fn port(text: &str) -> Result<u16, HeaderError> {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    let port = is_number.then(|| text.parse().ok()).flatten();
    port.ok_or(HeaderError::Malformed("a port"))
}
