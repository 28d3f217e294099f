//! What is encoded is decoded to the same, for all versions and both directions, however the bytes arrive.

use bytes::{Bytes, BytesMut};
use mqtt_codec::{Decoder, DecoderOptions, Packet, Role, Version, encode, encoded_len};
use proptest::{collection::vec, prelude::*};

use crate::{
    arbitrary::{cases, connect, packet, sender, version},
    bytes_text::{bytes_of, options},
};

fn receiver(sender: Role) -> Role {
    match sender {
        Role::Client => Role::Server,
        Role::Server => Role::Client,
    }
}

/// A conversation of one side: for a client it begins with CONNECT.
fn conversation() -> impl Strategy<Value = (Version, Role, Vec<Packet>)> {
    (version(), sender()).prop_flat_map(|(version, sender)| {
        (connect(version), vec(packet(version, sender), 1..6)).prop_map(move |(connect, mut packets)| {
            if sender == Role::Client {
                packets.insert(0, connect);
            }
            (version, sender, packets)
        })
    })
}

proptest! {
    #![proptest_config(cases(2_000))]

    #[test]
    fn decoded_packets_are_those_encoded_however_the_bytes_are_split(
        (version, sender, packets) in conversation(),
        cuts in vec(1_usize..40, 1..20),
    ) {
        let mut wire = BytesMut::new();
        for packet in &packets {
            let start = wire.len();
            encode(packet, version, &mut wire).unwrap();
            prop_assert_eq!(wire.len() - start, encoded_len(packet, version).unwrap());
        }
        let mut decoder = Decoder::new(match sender {
            Role::Client => DecoderOptions::default(),
            Role::Server => options(receiver(sender), version),
        });
        let mut cuts = cuts.iter().cycle();
        let mut arrived = BytesMut::new();
        let mut rest = &wire[..];
        let mut decoded = Vec::new();
        while !rest.is_empty() {
            let (now, later) = rest.split_at(rest.len().min(*cuts.next().unwrap()));
            rest = later;
            arrived.extend_from_slice(now);
            while let Some(packet) = decoder.decode(&mut arrived).unwrap() {
                decoded.push(packet);
            }
        }
        prop_assert!(arrived.is_empty());
        prop_assert_eq!(decoder.version(), Some(version));
        prop_assert_eq!(decoded, packets);
    }

    #[test]
    fn a_packet_that_is_one_byte_short_is_not_decoded_and_nothing_is_taken(
        (version, sender, packets) in conversation(),
    ) {
        let mut wire = BytesMut::new();
        encode(packets.last().unwrap(), version, &mut wire).unwrap();
        wire.truncate(wire.len() - 1);
        let before = wire.clone();
        // In the middle of a connection a second CONNECT is refused at its first byte.
        let second_connect = packets.len() == 1 && sender == Role::Client;
        let result = Decoder::new(options(receiver(sender), version)).decode(&mut wire);
        prop_assert!(second_connect || result == Ok(None));
        prop_assert_eq!(wire, before);
    }
}

#[test]
fn topic_and_payload_of_a_publish_are_ranges_of_the_received_bytes() {
    let mut buf = BytesMut::from(&b"\x30\x0a\x00\x03a/bhello"[..]);
    let range = buf.as_ptr_range();
    let Ok(Some(Packet::Publish(publish))) = Decoder::new(options(Role::Server, Version::V311)).decode(&mut buf) else {
        panic!("no PUBLISH");
    };
    assert_eq!(publish.payload, Bytes::from_static(b"hello"));
    assert!(range.contains(&publish.payload.as_ptr()));
    assert!(range.contains(&publish.topic_name().unwrap().as_bytes().as_ptr()));
}

#[test]
fn what_lives_as_long_as_the_session_does_not_hold_the_read_buffer() {
    for (options, text) in [
        (DecoderOptions::default(), "10 {s'MQTT' 04 02 003C s'client'}"),
        (options(Role::Server, Version::V311), "82 {0001 s'a/#' 00}"),
        (options(Role::Server, Version::V311), "A2 {0001 s'a/#'}"),
    ] {
        let mut buf = BytesMut::from(&bytes_of(text)[..]);
        let range = buf.as_ptr_range();
        let kept = match Decoder::new(options).decode(&mut buf) {
            Ok(Some(Packet::Connect(connect))) => connect.client_id.as_ptr(),
            Ok(Some(Packet::Subscribe(subscribe))) => subscribe.entries[0].filter.as_ref().unwrap().as_ptr(),
            Ok(Some(Packet::Unsubscribe(unsubscribe))) => unsubscribe.filters[0].as_ref().unwrap().as_ptr(),
            other => panic!("{other:?}"),
        };
        assert!(!range.contains(&kept), "{text}");
    }
}
