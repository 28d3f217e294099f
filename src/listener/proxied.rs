//! Listeners behind proxies: what the proxy says of a connection, by the PROXY protocol, before anything else of it is read. Only
//! those are heard who are trusted, and nobody else gets in.

use std::sync::Arc;
use std::time::Duration;

use mqtt_access::{Certificate, CertificateIdentity};
use proxy_wire::{Decoded, HEADER_MAX, Header, HeaderError};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::timeout_at;
use tracing::{debug, info};

use super::Peer;
use super::names::Names;
use crate::config::{Networks, ProxyIdentity, ProxyProtocolConfig};
use crate::metrics::{Metrics, ProxyRefusal};
use crate::network::PeerAddr;

/// What a listener asks of the proxies before it.
pub(super) struct Proxied {
    trusted: Networks,
    identity: ProxyIdentity,
    /// Accounts, by the names that clients ask for.
    accounts: Names<Arc<str>>,
    /// From accept to CONNECT.
    within: Duration,
    metrics: Arc<Metrics>,
}

/// Why there is no header that counts.
#[derive(Debug, PartialEq, Eq)]
enum Refused {
    /// It was closed without a byte, as health checks do.
    Silent,
    /// For this, in these words.
    For(ProxyRefusal, String),
}

impl Proxied {
    pub(super) fn new(config: &ProxyProtocolConfig, within: Duration, metrics: Arc<Metrics>) -> Self {
        let named = config.sni.iter().flat_map(|sni| sni.names.iter().map(|name| (&**name, Arc::from(&*sni.account))));
        let (trusted, identity) = (config.trusted.clone(), config.identity);
        Self { trusted, identity, accounts: named.collect(), within, metrics }
    }

    /// Whether a header counts that comes from there. Who can open a Unix socket may say who is behind it: its mode and group are
    /// for that.
    pub(super) fn trusts(&self, addr: PeerAddr) -> bool {
        addr.ip().is_none_or(|ip| self.trusted.contains(ip))
    }

    /// Reads the header, and takes from it who the peer is. What fails is told here; `false`: it is to be closed. Not a byte
    /// is read of what stands behind the header.
    pub(super) async fn accept<S: AsyncRead + Unpin>(&self, stream: &mut S, peer: &mut Peer) -> bool {
        let read = tokio::select! {
            biased;
            () = peer.handshake.evicted() => return false,
            read = timeout_at(peer.since + self.within, self.header(stream, peer.addr)) => read,
        };
        let timeout = || Err(Refused::For(ProxyRefusal::Timeout, "no whole PROXY header in time".to_owned()));
        match read.unwrap_or_else(|_| timeout()) {
            Ok(header) => {
                self.take(header, peer);
                return true;
            }
            Err(Refused::Silent) => {
                debug!(remote = %peer.addr, listener = &*peer.entrance.name, "closed without a byte");
            }
            Err(Refused::For(reason, words)) => {
                self.metrics.proxy_refused(reason);
                let (listener, reason) = (&*peer.entrance.name, reason.text());
                info!(remote = %peer.addr, listener, reason, "closed: {words}");
            }
        }
        false
    }

    async fn header<S: AsyncRead + Unpin>(&self, stream: &mut S, addr: PeerAddr) -> Result<Header, Refused> {
        if !self.trusts(addr) {
            let words = "it is not in proxy_protocol.trusted, and this listener is for proxies only".to_owned();
            return Err(Refused::For(ProxyRefusal::Untrusted, words));
        }
        read(stream).await
    }

    fn take(&self, header: Header, peer: &mut Peer) {
        let Header { is_local, source, tls, authority } = header;
        debug!(remote = %peer.addr, listener = &*peer.entrance.name, client = ?source, is_local, authority, "a PROXY header");
        if let Some(source) = source {
            peer.addr = source.into();
        }
        if self.identity == ProxyIdentity::Cn {
            let verified = tls.filter(|tls| tls.is_verified).and_then(|tls| tls.common_name);
            let named = verified.map(|name| Certificate::new(vec![CertificateIdentity::CommonName(name)]));
            peer.certificate = named.map(Box::new);
        }
        peer.account = authority.and_then(|name| self.accounts.of(&name).cloned());
    }
}

/// Reads a header and nothing behind it.
async fn read<S: AsyncRead + Unpin>(stream: &mut S) -> Result<Header, Refused> {
    let mut bytes = Vec::new();
    loop {
        let more = match proxy_wire::decode(&bytes) {
            Ok(Decoded::Whole(header, _)) => return Ok(header),
            Ok(Decoded::Part(more)) => more.min(HEADER_MAX),
            Err(error) => {
                let (reason, hint) = match error {
                    HeaderError::Absent => (ProxyRefusal::Absent, ": is the proxy to send one (send-proxy-v2)?"),
                    HeaderError::TooLong | HeaderError::Malformed(_) | HeaderError::Checksum => {
                        (ProxyRefusal::Malformed, "")
                    }
                };
                return Err(Refused::For(reason, format!("{error}{hint}")));
            }
        };
        let have = bytes.len();
        bytes.resize(have + more, 0);
        match stream.read(&mut bytes[have..]).await {
            Ok(0) | Err(_) if have == 0 => return Err(Refused::Silent),
            Ok(0) | Err(_) => {
                return Err(Refused::For(
                    ProxyRefusal::Closed,
                    "the connection ended within its PROXY header".to_owned(),
                ));
            }
            Ok(count) => bytes.truncate(have + count),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    async fn read_of(bytes: &[u8]) -> (Result<Header, Refused>, Vec<u8>) {
        let (mut near, mut far) = tokio::io::duplex(64 * 1024);
        far.write_all(bytes).await.unwrap();
        drop(far);
        let (header, mut rest) = (read(&mut near).await, Vec::new());
        near.read_to_end(&mut rest).await.unwrap();
        (header, rest)
    }

    #[tokio::test]
    async fn what_stands_behind_a_header_stays_unread() {
        let local = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";
        let binary = [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0C"[..], &[192, 0, 2, 7, 1, 1, 1, 1, 0, 9, 0, 1]].concat();
        for (header, source) in [
            (&b"PROXY TCP4 192.0.2.7 198.51.100.1 9 1883\r\n"[..], Some("192.0.2.7:9")),
            (b"PROXY UNKNOWN\r\n", None),
            (local, None),
            (&binary, Some("192.0.2.7:9")),
        ] {
            for behind in [&b""[..], b"\x16\x03\x01 hello", header] {
                let (read, rest) = read_of(&[header, behind].concat()).await;
                assert_eq!(read.unwrap().source.map(|addr| addr.to_string()).as_deref(), source);
                assert_eq!(rest, behind);
            }
        }
    }

    #[tokio::test]
    async fn what_is_no_header_is_told_in_words() {
        let cases: [(&[u8], Option<ProxyRefusal>); 6] = [
            (b"", None),
            (b"\x16\x03\x01\0\0\0\0\0", Some(ProxyRefusal::Absent)),
            (b"GET", Some(ProxyRefusal::Absent)),
            (b"PROXY TCP4 192.0.2.7 1", Some(ProxyRefusal::Closed)),
            (b"PROXY TCP4 garbage\r\n", Some(ProxyRefusal::Malformed)),
            (b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xFF\xFF", Some(ProxyRefusal::Malformed)),
        ];
        for (bytes, reason) in cases {
            let (read, _) = read_of(bytes).await;
            let refused = match read.unwrap_err() {
                Refused::Silent => None,
                Refused::For(reason, _) => Some(reason),
            };
            assert_eq!(refused, reason, "{bytes:?}");
        }
    }
}
