//! Sizes and levels: refused before anything is buffered, and never exceeded when encoding.

use bytes::{Bytes, BytesMut};
use mqtt_codec::{Role::*, Version::*, *};

use crate::bytes_text::{bytes_of, decode_one, options};

#[test]
fn a_packet_that_is_too_large_is_refused_from_its_fixed_header() {
    let limited = DecoderOptions { max_packet_size: 100, ..options(Server, V5) };
    // 98 bytes and a fixed header of two are what may come; nothing of the packet itself has arrived yet.
    assert_eq!(Decoder::new(limited).decode(&mut BytesMut::from(&[0x30, 98][..])), Ok(None));
    let too_large = Err(Violation::PacketTooLarge { size: 101, limit: 100 });
    assert_eq!(Decoder::new(limited).decode(&mut BytesMut::from(&[0x30, 99][..])), too_large);
    let huge = Decoder::new(limited).decode(&mut BytesMut::from(&[0x30, 0xFF, 0xFF, 0xFF, 0x7F][..]));
    assert_eq!(huge, Err(Violation::PacketTooLarge { size: 268_435_460, limit: 100 }));
}

#[test]
fn the_limit_can_change_within_a_connection() {
    let mut decoder = Decoder::new(options(Server, V311));
    decoder.set_max_packet_size(4);
    let mut buf = BytesMut::from(&bytes_of("C0 00 30 {s'ab' 'x'}")[..]);
    assert_eq!(decoder.decode(&mut buf), Ok(Some(Packet::PingReq)));
    assert_eq!(decoder.decode(&mut buf), Err(Violation::PacketTooLarge { size: 7, limit: 4 }));
}

#[test]
fn a_connect_has_a_limit_of_its_own() {
    let generous = DecoderOptions { max_packet_size: u32::MAX, ..DecoderOptions::default() };
    let mut header = BytesMut::from(&[0x10, 0xFF, 0xFF, 0xFF, 0x7F][..]);
    let refused = Decoder::new(generous).decode(&mut header);
    assert_eq!(refused, Err(Violation::PacketTooLarge { size: 268_435_460, limit: CONNECT_SIZE_MAX }));

    // A password and a will as long as they can be are no reason to refuse.
    let will = Will {
        topic: TopicName::new("w").unwrap(),
        payload: Bytes::from(vec![b'w'; 65_535]),
        qos: QoS::AtMostOnce,
        retain: false,
        delay_interval_s: 0,
        properties: None,
    };
    let connect = Packet::Connect(Box::new(Connect {
        version: V311,
        bridge: false,
        clean_start: true,
        keep_alive_s: 0,
        client_id: "c".into(),
        will: Some(Box::new(will)),
        username: Some("u".into()),
        password: Some(Secret::from(vec![b'p'; 65_535])),
        properties: ConnectProperties::default(),
    }));
    let mut out = BytesMut::new();
    encode(&connect, V311, &mut out).unwrap();
    assert_eq!(Decoder::new(generous).decode(&mut out), Ok(Some(connect)));
}

#[test]
fn topics_with_too_many_levels_are_refused_and_filters_are_not_valid() {
    let limited = DecoderOptions { max_topic_levels: 3, ..options(Server, V311) };
    assert!(decode_one(limited, &bytes_of("30 {s'a/b/c'}")).is_ok());
    assert_eq!(decode_one(limited, &bytes_of("30 {s'a/b/c/'}")), Err(Violation::TopicLevels(3)));
    let filters = |text| match decode_one(limited, &bytes_of(text)) {
        Ok(Packet::Unsubscribe(unsubscribe)) => unsubscribe.filters[0].is_ok(),
        other => panic!("{other:?}"),
    };
    assert!(filters("A2 {0001 s'a/b/#'}"));
    assert!(!filters("A2 {0001 s'a/b/c/d'}"));
    assert!(filters("A2 {0001 s'$share/g/a/b/c'}"), "the share name does not count");
}

fn long_ack() -> Packet {
    let properties =
        ReasonProperties { reason_string: Some("because".into()), user_properties: vec![("k".into(), "v".into())] };
    let packet_id = PacketId::new(1).unwrap();
    Packet::PubAck(Ack { packet_id, reason: ReasonCode::NotAuthorized, properties: Some(Box::new(properties)) })
}

/// [MQTT-3.4.2-2, -3]
#[test]
fn user_properties_and_then_the_reason_string_are_left_out_of_what_is_too_large() {
    let full = bytes_of("40 {0001 87 {1F s'because' 26 s'k' s'v'}}");
    let without_user_properties = bytes_of("40 {0001 87 {1F s'because'}}");
    let bare = bytes_of("40 {0001 87}");
    for max in 0..40 {
        let mut out = BytesMut::new();
        let result = encode_limited(&long_ack(), V5, u32::try_from(max).unwrap(), &mut out);
        let expected = [&full, &without_user_properties, &bare].into_iter().find(|form| form.len() <= max);
        match expected {
            Some(expected) => assert_eq!(&out[..], expected, "{max}"),
            None => assert_eq!(result, Err(EncodeError::PacketTooLarge { size: 5, limit: max })),
        }
        assert_eq!(result.is_ok(), expected.is_some());
    }
}

/// [MQTT-3.2.2-19, -20], [MQTT-3.4.2-2, -3], [MQTT-3.5.2-2, -3], [MQTT-3.6.2-2, -3], [MQTT-3.7.2-2, -3], [MQTT-3.9.2-1, -2],
/// [MQTT-3.11.2-1, -2], [MQTT-3.14.2-3, -4], [MQTT-3.15.2-2, -3]
#[test]
fn every_packet_that_carries_a_reason_string_can_do_without() {
    let (reason_string, user_properties) = (Some("because".into()), vec![("k".into(), "v".into())]);
    let reasons = ReasonProperties { reason_string: reason_string.clone(), user_properties: user_properties.clone() };
    let properties = Some(Box::new(reasons));
    let packet_id = PacketId::new(1).unwrap();
    let ack = |reason| Ack { packet_id, reason, properties: properties.clone() };
    let suback = SubAck { packet_id, reasons: vec![ReasonCode::Success], properties: properties.clone() };
    let connack = ConnAckProperties { reason_string, user_properties, ..ConnAckProperties::default() };
    let auth = Auth {
        reason: ReasonCode::ContinueAuthentication,
        authentication_method: Some("M".into()),
        authentication_data: None,
        properties: properties.clone(),
    };
    let disconnect = Disconnect { properties: properties.clone(), ..Disconnect::new(ReasonCode::ServerBusy) };
    let refused = ConnAck { session_present: false, reason: ReasonCode::Banned, properties: connack };
    // With the Reason String, and without.
    let cases = [
        (Packet::PubAck(ack(ReasonCode::NotAuthorized)), "40 {0001 87 {1F s'because'}}", "40 {0001 87}"),
        (Packet::PubRec(ack(ReasonCode::NotAuthorized)), "50 {0001 87 {1F s'because'}}", "50 {0001 87}"),
        (Packet::PubRel(ack(ReasonCode::PacketIdentifierNotFound)), "62 {0001 92 {1F s'because'}}", "62 {0001 92}"),
        (Packet::PubComp(ack(ReasonCode::PacketIdentifierNotFound)), "70 {0001 92 {1F s'because'}}", "70 {0001 92}"),
        (Packet::SubAck(suback.clone()), "90 {0001 {1F s'because'} 00}", "90 {0001 {} 00}"),
        (Packet::UnsubAck(suback), "B0 {0001 {1F s'because'} 00}", "B0 {0001 {} 00}"),
        (Packet::Disconnect(disconnect), "E0 {89 {1F s'because'}}", "E0 01 89"),
        (Packet::ConnAck(Box::new(refused)), "20 {00 8A {1F s'because'}}", "20 {00 8A {}}"),
        (Packet::Auth(auth), "F0 {18 {15 s'M' 1F s'because'}}", "F0 {18 {15 s'M'}}"),
    ];
    for (packet, long, short) in cases {
        let whole = encoded_len(&packet, V5).unwrap();
        for (expected, up_to) in [(bytes_of(long), whole), (bytes_of(short), bytes_of(long).len())] {
            for limit in expected.len()..up_to {
                let mut out = BytesMut::new();
                encode_limited(&packet, V5, u32::try_from(limit).unwrap(), &mut out).unwrap();
                assert_eq!(out, expected, "{packet:?} in {limit} bytes");
            }
        }
    }
}

#[test]
fn a_publish_is_written_whole_or_not_at_all() {
    let publish = Packet::Publish(Publish {
        dup: false,
        delivery: Delivery::AtMostOnce,
        retain: false,
        topic: PublishTopic::Name(TopicName::new("a").unwrap()),
        subscription_ids: Vec::new(),
        properties: Some(Box::new(MessageProperties {
            user_properties: vec![("k".into(), "v".into())],
            ..MessageProperties::default()
        })),
        payload: Bytes::from_static(b"x"),
    });
    let len = encoded_len(&publish, V5).unwrap();
    let mut out = BytesMut::from(&b"before"[..]);
    let limit = u32::try_from(len - 1).unwrap();
    let too_large = Err(EncodeError::PacketTooLarge { size: len, limit: len - 1 });
    assert_eq!(encode_limited(&publish, V5, limit, &mut out), too_large);
    assert_eq!(out, &b"before"[..]);
    encode_limited(&publish, V5, limit + 1, &mut out).unwrap();
    assert_eq!(out.len(), 6 + len);
}

#[test]
fn what_cannot_be_written_is_an_error_and_writes_nothing() {
    let packet_id = PacketId::new(1).unwrap();
    let text =
        |text: &str| Some(Box::new(ReasonProperties { reason_string: Some(text.into()), user_properties: vec![] }));
    let ack = |properties| Packet::PubAck(Ack { packet_id, reason: ReasonCode::Success, properties });
    let subscribe = Subscribe { packet_id, subscription_id: None, user_properties: vec![], entries: vec![] };
    let auth = Auth {
        reason: ReasonCode::ReAuthenticate,
        authentication_method: None,
        authentication_data: None,
        properties: None,
    };
    let by_alias = Publish {
        dup: false,
        delivery: Delivery::AtMostOnce,
        retain: false,
        topic: PublishTopic::Alias(1.try_into().unwrap()),
        subscription_ids: Vec::new(),
        properties: None,
        payload: Bytes::new(),
    };
    let not_in = |packet| EncodeError::NotInVersion { packet, version: V311 };
    let cases = [
        (ack(text(&"x".repeat(65_536))), V5, EncodeError::FieldTooLong),
        (ack(text("a\0b")), V5, EncodeError::NullCharacter),
        (Packet::Subscribe(subscribe), V5, EncodeError::Empty(PacketType::Subscribe)),
        (Packet::Auth(auth), V311, not_in(PacketType::Auth)),
        (Packet::Publish(by_alias), V311, not_in(PacketType::Publish)),
        (
            Packet::SubAck(SubAck { packet_id, reasons: vec![], properties: None }),
            V311,
            EncodeError::Empty(PacketType::SubAck),
        ),
    ];
    for (packet, version, error) in cases {
        let mut out = BytesMut::new();
        assert_eq!(encode(&packet, version, &mut out), Err(error), "{packet:?}");
        assert!(out.is_empty());
    }
}
