//! How many messages a second go into the log and come back from its tail, through one store.
//!
//! `store_bench [URL] [messages] [payload bytes] [headers] [tasks]`; the log of the account is purged by nobody, so use a server of
//! its own.

#![allow(clippy::large_futures, reason = "there is one of each")]
#![allow(clippy::print_stdout, reason = "it prints its result")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use bytestring::ByteString;
use nats_mqtt::store::{
    AssetOptions, CoreLimits, CoreMessage, CoreSink, LogEntry, LogPosition, LogSink, NatsOptions, PublisherLimits, Put,
    PutError, PutTarget, Store, StoreOptions, Stored, StoredSink,
};
use proto_map::{Names, SpecOptions};

#[derive(Default)]
struct Counter {
    count: AtomicU64,
    failed: AtomicU64,
    flushes: AtomicU64,
    order: AtomicU64,
}

impl CoreSink for Counter {
    fn message(&self, _: u64, _: CoreMessage) {
        self.count.fetch_add(1, Ordering::Relaxed);
    }

    fn flush(&self) {
        self.flushes.fetch_add(1, Ordering::Relaxed);
    }
}

impl StoredSink for Counter {
    fn stored(&self, _: u64, result: Result<Stored, PutError>) {
        match result {
            Ok(_) => self.count.fetch_add(1, Ordering::Relaxed),
            Err(_) => self.failed.fetch_add(1, Ordering::Relaxed),
        };
    }

    fn flush(&self) {
        self.flushes.fetch_add(1, Ordering::Relaxed);
    }
}

impl LogSink for Counter {
    fn entries(&self, batch: &mut Vec<LogEntry>) {
        if let (Some(first), Some(last)) = (batch.first(), batch.last()) {
            let before = self.order.swap(last.sequence, Ordering::Relaxed);
            if before != 0 && first.sequence != before + 1 {
                self.failed.fetch_add(1, Ordering::Relaxed);
            }
        }
        self.count.fetch_add(batch.len() as u64, Ordering::Relaxed);
        self.flushes.fetch_add(1, Ordering::Relaxed);
    }
}

async fn until(what: &str, counter: &Counter, target: u64) {
    let mut last = (0, Instant::now());
    loop {
        let count = counter.count.load(Ordering::Relaxed) + counter.failed.load(Ordering::Relaxed);
        if count >= target {
            return;
        }
        if count > last.0 {
            last = (count, Instant::now());
        }
        if last.1.elapsed() > Duration::from_secs(30) {
            eprintln!("{what} stands still at {count} of {target}");
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn argument(number: usize, default: usize) -> usize {
    std::env::args().nth(number).and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).init();
    let url = std::env::args().nth(1).unwrap_or_else(|| "nats://127.0.0.1:4222".to_owned());
    let (messages, size, headers, tasks) = (argument(2, 500_000), argument(3, 128), argument(4, 1), argument(5, 4));
    let core = Arc::new(Counter::default());
    let names = Names::new("BENCH", "$BNCH")?;
    let store = Store::open(options(&url, &names), core.clone()).await?;
    let tailed = Arc::new(Counter::default());
    let stored = Arc::new(Counter::default());
    let _tail = store.log().tail(LogPosition::New, tailed.clone()).await?;

    let headers: Vec<(ByteString, ByteString)> =
        (0..headers).map(|n| (format!("Mqtt-H{n}").into(), "1".into())).collect();
    let payload = Bytes::from(vec![b'x'; size]);
    let started = Instant::now();
    let each = messages / tasks;
    let mut publishers = Vec::new();
    for task in 0..tasks {
        let (publisher, stored, headers, payload) =
            (store.publisher().clone(), stored.clone(), headers.clone(), payload.clone());
        publishers.push(tokio::spawn(async move {
            let subject = ByteString::from(format!("$BNCH.log.devices.{task}.telemetry"));
            for token in 0..each as u64 {
                let permit = publisher.permit(size).await;
                let target = PutTarget::Log(subject.clone());
                let sink = stored.clone();
                let put = Put {
                    target,
                    headers: headers.clone(),
                    payload: payload.clone(),
                    ttl_s: None,
                    expected_last: None,
                    guard: None,
                    sink,
                    token,
                };
                publisher.submit(permit, put);
            }
        }));
    }
    for publisher in publishers {
        publisher.await?;
    }
    let total = (each * tasks) as u64;
    until("storing", &stored, total).await;
    let stored_in = started.elapsed();
    until("the tail", &tailed, total).await;
    let tailed_in = started.elapsed();
    report("stored", &stored, stored_in);
    report("stored and tailed", &tailed, tailed_in);

    let started = Instant::now();
    let mut scan = store.log().scan(1);
    let mut scanned = 0;
    while scanned < total {
        scanned += scan.next().await?.len() as u64;
    }
    let scan_in = started.elapsed();
    println!("scan: {scanned} in {scan_in:.2?}, {:.0}/s", scanned as f64 / scan_in.as_secs_f64());
    core_both_ways(&store, &core, &url, total, payload).await
}

fn options(url: &str, names: &Names) -> StoreOptions {
    StoreOptions {
        nats: NatsOptions { urls: vec![url.to_owned()], ..NatsOptions::default() },
        assets: AssetOptions {
            names: names.clone(),
            specs: SpecOptions::default(),
            declared: Vec::new(),
            replicas: None,
        },
        publisher: PublisherLimits::default(),
        core: CoreLimits::default(),
        connect_timeout: Some(Duration::from_secs(5)),
    }
}

/// QoS 0: out as fast as the queue takes it, and in on one subscription.
async fn core_both_ways(
    store: &Store,
    core: &Counter,
    url: &str,
    total: u64,
    payload: Bytes,
) -> Result<(), Box<dyn std::error::Error>> {
    let started = Instant::now();
    let subject = ByteString::from_static("bench.out");
    for _ in 0..total {
        store.core().publish_wait(&subject, None, &Vec::new(), payload.clone()).await?;
    }
    store.core().flush().await?;
    println!("core out: {total} in {:.2?}, {:.0}/s", started.elapsed(), total as f64 / started.elapsed().as_secs_f64());
    store.core().subscribe("bench.in", None, 1);
    store.core().flush().await?;
    let client = async_nats::connect(url).await?;
    let started = Instant::now();
    let publishing = tokio::spawn(async move {
        for _ in 0..total {
            if client.publish("bench.in", payload.clone()).await.is_err() {
                break;
            }
        }
        client.flush().await
    });
    until("core in", core, total - store.core().overflows()).await;
    publishing.await??;
    report("core in", core, started.elapsed());
    Ok(())
}

fn report(what: &str, counter: &Counter, elapsed: Duration) {
    let count = counter.count.load(Ordering::Relaxed);
    println!(
        "{what}: {count} in {elapsed:.2?}, {:.0}/s, {} failed, {:.1} a batch",
        count as f64 / elapsed.as_secs_f64(),
        counter.failed.load(Ordering::Relaxed),
        count as f64 / counter.flushes.load(Ordering::Relaxed).max(1) as f64
    );
}
