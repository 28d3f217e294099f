//! nats-mqtt: MQTT 3.1, 3.1.1 and 5.0 for NATS and JetStream. Everything that awaits is here; what can be decided
//! without I/O is in the crates `mqtt-codec`, `mqtt-session`,
//! `nats-wire` and `proto-map`.
//!
//! # Layout
//!
//! - [`cli`]: the command line; [`app`]: starting and ending; [`config`]
//! - [`listener`]: byte streams; `connection`: where a socket and a session meet
//! - [`account`]: sessions, subscriptions, dispatch; [`store`]: JetStream and core NATS; `nats`: the links to nats-server
//! - [`admin`], [`metrics`], [`readiness`], [`logging`], [`announce`]: what operators see; [`systemd`]: what the service manager does
//! - `overload`: what is done when there is more than the process can carry
//! - [`embedded`]: a nats-server of our own; [`shutdown`]: the signal that ends everything; `tasks`: what runs for an account

#![cfg_attr(test, allow(clippy::large_futures, reason = "a test is one future"))]

// The contracts of `tests/contract` name us as another crate does.
#[cfg(test)]
extern crate self as nats_mqtt;

pub mod account;
mod accounts;
pub mod admin;
pub mod announce;
pub mod app;
mod auth;
mod bans;
pub mod cli;
pub mod config;
mod connection;
pub mod embedded;
pub mod listener;
pub mod logging;
pub mod metrics;
mod nats;
mod network;
mod overload;
mod rate;
pub mod readiness;
pub mod shutdown;
mod stamp;
pub mod store;
pub mod systemd;
mod tasks;

/// JWTs for tests, as those of `mqtt-access` have them.
#[cfg(test)]
#[allow(dead_code, reason = "not every test here needs all of it")]
#[path = "../access/tests/access/mint.rs"]
mod mint;
