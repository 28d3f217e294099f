//! What a header says, and what is wrong with one.

use std::net::SocketAddr;

/// Bytes of the longest header that is taken. Addresses and everything that HAProxy says of TLS take less than a quarter of it;
/// version 2 could say 64 KiB.
pub const HEADER_MAX: usize = 4 * 1024;

/// What a proxy says of a connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// The connection is the proxy's own, and nobody's whom it speaks for: a health check (`LOCAL`). Nothing else is said then.
    pub is_local: bool,
    /// Address of the client. `None`: the proxy does not know it, or it is no address of IP.
    pub source: Option<SocketAddr>,
    /// How the client speaks TLS with the proxy; `None`: it does not, or nothing is said of it.
    pub tls: Option<ClientTls>,
    /// The host that the client has asked for: by TLS (SNI), mostly.
    pub authority: Option<String>,
}

/// How a client speaks TLS with a proxy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientTls {
    /// It has shown a certificate, on this connection or when its session began, and the proxy has verified it.
    pub is_verified: bool,
    /// The common name of that certificate.
    pub common_name: Option<String>,
}

/// What the beginning of a connection is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decoded {
    /// A header, and how many bytes it has.
    Whole(Header, usize),
    /// The beginning of one: at least so many more bytes belong to it.
    Part(usize),
}

/// The connection does not begin with a header that can be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// It begins with something else.
    #[error("there is no PROXY header")]
    Absent,
    /// It is longer than [`HEADER_MAX`], or than version 1 allows.
    #[error("the PROXY header is too long")]
    TooLong,
    /// It is not as the protocol has it.
    #[error("the PROXY header is wrong: {0}")]
    Malformed(&'static str),
    /// Its checksum is another one.
    #[error("the PROXY header has been damaged: its checksum is wrong")]
    Checksum,
}
