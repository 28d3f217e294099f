//! Tests of `nats_mqtt::store` against a real nats-server: order and completeness through `kill -9`, readers through restarts,
//! retained messages, and the errors at start.

mod bans;
mod core;
mod faults;
mod open;
mod publish;
mod retained;
mod server;

use std::sync::Arc;
use std::time::Duration;

use async_nats::Client;
use bytes::Bytes;
use bytestring::ByteString;
use nats_mqtt::store::{
    AssetOptions, CoreLimits, CoreMessage, CoreSink, LogEntry, LogSink, NatsOptions, OpenError, PublisherLimits, Put,
    PutError, PutTarget, Store, StoreOptions, Stored, StoredSink,
};
use parking_lot::Mutex;
use proto_map::{Names, SpecOptions, Subject};
use serde_json::Value;
use tokio::sync::Notify;

use self::server::NatsServer;

const PATIENCE: Duration = Duration::from_secs(60);

/// A sink that keeps everything and can be waited for.
pub(crate) struct Collected<T> {
    items: Mutex<Vec<T>>,
    changed: Notify,
}

impl<T> Collected<T> {
    fn new() -> Arc<Self> {
        Arc::new(Self { items: Mutex::new(Vec::new()), changed: Notify::new() })
    }

    fn push(&self, item: T) {
        self.items.lock().push(item);
    }

    /// Waits until `done` says so.
    async fn until(&self, what: &str, done: impl Fn(&[T]) -> bool) {
        let wait = async {
            loop {
                let changed = self.changed.notified();
                if done(&self.items.lock()) {
                    return;
                }
                changed.await;
            }
        };
        if tokio::time::timeout(PATIENCE, wait).await.is_err() {
            panic!("{what}: only {} after {PATIENCE:?}", self.items.lock().len());
        }
    }
}

impl CoreSink for Collected<(u64, CoreMessage)> {
    fn message(&self, subscription_id: u64, message: CoreMessage) {
        self.push((subscription_id, message));
    }

    fn flush(&self) {
        self.changed.notify_waiters();
    }
}

impl StoredSink for Collected<(u64, Result<Stored, PutError>)> {
    fn stored(&self, token: u64, result: Result<Stored, PutError>) {
        self.push((token, result));
    }

    fn flush(&self) {
        self.changed.notify_waiters();
    }
}

impl LogSink for Collected<LogEntry> {
    fn entries(&self, batch: &mut Vec<LogEntry>) {
        self.items.lock().append(batch);
        self.changed.notify_waiters();
    }
}

fn names() -> Names {
    Names::new("MQTT", "$NMQ").unwrap()
}

fn options(server: &NatsServer) -> StoreOptions {
    StoreOptions {
        nats: NatsOptions { urls: vec![server.url()], ..NatsOptions::default() },
        assets: AssetOptions { names: names(), specs: SpecOptions::default(), declared: Vec::new(), replicas: None },
        publisher: PublisherLimits::default(),
        core: CoreLimits::default(),
        connect_timeout: Some(Duration::from_secs(10)),
    }
}

async fn open(server: &NatsServer) -> Store {
    let _ = tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_test_writer()
        .try_init();
    Store::open(options(server), Collected::new()).await.unwrap()
}

async fn open_error(options: StoreOptions) -> OpenError {
    match Store::open(options, Collected::new()).await {
        Ok(_) => panic!("it opened"),
        Err(error) => {
            let text = error.to_string();
            assert!(!text.contains('\n'), "one line: {text}");
            error
        }
    }
}

fn log_subject(natural: &str) -> ByteString {
    names().log_subject(&Subject::new(natural.to_owned()).unwrap())
}

fn retained_subject(natural: &str) -> ByteString {
    names().retained_subject(&Subject::new(natural.to_owned()).unwrap()).unwrap()
}

fn number(payload: &Bytes) -> u64 {
    std::str::from_utf8(payload).unwrap().parse().unwrap()
}

/// Submits numbered messages to the log as fast as permits allow.
async fn submit_numbers(
    store: &Store,
    numbers: std::ops::Range<u64>,
    sink: &Arc<Collected<(u64, Result<Stored, PutError>)>>,
) {
    for token in numbers {
        let payload = Bytes::from(token.to_string());
        let permit = store.publisher().permit(payload.len()).await;
        let target = PutTarget::Log(log_subject("a.b"));
        let sink = sink.clone();
        let put =
            Put { target, headers: Vec::new(), payload, ttl_s: None, expected_last: None, guard: None, sink, token };
        store.publisher().submit(permit, put);
    }
}

/// A client without any of our code.
async fn plain(server: &NatsServer) -> Client {
    async_nats::connect(server.url()).await.unwrap()
}

async fn api(client: &Client, verb: &str, body: &str) -> Value {
    let answer = client.request(format!("$JS.API.{verb}"), body.to_owned().into()).await.unwrap();
    serde_json::from_slice(&answer.payload).unwrap()
}
