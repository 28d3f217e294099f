//! Who is at the other end of a stream, as far as the listener knows.

use std::sync::Arc;

use mqtt_access::Certificate;
use tokio::time::Instant;

use super::entrance::Entrance;
use super::places::Handshake;
use crate::metrics::Limit;
use crate::network::PeerAddr;

/// Why somebody is not let in, whoever it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// There are too many.
    Limit(Limit),
    /// Its address is banned.
    Banned,
}

/// Who is at the other end.
#[derive(Debug)]
pub struct Peer {
    /// Who it is, for the log field `remote`; behind a proxy that is trusted, whom the proxy says.
    pub addr: PeerAddr,
    /// By which listener it has come.
    pub entrance: Arc<Entrance>,
    /// When it was accepted: from then on it has so long to complete CONNECT.
    pub since: Instant,
    /// Its place in the order in which connections were taken, of all listeners.
    pub place: u64,
    /// This connection's place among those that have not completed CONNECT.
    pub handshake: Handshake,
    /// It is not let in, because of this, which its CONNACK says.
    pub refused: Option<Refused>,
    /// The certificate that it has shown, verified.
    pub certificate: Option<Box<Certificate>>,
    /// The account of the name that it has asked for by TLS (SNI), which stands in place of its listener's.
    pub account: Option<Arc<str>>,
}

impl Peer {
    /// One that has come now, nobody waits behind and that has shown no certificate.
    #[must_use]
    pub fn new(addr: PeerAddr, entrance: Arc<Entrance>) -> Self {
        let handshake = Handshake::default();
        let (since, refused) = (Instant::now(), None);
        Self { addr, entrance, since, place: 0, handshake, refused, certificate: None, account: None }
    }
}
