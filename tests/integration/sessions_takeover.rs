//! One client id, one connection: the newcomer wins, on whichever sidecar, and the session goes on. Wills of sessions.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use mqtt_codec::{ReasonCode, Version};
use parking_lot::Mutex;

use crate::harness::relay::Relay;
use crate::harness::sessions::record;
use crate::harness::{Client, Ended, NatsServer, Options, Sidecar, SidecarBuilder, World, eventually, msg, unique};

const LONG: u32 = 3600;

#[tokio::test(flavor = "multi_thread")]
async fn the_newcomer_gets_the_session_and_the_old_connection_is_told() {
    let world = World::shared().await;
    let ways = [(&world.a, &world.a), (&world.a, &world.b), (&world.b, &world.a)];
    for version in [Version::V5, Version::V311] {
        for (from, to) in ways {
            let (t, id) = (unique("take"), unique("tk"));
            let mut publisher = world.a.v5(&unique("pub")).await;
            let mut old = from.connect(Options::new(version, &id).durable(LONG)).await;
            old.subscribe(&format!("{t}/#"), 1).await;
            publisher.publish(msg(&format!("{t}/x"), "1").qos(1)).await;
            assert_eq!(old.receive_shown().await, format!("{t}/x 1 qos1"));
            old.ping().await;
            let mut new = to.connect(Options::new(version, &id).durable(LONG)).await;
            let reason = old.closed().await;
            assert_eq!(reason, (version == Version::V5).then_some(ReasonCode::SessionTakenOver));
            assert!(new.is_resumed());
            publisher.publish(msg(&format!("{t}/x"), "2").qos(1)).await;
            assert_eq!(new.receive_shown().await, format!("{t}/x 2 qos1"), "what was acknowledged does not come again");
            new.goodbye().await;
        }
    }
}

/// A session with one message in flight, and what is to be seen of it when it comes again.
struct InFlight {
    version: Version,
    id: String,
    old: Client,
    again: String,
    owner: serde_json::Value,
    nats: async_nats::Client,
}

impl InFlight {
    async fn at(home: &Sidecar, nats: &async_nats::Client, version: Version) -> Self {
        let (t, id) = (unique("inflight"), unique("if"));
        let mut old = home.connect(Options::new(version, &id).durable(LONG)).await;
        old.acknowledges = false;
        old.subscribe(&t, 1).await;
        home.v5(&unique("pub")).await.publish(msg(&t, "sent").qos(1)).await;
        let again = old.next_shown().await.replace("qos1", "qos1 dup");
        let owner = record(nats, &id).await.expect("a record").1["owner"].clone();
        Self { version, id, old, again, owner, nats: nats.clone() }
    }

    fn options(&self) -> Options {
        Options::new(self.version, &self.id).durable(LONG)
    }

    /// Connects in the background, and waits until its sidecar is the owner. What follows takes its time there.
    async fn begin_takeover(&self, late: &Sidecar) -> tokio::task::JoinHandle<()> {
        let (port, options) = (late.mqtt_port, self.options());
        let second = tokio::spawn(async move { drop(Client::try_open(port, options).await) });
        self.has_another_owner().await;
        second
    }

    async fn has_another_owner(&self) {
        eventually("it has another owner", async || {
            record(&self.nats, &self.id).await.is_some_and(|(_, record)| record["owner"] != self.owner)
        })
        .await;
    }

    /// The session goes on here with the message, and the first connection was told.
    async fn goes_on_with(mut self, mut new: Client) {
        assert!(new.is_resumed());
        assert_eq!(new.next_shown().await, self.again, "[MQTT-3.3.1-1]");
        let told = (self.version == Version::V5).then_some(ReasonCode::SessionTakenOver);
        assert_eq!(self.old.closed().await, told);
        new.goodbye().await;
    }
}

/// What comes from NATS through a relay is so late.
const LATE: Duration = Duration::from_millis(150);

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_ends_between_the_loss_of_its_session_and_the_handover_leaves_what_it_had_in_flight() {
    let server = NatsServer::start();
    let nats = server.client().await;
    let relay = Relay::start(server.url()).await;
    let old_home = Sidecar::start(&server, "old home").await;
    let new_home = SidecarBuilder::new("new home", &["--nats", &relay.url()]).start().await;
    for version in [Version::V5, Version::V311] {
        let session = InFlight::at(&old_home, &nats, version).await;
        relay.delay(LATE);
        let connecting = new_home.connect(session.options());
        let again = session.again.clone();
        let change = async {
            session.has_another_owner().await;
            session.old.reset();
        };
        let (mut new, ()) = tokio::join!(connecting, change);
        relay.delay(Duration::ZERO);
        assert!(new.is_resumed());
        assert_eq!(new.next_shown().await, again, "[MQTT-3.3.1-1]");
        new.goodbye().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_in_flight_goes_on_from_a_connect_that_is_taken_over_itself() {
    let server = NatsServer::start();
    let nats = server.client().await;
    let relay = Relay::start(server.url()).await;
    let home = Sidecar::start(&server, "home").await;
    let late = SidecarBuilder::new("late", &["--nats", &relay.url()]).start().await;
    for (version, next_is_late) in [(Version::V5, false), (Version::V311, true), (Version::V5, true)] {
        let session = InFlight::at(&home, &nats, version).await;
        relay.delay(LATE);
        let second = session.begin_takeover(&late).await;
        let new = if next_is_late { &late } else { &home }.connect(session.options()).await;
        relay.delay(Duration::ZERO);
        session.goes_on_with(new).await;
        second.await.unwrap();
    }
}

/// The owner that has written itself into the record and asked nobody yet is killed.
#[tokio::test(flavor = "multi_thread")]
async fn whom_a_dead_owner_has_not_asked_is_asked_by_the_next_one() {
    let server = NatsServer::start();
    let nats = server.client().await;
    let relay = Relay::start(server.url()).await;
    let home = Sidecar::start(&server, "home").await;
    let next = Sidecar::start(&server, "next").await;
    for version in [Version::V5, Version::V311] {
        let mut late = SidecarBuilder::new("late", &["--nats", &relay.url()]).start().await;
        let session = InFlight::at(&home, &nats, version).await;
        relay.delay(LATE);
        let second = session.begin_takeover(&late).await;
        // Before it hears that the record is written.
        late.kill();
        relay.delay(Duration::ZERO);
        let new = next.connect(session.options()).await;
        session.goes_on_with(new).await;
        second.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clean_client_is_taken_over_across_sidecars_too() {
    let world = World::shared().await;
    for (from, to) in [(&world.a, &world.b), (&world.b, &world.a)] {
        let id = unique("cleantake");
        let mut old = from.v5(&id).await;
        old.subscribe("never/x", 1).await;
        let mut new = to.v5(&id).await;
        assert_eq!(old.closed().await, Some(ReasonCode::SessionTakenOver));
        assert!(!new.is_resumed());
        new.ping().await;
        new.goodbye().await;
        let nats = world.nats.client().await;
        eventually("nothing is left", async || record(&nats, &id).await.is_none()).await;
    }
}

/// What the connections of a storm have in common.
#[derive(Default)]
struct Storm {
    /// How often each message came as a new one, without DUP.
    got: Mutex<HashMap<usize, usize>>,
    alive: AtomicUsize,
    refused: AtomicUsize,
}

async fn one_of_a_storm(port: u16, id: String, storm: Arc<Storm>, mut stop: tokio::sync::watch::Receiver<bool>) {
    let options = Options::v5(&id).durable(LONG);
    let mut client = match Client::try_open(port, options).await {
        Ok(client) if client.connack.reason == ReasonCode::Success => client,
        _ => {
            storm.refused.fetch_add(1, Ordering::Relaxed);
            return;
        }
    };
    storm.alive.fetch_add(1, Ordering::Relaxed);
    loop {
        if *stop.borrow_and_update() {
            return client.goodbye().await;
        }
        match client.try_receive(Duration::from_millis(50)).await {
            Ok(publish) => {
                let number = String::from_utf8_lossy(&publish.payload).parse().unwrap();
                *storm.got.lock().entry(number).or_default() += usize::from(!publish.dup);
            }
            Err(Ended::Silent) => {}
            Err(Ended::Closed) => break,
        }
    }
    storm.alive.fetch_sub(1, Ordering::Relaxed);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_storm_of_connections_with_one_client_id_one_is_left_and_no_message_is_lost() {
    const CONNECTIONS: usize = 30;
    const MESSAGES: usize = 400;
    let world = World::shared().await;
    for round in 0..3 {
        let (t, id) = (unique("storm"), unique("st"));
        let mut first = world.a.connect(Options::v5(&id).durable(LONG)).await;
        first.subscribe(&format!("{t}/#"), 1).await;
        first.goodbye().await;
        let storm = Arc::new(Storm::default());
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let mut publisher = world.a.v5(&unique("pub")).await;
        let mut tasks = Vec::new();
        let since = Instant::now();
        for n in 0..CONNECTIONS {
            let port = if n % 2 == 0 { world.a.mqtt_port } else { world.b.mqtt_port };
            tasks.push(tokio::spawn(one_of_a_storm(port, id.clone(), Arc::clone(&storm), stopped.clone())));
        }
        publisher.publish_all((0..MESSAGES).map(|n| msg(&format!("{t}/x"), n.to_string()).qos(1)), 4, |_| {}).await;
        let is_over = async || tasks.iter().filter(|task| !task.is_finished()).count() <= 1;
        eventually("only one is left", is_over).await;
        let alive = storm.alive.load(Ordering::Relaxed);
        let refused = storm.refused.load(Ordering::Relaxed);
        println!("round {round}: over after {:?}, {refused} refused, {alive} alive", since.elapsed());
        eventually("all messages are there", async || storm.got.lock().len() == MESSAGES || is_all_over(&tasks)).await;
        assert_eq!(storm.alive.load(Ordering::Relaxed), 1, "round {round}");
        assert_eq!(storm.got.lock().len(), MESSAGES, "round {round}");
        let twice: Vec<_> = storm.got.lock().iter().filter(|(_, new)| **new > 1).map(|(n, _)| *n).collect();
        assert_eq!(twice, [0; 0], "round {round}: what was sent before has DUP [MQTT-3.3.1-1]");
        stop.send_replace(true);
        for task in tasks {
            task.await.unwrap();
        }
        world.b.connect(Options::v5(&id)).await.goodbye().await;
    }
}

fn is_all_over(tasks: &[tokio::task::JoinHandle<()>]) -> bool {
    tasks.iter().all(tokio::task::JoinHandle::is_finished)
}

/// Waits for messages on `t/#` of a subscriber at another sidecar.
struct Watcher(Client);

impl Watcher {
    async fn new(sidecar: &Sidecar, t: &str) -> Self {
        let mut client = sidecar.v5(&unique("watch")).await;
        client.subscribe(&format!("{t}/#"), 2).await;
        Self(client)
    }

    /// The next message, with how long it took from `since`.
    async fn next(&mut self, since: Instant) -> (String, Duration) {
        let shown = self.0.receive_shown().await;
        (shown, since.elapsed())
    }

    async fn nothing(&mut self, patience: Duration) {
        assert_eq!(self.0.try_receive(patience).await.map(|p| crate::harness::shown(&p)), Err(Ended::Silent));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_will_waits_for_its_delay_and_a_client_that_is_back_in_time_cancels_it() {
    let world = World::shared().await;
    let t = unique("delay");
    let options = |id: &str, delay, expiry| {
        Options::v5(id).durable(expiry).delayed_will(msg(&format!("{t}/{id}"), "gone").qos(1), delay)
    };
    let delayed = async {
        let mut watcher = Watcher::new(&world.b, &format!("{t}/delayed")).await;
        let client = world.a.connect(options("delayed", 2, LONG)).await;
        let since = Instant::now();
        client.reset();
        let (shown, after) = watcher.next(since).await;
        assert_eq!(shown, format!("{t}/delayed gone qos1"));
        assert!(after >= Duration::from_millis(1900) && after < Duration::from_secs(5), "{after:?}");
        watcher.nothing(Duration::from_millis(500)).await;
        assert!(world.b.connect(options("delayed", 0, LONG)).await.is_resumed(), "the will does not end the session");
    };
    let cancelled = async {
        for (n, (from, to)) in [(&world.a, &world.b), (&world.a, &world.a)].into_iter().enumerate() {
            let id = format!("cancelled{n}");
            let mut watcher = Watcher::new(&world.b, &format!("{t}/{id}")).await;
            from.connect(options(&id, 2, LONG)).await.reset();
            let client = to.connect(options(&id, 2, LONG)).await;
            assert!(client.is_resumed());
            watcher.nothing(Duration::from_secs(3)).await;
            client.goodbye().await;
            watcher.nothing(Duration::from_secs(3)).await;
        }
    };
    let taken_over = async {
        let mut watcher = Watcher::new(&world.b, &format!("{t}/taken")).await;
        let _old = world.a.connect(options("taken", 1, LONG)).await;
        let new = world.b.connect(options("taken", 1, LONG)).await;
        assert!(new.is_resumed());
        watcher.nothing(Duration::from_secs(2)).await;
        new.goodbye().await;
    };
    let ended_by_clean_start = async {
        let mut watcher = Watcher::new(&world.b, &format!("{t}/cleanstart")).await;
        world.a.connect(options("cleanstart", 100, LONG)).await.reset();
        let new = world.b.v5("cleanstart").await;
        assert_eq!(watcher.next(Instant::now()).await.0, format!("{t}/cleanstart gone qos1"), "[MQTT-3.1.3-9]");
        watcher.nothing(Duration::from_millis(500)).await;
        new.goodbye().await;
    };
    let with_session = async {
        let mut watcher = Watcher::new(&world.b, &format!("{t}/expired")).await;
        let client = world.a.connect(options("expired", 100, 2)).await;
        let since = Instant::now();
        client.reset();
        let (shown, after) = watcher.next(since).await;
        assert_eq!(shown, format!("{t}/expired gone qos1"), "it comes with the end of the session [MQTT-3.1.3-9]");
        assert!(after < Duration::from_secs(6), "{after:?}");
        watcher.nothing(Duration::from_millis(500)).await;
    };
    let requested = async {
        let mut watcher = Watcher::new(&world.b, &format!("{t}/asked")).await;
        let client = world.a.connect(options("asked", 1, LONG)).await;
        client.disconnect(ReasonCode::DisconnectWithWill).await;
        assert_eq!(watcher.next(Instant::now()).await.0, format!("{t}/asked gone qos1"));
        watcher.nothing(Duration::from_millis(500)).await;
    };
    tokio::join!(delayed, cancelled, taken_over, ended_by_clean_start, with_session, requested);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retained_birth_after_a_takeover_beats_the_old_retained_will() {
    let world = World::shared().await;
    let t = unique("birth");
    for (n, (from, to)) in [(&world.a, &world.b), (&world.b, &world.a), (&world.a, &world.a)].into_iter().enumerate() {
        for round in 0..5 {
            let (topic, id) = (format!("{t}/{n}/{round}"), unique("plug"));
            let will = msg(&topic, "offline").qos(1).retained();
            let options = || Options::v311(&id).durable(LONG).will(will.clone());
            let _old = from.connect(options()).await;
            let mut new = to.connect(options()).await;
            new.publish(msg(&topic, "online").qos(1).retained()).await;
            for sidecar in [&world.a, &world.b] {
                let mut late = sidecar.v311(&unique("late")).await;
                late.subscribe(&topic, 1).await;
                assert_eq!(late.receive_shown().await, format!("{topic} online qos1 retain"));
            }
            new.goodbye().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_durable_subscriber_is_not_owed_the_wills_of_its_own_takeovers_twice() {
    let world = World::shared().await;
    let (t, id) = (unique("ownwill"), unique("ow"));
    let topic = format!("{t}/will");
    let options = |n: usize| Options::v5(&id).durable(LONG).will(msg(&topic, n.to_string()).qos(2));
    let mut watcher = world.b.v5(&unique("watch")).await;
    watcher.subscribe(&topic, 2).await;
    let mut clients = Vec::new();
    for n in 0..10 {
        let sidecar = if n % 2 == 0 { &world.a } else { &world.b };
        clients.push(sidecar.connect(options(n)).await);
    }
    clients.pop().unwrap().goodbye().await;
    let mut publisher = world.a.v5(&unique("pub")).await;
    publisher.publish(msg(&topic, "end").qos(1)).await;
    let got = watcher.shown_until("end").await;
    assert_eq!(got, (0..9).map(|n| format!("{topic} {n} qos2")).collect::<Vec<_>>(), "one will a takeover, in order");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_devices_with_one_client_id_are_named_in_one_line_with_both_addresses() {
    let nats = NatsServer::start();
    let sidecar = Sidecar::start(&nats, "sidecar").await;
    let mut held = Vec::new();
    // A device that comes back from where it was is no news, and neither is one that has moved.
    for from in [2, 2, 2, 3] {
        held.push(sidecar.connect(Options::v5("lamp").from(from)).await);
    }
    assert!(!sidecar.log().contains(LINE), "{}", sidecar.log());
    for from in [2, 3, 2, 3] {
        held.push(sidecar.connect(Options::v5("lamp").from(from)).await);
    }
    are_named_in_one_line(&sidecar);
}

#[tokio::test(flavor = "multi_thread")]
async fn so_are_they_when_each_comes_to_a_sidecar_of_its_own() {
    let nats = NatsServer::start();
    let (a, b) = (Sidecar::start(&nats, "a").await, Sidecar::start(&nats, "b").await);
    let mut held = Vec::new();
    // A device that goes from one sidecar to the other is no news.
    for sidecar in [&a, &b, &a, &b, &a, &b] {
        held.push(sidecar.connect(Options::v5("lamp").from(2)).await);
    }
    assert!(![&a, &b].iter().any(|sidecar| sidecar.log().contains(LINE)));
    for _ in 0..2 {
        held.push(a.connect(Options::v5("lamp").from(2)).await);
        held.push(b.connect(Options::v5("lamp").from(3)).await);
    }
    held.push(a.connect(Options::v5("lamp").from(2)).await);
    are_named_in_one_line(&a);
    are_named_in_one_line(&b);
}

/// What is said of two devices with one client id.
const LINE: &str = "take its session over from each other";

fn are_named_in_one_line(sidecar: &Sidecar) {
    let log = sidecar.log();
    let lines: Vec<_> = log.lines().filter(|line| line.contains(LINE)).collect();
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(["lamp", "127.0.0.2", "127.0.0.3"].iter().all(|text| lines[0].contains(text)), "{lines:?}");
}
