//! All tests of the session engine in one binary. Scripts say what each rule of the protocol asks for, one line a rule;
//! the simulation says that the rules together keep every message, whatever breaks.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failure is a failed test, helpers included"
)]

mod connection;
mod delivering;
mod durable;
mod handshake;
mod publishing;
mod reauthentication;
mod script;
mod shared;
mod simulation;
