//! Order, and answers, whatever becomes of them.

use std::collections::HashMap;
use std::num::NonZeroU32;

use mqtt_codec::{MessageProperties, QoS, ReasonCode, TopicName, Version};
use mqtt_ownership::{Epoch, ServerTime};
use mqtt_session::{MessageId, MessageNumber, Once, Publication, Sequence};

use super::{log_rule, logged, measure};
use crate::account::Rights;
use crate::account::played::{Fate, LOG, RETAINED, World, answers, until};
use crate::store::PutGuard as _;

const COUNT: u64 = 12;

fn successes(count: u64) -> Vec<(u64, ReasonCode)> {
    (0..count).map(|token| (token, ReasonCode::Success)).collect()
}

fn numbers(count: u64) -> Vec<String> {
    (0..count).map(|number| number.to_string()).collect()
}

/// [MQTT-4.6.0-5], [MQTT-4.6.0-6]
#[tokio::test]
async fn each_publish_is_answered_once_and_stored_in_its_order_however_the_store_answers() {
    for fate in [Fate::Taken, Fate::Twice, Fate::Held, Fate::Deaf] {
        let world = World::start().await;
        measure(&world).await;
        let mut client = world.client("c");
        log_rule(&world.server, move |_| fate);
        for number in 0..COUNT {
            client.publish("a/b", QoS::AtLeastOnce, false, &number.to_string());
        }
        if fate == Fate::Held {
            world.server.until("all of them", |server| (server.held() as u64 == COUNT).then_some(())).await;
            world.server.release(true);
        }
        let mut outcomes = answers(&client.settle().await);
        outcomes.sort_unstable_by_key(|(token, _)| *token);
        assert_eq!(outcomes, successes(COUNT), "{fate:?}");
        assert_eq!(logged(&world.server), numbers(COUNT), "{fate:?}");
        assert!(client.publishing.is_idle());
    }
}

#[tokio::test]
async fn what_is_lost_on_the_way_is_sent_again_and_nothing_newer_of_its_topic_overtakes_it() {
    let world = World::start().await;
    measure(&world).await;
    let mut client = world.client("c");
    // With what is behind it on the wire, as when its leader is gone.
    let mut lost = HashMap::<Vec<u8>, u32>::new();
    log_rule(&world.server, move |said| {
        let times = lost.entry(said.payload.to_vec()).or_default();
        *times += 1;
        let is_lost = |from: u64| {
            let number = String::from_utf8_lossy(&said.payload).parse::<u64>().unwrap();
            number >= from && lost.get(from.to_string().as_bytes()).copied().unwrap_or(0) < 3
        };
        if is_lost(3) || is_lost(7) { Fate::Lost } else { Fate::Taken }
    });
    for number in 0..COUNT {
        client.publish("a/b", QoS::AtLeastOnce, false, &number.to_string());
    }
    let mut outcomes = answers(&client.settle().await);
    outcomes.sort_unstable_by_key(|(token, _)| *token);
    assert_eq!(outcomes, successes(COUNT));
    assert_eq!(logged(&world.server), numbers(COUNT));
}

#[tokio::test]
async fn what_has_no_answer_when_the_connection_breaks_is_stored_once() {
    let world = World::start().await;
    measure(&world).await;
    let mut client = world.client("c");
    // What is lost is lost with all that is behind it.
    log_rule(&world.server, |said| if said.subject.ends_with(".b") { Fate::Lost } else { Fate::Deaf });
    for number in 0..COUNT {
        let topic = ["a", "b", "c"][number as usize % 3];
        client.publish(topic, QoS::AtLeastOnce, false, &number.to_string());
    }
    world.server.until("some of them", |server| (logged(server).len() >= 2).then_some(())).await;
    world.server.obey();
    world.server.sever("-publish");
    let mut outcomes = answers(&client.settle().await);
    outcomes.sort_unstable_by_key(|(token, _)| *token);
    assert_eq!(outcomes, successes(COUNT));
    for subject in ["a", "b", "c"] {
        let of_topic = world.server.messages(LOG).into_iter().filter(|(_, said)| said.subject.ends_with(subject));
        let stored: Vec<u64> = of_topic.map(|(_, said)| super::payload(&said).parse().unwrap()).collect();
        assert!(stored.is_sorted_by(|a, b| a < b), "{subject}: {stored:?}");
        assert_eq!(stored.len() as u64, COUNT / 3);
    }
}

#[tokio::test]
async fn one_that_is_refused_is_told_and_the_others_are_stored() {
    for (code, reason) in [
        (10077, ReasonCode::QuotaExceeded),
        (10054, ReasonCode::QuotaExceeded),
        (10060, ReasonCode::ImplementationSpecificError),
    ] {
        let world = World::start().await;
        let mut client = world.client("c");
        log_rule(&world.server, move |said| if *said.payload == b"5"[..] { Fate::Refused(code) } else { Fate::Taken });
        for number in 0..COUNT {
            client.publish("a/b", QoS::AtLeastOnce, false, &number.to_string());
        }
        let mut outcomes = answers(&client.settle().await);
        outcomes.sort_unstable_by_key(|(token, _)| *token);
        let expected = successes(COUNT).into_iter().map(|(t, success)| (t, if t == 5 { reason } else { success }));
        assert_eq!(outcomes, expected.collect::<Vec<_>>());
        assert_eq!(logged(&world.server).len() as u64, COUNT - 1);
        assert!(!client.control.completions().has_failed());
    }
}

/// Its client can be told of nothing, and repeats it: what it publishes behind that is not stored before.
#[tokio::test]
async fn behind_a_refusal_that_a_client_of_3_1_1_cannot_be_told_nothing_is_sent() {
    let world = World::start().await;
    let mut client = world.client_of("c", Version::V311, Rights::all(), world.account.options.inbox);
    log_rule(&world.server, |_| Fate::Refused(10077));
    client.publish("a", QoS::AtLeastOnce, false, "refused");
    assert_eq!(answers(&client.settle().await), [(0, ReasonCode::QuotaExceeded)]);
    assert!(client.control.completions().has_failed() && !client.control.completions().is_wanted());
    world.server.obey();
    client.publish("a", QoS::AtLeastOnce, false, "behind");
    client.publish("b", QoS::AtLeastOnce, true, "behind");
    assert_eq!(answers(&client.settle().await), []);
    assert!(logged(&world.server).is_empty() && client.publishing.is_idle());
}

#[tokio::test]
async fn what_a_client_has_published_whose_epoch_has_ended_is_withdrawn() {
    let world = World::start().await;
    let mut client = world.client("c");
    log_rule(&world.server, |_| Fate::Held);
    client.publish("a", QoS::AtLeastOnce, false, "under way");
    world.server.until("it is there", |server| (server.held() == 1).then_some(())).await;
    client.control.withdraw();
    client.publish("a", QoS::AtLeastOnce, false, "behind");
    world.server.release(false);
    // It was stored, and everybody who asks the log gets it; nobody hears of it on core NATS.
    assert_eq!(answers(&client.settle().await), [(0, ReasonCode::Success)]);
    assert_eq!(logged(&world.server), ["under way"]);
    assert!(world.server.said("a").is_empty());
}

fn once(client: &crate::account::played::PlayedClient, payload: &str, maybe_above: Option<Sequence>) -> Publication {
    let message = MessageId { epoch: Epoch(3), number: MessageNumber(9), key: 0 };
    let once = Some(Once { message, maybe_above });
    Publication { once, ..client.publication("a/b", QoS::ExactlyOnce, false, payload) }
}

#[tokio::test]
async fn a_message_that_may_be_stored_already_is_looked_for_and_stored_once() {
    let world = World::start().await;
    let mut client = world.client("c");
    let publication = once(&client, "first", None);
    client.publish_as(publication).unwrap();
    client.settle().await;
    // Its sidecar dies over the answer, and another one recovers it.
    let mut again = world.client("c");
    let publication = once(&again, "first", Some(Sequence(0)));
    again.publish_as(publication).unwrap();
    again.publish("a/b", QoS::AtLeastOnce, false, "behind");
    assert_eq!(answers(&again.settle().await), successes(2));
    assert_eq!(logged(&world.server), ["first", "behind"]);
    // It was not there.
    let mut other = world.client("d");
    let publication = once(&other, "new", Some(Sequence(0)));
    other.publish_as(publication).unwrap();
    assert_eq!(answers(&other.settle().await), successes(1));
    assert_eq!(logged(&world.server), ["first", "behind", "new"]);
}

#[tokio::test]
async fn the_copy_for_nats_clients_says_where_the_log_has_it() {
    let world = World::start().await;
    let mut client = world.client("c");
    client.publishing.tells_publisher = true;
    let properties =
        MessageProperties { message_expiry_interval_s: NonZeroU32::new(60).map(NonZeroU32::get), ..Default::default() };
    let publication = Publication {
        properties: Some(Box::new(properties)),
        ..client.publication("a/b", QoS::ExactlyOnce, false, "hello")
    };
    client.publish_as(publication).unwrap();
    client.settle().await;
    let copy = until("the copy", || world.server.said("a.b").pop()).await;
    assert!(proto_map::is_log_copy(copy.header("Mqtt-Log").unwrap(), "a.b"));
    assert_eq!(copy.header("Mqtt-Client"), None, "the log alone says it, for No Local");
    let (_, stored) = world.server.messages(LOG).pop().unwrap();
    assert_eq!(stored.header("Mqtt-QoS"), Some("2"));
    assert_eq!(stored.header("Mqtt-Client"), Some("c"));
    assert_eq!(stored.header("Mqtt-Expiry"), Some("60"));
    assert_eq!(stored.header("Nats-TTL"), Some("3660"), "it is sent again to who had it before it expired");
    assert!(stored.header("Nats-Msg-Id").is_some());
    assert!(world.account.router.clock().earliest() > ServerTime(0), "what the server says of the time is known");
}

#[tokio::test]
async fn at_qos_0_nobody_waits_and_what_goes_nowhere_is_counted() {
    let world = World::start().await;
    let mut client = world.client("c");
    client.publish("a/b", QoS::AtMostOnce, false, "there");
    until("it is said", || world.server.said("a.b").pop()).await;
    assert!(client.publishing.is_idle() && client.publishing.has_room());
    assert_eq!(world.dropped("nats_unavailable"), 0);
    world.server.shut("-core");
    let mut connected = world.account.store.connected();
    connected.wait_for(|is_connected| !is_connected).await.unwrap();
    client.publish("a/b", QoS::AtMostOnce, false, "lost");
    assert_eq!(world.dropped("nats_unavailable"), 1);
    assert!(client.publishing.is_idle());
}

/// [MQTT-4.6.0-5]
#[tokio::test]
async fn what_waits_for_a_permit_goes_in_its_order_and_other_topics_at_qos_0_do_not_wait() {
    let world = World::as_specified(|spec| spec.store.publisher.in_flight_max = 2).await;
    let mut client = world.client("c");
    world.server.lose("$NMQ.log.");
    for number in 0..COUNT {
        client.publish("a/b", QoS::AtLeastOnce, false, &number.to_string());
    }
    let (same, other) = (TopicName::new("a/b").unwrap(), TopicName::new("other").unwrap());
    assert!(!client.publishing.has_room() && !client.publishing.takes_live(&same));
    assert!(client.publishing.takes_live(&other));
    client.publish("other", QoS::AtMostOnce, false, "live");
    until("it is said", || world.server.said("other").pop()).await;
    assert_eq!(world.account.store.publisher().in_flight(), 2);
    world.server.obey();
    let mut outcomes = answers(&client.settle().await);
    outcomes.sort_unstable_by_key(|(token, _)| *token);
    assert_eq!(outcomes, successes(COUNT));
    assert_eq!(logged(&world.server), numbers(COUNT));
    assert!(client.publishing.has_room() && client.publishing.takes_live(&same));
    client.publishing.release_memory();
}

#[tokio::test]
async fn what_core_nats_has_no_room_for_waits_and_is_sent_in_its_order() {
    let world = World::as_specified(|spec| spec.store.core.queued_max = 2).await;
    let mut client = world.client("c");
    world.account.store.core().flush().await.unwrap();
    for number in 0..COUNT {
        client.publish("a", QoS::AtMostOnce, false, &number.to_string());
    }
    assert!(!client.publishing.has_room() && !client.publishing.takes_live(&TopicName::new("b").unwrap()));
    // One is being handed over, and by now there is room for more: what comes is behind all that waits.
    client.publishing.begin_wait();
    world.account.store.core().flush().await.unwrap();
    client.publish("a", QoS::AtMostOnce, false, &COUNT.to_string());
    client.settle().await;
    let all = || (world.server.said("a").len() as u64 == COUNT + 1).then(|| world.server.said("a"));
    let said: Vec<String> = until("all of them", all).await.iter().map(super::payload).collect();
    assert_eq!(said, numbers(COUNT + 1));
    // What waits when the connection breaks is dropped, as what comes then.
    for _ in 0..COUNT {
        client.publish("a", QoS::AtMostOnce, false, "lost");
    }
    assert!(!client.publishing.has_room());
    world.server.shut("-core");
    client.settle().await;
    assert!(client.publishing.is_idle());
    assert!(world.dropped("nats_unavailable") > 0);
}

/// The subject moves while its stream goes: what it refuses belongs elsewhere then.
#[tokio::test]
async fn what_the_stream_of_its_subject_is_gone_for_goes_where_the_subject_belongs_now() {
    let limit = std::time::Duration::from_millis(100);
    let world = World::as_specified(|spec| spec.store.publisher.no_stream_timeout = limit).await;
    let mut client = world.client("c");
    world.server.make_stream(serde_json::json!({ "name": "S", "subjects": ["m.>"], "retention": "limits" }));
    until("it is followed", || world.account.logs.is_captured("m.x").then_some(())).await;
    world.server.rule(|said| if said.subject == "m.x" { Fate::Lost } else { Fate::Taken });
    client.publish("m/x", QoS::AtLeastOnce, false, "first");
    client.publish("m/x", QoS::AtLeastOnce, false, "second");
    world.server.delete_stream("S");
    until("it is let go", || (!world.account.logs.is_captured("m.x")).then_some(())).await;
    client.publish("m/x", QoS::AtLeastOnce, false, "third");
    assert!(logged(&world.server).is_empty(), "behind what may be there");
    world.server.obey();
    let mut outcomes = answers(&client.settle().await);
    outcomes.sort_unstable_by_key(|(token, _)| *token);
    assert_eq!(outcomes, successes(3));
    assert_eq!(logged(&world.server), ["first", "second", "third"]);
}

/// In other logs its epoch says from when on it may be there.
#[tokio::test]
async fn a_message_that_may_be_in_another_log_is_looked_for_there_from_when_its_epoch_began() {
    let limit = std::time::Duration::from_millis(100);
    let world = World::as_specified(|spec| spec.store.publisher.no_stream_timeout = limit).await;
    world.server.make_stream(serde_json::json!({ "name": "S", "subjects": ["a.>"], "retention": "limits" }));
    until("it is followed", || world.account.logs.is_captured("a.b").then_some(())).await;
    let now_ms = world.account.store.clock().latest().0;
    let of_epoch = |client: &crate::account::played::PlayedClient, epoch, maybe_above| {
        let once =
            Some(Once { message: MessageId { epoch: Epoch(epoch), number: MessageNumber(1), key: 0 }, maybe_above });
        Publication { once, ..client.publication("a/b", QoS::ExactlyOnce, false, "x") }
    };
    // One that is known to be over, and one by a clock that was ahead.
    for (stored, epoch) in [(1, now_ms - 1_000), (2, now_ms + 1_000_000)] {
        let mut client = world.client("c");
        for maybe_above in [None, Some(Sequence(77))] {
            let publication = of_epoch(&client, epoch, maybe_above);
            client.publish_as(publication).unwrap();
            assert_eq!(client.settle().await.len(), 1);
        }
        assert_eq!(world.server.messages("S").len(), stored, "once");
    }
    // It cannot be looked into, and then it is gone: it was nowhere.
    let mut client = world.client("c");
    world.server.rule(|said| {
        if said.subject.starts_with("$JS.API.CONSUMER.CREATE.S.nmq-at") { Fate::Refused(10008) } else { Fate::Taken }
    });
    let publication = of_epoch(&client, now_ms - 500, Some(Sequence(0)));
    client.publish_as(publication).unwrap();
    let (outcomes, ()) = tokio::join!(client.settle(), async {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        world.server.delete_stream("S");
    });
    assert_eq!(outcomes.len(), 1);
    assert_eq!(logged(&world.server), ["x"]);
}

#[tokio::test]
async fn one_id_is_one_message_of_its_client_and_of_nobody_else() {
    let world = World::start().await;
    let user_properties = vec![("Nats-Msg-Id".into(), "mine".into())];
    let properties = MessageProperties { user_properties, ..MessageProperties::default() };
    let publish = async |client_id: &'static str, qos, given: Option<&str>| {
        let mut client = world.client(client_id);
        if let Some(id) = given {
            client.publishing.name_as(id);
        }
        let publication = client.publication("a", qos, false, client_id);
        let properties = given.is_none().then(|| Box::new(properties.clone()));
        client.publish_as(Publication { properties, ..publication }).unwrap();
        client.settle().await;
    };
    publish("one", QoS::AtLeastOnce, None).await;
    publish("one", QoS::ExactlyOnce, None).await;
    publish("two", QoS::AtLeastOnce, None).await;
    assert_eq!(logged(&world.server), ["one", "two"]);
    // In the bucket as well: two clients may call theirs the same.
    for (client_id, topic) in [("one", "r/one"), ("two", "r/two")] {
        let mut client = world.client(client_id);
        let publication = client.publication(topic, QoS::AtMostOnce, true, "kept");
        client.publish_as(Publication { properties: Some(Box::new(properties.clone())), ..publication }).unwrap();
        client.settle().await;
    }
    assert_eq!(world.server.messages(RETAINED).len(), 2);
    for _ in 0..2 {
        publish("will", QoS::AtLeastOnce, Some("given")).await;
    }
    assert_eq!(logged(&world.server), ["one", "two", "will"]);
    let (_, will) = world.server.messages(LOG).pop().unwrap();
    assert_eq!(will.header("Nats-Msg-Id"), Some("given"));
    // By the key that it names, and by no name that says whose it is.
    let mut client = world.client("c");
    let key = world.account.store.keys().ring().at(world.account.store.keys().now_ms()).id().get();
    for number in [4, 4, 5] {
        let once = Some(Once {
            message: MessageId { epoch: Epoch(3), number: MessageNumber(number), key },
            maybe_above: None,
        });
        let publication = client.publication("a", QoS::ExactlyOnce, false, "once");
        client.publish_as(Publication { once, ..publication }).unwrap();
        client.settle().await;
    }
    assert_eq!(logged(&world.server)[3..], ["once", "once"]);
    let (_, last) = world.server.messages(LOG).pop().unwrap();
    assert!(last.header("Nats-Msg-Id").is_some_and(|id| !id.contains("c.")));
}
