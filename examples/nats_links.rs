//! Our links to nats-server beside async-nats, in one program: messages received and published a second of processor time,
//! and bytes of a subscription.
//!
//! ```text
//! cargo run --release --example nats_links -- nats://127.0.0.1:4222 ours
//! cargo run --release --example nats_links -- nats://127.0.0.1:4222 async-nats
//! ```
//!
//! nats-server needs JetStream. What is received is published by another process, so that only one side is counted. Ours does
//! more: a message is handed to the broker's sink with its headers read.

#![allow(clippy::large_futures, reason = "there is one of each")]
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a measurement, run by hand"
)]

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use bytestring::ByteString;
use futures_util::StreamExt;
use nats_mqtt::store::{
    AssetOptions, CoreLimits, CoreMessage, CoreSink, NatsOptions, PublisherLimits, Store, StoreOptions,
};

const MESSAGES: u64 = 2_000_000;
const SUBSCRIPTIONS: u64 = 100_000;
const ROUNDS: usize = 3;
const PAYLOAD: usize = 128;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (url, what) = (args.first().expect("the URL of nats-server"), args.get(1).expect("ours or async-nats"));
    match what.as_str() {
        "load" => load(url, args.get(2).is_some_and(|with| with == "headers")).await,
        "ours" => measure(url, Ours::open(url).await).await,
        "async-nats" => measure(url, Theirs::open(url).await).await,
        other => panic!("{other}: ours or async-nats"),
    }
}

/// What is measured.
trait Side {
    async fn subscribe(&self, subject: &str, id: u64);
    async fn publish(&self, subject: &'static str, headers: bool, payload: Bytes);
    async fn flush(&self);
    fn received(&self) -> u64;
}

async fn measure(url: &str, side: impl Side) {
    side.subscribe("load", 1).await;
    side.flush().await;
    for headers in [false, true] {
        let mut best = (0.0, 0.0);
        for _ in 0..ROUNDS {
            let before = side.received();
            let mut child = spawn_load(url, headers);
            while side.received() == before {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            let (cpu, at) = (cpu(), Instant::now());
            let first = side.received();
            child.wait().unwrap();
            // What the server has dropped, because we were too slow, does not come.
            let mut last = (side.received(), Instant::now());
            while last.1.elapsed() < Duration::from_millis(200) {
                tokio::time::sleep(Duration::from_millis(5)).await;
                if side.received() != last.0 {
                    last = (side.received(), Instant::now());
                }
            }
            best = better(best, last.0 - first, cpu, last.1.duration_since(at));
        }
        show(if headers { "received, one header" } else { "received" }, best);
    }
    for headers in [false, true] {
        let mut best = (0.0, 0.0);
        for _ in 0..ROUNDS {
            let (cpu, at) = (cpu(), Instant::now());
            let payload = Bytes::from(vec![b'x'; PAYLOAD]);
            for _ in 0..MESSAGES {
                side.publish("nobody", headers, payload.clone()).await;
            }
            side.flush().await;
            best = better(best, MESSAGES, cpu, at.elapsed());
        }
        show(if headers { "published, one header" } else { "published" }, best);
    }
    let before = resident();
    for id in 0..SUBSCRIPTIONS {
        side.subscribe(&format!("plant.line.{id}.temperature"), id + 2).await;
    }
    side.flush().await;
    println!("{:24} {:9} bytes", "a subscription", resident().saturating_sub(before) / SUBSCRIPTIONS);
}

fn better(best: (f64, f64), count: u64, cpu_before: f64, took: Duration) -> (f64, f64) {
    let (cpu, count) = (cpu() - cpu_before, count as f64);
    (f64::max(best.0, count / cpu), f64::max(best.1, count / took.as_secs_f64()))
}

fn show(what: &str, (of_cpu, of_time): (f64, f64)) {
    println!("{what:24} {of_cpu:9.0} a second of processor time, {of_time:9.0} a second");
}

fn spawn_load(url: &str, headers: bool) -> Child {
    let program = std::env::current_exe().unwrap();
    let args = [url, "load", if headers { "headers" } else { "plain" }];
    Command::new(program).args(args).stdout(Stdio::null()).spawn().unwrap()
}

async fn load(url: &str, headers: bool) {
    let side = Theirs::open(url).await;
    let payload = Bytes::from(vec![b'x'; PAYLOAD]);
    for _ in 0..MESSAGES {
        side.publish("load", headers, payload.clone()).await;
    }
    side.flush().await;
}

/// Processor time of this process in seconds.
fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks: u64 = fields[11..13].iter().map(|ticks| ticks.parse::<u64>().unwrap()).sum();
    ticks as f64 / 100.0
}

/// Resident memory of this process in bytes.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1_024
}

#[derive(Default)]
struct Counted(AtomicU64);

impl CoreSink for Counted {
    fn message(&self, _subscription_id: u64, message: CoreMessage) {
        std::hint::black_box(&message);
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn flush(&self) {}
}

struct Ours {
    store: Store,
    counted: Arc<Counted>,
}

impl Ours {
    async fn open(url: &str) -> Self {
        let counted = Arc::new(Counted::default());
        let options = StoreOptions {
            nats: NatsOptions { urls: vec![url.to_owned()], ..NatsOptions::default() },
            assets: AssetOptions {
                names: proto_map::Names::default(),
                specs: proto_map::SpecOptions::default(),
                declared: Vec::new(),
                replicas: Some(1),
            },
            publisher: PublisherLimits::default(),
            core: CoreLimits::default(),
            connect_timeout: None,
        };
        let store = Store::open(options, Arc::clone(&counted) as Arc<dyn CoreSink>).await.unwrap();
        Self { store, counted }
    }
}

impl Side for Ours {
    async fn subscribe(&self, subject: &str, id: u64) {
        self.store.core().subscribe(subject, None, id);
    }

    async fn publish(&self, subject: &'static str, headers: bool, payload: Bytes) {
        let header = (ByteString::from_static("Unit"), ByteString::from_static("K"));
        let headers = if headers { vec![header] } else { Vec::new() };
        self.store.core().publish_wait(&ByteString::from_static(subject), None, &headers, payload).await.unwrap();
    }

    async fn flush(&self) {
        self.store.core().flush().await.unwrap();
    }

    fn received(&self) -> u64 {
        self.counted.0.load(Ordering::Relaxed)
    }
}

struct Theirs {
    client: async_nats::Client,
    counted: Arc<AtomicU64>,
    idle: std::sync::Mutex<Vec<async_nats::Subscriber>>,
}

impl Theirs {
    async fn open(url: &str) -> Self {
        let options = async_nats::ConnectOptions::new().read_buffer_capacity(u16::MAX).client_capacity(4_096);
        Self { client: options.connect(url).await.unwrap(), counted: Arc::default(), idle: std::sync::Mutex::default() }
    }
}

impl Side for Theirs {
    async fn subscribe(&self, subject: &str, id: u64) {
        let mut subscriber = self.client.subscribe(subject.to_owned()).await.unwrap();
        if id > 1 {
            self.idle.lock().unwrap().push(subscriber);
            return;
        }
        let counted = Arc::clone(&self.counted);
        tokio::spawn(tokio::task::unconstrained(async move {
            while let Some(message) = subscriber.next().await {
                std::hint::black_box(&message);
                counted.fetch_add(1, Ordering::Relaxed);
            }
        }));
    }

    async fn publish(&self, subject: &'static str, headers: bool, payload: Bytes) {
        if headers {
            let mut map = async_nats::HeaderMap::new();
            map.insert("Unit", "K");
            self.client.publish_with_headers(subject, map, payload).await.unwrap();
        } else {
            self.client.publish(subject, payload).await.unwrap();
        }
    }

    async fn flush(&self) {
        // A true round trip; nobody answers.
        let _ = self.client.request("nobody.at.all", Bytes::new()).await;
    }

    fn received(&self) -> u64 {
        self.counted.load(Ordering::Relaxed)
    }
}
