//! Bytes as the beginning of a connection: read in pieces as they come, or at once, it is the same header or none, and nothing
//! behind it is asked for. `cargo +nightly fuzz run header`.

#![no_main]

use libfuzzer_sys::fuzz_target;
use proxy_wire::{Decoded, HEADER_MAX, decode};

fuzz_target!(|bytes: &[u8]| {
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
});
