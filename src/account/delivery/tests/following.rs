//! Which streams are logs, while clients are there.

use mqtt_codec::{QoS, TopicFilter};
use mqtt_ownership::Epoch;
use mqtt_session::{Position, Sequence};
use serde_json::json;

use crate::account::played::{Fate, LOG, World, answers, until};

fn stream(name: &str, subjects: &[&str]) -> serde_json::Value {
    json!({ "name": name, "subjects": subjects, "retention": "limits", "allow_msg_ttl": true })
}

async fn is_owned(world: &World, subject: &str, owner: &str) {
    let is_it = || (world.account.logs.owner_of(subject).log.stream() == owner).then_some(());
    until(&format!("{subject} is of {owner}"), is_it).await;
}

#[tokio::test]
async fn a_stream_that_comes_has_its_subjects_from_then_on_and_who_is_subscribed_gets_them() {
    let world = World::start().await;
    let mut client = world.client("c");
    client.subscribe(&["m/#"], QoS::AtLeastOnce).await;
    client.publish("m/x", QoS::AtLeastOnce, false, "log");
    client.settle().await;
    world.server.make_stream(stream("S", &["m.>"]));
    is_owned(&world, "m.x", "S").await;
    assert_eq!(world.account.logs.owner_of("other").log.stream(), LOG);
    client.publish("m/x", QoS::AtLeastOnce, false, "stream");
    client.settle().await;
    // The copy of what is in the log may be captured as well, and says what it is.
    let stored = world.server.messages("S").into_iter().filter(|(_, said)| said.header("Mqtt-Log").is_none());
    assert_eq!(stored.map(|(_, said)| said.subject).collect::<Vec<_>>(), ["m.x"]);
    assert_eq!(client.receives(2).await, ["log", "stream"], "in the order in which they came");
    let log = world.account.logs.owner_of("m.x");
    assert!(log.is_attached() && log.created().is_some() && !log.is_gone());
    assert_eq!(world.account.logs.overlapping(&TopicFilter::new("m/+").unwrap()), [0, log.number]);
    assert_eq!(world.account.logs.overlapping(&TopicFilter::new("n").unwrap()), [0]);
    let (of_main, of_other) = (Position::in_main_log(Sequence(7)), log.position(Sequence(7)));
    for place in [of_main, of_main.by_share(), of_other, of_other.by_share(), Position::of_retained(Sequence(7))] {
        let (sequence, key) = world.account.logs.name_of(place);
        assert_eq!(world.account.logs.place_of(sequence, key.as_deref()), place, "{sequence:?} {key:?}");
    }
    assert_eq!(world.account.logs.name_of(of_main), (Sequence(7), None));
    // Whatever stands in a record, it is in the log that is named.
    assert_eq!(world.account.logs.place_of(Sequence::MAX, None).log(), 0);
    let named = world.account.logs.name_of(log.position(Sequence(7)));
    assert_eq!(named, (Sequence(7), Some(log.key.to_string())));
    assert_eq!(world.account.logs.place_of(Sequence(7), named.1.as_deref()), log.position(Sequence(7)));
    assert_eq!(world.account.logs.places_of(&[(log.key.to_string(), 9)].into()).get(log.number), Some(Sequence(9)));
    assert!(world.account.logs.knows([log.key.to_string()].iter()));
    // It goes, and its subjects with it.
    world.server.delete_stream("S");
    is_owned(&world, "m.x", LOG).await;
    assert!(log.is_gone());
    assert!(!world.account.logs.knows([log.key.to_string()].iter()));
    assert_ne!(
        world.account.logs.place_of(Sequence(7), named.1.as_deref()),
        log.position(Sequence(7)),
        "nothing is found there"
    );
    assert_eq!(world.account.logs.name_of(log.position(Sequence(7))).1.as_deref(), Some("?"));
    client.publish("m/x", QoS::AtLeastOnce, false, "again");
    client.settle().await;
    assert_eq!(client.receives(1).await, ["again"]);
}

#[tokio::test]
async fn streams_that_cannot_be_logs_or_are_ignored_are_none_and_others_change_their_subjects() {
    let world = World::with(|config| config.jetstream.ignored_streams = vec!["IGNORED".to_owned()]).await;
    world.server.make_stream(stream("IGNORED", &["i.>"]));
    world.server.make_stream(json!({ "name": "QUEUE", "subjects": ["q.>"], "retention": "workqueue" }));
    world.server.make_stream(stream("S", &["m.>"]));
    is_owned(&world, "m.x", "S").await;
    for subject in ["i.x", "q.x"] {
        assert_eq!(world.account.logs.owner_of(subject).log.stream(), LOG, "{subject}");
    }
    assert!(!world.account.logs.is_captured("q.x"));
    world.server.configure("S", "subjects", json!(["n.>"]));
    world.account.follower.look(&world.account.store, false).await.unwrap();
    is_owned(&world, "n.x", "S").await;
    is_owned(&world, "m.x", LOG).await;
    // Who has looked a moment ago does not look again.
    world.server.rule(|said| {
        assert_ne!(said.subject, "$JS.API.STREAM.LIST");
        Fate::Taken
    });
    world.account.follower.look_soon(&world.account.store).await.unwrap();
}

#[tokio::test]
async fn what_a_stream_had_before_it_was_found_is_for_who_was_subscribed() {
    let world = World::with(|config| config.jetstream.ingest = crate::config::Ingest::Off).await;
    let mut client = world.client("c");
    client.subscribe(&["m/#"], QoS::AtLeastOnce).await;
    // It is new, so it is read from its beginning.
    world.server.rule(|said| if said.subject == "$JS.API.STREAM.LIST" { Fate::Refused(10008) } else { Fate::Taken });
    world.server.make_stream(stream("S", &["m.>"]));
    world.server.publish("m.x", &[], "before it was found");
    world.server.obey();
    is_owned(&world, "m.x", "S").await;
    assert_eq!(client.receives(1).await, ["before it was found"]);
}

/// What is under way to the log that its subject leaves comes first.
#[tokio::test]
async fn a_publish_behind_one_that_is_under_way_to_another_log_waits_for_it() {
    let world = World::start().await;
    let mut client = world.client("c");
    client.subscribe(&["m/#"], QoS::AtLeastOnce).await;
    world.server.lose("$NMQ.log.");
    client.publish("m/x", QoS::AtLeastOnce, false, "old");
    world.server.make_stream(stream("S", &["m.>"]));
    is_owned(&world, "m.x", "S").await;
    client.publish("m/x", QoS::AtLeastOnce, false, "new");
    client.publish("m/x", QoS::AtMostOnce, false, "live");
    client.publish("m/y", QoS::AtLeastOnce, false, "other");
    world.server.until("the other", |server| (server.messages("S").len() == 1).then_some(())).await;
    assert!(world.server.said("m.x").is_empty());
    world.server.obey();
    assert_eq!(answers(&client.settle().await).len(), 3);
    // The publish at QoS 0 is captured as well, and says what it is; so does the copy of what is in the log.
    let is_new = |said: &crate::store::played::Said| said.subject == "m.x" && said.header("Mqtt-QoS") == Some("1");
    let new: Vec<_> = world.server.messages("S").into_iter().filter(|(_, said)| is_new(said)).collect();
    assert_eq!((new.len(), &*new[0].1.payload), (1, &b"new"[..]));
    let got = client.receives(3).await;
    let position = |payload: &str| got.iter().position(|other| other == payload);
    assert!(position("old") < position("new"), "{got:?}");
}

/// A client of an ended connection, whose publish arrives when the client is back.
#[tokio::test]
async fn what_an_ended_connection_has_left_on_the_wire_is_nobodys() {
    let world = World::start().await;
    let (mut subscriber, old, new) = (world.client("s"), world.client("c"), world.client("c"));
    subscriber.subscribe(&["a"], QoS::AtLeastOnce).await;
    old.control.completions().set_epoch(Epoch(5));
    new.control.completions().set_epoch(Epoch(6));
    let mut clients = [old, new];
    for (client, payload) in [(0, "first"), (1, "newer"), (0, "late"), (1, "last")] {
        let client = &mut clients[client];
        client.publish("a", QoS::AtLeastOnce, false, payload);
        client.settle().await;
    }
    assert_eq!(subscriber.receives(3).await, ["first", "newer", "last"]);
}

/// A stream that was there gets other subjects: what it had of them a moment before it was looked at is not missed.
#[tokio::test]
async fn of_a_stream_that_is_not_new_what_came_a_moment_before_it_was_found_is_not_missed() {
    // Nobody copies what no stream captures, as far as is known.
    let world = World::with(|config| config.jetstream.ingest = crate::config::Ingest::Off).await;
    let mut client = world.client("c");
    client.subscribe(&["m/#"], QoS::AtLeastOnce).await;
    world.server.make_stream(stream("S", &["$KV.x.>", "m.>"]));
    world.server.configure("S", "subjects", json!(["$KV.x.>"]));
    world.account.follower.look(&world.account.store, false).await.unwrap();
    assert!(!world.account.logs.is_captured("m.x"));
    world.server.configure("S", "subjects", json!(["m.>"]));
    world.server.publish("m.x", &[], "long ago");
    world.server.age("S", 60_000);
    world.server.publish("m.x", &[], "a moment ago");
    world.account.follower.look(&world.account.store, false).await.unwrap();
    assert_eq!(client.receives(1).await, ["a moment ago"]);
    assert!(client.stored().is_empty());
}

#[tokio::test]
async fn a_log_that_was_declared_has_its_topics() {
    use crate::config::DeclaredLogConfig;
    let world = World::with(|config| {
        config.jetstream.logs = vec![DeclaredLogConfig {
            name: "meters".to_owned(),
            topics: vec!["meters/#".to_owned()],
            max_age: config.jetstream.log.max_age,
            max_bytes: crate::config::ByteSize(0),
            replicas: 0,
            storage: Default::default(),
        }];
    })
    .await;
    let mut client = world.client("c");
    client.subscribe(&["#"], QoS::AtLeastOnce).await;
    client.publish("meters/1", QoS::AtLeastOnce, true, "there");
    client.publish("other", QoS::AtLeastOnce, false, "elsewhere");
    client.settle().await;
    let stored = world.server.messages("MQTT_log_meters");
    assert_eq!((stored.len(), &*stored[0].1.payload), (1, &b"there"[..]));
    let log = world.account.logs.owner_of("meters.1");
    assert!(!log.is_attached() && log.number != 0 && !world.account.logs.is_captured("meters.1"));
    assert_eq!(client.receives(2).await.len(), 2);
    assert_eq!(world.account.logs.all().len(), 2);
}

/// Retained in the stream of somebody else: that a sidecar says so is marked, and nobody else is believed.
#[tokio::test]
async fn that_a_message_is_retained_is_believed_of_sidecars_only_where_others_write_too() {
    use mqtt_codec::TopicName;
    let world = World::start().await;
    world.server.make_stream(stream("S", &["m.>"]));
    is_owned(&world, "m.x", "S").await;
    let mut client = world.client("c");
    let options = mqtt_codec::SubscriptionOptions {
        qos: QoS::AtLeastOnce,
        retain_as_published: true,
        ..mqtt_codec::SubscriptionOptions::default()
    };
    client.subscribe_with(&["m/#"], options).await;
    client.publish("m/x", QoS::AtLeastOnce, true, "ours");
    client.settle().await;
    let (_, stored) = world.server.messages("S").pop().unwrap();
    assert!(stored.header("Mqtt-Mac").is_some() && stored.header("Mqtt-Retain").is_some());
    world.server.publish("m.y", &[("Mqtt-Retain", "99")], "theirs");
    let flags = parking_lot::Mutex::new(Vec::new());
    let look = || {
        let mut flags = flags.lock();
        flags.extend(client.outgoing().into_iter().map(|(_, outgoing)| outgoing.grant.retain));
        (flags.len() == 2).then(|| flags.clone())
    };
    assert_eq!(until("both", look).await, [true, false]);
    let index = world.account.store.retained().index();
    assert!(index.get(&TopicName::new("m/y").unwrap()).is_none());
}

/// One of which JetStream does not know what it is keeps what is known.
#[tokio::test]
async fn while_jetstream_cannot_say_which_streams_there_are_nothing_changes() {
    let world = World::start().await;
    world.server.make_stream(stream("S", &["m.>"]));
    is_owned(&world, "m.x", "S").await;
    world.server.rule(|said| if said.subject == "$JS.API.STREAM.LIST" { Fate::Refused(10008) } else { Fate::Taken });
    assert!(world.account.follower.look(&world.account.store, false).await.is_err());
    assert!(world.account.logs.is_captured("m.x"));
    // One that cannot be followed keeps the others from nothing.
    world.server.rule(|said| {
        if said.subject.starts_with("$JS.API.CONSUMER.CREATE.OLD.") { Fate::Refused(10008) } else { Fate::Taken }
    });
    world.server.make_stream(stream("OLD", &["o.>"]));
    world.server.age("OLD", 60_000);
    world.server.make_stream(stream("NEW", &["n.>"]));
    is_owned(&world, "n.x", "NEW").await;
    assert!(!world.account.logs.is_captured("o.x"));
    assert!(world.account.follower.look(&world.account.store, false).await.is_err());
    world.server.obey();
    is_owned(&world, "o.x", "OLD").await;
}
