//! What arrives on a plain MQTT port and is not MQTT: browsers and load balancers that speak HTTP, and devices that
//! speak TLS. A CONNECT begins with 0x10, so the first bytes tell.

use std::fmt;

/// A protocol that is not MQTT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Foreign {
    /// An HTTP request.
    Http,
    /// A TLS handshake.
    Tls,
}

impl Foreign {
    /// Recognises the first bytes of a connection; `None` when they are something else, or too few to tell.
    #[must_use]
    pub fn recognise(first: &[u8]) -> Option<Self> {
        const METHODS: [&[u8]; 6] = [b"GET ", b"HEAD ", b"POST ", b"PUT ", b"OPTIONS ", b"CONNECT "];
        if METHODS.iter().any(|method| first.starts_with(method)) {
            return Some(Self::Http);
        }
        // Record type 22 (handshake), version 3.x.
        first.starts_with(&[0x16, 0x03]).then_some(Self::Tls)
    }

    /// What the peer is sent before the connection is closed, so that it can tell what is wrong.
    #[must_use]
    pub const fn answer(self) -> &'static [u8] {
        match self {
            Self::Http => b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: 31\r\nConnection: close\r\n\r\nThis port speaks MQTT, no HTTP\n",
            // A fatal alert, unexpected_message.
            Self::Tls => &[0x15, 0x03, 0x03, 0x00, 0x02, 0x02, 0x0A],
        }
    }
}

impl fmt::Display for Foreign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Http => "the peer speaks HTTP on a plain MQTT port",
            Self::Tls => "the peer speaks TLS on a plain MQTT port",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn http_and_tls_are_recognised_and_mqtt_is_not() {
        assert_eq!(Foreign::recognise(b"GET / HTTP/1.1\r\n"), Some(Foreign::Http));
        assert_eq!(Foreign::recognise(&[0x16, 0x03, 0x01, 0x02]), Some(Foreign::Tls));
        assert_eq!(Foreign::recognise(&[0x10, 0x0C, 0, 4, b'M', b'Q', b'T', b'T']), None);
        assert_eq!(Foreign::recognise(b""), None);
    }

    #[test]
    fn the_length_of_the_http_answer_is_right() {
        let answer = std::str::from_utf8(Foreign::Http.answer()).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())), "{}", body.len());
    }
}
