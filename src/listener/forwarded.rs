//! Whom a proxy that speaks HTTP forwards a request for: `X-Forwarded-For`, which anybody can write, so it counts from the right
//! and as far as those are trusted who wrote it.

use std::net::{IpAddr, SocketAddr};

use hyper::HeaderMap;

use crate::config::Networks;

const X_FORWARDED_FOR: &str = "x-forwarded-for";

/// What the header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Forwarded {
    /// Nothing.
    Absent,
    /// That the client has this address; port 0 where it is not said.
    For(SocketAddr),
    /// What is no address.
    Garbage,
}

/// The last hop that is not a trusted one, over all lines of the header; where all are, the first.
pub(super) fn forwarded_for(headers: &HeaderMap, trusted: &Networks) -> Forwarded {
    let mut found = Forwarded::Absent;
    for line in headers.get_all(X_FORWARDED_FOR).into_iter().rev() {
        let Ok(line) = line.to_str() else { return Forwarded::Garbage };
        for hop in line.rsplit(',') {
            let Some(addr) = addr(hop.trim()) else { return Forwarded::Garbage };
            found = Forwarded::For(addr);
            if !trusted.contains(addr.ip()) {
                return found;
            }
        }
    }
    found
}

/// An address, in brackets or not; some write the port as well.
fn addr(text: &str) -> Option<SocketAddr> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let alone = bare.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, 0));
    alone.or_else(|| text.parse().ok())
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;
    use crate::config::Networks;

    fn trusted() -> Networks {
        let list = serde::de::value::SeqDeserializer::<_, serde::de::value::Error>::new(
            ["10.0.0.0/8", "2001:db8::/32"].into_iter(),
        );
        serde::Deserialize::deserialize(list).unwrap()
    }

    #[test]
    fn the_last_hop_that_is_not_trusted() {
        let client = |text: &str| Forwarded::For(text.parse().unwrap());
        let cases: [(&[&[u8]], Forwarded); 15] = [
            (&[], Forwarded::Absent),
            (&[b"192.0.2.7"], client("192.0.2.7:0")),
            (&[b"192.0.2.7:50112"], client("192.0.2.7:50112")),
            (&[b"203.0.113.1, 192.0.2.7"], client("192.0.2.7:0")),
            (&[b"203.0.113.1,192.0.2.7 , 10.1.1.1"], client("192.0.2.7:0")),
            (&[b"203.0.113.1", b"192.0.2.7, 10.0.0.1", b"10.0.0.2"], client("192.0.2.7:0")),
            (&[b"10.0.0.1, 10.0.0.2"], client("10.0.0.1:0")),
            (&[b"garbage, 192.0.2.7"], client("192.0.2.7:0")),
            (&[b"garbage, 10.0.0.1"], Forwarded::Garbage),
            (&[b"192.0.2.7, "], Forwarded::Garbage),
            (&[b""], Forwarded::Garbage),
            (&[b"unknown"], Forwarded::Garbage),
            (&[b"192.0.2.7\xFF"], Forwarded::Garbage),
            (&[b"[2001:db9::7]:9, 2001:db8::1"], client("[2001:db9::7]:9")),
            (&[b"[2001:db9::7]"], client("[2001:db9::7]:0")),
        ];
        for (lines, expected) in cases {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(X_FORWARDED_FOR, HeaderValue::from_bytes(line).unwrap());
            }
            assert_eq!(forwarded_for(&headers, &trusted()), expected, "{lines:?}");
        }
    }
}
