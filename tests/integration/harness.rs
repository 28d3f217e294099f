//! What the tests are made of: processes that cannot outlive their test, and clients that wait with patience.
//!
//! `TEST_AUTH` says in which mode of authentication they run, see `auth`.
//!
//! # Layout
//! - `auth`: who the devices are, in each mode
//! - `process`, `ports`: child processes with their logs; ports to listen on
//! - `nats`: a nats-server with JetStream, and a client of it; `nsc`: an operator's accounts and users, and the nats CLI
//! - `sidecar`: nats-mqtt; `world`: a nats-server with two of them
//! - `mqtt`, `connect`: a raw MQTT client on the codec; `message`: what it publishes; `socket`: bare bytes
//! - `sessions`: persistent sessions; `cluster`: three nats-servers; `relay`: a network that is slow or broken
//! - `foreign`: mosquitto's clients, paho and nats-py

mod auth;
pub(crate) mod cluster;
mod connect;
mod foreign;
mod message;
mod mqtt;
pub(crate) mod nats;
mod nsc;
mod ports;
mod process;
pub(crate) mod relay;
pub(crate) mod sessions;
mod sidecar;
mod socket;
mod world;

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};

pub(crate) use auth::{accounts, credentials, credentials_of};
pub(crate) use connect::Options;
pub(crate) use foreign::{MosquittoSub, Worker, mosquitto_pub, python};
pub(crate) use message::{Message, msg, shown};
pub(crate) use mqtt::{Client, Ended};
pub(crate) use nats::{NatsServer, Watch, js_api, nats_server_program, put_retained, settle, stored, stream_info};
pub(crate) use nsc::{Nsc, Resolver};
pub(crate) use ports::free_port;
pub(crate) use process::{Finished, Process, run};
pub(crate) use sidecar::{PROGRAM, Sidecar, SidecarBuilder, http_get};
pub(crate) use socket::{Socket, hex};
pub(crate) use world::World;

/// How long an expected event may take before the test has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// How often a condition is looked at that nobody announces.
pub(crate) const LOOK_AGAIN: Duration = Duration::from_millis(20);

static HEAVY: Semaphore = Semaphore::const_new(1);

/// Tests that need a machine for themselves take turns.
pub(crate) async fn heavy() -> SemaphorePermit<'static> {
    HEAVY.acquire().await.expect("the semaphore is never closed")
}

/// A name that no other test of this run uses: for topics and client ids of tests that share a broker.
pub(crate) fn unique(prefix: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    format!("{prefix}-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Looks at a condition until it holds.
///
/// # Panics
/// It does not hold in time.
pub(crate) async fn eventually<F: AsyncFnMut() -> bool>(what: &str, mut holds: F) {
    let waited = tokio::time::timeout(PATIENCE, async {
        while !holds().await {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    });
    assert!(waited.await.is_ok(), "not within {PATIENCE:?}: {what}");
}
