//! A client gives up on a sidecar, goes to another one, sends again what was not acknowledged, and then something newer.
//! Whatever the old sidecar still has under way, on the wire, waiting or not yet read: it never comes behind the newer.

use std::collections::BTreeMap;
use std::time::Duration;

use mqtt_codec::{Packet, QoS, Version};
use rustix::process::Signal;
use serde_json::json;

use crate::harness::cluster::Cluster;
use crate::harness::relay::Relay;
use crate::harness::sessions::pid;
use crate::harness::{
    Client, Ended, NatsServer, Options, Sidecar, SidecarBuilder, eventually, heavy, js_api, msg, stream_info, unique,
};

const LONG: u32 = 3600;
const TOPICS: u16 = 20;
/// How long a client waits before it tries another sidecar.
const GIVES_UP: Duration = Duration::from_secs(3);

fn options(version: Version, id: &str) -> Options {
    Options::new(version, id).durable(LONG)
}

/// Sends `old` on every topic and waits for nothing.
async fn send_old(client: &mut Client, t: &str, qos: u8, retained: bool) {
    for n in 0..TOPICS {
        client.send_publish(&message(t, n, "old", qos, retained), pid(n + 1), false).await;
    }
}

fn message(t: &str, n: u16, payload: &str, qos: u8, retained: bool) -> crate::harness::Message {
    let message = msg(&format!("{t}/{n}"), payload.to_owned()).qos(qos);
    if retained { message.retained() } else { message }
}

/// Publishes something of each kind and waits for it: what follows is sent without a wait.
async fn warm_up(sidecar: &Sidecar, attached: Option<&str>) {
    let mut client = sidecar.v5(&unique("warm")).await;
    for topic in [Some(unique("warm").as_str()), attached.map(|topic| format!("{topic}/warm")).as_deref()] {
        let Some(topic) = topic else { continue };
        client.publish(msg(topic, "warm").qos(1).retained()).await;
        client.publish(msg(topic, "warm").qos(1)).await;
    }
}

/// Comes back elsewhere, sends `old` again on every topic and then `new`, and waits until all is acknowledged.
async fn go_on(sidecar: &Sidecar, version: Version, id: &str, t: &str, qos: u8, retained: bool) -> Client {
    let mut client = sidecar.connect_in_the_end(options(version, id)).await;
    for n in 0..TOPICS {
        client.send_publish(&message(t, n, "old", qos, retained), pid(n + 1), true).await;
    }
    for n in 0..TOPICS {
        client.send_publish(&message(t, n, "new", qos, retained), pid(TOPICS + n + 1), false).await;
    }
    for _ in 0..2 * TOPICS {
        client.other(|packet| matches!(packet, Packet::PubAck(_) | Packet::PubRec(_))).await;
    }
    client
}

/// How many topics keep `old`.
async fn old_values(sidecar: &Sidecar, t: &str) -> usize {
    let mut reader = sidecar.v5(&unique("reader")).await;
    reader.subscribe(&format!("{t}/#"), 0).await;
    let mut values = BTreeMap::new();
    for _ in 0..TOPICS {
        let publish = reader.receive().await;
        values.insert(publish.topic_name().unwrap().to_string(), publish.payload);
    }
    values.values().filter(|value| value.as_ref() == b"old").count()
}

/// How many topics have an `old` behind `new`, of what a subscriber gets until nothing comes for a while.
async fn overtaken(subscriber: &mut Client) -> usize {
    let mut is_new: BTreeMap<String, bool> = BTreeMap::new();
    let mut overtaken = BTreeMap::new();
    loop {
        match subscriber.try_receive(Duration::from_millis(1_500)).await {
            Ok(publish) => {
                let topic = publish.topic_name().unwrap().to_string();
                let new = publish.payload.as_ref() == b"new";
                if !new && is_new.get(&topic) == Some(&true) {
                    overtaken.insert(topic.clone(), publish.payload.clone());
                }
                *is_new.entry(topic).or_default() |= new;
            }
            Err(Ended::Silent) => break,
            Err(Ended::Closed) => panic!("the subscriber was closed"),
        }
    }
    assert_eq!(is_new.values().filter(|new| **new).count(), usize::from(TOPICS), "{is_new:?}");
    overtaken.len()
}

/// What is seen of one way of publishing.
struct Case {
    name: &'static str,
    topic: String,
    qos: u8,
    retained: bool,
    version: Version,
    id: String,
    subscriber: Client,
}

/// Ways of publishing, each with a subscriber on a sidecar. Below `attached` there is a stream.
async fn cases(sidecar: &Sidecar, attached: &str) -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, topic, qos, retained, version) in [
        ("the bucket", unique("kept"), 1, true, Version::V5),
        ("the bucket, 3.1.1", unique("kept"), 1, true, Version::V311),
        ("the bucket, QoS 2", unique("kept"), 2, true, Version::V5),
        ("the log", unique("log"), 1, false, Version::V5),
        ("the log, QoS 2", unique("log"), 2, false, Version::V5),
        ("an attached stream", format!("{attached}/x"), 1, false, Version::V5),
    ] {
        let mut subscriber = sidecar.v5(&unique("sub")).await;
        subscriber.subscribe(&format!("{topic}/#"), QoS::ExactlyOnce as u8).await;
        cases.push(Case { name, topic, qos, retained, version, id: unique("dev"), subscriber });
    }
    cases
}

async fn attach(nats: &NatsServer, sidecars: &[&Sidecar], replicas: u32) -> String {
    let topic = unique("attached");
    let stream = topic.to_uppercase();
    let config = json!({"name": stream, "subjects": [format!("{topic}.>")], "num_replicas": replicas});
    let client = nats.client().await;
    let answer = js_api(&client, &format!("STREAM.CREATE.{stream}"), &config).await;
    assert!(answer["error"].is_null(), "{answer}");
    for sidecar in sidecars {
        eventually("the stream is attached", async || sidecar.log().contains(&stream)).await;
    }
    topic
}

/// Sees to it that no case ends with an old value, or sees one behind a new one.
async fn check(sidecar: &Sidecar, cases: &mut [Case]) {
    let mut wrong = Vec::new();
    for case in cases {
        let overtaken = overtaken(&mut case.subscriber).await;
        let kept = if case.retained { old_values(sidecar, &case.topic).await } else { 0 };
        println!("{}: {overtaken} of {TOPICS} overtaken, {kept} keep the old value", case.name);
        if overtaken + kept > 0 {
            wrong.push(format!("{}: {overtaken} overtaken, {kept} keep the old value", case.name));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_server_has_not_read_yet_of_an_ended_connection_comes_too_late() {
    let nats = NatsServer::start();
    let relay = Relay::start(nats.url()).await;
    let b = Sidecar::start(&nats, "sidecar b").await;
    let a = SidecarBuilder::new("sidecar a", &["--nats", &relay.url()]).start().await;
    let attached = attach(&nats, &[&a, &b], 1).await;
    let mut cases = cases(&b, &attached).await;
    let mut clients = Vec::new();
    for case in &cases {
        clients.push(a.connect(options(case.version, &case.id)).await);
    }
    warm_up(&a, Some(&attached)).await;
    relay.hold();
    for (case, client) in cases.iter().zip(&mut clients) {
        send_old(client, &case.topic, case.qos, case.retained).await;
    }
    relay.has_held(&format!("{}.19", cases[3].topic)).await;
    clients.into_iter().for_each(Client::reset);
    let moved = cases.iter().map(|case| go_on(&b, case.version, &case.id, &case.topic, case.qos, case.retained));
    futures_util::future::join_all(moved).await;
    relay.release();
    check(&b, &mut cases).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_stopped_sidecar_reads_and_sends_when_it_goes_on_comes_too_late() {
    let nats = NatsServer::start();
    let (a, b) = (Sidecar::start(&nats, "sidecar a").await, Sidecar::start(&nats, "sidecar b").await);
    let attached = attach(&nats, &[&a, &b], 1).await;
    let mut cases = cases(&b, &attached).await;
    let mut clients = Vec::new();
    for case in &cases {
        clients.push(a.connect(options(case.version, &case.id)).await);
    }
    warm_up(&a, Some(&attached)).await;
    a.signal(Signal::STOP);
    for (case, client) in cases.iter().zip(&mut clients) {
        send_old(client, &case.topic, case.qos, case.retained).await;
    }
    let moved = cases.iter().map(|case| go_on(&b, case.version, &case.id, &case.topic, case.qos, case.retained));
    futures_util::future::join_all(moved).await;
    a.signal(Signal::CONT);
    check(&b, &mut cases).await;
}

/// Has a server lead a stream.
async fn lead(cluster: &Cluster, stream: &str, server: usize) {
    let client = cluster.servers[0].client().await;
    let name = format!("n{server}");
    eventually("the stream is led there", async || {
        let info = stream_info(&client, stream).await;
        if info["cluster"]["leader"] == *name {
            return true;
        }
        let request = json!({"placement": {"preferred": name}});
        js_api(&client, &format!("STREAM.LEADER.STEPDOWN.{stream}"), &request).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        false
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_sent_while_the_bucket_had_no_leader_does_not_come_behind_what_is_newer() {
    const ROUNDS: usize = 4;
    let _turn = heavy().await;
    let cluster = Cluster::start(3);
    let sidecar = async |name, server: usize| {
        let builder = SidecarBuilder::new(name, &["--nats", &cluster.servers[server].url()]);
        builder.set("JETSTREAM__REPLICAS", cluster.replicas()).start().await
    };
    let (a, b) = (sidecar("sidecar a", 0).await, sidecar("sidecar b", 1).await);
    let mut wrong = Vec::new();
    for round in 0..ROUNDS {
        for stream in ["KV_MQTT_sessions", "MQTT_log"] {
            lead(&cluster, stream, 1).await;
        }
        lead(&cluster, "KV_MQTT_retained", 2).await;
        let (t, id, version) = (unique("moved"), unique("dev"), [Version::V5, Version::V311][round % 2]);
        let mut client = a.connect(options(version, &id)).await;
        warm_up(&a, None).await;
        cluster.servers[2].pause();
        send_old(&mut client, &t, 1, true).await;
        tokio::time::sleep(GIVES_UP).await;
        client.reset();
        let moved = go_on(&b, version, &id, &t, 1, true).await;
        cluster.servers[2].go_on();
        moved.goodbye().await;
        // What the old sidecar repeats it has repeated by then.
        tokio::time::sleep(Duration::from_secs(8)).await;
        let kept = old_values(&b, &t).await;
        println!("round {round}: {kept} of {TOPICS} keep the old value");
        if kept > 0 {
            wrong.push(format!("round {round}: {kept} of {TOPICS} keep the old value"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
