//! Topic and subject are two names of one thing: exhaustively over small alphabets, at random beyond.

use mqtt_codec::{TopicFilter, TopicName};
use proptest::prelude::*;
use proto_map::{Subject, matches, subject_of, subjects_of, topic_of};

/// Calls `check` with every text of one to `longest` items.
fn each_text(items: &[&str], longest: usize, check: &mut impl FnMut(&str)) {
    fn longer(items: &[&str], left: usize, text: &mut String, check: &mut impl FnMut(&str)) {
        let len = text.len();
        for item in items {
            text.push_str(item);
            check(text);
            if left > 1 {
                longer(items, left - 1, text, check);
            }
            text.truncate(len);
        }
    }
    longer(items, longest, &mut String::new(), check);
}

/// An independent statement of what a subject is.
fn is_subject(text: &str) -> bool {
    !text.contains([' ', '\t', '\r', '\n', '\u{c}', '\0'])
        && text.split('.').all(|token| !token.is_empty() && token != "*" && token != ">")
}

fn topic_comes_back(text: &str) -> bool {
    let Ok(topic) = TopicName::new(text) else {
        return false;
    };
    let subject = subject_of(&topic).unwrap();
    assert!(is_subject(subject.as_str()), "{text:?} has {subject:?}");
    assert_eq!(topic_of(subject.as_str()).as_ref(), Ok(&topic), "by {subject:?}");
    true
}

fn subject_comes_back(text: &str) -> bool {
    assert_eq!(Subject::new(text).is_ok(), is_subject(text), "{text:?}");
    if !is_subject(text) {
        assert!(topic_of(text).is_err(), "{text:?}");
        return false;
    }
    let topic = topic_of(text).unwrap();
    assert_eq!(subject_of(&topic).as_ref().map(Subject::as_str), Ok(text), "by {topic:?}");
    true
}

const CHARACTERS: &[&str] = &["/", ".", "$", "*", ">", "+", "#", " ", "%", "2", "0", "5", "a"];
const CODES: &[&str] = &[
    "/", ".", "*", ">", " ", "\u{1}", "%", "25", "20", "2A", "%20", "%2F", "%2A", "%252F", "%252A", "%2B", "%01", "a",
];

#[test]
fn every_short_topic_comes_back() {
    let mut count = 0;
    each_text(CHARACTERS, 5, &mut |text| count += usize::from(topic_comes_back(text)));
    // All texts of eleven characters that can be in a topic.
    assert_eq!(count, 11 + 11_usize.pow(2) + 11_usize.pow(3) + 11_usize.pow(4) + 11_usize.pow(5));
    each_text(CODES, 4, &mut |text| {
        topic_comes_back(text);
    });
}

#[test]
fn every_short_subject_comes_back() {
    let mut count = 0;
    each_text(CHARACTERS, 5, &mut |text| count += usize::from(subject_comes_back(text)));
    assert!(count > 100_000, "{count}");
    each_text(CODES, 4, &mut |text| {
        subject_comes_back(text);
    });
}

#[test]
fn every_run_of_slashes_comes_back() {
    each_text(&["/", ".", "%2F", "%252F", "a"], 7, &mut |text| {
        topic_comes_back(text);
        subject_comes_back(text);
    });
}

/// MQTT's matching of levels [MQTT 5, 4.7.1], without the rule of `$` [MQTT-4.7.2-1].
fn filter_matches(filter: &[&str], topic: &[&str]) -> bool {
    match (filter, topic) {
        (["#"], _) | ([], []) => true,
        (["+", filter @ ..], [_, topic @ ..]) => filter_matches(filter, topic),
        ([level, filter @ ..], [same, topic @ ..]) if level == same => filter_matches(filter, topic),
        _ => false,
    }
}

fn filters_match_the_same(filter_items: &[&str], topic_items: &[&str]) {
    let mut topics = Vec::new();
    each_text(topic_items, 4, &mut |text| topics.extend(TopicName::new(text)));
    let topics: Vec<_> = topics.iter().map(|topic| (topic, subject_of(topic).unwrap())).collect();
    let levels: Vec<Vec<&str>> = topics.iter().map(|(topic, _)| topic.as_str().split('/').collect()).collect();
    each_text(filter_items, 4, &mut |text| {
        let Ok(filter) = TopicFilter::new(text) else { return };
        let subjects = subjects_of(&filter).unwrap();
        let wanted: Vec<&str> = text.split('/').collect();
        for ((topic, subject), levels) in topics.iter().zip(&levels) {
            let hits = subjects.iter().filter(|filter| filter.matches(subject.as_str())).count();
            let expected = usize::from(filter_matches(&wanted, levels));
            assert_eq!(hits, expected, "{filter:?} as {subjects:?}, {topic:?} as {subject:?}");
        }
    });
}

#[test]
fn filters_match_what_their_subjects_match_exactly_once() {
    filters_match_the_same(&["/", "a", "+", "#", "."], &["/", "a", "$", "."]);
    filters_match_the_same(&["/", "+", "#", "*", ">", " "], &["/", "*", ">", " "]);
    filters_match_the_same(&["/", "+", "#", "%2F", "%2A"], &["/", "a", "%2F", "%2A"]);
}

#[test]
fn wildcards_of_nats_match_whole_tokens() {
    for (filter, subject, expected) in [
        ("a.*", "a.b", true),
        ("a.*", "a", false),
        ("a.*", "a.b.c", false),
        ("a.>", "a", false),
        ("a.>", "a.b.c", true),
        (">", "a", true),
        ("a*", "ab", false),
        ("a.>.c", "a.b.c", false),
        ("*.b", "a.b", true),
    ] {
        assert_eq!(matches(filter, subject), expected, "{filter} {subject}");
    }
}

/// Texts that are made mostly of what the escaping is about. A failing case is printed with its seed and kept.
fn tricky_text() -> impl Strategy<Value = String> {
    let item = prop_oneof![
        6 => prop::sample::select(CODES).prop_map(str::to_owned),
        2 => prop::sample::select(CHARACTERS).prop_map(str::to_owned),
        1 => any::<char>().prop_map(String::from),
        1 => "[%0-9A-F]{1,4}",
    ];
    prop::collection::vec(item, 1..24).prop_map(|items| items.concat())
}

proptest! {
    #[test]
    fn random_topics_come_back(text in tricky_text()) {
        topic_comes_back(&text);
    }

    #[test]
    fn random_subjects_come_back(text in tricky_text()) {
        subject_comes_back(&text);
    }

    #[test]
    fn different_topics_have_different_subjects(one in tricky_text(), other in tricky_text()) {
        if let (Ok(one), Ok(other)) = (TopicName::new(one), TopicName::new(other)) {
            prop_assert_eq!(one == other, subject_of(&one) == subject_of(&other));
        }
    }
}
