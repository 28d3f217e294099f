//! Version 2: a signature, what it is about, addresses, and more as type, length and value.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::header::{Decoded, HEADER_MAX, Header, HeaderError};
use crate::tlv;

pub(crate) const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// Bytes before the addresses: signature, version and command, family, length.
pub(crate) const FIXED: usize = 16;

const IPV4: usize = 12;
const IPV6: usize = 36;
const UNIX: usize = 216;

/// `bytes` begin as [`SIGNATURE`] does.
pub(crate) fn decode(bytes: &[u8]) -> Result<Decoded, HeaderError> {
    let is_local = match bytes.get(SIGNATURE.len()) {
        // LOCAL and PROXY, of version 2.
        None | Some(0x20) => true,
        Some(0x21) => false,
        Some(_) => return Err(HeaderError::Malformed("a version or command that there is not")),
    };
    let Some(fixed) = bytes.first_chunk::<FIXED>() else { return Ok(Decoded::Part(FIXED - bytes.len())) };
    let [.., family, high, low] = *fixed;
    let len = FIXED + usize::from(u16::from_be_bytes([high, low]));
    if len > HEADER_MAX {
        return Err(HeaderError::TooLong);
    }
    let Some(whole) = bytes.get(..len) else { return Ok(Decoded::Part(len - bytes.len())) };
    // Of a connection of the proxy's own everything else is to be ignored.
    let header = if is_local { Header { is_local, ..Header::default() } } else { proxied(whole, family)? };
    Ok(Decoded::Whole(header, len))
}

fn proxied(whole: &[u8], family: u8) -> Result<Header, HeaderError> {
    let behind = &whole[FIXED..];
    let size = match family {
        0x00 => 0,
        0x11 | 0x12 => IPV4,
        0x21 | 0x22 => IPV6,
        0x31 | 0x32 => UNIX,
        _ => return Err(HeaderError::Malformed("a family of addresses that there is not")),
    };
    let (addresses, more) =
        behind.split_at_checked(size).ok_or(HeaderError::Malformed("too short for its addresses"))?;
    let said = tlv::read(whole, more)?;
    Ok(Header { is_local: false, source: source(addresses), tls: said.tls, authority: said.authority })
}

/// Source and destination, then the port of each. A socket of the system has no address that means anything here.
fn source(addresses: &[u8]) -> Option<SocketAddr> {
    let port = |at: usize| addresses.get(at..)?.first_chunk().map(|port| u16::from_be_bytes(*port));
    let (addr, port) = match addresses.len() {
        IPV4 => (IpAddr::V4(Ipv4Addr::from(*addresses.first_chunk::<4>()?)), port(8)?),
        IPV6 => (IpAddr::V6(Ipv6Addr::from(*addresses.first_chunk::<16>()?)), port(32)?),
        _ => return None,
    };
    Some(SocketAddr::new(addr, port))
}
