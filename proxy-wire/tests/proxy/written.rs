//! Headers of version 2, written field by field.

pub(crate) const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// PROXY over TCP and IPv4.
pub(crate) const TCP4: [u8; 2] = [0x21, 0x11];

/// From 192.0.2.7:50112 to 198.51.100.1:8883.
pub(crate) const ADDRESSES: [u8; 12] = [192, 0, 2, 7, 198, 51, 100, 1, 0xC3, 0xC0, 0x22, 0xB3];

/// A header with a command and a family.
pub(crate) fn header(about: [u8; 2], pieces: &[&[u8]]) -> Vec<u8> {
    let behind = pieces.concat();
    let len = u16::try_from(behind.len()).unwrap().to_be_bytes();
    [SIGNATURE, &about, &len, &behind].concat()
}

pub(crate) fn tlv(kind: u8, value: &[u8]) -> Vec<u8> {
    [&[kind][..], &u16::try_from(value.len()).unwrap().to_be_bytes(), value].concat()
}

/// `PP2_TYPE_SSL`, with what stands in it.
pub(crate) fn ssl(client: u8, verify: u32, inner: &[Vec<u8>]) -> Vec<u8> {
    tlv(0x20, &[&[client][..], &verify.to_be_bytes(), &inner.concat()].concat())
}
