//! `cargo +nightly fuzz run permissions corpus/permissions ../corpus/permissions`

#![no_main]

#[path = "../bodies/permissions.rs"]
mod permissions;

libfuzzer_sys::fuzz_target!(|text: &str| {
    permissions::run(text);
});
