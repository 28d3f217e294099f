//! `cargo +nightly fuzz run jwt corpus/jwt ../corpus/jwt`

#![no_main]

#[path = "../bodies/jwt.rs"]
mod jwt;

libfuzzer_sys::fuzz_target!(|text: &str| {
    jwt::run(text);
});
