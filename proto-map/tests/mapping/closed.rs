//! What devices never see of NATS, whichever way they ask.

use mqtt_codec::{TopicFilter, TopicName};
use proto_map::{ClosedTrees, subject_of};

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
        assert!(trees.hides_from_wildcard(subject), "{subject}");
        let topic = TopicName::new(subject.replace('.', "/")).unwrap();
        assert!(trees.hides_topic_from_wildcard(&topic), "{subject}");
    }
    for subject in ["plant.line1", "_x.y", "x.$JS", "/.$JS", "owner.x"] {
        assert!(!trees.hides_from_wildcard(subject), "{subject}");
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
