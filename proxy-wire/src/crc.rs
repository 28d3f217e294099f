//! CRC32c, as RFC 9260 has it in its appendix A.

/// Castagnoli's polynomial, the lowest bit first.
const POLYNOMIAL: u32 = 0x82F6_3B78;

/// What each byte does.
const TABLE: [u32; 256] = table();

const fn table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let (mut value, mut bit) = (byte as u32, 0);
        while bit < 8 {
            value = if value & 1 == 1 { value >> 1 ^ POLYNOMIAL } else { value >> 1 };
            bit += 1;
        }
        table[byte] = value;
        byte += 1;
    }
    table
}

/// Of bytes in several pieces.
pub(crate) fn crc32c<const N: usize>(pieces: [&[u8]; N]) -> u32 {
    let bytes = pieces.iter().flat_map(|piece| piece.iter());
    !bytes.fold(!0, |crc: u32, byte| crc >> 8 ^ TABLE[usize::from(crc.to_le_bytes()[0] ^ byte)])
}

#[cfg(test)]
mod tests {
    use super::crc32c;

    /// The examples of RFC 3720, B.4, and the usual check value.
    #[test]
    fn the_checksums_of_the_rfc_come_out() {
        let rising: Vec<u8> = (0..32).collect();
        let cases: [(&[u8], u32); 4] =
            [(&[0; 32], 0x8A91_36AA), (&[0xFF; 32], 0x62A8_AB43), (&rising, 0x46DD_794E), (b"123456789", 0xE306_9283)];
        for (bytes, expected) in cases {
            assert_eq!(crc32c([bytes]), expected, "{bytes:?}");
            let (first, second) = bytes.split_at(bytes.len() / 3);
            assert_eq!(crc32c([first, second]), expected);
        }
    }
}
