//! A nats-server with JetStream in a directory of its own, and what tests ask of it as a NATS client.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use async_nats::{Client, Message, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::ports::free_port;
use super::process::Process;
use super::{LOOK_AGAIN, PATIENCE, accounts};

/// A nats-server. It can be killed and started again, on the same port and data.
#[derive(Debug)]
pub(crate) struct NatsServer {
    port: u16,
    process: Option<Process>,
    /// Goes last, with the log that a failing test shows.
    dir: TempDir,
}

/// The program: `$NATS_SERVER`, then `$PATH`, then `.tools/bin` of the workspace.
pub(crate) fn nats_server_program() -> PathBuf {
    if let Some(path) = std::env::var_os("NATS_SERVER") {
        return path.into();
    }
    find_program("nats-server").expect(
        "nats-server is needed for the integration tests: put it into $PATH or .tools/bin, or set NATS_SERVER to it",
    )
}

/// A program: of `$PATH`, then of `.tools/bin` of the workspace.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let local = Path::new(env!("CARGO_MANIFEST_DIR")).join(".tools/bin");
    std::env::split_paths(&paths).chain([local]).map(|dir| dir.join(name)).find(|file| file.is_file())
}

impl NatsServer {
    /// Starts one with JetStream.
    pub(crate) fn start() -> Self {
        Self::start_with(true, "")
    }

    /// Starts one, with more lines in its configuration.
    pub(crate) fn start_with(jetstream: bool, more: &str) -> Self {
        let mut server = Self::prepared(jetstream, more);
        server.restart();
        server
    }

    /// One that is not started yet.
    pub(crate) fn prepared(jetstream: bool, more: &str) -> Self {
        let dir = TempDir::with_prefix("nats-mqtt-nats-").expect("a temporary directory");
        let server = Self { dir, port: free_port(), process: None };
        server.configure(jetstream, more);
        server
    }

    /// Writes its configuration, with these lines besides; it knows it when it is started or reloaded.
    pub(crate) fn configure(&self, jetstream: bool, more: &str) {
        // The log reserves 4 GiB, which is not written.
        let store = "jetstream { store_dir: data, max_file_store: 64GB, max_memory_store: 1GB }";
        let store = if jetstream { store } else { "" };
        let has_own = ["accounts", "authorization", "operator"].iter().any(|word| more.contains(word));
        let users = if jetstream && !has_own { accounts() } else { "" };
        let text = format!("listen: \"127.0.0.1:{}\"\nserver_name: test\n{store}\n{users}{more}\n", self.port);
        std::fs::write(self.dir.path().join("nats.conf"), text).expect("write the configuration");
    }

    /// Whether the devices of the tests are users of it, where they have to be.
    pub(super) fn has_devices(&self) -> bool {
        let text = std::fs::read_to_string(self.dir.path().join("nats.conf")).expect("the configuration");
        text.contains(accounts())
    }

    /// SIGHUP: it reads its configuration again, and has done so when this returns.
    pub(crate) fn reload(&self) {
        let process = self.process.as_ref().expect("the server runs");
        let reloads = || process.log().matches("Reloaded server configuration").count();
        let refusals = || process.log().matches("Failed to reload").count();
        let (before, refused, since) = (reloads(), refusals(), Instant::now());
        process.hang_up();
        while reloads() == before {
            assert_eq!(refusals(), refused, "nats-server refuses to reload: {}", process.log());
            assert!(since.elapsed() < PATIENCE, "nats-server does not reload: {}", process.log());
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Where it runs.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// SIGKILL: nothing is flushed, nobody is told.
    pub(crate) fn kill(&mut self) {
        self.process = None;
    }

    /// SIGSTOP: it answers nothing, and its connections stay.
    pub(crate) fn pause(&self) {
        self.process.as_ref().expect("the server runs").pause();
    }

    /// SIGCONT: it goes on where it was.
    pub(crate) fn go_on(&self) {
        self.process.as_ref().expect("the server runs").go_on();
    }

    /// Starts it, again or for the first time, and waits until it says that it is ready.
    pub(crate) fn restart(&mut self) {
        self.process = None;
        let log = self.dir.path().join("nats.log");
        // What an earlier run wrote says nothing about this one.
        let _ = std::fs::rename(&log, self.dir.path().join("nats.log.before"));
        let mut command = Command::new(nats_server_program());
        command.current_dir(self.dir.path()).args(["-c", "nats.conf"]);
        let mut process = Process::spawn("nats-server", &mut command, &log);
        let since = Instant::now();
        while !process.log().contains("Server is ready") {
            assert!(process.status().is_none(), "nats-server ended: {}", process.log());
            assert!(since.elapsed() < PATIENCE, "nats-server is not ready: {}", process.log());
            std::thread::sleep(LOOK_AGAIN);
        }
        self.process = Some(process);
    }

    /// A client without credentials.
    pub(crate) async fn client(&self) -> Client {
        async_nats::connect(self.url()).await.expect("connect to nats-server")
    }

    /// Where its monitor listens, for a server with `http: "127.0.0.1:-1"` in its configuration.
    pub(crate) fn monitor(&self) -> String {
        self.said("Starting http monitor on ")
    }

    /// The port of its own MQTT, for a server with `mqtt { listen: "127.0.0.1:-1" }` in its configuration.
    pub(crate) fn own_mqtt(&self) -> u16 {
        let address = self.said("Listening for MQTT clients on mqtt://127.0.0.1:");
        address.parse().expect("a port")
    }

    /// What its log says behind these words.
    fn said(&self, words: &str) -> String {
        let log = std::fs::read_to_string(self.dir.path().join("nats.log")).expect("the log");
        let said = log.lines().find_map(|line| line.split_once(words));
        said.unwrap_or_else(|| panic!("nats-server does not say: {words}")).1.trim().to_owned()
    }

    pub(crate) fn show_log(&self) {
        super::process::show_log("nats-server", &self.dir.path().join("nats.log"));
    }
}

/// A core NATS subscription that the server has for sure.
#[derive(Debug)]
pub(crate) struct Watch(Subscriber);

impl Watch {
    pub(crate) async fn new(client: &Client, subject: &str) -> Self {
        let subscriber = client.subscribe(subject.to_owned()).await.expect("subscribe");
        settle(client).await;
        Self(subscriber)
    }

    /// The next message.
    pub(crate) async fn next(&mut self) -> Message {
        self.next_within(PATIENCE).await
    }

    /// The next message, which may take so long.
    pub(crate) async fn next_within(&mut self, patience: Duration) -> Message {
        let next = tokio::time::timeout(patience, self.0.next()).await;
        next.expect("a message on core NATS in time").expect("the subscription goes on")
    }
}

/// Waits until the server has handled everything that this client has sent.
pub(crate) async fn settle(client: &Client) {
    let inbox = client.new_inbox();
    let mut answers = client.subscribe(inbox.clone()).await.expect("subscribe");
    client.publish(inbox, "settled".into()).await.expect("publish");
    let settled = tokio::time::timeout(PATIENCE, answers.next()).await;
    assert!(matches!(settled, Ok(Some(_))), "nats-server does not answer");
}

/// A request to the JetStream API; the answer as it is, errors included.
pub(crate) async fn js_api(client: &Client, what: &str, body: &Value) -> Value {
    let subject = format!("$JS.API.{what}");
    let payload = Bytes::from(if body.is_null() { Vec::new() } else { body.to_string().into_bytes() });
    let since = Instant::now();
    loop {
        match client.request(subject.clone(), payload.clone()).await {
            Ok(answer) => return serde_json::from_slice(&answer.payload).expect("JetStream answers JSON"),
            // There is no leader at the moment. What asks only may be asked again.
            Err(_) if what.contains("INFO") && since.elapsed() < PATIENCE => tokio::time::sleep(LOOK_AGAIN).await,
            Err(error) => panic!("JetStream does not answer {what}: {error}"),
        }
    }
}

/// `$JS.API.STREAM.INFO`.
pub(crate) async fn stream_info(client: &Client, stream: &str) -> Value {
    js_api(client, &format!("STREAM.INFO.{stream}"), &Value::Null).await
}

/// How many messages a stream holds, with what is below `filter` when that is not empty.
pub(crate) async fn stored(client: &Client, stream: &str, filter: &str) -> u64 {
    let request = if filter.is_empty() { Value::Null } else { json!({ "subjects_filter": filter }) };
    let info = js_api(client, &format!("STREAM.INFO.{stream}"), &request).await;
    assert!(info["error"].is_null(), "{stream}: {info}");
    if filter.is_empty() {
        return info["state"]["messages"].as_u64().expect("a number of messages");
    }
    let subjects = info["state"]["subjects"].as_object();
    subjects.map_or(0, |subjects| subjects.values().filter_map(Value::as_u64).sum())
}

/// What `nats kv put` does with a retained message: it is published on the key's subject, and acknowledged by the stream.
pub(crate) async fn put_retained(nats: &async_nats::Client, key: &str, headers: &[(&str, &str)], value: &str) {
    let mut map = async_nats::HeaderMap::new();
    for (name, value) in headers {
        map.insert(*name, *value);
    }
    let subject = format!("$KV.MQTT_retained.{key}");
    let stored = nats.request_with_headers(subject, map, value.to_owned().into()).await.unwrap();
    assert!(stored.payload.starts_with(b"{\"stream\":\"KV_MQTT_retained\""), "{stored:?}");
}
