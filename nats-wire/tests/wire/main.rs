//! The wire as a server and a hostile peer use it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test says so when something is wrong")]

mod hostile;
mod limits;
mod random;
mod server;
mod tables;
