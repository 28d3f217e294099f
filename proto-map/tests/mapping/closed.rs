//! What devices never see of NATS, whichever way they ask.

use mqtt_codec::{TopicFilter, TopicName};
use proto_map::{ClosedTrees, ROOT_TREES_MAX, RootWildcard, matches as subject_matches, subject_of};

const CLOSED: &[&str] = &[
    "$JS/API/STREAM/DELETE/ORD",
    "$SYS/REQ/USER/INFO",
    "$SYS/broker/uptime",
    "$SRV/PING",
    "$KV/config/a",
    "$OBJ/files/x",
    "$O/files/x",
    "$NRG/x",
    "$MQTT/msgs/a",
    "_INBOX/abc/1",
    "_R_/x",
    "_GR_/x",
    "$NMQ/log/a",
    "$JS",
    "_INBOX",
];

const ORDINARY: &[&str] = &[
    "$aws/things/x/shadow",
    "$iothub/twin/GET",
    "$dps/registrations",
    "$JSON/x",
    "$js/x",
    "$JS.API/x",
    "_INBOX.abc",
    "x/$JS/API",
    "/$JS/API",
    "_inbox/x",
    "plant/line1",
    "$",
    "_",
    "/",
];

#[test]
fn closed_topics_are_closed_as_topic_as_subject_and_as_filter() {
    let trees = ClosedTrees::default();
    for (texts, closed) in [(CLOSED, true), (ORDINARY, false)] {
        for text in texts {
            let topic = TopicName::new(*text).unwrap();
            let subject = subject_of(&topic).unwrap();
            assert_eq!(trees.is_closed_topic(&topic), closed, "{text}");
            assert_eq!(trees.is_closed_subject(subject.as_str()), closed, "{subject}");
            for filter in [text.to_string(), format!("{text}/#"), format!("$share/g/{text}"), format!("$queue/{text}")]
            {
                assert_eq!(trees.filter_is_closed(&TopicFilter::new(&*filter).unwrap()), closed, "{filter}");
            }
        }
    }
}

#[test]
fn wildcards_at_the_first_level_see_neither_dollar_topics_nor_closed_ones() {
    let trees = ClosedTrees::new("own", &["$KV.config", "_INBOX.devices"]);
    for subject in
        ["$aws.x", "$JS.API.INFO", "$KV.config.a", "_INBOX.a.b", "_INBOX.devices.a", "_R_.x", "own.log.x", "own"]
    {
        let topic = TopicName::new(subject.replace('.', "/")).unwrap();
        assert!(trees.hides_topic_from_wildcard(&topic), "{subject}");
    }
    for subject in ["plant.line1", "_x.y", "x.$JS", "/.$JS", "owner.x"] {
        let topic = proto_map::topic_of(subject).unwrap();
        assert!(!trees.hides_topic_from_wildcard(&topic), "{subject}");
    }
    for filter in ["#", "+", "+/API/#", "+/a"] {
        assert!(!trees.filter_is_closed(&TopicFilter::new(filter).unwrap()), "{filter}");
    }
}

#[test]
fn the_operator_opens_trees_by_name() {
    let trees = ClosedTrees::new("$NMQ", &["$KV.config.>", "$SYS.ACCOUNT", "$NMQ.log", "$KV.My%20Bucket", ""]);
    for (text, closed) in [
        ("$KV/config", false),
        ("$KV/config/a/b", false),
        ("$KV/config/#", false),
        ("$KV/config/+", false),
        ("$KV/My Bucket/x", false),
        ("$SYS/ACCOUNT/+/CONNECT", false),
        ("$KV/configs/a", true),
        ("$KV/#", true),
        ("$KV/+/a", true),
        ("$KV/+", true),
        ("$KV", true),
        ("$SYS/#", true),
        ("$NMQ/log/a", true),
        ("$NMQ/log/#", true),
    ] {
        assert_eq!(trees.filter_is_closed(&TopicFilter::new(text).unwrap()), closed, "{text}");
        if let Ok(topic) = TopicName::new(text) {
            assert_eq!(trees.is_closed_topic(&topic), closed, "{text}");
            assert_eq!(trees.is_closed_subject(subject_of(&topic).unwrap().as_str()), closed, "{text}");
        }
    }
}

#[test]
fn a_prefix_of_several_tokens_closes_its_first() {
    let trees = ClosedTrees::new("mqtt.internal", &[]);
    assert!(trees.is_closed_subject("mqtt.other"));
    assert!(!trees.is_closed_subject("$NMQ.log.x"));
}

fn subjects(trees: &ClosedTrees, filter: &str) -> String {
    let subjects = trees.subjects_of(&TopicFilter::new(filter).unwrap()).unwrap();
    subjects.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

#[test]
fn wildcards_at_the_first_level_are_narrowed_to_trees_or_refused() {
    let full = ClosedTrees::default();
    assert_eq!(subjects(&full, "#"), ">");
    assert!(full.wildcard_sees_all() && !full.refuses_wildcard(&TopicFilter::new("#").unwrap()));
    let narrow = RootWildcard::trees(["sensors/a.b/c", "home/#", "home/kitchen", "sensors/a.b"]);
    let trees = ClosedTrees::default().with_root_wildcard(narrow);
    for (filter, expected) in [
        ("#", "home.> home sensors.a//b.> sensors.a//b"),
        ("+/#", "home.> home sensors.a//b.> sensors.a//b"),
        ("+", "home"),
        ("+/+", "home.* sensors.a//b"),
        ("+/a.b", "home.a//b sensors.a//b"),
        ("+/x/#", "home.x.> home.x"),
        ("+/+/c/#", "home.*.c.> home.*.c sensors.a//b.c.> sensors.a//b.c"),
        ("$share/g/#", "home.> home sensors.a//b.> sensors.a//b"),
        ("other/#", "other.> other"),
    ] {
        assert_eq!(subjects(&trees, filter), expected, "{filter}");
        assert!(!trees.refuses_wildcard(&TopicFilter::new(filter).unwrap()), "{filter}");
    }
    for (topic, is_hidden) in [
        ("home", false),
        ("home/x/y", false),
        ("homes", true),
        ("sensors/a.b/x", false),
        ("sensors", true),
        ("$x", true),
    ] {
        assert_eq!(trees.hides_topic_from_wildcard(&TopicName::new(topic).unwrap()), is_hidden, "{topic}");
    }
    let refuse = ClosedTrees::default().with_root_wildcard(RootWildcard::Refuse);
    for filter in ["#", "+", "+/a", "$share/g/#", "$share/g/+/x"] {
        assert!(refuse.refuses_wildcard(&TopicFilter::new(filter).unwrap()), "{filter}");
    }
    for filter in ["a/#", "a/+", "$share/g/a/#", "$SYS/#", "/+"] {
        assert!(!refuse.refuses_wildcard(&TopicFilter::new(filter).unwrap()), "{filter}");
    }
    let nothing_left = ClosedTrees::default().with_root_wildcard(RootWildcard::trees(["a/b/c"]));
    for filter in ["+", "+/b", "+/x/#"] {
        assert!(nothing_left.refuses_wildcard(&TopicFilter::new(filter).unwrap()), "{filter}");
    }
    let many: Vec<String> = (0..=ROOT_TREES_MAX).map(|n| format!("t{n}")).collect();
    let many = RootWildcard::trees(many.iter().map(String::as_str));
    assert!(matches!(many, RootWildcard::Trees(trees) if trees.len() == ROOT_TREES_MAX));
}

/// What is subscribed to is what matches, and each of it once.
#[test]
fn a_narrowed_filter_has_exactly_the_subjects_of_what_it_sees() {
    let levels = ["a", "b", "c"];
    let mut topics: Vec<String> = levels.iter().map(ToString::to_string).collect();
    for _ in 0..2 {
        let deeper = topics.iter().flat_map(|topic| levels.iter().map(move |level| format!("{topic}/{level}")));
        topics = topics.iter().cloned().chain(deeper.collect::<Vec<_>>()).collect();
        topics.sort();
        topics.dedup();
    }
    let lists: &[&[&str]] = &[&["a"], &["a/b"], &["a/b", "b"], &["c/c/c", "a"], &["a/a", "a/b", "b/#"]];
    let filters = ["#", "+", "+/#", "+/+", "+/b", "+/b/#", "+/+/c", "+/+/#", "+/c/c", "+/a/+"];
    for list in lists {
        let trees = ClosedTrees::default().with_root_wildcard(RootWildcard::trees(list.iter().copied()));
        for filter in filters {
            let filter = TopicFilter::new(filter).unwrap();
            let subjects = trees.subjects_of(&filter).unwrap();
            for topic in topics.iter().map(|topic| TopicName::new(topic.as_str()).unwrap()) {
                let subject = subject_of(&topic).unwrap();
                let count = subjects.iter().filter(|held| subject_matches(held.as_str(), subject.as_str())).count();
                let sees = filter.matches(&topic) && !trees.hides_topic_from_wildcard(&topic);
                assert_eq!(count, usize::from(sees), "{list:?} {} {}", filter.as_str(), topic.as_str());
            }
        }
    }
}
