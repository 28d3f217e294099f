//! Bytes and packets side by side, both ways: what is decoded from the bytes is the packet, and what is encoded from
//! the packet is the bytes. The bytes are written by hand from the specification.

use std::num::{NonZeroU16, NonZeroU32};

use bytes::{Bytes, BytesMut};
use mqtt_codec::{Role::*, Version::*, *};

use crate::bytes_text::{bytes_of, decode_one, options};

/// Both ways.
fn both(receiver: Role, version: Version, text: &str, packet: Packet) {
    let bytes = bytes_of(text);
    let options = match packet {
        Packet::Connect(_) => DecoderOptions { strict: true, ..DecoderOptions::default() },
        _ => DecoderOptions { strict: true, ..options(receiver, version) },
    };
    assert_eq!(decode_one(options, &bytes), Ok(packet.clone()), "{text}");
    encoded(version, &packet, text);
}

/// Encoding only: what is written differs from what it is read as.
fn encoded(version: Version, packet: &Packet, text: &str) {
    let mut out = BytesMut::new();
    encode(packet, version, &mut out).unwrap();
    assert_eq!(out, bytes_of(text), "{text}: {out:02x?}");
}

fn id(value: u16) -> PacketId {
    PacketId::new(value).unwrap()
}

fn ack(value: u16, reason: ReasonCode) -> Ack {
    Ack::new(id(value), reason)
}

fn because(text: &'static str) -> Option<Box<ReasonProperties>> {
    Some(Box::new(ReasonProperties { reason_string: Some(text.into()), user_properties: Vec::new() }))
}

fn plain_connect(version: Version, client_id: &'static str) -> Connect {
    Connect {
        version,
        bridge: false,
        clean_start: true,
        keep_alive_s: 60,
        client_id: client_id.into(),
        will: None,
        username: None,
        password: None,
        properties: ConnectProperties::default(),
    }
}

fn plain_publish(topic: &'static str, payload: &'static str) -> Publish {
    Publish {
        dup: false,
        delivery: Delivery::AtMostOnce,
        retain: false,
        topic: PublishTopic::Name(TopicName::new(topic).unwrap()),
        subscription_ids: Vec::new(),
        properties: None,
        payload: Bytes::from_static(payload.as_bytes()),
    }
}

fn entry(filter: &'static str, options: SubscriptionOptions) -> SubscribeEntry {
    SubscribeEntry { filter: TopicFilter::new(filter).map_err(|_| filter.into()), options }
}

fn at(qos: QoS) -> SubscriptionOptions {
    SubscriptionOptions { qos, ..SubscriptionOptions::default() }
}

/// [MQTT-3.1.3-1]
#[test]
fn connect_of_3_1_and_3_1_1() {
    let check = |version, text, connect| both(Server, version, text, Packet::Connect(Box::new(connect)));
    check(V31, "10 {s'MQIsdp' 03 02 003C s'modem'}", plain_connect(V31, "modem"));
    check(V311, "10 {s'MQTT' 04 02 003C s''}", plain_connect(V311, ""));
    check(V311, "10 {s'MQTT' 84 02 003C s'b'}", Connect { bridge: true, ..plain_connect(V311, "b") });
    check(V31, "10 {s'MQIsdp' 83 02 003C s'b'}", Connect { bridge: true, ..plain_connect(V31, "b") });
    let will = Will {
        topic: TopicName::new("tele/LWT").unwrap(),
        payload: Bytes::from_static(b"Offline"),
        qos: QoS::AtLeastOnce,
        retain: true,
        delay_interval_s: 0,
        properties: None,
    };
    let connect = Connect {
        clean_start: false,
        keep_alive_s: 30,
        will: Some(Box::new(will)),
        username: Some("me".into()),
        password: Some(Secret::from(&b"pw"[..])),
        ..plain_connect(V311, "tasmota")
    };
    check(V311, "10 {s'MQTT' 04 EC 001E s'tasmota' s'tele/LWT' s'Offline' s'me' s'pw'}", connect);
    let anonymous =
        Connect { username: Some("".into()), password: Some(Secret::from(Vec::new())), ..plain_connect(V311, "c") };
    check(V311, "10 {s'MQTT' 04 C2 003C s'c' s'' s''}", anonymous);
}

/// [MQTT-3.1.3-1]
#[test]
fn connect_of_5() {
    let check = |text, connect| both(Server, V5, text, Packet::Connect(Box::new(connect)));
    check("10 {s'MQTT' 05 02 003C {} s'c'}", plain_connect(V5, "c"));
    let token = Connect { password: Some(Secret::from(&b"jwt"[..])), ..plain_connect(V5, "c") };
    check("10 {s'MQTT' 05 42 003C {} s'c' s'jwt'}", token);
    let properties = ConnectProperties {
        session_expiry_interval_s: Some(u32::MAX),
        receive_maximum: NonZeroU16::new(20),
        maximum_packet_size: NonZeroU32::new(256),
        topic_alias_maximum: 10,
        request_response_information: true,
        request_problem_information: Some(false),
        user_properties: vec![("a".into(), "1".into()), ("a".into(), "2".into())],
        authentication_method: Some("NATS-NKEY".into()),
        authentication_data: Some(Secret::from(&[0, 1][..])),
    };
    check(
        "10 {s'MQTT' 05 02 003C {11 FFFFFFFF 21 0014 27 00000100 22 000A 19 01 17 00 26 s'a' s'1' 26 s'a' s'2' \
         15 s'NATS-NKEY' 16 0002 0001} s'c'}",
        Connect { properties, ..plain_connect(V5, "c") },
    );
    let message = MessageProperties {
        message_expiry_interval_s: Some(0),
        payload_is_utf8: Some(true),
        content_type: Some("text".into()),
        response_topic: Some(TopicName::new("r/1").unwrap()),
        correlation_data: Some(Bytes::from_static(&[7])),
        user_properties: vec![("k".into(), "v".into())],
    };
    let will = Will {
        topic: TopicName::new("w").unwrap(),
        payload: Bytes::new(),
        qos: QoS::ExactlyOnce,
        retain: false,
        delay_interval_s: 5,
        properties: Some(Box::new(message)),
    };
    check(
        "10 {s'MQTT' 05 16 003C {} s'c' {18 00000005 02 00000000 01 01 03 s'text' 08 s'r/1' 09 0001 07 26 s'k' s'v'} \
         s'w' s''}",
        Connect { will: Some(Box::new(will)), ..plain_connect(V5, "c") },
    );
}

/// [MQTT-2.2.2-1]
#[test]
fn connack() {
    let check = |version, text, session_present, reason| {
        let properties = ConnAckProperties::default();
        both(Client, version, text, Packet::ConnAck(Box::new(ConnAck { session_present, reason, properties })));
    };
    check(V31, "20 02 00 00", false, ReasonCode::Success);
    check(V311, "20 02 01 00", true, ReasonCode::Success);
    check(V311, "20 02 00 05", false, ReasonCode::NotAuthorized);
    check(V311, "20 02 00 02", false, ReasonCode::ClientIdentifierNotValid);
    check(V5, "20 03 00 87 00", false, ReasonCode::NotAuthorized);
    let properties = ConnAckProperties {
        session_expiry_interval_s: Some(3600),
        receive_maximum: NonZeroU16::new(128),
        maximum_qos: Some(QoS::AtLeastOnce),
        retain_available: Some(true),
        maximum_packet_size: NonZeroU32::new(1_048_576),
        assigned_client_id: Some("auto-1".into()),
        topic_alias_maximum: Some(32),
        reason_string: Some("hi".into()),
        user_properties: vec![("n".into(), "1".into())],
        wildcard_subscription_available: Some(true),
        subscription_identifiers_available: Some(false),
        shared_subscription_available: Some(true),
        server_keep_alive_s: Some(300),
        response_information: Some("r/".into()),
        server_reference: Some("b:1883".into()),
        authentication_method: Some("M".into()),
        authentication_data: Some(Bytes::from_static(&[1])),
    };
    let connack = ConnAck { session_present: true, reason: ReasonCode::Success, properties };
    both(
        Client,
        V5,
        "20 {01 00 {11 00000E10 21 0080 24 01 25 01 27 00100000 12 s'auto-1' 22 0020 1F s'hi' 26 s'n' s'1' 28 01 29 00 \
         2A 01 13 012C 1A s'r/' 1C s'b:1883' 15 s'M' 16 0001 01}}",
        Packet::ConnAck(Box::new(connack)),
    );
}

#[test]
fn connack_says_less_where_the_version_knows_less() {
    let packet = |session_present, reason| {
        Packet::ConnAck(Box::new(ConnAck { session_present, reason, properties: ConnAckProperties::default() }))
    };
    // 3.1 has no Session Present, and a refusal never has it [MQTT-3.2.2-6].
    encoded(V31, &packet(true, ReasonCode::Success), "20 02 00 00");
    encoded(V311, &packet(true, ReasonCode::NotAuthorized), "20 02 00 05");
    encoded(V5, &packet(true, ReasonCode::NotAuthorized), "20 03 00 87 00");
    encoded(V311, &packet(false, ReasonCode::UnsupportedProtocolVersion), "20 02 00 01");
    encoded(V311, &packet(false, ReasonCode::ServerBusy), "20 02 00 03");
    encoded(V31, &packet(false, ReasonCode::BadAuthenticationMethod), "20 02 00 04");
}

/// [MQTT-2.2.1-2], [MQTT-2.2.2-1], [MQTT-3.3.2-1]
#[test]
fn publish() {
    let check = |version, text, publish| both(Server, version, text, Packet::Publish(publish));
    check(V311, "30 {s'a/b' 'hello'}", plain_publish("a/b", "hello"));
    check(V311, "31 {s'a/b'}", Publish { retain: true, ..plain_publish("a/b", "") });
    let again = Publish { dup: true, delivery: Delivery::AtLeastOnce(id(10)), ..plain_publish("a/b", "x") };
    check(V31, "3A {s'a/b' 000A 'x'}", again);
    let twice = Publish { delivery: Delivery::ExactlyOnce(id(65535)), retain: true, ..plain_publish("/", "x") };
    check(V311, "35 {s'/' FFFF 'x'}", twice.clone());
    check(V5, "35 {s'/' FFFF {} 'x'}", twice);
    let name = TopicName::new("t").unwrap();
    let alias = NonZeroU16::new(3).unwrap();
    let define = Publish { topic: PublishTopic::Define(name, alias), ..plain_publish("t", "x") };
    check(V5, "30 {s't' {23 0003} 'x'}", define);
    let by_alias = Publish { topic: PublishTopic::Alias(alias), ..plain_publish("t", "x") };
    check(V5, "30 {s'' {23 0003} 'x'}", by_alias);
    let properties = MessageProperties { message_expiry_interval_s: Some(60), ..MessageProperties::default() };
    let expiring = Publish { properties: Some(Box::new(properties)), ..plain_publish("t", "x") };
    check(V5, "30 {s't' {02 0000003C} 'x'}", expiring);
    let ids = [1, 268_435_455].map(|id| NonZeroU32::new(id).unwrap());
    let identified = Publish { subscription_ids: ids.to_vec(), ..plain_publish("t", "x") };
    both(Client, V5, "30 {s't' {0B 01 0B FFFFFF7F} 'x'}", Packet::Publish(identified));
}

/// [MQTT-1.5.4-3]
#[test]
fn a_byte_order_mark_is_a_character_wherever_it_stands() {
    for topic in ["\u{FEFF}a", "a\u{FEFF}", "\u{FEFF}"] {
        let hex: String = topic.bytes().map(|byte| format!("{byte:02X}")).collect();
        let text = format!("30 {{00{:02X} {hex} 'x'}}", topic.len());
        both(Server, V311, &text, Packet::Publish(plain_publish(topic, "x")));
    }
}

#[test]
fn acknowledgements_in_their_short_and_long_forms() {
    for version in [V31, V311, V5] {
        both(Server, version, "40 02 0007", Packet::PubAck(ack(7, ReasonCode::Success)));
        both(Server, version, "50 02 0007", Packet::PubRec(ack(7, ReasonCode::Success)));
        both(Server, version, "62 02 0007", Packet::PubRel(ack(7, ReasonCode::Success)));
        both(Server, version, "70 02 0007", Packet::PubComp(ack(7, ReasonCode::Success)));
    }
    both(Server, V5, "40 03 0007 10", Packet::PubAck(ack(7, ReasonCode::NoMatchingSubscribers)));
    both(Server, V5, "62 03 0007 92", Packet::PubRel(ack(7, ReasonCode::PacketIdentifierNotFound)));
    let no = Ack { properties: because("no"), ..ack(7, ReasonCode::NotAuthorized) };
    both(Server, V5, "50 {0007 87 {1F s'no'}}", Packet::PubRec(no.clone()));
    encoded(V311, &Packet::PubRec(no), "50 02 0007");
    let fine = Ack { properties: because("ok"), ..ack(7, ReasonCode::Success) };
    both(Server, V5, "70 {0007 00 {1F s'ok'}}", Packet::PubComp(fine));
}

#[test]
fn subscribe_and_suback() {
    let three = vec![
        entry("a/#", at(QoS::ExactlyOnce)),
        entry("+", at(QoS::AtMostOnce)),
        entry("$share/g/f", at(QoS::AtLeastOnce)),
    ];
    let packet = |entries| Subscribe { packet_id: id(1), subscription_id: None, user_properties: Vec::new(), entries };
    both(Server, V311, "82 {0001 s'a/#' 02 s'+' 00 s'$share/g/f' 01}", Packet::Subscribe(packet(three)));
    let options = SubscriptionOptions {
        qos: QoS::AtLeastOnce,
        no_local: true,
        retain_as_published: true,
        retain_handling: RetainHandling::DoNotSend,
    };
    let v5 = Subscribe {
        subscription_id: NonZeroU32::new(5),
        user_properties: vec![("k".into(), "v".into())],
        ..packet(vec![entry("a", options)])
    };
    both(Server, V5, "82 {0001 {0B 05 26 s'k' s'v'} s'a' 2D}", Packet::Subscribe(v5.clone()));
    encoded(V31, &Packet::Subscribe(v5), "82 {0001 s'a' 01}");

    let reasons = vec![ReasonCode::GrantedQoS2, ReasonCode::Success, ReasonCode::UnspecifiedError];
    let suback = SubAck { packet_id: id(1), reasons, properties: None };
    both(Client, V311, "90 {0001 02 00 80}", Packet::SubAck(suback.clone()));
    both(Client, V5, "90 {0001 {} 02 00 80}", Packet::SubAck(suback));
    let denied = SubAck { packet_id: id(1), reasons: vec![ReasonCode::NotAuthorized], properties: because("no") };
    both(Client, V5, "90 {0001 {1F s'no'} 87}", Packet::SubAck(denied.clone()));
    // [MQTT-3.9.3-2 of 3.1.1]
    encoded(V31, &Packet::SubAck(denied.clone()), "90 {0001 80}");
    encoded(V311, &Packet::SubAck(denied), "90 {0001 80}");
}

#[test]
fn unsubscribe_and_unsuback() {
    let unsubscribe = Unsubscribe {
        packet_id: id(2),
        user_properties: Vec::new(),
        filters: vec![Ok(TopicFilter::new("a").unwrap()), Ok(TopicFilter::new("+/b").unwrap())],
    };
    both(Server, V311, "A2 {0002 s'a' s'+/b'}", Packet::Unsubscribe(unsubscribe.clone()));
    both(Server, V5, "A2 {0002 {} s'a' s'+/b'}", Packet::Unsubscribe(unsubscribe));
    let reasons = vec![ReasonCode::Success, ReasonCode::NoSubscriptionExisted];
    let unsuback = SubAck { packet_id: id(2), reasons, properties: None };
    both(Client, V5, "B0 {0002 {} 00 11}", Packet::UnsubAck(unsuback.clone()));
    encoded(V311, &Packet::UnsubAck(unsuback), "B0 02 0002");
    let bare = SubAck { packet_id: id(2), reasons: Vec::new(), properties: None };
    both(Client, V31, "B0 02 0002", Packet::UnsubAck(bare));
}

#[test]
fn ping_disconnect_and_auth() {
    both(Server, V31, "C0 00", Packet::PingReq);
    both(Client, V5, "D0 00", Packet::PingResp);
    for version in [V31, V311, V5] {
        both(Server, version, "E0 00", Packet::Disconnect(Disconnect::new(ReasonCode::Success)));
    }
    both(Server, V5, "E0 01 04", Packet::Disconnect(Disconnect::new(ReasonCode::DisconnectWithWill)));
    let later = Disconnect { session_expiry_interval_s: Some(9), ..Disconnect::new(ReasonCode::Success) };
    both(Server, V5, "E0 {00 {11 00000009}}", Packet::Disconnect(later));
    let moved = Disconnect {
        server_reference: Some("other".into()),
        properties: because("go"),
        ..Disconnect::new(ReasonCode::UseAnotherServer)
    };
    both(Client, V5, "E0 {9C {1C s'other' 1F s'go'}}", Packet::Disconnect(moved));
    let auth = Auth {
        reason: ReasonCode::ContinueAuthentication,
        authentication_method: Some("NATS-NKEY".into()),
        authentication_data: Some(Secret::from(&[1, 2][..])),
        properties: None,
    };
    both(Server, V5, "F0 {18 {15 s'NATS-NKEY' 16 0002 0102}}", Packet::Auth(auth.clone()));
    both(Client, V5, "F0 {18 {15 s'NATS-NKEY' 16 0002 0102}}", Packet::Auth(auth));
    let success =
        Auth { reason: ReasonCode::Success, authentication_method: None, authentication_data: None, properties: None };
    both(Client, V5, "F0 00", Packet::Auth(success));
}

#[test]
fn forms_that_are_longer_than_needed_are_read_too() {
    let same = |receiver, text: &str, packet| {
        let options = DecoderOptions { strict: true, ..options(receiver, V5) };
        assert_eq!(decode_one(options, &bytes_of(text)), Ok(packet), "{text}");
    };
    same(Server, "40 03 0007 00", Packet::PubAck(ack(7, ReasonCode::Success)));
    same(Server, "40 04 0007 00 00", Packet::PubAck(ack(7, ReasonCode::Success)));
    same(Server, "E0 01 00", Packet::Disconnect(Disconnect::new(ReasonCode::Success)));
    same(Server, "E0 02 00 00", Packet::Disconnect(Disconnect::new(ReasonCode::Success)));
}
