//! The levels of overload, one after the other and back. What takes the memory here is retained messages: they do not wait, so no
//! budget makes room for them, and they come from NATS, where nobody is read from later.

use std::time::Duration;

use bytes::BytesMut;
use mqtt_codec::{Packet, ReasonCode, Version};
use serde_json::Value;
use tokio::time::Instant;

use crate::harness::{
    Client, Message, NatsServer, Options, PATIENCE, Sidecar, SidecarBuilder, Watch, eventually, heavy, msg,
    put_retained, settle,
};

/// Memory that the sidecar may take, MiB.
const MEMORY_MIB: u64 = 192;

/// Bytes of one retained message.
const VALUE: usize = 128 * 1024;

/// A sidecar, and what takes its memory.
struct Loaded {
    sidecar: Sidecar,
    nats: async_nats::Client,
    events: Watch,
    value: String,
    retained: usize,
    /// Changes of the level that were told.
    changes: usize,
    server: NatsServer,
}

impl Loaded {
    async fn start() -> Self {
        let server = NatsServer::start();
        let nats = server.client().await;
        let events = Watch::new(&nats, "$NMQ.event.overload.>").await;
        let builder = SidecarBuilder::of(&server, "sidecar").set("OVERLOAD__MEMORY", &format!("{MEMORY_MIB}MiB"));
        let sidecar = builder.start().await;
        Self { sidecar, nats, events, value: "x".repeat(VALUE), retained: 0, changes: 0, server }
    }

    async fn level(&self) -> u8 {
        self.sidecar.metric("mqtt_overload_level").await as u8
    }

    async fn did(&self, action: &str) -> f64 {
        self.sidecar.metric(&format!("mqtt_overload_total{{action=\"{action}\"}}")).await
    }

    /// The next change of the level that is told is this one.
    async fn changes(&mut self, before: u64, level: u64) {
        let event: Value = serde_json::from_slice(&self.events.next().await.payload).unwrap();
        self.changes += 1;
        let told = (&event["before"], &event["level"], &event["why"]);
        assert_eq!(told, (&before.into(), &level.into(), &"memory".into()), "{event}");
    }

    /// More and more retained messages, until the level is this one.
    async fn raise(&mut self, level: u8) {
        let began = Instant::now();
        while self.level().await < level {
            assert!(began.elapsed() < 2 * PATIENCE, "{} retained messages", self.retained);
            let (used, limit) = self.memory().await;
            // Near where the level begins one after the other, so that it is not two levels at once.
            let aim = limit * (0.75 + 0.05 * f64::from(level));
            let count = (((aim - used) / 2.0 / VALUE as f64) as usize).clamp(1, 64);
            for _ in 0..count {
                put_retained(&self.nats, &format!("heavy.{}", self.retained), &[], &self.value).await;
                self.retained += 1;
            }
            // It is looked at ten times a second.
            tokio::time::sleep(Duration::from_millis(150)).await;
        }
    }

    /// All of them are deleted.
    async fn relieve(&mut self) {
        for n in 0..std::mem::take(&mut self.retained) {
            put_retained(&self.nats, &format!("heavy.{n}"), &[("KV-Operation", "DEL")], "").await;
        }
    }

    async fn memory(&self) -> (f64, f64) {
        (self.sidecar.metric("mqtt_memory_used_bytes").await, self.sidecar.metric("mqtt_memory_limit_bytes").await)
    }
}

/// Clients that read nothing of what comes on `flood`.
async fn silent_readers(sidecar: &Sidecar, count: usize) -> Vec<Client> {
    let mut silent = Vec::new();
    for n in 0..count {
        let mut client = sidecar.connect(Options::v5(&format!("silent-{n}")).receive_buffer(4_096)).await;
        client.subscribe("flood", 0).await;
        silent.push(client);
    }
    silent
}

fn encoded(message: &Message) -> BytesMut {
    let mut packet = BytesMut::new();
    mqtt_codec::encode(&Packet::Publish(message.packet(None)), Version::V5, &mut packet).unwrap();
    packet
}

/// Readers with as much waiting for them as may.
async fn slow_readers(sidecar: &Sidecar) -> Vec<Client> {
    let slow = silent_readers(sidecar, 3).await;
    let mut flooding = sidecar.v5("flooding").await;
    let dropped = "mqtt_messages_dropped_total{reason=\"slow_reader\"}";
    let began = Instant::now();
    while sidecar.metric(dropped).await == 0.0 {
        assert!(began.elapsed() < PATIENCE);
        for _ in 0..100 {
            flooding.start_publish(&msg("flood", vec![b'.'; 3_000]));
        }
        flooding.ping().await;
    }
    slow
}

#[tokio::test(flavor = "multi_thread")]
async fn publishers_are_read_later_then_the_slowest_lose_what_waits_at_qos_0_and_all_is_as_before() {
    let _turn = heavy().await;
    let mut loaded = Loaded::start().await;
    let slow = slow_readers(&loaded.sidecar).await;
    let mut loud = loaded.sidecar.v5("loud").await;
    let mut quiet = loaded.sidecar.v5("quiet").await;
    quiet.subscribe("quiet", 1).await;
    let lanes_dropped = loaded.did("lane_dropped").await;

    loaded.raise(1).await;
    loaded.changes(0, 1).await;
    let refused = Client::open(loaded.sidecar.mqtt_port, Options::v5("newcomer")).await.connack;
    assert_eq!(refused.reason, ReasonCode::ServerBusy);
    assert_eq!(loaded.did("read_later").await, 0.0);

    loaded.raise(2).await;
    loaded.changes(1, 2).await;
    eventually("there is a cap", async || {
        // It begins when a second is over.
        loud.publish_all((0..8).map(|_| msg("loud", vec![b'!'; 4_000]).qos(1)), 8, |_| {}).await;
        loaded.did("read_later").await > 0.0
    })
    .await;
    // Nothing is lost, and who sends little notices nothing.
    let shouting = loud.publish_all((0..24).map(|_| msg("loud", vec![b'!'; 4_000]).qos(1)), 24, |_| {});
    let talking = async {
        let began = Instant::now();
        for n in 0..20 {
            assert_eq!(quiet.publish(msg("quiet", n.to_string()).qos(1)).await, ReasonCode::Success);
            assert_eq!(quiet.receive_shown().await, format!("quiet {n} qos1"));
        }
        assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    };
    tokio::join!(shouting, talking);
    if loaded.level().await == 2 {
        assert_eq!(loaded.did("lane_dropped").await, lanes_dropped, "nothing is dropped before the last level");
    }

    let waiting = loaded.sidecar.metric("mqtt_waiting_bytes").await;
    loaded.raise(3).await;
    loaded.changes(2, 3).await;
    eventually("the slowest lose something", async || loaded.did("lane_dropped").await > lanes_dropped).await;
    let now = async || loaded.sidecar.metric("mqtt_waiting_bytes").await;
    eventually("less waits", async || now().await < waiting).await;

    loaded.relieve().await;
    for level in [2, 1, 0] {
        loaded.changes(level + 1, level).await;
    }
    assert_eq!(loaded.level().await, 0);
    let log = loaded.sidecar.log();
    assert_eq!(log.matches("overload: ").count(), loaded.changes, "a line for each change");
    // Held back no more, after some seconds in which the cap is doubled.
    eventually("as fast as before", async || {
        let before = loaded.did("read_later").await;
        loud.publish_all((0..24).map(|_| msg("loud", vec![b'!'; 4_000]).qos(1)), 24, |_| {}).await;
        loaded.did("read_later").await == before
    })
    .await;
    loaded.sidecar.v5("newcomer").await.ping().await;
    drop(slow);
}

/// What a client has sent is carried out also when it was to be read later, and the end does not wait for it.
#[tokio::test(flavor = "multi_thread")]
async fn of_a_client_that_is_read_later_everything_is_handled_when_the_sidecar_ends() {
    const MESSAGES: usize = 60;
    let _turn = heavy().await;
    let mut loaded = Loaded::start().await;
    let mut loud = loaded.sidecar.v5("loud").await;
    let mut heard = loaded.nats.subscribe("loud.*").await.unwrap();
    settle(&loaded.nats).await;
    loaded.raise(2).await;
    eventually("there is a cap", async || {
        // It begins when a second is over.
        for _ in 0..10 {
            loud.start_publish(&msg("before", vec![b'.'; 4_000]));
        }
        loud.flush().await;
        loaded.did("read_later").await > 0.0
    })
    .await;
    for n in 0..MESSAGES {
        loud.start_publish(&msg(&format!("loud/{n}"), vec![b'!'; 1_000]));
    }
    loud.flush().await;
    loaded.sidecar.terminate();
    loaded.sidecar.ended().await;
    let mut count = 0;
    while count < MESSAGES {
        let next = tokio::time::timeout(Duration::from_secs(2), futures_util::StreamExt::next(&mut heard)).await;
        assert!(matches!(next, Ok(Some(_))), "{count} of {MESSAGES}");
        count += 1;
    }
    drop(loaded.server);
}

/// One that sends a large packet slowly has the only place for such, until others wait for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_upload_does_not_keep_large_packets_of_others_waiting_for_ever() {
    let _turn = heavy().await;
    let mut loaded = Loaded::start().await;
    let (mut slow, mut other) = (loaded.sidecar.v5("slow").await, loaded.sidecar.v5("other").await);
    // More than half of what may wait is theirs, and nobody drops it: the beginnings of packets that are not large.
    let begun = encoded(&msg("begun", vec![b'.'; 64_000]));
    let mut halves = Vec::new();
    for n in 0..75 {
        halves.push(loaded.sidecar.v5(&format!("half-{n}")).await);
    }
    loaded.raise(1).await;
    for half in &mut halves {
        half.write_raw(&begun[..60_000]);
        half.flush().await;
    }
    let waiting = async || loaded.sidecar.metric("mqtt_waiting_bytes").await;
    let max = async || loaded.sidecar.metric("mqtt_waiting_bytes_max").await;
    eventually("there is little left", async || waiting().await > max().await * 0.55).await;
    let (before, large) = (waiting().await, |topic: &str| msg(topic, vec![b'.'; 900_000]));
    slow.write_raw(&encoded(&large("slow"))[..200_000]);
    slow.flush().await;
    eventually("it has come", async || waiting().await > before + 150_000.0).await;
    let publishing = async { assert_eq!(other.publish(large("other").qos(1)).await, ReasonCode::Success) };
    let trickling = async {
        loop {
            slow.write_raw(&[b'.'; 100]);
            slow.flush().await;
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    tokio::select! {
        () = publishing => {}
        () = trickling => unreachable!(),
    }
    assert!(loaded.did("packet_waited").await > 0.0);
    assert_eq!(slow.closed().await, Some(ReasonCode::ServerBusy));
    assert_eq!(loaded.did("place_lost").await, 1.0);
}
