//! What is refused, and what is said of it.

use bytes::Bytes;
use bytestring::ByteString;
use mqtt_codec::{Connect, ConnectProperties, MessageProperties, QoS, ReasonCode, TopicName, Version, Will};
use mqtt_session::Publication;

use crate::account::played::{Fate, World, answers};
use crate::account::publish::{Refused, reason_of};
use crate::account::{DeniedPublish, Rights};
use crate::metrics::DropReason;
use crate::store::PutError;

#[test]
fn every_refusal_has_a_reason_a_count_and_words() {
    let all = [
        (Refused::Closed, ReasonCode::NotAuthorized, DropReason::NotAuthorized),
        (Refused::Denied, ReasonCode::NotAuthorized, DropReason::NotAuthorized),
        (Refused::Unstored(ReasonCode::QoSNotSupported), ReasonCode::QoSNotSupported, DropReason::NotAuthorized),
        (Refused::Late, ReasonCode::TopicNameInvalid, DropReason::NotAuthorized),
        (Refused::Unmappable(ReasonCode::TopicNameInvalid), ReasonCode::TopicNameInvalid, DropReason::NotAuthorized),
        (Refused::TooLarge, ReasonCode::QuotaExceeded, DropReason::TooLarge),
        (Refused::OverPayload, ReasonCode::QuotaExceeded, DropReason::TooLarge),
        (Refused::NoRoom, ReasonCode::QuotaExceeded, DropReason::QueueFull),
        (Refused::OverLimit, ReasonCode::QuotaExceeded, DropReason::QueueFull),
    ];
    let mut words = std::collections::HashSet::new();
    for (refused, reason, count) in all {
        assert_eq!((refused.reason_code(), refused.drop_reason()), (reason, count), "{refused:?}");
        assert!(words.insert(refused.why()), "{refused:?}: each is told apart");
    }
}

/// What PUBACK cannot say ends the connection: it may be stored all the same.
#[test]
fn what_is_said_of_a_message_that_was_not_stored() {
    for (error, reason) in [
        (PutError::NoStream, ReasonCode::ImplementationSpecificError),
        (PutError::Rejected { code: 10071, text: String::new() }, ReasonCode::ImplementationSpecificError),
        (PutError::Invalid { what: "subject" }, ReasonCode::ImplementationSpecificError),
        (PutError::Full { code: 10077, text: String::new() }, ReasonCode::QuotaExceeded),
        (PutError::TooLarge, ReasonCode::QuotaExceeded),
        (PutError::Unavailable, ReasonCode::ServerBusy),
        (PutError::Withdrawn, ReasonCode::ServerBusy),
    ] {
        assert_eq!(reason_of(&error), reason, "{error:?}");
    }
}

#[tokio::test]
async fn closed_trees_and_topics_without_a_subject_are_refused_and_nothing_is_sent() {
    let world = World::start().await;
    let mut client = world.client("c");
    world.server.rule(|said| {
        assert!(!said.subject.starts_with("$NMQ.log."), "{}", said.subject);
        Fate::Taken
    });
    for (topic, refused) in [
        ("$SYS/x".to_owned(), Refused::Closed),
        ("$JS/x".to_owned(), Refused::Closed),
        ("$KV/x/y".to_owned(), Refused::Closed),
        ("x".repeat(5_000), Refused::Unmappable(ReasonCode::TopicNameInvalid)),
    ] {
        for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
            assert_eq!(client.try_publish(&topic, qos, false, "x"), Err(refused), "{topic}");
        }
    }
    assert!(client.publishing.is_idle());
}

#[tokio::test]
async fn properties_that_no_header_block_takes_are_answered_in_their_turn() {
    let world = World::start().await;
    let mut client = world.client("c");
    let user_properties = (0..40).map(|n| (ByteString::from(n.to_string()), "x".repeat(2_000).into())).collect();
    let properties = MessageProperties { user_properties, ..MessageProperties::default() };
    client.publish("a", QoS::AtLeastOnce, false, "before");
    let publication = client.publication("a", QoS::AtLeastOnce, false, "too much");
    client.publish_as(Publication { properties: Some(Box::new(properties)), ..publication }).unwrap();
    client.publish("a", QoS::AtLeastOnce, false, "behind");
    let mut outcomes = answers(&client.settle().await);
    outcomes.sort_unstable_by_key(|(token, _)| *token);
    let success = ReasonCode::Success;
    assert_eq!(outcomes, [(0, success), (1, ReasonCode::QuotaExceeded), (2, success)]);
    assert_eq!(super::logged(&world.server), ["before", "behind"]);
}

fn connect(version: Version, topic: &str, payload: usize, properties: Option<MessageProperties>) -> Connect {
    let will = Will {
        qos: QoS::AtLeastOnce,
        retain: true,
        topic: TopicName::new(topic.to_owned()).unwrap(),
        payload: Bytes::from(vec![b'x'; payload]),
        delay_interval_s: 0,
        properties: properties.map(Box::new),
    };
    let will = Box::new(will);
    Connect {
        version,
        bridge: false,
        clean_start: true,
        keep_alive_s: 0,
        client_id: "c".into(),
        will: Some(will),
        username: None,
        password: None,
        properties: ConnectProperties::default(),
    }
}

#[tokio::test]
async fn a_will_is_judged_with_its_connect_as_its_publish_will_be() {
    let world = World::with(|config| config.mqtt.max_will_size = crate::config::ByteSize(900_000)).await;
    let rights = std::sync::Arc::new(Rights::all());
    let judge = |connect: &Connect| world.account.judge_will(connect, &"c".into(), &rights);
    assert_eq!(judge(&Connect { will: None, ..connect(Version::V5, "a", 1, None) }), Ok(()));
    let user_properties = (0..40).map(|n| (ByteString::from(n.to_string()), "x".repeat(2_000).into())).collect();
    let large = MessageProperties { user_properties, ..MessageProperties::default() };
    let closed = TopicName::new("$SYS/x").unwrap();
    let closed = MessageProperties { response_topic: Some(closed), ..MessageProperties::default() };
    let (denied, over) = (ReasonCode::NotAuthorized, ReasonCode::QuotaExceeded);
    for (topic, payload, properties, v5) in [
        ("a", 10, None, Ok(())),
        ("$SYS/x", 10, None, Err(denied)),
        (&*"x".repeat(5_000), 10, None, Err(ReasonCode::TopicNameInvalid)),
        ("a", 950_000, None, Err(over)),
        // The record of the session has to take it as well, in a form that is longer.
        ("a", 850_000, None, Err(over)),
        ("a", 10, Some(large), Err(over)),
        ("a", 10, Some(closed), Err(denied)),
    ] {
        assert_eq!(judge(&connect(Version::V5, topic, payload, properties)), v5, "{} {payload}", topic.len());
    }
    for (topic, payload, v3) in [("a", 10, Ok(())), ("a", 950_000, Err(denied)), ("a", 850_000, Err(denied))] {
        assert_eq!(judge(&connect(Version::V311, topic, payload, None)), v3, "{payload}");
    }
    // Such a one is dropped without a word, as the PUBLISH is.
    assert_eq!(world.account.options.denied_publish, DeniedPublish::Drop);
    assert_eq!(judge(&connect(Version::V311, "$SYS/x", 10, None)), Ok(()));
}

#[tokio::test]
async fn what_a_bridge_says_of_itself_stays_on_this_sidecar_and_is_short() {
    let world = World::start().await;
    let (mut bridge, mut other) = (world.client("bridge"), world.client("other"));
    let topic = "$SYS/broker/connection/bridge/state";
    other.subscribe(&[topic], QoS::AtMostOnce).await;
    bridge.publish(topic, QoS::AtLeastOnce, true, "1");
    assert_eq!(answers(&bridge.settle().await), [(0, ReasonCode::Success)]);
    let (mut out, mut messages, mut behind) = (crate::account::Segments::default(), Vec::new(), Vec::new());
    let copies = other.control.inbox().take_messages(&mut out, 0, &mut messages, &mut behind);
    assert_eq!(copies, [1, 1]);
    let late = world.client("late").subscribe(&[topic], QoS::AtMostOnce).await;
    assert_eq!(late.retained.len(), 1, "it is kept here");
    assert!(super::logged(&world.server).is_empty());
    assert!(world.server.said("$SYS.broker.connection.>").is_empty());
    assert_eq!(bridge.try_publish(topic, QoS::AtLeastOnce, true, &"x".repeat(100)), Err(Refused::TooLarge));
    assert_eq!(other.try_publish(topic, QoS::AtLeastOnce, true, "0"), Err(Refused::Closed), "another one's");
    let rights = std::sync::Arc::new(Rights::all());
    let judge = |payload| {
        let connect = Connect { client_id: "bridge".into(), ..connect(Version::V5, topic, payload, None) };
        world.account.judge_will(&connect, &"bridge".into(), &rights)
    };
    assert_eq!((judge(1), judge(100)), (Ok(()), Err(ReasonCode::QuotaExceeded)));
}

#[tokio::test]
async fn what_is_larger_than_its_user_may_send_is_refused_before_anything_else() {
    use mqtt_access::{Limit, Limits, Principal};
    let world = World::start().await;
    let limits = Limits { payload: Limit::Max(10), ..Principal::all().limits };
    let rights = Rights::new(std::sync::Arc::new(Principal { limits, ..Principal::all() }), Default::default());
    let mut client = world.client_of("c", Version::V5, rights, world.account.options.inbox);
    for topic in ["a", "$SYS/x"] {
        assert_eq!(client.try_publish(topic, QoS::AtLeastOnce, false, "12345678901"), Err(Refused::OverPayload));
    }
    client.publish("a", QoS::AtLeastOnce, false, "1234567890");
    assert_eq!(client.settle().await.len(), 1);
}
