//! Why no TLS connection came of a socket, in words.

use std::io;

use tokio_rustls::rustls::{CertificateError, Error, InvalidMessage};

use crate::metrics::TlsFailure;

/// What is wrong with a certificate.
pub(super) fn told_of(error: &CertificateError) -> String {
    match error {
        // What many instructions make; rustls says it in the words of its parser only.
        CertificateError::Other(other) if other.to_string().contains("UnsupportedCertVersion") => {
            "it is of X.509 version 1, as `openssl x509 -req` makes it without -extfile: version 3 is needed".to_owned()
        }
        other => other.to_string(),
    }
}

/// `no cipher suites in common` of `NoCipherSuitesInCommon`.
fn in_words(name: &str) -> String {
    let mut words = String::new();
    for letter in name.chars() {
        if letter.is_ascii_uppercase() && !words.is_empty() {
            words.push(' ');
        }
        words.push(letter.to_ascii_lowercase());
    }
    words
}

/// Why a handshake failed: what is counted, and what the log says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Failed {
    pub(super) failure: TlsFailure,
    pub(super) words: String,
}

impl Failed {
    pub(super) fn new(failure: TlsFailure, words: impl Into<String>) -> Self {
        Self { failure, words: words.into() }
    }

    /// By its first byte it is no TLS.
    pub(super) fn not_tls(first: u8) -> Self {
        let what = match first {
            // CONNECT, and nothing else begins a connection.
            0x10 => "MQTT without TLS",
            b'A'..=b'Z' => "HTTP without TLS",
            _ => "something else than TLS",
        };
        Self::new(TlsFailure::NotTls, format!("the peer speaks {what} on a TLS port"))
    }

    /// As rustls or the network says it.
    pub(super) fn of(error: &io::Error) -> Self {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
            Some(error) => Self::of_tls(error),
            None => Self::new(TlsFailure::Closed, "closed during the TLS handshake"),
        }
    }

    fn of_tls(error: &Error) -> Self {
        match error {
            Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
                Self::new(TlsFailure::NotTls, "the peer speaks something else than TLS on a TLS port")
            }
            Error::PeerIncompatible(why) => Self::new(
                TlsFailure::NothingShared,
                format!("the peer cannot do what we can: {}", in_words(&format!("{why:?}"))),
            ),
            Error::NoCertificatesPresented => {
                Self::new(TlsFailure::CertificateMissing, "the peer has shown no certificate, and one is required")
            }
            Error::InvalidCertificate(error) => Self::of_certificate(error),
            Error::NoApplicationProtocol => {
                Self::new(TlsFailure::NothingShared, "the peer wants another protocol than ours (ALPN)")
            }
            Error::AlertReceived(alert) => Self::new(
                TlsFailure::RefusedByPeer,
                format!(
                    "the peer refused it with the alert {alert:?}: does it trust the certificate of this listener?"
                ),
            ),
            other => Self::new(TlsFailure::Protocol, other.to_string()),
        }
    }

    /// The certificate of a client does not let it in.
    pub(super) fn of_certificate(error: &CertificateError) -> Self {
        let (failure, words) = match error {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                (TlsFailure::CertificateExpired, "the certificate of the peer has expired".to_owned())
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                (TlsFailure::CertificateExpired, "the certificate of the peer is not valid yet".to_owned())
            }
            CertificateError::Revoked => {
                (TlsFailure::CertificateRevoked, "the certificate of the peer is revoked".to_owned())
            }
            CertificateError::UnknownIssuer => (
                TlsFailure::UnknownAuthority,
                "the certificate of the peer is signed by an authority that is not in ca_file".to_owned(),
            ),
            other => {
                (TlsFailure::Certificate, format!("the certificate of the peer cannot be used: {}", told_of(other)))
            }
        };
        Self { failure, words }
    }
}

#[cfg(test)]
mod tests {
    use tokio_rustls::rustls::PeerIncompatible;

    use super::*;

    #[test]
    fn what_is_not_shared_is_said_in_words() {
        let of = |why: PeerIncompatible| {
            let Failed { failure, words } = Failed::of(&io::Error::other(Error::PeerIncompatible(why)));
            assert_eq!(failure, TlsFailure::NothingShared);
            words
        };
        let cipher = of(PeerIncompatible::NoCipherSuitesInCommon);
        assert_eq!(cipher, "the peer cannot do what we can: no cipher suites in common");
        let version = of(PeerIncompatible::Tls12NotOffered);
        assert_eq!(version, "the peer cannot do what we can: tls12 not offered");
    }

    #[test]
    fn what_the_network_says_is_a_connection_that_was_closed() {
        for error in [io::ErrorKind::ConnectionReset.into(), io::Error::new(io::ErrorKind::UnexpectedEof, "eof")] {
            assert_eq!(Failed::of(&error).failure, TlsFailure::Closed);
        }
        let words = [0x10, b'G', 0xff].map(|first| Failed::not_tls(first).words);
        assert!(
            words[0].contains("MQTT without TLS") && words[1].contains("HTTP") && words[2].contains("something else")
        );
    }
}
