//! `cargo +nightly fuzz run decode corpus/decode ../corpus`

#![no_main]

#[path = "../bodies/decode.rs"]
mod decode;

libfuzzer_sys::fuzz_target!(|data: &[u8]| decode::run(data));
