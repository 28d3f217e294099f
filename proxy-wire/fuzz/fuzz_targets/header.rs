//! `cargo +nightly fuzz run header`

#![no_main]

#[path = "../bodies/header.rs"]
mod header;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| header::run(bytes));
