//! Tables and properties of `mqtt-access`, and what nats-server itself says (`oracle`). The oracle names the seed that fails and
//! takes one from `SEED`; properties do so by `PROPTEST_RNG_SEED`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test says so when something is wrong")]
#![allow(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "a test asks a nats-server; what it tests has no I/O"
)]

mod absent;
mod accounts;
mod chain;
mod encoded;
mod fuzzed;
mod mint;
mod nats_cases;
mod oracle;
mod passwords;
mod permissions;
mod properties;
mod templates;
