//! How long the wills of a sidecar's clients take when it is gone: `failover PROGRAM [sessions] [URL]`.
//!
//! Writes so many records, as a sidecar would have left them whose clients were connected with a will at QoS 1, starts two
//! sidecars (`PROGRAM`), and prints when the wills came after a third was stopped. nats-server has to be there, with
//! JetStream, and with nothing in it that anybody wants.

#![allow(clippy::large_futures, reason = "there is one of each")]
#![allow(clippy::print_stdout, reason = "it prints its result")]
#![allow(clippy::expect_used, reason = "it says what is wrong by ending")]

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use async_nats::Client;
use futures_util::StreamExt as _;
use serde_json::json;

/// Records that are on their way to JetStream.
const BURST: usize = 1_000;
/// Wills may be so far apart before it is given up.
const PATIENCE: Duration = Duration::from_secs(60);
/// Sidecars that have just started look after the sessions of nobody, and then look for those of who is gone; both are over by then.
const SETTLED: Duration = Duration::from_secs(25);

struct Sidecar {
    process: Child,
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").port()
}

/// Starts one and waits until it is ready.
async fn start(program: &str, url: &str) -> Sidecar {
    let [mqtt, ws, admin] = [(); 3].map(|()| format!("127.0.0.1:{}", free_port()));
    let arguments = ["--nats", url, "--listen", &mqtt, "--listen-ws", &ws, "--admin", &admin];
    let process = Command::new(program).args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let sidecar = Sidecar { process: process.expect("the program starts") };
    let ready = || Command::new(program).args(["health", "--admin", &admin]).stderr(Stdio::null()).status();
    while !ready().is_ok_and(|status| status.success()) {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    sidecar
}

async fn plant(client: &Client, sessions: usize) {
    for first in (0..sessions).step_by(BURST) {
        for n in first..sessions.min(first + BURST) {
            let will = json!({ "topic": format!("will/{n}"), "payload": "Z29uZQ==", "qos": 1 });
            let record = json!({ "version": 1, "client_id": format!("c{n}"), "epoch": 1, "first_epoch": 1, "owner": "gone",
                "connected": true, "expiry_s": 3600, "since": "2026-01-01T00:00:00.000Z", "protocol": "5.0",
                "subscriptions": [], "will": will });
            client.publish(format!("$KV.MQTT_sessions.c{n}"), record.to_string().into()).await.expect("published");
        }
        // Not more than the server buffers.
        let asked = client.request("$JS.API.STREAM.INFO.MQTT_sessions", "".into()).await;
        asked.expect("JetStream answers");
    }
}

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let program = arguments.next().expect("failover PROGRAM [sessions] [URL]");
    let sessions: usize = arguments.next().map_or(10_000, |text| text.parse().expect("a number of sessions"));
    let url = arguments.next().unwrap_or_else(|| "nats://127.0.0.1:4222".to_owned());
    let client = async_nats::connect(&url).await.expect("NATS is there");

    let mut leaving = start(&program, &url).await;
    let (_one, _other) = (start(&program, &url).await, start(&program, &url).await);
    tokio::time::sleep(SETTLED).await;
    let mut wills = client.subscribe("will.>").await.expect("subscribed");
    plant(&client, sessions).await;
    let began = Instant::now();
    let pid = rustix::process::Pid::from_child(&leaving.process);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it runs");
    let (mut came, mut last) = (0, began);
    let mut first = None;
    while came < sessions {
        let Ok(Some(_)) = tokio::time::timeout(PATIENCE, wills.next()).await else { break };
        came += 1;
        last = Instant::now();
        first.get_or_insert(last - began);
    }
    let took = last - began;
    println!(
        "{came} of {sessions} wills, the first after {:.1} s, the last after {:.1} s: {:.0} us a session",
        first.unwrap_or_default().as_secs_f64(),
        took.as_secs_f64(),
        took.as_secs_f64() * 1e6 / f64::from(u32::try_from(came.max(1)).unwrap_or(u32::MAX)),
    );
    let _ = leaving.process.wait();
}
