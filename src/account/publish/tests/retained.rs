//! Retained messages: through the bucket to the log, and what waits behind them.

use std::sync::Arc;

use bytes::Bytes;
use mqtt_codec::{QoS, ReasonCode, Version};
use mqtt_ownership::Epoch;

use super::{is_for_bucket, is_for_log, logged, payload};
use crate::account::played::{Fate, LOG, PlayedClient, RETAINED, World, answers, text, until};
use crate::account::publish::completions::Completions;
use crate::account::{Publishing, Refused, Wakes};

#[tokio::test]
async fn the_bucket_comes_first_and_the_log_says_where_it_is_there() {
    let world = World::start().await;
    let mut client = world.client("c");
    client.publish("a/b", QoS::AtLeastOnce, true, "one");
    client.publish("a/b", QoS::ExactlyOnce, true, "two");
    assert_eq!(answers(&client.settle().await), [(0, ReasonCode::Success), (1, ReasonCode::Success)]);
    let bucket = world.server.messages(RETAINED);
    assert_eq!(bucket.len(), 1, "the last one stays");
    let (sequence, last) = &bucket[0];
    assert_eq!((payload(last).as_str(), last.header("Mqtt-Origin")), ("two", Some("mqtt")));
    let places: Vec<_> =
        world.server.messages(LOG).iter().map(|(_, said)| said.header("Mqtt-Retain").map(str::to_owned)).collect();
    assert_eq!(places, [Some((sequence - 1).to_string()), Some(sequence.to_string())]);
}

/// [MQTT-4.6.0-5]
#[tokio::test]
async fn what_is_published_behind_a_retained_message_waits_for_it_and_other_topics_do_not() {
    let world = World::start().await;
    let mut client = world.client("c");
    world.is_beyond_doubt().await;
    world.server.lose("$KV.MQTT_retained.a");
    client.publish("a", QoS::AtLeastOnce, true, "1");
    client.publish("a", QoS::AtLeastOnce, false, "2");
    client.publish("a", QoS::AtMostOnce, false, "3");
    client.publish("a", QoS::AtLeastOnce, true, "4");
    client.publish("a", QoS::AtLeastOnce, false, "5");
    client.publish("b", QoS::AtLeastOnce, false, "other");
    world.server.until("the other topic", |server| (logged(server) == ["other"]).then_some(())).await;
    assert!(world.server.said("a").is_empty());
    world.server.obey();
    let mut outcomes = answers(&client.settle().await);
    outcomes.sort_unstable_by_key(|(token, _)| *token);
    let success = ReasonCode::Success;
    assert_eq!(outcomes, [(0, success), (1, success), (3, success), (4, success), (5, success)]);
    assert_eq!(logged(&world.server), ["other", "1", "2", "4", "5"]);
    let said: Vec<String> = world.server.said("a").iter().map(payload).collect();
    let at_qos0 = said.iter().position(|payload| payload == "3").unwrap();
    assert!(said[..at_qos0].iter().all(|payload| payload == "1" || payload == "2"), "{said:?}");
}

#[tokio::test]
async fn one_that_the_bucket_refuses_is_published_at_qos_0_and_told_of_above() {
    let world = World::start().await;
    let mut client = world.client("c");
    world.server.rule(|said| if is_for_bucket(said) { Fate::Refused(10077) } else { Fate::Taken });
    client.publish("a", QoS::AtMostOnce, true, "zero");
    client.publish("a", QoS::AtLeastOnce, true, "one");
    client.publish("a", QoS::AtLeastOnce, false, "plain");
    assert_eq!(answers(&client.settle().await), [(1, ReasonCode::QuotaExceeded), (2, ReasonCode::Success)]);
    assert_eq!(logged(&world.server), ["plain"]);
    let zero = until("it is said", || world.server.said("a").first().cloned()).await;
    assert_eq!((payload(&zero).as_str(), zero.header("Mqtt-Retain")), ("zero", None));
    assert!(world.server.messages(RETAINED).is_empty());
}

#[tokio::test]
async fn at_qos_0_the_others_are_told_where_the_bucket_has_it_and_that_a_sidecar_says_so() {
    let world = World::start().await;
    let mut client = world.client("c");
    client.publish("a", QoS::AtMostOnce, true, "zero");
    client.settle().await;
    let (sequence, _) = world.server.messages(RETAINED)[0];
    let said = until("it is said", || world.server.said("a").pop()).await;
    assert_eq!(said.header("Mqtt-Retain"), Some(sequence.to_string().as_str()));
    assert!(said.header("Mqtt-Mac").is_some());
    assert!(logged(&world.server).is_empty());
}

/// [MQTT-3.3.1-6], [MQTT-3.3.1-7]
#[tokio::test]
async fn an_empty_one_deletes_and_is_published() {
    let world = World::start().await;
    let mut client = world.client("c");
    client.publish("a", QoS::AtLeastOnce, true, "one");
    client.publish("a", QoS::AtLeastOnce, true, "");
    client.settle().await;
    assert_eq!(logged(&world.server), ["one", ""]);
    let (_, marker) = world.server.messages(RETAINED).pop().unwrap();
    assert_eq!(marker.header("KV-Operation"), Some("PURGE"));
    let index = world.account.store.retained().index();
    until("the index knows", || index.is_empty().then_some(())).await;
}

#[tokio::test]
async fn what_is_beyond_a_limit_is_refused_above_qos_0_and_not_retained_at_qos_0() {
    let world = World::with(|config| {
        config.mqtt.max_retained_messages = 2;
        config.mqtt.max_retained_size = crate::config::ByteSize(100);
        config.mqtt.max_retained_bytes = crate::config::ByteSize(120);
    })
    .await;
    let mut client = world.client("c");
    let index = world.account.store.retained().index();
    let long = "x".repeat(101);
    assert_eq!(client.try_publish("a", QoS::AtLeastOnce, true, &long), Err(Refused::OverLimit));
    client.publish("a", QoS::AtLeastOnce, true, &"x".repeat(60));
    client.settle().await;
    until("it is there", || (index.len() == 1).then_some(())).await;
    assert_eq!(client.try_publish("b", QoS::AtLeastOnce, true, &"x".repeat(60)), Err(Refused::OverLimit), "bytes");
    client.publish("b", QoS::AtLeastOnce, true, "x");
    client.settle().await;
    until("both are there", || (index.len() == 2).then_some(())).await;
    assert_eq!(client.try_publish("c", QoS::AtLeastOnce, true, "x"), Err(Refused::OverLimit), "messages");
    // In the place of another one, or an empty one, there is room.
    client.publish("a", QoS::AtLeastOnce, true, &"y".repeat(60));
    client.publish("c", QoS::AtLeastOnce, true, "");
    client.publish("c", QoS::AtMostOnce, true, "live");
    client.settle().await;
    // Nobody is there to be told of a will.
    let completions = Completions::new(world.account.next_session_id(), "w".into(), Version::V5);
    let mut will = Publishing::of_will(Arc::clone(&world.account), Arc::new(completions), None, Epoch(1));
    let publication = client.publication("c", QoS::AtLeastOnce, true, "will");
    will.publish(publication, &mut Wakes::default()).unwrap();
    will.settle().await.unwrap();
    assert_eq!(logged(&world.server).last().map(String::as_str), Some("will"));
    assert_eq!(world.server.messages(LOG).pop().unwrap().1.header("Mqtt-Retain"), None);
    let live = until("it is said", || world.server.said("c").into_iter().find(|said| payload(said) == "live")).await;
    assert_eq!(live.header("Mqtt-Retain"), None);
    assert_eq!(world.server.messages(RETAINED).iter().filter(|(_, said)| is_for_log(said)).count(), 0);
}

/// Of a session that goes on elsewhere: what was stored before is repeated, and what its client has repeated since that is older
/// does not stay in its place.
#[tokio::test]
async fn the_last_of_a_clients_publishes_on_a_topic_stays_retained_whatever_is_repeated() {
    use mqtt_session::{MessageId, MessageNumber, Once, Publication, Sequence};
    let world = World::start().await;
    let mut client = world.client("c");
    client.control.completions().set_epoch(Epoch(4));
    let client_publication = |payload: &'static str| Publication {
        token: Some(1),
        payload: Bytes::from_static(payload.as_bytes()),
        ..PlayedClient::publication_on("a", QoS::AtLeastOnce, true)
    };
    let repeated = |number: u64, payload: &'static str, maybe_above| {
        let message = MessageId { epoch: Epoch(3), number: MessageNumber(number), key: 0 };
        Publication {
            token: Some(number),
            once: Some(Once { message, maybe_above }),
            payload: Bytes::from_static(payload.as_bytes()),
            ..PlayedClient::publication_on("a", QoS::ExactlyOnce, true)
        }
    };
    // At QoS 1 nothing says that it was stored before.
    let (new, new_again) = (repeated(2, "new", None), repeated(2, "new", Some(Sequence(0))));
    let older = || client_publication("older");
    client.publish_as(older()).unwrap();
    client.publish_as(new).unwrap();
    client.settle().await;
    assert_eq!(logged(&world.server), ["older", "new"]);
    for is_settled in [false, true] {
        client.publish_as(older()).unwrap();
        if is_settled {
            client.settle().await;
        }
        client.publish_as(new_again.clone()).unwrap();
        let outcomes = answers(&client.settle().await);
        assert!(
            outcomes.iter().all(|(_, reason)| *reason == ReasonCode::Success)
                && outcomes.contains(&(2, ReasonCode::Success))
        );
        let (_, last) = world.server.messages(RETAINED).pop().unwrap();
        assert_eq!(text(&last.payload), "new", "{is_settled}");
    }
    assert_eq!(logged(&world.server), ["older", "new", "older", "older"], "it was stored once");
}
