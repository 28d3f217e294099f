//! Where encoded bytes go. The same writing code runs twice: into [`Length`], which only counts, and into the buffer;
//! so no packet has a second function that has to agree with the first about its length.

use bytes::{BufMut, BytesMut};

use crate::EncodeError;

/// Largest value of a variable byte integer [MQTT 5, 1.5.5].
pub(crate) const VARINT_MAX: u32 = 268_435_455;

/// Takes bytes.
pub(crate) trait Sink {
    fn put(&mut self, bytes: &[u8]);

    fn u8(&mut self, value: u8) {
        self.put(&[value]);
    }

    fn u16(&mut self, value: u16) {
        self.put(&value.to_be_bytes());
    }

    fn u32(&mut self, value: u32) {
        self.put(&value.to_be_bytes());
    }

    /// A variable byte integer. Values above [`VARINT_MAX`] are refused before: see `encode` and `section`.
    fn varint(&mut self, value: u32) {
        let (bytes, len) = varint_bytes(value);
        self.put(bytes.get(..len).unwrap_or(&bytes));
    }

    /// Binary data: at most 65,535 bytes.
    fn binary(&mut self, bytes: &[u8]) -> Result<(), EncodeError> {
        let len = u16::try_from(bytes.len()).map_err(|_| EncodeError::FieldTooLong)?;
        self.u16(len);
        self.put(bytes);
        Ok(())
    }

    /// A UTF-8 string: at most 65,535 bytes, no U+0000 [MQTT-1.5.4-2].
    fn string(&mut self, text: &str) -> Result<(), EncodeError> {
        if text.as_bytes().contains(&0) {
            return Err(EncodeError::NullCharacter);
        }
        self.binary(text.as_bytes())
    }
}

impl Sink for BytesMut {
    #[inline]
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }

    #[inline]
    fn u8(&mut self, value: u8) {
        self.put_u8(value);
    }
}

/// Counts what would be written.
#[derive(Default)]
pub(crate) struct Length(pub(crate) usize);

impl Sink for Length {
    #[inline]
    fn put(&mut self, bytes: &[u8]) {
        self.0 += bytes.len();
    }
}

/// How many bytes a variable byte integer takes.
pub(crate) const fn varint_len(value: u32) -> usize {
    match value {
        0..=127 => 1,
        128..=16_383 => 2,
        16_384..=2_097_151 => 3,
        _ => 4,
    }
}

/// A variable byte integer, in the first bytes, and how many they are.
pub(crate) const fn varint_bytes(value: u32) -> ([u8; 4], usize) {
    let len = varint_len(value);
    let mut bytes = [0; 4];
    let mut rest = value;
    let mut i = 0;
    while i < len {
        bytes[i] = (rest & 0x7F) as u8 | if i + 1 < len { 0x80 } else { 0 };
        rest >>= 7;
        i += 1;
    }
    (bytes, len)
}
