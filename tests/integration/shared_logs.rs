//! Shared subscriptions whose messages are in several logs: in streams of others, in declared logs and in the one that is
//! always there. Each message goes to one member, whichever way it came.

use std::time::Duration;

use async_nats::Client as Nats;
use mqtt_codec::{Packet, PacketType};
use serde_json::{Value, json};

use crate::attached::{create, follows, put};
use crate::harness::{Ended, NatsServer, Options, Sidecar, SidecarBuilder, World, eventually, js_api, settle, unique};
use crate::shared::{Crew, member, numbered, numbers, shares};

/// Two sidecars, with a stream `ORDERS` of `plant.orders.>` and a declared log of `plant/tele/#`.
struct Plant {
    nats: NatsServer,
    a: Sidecar,
    b: Sidecar,
}

/// Topics of the three logs.
const TOPICS: [&str; 3] = ["plant/orders/x", "plant/tele/x", "plant/other/x"];

/// The streams that they are stored in.
const STREAMS: [&str; 3] = ["ORDERS", "MQTT_log_tele", "MQTT_log"];

impl Plant {
    async fn start() -> Self {
        let nats = NatsServer::start();
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("nats-mqtt.toml");
        std::fs::write(&file, "[[jetstream.logs]]\nname = \"tele\"\ntopics = [\"plant/tele/#\"]\n").unwrap();
        let args = ["--nats", &nats.url(), "-c", file.to_str().unwrap()];
        let quick = |builder: SidecarBuilder| builder.set("JETSTREAM__SHARED__ACK_WAIT", "3s");
        let a = quick(SidecarBuilder::new("a", &args)).start().await;
        let b = quick(SidecarBuilder::of(&nats, "b")).start().await;
        let config = json!({"name": "ORDERS", "subjects": ["plant.orders.>"]});
        create(&nats.client().await, &[&a, &b], &config).await;
        Self { nats, a, b }
    }
}

async fn consumer(nats: &Nats, stream: &str, name: &str) -> Value {
    js_api(nats, &format!("CONSUMER.INFO.{stream}.{name}"), &Value::Null).await
}

/// Waits until a group has nothing left in any log.
async fn all_is_done(nats: &Nats, name: &str) {
    for stream in STREAMS {
        eventually(&format!("{stream} is worked off"), async || {
            let info = consumer(nats, stream, name).await;
            info["num_ack_pending"] == 0 && info["num_pending"] == 0
        })
        .await;
    }
}

/// What was stored while nobody was there, and then live, by clients of both worlds at every QoS.
#[tokio::test(flavor = "multi_thread")]
async fn a_filter_over_three_logs_gives_each_message_to_one_member() {
    const EACH: usize = 20;
    let plant = Plant::start().await;
    let nats = plant.nats.client().await;
    let filter = "$share/g/plant/#";
    // The group exists as long as a session has it.
    let mut away = plant.a.connect(Options::v5("away").durable(3600)).await;
    away.subscribe(filter, 2).await;
    away.goodbye().await;
    let mut publisher = plant.b.v5("pub").await;
    let mut next = 0;
    for topic in TOPICS {
        for qos in [1, 2] {
            publisher.publish_all(numbered(topic, next..next + EACH, qos), EACH, |_| {}).await;
            next += EACH;
        }
    }
    for subject in ["plant.orders.x", "plant.orders.y"] {
        for number in next..next + EACH {
            put(&nats, subject, &number.to_string()).await;
        }
        next += EACH;
    }
    eventually("the backlog can be seen", async || {
        let mut backlog = 0;
        for stream in STREAMS {
            let info = consumer(&nats, stream, "g@plant,#").await;
            // What was asked for when the member left is given back.
            backlog += info["num_pending"].as_u64().unwrap() + info["num_ack_pending"].as_u64().unwrap();
        }
        backlog == next as u64
    })
    .await;
    let mut crew = Crew::new();
    for (sidecar, id, qos) in [(&plant.a, "a1", 1), (&plant.a, "a2", 2), (&plant.b, "b1", 1), (&plant.b, "b2", 2)] {
        crew.add(member(sidecar, id, filter, qos).await);
    }
    assert_eq!(numbers(&crew.take(next).await), (0..next).collect::<Vec<_>>(), "the backlog, each once");
    let first = next;
    for topic in TOPICS {
        for qos in [0, 1, 2] {
            publisher.publish_all(numbered(topic, next..next + EACH, qos), EACH, |_| {}).await;
            next += EACH;
        }
    }
    for subject in TOPICS.map(|topic| topic.replace('/', ".")) {
        for number in next..next + EACH {
            nats.publish(subject.clone(), number.to_string().into()).await.unwrap();
        }
        next += EACH;
    }
    settle(&nats).await;
    for number in next..next + EACH {
        put(&nats, "plant.orders.z", &number.to_string()).await;
    }
    next += EACH;
    let got = crew.take(next - first).await;
    assert_eq!(numbers(&got), (first..next).collect::<Vec<_>>(), "each once");
    assert!(shares(&got).len() > 1, "{:?}", shares(&got));
    all_is_done(&nats, "g@plant,#").await;
    assert!(crew.got.try_recv().is_err(), "nothing comes again");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_member_leaves_of_a_stream_or_a_declared_log_goes_to_another() {
    let plant = Plant::start().await;
    let nats = plant.nats.client().await;
    let mut publisher = plant.b.v5("pub").await;
    for (index, topic) in TOPICS.into_iter().enumerate() {
        for (from, to) in [(&plant.a, &plant.a), (&plant.a, &plant.b)] {
            let group = unique("g");
            let filter = format!("$share/{group}/{topic}");
            let mut lazy = member(from, "lazy", &filter, 1).await;
            lazy.acknowledges = false;
            publisher.publish_all(numbered(topic, 0..5, 1), 5, |_| {}).await;
            if index == 0 {
                for number in 5..10 {
                    put(&nats, "plant.orders.x", &number.to_string()).await;
                }
            } else {
                publisher.publish_all(numbered(topic, 5..10, 2), 5, |_| {}).await;
            }
            for number in 0..10 {
                assert_eq!(lazy.receive_shown().await, format!("{topic} {number} qos1"));
            }
            let mut crew = Crew::new();
            crew.add(member(to, "busy", &filter, 1).await);
            lazy.reset();
            assert_eq!(numbers(&crew.take(10).await), (0..10).collect::<Vec<_>>(), "{topic}");
            let name = format!("{group}@{}", topic.replace('/', ","));
            eventually("all is acknowledged", async || {
                consumer(&nats, STREAMS[index], &name).await["num_ack_pending"] == 0
            })
            .await;
        }
    }
}

/// [MQTT-4.8.2-4]
#[tokio::test(flavor = "multi_thread")]
async fn qos_2_out_of_a_stream_is_finished_with_the_same_member() {
    let plant = Plant::start().await;
    let nats = plant.nats.client().await;
    for (topic, stream) in TOPICS.into_iter().zip(STREAMS) {
        let (group, id) = (unique("g"), unique("began"));
        let filter = format!("$share/{group}/{topic}");
        let mut began = plant.a.connect(Options::v5(&id).durable(3600)).await;
        began.acknowledges = false;
        began.subscribe(&filter, 2).await;
        let mut publisher = plant.b.v5("pub").await;
        publisher.publish_all(numbered(topic, 0..2, 2), 2, |_| {}).await;
        let ids = [began.receive().await, began.receive().await].map(|publish| publish.packet_id().unwrap());
        began.ack(Packet::PubRec, ids[0]).await;
        began.next_of(PacketType::PubRel).await;
        began.reset();
        let mut other = member(&plant.b, "other", &filter, 2).await;
        let mut again = plant.b.connect(Options::v5(&id).durable(3600)).await;
        let repeated = again.receive().await;
        assert_eq!(
            (crate::harness::shown(&repeated), repeated.packet_id()),
            (format!("{topic} 1 qos2 dup"), Some(ids[1]))
        );
        again.ping().await;
        let name = format!("{group}@{}", topic.replace('/', ","));
        eventually("all is acknowledged", async || consumer(&nats, stream, &name).await["num_ack_pending"] == 0).await;
        assert_eq!(other.try_receive(Duration::from_millis(300)).await, Err(Ended::Silent));
    }
}

/// A stream that is made when the group is there already is the group's from its first message on, also when no member was
/// connected.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_comes_later_is_shared_from_its_beginning_and_one_that_goes_is_forgotten() {
    let world = World::shared().await;
    let nats = world.nats.client().await;
    let both = [&world.a, &world.b];
    for is_away in [false, true] {
        let (t, group, stream, id) = (unique("coming"), unique("g"), unique("COMING"), unique("worker"));
        let filter = format!("$share/{group}/{t}/#");
        let (topic, subject) = (format!("{t}/x"), format!("{t}.x"));
        let mut crew = Crew::new();
        let mut worker = world.a.connect(Options::v5(&id).durable(3600)).await;
        worker.subscribe(&filter, 1).await;
        if is_away {
            worker.goodbye().await;
        } else {
            crew.add(worker);
            crew.add(member(&world.b, "other", &filter, 2).await);
        }
        create(&nats, &both, &json!({"name": stream, "subjects": [format!("{t}.>")]})).await;
        for number in 0..5 {
            put(&nats, &subject, &number.to_string()).await;
        }
        let mut publisher = world.b.v5(&unique("pub")).await;
        publisher.publish_all(numbered(&topic, 5..10, 1), 5, |_| {}).await;
        if is_away {
            crew.add(world.b.connect(Options::v5(&id).durable(3600)).await);
        }
        assert_eq!(numbers(&crew.take(10).await), (0..10).collect::<Vec<_>>(), "away: {is_away}");
        let name = format!("{group}@{t},#");
        eventually("all is acknowledged", async || consumer(&nats, &stream, &name).await["num_ack_pending"] == 0).await;

        js_api(&nats, &format!("STREAM.DELETE.{stream}"), &Value::Null).await;
        let is_said = |line: &str| line.contains(&*stream) && line.contains("any more");
        eventually("the stream is let go", async || both.iter().all(|s| s.log().lines().any(is_said))).await;
        publisher.publish_all(numbered(&topic, 10..15, 1), 5, |_| {}).await;
        assert_eq!(numbers(&crew.take(5).await), (10..15).collect::<Vec<_>>(), "by the log again");

        // Another one of that name.
        js_api(&nats, &format!("STREAM.CREATE.{stream}"), &json!({"name": stream, "subjects": [format!("{t}.>")]}))
            .await;
        for sidecar in both {
            follows(sidecar, &stream, 2).await;
        }
        put(&nats, &subject, "15").await;
        publisher.publish_all(numbered(&topic, 16..20, 2), 4, |_| {}).await;
        assert_eq!(numbers(&crew.take(5).await), (15..20).collect::<Vec<_>>(), "anew");
        js_api(&nats, &format!("STREAM.DELETE.{stream}"), &Value::Null).await;
    }
}

/// Whoever deletes a group's consumer on a stream gives up what was in it: the stream is not read again from its beginning.
#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_is_deleted_on_a_stream_begins_anew() {
    let plant = Plant::start().await;
    let nats = plant.nats.client().await;
    let mut worker = member(&plant.a, "worker", "$share/g/plant/#", 1).await;
    put(&nats, "plant.orders.x", "old").await;
    assert_eq!(worker.receive_shown().await, "plant/orders/x old qos1");
    worker.ping().await;
    js_api(&nats, "CONSUMER.DELETE.ORDERS.g@plant,#", &Value::Null).await;
    eventually("it is made again", async || consumer(&nats, "ORDERS", "g@plant,#").await["error"].is_null()).await;
    put(&nats, "plant.orders.x", "new").await;
    assert_eq!(worker.receive_shown().await, "plant/orders/x new qos1");
}
