//! Sessions with more subscriptions than a record has room for: each change writes little, whoever takes them over has all of
//! them, and what they leave is removed.

use std::time::Duration;

use async_nats::Client as Nats;
use futures_util::StreamExt as _;
use mqtt_codec::{MessageProperties, ReasonCode, SubscribeEntry, TopicFilter};
use serde_json::{Value, json};

use crate::harness::relay::Relay;
use crate::harness::sessions::{beside, record, subscriptions};
use crate::harness::{
    Client, Ended, Message, NatsServer, Options, Sidecar, SidecarBuilder, World, eventually, js_api, msg, settle, shown,
};

const LONG: u32 = 3_600;

fn filter(number: usize) -> String {
    format!("plant/line-7/machine-{number:04}/sensor/+/temperature/state")
}

fn topic(number: usize) -> String {
    filter(number).replace('+', "x")
}

fn durable(id: &str) -> Options {
    Options::v5(id).durable(LONG)
}

/// Subscribes to so many filters at QoS 1, some hundred at a time.
async fn subscribe(client: &mut Client, numbers: std::ops::Range<usize>) {
    let numbers: Vec<usize> = numbers.collect();
    for some in numbers.chunks(500) {
        let options = mqtt_codec::SubscriptionOptions { qos: mqtt_codec::QoS::AtLeastOnce, ..Default::default() };
        let entry = |number: &usize| SubscribeEntry { filter: Ok(TopicFilter::new(filter(*number)).unwrap()), options };
        let reasons = client.subscribe_all(some.iter().map(entry).collect(), None).await;
        assert!(reasons.iter().all(|reason| *reason == ReasonCode::GrantedQoS1), "{reasons:?}");
    }
}

/// Messages to each of these arrive, and nothing else does, but for what was acknowledged and not saved when a sidecar was
/// killed.
async fn receives(client: &mut Client, publisher: &mut Client, numbers: &[usize], text: &str) {
    for number in numbers {
        publisher.publish(msg(&topic(*number), text.to_owned()).qos(1)).await;
    }
    receives_what_was_published(client, numbers, text).await;
}

async fn receives_what_was_published(client: &mut Client, numbers: &[usize], text: &str) {
    let mut left = numbers.iter();
    while left.len() > 0 {
        let shown = client.receive_shown().await;
        if shown.ends_with(&format!(" {text} qos1")) {
            let number = left.next().expect("one more");
            assert_eq!(shown, format!("{} {text} qos1", topic(*number)));
        }
    }
    let more = client.try_receive(Duration::from_millis(100)).await;
    assert!(matches!(more, Err(Ended::Silent)), "{more:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscribe_writes_little_however_many_there_are() {
    const FILTERS: usize = 2_000;
    const BYTES_MAX: usize = 20_000_000;
    let server = NatsServer::start();
    let sidecar = Sidecar::start(&server, "sidecar").await;
    let nats = server.client().await;
    let mut writes = nats.subscribe("$KV.MQTT_sessions.many.>").await.unwrap();
    let mut records = nats.subscribe("$KV.MQTT_sessions.many").await.unwrap();
    settle(&nats).await;
    let mut client = sidecar.connect(durable("many")).await;
    let (mut bytes, mut largest) = (0, 0);
    for number in 0..FILTERS {
        client.subscribe(&filter(number), 1).await;
        if number % 50 == 49 {
            settle(&nats).await;
            let mut count = |message: async_nats::Message| {
                bytes += message.payload.len();
                largest = largest.max(message.payload.len());
            };
            while let Ok(Some(message)) = tokio::time::timeout(Duration::ZERO, writes.next()).await {
                count(message);
            }
            while let Ok(Some(message)) = tokio::time::timeout(Duration::ZERO, records.next()).await {
                count(message);
            }
            assert!(bytes < BYTES_MAX, "{bytes} bytes for {number} subscriptions");
        }
    }
    println!("{bytes} bytes for {FILTERS} subscriptions, {largest} at most in one message");
    assert!(bytes > 0 && largest < 8_192, "{largest} bytes in one message");
    assert_eq!(subscriptions(&nats, "many").await.len(), FILTERS);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_with_3000_filters_goes_on_elsewhere_and_leaves_nothing() {
    const SOME: [usize; 4] = [0, 1, 1_499, 2_999];
    let mut world = World::own().await;
    let nats = world.nats.client().await;
    let mut publisher = world.b.v5("publisher").await;
    let mut client = world.a.connect(durable("large")).await;
    subscribe(&mut client, 0..3_000).await;
    receives(&mut client, &mut publisher, &SOME, "live").await;
    world.a.kill();
    for number in SOME {
        publisher.publish(msg(&topic(number), "while away").qos(1)).await;
    }
    let mut client = world.b.connect(durable("large")).await;
    assert!(client.is_resumed());
    receives_what_was_published(&mut client, &SOME, "while away").await;
    receives(&mut client, &mut publisher, &SOME, "again").await;

    // Half of them go, and stay away.
    for number in (1..3_000).step_by(2) {
        client.unsubscribe(&filter(number)).await;
    }
    client.reset();
    let mut client = world.b.connect(durable("large")).await;
    assert!(client.is_resumed());
    assert_eq!(subscriptions(&nats, "large").await.len(), 1_500);
    for number in [1, 1_499, 2_999] {
        publisher.publish(msg(&topic(number), "nobody has it").qos(1)).await;
    }
    receives(&mut client, &mut publisher, &[0, 1_000, 2_998], "half").await;
    // Room that is free again is used again.
    let pages = beside(&nats, "large", "subs").await.len();
    subscribe(&mut client, 0..3_000).await;
    assert_eq!(beside(&nats, "large", "subs").await.len(), pages);
    client.goodbye().await;

    // Clean Start has nothing of it, and its pages go.
    let client = world.b.connect(Options::v5("large").expiry(LONG)).await;
    assert!(!client.is_resumed());
    eventually("the pages are removed", async || beside(&nats, "large", "subs").await.is_empty()).await;
    client.goodbye().await;
    let mut client = world.b.connect(durable("large")).await;
    assert!(client.is_resumed());
    receives(&mut client, &mut publisher, &[], "nothing").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_ends_or_expires_takes_its_pages_with_it() {
    let world = World::own().await;
    let nats = world.nats.client().await;
    for (id, options) in [("ends", Options::v5("ends")), ("expires", Options::v5("expires").durable(1))] {
        let mut client = world.a.connect(options).await;
        subscribe(&mut client, 0..300).await;
        // What a session that ends with its connection has is written behind SUBACK.
        eventually("the pages are written", async || beside(&nats, id, "subs").await.len() > 3).await;
        client.goodbye().await;
        eventually("the pages are removed", async || beside(&nats, id, "subs").await.is_empty()).await;
    }
    assert!(!world.b.connect(durable("expires")).await.is_resumed());
}

/// Nobody is there when it expires; and one whose marker is gone as well.
#[tokio::test(flavor = "multi_thread")]
async fn pages_that_nobody_has_any_more_are_found_at_a_start() {
    let server = NatsServer::start();
    let nats = server.client().await;
    let mut first = Sidecar::start(&server, "first").await;
    for (id, expiry_s) in [("forgotten", 1), ("stays", LONG)] {
        let mut client = first.connect(Options::v5(id).durable(expiry_s)).await;
        subscribe(&mut client, 0..200).await;
        client.goodbye().await;
    }
    first.kill();
    eventually("it has expired", async || record(&nats, "forgotten").await.is_none()).await;
    let of_nobody = "$KV.MQTT_sessions.nobody.subs.7.1";
    nats.publish(of_nobody, r#"{"version":2,"subscriptions":[]}"#.into()).await.unwrap();
    let pages = beside(&nats, "stays", "subs").await;
    assert!(!pages.is_empty() && !beside(&nats, "forgotten", "subs").await.is_empty());
    let second = Sidecar::start(&server, "second").await;
    eventually("the pages are removed", async || {
        beside(&nats, "forgotten", "subs").await.is_empty() && beside(&nats, "nobody", "subs").await.is_empty()
    })
    .await;
    assert_eq!(beside(&nats, "stays", "subs").await, pages);
    let mut client = second.connect(durable("stays")).await;
    assert!(client.is_resumed());
    let mut publisher = second.v5("publisher").await;
    receives(&mut client, &mut publisher, &[0, 100, 199], "still there").await;
}

/// A record as version 1 has written it.
fn of_version_1(id: &str, filters: usize) -> Value {
    let subscription = |number| json!({ "filter": filter(number), "qos": 1, "since": 0 });
    let subscriptions: Vec<Value> = (0..filters).map(subscription).collect();
    json!({ "version": 1, "client_id": id, "epoch": 7, "first_epoch": 7, "owner": null, "connected": false,
        "since": "2020-01-01T00:00:00.000Z", "protocol": "5.0", "expiry_s": 4_294_967_295_u32,
        "disconnected_at": "2020-01-01T00:00:00.000Z", "subscriptions": subscriptions })
}

async fn write(nats: &Nats, id: &str, record: &Value) {
    nats.publish(format!("$KV.MQTT_sessions.{id}"), record.to_string().into()).await.unwrap();
    settle(nats).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_version_1_has_written_is_gone_on_with_and_written_anew() {
    let server = NatsServer::start();
    let nats = server.client().await;
    let mut first = Sidecar::start(&server, "first").await;
    for (id, filters) in [("many", 500), ("few", 3)] {
        write(&nats, id, &of_version_1(id, filters)).await;
        let mut client = first.connect(durable(id)).await;
        assert!(client.is_resumed(), "{id}");
        let (_, now) = record(&nats, id).await.unwrap();
        assert_eq!((&now["version"], subscriptions(&nats, id).await.len()), (&json!(2), filters), "{id}");
        assert!(now.to_string().len() < 8_192, "{id}: {now}");
        let mut publisher = first.v5("publisher").await;
        receives(&mut client, &mut publisher, &[0, filters - 1], id).await;
        client.reset();
    }
    first.kill();
    let second = Sidecar::start(&server, "second").await;
    let mut publisher = second.v5("publisher").await;
    for number in [0, 250, 499] {
        publisher.publish(msg(&topic(number), "while away").qos(1)).await;
    }
    let mut client = second.connect(durable("many")).await;
    assert!(client.is_resumed());
    receives_what_was_published(&mut client, &[0, 250, 499], "while away").await;
}

/// The number is not believed, nothing is allocated for it, and nobody else notices.
#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_names_more_pages_than_a_session_can_have_is_refused_and_left_alone() {
    let server = NatsServer::start();
    let sidecar = Sidecar::start(&server, "sidecar").await;
    let nats = server.client().await;
    let mut forged = of_version_1("forged", 3);
    (forged["version"], forged["pages"]) = (json!(2), json!(u32::MAX));
    write(&nats, "forged", &forged).await;
    // As whoever gives up a record that is written: without an answer.
    assert_eq!(Client::try_open(sidecar.mqtt_port, durable("forged")).await.err(), Some(Ended::Closed));
    eventually("it is put back", async || {
        let (_, now) = record(&nats, "forged").await.unwrap();
        ["first_epoch", "connected", "pages"].iter().all(|key| now[key] == forged[key])
            && now["subscriptions"].as_array().map(Vec::len) == Some(3)
    })
    .await;
    assert!(sidecar.log().contains("more pages than a session can have"));
    let mut publisher = sidecar.v5("publisher").await;

    let mut client = sidecar.connect(Options::v5("forged").expiry(LONG)).await;
    subscribe(&mut client, 0..300).await;
    client.reset();
    let mut client = sidecar.connect(durable("forged")).await;
    assert!(client.is_resumed());
    receives(&mut client, &mut publisher, &[0, 299], "its own").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_says_that_sidecars_of_another_version_are_there() {
    let server = NatsServer::start();
    let nats = server.client().await;
    let first = Sidecar::start(&server, "first").await;
    let lease = json!({ "version": 1, "node": "old-one", "boot": "x", "since": "2020-01-01T00:00:00.000Z" });
    nats.publish("$KV.MQTT_nodes.old-one", lease.to_string().into()).await.unwrap();
    settle(&nats).await;
    let second = Sidecar::start(&server, "second").await;
    let says = |sidecar: &Sidecar| sidecar.log().contains("versions side by side are not supported");
    eventually("it says so", async || says(&second) && second.log().contains("old-one")).await;
    assert!(!says(&first));
}

/// What a session that is away is owed is copied before the log loses it, whichever page says so.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_session_with_pages_is_owed_waits_in_its_backlog() {
    let server = NatsServer::start();
    let builder = |name| SidecarBuilder::of(&server, name).set("JETSTREAM__LOG__MAX_BYTES", "2000000");
    let (a, b) = (builder("a").start().await, builder("b").start().await);
    let nats = server.client().await;
    let mut client = a.connect(durable("away")).await;
    subscribe(&mut client, 0..1_000).await;
    client.subscribe("$share/group/jobs", 2).await;
    client.goodbye().await;
    let mut publisher = b.v5("publisher").await;
    publisher.publish(msg(&topic(999), "owed").qos(1)).await;
    publisher.publish(msg(&topic(998), "and not").qos(1)).await;
    // More than half of what the log holds: it is copied. Then the log loses it.
    for part in 0..16 {
        publisher.publish_all((0..250).map(|_| msg("other", vec![b'x'; 1_000]).qos(1)), 32, |_| {}).await;
        let copies = async || crate::harness::stored(&nats, "MQTT_backlog", "").await;
        eventually("it is copied", async || part < 6 || copies().await >= 2).await;
    }
    let mut client = b.connect(durable("away")).await;
    assert!(client.is_resumed());
    assert_eq!(client.receive_shown().await, format!("{} owed qos1", topic(999)));
    assert_eq!(client.receive_shown().await, format!("{} and not qos1", topic(998)));
}

/// Its record is small all the same, and the whole of it is published by whoever is left.
#[tokio::test(flavor = "multi_thread")]
async fn a_large_will_is_beside_the_record_for_as_long_as_it_may_be_published() {
    let mut world = World::own().await;
    let nats = world.nats.client().await;
    let mut watcher = world.b.v5("watch").await;
    watcher.subscribe("will/#", 1).await;
    let will = |text: &str| {
        let user_properties = vec![("colour".into(), "c".repeat(2_000).into())];
        let properties = Some(Box::new(MessageProperties { user_properties, ..MessageProperties::default() }));
        Message { properties, ..msg(&format!("will/{text}"), text.repeat(2_000)).qos(1) }
    };
    let wills = async |id: &str| beside(&nats, id, "will").await.len();
    let options = |text: &str, delay_s| durable("dying").delayed_will(will(text), delay_s);

    // Taken back by a goodbye, and cancelled by the next connection.
    let client = world.a.connect(options("goodbye", 0)).await;
    let (_, now) = record(&nats, "dying").await.unwrap();
    assert!(now.to_string().len() < 1_024, "{now}");
    assert_eq!((wills("dying").await, &now["will"]["topic"]), (1, &json!("will/goodbye")));
    client.goodbye().await;
    eventually("the will is removed", async || wills("dying").await == 0).await;
    world.a.connect(options("cancelled", LONG)).await.reset();
    eventually("its connection has ended", async || record(&nats, "dying").await.unwrap().1["connected"] == false)
        .await;
    assert_eq!(wills("dying").await, 1);
    let mut client = world.a.connect(options("killed", 0)).await;
    eventually("that of the connection before is removed", async || wills("dying").await == 1).await;
    client.subscribe("plain", 1).await;

    // Its sidecar is killed: the other one has it from the bucket alone.
    world.a.kill();
    let publish = watcher.receive().await;
    assert!(shown(&publish).starts_with("will/killed killedkilled"));
    assert_eq!(publish.payload.len(), 12_000);
    let properties = publish.properties.expect("properties").user_properties;
    assert!(properties.iter().any(|(name, value)| &**name == "colour" && value.len() == 2_000));
    eventually("the will is removed", async || wills("dying").await == 0).await;

    // A session that ends with its connection.
    let client = world.b.connect(Options::v5("brief").will(will("brief"))).await;
    assert_eq!(wills("brief").await, 1);
    client.reset();
    assert_eq!(watcher.receive().await.payload.len(), 10_000);
    eventually("nothing is left", async || wills("brief").await == 0 && record(&nats, "brief").await.is_none()).await;
}

/// A will that its record has no room for.
fn large_will(id: &str) -> Message {
    msg(&format!("will/{id}"), "gone".repeat(1_000)).qos(1)
}

/// A CONNECT with Clean Start whose record is written, and which is given up since nobody answers. Returns its record.
async fn give_up_clean_start(relay: &Relay, a: &Sidecar, nats: &Nats, id: &str) -> Value {
    relay.mute_at(&format!("HPUB $KV.MQTT_sessions.{id} "));
    let options = Options::v5(id).expiry(LONG).will(large_will(id));
    assert_eq!(Client::try_open(a.mqtt_port, options).await.err(), Some(Ended::Closed));
    relay.cut();
    let (_, written) = record(nats, id).await.expect("a record");
    assert_eq!((&written["connected"], &written["subscriptions"]), (&json!(true), &json!([])), "{written}");
    written
}

/// Whoever looks for what is left does so now, as it does when a session is over that had pages.
async fn sweep(sidecar: &Sidecar, nats: &Nats) {
    let page = r#"{"version":2,"subscriptions":[]}"#;
    nats.publish("$KV.MQTT_sessions.nobody.subs.7.1", page.into()).await.unwrap();
    settle(nats).await;
    let mut client = sidecar.v5("ends").await;
    subscribe(&mut client, 0..300).await;
    client.goodbye().await;
    eventually("it has swept", async || beside(nats, "nobody", "subs").await.is_empty()).await;
}

/// Who gives a Clean Start up puts back what it found: until then nobody takes what belongs to that for left behind.
#[tokio::test(flavor = "multi_thread")]
async fn a_clean_start_that_is_given_up_has_destroyed_nothing_and_leaves_nothing() {
    let server = NatsServer::start();
    let relay = Relay::start(server.url()).await;
    // The first one looks for what is left.
    let b = Sidecar::start(&server, "sidecar b").await;
    let a = SidecarBuilder::new("sidecar a", &["--nats", &relay.url()]).start().await;
    let nats = server.client().await;
    for id in ["back", "new"] {
        let mut client = b.connect(durable(id)).await;
        subscribe(&mut client, 0..300).await;
        client.goodbye().await;
    }
    let before = record(&nats, "back").await.unwrap().1;
    let pages = [beside(&nats, "back", "subs").await, beside(&nats, "new", "subs").await];
    assert!(pages.iter().all(|pages| pages.len() > 3));

    let written = give_up_clean_start(&relay, &a, &nats, "back").await;
    sweep(&b, &nats).await;
    assert_eq!(record(&nats, "back").await.unwrap().1["epoch"], written["epoch"], "it is not put back yet");
    assert_eq!(beside(&nats, "back", "subs").await, pages[0]);
    assert_eq!(beside(&nats, "back", "will").await.len(), 1);
    eventually("it is put back", async || {
        record(&nats, "back").await.unwrap().1["first_epoch"] == before["first_epoch"]
    })
    .await;
    eventually("the will of the CONNECT is gone", async || beside(&nats, "back", "will").await.is_empty()).await;
    assert_eq!(beside(&nats, "back", "subs").await, pages[0]);
    let mut publisher = b.v5("publisher").await;
    publisher.publish(msg(&topic(299), "while away").qos(1)).await;
    let mut client = b.connect(durable("back")).await;
    assert!(client.is_resumed());
    receives_what_was_published(&mut client, &[299], "while away").await;
    receives(&mut client, &mut publisher, &[0, 150, 299], "again").await;

    // Somebody else accepts a Clean Start before it is put back: what was there before is over.
    give_up_clean_start(&relay, &a, &nats, "new").await;
    let mut client = b.connect(Options::v5("new").expiry(LONG)).await;
    subscribe(&mut client, 300..301).await;
    assert_eq!(beside(&nats, "new", "subs").await, pages[1], "nobody has looked");
    sweep(&b, &nats).await;
    eventually("its pages are removed", async || beside(&nats, "new", "subs").await.is_empty()).await;
    assert!(!beside(&nats, "back", "subs").await.is_empty());
    receives(&mut client, &mut publisher, &[300], "alone").await;
}

/// Nobody will ever name it.
#[tokio::test(flavor = "multi_thread")]
async fn the_will_of_a_connect_that_wrote_no_record_is_removed() {
    let server = NatsServer::start();
    let sidecar = Sidecar::start(&server, "sidecar").await;
    let nats = server.client().await;
    let before = of_version_1("refused", 200);
    write(&nats, "refused", &before).await;
    // Room for the will, and not for a record as it is found.
    let info = js_api(&nats, "STREAM.INFO.KV_MQTT_sessions", &Value::Null).await;
    let mut config = info["config"].clone();
    config["max_msg_size"] = json!(8_000);
    let updated = js_api(&nats, "STREAM.UPDATE.KV_MQTT_sessions", &config).await;
    assert!(updated["error"].is_null(), "{updated}");
    let mut wills = nats.subscribe("$KV.MQTT_sessions.refused.will.>").await.unwrap();
    settle(&nats).await;
    let options = durable("refused").will(large_will("refused"));
    assert_eq!(Client::open(sidecar.mqtt_port, options).await.connack.reason, ReasonCode::ServerUnavailable);
    assert!(wills.next().await.is_some(), "it was there");
    eventually("its will is removed", async || beside(&nats, "refused", "will").await.is_empty()).await;
    assert_eq!(record(&nats, "refused").await.unwrap().1, before);
}
