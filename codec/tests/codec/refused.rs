//! What is refused, each by its clause, and what only strict mode refuses. One line a case.

use mqtt_codec::{Role::*, Version::*, *};

use crate::bytes_text::{bytes_of, decode_one, options};

fn refused(receiver: Role, version: Version, cases: &[(&str, Violation)]) {
    for (text, violation) in cases {
        let result = decode_one(options(receiver, version), &bytes_of(text));
        assert_eq!(result, Err(*violation), "{text} in {version}");
    }
}

/// The first packet of a connection.
fn first(strict: bool, text: &str) -> Result<Packet, Violation> {
    decode_one(DecoderOptions { strict, ..DecoderOptions::default() }, &bytes_of(text))
}

fn refused_first(cases: &[(&str, Violation)]) {
    for (text, violation) in cases {
        assert_eq!(first(false, text), Err(*violation), "{text}");
    }
}

/// Lenient mode takes it; strict mode says what is wrong.
fn strict_only(version: Version, cases: &[(&str, Violation)]) {
    for (text, violation) in cases {
        let (lenient, strict) = if text.starts_with("10") {
            (first(false, text), first(true, text))
        } else {
            let options = options(Server, version);
            let bytes = bytes_of(text);
            (decode_one(options, &bytes), decode_one(DecoderOptions { strict: true, ..options }, &bytes))
        };
        assert!(lenient.is_ok(), "{text} in {version}: {lenient:?}");
        assert_eq!(strict, Err(*violation), "{text} in {version}");
    }
}

/// [MQTT-2.1.3-1], [MQTT-1.5.5-1], [MQTT-3.1.0-2], [MQTT-3.3.1-4], [MQTT-3.6.1-1], [MQTT-3.8.1-1], [MQTT-3.10.1-1],
/// [MQTT-3.14.1-1], [MQTT-3.15.1-1], and packets of the wrong direction.
#[test]
fn fixed_headers() {
    for version in [V311, V5] {
        refused(
            Server,
            version,
            &[
                ("00 00", Violation::ReservedPacketType(0)),
                ("10 {s'MQTT' 04 02 003C s'c'}", Violation::SecondConnect),
                ("36 {s'a' 0001}", Violation::PublishQoS),
                ("41 02 0001", Violation::ReservedFlags { packet: PacketType::PubAck, flags: 1 }),
                ("60 02 0001", Violation::ReservedFlags { packet: PacketType::PubRel, flags: 0 }),
                ("6A 02 0001", Violation::ReservedFlags { packet: PacketType::PubRel, flags: 10 }),
                ("80 {0001 s'a' 00}", Violation::ReservedFlags { packet: PacketType::Subscribe, flags: 0 }),
                ("A0 {0001 s'a'}", Violation::ReservedFlags { packet: PacketType::Unsubscribe, flags: 0 }),
                ("C1 00", Violation::ReservedFlags { packet: PacketType::PingReq, flags: 1 }),
                ("E8 00", Violation::ReservedFlags { packet: PacketType::Disconnect, flags: 8 }),
                ("C0 8000", Violation::VariableByteInteger),
                ("C0 80808000", Violation::VariableByteInteger),
                ("C0 FFFFFFFF", Violation::VariableByteInteger),
                ("C0 FFFFFFFF01", Violation::VariableByteInteger),
                ("C0 01 00", Violation::TrailingBytes(PacketType::PingReq)),
                ("20 02 0000", Violation::WrongDirection(PacketType::ConnAck)),
                ("90 {0001 00}", Violation::WrongDirection(PacketType::SubAck)),
                ("B0 02 0001", Violation::WrongDirection(PacketType::UnsubAck)),
                ("D0 00", Violation::WrongDirection(PacketType::PingResp)),
            ],
        );
        refused(
            Client,
            version,
            &[
                ("10 00", Violation::WrongDirection(PacketType::Connect)),
                ("82 00", Violation::WrongDirection(PacketType::Subscribe)),
                ("A2 00", Violation::WrongDirection(PacketType::Unsubscribe)),
                ("C0 00", Violation::WrongDirection(PacketType::PingReq)),
            ],
        );
    }
    refused(Server, V5, &[("F2 00", Violation::ReservedFlags { packet: PacketType::Auth, flags: 2 })]);
    refused(Server, V311, &[("F0 00", Violation::ReservedPacketType(15))]);
    refused(Client, V311, &[("E0 00", Violation::WrongDirection(PacketType::Disconnect))]);
}

/// [MQTT-3.1.0-1]
#[test]
fn the_first_packet() {
    refused_first(&[
        ("C0 00", Violation::FirstPacketNotConnect(0xC0)),
        ("00", Violation::FirstPacketNotConnect(0)),
        ("F0 00", Violation::FirstPacketNotConnect(0xF0)),
        ("11 00", Violation::FirstPacketNotConnect(0x11)),
        ("21 00", Violation::FirstPacketNotConnect(0x21)),
        ("'GET / HTTP/1.1'", Violation::HttpRequest),
        ("'POST /mqtt HTTP/1.1'", Violation::HttpRequest),
        ("'GETTER'", Violation::FirstPacketNotConnect(b'G')),
        ("16 03 01 0200 01", Violation::TlsClientHello),
        ("16 04", Violation::FirstPacketNotConnect(0x16)),
        ("1F 0D", Violation::FirstPacketNotConnect(0x1F)),
        // Flags mean something in none of them, and 3.1 only lets them be.
        ("11 {s'MQTT' 04 02 003C s'cc'}", Violation::ReservedFlags { packet: PacketType::Connect, flags: 1 }),
        ("1F {s'MQTT' 05 02 003C {} s'c'}", Violation::ReservedFlags { packet: PacketType::Connect, flags: 15 }),
    ]);
}

/// [MQTT-3.1.2-1], [MQTT-3.1.2-2], [MQTT-3.1.2-2 of 3.1.1]
#[test]
fn protocol_names_and_levels() {
    refused_first(&[
        ("10 {s'MQTT' 06 02 003C {} s'c'}", Violation::ProtocolLevel(6)),
        ("10 {s'MQTT' 03 02 003C s'c'}", Violation::ProtocolLevel(3)),
        ("10 {s'MQTT' 85 02 003C {} s'c'}", Violation::ProtocolLevel(0x85)),
        ("10 {s'MQIsdp' 04 02 003C s'c'}", Violation::ProtocolLevel(4)),
        ("10 {s'mqtt' 04 02 003C s'c'}", Violation::ProtocolName),
        ("10 {s'' 04 02 003C s'c'}", Violation::ProtocolName),
        ("10 {s'MQTT'}", Violation::Truncated(PacketType::Connect)),
    ]);
    // The answer has to be one that the client understands: 0x84 in the shape of 5, or return code 1.
    let shapes = [(6, Some(V5)), (0x85, Some(V5)), (3, Some(V311)), (0, Some(V311))];
    for (level, shape) in shapes {
        let violation = Violation::ProtocolLevel(level);
        assert_eq!(violation.connack_version(), shape);
        assert_eq!(violation.reason_code().connect_return_code(), 1);
    }
    assert_eq!(Violation::ProtocolName.connack_version(), None);
}

/// [MQTT-3.1.2-2], [MQTT-3.1.2-2 of 3.1.1]
#[test]
fn versions_that_are_not_spoken_are_levels_that_are_not_supported() {
    let connects = [
        (V31, "10 {s'MQIsdp' 03 02 003C s'c'}", 3, V311),
        (V311, "10 {s'MQTT' 04 02 003C s'c'}", 4, V311),
        (V311, "10 {s'MQTT' 84 02 003C s'c'}", 0x84, V311),
        (V5, "10 {s'MQTT' 05 02 003C {} s'c'}", 5, V5),
    ];
    for spoken in [&[][..], &[V31], &[V311], &[V5], &[V31, V5], &[V31, V311, V5]] {
        let options = DecoderOptions { versions: spoken.iter().copied().collect(), ..DecoderOptions::default() };
        for (version, text, level, shape) in connects {
            let result = decode_one(options, &bytes_of(text));
            let violation = Violation::ProtocolLevel(level);
            assert_eq!(result.is_ok(), spoken.contains(&version), "{text} where {spoken:?} are spoken");
            assert!(result.is_ok() || result == Err(violation), "{text} where {spoken:?} are spoken: {result:?}");
            assert_eq!(violation.connack_version(), Some(shape));
        }
    }
}

/// [MQTT-3.1.2-3], [MQTT-3.1.2-9], [MQTT-3.1.2-11], [MQTT-3.1.2-12], [MQTT-3.1.2-13], [MQTT-3.1.2-16, -17, -18, -19],
/// [MQTT-3.1.2-22 of 3.1.1], [MQTT-3.1.3-3, -4], [MQTT-3.1.3-11, -12], [MQTT-1.5.4-1], [MQTT-1.5.4-2], and properties of
/// CONNECT and of the will that are doubled, misplaced or impossible.
#[test]
fn connects() {
    use PacketType::Connect;
    refused_first(&[
        ("10 {s'MQTT' 04 03 003C s'c'}", Violation::ConnectReservedFlag),
        ("10 {s'MQTT' 05 03 003C {} s'c'}", Violation::ConnectReservedFlag),
        ("10 {s'MQTT' 04 1E 003C s'c' s'w' s''}", Violation::WillQoS),
        ("10 {s'MQTT' 04 0A 003C s'c'}", Violation::WillFlags),
        ("10 {s'MQTT' 05 22 003C {} s'c'}", Violation::WillFlags),
        ("10 {s'MQTT' 04 42 003C s'c' s'pw'}", Violation::PasswordWithoutUserName),
        ("10 {s'MQIsdp' 03 42 003C s'c' s'pw'}", Violation::PasswordWithoutUserName),
        ("10 {s'MQTT' 04 C2 003C s'c' s'me'}", Violation::Truncated(Connect)),
        ("10 {s'MQTT' 04 06 003C s'c' s'' s''}", Violation::WillTopic(TopicError::Empty)),
        ("10 {s'MQTT' 04 06 003C s'c' s'a/#' s''}", Violation::WillTopic(TopicError::Wildcard)),
        ("10 {s'MQTT' 04 06 003C s'c' s'w'}", Violation::Truncated(Connect)),
        ("10 {s'MQTT' 04 02 003C 0001 00}", Violation::NullCharacter),
        ("10 {s'MQTT' 04 02 003C 0003 EDA080}", Violation::InvalidUtf8),
        ("10 {s'MQTT' 04 06 003C s'c' 0001 FF s''}", Violation::InvalidUtf8),
        ("10 {s'MQTT' 04 82 003C s'c' 0001 FF}", Violation::InvalidUtf8),
        ("10 {s'MQTT' 05 82 003C {} s'c'}", Violation::Truncated(Connect)),
        ("10 {s'MQTT' 05 42 003C {} s'c'}", Violation::Truncated(Connect)),
        ("10 {s'MQTT' 05 02 003C {}}", Violation::Truncated(Connect)),
        ("10 {s'MQTT' 05 02 003C {} s'c' s'me'}", Violation::TrailingBytes(Connect)),
        ("10 {s'MQTT' 05 82 003C {} s'c' s'me' s'pw'}", Violation::TrailingBytes(Connect)),
        ("10 {s'MQTT' 05 06 003C {} s'c' s'w' s''}", Violation::Truncated(Connect)),
        ("10 {s'MQTT' 05 02 003C {} s'c' 00}", Violation::TrailingBytes(Connect)),
        ("10 {s'MQTT' 05 02 003C {21 0000} s'c'}", Violation::PropertyValue(Property::ReceiveMaximum)),
        ("10 {s'MQTT' 05 02 003C {27 00000000} s'c'}", Violation::PropertyValue(Property::MaximumPacketSize)),
        ("10 {s'MQTT' 05 02 003C {17 02} s'c'}", Violation::PropertyValue(Property::RequestProblemInformation)),
        ("10 {s'MQTT' 05 02 003C {19 02} s'c'}", Violation::PropertyValue(Property::RequestResponseInformation)),
        ("10 {s'MQTT' 05 02 003C {11 00000001 11 00000001} s'c'}", duplicate(Property::SessionExpiryInterval)),
        ("10 {s'MQTT' 05 02 003C {23 0001} s'c'}", misplaced(Connect, Property::TopicAlias)),
        ("10 {s'MQTT' 05 02 003C {18 00000001} s'c'}", misplaced(Connect, Property::WillDelayInterval)),
        ("10 {s'MQTT' 05 02 003C {16 0000} s'c'}", Violation::AuthenticationMethodMissing(Connect)),
        ("10 {s'MQTT' 05 02 003C {7F} s'c'}", Violation::UnknownProperty(0x7F)),
        ("10 {s'MQTT' 05 02 003C {9100} s'c'}", Violation::VariableByteInteger),
        ("10 {s'MQTT' 05 02 003C {11 0000} s'c'}", Violation::Truncated(Connect)),
        ("10 {s'MQTT' 05 02 003C 7F}", Violation::Truncated(Connect)),
        ("10 {s'MQTT' 05 06 003C {} s'c' {11 00000001} s'w' s''}", misplaced(Connect, Property::SessionExpiryInterval)),
        (
            "10 {s'MQTT' 05 06 003C {} s'c' {01 02} s'w' s''}",
            Violation::PropertyValue(Property::PayloadFormatIndicator),
        ),
    ]);
}

fn duplicate(property: Property) -> Violation {
    Violation::DuplicateProperty(property)
}

fn misplaced(packet: PacketType, property: Property) -> Violation {
    Violation::PropertyNotAllowed { packet, property }
}

/// [MQTT-3.3.2-1], [MQTT-3.3.2-2], [MQTT-3.3.2-8], [MQTT-3.3.2-13, -14], [MQTT-3.3.2-19], [MQTT-3.3.4-6], [MQTT-2.2.1-3],
/// [MQTT-1.5.4-1], [MQTT-1.5.4-2], [MQTT-1.5.7-1]
#[test]
fn publishes() {
    use PacketType::Publish;
    refused(
        Server,
        V311,
        &[
            ("30 {s'' 'x'}", Violation::TopicMissing),
            ("30 {s'a/+' 'x'}", Violation::TopicName(TopicError::Wildcard)),
            ("30 {s'#' 'x'}", Violation::TopicName(TopicError::Wildcard)),
            ("30 {0003 6100 62 'x'}", Violation::NullCharacter),
            ("30 {0002 C328}", Violation::InvalidUtf8),
            ("30 {0005 6162}", Violation::Truncated(Publish)),
            ("30 01 00", Violation::Truncated(Publish)),
            ("32 {s'a' 0000}", Violation::PacketIdZero),
            ("32 {s'a' 00}", Violation::Truncated(Publish)),
        ],
    );
    refused(
        Server,
        V5,
        &[
            ("30 {s'' {} 'x'}", Violation::TopicMissing),
            ("30 {s'a'}", Violation::Truncated(Publish)),
            ("30 {s'a' {23 0000}}", Violation::TopicAliasZero),
            ("30 {s'a' {23 0001 23 0001}}", duplicate(Property::TopicAlias)),
            ("30 {s'a' {0B 01}}", Violation::SubscriptionIdFromClient),
            ("30 {s'a' {01 02}}", Violation::PropertyValue(Property::PayloadFormatIndicator)),
            ("30 {s'a' {02 00000001 02 00000001}}", duplicate(Property::MessageExpiryInterval)),
            ("30 {s'a' {08 s'r/+'}}", Violation::ResponseTopic(TopicError::Wildcard)),
            ("30 {s'a' {08 s''}}", Violation::ResponseTopic(TopicError::Empty)),
            ("30 {s'a' {08 0001 FF}}", Violation::InvalidUtf8),
            ("30 {s'a' {03 0001 FF}}", Violation::InvalidUtf8),
            ("30 {s'a' {03 0001 00}}", Violation::NullCharacter),
            ("30 {s'a' {26 0001 FF s'v'}}", Violation::InvalidUtf8),
            ("30 {s'a' {26 s'k' 0001 FF}}", Violation::InvalidUtf8),
            ("30 {s'a' {26 0001 00 s'v'}}", Violation::NullCharacter),
            ("30 {s'a' {26 s'k' 0001 00}}", Violation::NullCharacter),
            ("30 {s'a' {1F s'x'}}", misplaced(Publish, Property::ReasonString)),
            ("30 {s'a' {26 s'k' 0005 61}}", Violation::Truncated(Publish)),
            ("30 {s'a' 05 0B}", Violation::Truncated(Publish)),
        ],
    );
    refused(Client, V5, &[("30 {s'a' {0B 00}}", Violation::SubscriptionIdZero)]);
}

/// [MQTT-3.4.2-1], [MQTT-3.5.2-1], [MQTT-3.6.2-1], [MQTT-3.7.2-1], [MQTT-3.9.3-2], [MQTT-3.9.3-2 of 3.1.1], [MQTT-3.11.3-2],
/// [MQTT-3.2.2-1], [MQTT-3.2.2-6], [MQTT-3.2.2-8], [MQTT-2.2.1-3]
#[test]
fn acknowledgements() {
    use PacketType::{ConnAck, PubAck, PubComp, PubRec, PubRel, SubAck, UnsubAck};
    let wrong = |packet, code| Violation::ReasonCode { packet, code };
    for version in [V31, V311, V5] {
        refused(
            Server,
            version,
            &[("40 02 0000", Violation::PacketIdZero), ("40 01 00", Violation::Truncated(PubAck))],
        );
    }
    refused(Server, V311, &[("40 03 0001 00", Violation::TrailingBytes(PubAck))]);
    refused(
        Server,
        V5,
        &[
            ("40 03 0001 01", wrong(PubAck, 0x01)),
            ("40 03 0001 92", wrong(PubAck, 0x92)),
            ("50 03 0001 FF", wrong(PubRec, 0xFF)),
            ("62 03 0001 80", wrong(PubRel, 0x80)),
            ("70 03 0001 10", wrong(PubComp, 0x10)),
            ("40 {0001 00 {1F s'a' 1F s'b'}}", duplicate(Property::ReasonString)),
            ("40 {0001 00 {02 00000001}}", misplaced(PubAck, Property::MessageExpiryInterval)),
            ("40 {0001 00 {} 00}", Violation::TrailingBytes(PubAck)),
        ],
    );
    refused(
        Client,
        V5,
        &[
            ("90 {0001 {} 03}", wrong(SubAck, 0x03)),
            ("90 {0001 {}}", Violation::Truncated(SubAck)),
            ("B0 {0001 {}}", Violation::Truncated(UnsubAck)),
            ("B0 {0001 {} 01}", wrong(UnsubAck, 0x01)),
            ("20 {00 8C {} 00}", Violation::TrailingBytes(ConnAck)),
            ("20 {00 8D {}}", wrong(ConnAck, 0x8D)),
            ("20 {01 87 {}}", Violation::SessionPresentOnRefusal),
            ("20 {02 00 {}}", Violation::ConnAckFlags),
            ("20 {00 00 {24 02}}", Violation::PropertyValue(Property::MaximumQoS)),
            ("20 {00 00 {21 0000}}", Violation::PropertyValue(Property::ReceiveMaximum)),
            ("20 {00 00 {16 0000}}", Violation::AuthenticationMethodMissing(ConnAck)),
        ],
    );
    refused(
        Client,
        V311,
        &[("20 02 0006", wrong(ConnAck, 6)), ("90 {0001 03}", wrong(SubAck, 3)), ("90 {0001 87}", wrong(SubAck, 0x87))],
    );
}

/// [MQTT-3.8.3-1, -2], [MQTT-3.8.3-4], [MQTT-3.8.3-5], [MQTT-3.8.3-4 of 3.1.1], [MQTT-3.10.3-1, -2], [MQTT-2.2.1-3]
#[test]
fn subscribes() {
    use PacketType::{Subscribe, Unsubscribe};
    refused(
        Server,
        V311,
        &[
            ("82 02 0001", Violation::SubscribeEmpty),
            ("82 {0000 s'a' 00}", Violation::PacketIdZero),
            ("82 {0001 s'a' 03}", Violation::SubscriptionQoS),
            ("82 {0001 s'a' 04}", Violation::SubscriptionOptions(4)),
            ("82 {0001 s'a'}", Violation::Truncated(Subscribe)),
            ("82 {0001 0002 6100 00}", Violation::NullCharacter),
            ("82 {0001 0001 FF 00}", Violation::InvalidUtf8),
            ("A2 02 0001", Violation::UnsubscribeEmpty),
            ("A2 {0001 0001 00}", Violation::NullCharacter),
            ("A2 {0001 0001 FF}", Violation::InvalidUtf8),
        ],
    );
    refused(
        Server,
        V5,
        &[
            ("82 {0001 {}}", Violation::SubscribeEmpty),
            ("82 {0001 {0B 00} s'a' 00}", Violation::SubscriptionIdZero),
            ("82 {0001 {0B 01 0B 02} s'a' 00}", duplicate(Property::SubscriptionIdentifier)),
            ("82 {0001 {23 0001} s'a' 00}", misplaced(Subscribe, Property::TopicAlias)),
            ("82 {0001 {} s'a' 40}", Violation::SubscriptionOptions(0x40)),
            ("82 {0001 {} s'a' 80}", Violation::SubscriptionOptions(0x80)),
            ("82 {0001 {} s'a' 30}", Violation::RetainHandling),
            ("82 {0001 {} s'a' 03}", Violation::SubscriptionQoS),
            ("82 {0001 {} s'$share/g/a' 05}", Violation::NoLocalOnShared),
            ("82 {0001 {} s'$queue/a' 05}", Violation::NoLocalOnShared),
            ("A2 {0001 {}}", Violation::UnsubscribeEmpty),
            ("A2 {0001 {0B 01} s'a'}", misplaced(Unsubscribe, Property::SubscriptionIdentifier)),
        ],
    );
}

#[test]
fn a_filter_that_is_none_is_kept_as_its_text() {
    for version in [V31, V311, V5] {
        let properties = if version.is_v5() { "{}" } else { "" };
        for text in ["a/#/b", "a#", "+a", "", "$share/g", "$share//a", "$share/+/a"] {
            let packet = decode_one(
                options(Server, version),
                &bytes_of(&format!("82 {{0001 {properties} s'ok/#' 01 s'{text}' 02}}")),
            );
            let Ok(Packet::Subscribe(subscribe)) = packet else { panic!("{text}: {packet:?}") };
            assert!(subscribe.entries[0].filter.is_ok());
            assert_eq!(subscribe.entries[1].filter, Err(text.into()));
            assert_eq!(subscribe.entries[1].options.qos, QoS::ExactlyOnce);
            let packet =
                decode_one(options(Server, version), &bytes_of(&format!("A2 {{0001 {properties} s'{text}'}}")));
            let Ok(Packet::Unsubscribe(unsubscribe)) = packet else { panic!("{text}: {packet:?}") };
            assert_eq!(unsubscribe.filters, [Err(text.into())]);
        }
    }
}

/// [MQTT-3.14.2-1], [MQTT-3.14.2-2], [MQTT-3.15.2-1]
#[test]
fn disconnects_and_auths() {
    use PacketType::{Auth, Disconnect};
    let wrong = |packet, code| Violation::ReasonCode { packet, code };
    refused(
        Server,
        V5,
        &[
            ("E0 01 8E", wrong(Disconnect, 0x8E)),
            ("E0 01 9A", wrong(Disconnect, 0x9A)),
            ("E0 01 92", wrong(Disconnect, 0x92)),
            ("E0 01 05", wrong(Disconnect, 0x05)),
            ("E0 {00 {} 00}", Violation::TrailingBytes(Disconnect)),
            ("E0 {00 {11 00000001 11 00000001}}", duplicate(Property::SessionExpiryInterval)),
            ("E0 {00 {02 00000001}}", misplaced(Disconnect, Property::MessageExpiryInterval)),
            ("F0 00", wrong(Auth, 0)),
            ("F0 01 18", Violation::AuthenticationMethodMissing(Auth)),
            ("F0 {18 {16 0000}}", Violation::AuthenticationMethodMissing(Auth)),
            ("F0 {00 {15 s'M'}}", wrong(Auth, 0)),
            ("F0 {18 {15 s'M' 21 0001}}", misplaced(Auth, Property::ReceiveMaximum)),
        ],
    );
    refused(
        Client,
        V5,
        &[
            ("E0 01 04", wrong(Disconnect, 0x04)),
            ("E0 01 8C", wrong(Disconnect, 0x8C)),
            ("E0 01 92", wrong(Disconnect, 0x92)),
            ("E0 {8E {11 00000001}}", Violation::SessionExpiryFromServer),
            ("F0 {19 {15 s'M'}}", wrong(Auth, 0x19)),
        ],
    );
}

/// [MQTT-3.3.1-2]; the others are of no clause, or of one that devices do not keep.
#[test]
fn only_strict_mode_refuses_what_devices_do() {
    use PacketType::{Connect, Disconnect, PubRel, Subscribe};
    for version in [V31, V311] {
        strict_only(
            version,
            &[
                ("38 {s'a' 'x'}", Violation::DupOnQoS0),
                ("E0 02 0000", Violation::TrailingBytes(Disconnect)),
                ("30 {0003 61 01 62}", Violation::ControlCharacter),
                ("30 {0004 61 7F C285}", Violation::ControlCharacter),
                ("30 {0003 EFBFBF}", Violation::ControlCharacter),
                ("82 {0001 0002 610A 00}", Violation::ControlCharacter),
            ],
        );
    }
    strict_only(
        V5,
        &[("38 {s'a' {} 'x'}", Violation::DupOnQoS0), ("30 {s'a' {26 s'k' 0001 0A}}", Violation::ControlCharacter)],
    );
    strict_only(
        V311,
        &[
            ("10 {s'MQTT' 04 02 003C s'c' 0000}", Violation::TrailingBytes(Connect)),
            ("10 {s'MQIsdp' 03 02 003C s'c' 'junk'}", Violation::TrailingBytes(Connect)),
            ("10 {s'MQTT' 04 02 003C 0002 630A}", Violation::ControlCharacter),
        ],
    );
    strict_only(
        V31,
        &[
            ("60 02 0001", Violation::ReservedFlags { packet: PubRel, flags: 0 }),
            ("83 {0001 s'a' 00}", Violation::ReservedFlags { packet: Subscribe, flags: 3 }),
        ],
    );
}

#[test]
fn mqtt_3_1_sets_dup_when_it_repeats_a_request() {
    let strict = DecoderOptions { strict: true, ..options(Server, V31) };
    for text in ["6A 02 0001", "8A {0001 s'a' 00}", "AA {0001 s'a'}"] {
        assert!(decode_one(strict, &bytes_of(text)).is_ok(), "{text}");
    }
}

#[test]
fn the_flags_of_connect_mean_nothing_in_mqtt_3_1() {
    // DUP, QoS and RETAIN are not used in CONNECT [MQTT 3.1, 3.1].
    for flags in 1..16_u8 {
        let text = format!("1{flags:X} {{s'MQIsdp' 03 02 003C s'c'}}");
        assert!(matches!(first(false, &text), Ok(Packet::Connect(_))), "{text}");
        let strict = Err(Violation::ReservedFlags { packet: PacketType::Connect, flags });
        assert_eq!(first(true, &text), strict, "{text}");
    }
}

#[test]
fn mqtt_3_1_may_announce_a_user_name_and_leave_it_out() {
    for text in ["10 {s'MQIsdp' 03 C2 003C s'c'}", "10 {s'MQIsdp' 03 C2 003C s'c' s'me'}"] {
        let Ok(Packet::Connect(connect)) = first(true, text) else { panic!("{text}") };
        assert_eq!(connect.username.is_some(), text.contains("me"));
        assert_eq!(connect.password, None);
    }
}

#[test]
fn dup_of_qos_0_is_forgotten_in_lenient_mode() {
    let Ok(Packet::Publish(publish)) = decode_one(options(Server, V311), &bytes_of("38 {s'a' 'x'}")) else {
        panic!("refused");
    };
    assert!(!publish.dup);
}

#[test]
fn a_refused_connect_leaves_its_version_for_the_answer() {
    for (text, version) in [
        ("10 {s'MQTT' 05 03 003C {} s'c'}", Some(V5)),
        ("10 {s'MQTT' 04 03 003C s'c'}", Some(V311)),
        ("10 {s'MQTT' 09 03 003C s'c'}", None),
    ] {
        let mut decoder = Decoder::new(DecoderOptions::default());
        assert!(decoder.decode(&mut bytes_of(text)[..].into()).is_err());
        assert_eq!(decoder.version(), version, "{text}");
    }
}

#[test]
fn an_http_request_is_told_apart_as_soon_as_it_can_be() {
    let request = b"GET /mqtt HTTP/1.1\r\n";
    for len in 1..request.len() {
        let result = Decoder::new(DecoderOptions::default()).decode(&mut request[..len].into());
        assert_eq!(result, if len < 4 { Ok(None) } else { Err(Violation::HttpRequest) }, "{len} bytes");
    }
}

/// The peer is told the reason, and the log the clause.
#[test]
fn what_a_violation_is_called() {
    let misplaced = misplaced(PacketType::PubAck, Property::TopicAlias);
    for (violation, clause, reason) in [
        (Violation::InvalidUtf8, "MQTT-1.5.4-1", ReasonCode::MalformedPacket),
        (Violation::VariableByteInteger, "MQTT-1.5.5-1", ReasonCode::MalformedPacket),
        (Violation::ConnectReservedFlag, "MQTT-3.1.2-3", ReasonCode::MalformedPacket),
        (misplaced, "2.2.2.2", ReasonCode::MalformedPacket),
        (Violation::SecondConnect, "MQTT-3.1.0-2", ReasonCode::ProtocolError),
        (Violation::TopicMissing, "3.3.2.1", ReasonCode::ProtocolError),
        (Violation::NoLocalOnShared, "MQTT-3.8.3-4", ReasonCode::ProtocolError),
        (duplicate(Property::ContentType), "2.2.2.2", ReasonCode::ProtocolError),
        (Violation::PropertyValue(Property::ReceiveMaximum), "3.1.2.11.3", ReasonCode::ProtocolError),
        (Violation::PacketTooLarge { size: 2, limit: 1 }, "MQTT-3.2.2-15", ReasonCode::PacketTooLarge),
        (Violation::TopicName(TopicError::Wildcard), "MQTT-3.3.2-2", ReasonCode::TopicNameInvalid),
        (Violation::TopicLevels(3), "4.7.3", ReasonCode::TopicNameInvalid),
        (Violation::TopicAliasZero, "MQTT-3.3.2-8", ReasonCode::TopicAliasInvalid),
        (Violation::ProtocolLevel(6), "MQTT-3.1.2-2", ReasonCode::UnsupportedProtocolVersion),
    ] {
        assert_eq!((violation.clause(), violation.reason_code()), (clause, reason), "{violation}");
    }
    assert_eq!(misplaced.to_string(), "PUBACK does not have the property Topic Alias");
}
