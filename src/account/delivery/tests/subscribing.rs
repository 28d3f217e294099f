//! SUBSCRIBE and UNSUBSCRIBE: what is granted, what of the retained messages comes with it, and what NATS is asked for.

use std::collections::VecDeque;

use bytestring::ByteString;
use mqtt_codec::{QoS, ReasonCode, RetainHandling, SubscriptionOptions, TopicFilter};
use mqtt_session::{Position, Sequence};

use crate::account::delivery::retained::RetainedCursor;
use crate::account::played::{Fate, PlayedClient, World, text, until};
use crate::account::{Rights, Subscribed};
use crate::store::{RetainedProgress, StoredRetained, StoredSubscription};

fn reasons(subscribed: &Subscribed) -> Vec<ReasonCode> {
    subscribed.reasons.iter().flat_map(|(_, reasons)| reasons).copied().collect()
}

/// The retained messages that are owed, as topics and payloads.
fn owed(client: &PlayedClient, cursors: Vec<RetainedCursor>) -> Vec<(String, String)> {
    let rights = Rights::all();
    let mut all = Vec::new();
    for mut cursor in cursors {
        let (mut out, mut looks) = (VecDeque::new(), usize::MAX);
        while client.account.retained_page(&mut cursor, &rights, &mut looks, &mut out) {}
        assert!(out.iter().all(|outgoing| outgoing.grant.retain), "[MQTT-3.3.1-8 of 3.1.1]");
        all.extend(out.iter().map(|o| (o.message.topic.as_str().to_owned(), text(&o.message.payload))));
    }
    all
}

/// [MQTT-3.8.4-5], [MQTT-3.8.4-6], [MQTT-3.9.3-1]
#[tokio::test]
async fn each_filter_of_a_packet_has_its_reason() {
    let world = World::with(|config| {
        config.mqtt.max_subscriptions = 4;
        config.mqtt.max_filters_per_packet = 9;
        config.mqtt.max_filter_length = 40;
        config.mqtt.max_topic_levels = 6;
        config.jetstream.shared.max_name_length = 5;
        config.jetstream.shared.max_groups_per_client = 1;
    })
    .await;
    let mut client = world.client("c");
    let (long, deep) = ("x".repeat(41), "a/b/c/d/e/f/g");
    let filters = ["a", "a/#/b", &long, deep, "$JS/x/#", "$share/toolong/a", "b/+", "a", "b/+", "beyond"];
    let subscribed = client.subscribe(&filters, QoS::AtLeastOnce).await;
    let (invalid, over) = (ReasonCode::TopicFilterInvalid, ReasonCode::QuotaExceeded);
    let (granted, denied) = (ReasonCode::GrantedQoS1, ReasonCode::NotAuthorized);
    let expected = [granted, invalid, invalid, invalid, denied, invalid, granted, granted, granted, over];
    assert_eq!(reasons(&subscribed), expected);
    let shared = client.subscribe(&["$share/g/a", "$share/h/a", "$share/g/a"], QoS::AtMostOnce).await;
    let success = ReasonCode::Success;
    assert_eq!(reasons(&shared), [success, over, success], "one group for a client, whether it asks again or not");
    assert_eq!(shared.made.len(), 2);
    let more = client.subscribe(&["c", "d", "a"], QoS::ExactlyOnce).await;
    assert_eq!(reasons(&more), [ReasonCode::GrantedQoS2, over, ReasonCode::GrantedQoS2]);
    assert_eq!(reasons(&client.subscribe(&["b/+"], QoS::AtMostOnce).await), [ReasonCode::Success]);
    assert_eq!(world.account.router.subscription_count(), 3);
}

/// [MQTT-3.10.4-1], [MQTT-3.11.3-1]
#[tokio::test]
async fn unsubscribe_ends_exactly_its_filters() {
    let world = World::start().await;
    let mut client = world.client("c");
    client.subscribe(&["a/b", "a/+", "$share/g/a"], QoS::AtLeastOnce).await;
    let filter = |text: &'static str| Ok(TopicFilter::new(text).unwrap());
    let unwanted = [filter("a/+"), filter("a/#"), Err(ByteString::from("a/#/b")), filter("$share/g/a")];
    let told = world.account.unsubscribe(client.control.inbox(), &mut client.filters, &unwanted);
    let (success, none) = (ReasonCode::Success, ReasonCode::NoSubscriptionExisted);
    assert_eq!(told, [success, none, ReasonCode::TopicFilterInvalid, success]);
    client.publish("a/c", QoS::AtLeastOnce, false, "not for it");
    client.publish("a/b", QoS::AtLeastOnce, false, "for it");
    client.settle().await;
    assert_eq!(client.receives(1).await, ["for it"]);
    world.account.forget_subscriptions(&client.control, client.filters.drain());
    assert_eq!(world.account.router.subscription_count(), 0);
}

/// [MQTT-3.3.1-9], [MQTT-3.3.1-10], [MQTT-3.3.1-11]
#[tokio::test]
async fn retained_messages_come_with_a_subscribe_as_it_says() {
    let world = World::start().await;
    let mut client = world.client("c");
    for topic in ["a/x", "a/y", "b"] {
        client.publish(topic, QoS::AtLeastOnce, true, topic);
    }
    client.settle().await;
    let handling = |retain_handling| SubscriptionOptions { retain_handling, ..SubscriptionOptions::default() };
    let both = [("a/x".to_owned(), "a/x".to_owned()), ("a/y".to_owned(), "a/y".to_owned())];
    for (retain_handling, comes) in [
        (RetainHandling::SendIfNew, true),
        (RetainHandling::SendIfNew, false),
        (RetainHandling::DoNotSend, false),
        (RetainHandling::Send, true),
    ] {
        let subscribed = client.subscribe_with(&["a/+"], handling(retain_handling)).await;
        let expected: &[(String, String)] = if comes { &both } else { &[] };
        assert_eq!(owed(&client, subscribed.retained), expected, "{retain_handling:?}");
    }
    assert!(client.subscribe(&["c/#"], QoS::AtLeastOnce).await.retained.is_empty(), "nothing is owed");
}

#[tokio::test]
async fn one_filter_of_many_clients_is_one_subscription_of_nats() {
    let world = World::start().await;
    let filter = TopicFilter::new("a/#").unwrap();
    let (one, two) =
        (world.account.interest.acquire(&filter).unwrap(), world.account.interest.acquire(&filter).unwrap());
    let other = world.account.interest.acquire(&TopicFilter::new("b").unwrap()).unwrap();
    assert!(one == two && other > one);
    assert_eq!(world.account.interest.order_of(&filter), Some(one));
    world.account.interest.release(&filter);
    assert_eq!(world.account.interest.order_of(&filter), Some(one), "somebody has it");
    world.account.interest.release(&filter);
    assert_eq!(world.account.interest.order_of(&filter), None);
    world.account.interest.release(&filter);
    let again = world.account.interest.acquire(&filter).unwrap();
    assert!(again > other, "it is another one, whose copies are told from those of before");
}

/// Whatever does not answer: QoS 0 goes on, and so do subscriptions of what is stored later.
#[tokio::test]
async fn a_subscribe_waits_for_what_answers_and_goes_on_without_what_does_not() {
    let world = World::start().await;
    let mut client = world.client("c");
    for code in [10008, 0] {
        world.server.rule(move |said| {
            let is_asked = said.subject.starts_with("$JS.API.STREAM.INFO.");
            match (is_asked, code) {
                (true, 0) => Fate::Lost,
                (true, code) => Fate::Refused(code),
                (false, _) => Fate::Taken,
            }
        });
        let filter = format!("t/{code}");
        assert_eq!(reasons(&client.subscribe(&[&filter], QoS::AtLeastOnce).await), [ReasonCode::GrantedQoS1]);
        world.server.obey();
        client.publish(&filter, QoS::AtLeastOnce, false, "x");
        client.settle().await;
        assert_eq!(client.receives(1).await, ["x"]);
    }
    world.server.shut("-core");
    world.account.store.connected().wait_for(|is_connected| !is_connected).await.unwrap();
    assert_eq!(reasons(&client.subscribe(&["away"], QoS::AtLeastOnce).await), [ReasonCode::GrantedQoS1]);
}

#[tokio::test]
async fn a_subscription_made_again_begins_where_it_was() {
    use crate::account::delivery::router::NewSubscription;
    let world = World::start().await;
    let mut publisher = world.client("p");
    for number in 0..4 {
        publisher.publish("a", QoS::AtLeastOnce, false, &number.to_string());
    }
    publisher.settle().await;
    let client = world.client("c");
    let filter = TopicFilter::new("a").unwrap();
    let order = world.account.interest.acquire(&filter).unwrap();
    let options = SubscriptionOptions { qos: QoS::AtLeastOnce, ..SubscriptionOptions::default() };
    let (subscription_id, logs, is_owed_retained, before) = (None, vec![0], false, None);
    let new = NewSubscription { filter, options, subscription_id, order, logs, is_owed_retained, before };
    world.account.router.restore(client.control.inbox(), &[Position::new(0, Sequence(2))].into_iter().collect(), &new);
    // It was away, and has read up to the second one.
    client.control.inbox().with_feed(0, |feed| feed.fall_behind(Sequence(2)));
    assert_eq!(client.receives(2).await, ["2", "3"]);
    assert!(world.account.has_subscriber(&mqtt_codec::TopicName::new("a").unwrap()));
    world.account.router.unsubscribe(&new.filter, client.control.id);
    assert!(!world.account.has_subscriber(&mqtt_codec::TopicName::new("a").unwrap()));
}

/// What a session that comes back is still owed of the retained messages.
#[test]
fn retained_messages_go_on_where_the_progress_says() {
    let subscription = |filter: &str, retained: Option<(u64, u64)>| StoredSubscription {
        filter: filter.to_owned(),
        qos: 1,
        retained: retained.map(|(number, up_to)| StoredRetained { number, up_to }),
        ..StoredSubscription::default()
    };
    let all = [
        subscription("late", Some((7, 70))),
        subscription("done", Some((3, 30))),
        subscription("begun/#", Some((5, 50))),
        subscription("none", None),
        subscription("a/#/b", Some((9, 90))),
    ];
    let progress = |number, after: Option<&str>| RetainedProgress { number, after: after.map(str::to_owned) };
    let resumed = |progress: &RetainedProgress| -> Vec<(String, u64, u64)> {
        let cursors = RetainedCursor::resume_all(all.iter(), progress);
        cursors.into_iter().map(|c| (c.filter.as_str().to_owned(), c.number.0, c.up_to.0)).collect()
    };
    let (late, begun) = (("late".to_owned(), 7, 70), ("begun/#".to_owned(), 5, 50));
    assert_eq!(
        resumed(&progress(5, Some("begun/x"))),
        [begun.clone(), late.clone()],
        "in the order of their SUBSCRIBEs"
    );
    let only_late = std::slice::from_ref(&late);
    assert_eq!(resumed(&progress(5, None)), only_late, "one that is through is owed nothing");
    assert_eq!(resumed(&progress(9, None)), []);
    assert_eq!(resumed(&progress(4, None)), [begun, late]);
}

#[tokio::test]
async fn retained_messages_in_flight_are_read_from_the_bucket_again() {
    let world = World::start().await;
    let mut client = world.client("c");
    client.publish("a", QoS::AtLeastOnce, true, "old");
    client.publish("b", QoS::AtLeastOnce, true, "b");
    client.settle().await;
    let sequence_of = |topic: &str| {
        let index = world.account.store.retained().index();
        Sequence(index.sequence_of(&mqtt_codec::TopicName::new(topic.to_owned()).unwrap()))
    };
    until("both are there", || (sequence_of("b") > Sequence(0)).then_some(())).await;
    let (a, b) = (sequence_of("a"), sequence_of("b"));
    client.publish("a", QoS::AtLeastOnce, true, "new");
    client.settle().await;
    assert!(world.account.find_retained(&[]).await.is_empty());
    let mut refused = 0;
    world.server.rule(move |said| {
        refused += u32::from(said.subject.starts_with("$JS.API.STREAM.MSG.GET.KV_MQTT_retained"));
        if refused == 1 { Fate::Refused(10008) } else { Fate::Taken }
    });
    let found = world.account.find_retained(&[a, b]).await;
    let found: Vec<_> = found.into_iter().map(|(sequence, message)| (sequence, text(&message.payload))).collect();
    assert_eq!(found, [(b, "b".to_owned())], "in the place of the other one is a newer one, which comes as it comes");
}

#[tokio::test]
async fn filters_that_begin_with_a_wildcard_are_refused_where_the_operator_says_so() {
    let world = World::with(|config| config.mqtt.root_wildcard = crate::config::RootWildcard::Refuse).await;
    let mut client = world.client("c");
    let (invalid, granted) = (ReasonCode::TopicFilterInvalid, ReasonCode::GrantedQoS1);
    let told = reasons(&client.subscribe(&["#", "+/a", "a/#"], QoS::AtLeastOnce).await);
    assert_eq!(told, [invalid, invalid, granted]);
}

/// [MQTT-3.8.4-7]
#[tokio::test]
async fn the_qos_that_is_granted_is_said() {
    let world = World::start().await;
    let mut client = world.client("c");
    let mut reasons_at = async |qos| reasons(&client.subscribe(&["a"], qos).await);
    assert_eq!(reasons_at(QoS::AtMostOnce).await, [ReasonCode::Success]);
    assert_eq!(reasons_at(QoS::AtLeastOnce).await, [ReasonCode::GrantedQoS1]);
    assert_eq!(reasons_at(QoS::ExactlyOnce).await, [ReasonCode::GrantedQoS2]);
}
