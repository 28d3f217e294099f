//! Bytes that nobody would think of.

use std::net::{IpAddr, SocketAddr};

use proptest::collection::vec;
use proptest::prelude::*;
use proxy_wire::{Decoded, HEADER_MAX, decode};

use crate::written::{SIGNATURE, header, ssl, tlv};

/// What the fuzz target does, which itself needs a nightly compiler.
#[path = "../../fuzz/bodies/header.rs"]
mod fuzzed;

/// A header that can be taken, and what it says.
fn headers() -> impl Strategy<Value = (Vec<u8>, Option<SocketAddr>)> {
    let text = any::<(bool, [u8; 16], [u8; 16], u16, u16)>().prop_map(|(is_six, from, to, from_port, to_port)| {
        let addr = |bytes: [u8; 16]| match is_six {
            true => IpAddr::from(bytes),
            false => IpAddr::from(*bytes.first_chunk::<4>().unwrap()),
        };
        let (family, source) = (if is_six { 6 } else { 4 }, SocketAddr::new(addr(from), from_port));
        let line = format!("PROXY TCP{family} {} {} {from_port} {to_port}\r\n", source.ip(), addr(to));
        (line.into_bytes(), Some(source))
    });
    let more = vec((any::<u8>(), vec(any::<u8>(), 0..20)), 0..8).prop_map(|more| {
        let skipped = more.iter().filter(|(kind, _)| ![0x02, 0x03, 0x20].contains(kind));
        skipped.flat_map(|(kind, value)| tlv(*kind, value)).collect::<Vec<u8>>()
    });
    let binary = (any::<[u8; 36]>(), any::<bool>(), more).prop_map(|(addresses, is_six, more)| {
        let (family, size) = if is_six { (0x21, 36) } else { (0x11, 12) };
        let port = |at: usize| u16::from_be_bytes([addresses[at], addresses[at + 1]]);
        let source = match is_six {
            true => SocketAddr::new(IpAddr::from(*addresses.first_chunk::<16>().unwrap()), port(32)),
            false => SocketAddr::new(IpAddr::from(*addresses.first_chunk::<4>().unwrap()), port(8)),
        };
        (header([0x21, family], &[&addresses[..size], &more, &ssl(1, 0, &[])]), Some(source))
    });
    prop_oneof![text, binary]
}

/// Reads a header in pieces, as a driver does: never a byte behind it.
fn read(bytes: &[u8], piece: usize) -> Option<(Decoded, usize)> {
    let mut have = 0;
    loop {
        match decode(&bytes[..have]).ok()? {
            Decoded::Part(more) => {
                assert!(more > 0 && have + more <= HEADER_MAX);
                have += more.min(piece);
                if have > bytes.len() {
                    return None;
                }
            }
            whole => return Some((whole, have)),
        }
    }
}

proptest! {
    #[test]
    fn a_header_is_read_in_any_pieces_and_nothing_behind_it((bytes, source) in headers(), piece in 1_usize..200, behind in vec(any::<u8>(), 0..40)) {
        let stream = [&bytes[..], &behind].concat();
        let (decoded, have) = read(&stream, piece).expect("it is one");
        prop_assert_eq!(have, bytes.len());
        let Decoded::Whole(header, len) = decoded else { unreachable!() };
        fuzzed::run(&stream);
        prop_assert_eq!((header.source, header.is_local, len), (source, false, bytes.len()));
        prop_assert_eq!(decode(&stream), Ok(Decoded::Whole(header, len)));
    }

    #[test]
    fn any_bytes_end_in_a_header_an_error_or_a_bounded_wait(bytes in vec(any::<u8>(), 0..300), how in 0..4) {
        let stream = match how {
            0 => bytes,
            1 => [b"PROXY ", &bytes[..]].concat(),
            2 => [SIGNATURE, &bytes].concat(),
            _ => header([0x21, 0x11], &[&bytes]),
        };
        fuzzed::run(&stream);
        for piece in [1, 7, 4_096] {
            let _ = read(&stream, piece);
        }
        match decode(&stream) {
            Ok(Decoded::Whole(_, len)) => prop_assert!(len <= stream.len()),
            Ok(Decoded::Part(more)) => prop_assert!(stream.len() + more <= HEADER_MAX),
            Err(error) => {
                let longer = [&stream[..], b"more"].concat();
                prop_assert_eq!(decode(&longer), Err(error), "what is wrong stays wrong");
            }
        }
    }
}
