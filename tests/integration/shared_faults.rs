//! Shared subscriptions while something dies: nothing is lost, and what nobody has finished goes to somebody else.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use mqtt_codec::ReasonCode;
use serde_json::json;

use crate::harness::{
    Client, Ended, NatsServer, Options, Sidecar, SidecarBuilder, World, eventually, heavy, msg, unique,
};
use crate::shared::{Crew, consumer, member, nats_worker, numbered, numbers};

/// A sidecar whose messages go to others soon after it was killed.
async fn quick(nats: &NatsServer, name: &str) -> Sidecar {
    SidecarBuilder::of(nats, name).set("JETSTREAM__SHARED__ACK_WAIT", "2s").start().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_member_that_is_connected_is_not_overtaken() {
    let nats = NatsServer::start();
    let (a, b) = (quick(&nats, "a").await, quick(&nats, "b").await);
    let mut slow = member(&a, "slow", "$share/g/slow", 1).await;
    slow.acknowledges = false;
    let mut publisher = b.v5("pub").await;
    publisher.publish(msg("slow", "0").qos(1)).await;
    let taken = slow.receive().await;
    let mut other = member(&b, "other", "$share/g/slow", 1).await;
    // Longer than the consumer waits for an acknowledgement.
    let silent = tokio::join!(other.try_receive(Duration::from_secs(5)), slow.try_receive(Duration::from_secs(5)));
    assert_eq!(silent, (Err(Ended::Silent), Err(Ended::Silent)));
    slow.ack(mqtt_codec::Packet::PubAck, taken.packet_id().unwrap()).await;
    slow.ping().await;
    let client = nats.client().await;
    eventually("it is acknowledged", async || consumer(&client, "g@slow").await["num_ack_pending"] == 0).await;
    assert_eq!(consumer(&client, "g@slow").await["num_redelivered"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_that_is_stopped_gives_back_at_once() {
    let nats = NatsServer::start();
    let mut a = Sidecar::start(&nats, "a").await;
    let b = Sidecar::start(&nats, "b").await;
    let mut lazy = member(&a, "lazy", "$share/g/stop", 1).await;
    lazy.acknowledges = false;
    let mut publisher = b.v5("pub").await;
    publisher.publish_all(numbered("stop", 0..10, 1), 10, |_| {}).await;
    for _ in 0..10 {
        lazy.receive().await;
    }
    let mut crew = Crew::new();
    crew.add(member(&b, "busy", "$share/g/stop", 1).await);
    let since = Instant::now();
    a.stop().await;
    assert_eq!(numbers(&crew.take(10).await), (0..10).collect::<Vec<_>>());
    assert!(since.elapsed() < Duration::from_secs(8), "{:?}", since.elapsed());
}

/// Members of four kinds in one group, two workers killed in the middle; nothing is lost, and what is done is done once.
#[tokio::test(flavor = "multi_thread")]
async fn killed_workers_lose_nothing() {
    let _turn = heavy().await;
    let count = std::env::var("SHARED_COUNT").ok().and_then(|count| count.parse().ok()).unwrap_or(4_000);
    let nats = NatsServer::start();
    let (mut a, b) = (quick(&nats, "a").await, quick(&nats, "b").await);
    let client = nats.client().await;
    let name = "g@k,#";
    let mut crew = Crew::new();
    for (sidecar, id) in [(&a, "a1"), (&a, "a2"), (&b, "b1"), (&b, "b2")] {
        crew.add(member(sidecar, id, "$share/g/k/#", 1).await);
    }
    let workers = [(); 2].map(|()| tokio::spawn(nats_worker(client.clone(), name.to_owned(), crew.sender())));
    let mut publisher = b.v5("pub").await;
    let since = Instant::now();
    let publishing = tokio::spawn(async move {
        publisher.publish_all(numbered("k/x", 0..count, 1), 128, |_| {}).await;
        publisher
    });
    let mut got = crew.take(count / 3).await;
    // Both members of this sidecar at once.
    a.kill();
    let killed = Instant::now();
    let mut seen: HashMap<usize, usize> = HashMap::new();
    let mut longest = Duration::ZERO;
    for (_, payload) in &got {
        *seen.entry(payload.parse().unwrap()).or_default() += 1;
    }
    while seen.len() < count {
        let before = Instant::now();
        let next = crew.take(1).await;
        longest = longest.max(before.elapsed());
        *seen.entry(next[0].1.parse().unwrap()).or_default() += 1;
        got.extend(next);
    }
    let mut publisher = publishing.await.unwrap();
    let again = seen.values().filter(|times| **times > 1).count();
    println!(
        "{count} messages in {:?}, all within {:?} of the kill, {again} twice, longest pause {longest:?}; {:?}",
        since.elapsed(),
        killed.elapsed(),
        crate::shared::shares(&got)
    );
    // Those that the killed ones had acknowledged, or were about to.
    assert!(again <= 2 * 128, "{again} came twice");
    workers.iter().for_each(tokio::task::JoinHandle::abort);
    drop(crew);
    eventually("all is acknowledged", async || consumer(&client, name).await["num_ack_pending"] == 0).await;
    // Nobody is there: the lag can be seen, and is worked off by whoever comes.
    publisher.publish_all(numbered("k/x", count..count + 100, 1), 100, |_| {}).await;
    assert_eq!(consumer(&client, name).await["num_pending"], json!(100));
    let mut crew = Crew::new();
    crew.add(member(&b, "late", "$share/g/k/#", 1).await);
    assert_eq!(numbers(&crew.take(100).await), (count..count + 100).collect::<Vec<_>>());
}

/// [MQTT-4.8.2-4]
#[tokio::test(flavor = "multi_thread")]
async fn qos_2_is_finished_with_the_same_member_when_its_sidecar_was_killed() {
    let nats = NatsServer::start();
    let (mut a, b) = (quick(&nats, "a").await, quick(&nats, "b").await);
    let mut began = a.connect(Options::v5("began").durable(3600)).await;
    began.acknowledges = false;
    began.subscribe("$share/g/q", 2).await;
    let mut publisher = b.v5("pub").await;
    publisher.publish(msg("q", "0").qos(2)).await;
    let id = began.receive().await.packet_id();
    let client = nats.client().await;
    eventually("it is the session's own", async || consumer(&client, "g@q").await["num_ack_pending"] == 0).await;
    a.kill();
    let mut other = member(&b, "other", "$share/g/q", 2).await;
    let mut again = b.connect(Options::v5("began").durable(3600)).await;
    let repeated = again.receive().await;
    assert_eq!((crate::harness::shown(&repeated), repeated.packet_id()), ("q 0 qos2 dup".to_owned(), id));
    // Longer than the consumer would wait.
    assert_eq!(other.try_receive(Duration::from_secs(4)).await, Err(Ended::Silent));
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_go_on_after_nats_server_was_away() {
    let mut world = World::own().await;
    let mut crew = Crew::new();
    for (sidecar, id) in [(&world.a, "a"), (&world.b, "b")] {
        crew.add(member(sidecar, id, "$share/g/away/#", 1).await);
    }
    let mut publisher = world.a.v5("pub").await;
    publisher.publish_all(numbered("away/x", 0..50, 1), 50, |_| {}).await;
    assert_eq!(numbers(&crew.take(50).await), (0..50).collect::<Vec<_>>());
    world.nats.kill();
    let mut new = world.b.v5("new").await;
    // Nobody can promise it anything; at QoS 0 nothing is promised.
    assert_eq!(new.asks_for("$share/other/away/#", 1).await, ReasonCode::ImplementationSpecificError);
    assert_eq!(new.asks_for("$share/other/away/#", 0).await, ReasonCode::Success);
    assert_eq!(new.unsubscribe("$share/other/away/#").await, [ReasonCode::Success]);
    world.nats.restart();
    publisher.publish_all(numbered("away/x", 50..100, 1), 50, |_| {}).await;
    let mut seen: Vec<usize> = Vec::new();
    while seen.len() < 50 {
        seen.extend(numbers(&crew.take(1).await).iter().filter(|number| **number >= 50));
        seen.sort_unstable();
        seen.dedup();
    }
}

/// What was given to the group before the sidecar's connection broke is answered after it.
#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_somebody_deletes_is_made_again() {
    let nats = NatsServer::start();
    let sidecar = Sidecar::start(&nats, "alone").await;
    let mut worker: Client = member(&sidecar, &unique("worker"), "$share/g/del", 1).await;
    let client = nats.client().await;
    crate::harness::js_api(&client, "CONSUMER.DELETE.MQTT_log.g@del", &serde_json::Value::Null).await;
    eventually("it is made again", async || consumer(&client, "g@del").await["error"].is_null()).await;
    sidecar.v5("pub").await.publish(msg("del", "on").qos(1)).await;
    assert_eq!(worker.receive_shown().await, "del on qos1");
}
