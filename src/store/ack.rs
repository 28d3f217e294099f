//! The two replies of JetStream that are read for every message: where a message came from, and that one was stored.
//!
//! Nothing here allocates, except the text of an error.

use std::borrow::Cow;

use serde::Deserialize;

/// What the reply subject of a delivered message says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Delivery {
    /// How often the consumer has delivered it, with this time.
    pub(crate) count: u64,
    /// Sequence in the stream.
    pub(crate) stream_sequence: u64,
    /// Sequence in the consumer: 1, 2, 3 without gaps.
    pub(crate) consumer_sequence: u64,
    /// When it was stored, nanoseconds since the epoch.
    pub(crate) stored_at_ns: u64,
    /// Messages behind it.
    pub(crate) pending: u64,
}

/// Reads `$JS.ACK.<stream>.<consumer>.<delivered>.<sseq>.<cseq>.<time>.<pending>` and the form with
/// `<domain>.<account>` before the stream and perhaps more tokens behind.
pub(crate) fn parse_delivery(reply: &str) -> Option<Delivery> {
    let rest = reply.strip_prefix("$JS.ACK.")?;
    let tokens = rest.bytes().filter(|byte| *byte == b'.').count() + 1;
    let skip = match tokens {
        7 => 2,
        9.. => 4,
        _ => return None,
    };
    let mut numbers = rest.split('.').skip(skip).map(|token| token.parse::<u64>().ok());
    Some(Delivery {
        count: numbers.next()??,
        stream_sequence: numbers.next()??,
        consumer_sequence: numbers.next()??,
        stored_at_ns: numbers.next()??,
        pending: numbers.next()??,
    })
}

/// The same of bytes, since nobody need have written text.
pub(crate) fn parse_delivery_bytes(reply: &[u8]) -> Option<Delivery> {
    parse_delivery(std::str::from_utf8(reply).ok()?)
}

/// Which message of which consumer an acknowledgement is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place<'a> {
    pub(crate) stream: &'a str,
    pub(crate) consumer: &'a str,
    /// Sequence in the stream.
    pub(crate) sequence: u64,
}

/// Reads the same of a reply subject as [`parse_delivery`].
pub(crate) fn parse_place(reply: &str) -> Option<Place<'_>> {
    let sequence = parse_delivery(reply)?.stream_sequence;
    let rest = reply.strip_prefix("$JS.ACK.")?;
    let skip = if rest.bytes().filter(|byte| *byte == b'.').count() == 6 { 0 } else { 2 };
    let mut names = rest.split('.').skip(skip);
    Some(Place { stream: names.next()?, consumer: names.next()?, sequence })
}

/// Whether two reply subjects are for the same message of the same consumer, however often it was delivered.
pub fn is_same_delivery(ack: &str, other: &str) -> bool {
    parse_place(ack).is_some_and(|place| parse_place(other) == Some(place))
}

/// JetStream's answer to a publish.
#[derive(Debug, Deserialize)]
pub(crate) struct PubAck<'a> {
    #[serde(borrow, default)]
    stream: Option<Name<'a>>,
    #[serde(default)]
    pub(crate) seq: u64,
    #[serde(default)]
    pub(crate) duplicate: bool,
    #[serde(default)]
    pub(crate) error: Option<ApiError>,
}

/// A text that is borrowed when it can be: of what is optional serde makes a copy.
#[derive(Debug, Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

impl PubAck<'_> {
    /// Name of the stream.
    pub(crate) fn stream(&self) -> Option<&str> {
        self.stream.as_ref().map(|name| &*name.0)
    }
}

/// An error of the JetStream API.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
pub(crate) struct ApiError {
    /// As in HTTP.
    #[serde(default)]
    pub(crate) code: u32,
    /// JetStream's own number.
    #[serde(default)]
    pub(crate) err_code: u32,
    /// Text.
    #[serde(default)]
    pub(crate) description: String,
}

/// Reads an answer; `None` when it is something else: a service that listens on the subject may answer as well.
pub(crate) fn parse_pub_ack(payload: &[u8]) -> Option<PubAck<'_>> {
    let ack: PubAck<'_> = serde_json::from_slice(payload).ok()?;
    (ack.error.is_some() || (ack.stream.is_some() && ack.seq > 0)).then_some(ack)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_the_reply_subject_are_read() {
        let want = Delivery { count: 10, stream_sequence: 11, consumer_sequence: 12, stored_at_ns: 13, pending: 14 };
        assert_eq!(parse_delivery("$JS.ACK.S.C.10.11.12.13.14"), Some(want));
        assert_eq!(parse_delivery("$JS.ACK._.szMpdrwD.S.C.10.11.12.13.14"), Some(want));
        assert_eq!(parse_delivery("$JS.ACK.hub.szMpdrwD.S.C.10.11.12.13.14.rnd"), Some(want));
        for bad in [
            "",
            "$JS.ACK.",
            "$JS.ACK.S.C.10.11.12.13",
            "$JS.ACK.S.C.1.x.12.13.14",
            "_INBOX.a",
            "$JS.ACK._.h.S.C.1.11.12.13",
        ] {
            assert_eq!(parse_delivery(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_message_is_the_same_however_often_it_was_delivered() {
        let first = "$JS.ACK.S.g@a,#.1.11.12.13.14";
        assert_eq!(parse_place(first), Some(Place { stream: "S", consumer: "g@a,#", sequence: 11 }));
        assert!(is_same_delivery(first, "$JS.ACK.S.g@a,#.2.11.40.13.0"));
        assert!(is_same_delivery(first, "$JS.ACK._.szMpdrwD.S.g@a,#.3.11.41.13.0.rnd"));
        for other in ["$JS.ACK.S.g@a,#.1.12.12.13.14", "$JS.ACK.S.h@a,#.1.11.12.13.14", "$JS.ACK.T.g@a,#.1.11.12.13.14"]
        {
            assert!(!is_same_delivery(first, other), "{other}");
        }
        assert!(!is_same_delivery("", ""));
    }

    #[test]
    fn an_acknowledgement_is_told_from_other_answers() {
        let ack = parse_pub_ack(br#"{"stream":"MQTT_log", "seq":7}"#).unwrap();
        assert_eq!((ack.stream(), ack.seq, ack.duplicate), (Some("MQTT_log"), 7, false));
        assert!(matches!(ack.stream, Some(Name(Cow::Borrowed(_)))), "nothing is copied");
        let ack = parse_pub_ack(br#"{"stream":"a\u0026b","seq":7}"#).unwrap();
        assert_eq!(ack.stream(), Some("a&b"));
        let ack = parse_pub_ack(br#"{"stream":"S","domain":"hub","seq":7,"duplicate":true}"#).unwrap();
        assert!(ack.duplicate);
        let ack = parse_pub_ack(br#"{"error":{"code":503,"err_code":10077,"description":"maximum messages exceeded"},"stream":"S","seq":0}"#);
        assert_eq!(ack.unwrap().error.unwrap().err_code, 10077);
        for other in [&b""[..], b"ok", b"{}", b"{\"temperature\":3}", b"[1]", b"{\"seq\":3}", b"{\"stream\":\"S\"}"] {
            assert!(parse_pub_ack(other).is_none(), "{other:?}");
        }
    }
}
