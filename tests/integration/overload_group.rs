//! A sidecar in a control group of 256 MB under ten times what it can carry: it stays alive, keeps its lease, and keeps what it has
//! acknowledged. `--nocapture` shows the figures.
//!
//! Where control groups cannot be made, it has `overload.memory` instead.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::time::Duration;

use futures_util::StreamExt;
use mqtt_codec::Packet;
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::harness::{
    Client, Ended, NatsServer, Options, Sidecar, SidecarBuilder, eventually, heavy, js_api, msg, stream_info,
};

const MEMORY: u64 = 256_000_000;

/// How long it can carry what comes, and how long there is ten times that.
const CALM: Duration = Duration::from_secs(4);
const STORM: Duration = Duration::from_secs(20);

/// Clients that publish at QoS 1, those that read nothing, and those that send large messages, or properties, at QoS 0.
const PUBLISHERS: usize = 40;
const SILENT: usize = 150;
const LARGE: usize = 8;

/// Bytes of a message.
const PAYLOAD: usize = 2_000;

/// A group with a limit of memory, until it is dropped.
struct Group {
    dir: PathBuf,
    is_v2: bool,
}

impl Group {
    /// One below the root, where this process may make one.
    fn make() -> Option<Self> {
        let name = format!("nats-mqtt-test-{}", std::process::id());
        let all = [("/sys/fs/cgroup/memory", false), ("/sys/fs/cgroup", true)];
        all.into_iter().find_map(|(root, is_v2)| {
            let group = Self { dir: PathBuf::from(root).join(&name), is_v2 };
            std::fs::create_dir(&group.dir).ok()?;
            let limit = group.dir.join(if is_v2 { "memory.max" } else { "memory.limit_in_bytes" });
            std::fs::write(limit, MEMORY.to_string()).ok().map(|()| group)
        })
    }

    /// The most that it was charged for, and how often the kernel has killed somebody in it.
    fn figures(&self) -> (u64, u64) {
        let read = |file: &str| std::fs::read_to_string(self.dir.join(file)).unwrap_or_default();
        let (most, events) = if self.is_v2 {
            (read("memory.peak"), read("memory.events"))
        } else {
            (read("memory.max_usage_in_bytes"), read("memory.oom_control"))
        };
        let killed = events.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok());
        (most.trim().parse().unwrap_or(0), killed.unwrap_or(0))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Somebody in it may not have ended: then it stays, and is empty.
        let _ = std::fs::remove_dir(&self.dir);
    }
}

/// Messages that one publisher has not been acknowledged at most: what is beyond waits in it.
const OPEN_MAX: usize = 1_000;

/// How long what is left may take at the end.
const REST: Duration = Duration::from_secs(10);

/// What one publisher had to say, and what it was told.
#[derive(Default)]
struct Told {
    /// Messages that there were to publish.
    offered: u64,
    sent: u64,
    /// The numbers of those that were acknowledged.
    acknowledged: Vec<u64>,
    /// It was disconnected.
    is_closed: bool,
}

/// Has so many messages a second to publish until then, and publishes as many of them as it can.
async fn publish_until(mut client: Client, end: Instant, per_second: f64) -> Told {
    let (mut told, mut open) = (Told::default(), HashMap::new());
    let (topic, began) = (format!("load/{}", client.id()), Instant::now());
    loop {
        let now = Instant::now();
        if now < end {
            told.offered = (now.duration_since(began).as_secs_f64() * per_second) as u64;
            while told.sent < told.offered && open.len() < OPEN_MAX {
                let mut payload = vec![b'.'; PAYLOAD];
                payload[..8].copy_from_slice(&told.sent.to_be_bytes());
                let id = client.start_publish(&msg(&topic, payload).qos(1)).expect("it is QoS 1");
                open.insert(id, told.sent);
                told.sent += 1;
            }
        } else if open.is_empty() {
            return told;
        }
        match client.packet(if now < end { now + Duration::from_millis(20) } else { end + REST }).await {
            Ok(Packet::PubAck(ack)) => {
                told.acknowledged.push(open.remove(&ack.packet_id).expect("it was published"));
            }
            Ok(_) => {}
            Err(Ended::Silent) if now < end => {}
            Err(ended) => {
                told.is_closed = matches!(ended, Ended::Closed);
                return told;
            }
        }
    }
}

/// Publishers that have so many messages a second to publish together.
async fn load(clients: Vec<Client>, during: Duration, per_second: f64) -> HashMap<String, Told> {
    let (end, each) = (Instant::now() + during, per_second / clients.len() as f64);
    let mut all = JoinSet::new();
    for client in clients {
        all.spawn(async move { (client.id().to_owned(), publish_until(client, end, each).await) });
    }
    all.join_all().await.into_iter().collect()
}

async fn clients(sidecar: &Sidecar, name: &str, count: usize, options: fn(&str) -> Options) -> Vec<Client> {
    let mut all = Vec::new();
    for n in 0..count {
        all.push(sidecar.connect(options(&format!("{name}-{n}"))).await);
    }
    all
}

/// Messages of 200 KB, and with 30 KB of properties, at QoS 0, for those that do not read.
async fn large_ones(mut client: Client, end: Instant) {
    let text = "p".repeat(30_000);
    for n in 0.. {
        let message =
            if n % 2 == 0 { msg("storm", vec![b'.'; 200_000]) } else { msg("storm", "x").property("p", &text) };
        client.start_publish(&message);
        // It reads nothing either, until the end of the storm.
        if tokio::time::timeout_at(end, client.flush()).await.is_err() || Instant::now() >= end {
            return;
        }
    }
}

/// The numbers of all messages of the log, by the clients that have published them.
async fn stored(nats: &async_nats::Client) -> HashMap<String, HashSet<u64>> {
    const BATCH: usize = 500;
    let config = json!({ "ack_policy": "none", "deliver_policy": "all", "mem_storage": true });
    let request = json!({ "stream_name": "MQTT_log", "config": config });
    let consumer = js_api(nats, "CONSUMER.CREATE.MQTT_log", &request).await;
    let next = format!("$JS.API.CONSUMER.MSG.NEXT.MQTT_log.{}", consumer["name"].as_str().unwrap());
    let inbox = nats.new_inbox();
    let mut messages = nats.subscribe(inbox.clone()).await.unwrap();
    let mut all = HashMap::<String, HashSet<u64>>::new();
    loop {
        let request = json!({ "batch": BATCH, "expires": 10_000_000_000_u64 }).to_string();
        nats.publish_with_reply(next.clone(), inbox.clone(), request.into()).await.unwrap();
        for _ in 0..BATCH {
            let message = messages.next().await.unwrap();
            assert_eq!(message.status, None, "{message:?}");
            let number = message.payload.first_chunk().map(|bytes| u64::from_be_bytes(*bytes));
            if let (Some((_, client)), Some(number)) = (message.subject.rsplit_once("load."), number) {
                all.entry(client.to_owned()).or_default().insert(number);
            }
            // How many follow.
            if message.reply.unwrap().ends_with(".0") {
                return all;
            }
        }
    }
}

/// Looks again and again whether it has its lease; the oldest that it was, seconds.
async fn watch_lease(sidecar: &Sidecar, end: Instant) -> f64 {
    let mut oldest = 0_f64;
    while Instant::now() < end {
        oldest = oldest.max(sidecar.metric("mqtt_lease_age_seconds").await);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    oldest
}

#[tokio::test(flavor = "multi_thread")]
async fn under_ten_times_what_it_can_carry_it_stays_alive_and_keeps_its_lease_and_what_it_has_acknowledged() {
    let _turn = heavy().await;
    let (server, group) = (NatsServer::start(), Group::make());
    let builder = SidecarBuilder::of(&server, "sidecar");
    let builder = match &group {
        Some(group) => builder.in_group(&group.dir),
        None => builder.set("OVERLOAD__MEMORY", "244MiB"),
    };
    let sidecar = builder.start().await;
    let limit = sidecar.metric("mqtt_memory_limit_bytes").await;
    assert!(limit <= MEMORY as f64, "{limit}");

    // What it can carry: as much as it acknowledges of more than that.
    let calm = load(clients(&sidecar, "calm", 4, Options::v311).await, CALM, 1e6).await;
    let carried = calm.values().map(|told| told.acknowledged.len()).sum::<usize>() as f64 / CALM.as_secs_f64();

    let mut silent = Vec::new();
    for n in 0..SILENT {
        let mut client = sidecar.connect(Options::v5(&format!("silent-{n}")).receive_buffer(4_096)).await;
        client.subscribe("storm", 0).await;
        client.subscribe("load/#", u8::from(n % 2 == 0)).await;
        silent.push(client);
    }
    // In MQTT 3.1.1 nobody is told how many may be under way.
    let loud = clients(&sidecar, "loud", PUBLISHERS, Options::v311).await;
    let large = clients(&sidecar, "large", LARGE, Options::v5).await;
    let end = Instant::now() + STORM;
    let large = futures_util::future::join_all(large.into_iter().map(|client| large_ones(client, end)));
    let (mut told, _, oldest_lease) =
        tokio::join!(load(loud, STORM, 10.0 * carried), large, watch_lease(&sidecar, end));
    let offered: u64 = told.values().map(|told| told.offered).sum();
    told.extend(calm);
    assert!(oldest_lease < 10.0, "{oldest_lease} s");
    assert!(!sidecar.log().contains("panicked"));
    drop(silent);
    eventually("it is calm again", async || sidecar.metric("mqtt_overload_level").await == 0.0).await;

    let nats = server.client().await;
    assert_eq!(stream_info(&nats, "MQTT_log").await["state"]["first_seq"], 1, "nothing was discarded");
    let stored = stored(&nats).await;
    let (mut sent, mut acknowledged, mut closed) = (0, 0, 0);
    for (client, told) in &told {
        let is_stored = |number: &u64| stored.get(client).is_some_and(|numbers| numbers.contains(number));
        let lost = told.acknowledged.iter().filter(|number| !is_stored(number)).count();
        assert_eq!(lost, 0, "{client}: of {} that were acknowledged", told.acknowledged.len());
        (sent, acknowledged) = (sent + told.sent, acknowledged + told.acknowledged.len());
        closed += usize::from(told.is_closed);
    }
    let (most, killed) = group.as_ref().map_or((0, 0), Group::figures);
    println!(
        "carries {carried:.0} messages a second; in {STORM:?} of ten times that: {offered} offered; in all {sent} sent, \
         {acknowledged} acknowledged, all of these stored; {closed} publishers disconnected; memory {most} of {limit} bytes at most (0: not \
         known), killed {killed} times; lease {oldest_lease:.1} s old at most"
    );
    for action in ["connect_refused", "read_later", "packet_waited", "place_lost", "lane_dropped", "fell_behind"] {
        let count = sidecar.metric(&format!("mqtt_overload_total{{action=\"{action}\"}}")).await;
        println!("{action}: {count}");
    }
    assert_eq!(killed, 0);
    drop(sidecar);
}
