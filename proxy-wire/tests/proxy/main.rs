//! Headers as proxies and hostile peers write them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test says so when something is wrong")]

mod binary;
mod random;
mod text;
mod written;
