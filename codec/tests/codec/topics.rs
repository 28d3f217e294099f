//! Topic names, topic filters, shared subscriptions, and which filter matches which topic [MQTT 5, 4.7, 4.8].

use bytestring::ByteString;
use mqtt_codec::{TopicError, TopicFilter, TopicName};
use proptest::prelude::*;

use crate::arbitrary::cases;

fn name(text: &str) -> TopicName {
    TopicName::new(text).unwrap()
}

fn filter(text: &str) -> TopicFilter {
    TopicFilter::new(text).unwrap()
}

/// [MQTT-4.7.0-1], [MQTT-4.7.3-1, -2, -3]
#[test]
fn topic_names() {
    for text in ["a", "/", "//", " ", "a b", "*", ">", "a/*/b", "$SYS/x", "é/漢/🦀", "a\u{1}", "a\u{7f}", "$share/g"]
    {
        assert_eq!(name(text).as_str(), text);
    }
    for (text, error) in [
        ("", TopicError::Empty),
        ("a\0", TopicError::Null),
        ("+", TopicError::Wildcard),
        ("a/#", TopicError::Wildcard),
        ("a+", TopicError::Wildcard),
    ] {
        assert_eq!(TopicName::new(text), Err(error), "{text:?}");
    }
    let longest = "x".repeat(65_535);
    assert!(TopicName::new(longest.clone()).is_ok());
    assert!(TopicFilter::new(longest.clone()).is_ok());
    assert_eq!(TopicName::new(longest.clone() + "x"), Err(TopicError::TooLong));
    assert_eq!(TopicFilter::new(longest + "x"), Err(TopicError::TooLong));
}

/// [MQTT-4.7.1-1, -2], [MQTT-4.7.3-1, -2], [MQTT-4.8.2-1, -2]
#[test]
fn topic_filters() {
    for text in ["#", "+", "a", "/", "+/+", "/+", "a/#", "+/#", "a//+", "$SYS/#", "$shared/x", "$queue", "a/$share"] {
        assert_eq!(filter(text).shared(), None, "{text}");
    }
    for (text, error) in [
        ("", TopicError::Empty),
        ("a\0", TopicError::Null),
        ("a#", TopicError::Wildcard),
        ("#/a", TopicError::Wildcard),
        ("a/#/b", TopicError::Wildcard),
        ("a+", TopicError::Wildcard),
        ("+a/b", TopicError::Wildcard),
        ("a/++", TopicError::Wildcard),
        ("##", TopicError::Wildcard),
        ("$share/g/a#", TopicError::Wildcard),
        ("$share", TopicError::Share),
        ("$share/", TopicError::Share),
        ("$share/g", TopicError::Share),
        ("$share/g/", TopicError::Share),
        ("$share//a", TopicError::Share),
        ("$share/+/a", TopicError::Share),
        ("$share/g#/a", TopicError::Share),
        ("$share/g/$share/h/a", TopicError::Share),
        ("$share/g/$queue/a", TopicError::Share),
        ("$queue/", TopicError::Share),
    ] {
        assert_eq!(TopicFilter::new(text), Err(error), "{text:?}");
    }
}

/// [MQTT-4.8.2-1, -2]
#[test]
fn shared_subscriptions_have_a_name_and_a_filter() {
    for (text, share, inner) in [
        ("$share/g/a/+", "g", "a/+"),
        ("$share/g//", "g", "/"),
        ("$share/g k/#", "g k", "#"),
        ("$share/$queue/a", "$queue", "a"),
        ("$queue/a/b", "$queue", "a/b"),
    ] {
        let shared = filter(text).shared().unwrap();
        assert_eq!((&*shared.name, shared.filter.as_str()), (share, inner), "{text}");
        assert_eq!(shared.filter.shared(), None);
    }
}

/// [MQTT-4.7.1-2], [MQTT-4.7.2-1], [MQTT-4.7.3-4]
#[test]
fn matching() {
    for (filter_text, yes, no) in [
        ("a/b", &["a/b"][..], &["a", "a/b/c", "a/B", "/a/b", "a/b/"][..]),
        ("a/+", &["a/b", "a/"], &["a", "a/b/c", "b/a"]),
        ("a/#", &["a", "a/b", "a/b/c", "a/"], &["ab", "b/a", "/a"]),
        ("+", &["a", " "], &["a/", "/a", "$SYS"]),
        ("#", &["a", "/", "a/b/c"], &["$SYS", "$SYS/x"]),
        ("+/+", &["/a", "/", "a/b"], &["a", "$SYS/x"]),
        ("+/x", &["a/x"], &["$SYS/x"]),
        ("/+", &["/a"], &["a"]),
        ("$SYS/#", &["$SYS", "$SYS/x"], &["SYS/x"]),
        ("$SYS/+", &["$SYS/x"], &["$SYS"]),
        ("+/b/#", &["a/b", "a/b/c", "/b"], &["a/c", "$a/b"]),
        ("$share/g/a/+", &["a/b"], &["$share/g/a/b"]),
        ("$share/g/#", &["a"], &["$SYS/x"]),
        ("$queue/a", &["a"], &["$queue/a"]),
        ("*", &["*"], &["a"]),
        (">", &[">"], &["a"]),
        // The same to the eye: composed and decomposed, ligature and letters, an ordinary and a no-break space.
        ("caf\u{e9}", &["caf\u{e9}"], &["cafe\u{301}", "CAF\u{c9}", "caf\u{e9} "]),
        ("\u{fb01}x/+", &["\u{fb01}x/y"], &["fix/y"]),
        ("a b", &["a b"], &["a\u{a0}b", "a%20b", "a  b"]),
        ("\u{feff}a", &["\u{feff}a"], &["a"]),
    ] {
        for topic in yes {
            assert!(filter(filter_text).matches(&name(topic)), "{filter_text} and {topic}");
        }
        for topic in no {
            assert!(!filter(filter_text).matches(&name(topic)), "{filter_text} and {topic}");
        }
    }
}

#[test]
fn conversions_keep_what_the_types_promise() {
    assert_eq!(TopicFilter::try_from(name("a/b")), Ok(filter("a/b")));
    assert_eq!(TopicFilter::try_from(name("$share/g/a")), Err(TopicError::Share));
    assert_eq!(TopicFilter::try_from(name("$queue/a")), Err(TopicError::Share));
    assert_eq!(TopicName::try_from(filter("a/b")), Ok(name("a/b")));
    assert_eq!(TopicName::try_from(filter("a/+")), Err(TopicError::Wildcard));
    assert_eq!("a/+".parse(), Ok(filter("a/+")));
    assert_eq!(ByteString::from(name("a")), "a");
    assert_eq!(name("a/b").to_string(), "a/b");
    assert_eq!(filter("a//+").levels().collect::<Vec<_>>(), ["a", "", "+"]);
    assert!(filter("a/+").has_wildcards() && filter("a/#").has_wildcards() && !filter("a").has_wildcards());
}

/// The rules once more, by recursion over levels.
fn matches_by_the_book(filter: &[&str], topic: &[&str]) -> bool {
    match (filter, topic) {
        (["#"], _) | ([], []) => true,
        (["+", filter @ ..], [_, topic @ ..]) => matches_by_the_book(filter, topic),
        ([a, filter @ ..], [b, topic @ ..]) => a == b && matches_by_the_book(filter, topic),
        _ => false,
    }
}

proptest! {
    #![proptest_config(cases(5_000))]

    #[test]
    fn matching_agrees_with_a_plain_reading_of_the_rules(
        filter_text in "([ab$]?|\\+)(/([ab$]?|\\+)){0,3}(/#)?",
        topic in "[ab$]?(/[ab$]?){0,3}",
    ) {
        let (Ok(filter), Ok(topic)) = (TopicFilter::new(filter_text), TopicName::new(topic)) else { return Ok(()) };
        let is_hidden = topic.starts_with('$') && filter.starts_with(['+', '#']);
        let levels = (filter.levels().collect::<Vec<_>>(), topic.levels().collect::<Vec<_>>());
        let expected = !is_hidden && matches_by_the_book(&levels.0, &levels.1);
        prop_assert_eq!(filter.matches(&topic), expected, "{} and {}", filter, topic);
    }
}
