//! The codec of ntex-mqtt 8.2.1 as a second opinion, for 3.1.1 and 5 (it has no 3.1). Right packets have to be read the
//! same by both; of damaged ones both have to say the same, except for the differences that are listed here with
//! their reasons. Its types stay in `differential_model`.
//!
//! Differences in what a packet is read as, which `as_ntex_says` levels out:
//! - ntex-mqtt fills in what is absent: session expiry 0, request problem information, everything in CONNACK.
//! - ntex-mqtt does not tell an absent Payload Format Indicator of a PUBLISH from 0.
//! - DUP with QoS 0 is kept by ntex-mqtt and ignored here [MQTT-3.3.1-2].

use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::BytesMut;
use mqtt_codec::*;
use proptest::{collection::vec, prelude::*};

use crate::{
    arbitrary::{cases, connect, packet, sender},
    bytes_text::decode_one,
    differential_model::{as_ntex_says, ntex_decode},
};

/// What ntex-mqtt lets through although the specification forbids it, or cannot judge.
fn ntex_does_not_see(version: Version, violation: Violation) -> bool {
    match violation {
        // Its codec does not know which side it is on.
        Violation::WrongDirection(_)
        | Violation::SubscriptionIdFromClient
        | Violation::SessionExpiryFromServer
        | Violation::ReasonCode { packet: PacketType::Disconnect | PacketType::Auth, .. } => true,
        // U+0000 [MQTT-1.5.4-2] and integers with more bytes than they need [MQTT-1.5.5-1].
        Violation::NullCharacter | Violation::VariableByteInteger => true,
        // Topics and filters are opaque to its codec; it judges them later, or not at all.
        Violation::TopicName(_)
        | Violation::TopicMissing
        | Violation::TopicLevels(_)
        | Violation::WillTopic(_)
        | Violation::ResponseTopic(_)
        | Violation::NoLocalOnShared => true,
        // Bytes after the end of CONNECT, PINGREQ and PINGRESP.
        Violation::TrailingBytes(PacketType::Connect | PacketType::PingReq | PacketType::PingResp) => true,
        // Requests and answers without an entry.
        Violation::SubscribeEmpty
        | Violation::UnsubscribeEmpty
        | Violation::Truncated(PacketType::SubAck | PacketType::UnsubAck) => true,
        // Reserved bits after a filter; flags of a will that is not there; properties that need another one.
        Violation::SubscriptionOptions(_)
        | Violation::WillFlags
        | Violation::WillQoS
        | Violation::PasswordWithoutUserName
        | Violation::AuthenticationMethodMissing(_)
        | Violation::SessionPresentOnRefusal => true,
        // Values that CONNACK cannot have: Maximum QoS 2, Maximum Packet Size 0, return code 6.
        Violation::PropertyValue(Property::MaximumQoS | Property::MaximumPacketSize) => true,
        Violation::ReasonCode { packet: PacketType::ConnAck, code: 6 } => version == Version::V311,
        _ => false,
    }
}

/// What ntex-mqtt refuses although it is right.
fn ntex_refuses(packet: &Packet) -> bool {
    let expires_at_once = |properties: &Option<Box<MessageProperties>>| {
        properties.as_ref().is_some_and(|properties| properties.message_expiry_interval_s == Some(0))
    };
    match packet {
        // It reads a Message Expiry Interval of 0 as malformed.
        Packet::Publish(publish) => expires_at_once(&publish.properties),
        Packet::Connect(connect) => {
            connect.will.as_ref().is_some_and(|will| expires_at_once(&will.properties))
                // It does not know bridges.
                || connect.bridge
                // It judges an empty client identifier itself, which here is for the session to say.
                || !connect.version.is_v5() && connect.client_id.is_empty() && !connect.clean_start
        }
        _ => false,
    }
}

fn wire(packet: &Packet, version: Version) -> Vec<u8> {
    let mut out = BytesMut::new();
    encode(packet, version, &mut out).unwrap();
    out.to_vec()
}

fn our_options(role: Role, version: Version, bytes: &[u8]) -> DecoderOptions {
    let is_connect = bytes.first().is_some_and(|first| first >> 4 == 1);
    let (role, version) = if is_connect { (Role::Server, None) } else { (role, Some(version)) };
    DecoderOptions { role, version, ..DecoderOptions::default() }
}

fn packet_of_both() -> impl Strategy<Value = (Version, Role, Packet)> {
    (prop_oneof![Just(Version::V311), Just(Version::V5)], sender()).prop_flat_map(|(version, sender)| {
        let packet = prop_oneof![1 => connect(version), 6 => packet(version, sender)];
        let receiver = if sender == Role::Client { Role::Server } else { Role::Client };
        (Just(version), Just(receiver), packet)
    })
}

proptest! {
    #![proptest_config(cases(4_000))]

    #[test]
    fn right_packets_are_read_the_same_by_ntex_mqtt((version, _, packet) in packet_of_both()) {
        match ntex_decode(version, &wire(&packet, version)) {
            Some(read) => prop_assert_eq!(read, as_ntex_says(packet)),
            None => prop_assert!(ntex_refuses(&packet), "only ntex-mqtt refuses {:?}", packet),
        }
    }

    #[test]
    fn of_damaged_packets_ntex_mqtt_says_the_same_but_for_known_differences(
        (version, receiver, packet) in packet_of_both(),
        edits in vec((any::<prop::sample::Index>(), prop_oneof![0_u8..4, any::<u8>()]), 1..4),
    ) {
        let mut bytes = wire(&packet, version);
        // The length stays right: what is read after a wrong one depends on how the bytes arrive.
        let header = 1 + bytes[1..].iter().take_while(|byte| **byte & 0x80 != 0).count() + 1;
        if bytes.len() == header {
            return Ok(());
        }
        for (at, byte) in edits {
            let at = at.index(bytes.len() - header);
            bytes[header + at] = byte;
        }
        let ours = decode_one(our_options(receiver, version, &bytes), &bytes);
        // A CONNECT of another version is read by us as what it says it is.
        if matches!(&ours, Ok(Packet::Connect(connect)) if connect.version != version) {
            return Ok(());
        }
        // A PUBLISH whose fields are longer than the packet underflows in ntex-mqtt: a panic is its refusal.
        let theirs = catch_unwind(AssertUnwindSafe(|| ntex_decode(version, &bytes))).unwrap_or(None);
        match (ours, theirs) {
            (Ok(ours), Some(theirs)) => prop_assert_eq!(theirs, as_ntex_says(ours)),
            (Ok(ours), None) => prop_assert!(ntex_refuses(&ours), "only ntex-mqtt refuses {:02x?}: {:?}", bytes, ours),
            (Err(violation), Some(theirs)) => prop_assert!(
                ntex_does_not_see(version, violation),
                "{} says {:02x?}, and ntex-mqtt reads {:?}", violation, bytes, theirs
            ),
            (Err(_), None) => {}
        }
    }
}
