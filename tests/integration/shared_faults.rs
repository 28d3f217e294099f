//! Shared subscriptions while something dies: nothing is lost, and what nobody has finished goes to somebody else.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use mqtt_codec::ReasonCode;

use crate::harness::{
    Client, Ended, NatsServer, Options, Sidecar, SidecarBuilder, Worker, World, eventually, heavy, msg, unique,
};
use crate::shared::{Crew, consumer, member, numbered, numbers, patient};

/// A sidecar whose messages go to others soon after it was killed.
pub(crate) async fn quick(nats: &NatsServer, name: &str) -> Sidecar {
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
    let (mut a, b) = (patient(&nats, "a").await, patient(&nats, "b").await);
    let mut lazy = member(&a, "lazy", "$share/g/stop", 1).await;
    lazy.acknowledges = false;
    let mut publisher = b.v5("pub").await;
    publisher.publish_all(numbered("stop", 0..10, 1), 10, |_| {}).await;
    for _ in 0..10 {
        lazy.receive().await;
    }
    let mut crew = Crew::new();
    crew.add(member(&b, "busy", "$share/g/stop", 1).await);
    a.stop().await;
    assert_eq!(numbers(&crew.take(10).await), (0..10).collect::<Vec<_>>());
}

/// What was on its way to the last member of a sidecar goes to the others at once, too.
#[tokio::test(flavor = "multi_thread")]
async fn members_that_come_and_go_amid_messages_hold_nothing_up() {
    const COUNT: usize = 20_000;
    let _turn = heavy().await;
    let nats = NatsServer::start();
    let (a, b) = (patient(&nats, "a").await, patient(&nats, "b").await);
    let mut crew = Crew::new();
    crew.add(member(&b, "stays", "$share/g/c/#", 1).await);
    let mut publisher = b.v5("pub").await;
    let publishing =
        tokio::spawn(async move { publisher.publish_all(numbered("c/x", 0..COUNT, 1), 256, |_| {}).await });
    let mut seen = HashSet::new();
    while seen.len() < COUNT {
        if !publishing.is_finished() {
            let mut guest = a.v5(&unique("guest")).await;
            guest.acknowledges = false;
            guest.subscribe("$share/g/c/#", 1).await;
            // Unless the last one was published just now.
            let _ = guest.try_receive(Duration::from_secs(1)).await;
            guest.reset();
        }
        // Its own may come twice.
        let got = crew.take(1).await;
        seen.extend(got.into_iter().map(|(_, payload)| payload));
        while let Ok((_, payload)) = crew.got.try_recv() {
            seen.insert(payload);
        }
    }
    publishing.await.unwrap();
}

/// Four workers of MQTT on two sidecars and two of NATS share many messages: `SHARED_COUNT`. One of each kind is killed with
/// SIGKILL in the middle, and then a sidecar with its two. Nothing is lost, and nothing comes again but what the killed ones
/// had. While nobody is there, not even a sidecar, the lag can be seen, and it is worked off by whoever comes.
#[tokio::test(flavor = "multi_thread")]
async fn killed_workers_lose_nothing() {
    let _turn = heavy().await;
    let count = std::env::var("SHARED_COUNT").ok().and_then(|count| count.parse().ok()).unwrap_or(4_000);
    let nats = NatsServer::start();
    let (mut a, mut b) = (quick(&nats, "a").await, quick(&nats, "b").await);
    let client = nats.client().await;
    let name = "g@k,#";
    let mut crew = Crew::new();
    for (sidecar, id) in [(&a, "a1"), (&a, "a2"), (&b, "b1")] {
        crew.add(member(sidecar, id, "$share/g/k/#", 1).await);
    }
    let mqtt = Worker::start(&["mqtt", &b.mqtt_port.to_string(), "b2", "$share/g/k/#"]).await;
    let mqtt = mqtt.run("b2", crew.sender());
    let mut workers = Vec::new();
    for id in ["nats1", "nats2"] {
        workers.push(Worker::start(&["nats", &nats.url(), "MQTT_log", name]).await.run(id, crew.sender()));
    }
    let mut publisher = b.v5("pub").await;
    let since = Instant::now();
    let publishing = tokio::spawn(async move {
        publisher.publish_all(numbered("k/x", 0..count, 1), 128, |_| {}).await;
        publisher
    });
    let mut tally = Tally::default();
    tally.take(&mut crew, count / 3).await;
    drop((mqtt, workers.remove(0)));
    tally.take(&mut crew, count * 2 / 3).await;
    // Both members of this sidecar at once.
    a.kill();
    let killed = Instant::now();
    tally.take(&mut crew, count).await;
    let mut publisher = publishing.await.unwrap();
    println!(
        "{count} messages in {:?}, all within {:?} of the last kill; {tally:?}",
        since.elapsed(),
        killed.elapsed()
    );
    assert_eq!(tally.shares.len(), 6, "all have worked: {tally:?}");
    // Those that the killed ones had acknowledged, or were about to.
    assert!(tally.again() <= 3 * 128 + 16, "{tally:?}");
    eventually("all is acknowledged", async || consumer(&client, name).await["num_ack_pending"] == 0).await;
    drop((workers, crew));
    eventually("nobody asks", async || b.metric("mqtt_shared_members").await == 0.0).await;
    publisher.publish_all(numbered("k/x", count..count + 100, 1), 100, |_| {}).await;
    b.kill();
    let info = consumer(&client, name).await;
    let lag = info["num_pending"].as_u64().unwrap() + info["num_ack_pending"].as_u64().unwrap();
    assert_eq!(lag, 100, "{info}");
    b.restart().await;
    let mut crew = Crew::new();
    crew.add(member(&b, "late", "$share/g/k/#", 1).await);
    assert_eq!(numbers(&crew.take(100).await), (count..count + 100).collect::<Vec<_>>());
}

/// What has been done, and by whom.
#[derive(Default)]
struct Tally {
    seen: HashMap<usize, usize>,
    shares: HashMap<String, usize>,
    longest_pause: Duration,
}

impl Tally {
    /// Waits until so many different messages have been done.
    async fn take(&mut self, crew: &mut Crew, count: usize) {
        while self.seen.len() < count {
            let before = Instant::now();
            for (who, payload) in crew.take(1).await {
                *self.seen.entry(payload.parse().unwrap()).or_default() += 1;
                *self.shares.entry(who).or_default() += 1;
            }
            self.longest_pause = self.longest_pause.max(before.elapsed());
        }
    }

    /// Messages that were done more than once.
    fn again(&self) -> usize {
        self.seen.values().filter(|times| **times > 1).count()
    }
}

impl std::fmt::Debug for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (seen, again) = (self.seen.len(), self.again());
        write!(f, "{seen} done, {again} again, longest pause {:?}; {:?}", self.longest_pause, self.shares)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_say_who_is_in_groups_and_what_they_got() {
    let nats = NatsServer::start();
    let (a, b) = (Sidecar::start(&nats, "a").await, Sidecar::start(&nats, "b").await);
    let counted = async |sidecar: &Sidecar| {
        let mut all = Vec::new();
        for series in ["groups", "members"] {
            all.push(sidecar.metric(&format!("mqtt_shared_{series}")).await as u64);
        }
        for event in ["given", "redelivered", "left"] {
            all.push(sidecar.metric(&format!("mqtt_shared_messages_total{{event=\"{event}\"}}")).await as u64);
        }
        all
    };
    let mut lazy = member(&a, "lazy", "$share/g/m", 1).await;
    lazy.acknowledges = false;
    assert_eq!(lazy.asks_for("$share/g/m", 2).await, ReasonCode::GrantedQoS2, "the same member");
    lazy.subscribe("$share/h/other", 1).await;
    let second = member(&a, "second", "$share/h/other", 0).await;
    assert_eq!(counted(&a).await, [2, 3, 0, 0, 0]);
    let mut publisher = b.v5("pub").await;
    publisher.publish_all(numbered("m", 0..10, 1), 10, |_| {}).await;
    for _ in 0..10 {
        lazy.receive().await;
    }
    let mut other = member(&b, "other", "$share/g/m", 1).await;
    assert_eq!(counted(&b).await, [1, 1, 0, 0, 0]);
    lazy.reset();
    for _ in 0..10 {
        other.receive().await;
    }
    assert_eq!(counted(&a).await, [1, 1, 10, 0, 10]);
    assert_eq!(counted(&b).await, [1, 1, 10, 10, 0]);
    second.goodbye().await;
    assert_eq!(other.unsubscribe("$share/g/m").await, [ReasonCode::Success]);
    eventually("nobody is in a group", async || counted(&a).await[..2] == [0, 0] && counted(&b).await[..2] == [0, 0])
        .await;
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
