//! Properties come back exactly from what a NATS client makes of the headers, and nothing that a NATS client sends
//! can hurt.

use bytes::Bytes;
use bytestring::ByteString;
use mqtt_codec::{MessageProperties, QoS, ReasonCode, TopicName, UserProperties};
use proptest::prelude::*;
use proto_map::{
    Carrier, Envelope, HEADER_BLOCK_MAX, Headers, ReadOptions, from_headers, is_about_itself, is_log_copy, log_marker,
    parse_log_marker, to_headers,
};

const CARRIERS: [Carrier; 5] = [
    Carrier::Core,
    Carrier::Stream,
    Carrier::StreamWithTtl,
    Carrier::Attached { ttl: false },
    Carrier::Attached { ttl: true },
];

fn user_properties(pairs: &[(&str, &str)]) -> UserProperties {
    pairs.iter().map(|(name, value)| (ByteString::from(*name), ByteString::from(*value))).collect()
}

fn with_user_properties(pairs: &[(&str, &str)]) -> Envelope {
    with(MessageProperties { user_properties: user_properties(pairs), ..Default::default() })
}

fn with(properties: MessageProperties) -> Envelope {
    Envelope { properties: Some(Box::new(properties)), ..Default::default() }
}

/// The header block as it goes over the wire and is taken apart by a client: a line for each header, values trimmed,
/// headers kept by name, the names in another order.
fn over_the_wire(headers: &Headers) -> Vec<(String, String)> {
    let block: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let mut read: Vec<(String, String)> = Vec::new();
    for line in block.lines() {
        let (name, value) = line.split_once(':').unwrap();
        assert!(!name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic()), "{name:?}");
        assert!(!value.contains('\r'), "{value:?}");
        read.push((name.to_owned(), value.trim().to_owned()));
    }
    assert_eq!(read.len(), headers.len(), "a header was injected: {headers:?}");
    read.sort_by(|one, other| other.0.cmp(&one.0));
    read
}

fn read(headers: &[(String, String)], carrier: Carrier) -> Envelope {
    let options = ReadOptions { carrier, nats_headers: false, is_genuine: true };
    from_headers(headers.iter().map(|(name, value)| (name.as_str(), value.as_str())), options)
}

/// What the reader has after the writer wrote; where the stream has times to live, with the one that the writer sets.
fn comes_back(envelope: &Envelope, carrier: Carrier) -> Envelope {
    let mut headers = over_the_wire(&to_headers(envelope, carrier).unwrap());
    let seconds = envelope.properties.as_ref().and_then(|properties| properties.message_expiry_interval_s);
    if let Some(seconds) = seconds.filter(|_| carrier.has_ttl()) {
        headers.push(("Nats-TTL".to_owned(), seconds.max(1).to_string()));
    }
    read(&headers, carrier)
}

fn text_of(headers: &Headers) -> Vec<String> {
    headers.iter().map(|(name, value)| format!("{name}: {value}")).collect()
}

fn written(envelope: &Envelope, carrier: Carrier) -> Vec<String> {
    text_of(&to_headers(envelope, carrier).unwrap())
}

#[test]
fn a_plain_message_has_no_headers() {
    for (carrier, qos) in CARRIERS.into_iter().zip([QoS::AtMostOnce, QoS::AtLeastOnce, QoS::AtLeastOnce]) {
        let envelope = Envelope { qos, ..Default::default() };
        let headers = to_headers(&envelope, carrier).unwrap();
        assert_eq!(headers.capacity(), 0);
        assert_eq!(read(&[], carrier), envelope);
    }
}

#[test]
fn only_what_is_not_the_default_is_written() {
    let qos_2 = Envelope { qos: QoS::ExactlyOnce, ..Default::default() };
    assert_eq!(written(&qos_2, Carrier::Core), ["Mqtt-QoS: 2"]);
    assert_eq!(written(&qos_2, Carrier::StreamWithTtl), ["Mqtt-QoS: 2"]);
    assert_eq!(written(&Envelope::default(), Carrier::Stream), ["Mqtt-QoS: 0"]);
    assert_eq!(written(&qos_2, Carrier::Attached { ttl: true }), Vec::<String>::new());
    let ingested = Envelope { qos: QoS::ExactlyOnce, is_ingested: true, ..Default::default() };
    assert_eq!(written(&ingested, Carrier::StreamWithTtl), ["Mqtt-QoS: 2", "Mqtt-Ingested: 1"]);
    let copy = Envelope { qos: QoS::AtLeastOnce, log_marker: Some(log_marker(7, "a.b")), ..Default::default() };
    assert_eq!(written(&copy, Carrier::Core), ["Mqtt-Log: 7:108bf50c"]);
    let retained = Envelope {
        qos: QoS::AtLeastOnce,
        retained_seq: Some(12),
        original_topic: Some(TopicName::new("Living Room/50%").unwrap()),
        ..Default::default()
    };
    assert_eq!(written(&retained, Carrier::Stream), ["Mqtt-Retain: 12", "Mqtt-Topic: Living Room/50%25"]);
}

#[test]
fn properties_are_readable_headers() {
    let envelope = with(MessageProperties {
        payload_is_utf8: Some(true),
        message_expiry_interval_s: Some(30),
        content_type: Some("application/json".into()),
        response_topic: Some(TopicName::new("replies/Living Room").unwrap()),
        correlation_data: Some(Bytes::from_static(b"req-1\0")),
        user_properties: user_properties(&[("site", "Basel"), ("site", "Bern")]),
    });
    let expected = [
        "Mqtt-Payload-Format: 1",
        "Mqtt-Expiry: 30",
        "Content-Type: application/json",
        "Mqtt-Response-Topic: replies/Living Room",
        "Mqtt-Correlation-Data: req-1%00",
        "site: Basel",
        "site: Bern",
    ];
    assert_eq!(written(&envelope, Carrier::Core), expected);
    for carrier in CARRIERS {
        assert_eq!(comes_back(&envelope, carrier), envelope);
    }
}

#[test]
fn the_list_of_user_properties_is_there_only_when_needed() {
    for (pairs, expected) in [
        (&[("a", "1")][..], &["a: 1"][..]),
        (&[("a", "2"), ("a", "1")], &["a: 2", "a: 1"]),
        (&[("a", "")], &["a: "]),
        (&[("a", "x\ty ü")], &["a: x\ty ü"]),
        (&[("b", "1"), ("a", "2")], &["b: 1", "a: 2", "Mqtt-User-Properties: b&a"]),
        (&[("a b", "1")], &["Mqtt-User-Properties: a%20b=1"]),
        (&[("a", "x\r\nEvil: 1")], &["Mqtt-User-Properties: a=x%0D%0AEvil:%201"]),
        (&[("a\r\nEvil", "1")], &["Mqtt-User-Properties: a%0D%0AEvil=1"]),
        (&[("a", " 1")], &["Mqtt-User-Properties: a=%201"]),
        (&[("a", "1\u{2003}")], &["Mqtt-User-Properties: a=1%E2%80%83"]),
        (&[("a:b", "1")], &["Mqtt-User-Properties: a:b=1"]),
        (&[("", "&=%")], &["Mqtt-User-Properties: =%26=%25"]),
        (&[("größe", "1")], &["Mqtt-User-Properties: größe=1"]),
        (&[("Nats-TTL", "1")], &["Mqtt-User-Properties: Nats-TTL=1"]),
        (&[("nats-rollup", "all")], &["Mqtt-User-Properties: nats-rollup=all"]),
        (&[("Mqtt-Log", "1")], &["Mqtt-User-Properties: Mqtt-Log=1"]),
        (&[("content-type", "1")], &["Mqtt-User-Properties: content-type=1"]),
        (&[("Status", "503")], &["Mqtt-User-Properties: Status=503"]),
        (&[("Nats-Msg-Id", "x")], &["Mqtt-User-Properties: Nats-Msg-Id=x"]),
        (&[("KV-Operation", "DEL")], &["Mqtt-User-Properties: KV-Operation=DEL"]),
        (&[("Nats-Msg-Id", "x"), ("Nats-Msg-Id", "y")], &["Mqtt-User-Properties: Nats-Msg-Id=x&Nats-Msg-Id=y"]),
    ] {
        let envelope = with_user_properties(pairs);
        assert_eq!(written(&envelope, Carrier::Core), expected);
        for carrier in CARRIERS {
            assert_eq!(comes_back(&envelope, carrier), envelope);
        }
    }
}

#[test]
fn a_message_id_of_the_writer_does_not_change_that_of_the_publisher() {
    let envelope = with_user_properties(&[("Nats-Msg-Id", "theirs")]);
    let mut headers = over_the_wire(&to_headers(&envelope, Carrier::Core).unwrap());
    headers.push(("Nats-Msg-Id".to_owned(), "ours".to_owned()));
    assert_eq!(read(&headers, Carrier::Core), envelope);
    let nats_headers = ReadOptions { carrier: Carrier::Core, nats_headers: true, is_genuine: true };
    let pairs = headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    assert_eq!(from_headers(pairs, nats_headers), envelope);
}

#[test]
fn headers_added_and_removed_on_the_way_are_user_properties_that_came_and_went() {
    let envelope = with_user_properties(&[("b", "1"), ("a", "2"), ("c d", "3")]);
    let mut headers = over_the_wire(&to_headers(&envelope, Carrier::Core).unwrap());
    headers.retain(|(name, _)| name != "b");
    headers.push(("trace".to_owned(), "t".to_owned()));
    headers.push(("a".to_owned(), "4".to_owned()));
    let expected = with_user_properties(&[("a", "2"), ("c d", "3"), ("trace", "t"), ("a", "4")]);
    assert_eq!(read(&headers, Carrier::Core), expected);
}

#[test]
fn headers_of_nats_clients_become_properties() {
    let headers = [
        ("content-type", "text/plain"),
        ("Content-Type", "second"),
        ("Nats-TTL", "1h"),
        ("Nats-Msg-Id", "x"),
        ("Trace", "1"),
        ("Status", "ok"),
    ];
    let mut expected = MessageProperties {
        content_type: Some("text/plain".into()),
        message_expiry_interval_s: Some(3600),
        user_properties: user_properties(&[("Trace", "1"), ("Status", "ok")]),
        ..Default::default()
    };
    let options = ReadOptions { carrier: Carrier::Stream, nats_headers: false, is_genuine: true };
    let envelope = from_headers(headers.into_iter(), options);
    assert_eq!((envelope.qos, envelope.properties.as_deref()), (QoS::AtLeastOnce, Some(&expected)));
    expected.user_properties =
        user_properties(&[("Nats-TTL", "1h"), ("Nats-Msg-Id", "x"), ("Trace", "1"), ("Status", "ok")]);
    let envelope = from_headers(headers.into_iter(), ReadOptions { nats_headers: true, ..options });
    assert_eq!(envelope.properties.as_deref(), Some(&expected));
}

#[test]
fn values_that_mean_nothing_are_ignored() {
    let headers = [
        ("Mqtt-QoS", "3"),
        ("Mqtt-Retain", "-1"),
        ("Mqtt-Payload-Format", "yes"),
        ("Mqtt-Expiry", "4294967296"),
        ("Mqtt-Response-Topic", "a/#"),
        ("Mqtt-Content-Type", "%FF"),
        ("Mqtt-Future", "x"),
        ("Mqtt-User-Properties", "&gone&%FF=1&a=%00&="),
        ("Mqtt-Topic", "elsewhere"),
        ("Nats-TTL", "never"),
        ("nul", "a\0b"),
    ];
    let options = ReadOptions { carrier: Carrier::Core, nats_headers: false, is_genuine: true };
    assert_eq!(from_headers(headers.into_iter(), options), with_user_properties(&[("", "")]));
    let twice = [("Mqtt-QoS", "x"), ("Mqtt-QoS", "2"), ("Mqtt-QoS", "1")];
    assert_eq!(from_headers(twice.into_iter(), options).qos, QoS::ExactlyOnce);
    let long = "x".repeat(65_536);
    assert_eq!(
        from_headers([("Mqtt-Correlation-Data", &*long), ("a", &*long)].into_iter(), options),
        Envelope::default()
    );
}

#[test]
fn expiry_zero_is_not_left_to_the_time_to_live() {
    let envelope = with(MessageProperties { message_expiry_interval_s: Some(0), ..Default::default() });
    assert_eq!(written(&envelope, Carrier::StreamWithTtl), ["Mqtt-QoS: 0", "Mqtt-Expiry: 0"]);
    let envelope = with(MessageProperties { message_expiry_interval_s: Some(u32::MAX), ..Default::default() });
    assert_eq!(written(&envelope, Carrier::StreamWithTtl), ["Mqtt-QoS: 0"]);
    assert_eq!(comes_back(&envelope, Carrier::StreamWithTtl), envelope);
}

#[test]
fn a_header_block_beyond_the_limit_is_0x97() {
    let envelope = |len: usize| with_user_properties(&[("a", &"x".repeat(len))]);
    // `NATS/1.0`, an empty line, `a: `, and three ends of line.
    let room = HEADER_BLOCK_MAX - 12 - 5;
    assert!(to_headers(&envelope(room), Carrier::Core).is_ok());
    let error = to_headers(&envelope(room + 1), Carrier::Core).unwrap_err();
    assert_eq!(error.reason(), ReasonCode::QuotaExceeded);
    assert!(to_headers(&with_user_properties(&[("a b", &" ".repeat(30_000))]), Carrier::Core).is_err());
}

#[test]
fn only_the_copy_on_its_own_subject_has_the_log_marker() {
    let marker = log_marker(u64::MAX, "plant.line1");
    assert_eq!(parse_log_marker(&marker).map(|(seq, _)| seq), Some(u64::MAX));
    assert!(is_log_copy(&marker, "plant.line1"));
    assert!(!is_log_copy(&marker, "plant.line2"));
    assert!(is_log_copy("1:bf9cf968", "foobar"));
    for value in [
        "",
        ":",
        "1:",
        ":bf9cf968",
        "+1:bf9cf968",
        "x:bf9cf968",
        "1:bf9cf9680",
        "1:bf9cf96",
        "1:BF9CF968",
        "1 :bf9cf968",
        "18446744073709551616:bf9cf968",
    ] {
        assert!(!is_log_copy(value, "foobar"), "{value:?}");
    }
    // The values of FNV-1a that its authors publish.
    for (subject, check) in [("", 0x811c_9dc5), ("a", 0xe40c_292c), ("foobar", 0xbf9c_f968)] {
        assert_eq!(parse_log_marker(&log_marker(1, subject)), Some((1, check)));
    }
}

fn any_text() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => "[ab]",
        2 => "[a-zA-Z0-9:=&% \t\r\n\u{2003}ü-]{0,6}",
        1 => "(Nats|Mqtt|nats|MQTT|KV|kv)-[a-zA-Z-]{0,8}",
        1 => prop::sample::select(
            &["Nats-Msg-Id", "Content-Type", "status", "Description", "Mqtt-User-Properties", "Mqtt-QoS", "Nats-TTL"][..])
            .prop_map(str::to_owned),
        1 => any::<String>().prop_map(|text| text.replace('\0', "")),
    ]
}

prop_compose! {
    fn any_envelope()(
        qos in prop::sample::select(&[QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce][..]),
        retained_seq in any::<Option<u64>>(),
        marker in any::<Option<u64>>(),
        publisher in prop::option::of(any_text()),
        payload_is_utf8 in any::<Option<bool>>(),
        message_expiry_interval_s in any::<Option<u32>>(),
        content_type in prop::option::of(any_text()),
        response_topic in prop::option::of(any_text()),
        correlation_data in prop::option::of(any::<Vec<u8>>()),
        user_properties in prop::collection::vec((any_text(), any_text()), 0..6),
    ) -> Envelope {
        let properties = MessageProperties {
            payload_is_utf8,
            message_expiry_interval_s,
            content_type: content_type.map(ByteString::from),
            response_topic: response_topic.and_then(|text| TopicName::new(text).ok()),
            correlation_data: correlation_data.map(Bytes::from),
            user_properties: user_properties.into_iter().map(|(name, value)| (name.into(), value.into())).collect(),
        };
        let properties = (properties != MessageProperties::default()).then(|| Box::new(properties));
        let log_marker = marker.map(|seq| log_marker(seq, "a"));
        let publisher = publisher.map(ByteString::from);
        Envelope { qos, retained_seq, original_topic: None, log_marker, is_ingested: retained_seq.is_none(), publisher, properties }
    }
}

proptest! {
    #[test]
    fn every_envelope_comes_back(envelope in any_envelope()) {
        for carrier in CARRIERS {
            prop_assert_eq!(&comes_back(&envelope, carrier), &envelope);
        }
    }

    #[test]
    fn no_user_property_is_written_as_a_reserved_header(pairs in prop::collection::vec((any_text(), any_text()), 0..6)) {
        let pairs: Vec<(&str, &str)> = pairs.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        for (name, _) in to_headers(&with_user_properties(&pairs), Carrier::Core).unwrap() {
            let lower = name.to_ascii_lowercase();
            let is_reserved = lower.starts_with("nats-") || lower.starts_with("mqtt-") || lower.starts_with("kv-")
                || ["content-type", "status", "description"].contains(&lower.as_str());
            prop_assert!(!is_reserved || name == "Mqtt-User-Properties", "{name}");
        }
    }

    /// Whatever somebody outside writes, it does not say that its message is retained or was copied by a sidecar, and what
    /// is copied of it to where only sidecars write says nothing of that kind either.
    #[test]
    fn no_header_from_outside_decides_about_more_than_its_message(
        headers in prop::collection::vec((any_text(), any_text()), 0..6),
        deciding in prop::collection::vec((prop::sample::select(&[
            "Mqtt-Retain", "Mqtt-Ingested", "Mqtt-Origin", "Mqtt-Log-Sequence", "Mqtt-Subject", "Mqtt-Log", "Mqtt-Write",
            "Mqtt-Cleaned", "Mqtt-Mac", "Mqtt-QoS", "Nats-Rollup", "Nats-TTL", "Nats-Msg-Id", "Nats-Expected-Last-Sequence",
        ][..]), "[0-9]{1,20}"), 0..6),
        lower: bool,
    ) {
        let deciding = deciding.iter().map(|(name, value)| {
            (if lower { name.to_lowercase() } else { (*name).to_owned() }, value.clone())
        });
        let all: Vec<(String, String)> = headers.into_iter().chain(deciding).collect();
        let pairs = || all.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        for carrier in CARRIERS {
            let options = ReadOptions { carrier, nats_headers: false, is_genuine: false };
            let read = from_headers(pairs(), options);
            prop_assert_eq!((read.retained_seq, read.is_ingested), (None, false));
            let kept = pairs().filter(|(name, _)| is_about_itself(name));
            let copied = from_headers(kept.clone(), ReadOptions { is_genuine: true, ..options });
            prop_assert_eq!((copied.retained_seq, copied.is_ingested, copied.log_marker), (None, false, None));
            prop_assert_eq!(copied.properties.and_then(|p| p.content_type), read.properties.and_then(|p| p.content_type));
            for (name, _) in kept {
                let lower = name.to_ascii_lowercase();
                prop_assert!(!lower.starts_with("nats-"), "{}", name);
                prop_assert!(!["mqtt-log-sequence", "mqtt-subject", "mqtt-qos"].contains(&&*lower), "{}", name);
            }
        }
    }

    #[test]
    fn reading_never_fails(headers in prop::collection::vec((any_text(), any_text()), 0..8), nats_headers: bool) {
        let options = ReadOptions { carrier: Carrier::Stream, nats_headers, is_genuine: false };
        let envelope = from_headers(headers.iter().map(|(name, value)| (name.as_str(), value.as_str())), options);
        if let Some(properties) = envelope.properties {
            prop_assert!(*properties != MessageProperties::default());
        }
    }
}
