//! Three nats-servers: order within a topic holds when the log changes its leader, also while another server is silent.
//!
//! `ORDER_ROUNDS` in the environment sets the number of rounds.

use std::collections::HashSet;
use std::time::Duration;

use futures_util::StreamExt;
use mqtt_codec::{Packet, Publish};
use serde_json::Value;
use tokio::sync::Notify;

use crate::harness::cluster::Cluster;
use crate::harness::{Client, Options, Sidecar, SidecarBuilder, eventually, heavy, js_api, msg, stream_info};

const LOG: &str = "MQTT_log";
const SESSIONS: &str = "KV_MQTT_sessions";
/// Of a burst; a client that pipelines has as many on their way.
const BURST: usize = 60;
const BURSTS: usize = 5;
/// So that the next one meets the new leader.
const BETWEEN_BURSTS: Duration = Duration::from_millis(12);

fn rounds(default: usize) -> usize {
    std::env::var("ORDER_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

async fn sidecar(cluster: &Cluster) -> Sidecar {
    let builder = SidecarBuilder::new("sidecar", &["--nats", &cluster.urls()]);
    builder.set("JETSTREAM__REPLICAS", cluster.replicas()).start().await
}

/// The server that leads a stream of three replicas, all of which are there.
async fn leader_of(nats: &async_nats::Client, stream: &str) -> usize {
    let mut leader = None;
    eventually("the stream has a leader and all its replicas", async || {
        let info = stream_info(nats, stream).await;
        leader = info["cluster"]["leader"].as_str().and_then(|name| name.trim_start_matches('n').parse().ok());
        let replicas = info["cluster"]["replicas"].as_array().cloned().unwrap_or_default();
        leader.is_some() && replicas.len() == 2 && replicas.iter().all(|replica| replica["current"] == true)
    })
    .await;
    leader.expect("it has")
}

async fn step_down(nats: &async_nats::Client, stream: &str) {
    let answer = js_api(nats, &format!("STREAM.LEADER.STEPDOWN.{stream}"), &Value::Null).await;
    assert_eq!(answer["success"], true, "{answer}");
}

/// What came behind a later one, for the first time or again.
fn disorder(got: &[usize]) -> Vec<String> {
    let (mut highest, mut found) = (0, Vec::new());
    for number in got {
        if *number < highest {
            found.push(format!("{number} behind {highest}"));
        }
        highest = highest.max(*number);
    }
    found
}

/// Publishes numbers as a client that does not wait for acknowledgements, in bursts with a pause `between` them, and then waits
/// for all of those. `begun`: the second burst begins.
async fn publish_bursts(publisher: &mut Client, first: usize, begun: &Notify, between: impl Fn(usize) -> Duration) {
    for burst in 0..BURSTS {
        if burst == 1 {
            begun.notify_one();
        }
        for number in first + burst * BURST..first + (burst + 1) * BURST {
            publisher.start_publish(&msg("o/1", number.to_string()).qos(1));
        }
        publisher.flush().await;
        tokio::time::sleep(between(burst)).await;
    }
    for _ in 0..BURST * BURSTS {
        publisher.other(|packet| matches!(packet, Packet::PubAck(_))).await;
    }
}

/// Receives until each of so many numbers has come, and says in which order.
async fn numbers(client: &mut Client, count: usize) -> Vec<usize> {
    let (mut got, mut seen) = (Vec::new(), HashSet::new());
    while seen.len() < count {
        let number = number(&client.receive().await);
        seen.insert(number);
        got.push(number);
    }
    got
}

/// What comes still, though everything has come.
async fn rest(client: &mut Client) -> Vec<usize> {
    let mut got = Vec::new();
    while let Ok(publish) = client.try_receive(Duration::from_millis(50)).await {
        got.push(number(&publish));
    }
    got
}

fn number(publish: &Publish) -> usize {
    std::str::from_utf8(&publish.payload).unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn bursts_of_one_topic_stay_in_order_when_the_log_changes_its_leader() {
    bursts_stay_in_order(false).await;
}

/// The same while somebody listens to everything, so that no server says that nobody has a subject.
#[tokio::test(flavor = "multi_thread")]
async fn bursts_of_one_topic_stay_in_order_when_somebody_listens_to_everything() {
    bursts_stay_in_order(true).await;
}

async fn bursts_stay_in_order(with_listener: bool) {
    let _turn = heavy().await;
    let cluster = Cluster::start(3);
    let sidecar = sidecar(&cluster).await;
    let nats = cluster.servers[0].client().await;
    let mut listener = sidecar.v5("listener").await;
    if with_listener {
        listener.subscribe("#", 0).await;
    }
    let all_of_nats = if with_listener { Some(nats.subscribe(">").await.unwrap()) } else { None };
    tokio::spawn(async move {
        let Some(mut all) = all_of_nats else { return };
        while all.next().await.is_some() {}
    });
    let mut subscriber = sidecar.connect(Options::v5("sub").durable(3600)).await;
    subscriber.subscribe("o/#", 1).await;
    let mut publisher = sidecar.v311("pub").await;
    let mut wrong = Vec::new();
    let mut again = 0;
    let (rounds, mut first) = (rounds(10), 1);
    for round in 0..rounds {
        leader_of(&nats, LOG).await;
        let all = BURST * BURSTS;
        let begun = Notify::new();
        let publish = async {
            publish_bursts(&mut publisher, first, &begun, |_| BETWEEN_BURSTS).await;
        };
        let change = async {
            // In the middle of a burst, a little earlier or later each time.
            begun.notified().await;
            tokio::time::sleep(Duration::from_micros(90 * round as u64 % 1_000)).await;
            step_down(&nats, LOG).await;
        };
        let read = numbers(&mut subscriber, all);
        let ((), (), mut got) = tokio::join!(publish, change, read);
        got.extend(rest(&mut subscriber).await);
        let found = disorder(&got);
        again += got.len() - all;
        if let (Some(one), Some(last)) = (found.first(), found.last()) {
            wrong.push(format!("round {round}: {} of them, {one} to {last}", found.len()));
        }
        first += all;
    }
    println!("{} of {rounds} rounds in the wrong order, {again} messages came again", wrong.len());
    assert!(wrong.is_empty(), "{} of {rounds}: {wrong:#?}", wrong.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn qos_2_stays_in_order_when_the_log_changes_its_leader_while_the_sessions_leader_is_silent() {
    const WINDOW: usize = 32;
    const COUNT: usize = 1_200;
    let _turn = heavy().await;
    let cluster = Cluster::start(3);
    let sidecar = sidecar(&cluster).await;
    let mut subscriber = sidecar.connect(Options::v5("sub").durable(3600)).await;
    subscriber.subscribe("o/#", 2).await;
    let mut publisher = sidecar.connect(Options::v5("pub").durable(3600)).await;
    let mut wrong = Vec::new();
    let (rounds, mut first) = (rounds(2), 1);
    for round in 0..rounds {
        let nats = cluster.servers[round % 3].client().await;
        let silent = leader_of(&nats, SESSIONS).await;
        while leader_of(&nats, LOG).await == silent {
            step_down(&nats, LOG).await;
        }
        let nats = cluster.servers[(silent + 1) % 3].client().await;
        let messages = (first..first + COUNT).map(|n| msg("o/2", n.to_string()).qos(2));
        let publish = publisher.publish_all(messages, WINDOW, |_| {});
        let change = async {
            tokio::time::sleep(Duration::from_millis(40)).await;
            let pause = async {
                tokio::time::sleep(Duration::from_millis(round as u64 * 2 % 9)).await;
                cluster.servers[silent].pause();
            };
            tokio::join!(step_down(&nats, LOG), pause);
            tokio::time::sleep(Duration::from_millis(2_500)).await;
            cluster.servers[silent].go_on();
        };
        let read = numbers(&mut subscriber, COUNT);
        let ((), (), mut got) = tokio::join!(publish, change, read);
        got.extend(rest(&mut subscriber).await);
        let found = disorder(&got);
        if let (Some(one), Some(last)) = (found.first(), found.last()) {
            wrong.push(format!("round {round}: {} of them, {one} to {last}", found.len()));
        }
        assert_eq!(got.len(), COUNT, "round {round}: each once");
        first += COUNT;
    }
    println!("{} of {rounds} rounds in the wrong order", wrong.len());
    assert!(wrong.is_empty(), "{} of {rounds}: {wrong:#?}", wrong.len());
}

/// A leader that is killed is away for seconds, in which no stream has the subject and nobody says so.
#[tokio::test(flavor = "multi_thread")]
async fn a_topic_stays_in_order_when_the_leader_is_killed_and_somebody_listens_to_everything() {
    let _turn = heavy().await;
    let mut cluster = Cluster::start(3);
    let sidecar = sidecar(&cluster).await;
    let mut subscriber = sidecar.connect(Options::v5("sub").durable(3600)).await;
    subscriber.subscribe("o/#", 1).await;
    let mut listener = sidecar.v5("listener").await;
    listener.subscribe("#", 0).await;
    let mut publisher = sidecar.v311("pub").await;
    let (mut wrong, mut first) = (Vec::new(), 1);
    for round in 0..rounds(2) {
        let leader = leader_of(&cluster.servers[0].client().await, LOG).await;
        let all = BURST * BURSTS;
        let begun = Notify::new();
        let publish = async {
            // As long as an election takes, in all.
            let between = |burst| BETWEEN_BURSTS * if burst == 0 { 1 } else { 100 };
            publish_bursts(&mut publisher, first, &begun, between).await;
        };
        let read = numbers(&mut subscriber, all);
        let servers = &mut cluster.servers;
        let kill = async {
            begun.notified().await;
            servers[leader].kill();
        };
        let ((), (), mut got) = tokio::join!(publish, kill, read);
        got.extend(rest(&mut subscriber).await);
        let found = disorder(&got);
        if let (Some(one), Some(last)) = (found.first(), found.last()) {
            wrong.push(format!("round {round}: {} of them, {one} to {last}", found.len()));
        }
        first += all;
        cluster.servers[leader].restart();
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
