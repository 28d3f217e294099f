//! The PROXY protocol, from the server's side: what a proxy says of a connection before the connection's own first byte.
//! Versions 1 (text) and 2 (binary), as HAProxy's `proxy-protocol.txt` has them.
//!
//! # Layout
//! - [`decode`]: bytes to a [`Header`] (`header`), or how many more belong to it
//! - `v1`, `v2`: the two versions; `tlv`: what may stand behind the addresses of version 2; `crc`: its checksum
//!
//! Not here: sockets, time, and who is believed.
//!
//! **Invariant:** no byte behind a header is asked for: it is the connection's own.
//!
//! **Invariant:** sizes are checked before anything is buffered ([`HEADER_MAX`]).
//!
//! **Invariant:** what can be read in two ways is refused.

mod crc;
mod header;
mod tlv;
mod v1;
mod v2;

pub use header::{ClientTls, Decoded, HEADER_MAX, Header, HeaderError};

/// Reads the header that `bytes` begin with.
///
/// # Errors
/// There is none, or it cannot be taken. It stays so whatever comes behind `bytes`.
pub fn decode(bytes: &[u8]) -> Result<Decoded, HeaderError> {
    let begins = |signature: &[u8]| bytes.iter().zip(signature).all(|(have, wanted)| have == wanted);
    if begins(v1::SIGNATURE) {
        v1::decode(bytes)
    } else if begins(v2::SIGNATURE) {
        v2::decode(bytes)
    } else {
        Err(HeaderError::Absent)
    }
}
