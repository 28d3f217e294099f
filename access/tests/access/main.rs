//! Tables and properties of `mqtt-access`. Random tests print their seed when they fail, and take one from `SEED`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test says so when something is wrong")]

mod accounts;
mod chain;
mod encoded;
mod mint;
mod nats_cases;
mod oracle;
mod passwords;
mod permissions;
mod properties;
mod templates;
