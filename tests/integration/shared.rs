//! Shared subscriptions: each message goes to one member of the group, on whichever sidecar, and to NATS workers that
//! join it. What dies meanwhile is in `shared_faults`.

use std::collections::HashMap;
use std::time::Duration;

use async_nats::Client as NatsClient;
use futures_util::StreamExt;
use mqtt_codec::{Ack, Packet, PacketType, QoS, ReasonCode, SubscriptionOptions};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::harness::{
    Client, Ended, Message, MosquittoSub, NatsServer, Options, PATIENCE, Sidecar, SidecarBuilder, World, eventually,
    js_api, msg, settle, shown, unique,
};

/// What members got: who, and the payload.
pub(crate) type Got = mpsc::UnboundedReceiver<(String, String)>;

/// Members that read and acknowledge whatever comes.
pub(crate) struct Crew {
    sender: mpsc::UnboundedSender<(String, String)>,
    pub(crate) got: Got,
    tasks: HashMap<String, tokio::task::JoinHandle<()>>,
}

impl Crew {
    pub(crate) fn new() -> Self {
        let (sender, got) = mpsc::unbounded_channel();
        Self { sender, got, tasks: HashMap::new() }
    }

    /// A client that is subscribed already.
    pub(crate) fn add(&mut self, mut client: Client) {
        let (id, sender) = (client.id().to_owned(), self.sender.clone());
        let task = tokio::spawn(async move {
            let id = client.id().to_owned();
            while let Ok(publish) = client.try_receive(PATIENCE * 10).await {
                let payload = String::from_utf8_lossy(&publish.payload).into_owned();
                if sender.send((id.clone(), payload)).is_err() {
                    return;
                }
            }
        });
        self.tasks.insert(id, task);
    }

    /// Somebody else's way to say what he got.
    pub(crate) fn sender(&self) -> mpsc::UnboundedSender<(String, String)> {
        self.sender.clone()
    }

    /// The next `count` messages.
    pub(crate) async fn take(&mut self, count: usize) -> Vec<(String, String)> {
        let mut all = Vec::with_capacity(count);
        while all.len() < count {
            match tokio::time::timeout(PATIENCE, self.got.recv()).await {
                Ok(Some(next)) => all.push(next),
                _ => panic!("{} of {count} messages: {:?}", all.len(), shares(&all)),
            }
        }
        all
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        self.tasks.values().for_each(tokio::task::JoinHandle::abort);
    }
}

/// How many each member got.
pub(crate) fn shares(got: &[(String, String)]) -> HashMap<&str, usize> {
    let mut shares = HashMap::new();
    for (member, _) in got {
        *shares.entry(member.as_str()).or_default() += 1;
    }
    shares
}

/// The payloads, in order of their numbers.
pub(crate) fn numbers(got: &[(String, String)]) -> Vec<usize> {
    let mut numbers: Vec<usize> = got.iter().map(|(_, payload)| payload.parse().unwrap()).collect();
    numbers.sort_unstable();
    numbers
}

pub(crate) fn numbered(topic: &str, range: std::ops::Range<usize>, qos: u8) -> impl Iterator<Item = Message> {
    range.map(move |number| msg(topic, number.to_string()).qos(qos))
}

/// A client with one shared subscription.
pub(crate) async fn member(sidecar: &Sidecar, id: &str, filter: &str, qos: u8) -> Client {
    let mut client = sidecar.v5(&unique(id)).await;
    client.subscribe(filter, qos).await;
    client
}

/// A sidecar whose messages never go to others because of the consumer's time.
pub(crate) async fn patient(nats: &NatsServer, name: &str) -> Sidecar {
    SidecarBuilder::of(nats, name).set("JETSTREAM__SHARED__ACK_WAIT", "10m").start().await
}

/// What JetStream says of a group's consumer.
pub(crate) async fn consumer(nats: &NatsClient, name: &str) -> Value {
    js_api(nats, &format!("CONSUMER.INFO.MQTT_log.{name}"), &Value::Null).await
}

/// Waits until so many sidecars or workers have asked the consumer for messages.
async fn asked(nats: &NatsClient, name: &str, count: u64) {
    eventually("they wait for messages", async || consumer(nats, name).await["num_waiting"].as_u64() >= Some(count))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_stored_message_goes_to_one_member_on_either_sidecar() {
    const COUNT: usize = 300;
    let world = World::shared().await;
    for granted in [1, 2] {
        let (t, group) = (unique("jobs"), unique("g"));
        let filter = format!("$share/{group}/{t}/#");
        let mut crew = Crew::new();
        for (sidecar, id) in [(&world.a, "a1"), (&world.a, "a2"), (&world.b, "b1"), (&world.b, "b2")] {
            crew.add(member(sidecar, id, &filter, granted).await);
        }
        asked(&world.nats.client().await, &format!("{group}@{t},#"), 2).await;
        let mut publisher = world.a.v5(&unique("pub")).await;
        for (qos, range) in [(1, 0..COUNT), (2, COUNT..2 * COUNT)] {
            // Below the windows of the members, so that all of them are asked.
            publisher.publish_all(numbered(&format!("{t}/x"), range.clone(), qos), 128, |_| {}).await;
            let got = crew.take(COUNT).await;
            assert_eq!(numbers(&got), range.collect::<Vec<_>>(), "each once");
            let shares = shares(&got);
            assert!(shares.len() == 4 && shares.values().all(|share| *share >= COUNT / 20), "{shares:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn qos_0_is_shared_fairly_with_queue_subscribers_of_nats() {
    const COUNT: usize = 600;
    let world = World::shared().await;
    let (t, group) = (unique("fast"), unique("g"));
    let filter = format!("$share/{group}/{t}/#");
    let mut crew = Crew::new();
    for (sidecar, id) in [(&world.a, "a1"), (&world.a, "a2"), (&world.b, "b1")] {
        crew.add(member(sidecar, id, &filter, 0).await);
    }
    let nats = world.nats.client().await;
    let mut worker = nats.queue_subscribe(format!("{t}.>"), group.clone()).await.unwrap();
    settle(&nats).await;
    let sender = crew.sender();
    let worker = tokio::spawn(async move {
        while let Some(message) = worker.next().await {
            let _ = sender.send(("nats".into(), String::from_utf8_lossy(&message.payload).into_owned()));
        }
    });
    // From a member's own sidecar, and from NATS.
    let mut publisher = world.a.v5(&unique("pub")).await;
    publisher.publish_all(numbered(&format!("{t}/x"), 0..COUNT / 2, 0), 1, |_| {}).await;
    for number in COUNT / 2..COUNT {
        nats.publish(format!("{t}.y"), number.to_string().into()).await.unwrap();
    }
    let got = crew.take(COUNT).await;
    worker.abort();
    assert_eq!(numbers(&got), (0..COUNT).collect::<Vec<_>>(), "each once");
    // A quarter each, by chance.
    let shares = shares(&got);
    assert!(shares.len() == 4 && shares.values().all(|share| (COUNT / 8..COUNT / 2).contains(share)), "{shares:?}");
}

/// [MQTT-4.8.2-3]
#[tokio::test(flavor = "multi_thread")]
async fn a_member_gets_messages_at_no_more_than_its_qos() {
    let world = World::shared().await;
    let mut publisher = world.b.v5(&unique("pub")).await;
    for granted in [0, 1, 2] {
        let (topic, group) = (unique("granted"), unique("g"));
        let mut client = member(&world.a, "only", &format!("$share/{group}/{topic}"), granted).await;
        for qos in [2, 1, 0] {
            publisher.publish(msg(&topic, "m").qos(qos)).await;
            assert_eq!(client.receive_shown().await, format!("{topic} m qos{}", qos.min(granted)));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn members_of_any_qos_get_messages_of_any_qos_each_once() {
    const COUNT: usize = 60;
    let world = World::shared().await;
    let (t, group) = (unique("mixed"), unique("g"));
    let filter = format!("$share/{group}/{t}/+");
    let mut crew = Crew::new();
    // At QoS 0 the last one knows from the consumer that stored messages come from there.
    for (sidecar, id, qos) in [(&world.a, "one", 1), (&world.a, "zero", 0), (&world.b, "two", 2), (&world.b, "none", 0)]
    {
        crew.add(member(sidecar, id, &filter, qos).await);
    }
    let mut publisher = world.b.v5(&unique("pub")).await;
    for (qos, range) in [(0, 0..COUNT), (1, COUNT..2 * COUNT), (2, 2 * COUNT..3 * COUNT), (0, 3 * COUNT..4 * COUNT)] {
        publisher.publish_all(numbered(&format!("{t}/x"), range.clone(), qos), 128, |_| {}).await;
        let got = crew.take(COUNT).await;
        assert_eq!(numbers(&got), range.collect::<Vec<_>>(), "qos {qos}: each once");
        assert!(shares(&got).len() > 1, "qos {qos}: {:?}", shares(&got));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_at_qos_0_gets_what_is_published_at_qos_1() {
    let world = World::shared().await;
    let (t, group) = (unique("down"), unique("g"));
    let mut crew = Crew::new();
    for (sidecar, id) in [(&world.a, "a"), (&world.b, "b")] {
        crew.add(member(sidecar, id, &format!("$share/{group}/{t}"), 0).await);
    }
    let mut publisher = world.a.v5(&unique("pub")).await;
    publisher.publish_all(numbered(&t, 0..40, 1), 16, |_| {}).await;
    assert_eq!(numbers(&crew.take(40).await), (0..40).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_member_has_not_acknowledged_goes_to_another_when_it_leaves() {
    let nats = NatsServer::start();
    let (a, b) = (patient(&nats, "a").await, patient(&nats, "b").await);
    for (from, to) in [(&a, &a), (&a, &b)] {
        let (t, group) = (unique("leave"), unique("g"));
        let filter = format!("$share/{group}/{t}");
        let mut lazy = member(from, "lazy", &filter, 1).await;
        lazy.acknowledges = false;
        let mut publisher = to.v5(&unique("pub")).await;
        publisher.publish_all(numbered(&t, 0..10, 1), 10, |_| {}).await;
        for number in 0..10 {
            assert_eq!(lazy.receive_shown().await, format!("{t} {number} qos1"));
        }
        let mut crew = Crew::new();
        crew.add(member(to, "busy", &filter, 1).await);
        lazy.reset();
        assert_eq!(numbers(&crew.take(10).await), (0..10).collect::<Vec<_>>());
    }
}

/// [MQTT-3.10.4-2], [MQTT-3.10.4-3]
#[tokio::test(flavor = "multi_thread")]
async fn who_unsubscribes_gets_nothing_new_and_finishes_what_it_has() {
    let world = World::shared().await;
    let (t, group) = (unique("unsub"), unique("g"));
    let filter = format!("$share/{group}/{t}");
    let mut first = member(&world.a, "first", &filter, 1).await;
    first.acknowledges = false;
    let mut publisher = world.b.v5(&unique("pub")).await;
    publisher.publish(msg(&t, "0").qos(1)).await;
    let begun = first.receive().await;
    assert_eq!(first.unsubscribe(&filter).await, [ReasonCode::Success]);
    assert_eq!(first.unsubscribe(&filter).await, [ReasonCode::NoSubscriptionExisted]);
    let mut second = member(&world.a, "second", &filter, 1).await;
    publisher.publish_all(numbered(&t, 1..20, 1), 10, |_| {}).await;
    for number in 1..20 {
        assert_eq!(second.receive_shown().await, format!("{t} {number} qos1"));
    }
    first.write(&Packet::PubAck(Ack::new(begun.packet_id().unwrap(), ReasonCode::Success)));
    first.ping().await;
    let nats = world.nats.client().await;
    let name = format!("{group}@{t}");
    eventually("all is acknowledged", async || consumer(&nats, &name).await["ack_floor"]["consumer_seq"] == 20).await;
    first.goodbye().await;
    assert_eq!(second.try_receive(Duration::from_millis(300)).await, Err(Ended::Silent), "nothing comes again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_keeps_its_backlog_and_a_new_one_begins_now() {
    const COUNT: usize = 50;
    let world = World::shared().await;
    let nats = world.nats.client().await;
    let (t, group, id) = (unique("back"), unique("g"), unique("away"));
    let filter = format!("$share/{group}/{t}/#");
    let mut publisher = world.b.v5(&unique("pub")).await;
    publisher.publish(msg(&format!("{t}/old"), "old").qos(1)).await;
    let mut away = world.a.connect(Options::v5(&id).durable(3600)).await;
    away.subscribe(&filter, 1).await;
    away.goodbye().await;
    let name = format!("{group}@{t},#");
    eventually("nobody asks for messages", async || consumer(&nats, &name).await["num_waiting"] == 0).await;
    publisher.publish_all(numbered(&format!("{t}/x"), 0..COUNT, 1), 50, |_| {}).await;
    let info = consumer(&nats, &name).await;
    assert_eq!(info["num_pending"], json!(COUNT), "{info}");
    assert_eq!(info["config"]["metadata"]["nats-mqtt.share"], json!(group));
    assert_eq!(info["config"]["metadata"]["nats-mqtt.filter"], json!(format!("{t}/#")));
    // It was subscribed before, so it is a member again without SUBSCRIBE.
    let back = world.b.connect(Options::v5(&id).durable(3600)).await;
    assert!(back.is_resumed());
    let mut crew = Crew::new();
    crew.add(back);
    assert_eq!(numbers(&crew.take(COUNT).await), (0..COUNT).collect::<Vec<_>>());
    // Another group.
    let mut fresh = member(&world.a, "fresh", &format!("$share/{}/{t}/#", unique("g")), 1).await;
    publisher.publish(msg(&format!("{t}/x"), COUNT.to_string()).qos(1)).await;
    assert_eq!(fresh.receive_shown().await, format!("{t}/x {COUNT} qos1"));
    assert_eq!(numbers(&crew.take(1).await), [COUNT]);
}

/// [MQTT-4.8.2-4]
#[tokio::test(flavor = "multi_thread")]
async fn what_was_sent_at_qos_2_is_finished_with_the_same_member() {
    let world = World::shared().await;
    for (before, after) in [(&world.a, &world.a), (&world.a, &world.b)] {
        let (t, group, id) = (unique("same"), unique("g"), unique("began"));
        let filter = format!("$share/{group}/{t}");
        let mut began = before.connect(Options::v5(&id).durable(3600)).await;
        began.acknowledges = false;
        let options = SubscriptionOptions { qos: QoS::ExactlyOnce, ..Default::default() };
        began.subscribe_with(&filter, options, Some(7)).await;
        // What it has of its own says nothing of what its group has given it.
        began.subscribe_with("elsewhere", options, Some(8)).await;
        let mut publisher = world.b.v5(&unique("pub")).await;
        publisher.publish_all(numbered(&t, 0..2, 2), 2, |_| {}).await;
        let ids = [began.receive().await, began.receive().await].map(|publish| publish.packet_id().unwrap());
        // One is received, the other is not even that.
        began.ack(Packet::PubRec, ids[0]).await;
        began.next_of(PacketType::PubRel).await;
        began.reset();
        let mut other = member(after, "other", &filter, 2).await;
        publisher.publish(msg(&t, "2").qos(2)).await;
        assert_eq!(other.receive_shown().await, format!("{t} 2 qos2"));
        let mut again = after.connect(Options::v5(&id).durable(3600)).await;
        assert!(again.is_resumed());
        let repeated = again.receive().await;
        assert_eq!((shown(&repeated), repeated.packet_id()), (format!("{t} 1 qos2 dup"), Some(ids[1])));
        assert_eq!(repeated.subscription_ids.iter().map(|id| id.get()).collect::<Vec<_>>(), [7]);
        again.ping().await;
        let nats = world.nats.client().await;
        let name = format!("{group}@{t}");
        eventually("all is acknowledged", async || consumer(&nats, &name).await["num_ack_pending"] == 0).await;
        assert_eq!(other.try_receive(Duration::from_millis(300)).await, Err(Ended::Silent));
    }
}

/// [MQTT-4.8.2-5]
#[tokio::test(flavor = "multi_thread")]
async fn what_was_sent_at_qos_2_goes_to_nobody_else_when_the_session_ends() {
    let world = World::shared().await;
    let (t, group) = (unique("ends"), unique("g"));
    let filter = format!("$share/{group}/{t}");
    let mut began = member(&world.a, "began", &filter, 2).await;
    began.acknowledges = false;
    let mut publisher = world.b.v5(&unique("pub")).await;
    publisher.publish(msg(&t, "0").qos(2)).await;
    began.receive().await;
    began.reset();
    let mut other = member(&world.b, "other", &filter, 2).await;
    publisher.publish(msg(&t, "1").qos(2)).await;
    assert_eq!(other.receive_shown().await, format!("{t} 1 qos2"));
    assert_eq!(other.try_receive(Duration::from_millis(300)).await, Err(Ended::Silent));
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_gets_more_than_its_receive_maximum() {
    let world = World::shared().await;
    let (t, group) = (unique("few"), unique("g"));
    let filter = format!("$share/{group}/{t}");
    let mut few = world.a.connect(Options::v5(&unique("few")).receive_maximum(2)).await;
    few.acknowledges = false;
    few.subscribe(&filter, 1).await;
    let mut publisher = world.b.v5(&unique("pub")).await;
    publisher.publish_all(numbered(&t, 0..20, 1), 10, |_| {}).await;
    let first = [few.receive().await, few.receive().await];
    assert_eq!(few.try_receive(Duration::from_millis(200)).await, Err(Ended::Silent));
    let mut crew = Crew::new();
    crew.add(member(&world.b, "many", &filter, 1).await);
    crew.take(18).await;
    for publish in first {
        few.ack(Packet::PubAck, publish.packet_id().unwrap()).await;
    }
    publisher.publish_all(numbered(&t, 20..60, 1), 10, |_| {}).await;
    let got = crew.take(38).await;
    assert_eq!(shares(&got).len(), 1);
    few.receive().await;
    few.receive().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_is_also_subscribed_gets_a_copy_of_each() {
    let world = World::shared().await;
    let (t, group) = (unique("both"), unique("g"));
    let options = |qos, retain_as_published| SubscriptionOptions {
        qos: QoS::try_from(qos).unwrap(),
        retain_as_published,
        ..SubscriptionOptions::default()
    };
    let mut publisher = world.b.v5(&unique("pub")).await;
    publisher.publish(msg(&format!("{t}/x"), "before").qos(1).retained()).await;
    let mut client = world.a.v5(&unique("both")).await;
    client.subscribe_with(&format!("$share/{group}/{t}/#"), options(1, true), Some(7)).await;
    client.ping().await;
    assert_eq!(client.try_receive(Duration::from_millis(100)).await, Err(Ended::Silent), "nothing retained comes");
    client.subscribe_with(&format!("{t}/y"), options(1, false), Some(8)).await;
    for qos in [0, 1] {
        publisher.publish(msg(&format!("{t}/y"), "now").qos(qos).retained()).await;
        let mut copies = Vec::new();
        for _ in 0..2 {
            let publish = client.receive().await;
            let ids: Vec<u32> = publish.subscription_ids.iter().map(|id| id.get()).collect();
            copies.push((ids, shown(&publish)));
        }
        copies.sort();
        let expected = [(vec![7], format!("{t}/y now qos{qos} retain")), (vec![8], format!("{t}/y now qos{qos}"))];
        assert_eq!(copies, expected);
    }
    publisher.publish(msg(&format!("{t}/x"), "").retained()).await;
    publisher.publish(msg(&format!("{t}/y"), "").retained()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mosquitto_sub_shares_in_3_1_1() {
    let world = World::shared().await;
    for qos in ["0", "1", "2"] {
        for (prefix, group) in [("$share/team", "team"), ("$queue", "$queue")] {
            let t = unique("mosq");
            let filter = format!("{prefix}/{t}/#");
            let args = ["-V", "mqttv311", "-t", &filter, "-q", qos];
            let mut one = MosquittoSub::start(world.a.mqtt_port, &args).await;
            let mut other = MosquittoSub::start(world.b.mqtt_port, &args).await;
            if qos != "0" {
                asked(&world.nats.client().await, &format!("{group}@{t},#"), 2).await;
            }
            let mut publisher = world.a.v5(&unique("pub")).await;
            publisher.publish_all(numbered(&format!("{t}/x"), 0..40, 1), 40, |_| {}).await;
            let (mut got, mut counts) = (Vec::new(), [0; 2]);
            while got.len() < 40 {
                let (line, index) = tokio::select! { line = one.next() => (line, 0), line = other.next() => (line, 1) };
                counts[index] += 1;
                got.push(line.rsplit_once(' ').unwrap().1.parse::<usize>().unwrap());
            }
            got.sort_unstable();
            assert_eq!(got, (0..40).collect::<Vec<_>>(), "{filter}");
            assert!(counts.iter().all(|count| *count > 0), "{filter}: {counts:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nats_workers_share_the_consumer() {
    const COUNT: usize = 200;
    let world = World::shared().await;
    let (t, group) = (unique("work"), unique("g"));
    let mut crew = Crew::new();
    crew.add(member(&world.a, "mqtt", &format!("$share/{group}/{t}/+/new"), 1).await);
    let nats = world.nats.client().await;
    let name = format!("{group}@{t},+,new");
    let worker = tokio::spawn(nats_worker(nats.clone(), name.clone(), crew.sender()));
    asked(&nats, &name, 2).await;
    let mut publisher = world.b.v5(&unique("pub")).await;
    publisher.publish_all(numbered(&format!("{t}/a/new"), 0..COUNT, 1), 64, |_| {}).await;
    let got = crew.take(COUNT).await;
    worker.abort();
    assert_eq!(numbers(&got), (0..COUNT).collect::<Vec<_>>());
    assert!(shares(&got).len() == 2, "{:?}", shares(&got));
}

/// A worker on NATS: pulls messages of the group's consumer in small batches, and acknowledges them.
async fn nats_worker(nats: NatsClient, name: String, sender: mpsc::UnboundedSender<(String, String)>) {
    let inbox = nats.new_inbox();
    let mut messages = nats.subscribe(inbox.clone()).await.unwrap();
    loop {
        let pull = json!({ "batch": 16, "expires": 5_000_000_000_u64 }).to_string();
        let subject = format!("$JS.API.CONSUMER.MSG.NEXT.MQTT_log.{name}");
        nats.publish_with_reply(subject, inbox.clone(), pull.into()).await.unwrap();
        let mut left = 16;
        while left > 0 {
            let message = messages.next().await.unwrap();
            let Some(ack) = message.reply.filter(|reply| reply.starts_with("$JS.ACK.")) else { break };
            nats.publish(ack, "+ACK".into()).await.unwrap();
            let _ = sender.send(("nats".into(), String::from_utf8_lossy(&message.payload).into_owned()));
            left -= 1;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_shared_is_refused() {
    let world = World::shared().await;
    let mut client = world.a.v5(&unique("refused")).await;
    for (filter, reason) in [
        ("$share/g", ReasonCode::TopicFilterInvalid),
        ("$share/g/", ReasonCode::TopicFilterInvalid),
        ("$share/g+/a", ReasonCode::TopicFilterInvalid),
        ("$share//a", ReasonCode::TopicFilterInvalid),
        ("$share/g/$JS/API/#", ReasonCode::NotAuthorized),
        ("$queue/_INBOX/#", ReasonCode::NotAuthorized),
    ] {
        assert_eq!(client.asks_for(filter, 1).await, reason, "{filter}");
    }
    assert_eq!(client.connack.properties.shared_subscription_available, None, "they are available");
    // [MQTT-3.8.3-4]
    let no_local = SubscriptionOptions { no_local: true, ..SubscriptionOptions::default() };
    let entries = vec![mqtt_codec::SubscribeEntry {
        filter: mqtt_codec::TopicFilter::new("$share/g/a").map_err(|_| "".into()),
        options: no_local,
    }];
    let packet_id = client.packet_id();
    let (subscription_id, user_properties) = (None, Vec::new());
    client.write(&Packet::Subscribe(mqtt_codec::Subscribe { packet_id, subscription_id, user_properties, entries }));
    assert_eq!(client.closed().await, Some(ReasonCode::ProtocolError));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wildcard_of_a_group_sees_no_closed_trees() {
    let nats = NatsServer::start();
    let sidecar = Sidecar::start(&nats, "alone").await;
    for qos in [0, 1] {
        let mut all = member(&sidecar, "all", &format!("$share/g{qos}/#"), qos).await;
        let client = nats.client().await;
        client.publish("_INBOX.x", "closed".into()).await.unwrap();
        client.publish("$JS.x", "closed".into()).await.unwrap();
        settle(&client).await;
        let mut publisher = sidecar.v5("pub").await;
        publisher.publish(msg("$dollar/x", "hidden").qos(qos)).await;
        publisher.publish(msg("seen", "seen").qos(qos)).await;
        assert_eq!(all.receive_shown().await, format!("seen seen qos{qos}"));
    }
    // What nobody gets is acknowledged.
    let client = nats.client().await;
    eventually("all is acknowledged", async || consumer(&client, "g1@#").await["num_ack_pending"] == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_nobody_uses_ends() {
    let nats = NatsServer::start();
    let sidecar = SidecarBuilder::of(&nats, "short").set("JETSTREAM__SHARED__INACTIVE_THRESHOLD", "1s").start().await;
    let client = nats.client().await;
    let mut used = member(&sidecar, "used", "$share/used/a", 1).await;
    let left = member(&sidecar, "left", "$share/left/a", 1).await;
    assert_eq!(consumer(&client, "left@a").await["error"], Value::Null);
    left.goodbye().await;
    eventually("it is gone", async || consumer(&client, "left@a").await["error"]["err_code"] == 10014).await;
    assert_eq!(consumer(&client, "used@a").await["error"], Value::Null, "it has a member");
    sidecar.v5("pub").await.publish(msg("a", "on").qos(1)).await;
    assert_eq!(used.receive_shown().await, "a on qos1");
}
