//! Bytes as the beginning of a connection: read in pieces as they come, or at once, it is the same header or none, and nothing
//! behind it is asked for. A test runs this as well, see `tests/proxy/random.rs`.

use proxy_wire::{Decoded, HEADER_MAX, decode};

pub(crate) fn run(bytes: &[u8]) {
    let mut have = 0;
    let in_pieces = loop {
        match decode(&bytes[..have]) {
            Ok(Decoded::Part(more)) => {
                assert!(more > 0 && have + more <= HEADER_MAX);
                have += more;
                if have > bytes.len() {
                    break None;
                }
            }
            Ok(Decoded::Whole(header, len)) => {
                assert_eq!(len, have);
                break Some((header, len));
            }
            Err(_) => break None,
        }
    };
    let at_once = match decode(bytes) {
        Ok(Decoded::Whole(header, len)) => Some((header, len)),
        _ => None,
    };
    assert_eq!(in_pieces, at_once);
}
