//! Sidecars that are killed, or cut off from NATS for longer than their lease: the others adopt their sessions, and a
//! sidecar that comes back harms nobody. These tests wait for leases to end, so each runs its scenarios beside each other.

use std::thread::{self, JoinHandle};
use std::time::Duration;

use mqtt_codec::{Packet, PacketType, ReasonCode};
use rustix::process::Signal;
use serde_json::json;

use crate::harness::sessions::{pid, progress, record};
use crate::harness::{Client, Ended, NatsServer, Options, Sidecar, World, eventually, msg, stored};

const LONG: u32 = 3600;
/// Longer than a lease takes to end, and to be noticed by whoever has to be heard first.
const ADOPTED_WITHIN: Duration = Duration::from_secs(40);

/// Waits longer than the harness does.
async fn receive(client: &mut Client) -> String {
    match client.try_receive(ADOPTED_WITHIN).await {
        Ok(publish) => crate::harness::shown(&publish),
        Err(ended) => panic!("{ended:?} while it waits for a will"),
    }
}

async fn nothing(client: &mut Client, patience: Duration) {
    assert_eq!(client.try_receive(patience).await.map(|p| crate::harness::shown(&p)), Err(Ended::Silent));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_sidecar_had_in_hand_goes_on_on_the_other_one() {
    let mut world = World::own().await;
    let nats = world.nats.client().await;
    let mut subscriber = world.b.connect(Options::v5("sub").durable(LONG)).await;
    subscriber.subscribe("in/#", 2).await;
    for round in 1..=6_u16 {
        // From the client: PUBLISH, and the sidecar dies at some moment after it.
        let mut client = world.a.connect(Options::v5("in").durable(LONG)).await;
        let mut flight = world.a.connect(Options::v5("out").durable(LONG)).await;
        flight.acknowledges = false;
        flight.subscribe("out/#", 2).await;
        flight.ping().await;
        let mut publisher = world.b.v5("pub").await;
        publisher.publish(msg("out/x", round.to_string()).qos(2)).await;
        let sent = flight.receive().await;
        let id = sent.packet_id().unwrap();
        let is_released = round % 2 == 0;
        if is_released {
            flight.ack(Packet::PubRec, id).await;
            flight.next_of(PacketType::PubRel).await;
        }
        let message = msg("in/x", round.to_string()).qos(2);
        client.send_publish(&message, pid(round), false).await;
        if round % 3 == 0 {
            client.next_of(PacketType::PubRec).await;
        } else {
            tokio::time::sleep(Duration::from_micros(u64::from(round) * 400)).await;
        }
        world.a.kill();
        assert_eq!(client.closed().await, None);

        let mut client = world.b.connect(Options::v5("in").durable(LONG)).await;
        assert!(client.is_resumed());
        client.send_publish(&message, pid(round), true).await;
        client.next_of(PacketType::PubRec).await;
        client.ack(Packet::PubRel, pid(round)).await;
        let Packet::PubComp(ack) = client.next_of(PacketType::PubComp).await else { unreachable!() };
        assert_eq!(ack.reason, ReasonCode::Success, "round {round}");
        client.goodbye().await;
        assert_eq!(stored(&nats, "MQTT_log", "$NMQ.log.in.>").await, u64::from(round), "stored once");
        assert_eq!(subscriber.receive_shown().await, format!("in/x {round} qos2"));

        // To the client: its packet id and how far it was.
        let mut flight = world.b.connect(Options::v5("out").durable(LONG)).await;
        flight.acknowledges = false;
        let repeated = if is_released { format!("pubrel #{id}") } else { format!("out/x {round} qos2 dup #{id}") };
        assert_eq!(flight.next_shown().await, repeated, "round {round}");
        if !is_released {
            flight.ack(Packet::PubRec, id).await;
            flight.next_of(PacketType::PubRel).await;
        }
        flight.ack(Packet::PubComp, id).await;
        flight.ping().await;
        flight.goodbye().await;
        world.a.restart().await;
    }
    nothing(&mut subscriber, Duration::from_millis(300)).await;
}

/// Clients of sidecar `a` whose wills are due when it dies.
async fn doomed(a: &Sidecar) -> Vec<Client> {
    let will = |id: &str| msg(&format!("will/{id}"), "gone");
    let clients = [
        Options::v5("clean").will(will("clean").qos(1)),
        Options::v311("old").durable(0).will(will("old").qos(2).retained()),
        Options::v5("zero").will(will("zero").qos(0)),
        Options::v5("durable").durable(LONG).will(will("durable").qos(1)),
        Options::v5("delayed").durable(LONG).delayed_will(will("delayed").qos(1), 2),
        Options::v5("ends-first").durable(1).delayed_will(will("ends-first").qos(1), 100),
        Options::v5("patient").durable(LONG).delayed_will(will("patient").qos(1), 100),
    ];
    let mut connected = Vec::new();
    for options in clients {
        connected.push(a.connect(options).await);
    }
    connected
}

const DUE: [&str; 6] = [
    "will/clean gone qos1",
    "will/delayed gone qos1",
    "will/durable gone qos1",
    "will/ends-first gone qos1",
    "will/old gone qos2",
    "will/zero gone qos0",
];

/// All wills that are due come once.
async fn expect_wills(watcher: &mut Client) {
    let mut got = Vec::new();
    while got.len() < DUE.len() {
        match watcher.try_receive(ADOPTED_WITHIN).await {
            Ok(publish) => got.push(crate::harness::shown(&publish)),
            Err(_) => break,
        }
    }
    got.sort();
    assert_eq!(got, DUE);
    nothing(watcher, Duration::from_secs(2)).await;
}

async fn another_sidecar_publishes_the_wills() {
    let mut world = World::own().await;
    let nats = world.nats.client().await;
    let c = Sidecar::start(&world.nats, "sidecar c").await;
    let mut watcher = c.v5("watch").await;
    watcher.subscribe("will/#", 2).await;
    let _doomed = doomed(&world.a).await;
    world.a.kill();
    // Two adopt at the same time.
    expect_wills(&mut watcher).await;
    assert!(record(&nats, "clean").await.is_none(), "a clean session ends with its connection");
    assert!(record(&nats, "zero").await.is_none());
    let (_, durable) = record(&nats, "durable").await.expect("a durable session goes on");
    assert_eq!((&durable["connected"], durable["will"].is_null()), (&false.into(), true));
    assert!(world.b.connect(Options::v5("durable").durable(LONG)).await.is_resumed());
    // In time: its will is cancelled.
    assert!(world.b.connect(Options::v5("patient").durable(LONG)).await.is_resumed());
}

async fn the_first_that_starts_publishes_the_wills_of_those_who_died_last() {
    let mut world = World::own().await;
    let _doomed = doomed(&world.a).await;
    world.a.kill();
    world.b.kill();
    // A durable subscriber is owed what comes before it is back.
    world.b.restart().await;
    let mut watcher = world.b.connect(Options::v5("watch").durable(LONG)).await;
    watcher.subscribe("will/#", 2).await;
    expect_wills(&mut watcher).await;
}

async fn an_adopter_that_dies_leaves_a_delayed_will_to_the_next_one() {
    let world = World::own().await;
    let mut c = Sidecar::start(&world.nats, "sidecar c").await;
    let will = msg("will/passed on", "gone").qos(2);
    let client = c.connect(Options::v5("passed on").durable(LONG).delayed_will(will, 3)).await;
    client.reset();
    let nats = world.nats.client().await;
    eventually("it waits", async || {
        record(&nats, "passed on").await.is_some_and(|(_, record)| record["connected"] == false)
    })
    .await;
    // It was about to publish it. Then one of those who are left does; which one, we do not know, so both have it.
    c.kill();
    let mut watcher = world.b.v5("watch").await;
    watcher.subscribe("will/#", 2).await;
    world.a.terminate();
    assert_eq!(receive(&mut watcher).await, "will/passed on gone qos2");
    nothing(&mut watcher, Duration::from_secs(2)).await;
}

async fn a_sidecar_that_was_cut_off_closes_its_clients_and_writes_nothing_more() {
    let world = World::own().await;
    let nats = world.nats.client().await;
    let mut watcher = world.b.v5("watch").await;
    watcher.subscribe("will/#", 2).await;
    let options = || Options::v5("frozen").durable(LONG).will(msg("will/frozen", "gone").qos(1));
    let mut frozen = world.a.connect(options()).await;
    frozen.subscribe("frozen/#", 2).await;
    let mut idle = world.a.connect(Options::v5("idle").durable(LONG)).await;
    idle.subscribe("idle/#", 2).await;
    world.a.signal(Signal::STOP);
    assert_eq!(receive(&mut watcher).await, "will/frozen gone qos1", "others see that its lease has ended");
    // The client is impatient, and comes back elsewhere; what its sidecar still has from it is of the past.
    frozen.write(&Packet::Publish(msg("will/late", "too late").qos(2).packet(Some(pid(9)))));
    frozen.flush().await;
    let mut back = world.b.connect(options()).await;
    assert!(back.is_resumed());
    back.publish(msg("frozen/x", "1").qos(2)).await;
    assert_eq!(back.receive_shown().await, "frozen/x 1 qos2");
    back.ping().await;
    let adopted = record(&nats, "idle").await.expect("the session goes on");
    assert_eq!((&adopted.1["connected"], adopted.1["owner"].is_null()), (&false.into(), true));
    let (before, _) = record(&nats, "frozen").await.unwrap();

    world.a.signal(Signal::CONT);
    frozen.closed().await;
    idle.closed().await;
    assert_eq!(record(&nats, "idle").await, Some(adopted), "it writes nothing more");
    assert_eq!(record(&nats, "frozen").await.unwrap().0, before);
    back.ping().await;
    nothing(&mut watcher, Duration::from_secs(1)).await;
    // It is back, and serves.
    eventually("it serves again", async || world.a.answers("/readyz", 200).await).await;
    let mut client = world.a.connect(Options::v5("idle").durable(LONG)).await;
    assert!(client.is_resumed());
    client.publish(msg("idle/x", "2").qos(2)).await;
    assert_eq!(client.receive_shown().await, "idle/x 2 qos2");
}

async fn a_nats_server_that_is_away_for_too_long_ends_connections_and_loses_no_session() {
    let mut nats = NatsServer::start();
    let a = Sidecar::start(&nats, "sidecar a").await;
    let b = Sidecar::start(&nats, "sidecar b").await;
    let mut client = a.connect(Options::v5("away").durable(LONG)).await;
    client.subscribe("away/#", 2).await;
    client.publish(msg("away/x", "1").qos(2)).await;
    assert_eq!(client.receive_shown().await, "away/x 1 qos2");
    client.ping().await;
    let reader = nats.client().await;
    eventually("it is done with", async || {
        client.ping().await;
        progress(&reader, "away").await.is_some_and(|(_, progress)| progress["in_flight"] == json!([]))
    })
    .await;
    nats.kill();
    // Longer than leases are, and then longer than anybody waits for theirs.
    nothing(&mut client, Duration::from_secs(40)).await;
    client.ping().await;
    assert_eq!(client.closed().await, Some(ReasonCode::ServerBusy));
    nats.restart();
    eventually("they serve again", async || a.answers("/readyz", 200).await && b.answers("/readyz", 200).await).await;
    let mut client = b.connect(Options::v5("away").durable(LONG)).await;
    assert!(client.is_resumed());
    client.publish(msg("away/x", "2").qos(2)).await;
    assert_eq!(client.receive_shown().await, "away/x 2 qos2");
}

/// A scenario in a thread of its own.
fn beside<F: Future<Output = ()>>(name: &str, scenario: impl FnOnce() -> F + Send + 'static) -> JoinHandle<()> {
    let run = || tokio::runtime::Runtime::new().expect("a runtime").block_on(scenario());
    thread::Builder::new().name(name.to_owned()).spawn(run).expect("a thread")
}

#[test]
fn when_a_lease_ends_the_sessions_are_adopted_and_each_will_is_published_once() {
    let all = [
        beside("another publishes", another_sidecar_publishes_the_wills),
        beside("the first that starts", the_first_that_starts_publishes_the_wills_of_those_who_died_last),
        beside("an adopter dies", an_adopter_that_dies_leaves_a_delayed_will_to_the_next_one),
        beside("cut off", a_sidecar_that_was_cut_off_closes_its_clients_and_writes_nothing_more),
        beside("nats-server away", a_nats_server_that_is_away_for_too_long_ends_connections_and_loses_no_session),
    ];
    let mut failed = Vec::new();
    for scenario in all {
        let name = scenario.thread().name().unwrap_or_default().to_owned();
        if scenario.join().is_err() {
            failed.push(name);
        }
    }
    assert!(failed.is_empty(), "failed, see above: {failed:?}");
}
