//! Our headers to async-nats' and back.
//!
//! async-nats keeps headers in a hash map: values of one name stay in order, the order of different names is lost
//! on the way in and out.

use std::str::FromStr;

use async_nats::header::{HeaderName, HeaderValue};
use async_nats::{HeaderMap, Message, Subject};
use bytestring::ByteString;
use proto_map::Headers;

use super::error::PutError;

/// Names a write: no other message of any stream has its value.
pub(crate) const WRITE_ID: &str = "Mqtt-Write";

/// Adds one header; refuses what could end the line it stands on.
pub(crate) fn push(map: &mut HeaderMap, name: &str, value: &str) -> Result<(), PutError> {
    let name = HeaderName::from_str(name).map_err(|_| PutError::Invalid { what: "header name" })?;
    let value = HeaderValue::from_str(value).map_err(|_| PutError::Invalid { what: "header value" })?;
    map.append(name, value);
    Ok(())
}

/// Headers for a message that goes out; `None` when there are none.
pub(crate) fn outgoing(headers: &Headers) -> Result<Option<HeaderMap>, PutError> {
    if headers.is_empty() {
        return Ok(None);
    }
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        push(&mut map, name, value)?;
    }
    Ok(Some(map))
}

/// Headers of a message that came in; `None` when there are none.
pub(crate) fn incoming(map: Option<&HeaderMap>) -> Option<Headers> {
    let map = map?;
    if map.is_empty() {
        return None;
    }
    let mut headers = Headers::with_capacity(map.len());
    for (name, values) in map.iter() {
        let name = ByteString::from(AsRef::<str>::as_ref(name));
        for value in values {
            headers.push((name.clone(), ByteString::from(value.as_str())));
        }
    }
    Some(headers)
}

/// A subject for async-nats, without copying it.
pub(crate) fn subject(subject: ByteString) -> Subject {
    // It is UTF-8, so the fallback is never taken; an empty subject would be refused as invalid.
    Subject::from_utf8(subject.into_bytes()).unwrap_or_else(|_| Subject::from_static(""))
}

/// The text of a subject that async-nats gave us, without copying it.
pub(crate) fn text(subject: Subject) -> ByteString {
    ByteString::from(subject.into_string())
}

/// The first value of a name.
pub(crate) fn first<'a>(headers: &'a Headers, name: &str) -> Option<&'a str> {
    headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| &**value)
}

/// The block of header lines as it is stored, read leniently: what is not UTF-8 or not a header is replaced or skipped.
pub(crate) fn from_block(block: &[u8]) -> Headers {
    String::from_utf8_lossy(block)
        .split("\r\n")
        .skip(1)
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (ByteString::from(name.trim()), ByteString::from(value.trim())))
        .collect()
}

/// A status that the server put on a message, `503` for instance.
pub(crate) fn status(message: &Message) -> Option<u16> {
    message.status.map(|status| status.as_u16())
}

/// A number in a header that the server wrote.
pub(crate) fn number(map: Option<&HeaderMap>, name: &'static str) -> Option<u64> {
    map?.get(name)?.as_str().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_survive_the_way_through_async_nats() {
        let headers: Headers = vec![("A".into(), "1".into()), ("A".into(), "2".into())];
        let map = outgoing(&headers).unwrap().unwrap();
        assert_eq!(incoming(Some(&map)).unwrap(), headers);
        assert_eq!(outgoing(&Headers::new()).unwrap(), None);
    }

    #[test]
    fn a_line_break_in_a_header_is_refused() {
        assert!(outgoing(&vec![("A".into(), "1\r\nB: 2".into())]).is_err());
        assert!(outgoing(&vec![("A b".into(), "1".into())]).is_err());
    }

    #[test]
    fn a_stored_block_that_async_nats_would_refuse_is_readable() {
        let headers = from_block(b"NATS/1.0\r\nMy Key: caf\xe9\r\nnonsense\r\n\r\n");
        assert_eq!(headers, vec![("My Key".into(), "caf\u{fffd}".into())]);
    }
}
