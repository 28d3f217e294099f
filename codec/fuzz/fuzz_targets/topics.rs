//! `cargo +nightly fuzz run topics`

#![no_main]

#[path = "../bodies/topics.rs"]
mod topics;

libfuzzer_sys::fuzz_target!(|text: &str| {
    topics::run(text);
});
