//! The mapping tables of the documentation, row by row.

use mqtt_codec::{ReasonCode, TopicFilter, TopicName};
use proto_map::{MAX_SUBJECT_LEN, MapError, Subject, map_topic, subject_of, subjects_of, topic_of};

fn topic(text: &str) -> TopicName {
    TopicName::new(text).unwrap()
}

fn filter(text: &str) -> Vec<String> {
    let subjects = subjects_of(&TopicFilter::new(text).unwrap()).unwrap();
    subjects.iter().map(|subject| subject.as_str().to_owned()).collect()
}

/// What nats-server's own MQTT maps, as observed.
const NATIVE: &[(&str, &str)] = &[
    ("foo/bar", "foo.bar"),
    ("/foo", "/.foo"),
    ("foo/", "foo./"),
    ("/foo/bar", "/.foo.bar"),
    ("foo//bar", "foo./.bar"),
    ("foo///bar", "foo././.bar"),
    ("/", "/./"),
    ("//", "/././"),
    ("///", "/./././"),
    ("///foo//", "/././.foo././"),
    ("//.foo.//", "/././/foo//././"),
    (".", "//"),
    ("foo.bar", "foo//bar"),
    ("a..b", "a////b"),
    ("foo/.bar", "foo.//bar"),
    ("foo./bar", "foo//.bar"),
    ("./", "//./"),
    ("spBv1.0/G/NDATA/n", "spBv1//0.G.NDATA.n"),
    ("$aws/things/x", "$aws.things.x"),
    ("$SYS/x", "$SYS.x"),
    ("$share/g/f", "$share.g.f"),
    ("größe/😀", "größe.😀"),
    ("50%", "50%"),
    ("a%2", "a%2"),
    ("a%25b", "a%25b"),
    ("a%2ab", "a%2ab"),
    ("a\u{a0}b", "a\u{a0}b"),
];

/// What nats-server's own MQTT refuses or misuses.
const ESCAPED: &[(&str, &str)] = &[
    ("zigbee2mqtt/Living Room", "zigbee2mqtt.Living%20Room"),
    (" ", "%20"),
    ("a/ /b", "a.%20.b"),
    ("a\tb", "a%09b"),
    ("a\r\nb", "a%0D%0Ab"),
    ("a\u{c}b", "a%0Cb"),
    ("a\u{7f}b", "a%7Fb"),
    ("a\u{1}b", "a%01b"),
    ("sec/*/x", "sec.%2A.x"),
    ("*", "%2A"),
    (">", "%3E"),
    ("a/>", "a.%3E"),
    ("a*b", "a%2Ab"),
    ("->", "-%3E"),
    ("a%20b", "a%2520b"),
    ("a%2520b", "a%252520b"),
    ("%2A", "%252A"),
];

/// Subjects that have no native topic.
const FOREIGN: &[(&str, &str)] = &[
    ("foo/bar.x", "foo%2Fbar/x"),
    ("/", "%2F"),
    ("///", ".%2F"),
    ("x./y", "x/%2Fy"),
    ("a//b/c", "a.b%2Fc"),
    ("a%2Fb", "a%252Fb"),
    ("%2F.x", "%2F/x"),
    ("c++", "c%2B%2B"),
    ("#", "%23"),
    ("a*b", "a%2Ab"),
    ("a>.b", "a%3E/b"),
    ("a\u{1}b", "a%01b"),
];

#[test]
fn native_topics_have_the_subject_of_nats_server() {
    for (text, subject) in NATIVE {
        let mapped = map_topic(&topic(text), MAX_SUBJECT_LEN).unwrap();
        assert_eq!(mapped.subject.as_str(), *subject, "{text:?}");
        assert_eq!(topic_of(subject).unwrap().as_str(), *text);
        assert!(!mapped.escaped, "{text:?}");
    }
}

#[test]
fn refused_topics_are_escaped() {
    for (text, subject) in ESCAPED {
        let mapped = map_topic(&topic(text), MAX_SUBJECT_LEN).unwrap();
        assert_eq!((mapped.subject.as_str(), mapped.escaped), (*subject, true), "{text:?}");
        assert_eq!(topic_of(subject).unwrap().as_str(), *text);
    }
}

#[test]
fn foreign_subjects_have_a_topic_that_leads_back() {
    for (subject, text) in FOREIGN {
        assert_eq!(topic_of(subject).unwrap().as_str(), *text, "{subject:?}");
        assert_eq!(subject_of(&topic(text)).unwrap().as_str(), *subject);
    }
}

#[test]
fn filters_become_one_subject_or_two() {
    for (text, subjects) in [
        ("foo/bar", &["foo.bar"][..]),
        ("foo/#", &["foo.>", "foo"]),
        ("#", &[">"]),
        ("+", &["*"]),
        ("+/#", &["*.>", "*"]),
        ("+/", &["*./"]),
        ("/+", &["/.*"]),
        ("/#", &["/.>"]),
        ("//#", &["/./.>", "/./"]),
        ("foo//#", &["foo./.>", "foo./"]),
        ("sec/*/x", &["sec.%2A.x"]),
        ("Living Room/#", &["Living%20Room.>", "Living%20Room"]),
        ("%2F/#", &["%2F.>", "/"]),
        ("$share/g/foo/#", &["foo.>", "foo"]),
        ("$queue/foo", &["foo"]),
        ("$aws/+/x", &["$aws.*.x"]),
    ] {
        assert_eq!(filter(text), subjects, "{text:?}");
    }
}

#[test]
fn what_is_no_literal_subject_has_no_topic() {
    for subject in
        ["", ".", "a.", ".a", "a..b", "*", "a.*", ">", "a.>", "a.>.b", "a b", "a\tb", "a\r\nb", "a\0b", "a\u{c}"]
    {
        assert_eq!(topic_of(subject), Err(MapError::InvalidSubject), "{subject:?}");
        assert!(Subject::new(subject).is_err());
    }
    assert_eq!(MapError::InvalidSubject.reason(), ReasonCode::TopicNameInvalid);
}

#[test]
fn a_subject_beyond_the_limit_is_0x90() {
    let fits = "a".repeat(MAX_SUBJECT_LEN);
    assert_eq!(subject_of(&topic(&fits)).unwrap().as_str(), fits);
    for long in [format!("{fits}a"), format!("{}.", &fits[1..]), format!("{} ", &fits[1..]), " ".repeat(65_535)] {
        let error = subject_of(&topic(&long)).unwrap_err();
        assert!(matches!(error, MapError::TooLong { max: MAX_SUBJECT_LEN, .. }));
        assert_eq!(error.reason(), ReasonCode::TopicNameInvalid);
        assert!(subjects_of(&TopicFilter::new(long).unwrap()).is_err());
    }
    assert!(matches!(topic_of(&"+".repeat(30_000)), Err(MapError::TooLong { len: 90_000, .. })));
}
