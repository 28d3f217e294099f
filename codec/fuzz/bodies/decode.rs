//! Bytes as a connection: the first byte says how they are read, the rest is what arrives. Whatever is let through has
//! to survive being encoded and read again. Tests run this as well, see `tests/codec/fuzzed.rs`.

use bytes::BytesMut;
use mqtt_codec::{Decoder, DecoderOptions, PacketType, Role, Version, encode};

pub(crate) fn run(data: &[u8]) {
    let Some((&how, bytes)) = data.split_first() else { return };
    let options = DecoderOptions {
        role: if how & 1 == 0 { Role::Server } else { Role::Client },
        strict: how & 2 != 0,
        version: match how >> 2 & 3 {
            0 => None,
            1 => Some(Version::V31),
            2 => Some(Version::V311),
            _ => Some(Version::V5),
        },
        ..DecoderOptions::default()
    };
    let mut decoder = Decoder::new(options);
    let mut buf = BytesMut::from(bytes);
    while let Ok(Some(packet)) = decoder.decode(&mut buf) {
        let version = decoder.version().expect("known after a packet");
        let mut again = BytesMut::new();
        encode(&packet, version, &mut again).expect("what was read can be written");
        let options = match packet.packet_type() {
            PacketType::Connect => DecoderOptions::default(),
            _ => DecoderOptions { version: Some(version), role: options.role, ..DecoderOptions::default() },
        };
        assert_eq!(Decoder::new(options).decode(&mut again), Ok(Some(packet)));
    }
}
