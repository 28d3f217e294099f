use bytes::Bytes;
use mqtt_codec::{MessageProperties, TopicName};
use mqtt_ownership::ServerTime;

use super::*;
use crate::overload::{Lent, PROCESS};

const CARRIERS: [Carrier; 4] =
    [Carrier::Stream, Carrier::StreamWithTtl, Carrier::Attached { ttl: true }, Carrier::Attached { ttl: false }];

fn header<'a>(headers: &'a Headers, name: &str) -> Option<&'a str> {
    headers.iter().find(|(header, _)| *header == *name).map(|(_, value)| &**value)
}

fn publication(qos: QoS, expiry_s: Option<u32>) -> Publication {
    let properties = MessageProperties { message_expiry_interval_s: expiry_s, ..MessageProperties::default() };
    Publication {
        token: None,
        once: None,
        topic: TopicName::new("a/b").unwrap(),
        qos,
        retain: false,
        payload: Bytes::from_static(b"x"),
        properties: expiry_s.map(|_| Box::new(properties)),
    }
}

/// [MQTT-4.3.3-7]
#[test]
fn a_log_of_ours_keeps_what_has_expired_for_who_had_it_in_flight_and_says_when_it_did() {
    for (carrier, expiry_s, lives_s, says) in [
        (Carrier::StreamWithTtl, None, None, None),
        (Carrier::StreamWithTtl, Some(60), Some(3_660), Some("60")),
        (Carrier::StreamWithTtl, Some(0), Some(3_600), Some("0")),
        (Carrier::StreamWithTtl, Some(u32::MAX), Some(u32::MAX), Some("4294967295")),
        // The header is there by itself where no time to live can say it.
        (Carrier::Stream, Some(60), None, Some("60")),
        (Carrier::Attached { ttl: false }, Some(60), None, Some("60")),
        // What expires in a stream of somebody else is theirs.
        (Carrier::Attached { ttl: true }, Some(60), Some(60), None),
        (Carrier::Attached { ttl: true }, Some(0), Some(1), Some("0")),
    ] {
        let publication = publication(QoS::AtLeastOnce, expiry_s);
        let mut headers = log_headers(&publication, None, None, None, None, carrier).unwrap();
        assert_eq!(lifetime_s(carrier, expiry_s, &mut headers), lives_s, "{carrier:?} {expiry_s:?}");
        assert_eq!(header(&headers, name::EXPIRY), says, "{carrier:?} {expiry_s:?}");
        assert!(headers.iter().filter(|(header, _)| **header == *name::EXPIRY).count() <= 1);
    }
}

#[test]
fn a_plain_message_says_nothing_but_what_is_asked() {
    for carrier in CARRIERS {
        let qos = if carrier.is_ours() { QoS::AtLeastOnce } else { QoS::ExactlyOnce };
        let plain = log_headers(&publication(qos, None), None, None, None, None, carrier).unwrap();
        assert!(plain.is_empty(), "{carrier:?}");
        let (publisher, id, epoch) = (Some("c d".into()), Some("id".into()), Some("1.2".into()));
        let all = log_headers(&publication(qos, None), Some(Sequence(7)), publisher, id, epoch, carrier).unwrap();
        let said = [name::RETAIN, name::CLIENT, name::NATS_MSG_ID, name::EPOCH].map(|name| header(&all, name));
        assert_eq!(said, [Some("7"), Some("c d"), Some("id"), Some("1.2")]);
    }
}

#[test]
fn core_nats_is_told_the_qos_only_where_somebody_would_take_it_for_another() {
    let publication = publication(QoS::AtMostOnce, None);
    let live = |is_escaped, says_qos| live_headers(&publication, None, is_escaped, says_qos, None, None).unwrap();
    assert!(live(false, false).is_empty());
    assert_eq!(header(&live(false, true), name::QOS), Some("0"));
    assert_eq!(header(&live(true, false), name::TOPIC), Some("a/b"));
    for (said, is_captured, qos) in [
        (Some("0"), true, QoS::AtMostOnce),
        (Some("1"), false, QoS::AtLeastOnce),
        (Some("2"), false, QoS::ExactlyOnce),
        (Some("what"), false, QoS::ExactlyOnce),
        (None, true, QoS::ExactlyOnce),
        (None, false, QoS::AtMostOnce),
    ] {
        let headers: Option<Headers> = said.map(|said| vec![(name::QOS.into(), said.into())]);
        assert_eq!(published_qos(headers.as_ref(), || is_captured), qos, "{said:?} {is_captured}");
        assert_eq!(is_at_most_once(headers.as_ref()), said == Some("0"));
    }
}

#[test]
fn the_copy_of_a_stored_message_is_known_on_its_subject_and_on_no_other() {
    let subject = proto_map::subject_of(&TopicName::new("a/b").unwrap()).unwrap();
    let publication = publication(QoS::ExactlyOnce, None);
    let headers =
        natural_headers(&publication, &subject, Sequence(9), true, Some("c".into()), Some("id".into())).unwrap();
    let core = |subject: &str, headers: Headers, reply: Option<&str>| CoreMessage {
        subject: subject.into(),
        headers: Some(headers),
        payload: Bytes::new(),
        reply: reply.map(Into::into),
        status: None,
    };
    assert_eq!(header(&headers, name::QOS), None, "that it is in the log says all");
    assert_eq!(header(&headers, name::TOPIC), Some("a/b"));
    assert!(is_stored_copy(&core("a.b", headers.clone(), None)));
    assert!(!is_stored_copy(&core("a.c", headers, None)), "somebody has passed it on");
    for (reply, expected) in [(Some("$JS.ACK.S.C.1.2.3.4.5"), true), (Some("_INBOX.x"), false), (None, false)] {
        assert_eq!(is_delivery(&core("a.b", Headers::new(), reply)), expected);
    }
    let envelope = put_envelope(&KvUpdate {
        sequence: 5,
        subject: subject.clone(),
        is_unescaped: false,
        message: None,
        stored_at_ms: 0,
    });
    assert_eq!((envelope.qos, envelope.retained_seq), (QoS::AtLeastOnce, Some(5)), "a deletion is one at QoS 1");
    let natural = natural_headers_of(envelope.clone(), &subject, Sequence(9)).unwrap();
    assert!(proto_map::is_log_copy(header(&natural, name::LOG).unwrap(), "a.b"));
    assert_eq!((header(&natural, name::RETAIN), header(&natural, name::TOPIC)), (None, None));
    let logged = log_headers_of(&envelope, "id".into(), STORED).unwrap();
    assert_eq!((header(&logged, name::RETAIN), header(&logged, name::NATS_MSG_ID)), (Some("5"), Some("id")));
}

/// [MQTT-3.3.1-6], [MQTT-3.3.1-7]
#[test]
fn what_the_index_keeps_of_a_retained_message_is_what_was_published() {
    let mut message = Message::new(TopicName::new("a").unwrap(), Bytes::from_static(b"x"), None);
    message.since = ServerTime(1_000);
    let plain = retained_of(&message, QoS::AtLeastOnce).unwrap();
    assert_eq!((plain.headers, plain.expires_at_ms, plain.stored_at_ms), (None, None, 1_000));
    message.properties = publication(QoS::AtMostOnce, Some(5)).properties;
    let kept = retained_of(&message, QoS::ExactlyOnce).unwrap();
    assert_eq!(kept.expires_at_ms, Some(6_000));
    assert_eq!(header(kept.headers.as_ref().unwrap(), name::QOS), Some("2"));
    let entry =
        RetainedEntry { topic: message.topic.clone(), message: kept, sequence: 8, version: 0, lent: Lent::default() };
    let read = from_retained(&entry, false);
    assert_eq!((read.qos, read.retain, read.retained_at), (QoS::ExactlyOnce, true, Some(Sequence(8))));
    assert_eq!(read.expiry(ServerTime(3_000)), Ok(Some(3)));
    message.payload = Bytes::new();
    assert!(retained_of(&message, QoS::AtLeastOnce).is_none());
}

/// So large that other tests, which count in the same budget, do not.
const LARGE: usize = 128 << 20;

/// Bytes that wait in this process, in whole large payloads.
fn large_ones() -> usize {
    (PROCESS.budget.held() + LARGE / 2) / LARGE
}

#[test]
fn what_is_kept_for_ever_of_a_retained_message_is_not_counted_as_waiting_and_who_has_it_is_counted_once() {
    let topic = TopicName::new("a").unwrap();
    let message = Message::new(topic.clone(), Bytes::from(vec![0; LARGE]), None);
    let frame = message.frame(mqtt_codec::Version::V5, false).unwrap().tail().unwrap().clone();
    assert_eq!(large_ones(), 1);
    let kept = retained_of(&message, QoS::AtLeastOnce).unwrap();
    drop(message);
    assert_eq!(large_ones(), 1, "a client has it");
    drop(frame);
    assert_eq!(large_ones(), 0, "only the index has it");
    let entry = RetainedEntry { topic, message: kept, sequence: 8, version: 0, lent: Lent::default() };
    let given: Vec<Message> = (0..5).map(|_| from_retained(&entry, false)).collect();
    assert_eq!(large_ones(), 1, "it is one buffer");
    drop(entry);
    assert_eq!(large_ones(), 1, "the index has another one now");
    drop(given);
    assert_eq!(large_ones(), 0);
}

#[test]
fn a_deletion_in_the_bucket_says_nothing_but_where_it_comes_from() {
    let publication = publication(QoS::ExactlyOnce, Some(9));
    let deleted = retained_headers(&publication, true, Some("id".into())).unwrap();
    assert_eq!(deleted, [(name::ORIGIN.into(), "mqtt".into())]);
    let kept = retained_headers(&publication, false, Some("id".into())).unwrap();
    let said = [name::QOS, name::NATS_MSG_ID, name::ORIGIN].map(|name| header(&kept, name));
    assert_eq!(said, [Some("2"), Some("id"), Some("mqtt")]);
}
