//! Whatever arrives, the decoder answers: it never panics, takes no more than a packet at a time, and what it lets
//! through can be encoded and read again.

use bytes::BytesMut;
use mqtt_codec::*;
use proptest::{collection::vec, prelude::*};

use crate::arbitrary::{VERSIONS, cases, connect, packet, sender, version};

/// Every way in which bytes can be read.
fn all_options() -> Vec<DecoderOptions> {
    let mut all = Vec::new();
    for role in [Role::Server, Role::Client] {
        for version in VERSIONS.map(Some).into_iter().chain([None]) {
            for strict in [false, true] {
                let limits =
                    DecoderOptions { max_packet_size: 70_000, max_topic_levels: 8, ..DecoderOptions::default() };
                all.push(DecoderOptions { role, version, strict, ..limits });
            }
        }
    }
    all
}

/// Reads everything in all ways, and checks that what was read has a meaning that survives encoding.
pub(crate) fn survives(bytes: &[u8]) {
    for options in all_options() {
        let mut decoder = Decoder::new(options);
        let mut buf = BytesMut::from(bytes);
        while let Ok(Some(packet)) = decoder.decode(&mut buf) {
            let version = decoder.version().expect("known after a packet");
            let mut again = BytesMut::new();
            encode(&packet, version, &mut again).unwrap();
            assert_eq!(again.len(), encoded_len(&packet, version).unwrap());
            let version = Some(version).filter(|_| packet.packet_type() != PacketType::Connect);
            let role = if version.is_none() { Role::Server } else { options.role };
            let reread =
                Decoder::new(DecoderOptions { version, role, max_topic_levels: 8, ..DecoderOptions::default() })
                    .decode(&mut again);
            assert_eq!(reread, Ok(Some(packet)), "{bytes:02x?} read with {options:?}");
        }
    }
}

proptest! {
    #![proptest_config(cases(3_000))]

    #[test]
    fn arbitrary_bytes(bytes in vec(any::<u8>(), 0..64)) {
        survives(&bytes);
    }

    #[test]
    fn arbitrary_contents_behind_a_right_fixed_header(first in any::<u8>(), body in vec(any::<u8>(), 0..100)) {
        let mut bytes = vec![first, u8::try_from(body.len()).unwrap()];
        bytes.extend(body);
        survives(&bytes);
    }

    #[test]
    fn right_packets_with_wrong_bytes(
        (version, _, packet) in (version(), sender()).prop_flat_map(|(version, sender)| {
            (Just(version), Just(sender), prop_oneof![1 => connect(version), 6 => packet(version, sender)])
        }),
        edits in vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut bytes = BytesMut::new();
        encode(&packet, version, &mut bytes).unwrap();
        for (at, byte) in edits {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        survives(&bytes);
    }
}

#[test]
fn every_two_first_bytes() {
    for first in 0..=255_u8 {
        for second in 0..=255_u8 {
            survives(&[first, second, 0, 1, 0, 0, 0]);
        }
    }
}
