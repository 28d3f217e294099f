//! Tests of the mapping from outside: one binary, a module for each part.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod account_key;
mod closed;
mod headers;
mod mount;
mod names;
mod reply;
mod spec;
mod table;
mod topics;
