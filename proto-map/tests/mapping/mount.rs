//! Mount points: what becomes of every topic on its way in and out.

use mqtt_codec::{
    Connect, Delivery, MessageProperties, Packet, PacketId, Publish, PublishTopic, Subscribe, SubscribeEntry,
    SubscriptionOptions, TopicError, TopicFilter, TopicName, Unsubscribe, Version, Violation, Will,
};
use proptest::prelude::*;
use proto_map::{MountPoint, MountPointError, client_of, session_name};

fn site() -> MountPoint {
    MountPoint::new("site7/", "$NMQ").unwrap()
}

fn topic(text: impl Into<String>) -> TopicName {
    TopicName::new(text.into()).unwrap()
}

fn filter(text: &str) -> TopicFilter {
    TopicFilter::new(text.to_owned()).unwrap()
}

#[test]
fn a_mount_point_is_some_plain_levels_with_a_separator_behind_each() {
    for (text, levels) in [("site7/", 1), ("plant/line 1/", 2), ("a.b/ü/", 2)] {
        assert_eq!(MountPoint::new(text, "$NMQ").unwrap().levels(), levels, "{text}");
    }
    let long = format!("{}/", "x".repeat(256));
    for (text, error) in [
        ("site7", MountPointError::Open as fn(String) -> MountPointError),
        ("", MountPointError::Open),
        ("/", MountPointError::EmptyLevel),
        ("/a/", MountPointError::EmptyLevel),
        ("a//", MountPointError::EmptyLevel),
        ("a//b/", MountPointError::EmptyLevel),
        ("a/+/", MountPointError::Character),
        ("#", MountPointError::Character),
        ("$aws/", MountPointError::Character),
        ("a/$b/", MountPointError::Character),
        ("a\0/", MountPointError::Character),
        (&long, MountPointError::TooLong),
        ("_INBOX/", MountPointError::Closed),
        ("own/x/", MountPointError::Closed),
    ] {
        assert_eq!(MountPoint::new(text, "own"), Err(error(text.to_owned())), "{text:?}");
    }
    let said = MountPoint::new("site7", "$NMQ").unwrap_err().to_string();
    assert_eq!(said, "\"site7\" has no \"/\" at its end, where its last level ends: write \"site7/\"");
}

#[test]
fn topics_are_full_inside_but_for_those_that_are_everywhere() {
    let mount = site();
    for (of_device, inside) in [
        ("a/b", "site7/a/b"),
        ("/", "site7//"),
        ("site7/a", "site7/site7/a"),
        ("$aws/x", "site7/$aws/x"),
        ("$SYSTEM/x", "site7/$SYSTEM/x"),
        ("$KV/config/x", "site7/$KV/config/x"),
        ("$share/g/a", "site7/$share/g/a"),
        ("$SYS/broker/uptime", "$SYS/broker/uptime"),
        ("$SYS", "$SYS"),
        ("$NMQ/reply/TOKEN", "$NMQ/reply/TOKEN"),
        ("$NMQ/reply/next/a/b", "$NMQ/reply/next/site7/a/b"),
        ("$NMQ/reply/last/a", "$NMQ/reply/last/site7/a"),
        ("$NMQ/reply/next/$SYS/a", "$NMQ/reply/next/$SYS/a"),
        ("$NMQ/log/a", "$NMQ/log/a"),
    ] {
        assert_eq!(mount.inside(&topic(of_device)).unwrap(), inside, "{of_device}");
        assert_eq!(mount.outside(&topic(inside)).unwrap(), of_device, "{inside}");
        assert!(mount.has(&topic(inside)), "{inside}");
    }
    // What no device of the mount has a name for.
    for outside in
        ["site7", "site7/", "site70/a", "site/7/a", "a", "/site7/a", "site7/$SYS/a", "site7/$NMQ/reply/x", "$aws/x"]
    {
        assert_eq!(mount.outside(&topic(outside)), None, "{outside}");
        assert!(!mount.has(&topic(outside)), "{outside}");
    }
    assert_eq!(mount.outside(&topic("$NMQ/reply/next/other/a")), None);
    let longest = topic("x".repeat(65_535 - "site7/".len()));
    assert_eq!(mount.inside(&longest).unwrap().len(), 65_535);
    assert_eq!(mount.inside(&topic(format!("{longest}x"))), Err(TopicError::TooLong));
}

#[test]
fn filters_are_full_inside_the_share_name_in_front() {
    let mount = site();
    for (of_device, inside, leads) in [
        ("#", "site7/#", true),
        ("+/a", "site7/+/a", true),
        ("a/#", "site7/a/#", false),
        ("/#", "site7//#", false),
        ("$aws/#", "site7/$aws/#", false),
        ("$share/g/a/b", "$share/g/site7/a/b", false),
        ("$share/g/#", "$share/g/site7/#", true),
        ("$queue/+", "$queue/site7/+", true),
        ("$share/g/$SYS/#", "$share/g/$SYS/#", false),
        ("$SYS/#", "$SYS/#", false),
        ("$NMQ/reply/x", "$NMQ/reply/x", false),
    ] {
        let full = mount.filter_inside(&filter(of_device)).unwrap();
        assert_eq!(full, inside, "{of_device}");
        assert_eq!(mount.leads_with_wildcard(&full), leads, "{of_device}");
    }
    assert!(!mount.leads_with_wildcard(&filter("#")) && !mount.leads_with_wildcard(&filter("other/#")));
    let long = filter(&"x".repeat(65_530));
    assert_eq!(mount.filter_inside(&long), Err(TopicError::TooLong));
    assert!(mount.is_dollar(&topic("site7/$aws/x")) && !mount.is_dollar(&topic("site7/aws/$x")));
    assert!(!mount.is_dollar(&topic("$SYS/broker")) && !mount.is_dollar(&topic("other/$x")));
}

fn answering(response_topic: &str) -> Option<Box<MessageProperties>> {
    let response_topic = Some(topic(response_topic));
    Some(Box::new(MessageProperties { response_topic, ..MessageProperties::default() }))
}

fn publish(of: PublishTopic, response_topic: &str) -> Packet {
    Packet::Publish(Publish {
        dup: false,
        retain: false,
        delivery: Delivery::AtMostOnce,
        topic: of,
        payload: "x".into(),
        properties: answering(response_topic),
        subscription_ids: Vec::new(),
    })
}

#[test]
fn everything_that_a_device_sends_is_full_when_it_has_entered() {
    let (mount, alias) = (site(), 1.try_into().unwrap());
    let entered = |mut packet: Packet| mount.enter(&mut packet).map(|()| packet);
    for (of_device, inside) in [
        (PublishTopic::Name(topic("t")), PublishTopic::Name(topic("site7/t"))),
        (PublishTopic::Define(topic("t"), alias), PublishTopic::Define(topic("site7/t"), alias)),
        (PublishTopic::Alias(alias), PublishTopic::Alias(alias)),
    ] {
        assert_eq!(entered(publish(of_device, "r")), Ok(publish(inside, "site7/r")));
    }
    let subscribe = |filters: [Result<&str, &str>; 3]| {
        let entry = |text: Result<&str, &str>| SubscribeEntry {
            filter: text.map(filter).map_err(Into::into),
            options: SubscriptionOptions::default(),
        };
        let entries = filters.into_iter().map(entry).collect();
        let (packet_id, subscription_id, user_properties) = (PacketId::new(1).unwrap(), None, Vec::new());
        Packet::Subscribe(Subscribe { packet_id, subscription_id, user_properties, entries })
    };
    let long = "x".repeat(65_530);
    assert_eq!(
        entered(subscribe([Ok("a/+"), Err("a+"), Ok(&long)])),
        Ok(subscribe([Ok("site7/a/+"), Err("a+"), Err(&long)]))
    );
    let unsubscribe = |filters: [Result<&str, &str>; 2]| {
        let filters = filters.into_iter().map(|text| text.map(filter).map_err(Into::into)).collect();
        Packet::Unsubscribe(Unsubscribe { packet_id: PacketId::new(1).unwrap(), user_properties: Vec::new(), filters })
    };
    let ended = entered(unsubscribe([Ok("$share/g/a"), Err("")]));
    assert_eq!(ended, Ok(unsubscribe([Ok("$share/g/site7/a"), Err("")])));
    let connect = |of: &str, response_topic: &str| {
        let (payload, qos) = ("x".into(), Default::default());
        let properties = answering(response_topic);
        let will = Will { topic: topic(of), payload, qos, retain: true, delay_interval_s: 0, properties };
        Packet::Connect(Box::new(Connect { will: Some(Box::new(will)), ..Connect::new(Version::V5, "c") }))
    };
    assert_eq!(entered(connect("w", "$NMQ/reply/T")), Ok(connect("site7/w", "$NMQ/reply/T")));
    assert_eq!(entered(Packet::PingReq), Ok(Packet::PingReq));
    let too_long = TopicError::TooLong;
    assert_eq!(entered(publish(PublishTopic::Name(topic(&*long)), "r")), Err(Violation::TopicName(too_long)));
    assert_eq!(entered(publish(PublishTopic::Name(topic("t")), &long)), Err(Violation::ResponseTopic(too_long)));
    assert_eq!(entered(connect(&long, "r")), Err(Violation::WillTopic(too_long)));
}

#[test]
fn a_response_topic_outside_of_the_mount_is_left_out() {
    for (inside, of_device) in [("site7/r", Some("r")), ("other/r", None), ("$NMQ/reply/T", Some("$NMQ/reply/T"))] {
        let properties = answering(inside).unwrap();
        let left = site().properties_outside(&properties).response_topic;
        assert_eq!(left.as_deref(), of_device, "{inside}");
    }
}

#[test]
fn one_identifier_under_two_mount_points_is_two_sessions() {
    let other = MountPoint::new("site8/", "$NMQ").unwrap();
    let names = [None, Some(&site()), Some(&other)].map(|mount| session_name(mount, "dev").to_string());
    assert_eq!(names, ["dev", "site7/\0dev", "site8/\0dev"]);
    assert_eq!(
        names.each_ref().map(|name| client_of(name)),
        [(None, "dev"), (Some("site7/"), "dev"), (Some("site8/"), "dev")]
    );
    assert_eq!(client_of("site7/dev"), (None, "site7/dev"));
}

proptest! {
    #[test]
    fn what_goes_in_comes_out_as_it_was(text in "(\\$SYS|\\$NMQ|\\$|site7|a|é|reply|next|last|/){1,8}") {
        let (mount, name) = (site(), topic(text));
        let inside = mount.inside(&name).unwrap();
        prop_assert!(mount.has(&inside));
        prop_assert_eq!(mount.outside(&inside), Some(name));
    }

    #[test]
    fn what_comes_out_goes_in_where_it_was(text in "(\\$SYS|\\$NMQ|\\$|site7|a|é|reply|next|last|/){1,8}") {
        let (mount, name) = (site(), topic(text));
        if let Some(outside) = mount.outside(&name) {
            prop_assert_eq!(mount.inside(&outside), Ok(name));
        }
    }

    #[test]
    fn a_filter_matches_inside_what_it_matches_outside(
        wanted in "(a|b|\\$x|\\+|/|\\$SYS){1,5}(/#)?",
        text in "(a|b|\\$x|/|\\$SYS){1,5}",
    ) {
        let (Ok(wanted), name) = (TopicFilter::new(wanted), topic(text)) else { return Ok(()) };
        let mount = site();
        let (full, inside) = (mount.filter_inside(&wanted).unwrap(), mount.inside(&name).unwrap());
        let is_hidden = mount.leads_with_wildcard(&full) && mount.is_dollar(&inside);
        prop_assert_eq!(wanted.matches(&name), full.matches(&inside) && !is_hidden);
    }
}
