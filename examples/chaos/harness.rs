//! What of the harness of the integration tests is used here.

#[path = "../../tests/integration/harness/connect.rs"]
mod connect;
#[path = "../../tests/integration/harness/message.rs"]
mod message;
#[path = "../../tests/integration/harness/mqtt.rs"]
mod mqtt;
#[path = "../../tests/integration/harness/nats.rs"]
mod nats;
#[path = "../../tests/integration/harness/ports.rs"]
mod ports;
#[path = "../../tests/integration/harness/process.rs"]
mod process;
#[path = "../../tests/integration/harness/relay.rs"]
mod relay;

use std::time::Duration;

pub(crate) use connect::Options;
pub(crate) use message::{Message, msg, shown};
#[allow(unused_imports, reason = "not by every example")]
pub(crate) use mqtt::{Client, Ended};
pub(crate) use nats::nats_server_program;
pub(crate) use ports::free_port;
pub(crate) use process::Process;
#[allow(unused_imports, reason = "not by every example")]
pub(crate) use relay::Relay;

pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
pub(crate) const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Clients do not say who they are: the sidecars let everybody in.
const fn credentials_of(_client_id: &str) -> Option<(&'static str, String)> {
    None
}

/// Nor have the nats-servers users.
const fn accounts() -> &'static str {
    ""
}
