//! Who subscribes to everything costs nobody else anything: what is noticed by "no responders" without it is noticed as soon
//! with it, whoever it is.

use std::time::{Duration, Instant};

use async_nats::RequestErrorKind;
use futures_util::StreamExt;
use mqtt_codec::{ReasonCode, Version};
use serde_json::{Value, json};

use crate::harness::cluster::Cluster;
use crate::harness::{
    Client, NatsServer, Options, PATIENCE, Sidecar, SidecarBuilder, World, eventually, js_api, msg, settle, unique,
};

const LONG: u32 = 3600;

/// Who listens to everything.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Everything {
    /// A device.
    OfMqtt,
    /// Another client of NATS.
    OfNats,
}

/// Listens until it is dropped.
struct Listening {
    _device: Option<Client>,
    task: Option<tokio::task::JoinHandle<()>>,
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.task.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

impl Everything {
    async fn listen(self, sidecar: &Sidecar, nats: &NatsServer) -> Listening {
        if self == Self::OfMqtt {
            let mut device = sidecar.v311(&unique("all")).await;
            device.subscribe("#", 0).await;
            return Listening { _device: Some(device), task: None };
        }
        let client = nats.client().await;
        let mut all = client.subscribe(">").await.unwrap();
        settle(&client).await;
        let task = tokio::spawn(async move {
            let _client = client;
            while all.next().await.is_some() {}
        });
        Listening { _device: None, task: Some(task) }
    }
}

/// Whether one of these sidecars copies messages of NATS.
fn leads(sidecar: &Sidecar) -> bool {
    sidecar.log().contains("this sidecar copies messages of NATS")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_leader_of_the_ingest_is_replaced_as_soon_when_somebody_listens_to_everything() {
    for everything in [Everything::OfMqtt, Everything::OfNats] {
        let mut world = World::own().await;
        eventually("somebody leads", async || leads(&world.a) || leads(&world.b)).await;
        let is_a = leads(&world.a);
        let other = if is_a { &world.b } else { &world.a };
        let _listening = everything.listen(other, &world.nats).await;
        let (leader, other) = if is_a { (&mut world.a, &world.b) } else { (&mut world.b, &world.a) };
        let killed_at = Instant::now();
        leader.kill();
        eventually("the other one leads", async || leads(other)).await;
        let took = killed_at.elapsed();
        println!("{everything:?}: {took:?}");
        assert!(took < Duration::from_secs(5), "{everything:?}: {took:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_of_a_killed_sidecar_connects_as_soon_when_somebody_listens_to_everything() {
    for everything in [Everything::OfMqtt, Everything::OfNats] {
        let mut world = World::own().await;
        let _listening = everything.listen(&world.b, &world.nats).await;
        let id = unique("device");
        let options = || Options::new(Version::V5, &id).durable(LONG);
        let mut device = world.a.connect(options()).await;
        device.subscribe("a", 1).await;
        world.a.kill();
        let killed_at = Instant::now();
        let device = world.b.connect(options()).await;
        let took = killed_at.elapsed();
        assert!(device.is_resumed());
        println!("{everything:?}: {took:?}");
        assert!(took < Duration::from_secs(1), "{everything:?}: {took:?}");
    }
}

/// What somebody hears who asks on NATS, and waits for long.
async fn asked(nats: &async_nats::Client, subject: &str) -> Result<String, RequestErrorKind> {
    let request = async_nats::Request::new().payload("?".into()).timeout(Some(PATIENCE));
    let answer = nats.send_request(subject.to_owned(), request).await;
    answer.map(|answer| String::from_utf8_lossy(&answer.payload).into_owned()).map_err(|error| error.kind())
}

/// Answers every request.
async fn serve(nats: &async_nats::Client, subject: &str, group: Option<&str>) -> tokio::task::JoinHandle<()> {
    let subject = subject.to_owned();
    let mut requests = match group {
        Some(group) => nats.queue_subscribe(subject, group.to_owned()).await.unwrap(),
        None => nats.subscribe(subject).await.unwrap(),
    };
    settle(nats).await;
    let nats = nats.clone();
    tokio::spawn(async move {
        while let Some(request) = requests.next().await {
            if let Some(reply) = request.reply {
                nats.publish(reply, "!".into()).await.unwrap();
            }
        }
    })
}

/// Everybody hears that nobody answers, and nobody who is answered hears it.
async fn hear_what_is_true(asker: &async_nats::Client, server: &async_nats::Client) {
    for round in 0..20 {
        let began = Instant::now();
        assert_eq!(asked(asker, &unique("nobody")).await, Err(RequestErrorKind::NoResponders), "{round}");
        assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
        for (tail, group) in [(".x", None), (".>", None), (".*", Some("g"))] {
            let t = unique("svc");
            let (serving, subject) = (serve(server, &format!("{t}{tail}"), group).await, format!("{t}.x"));
            // A nats-server may not see a subscription for some milliseconds.
            eventually("the service is there", async || {
                let asked = tokio::time::timeout(Duration::from_millis(200), asked(asker, &subject)).await;
                asked.is_ok_and(|answer| answer.is_ok())
            })
            .await;
            for _ in 0..3 {
                assert_eq!(asked(asker, &subject).await.as_deref(), Ok("!"), "{round} {t}{tail}");
            }
            serving.abort();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_on_nats_hears_that_nobody_answers_although_devices_listen_to_everything() {
    let world = World::own().await;
    let (asker, server) = (world.nats.client().await, world.nats.client().await);
    let mut device = world.a.v311(&unique("all")).await;
    device.subscribe("#", 0).await;
    hear_what_is_true(&asker, &server).await;
    // On every sidecar, above QoS 0, and shared.
    let mut devices = vec![device];
    for (sidecar, filter, qos) in [(&world.b, "#", 1), (&world.a, "+/#", 0), (&world.b, "+/+", 0)] {
        let mut device = sidecar.v5(&unique("all")).await;
        device.subscribe(filter, qos).await;
        devices.push(device);
    }
    hear_what_is_true(&asker, &server).await;
    let said =
        world.a.metric("nats_no_responders_said_total").await + world.b.metric("nats_no_responders_said_total").await;
    assert!(said >= 40.0, "{said}");
    // What a device is subscribed to by name is its to answer.
    let t = unique("device");
    let mut answers = world.b.v5(&unique("answers")).await;
    answers.subscribe(&format!("{t}/+"), 0).await;
    let (nats, subject) = (asker.clone(), format!("{t}.x"));
    let waits = tokio::spawn(async move { asked(&nats, &subject).await });
    let request = answers.receive().await;
    let topic = request.properties.unwrap().response_topic.unwrap();
    answers.publish(msg(topic.as_str(), "of a device")).await;
    assert_eq!(waits.await.unwrap().as_deref(), Ok("of a device"));
    // So does JetStream.
    for (stream, subjects, subject) in [("S", "s.>", "s.x"), ("KV_bucket", "$KV.bucket.>", "$KV.bucket.k")] {
        let config = json!({ "name": stream, "subjects": [subjects], "storage": "memory" });
        let made = js_api(&asker, &format!("STREAM.CREATE.{stream}"), &config).await;
        assert!(made.get("error").is_none(), "{made}");
        // What came before the sidecars knew of the stream may be copied into it.
        let mut last = 0;
        for _ in 0..50 {
            let ack = asked(&asker, subject).await.unwrap();
            let ack: Value = serde_json::from_str(&ack).unwrap();
            assert!(ack["stream"] == stream && ack["seq"].as_u64() > Some(last), "{ack}");
            last = ack["seq"].as_u64().unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_holds_in_a_cluster_wherever_everybody_is() {
    let cluster = Cluster::start(3);
    let mut listening = Vec::new();
    for (n, server) in cluster.servers.iter().take(2).enumerate() {
        let builder = SidecarBuilder::new(&format!("sidecar {n}"), &["--nats", &server.url()]);
        let sidecar = builder.set("JETSTREAM__REPLICAS", cluster.replicas()).start().await;
        let mut device = sidecar.v311(&unique("all")).await;
        device.subscribe("#", 0).await;
        listening.push((sidecar, device));
    }
    for (asks, serves) in [(0, 1), (1, 2), (2, 0), (2, 2)] {
        hear_what_is_true(&cluster.servers[asks].client().await, &cluster.servers[serves].client().await).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wildcards_at_the_first_level_are_refused_where_the_operator_says_so() {
    let nats_server = NatsServer::start();
    let sidecar = SidecarBuilder::of(&nats_server, "sidecar").set("MQTT__ROOT_WILDCARD", "refuse").start().await;
    let (mut v5, mut v311) = (sidecar.v5("v5").await, sidecar.v311("v311").await);
    for filter in ["#", "+", "+/x", "+/#", "$share/g/#"] {
        assert_eq!(v5.asks_for(filter, 1).await, ReasonCode::TopicFilterInvalid, "{filter}");
    }
    assert!(v311.asks_for("#", 0).await.is_error());
    for filter in ["a/#", "$share/g/a/+", "$SYS/#"] {
        assert!(!v5.asks_for(filter, 1).await.is_error(), "{filter}");
    }
    assert!(sidecar.log().contains("as mqtt.root_wildcard says"));
    let nats = nats_server.client().await;
    assert_eq!(asked(&nats, "nobody").await, Err(RequestErrorKind::NoResponders));
}

#[tokio::test(flavor = "multi_thread")]
async fn wildcards_at_the_first_level_are_narrowed_to_trees_and_nats_does_not_notice_them() {
    let nats_server = NatsServer::start();
    let start = async |name| {
        SidecarBuilder::of(&nats_server, name).set("MQTT__ROOT_WILDCARD", "home,sensors/hall").start().await
    };
    let (a, b) = (start("sidecar a").await, start("sidecar b").await);
    let nats = nats_server.client().await;
    let mut subscribers = Vec::new();
    for (sidecar, qos) in [(&a, 0), (&a, 1), (&b, 0), (&b, 2)] {
        let mut subscriber = sidecar.v5(&unique("all")).await;
        subscriber.subscribe("#", qos).await;
        subscribers.push((subscriber, qos));
    }
    assert_eq!(subscribers[0].0.asks_for("+", 0).await, ReasonCode::Success);
    assert_eq!(subscribers[0].0.asks_for("+/kitchen/#", 0).await, ReasonCode::Success);
    assert_eq!(subscribers[0].0.asks_for("+/kitchen", 0).await, ReasonCode::Success);
    assert_eq!(subscribers[0].0.unsubscribe("+/kitchen").await, [ReasonCode::Success]);
    assert_eq!(subscribers[0].0.unsubscribe("+").await, [ReasonCode::Success]);
    assert_eq!(subscribers[0].0.unsubscribe("+/kitchen/#").await, [ReasonCode::Success]);
    let mut publisher = b.v5(&unique("pub")).await;
    for topic in ["home", "other", "home/kitchen", "sensors", "sensors/hall/1", "sensors/attic", "homes"] {
        let is_seen = matches!(topic, "home" | "home/kitchen" | "sensors/hall/1");
        let retained = msg(topic, "retained").qos(1).retained();
        for message in [msg(topic, "qos 0"), msg(topic, "qos 1").qos(1), retained] {
            publisher.publish(message).await;
        }
        nats.publish(topic.replace('/', "."), "nats".into()).await.unwrap();
        settle(&nats).await;
        for (subscriber, qos) in subscribers.iter_mut().filter(|_| is_seen) {
            let mut got = Vec::new();
            while got.len() < 4 {
                got.push(subscriber.receive_shown().await);
            }
            got.sort();
            let at = |of: u8| of.min(*qos);
            let mut expected = vec![
                format!("{topic} qos 0 qos0"),
                format!("{topic} qos 1 qos{}", at(1)),
                format!("{topic} retained qos{}", at(1)),
                format!("{topic} nats qos{}", at(2)),
            ];
            expected.sort();
            assert_eq!(got, expected);
        }
    }
    for (subscriber, _) in &mut subscribers {
        subscriber.ping().await;
        assert!(subscriber.try_receive(Duration::from_millis(100)).await.is_err());
    }
    // What is retained there, and nothing else.
    let mut late = a.v5(&unique("late")).await;
    late.subscribe("#", 0).await;
    let mut got = Vec::new();
    while got.len() < 3 {
        got.push(late.receive_shown().await);
    }
    got.sort();
    let retained = |topic: &str| format!("{topic} retained qos0 retain");
    assert_eq!(got, ["home", "home/kitchen", "sensors/hall/1"].map(retained));
    assert!(late.try_receive(Duration::from_millis(100)).await.is_err());
    // nats-server says itself that nobody listens.
    assert_eq!(asked(&nats, "other").await, Err(RequestErrorKind::NoResponders));
    assert_eq!(a.metric("nats_no_responders_said_total").await + b.metric("nats_no_responders_said_total").await, 0.0);
}
