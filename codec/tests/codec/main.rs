//! All tests of the codec in one binary, so that it is linked once. Each module says what it proves.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failure is a failed test, helpers included"
)]

mod arbitrary;
mod bytes_text;
mod corpus;
mod differential;
mod differential_model;
mod frames;
mod fuzzed;
mod hostile;
mod limits;
mod refused;
mod round_trip;
mod topics;
mod wire;
