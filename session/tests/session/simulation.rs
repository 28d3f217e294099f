//! A seeded simulation of the world around the engine: publishers and subscribers that keep to the letter of MQTT, a log
//! and a store of progress that keep what they acknowledged, sidecars that do neither. Every step is one event, drawn at
//! random; faults come in between. Then faults end, and everything that was promised has to be kept.
//!
//! `SEED=7` runs one seed (`TRACE=1` tells what happens in it), `SEEDS=100000` that many. A seed that fails is named; what
//! it found becomes a script with a name, since seeds mean something else when the simulation changes.
//!
//! - `random`: numbers
//! - `log`, `store`: JetStream as the sidecar sees it
//! - `client`: a client to the letter
//! - `sidecar`: one connection: a session, its feed, and what is on its way
//! - `reading`: how a sidecar reads the log
//! - `saving`: how it saves progress
//! - `world`: the events and the faults
//! - `witness`: what was promised, and whether it was kept; knows nothing of the engine

/// Tells what happens, for whoever looks at one seed with `TRACE=1`.
macro_rules! trace {
    ($world:expr, $($arguments:tt)+) => {
        if $world.is_traced {
            eprintln!("{:5} {}", $world.step, format_args!($($arguments)+));
        }
    };
}

mod client;
mod log;
mod random;
mod reading;
mod saving;
mod sidecar;
mod store;
mod witness;
mod world;

use world::{Config, World};

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().and_then(|text| text.parse().ok())
}

fn run(seed: u64) {
    World::new(seed, Config::drawn(seed)).run();
}

/// Runs them all and names those that fail.
fn run_all(seeds: std::ops::Range<u64>) {
    let failed: Vec<u64> = seeds.filter(|seed| std::panic::catch_unwind(|| run(*seed)).is_err()).collect();
    assert!(
        failed.is_empty(),
        "{} seeds fail; try SEED={}: {:?}",
        failed.len(),
        failed[0],
        &failed[..failed.len().min(20)]
    );
}

#[test]
fn whatever_breaks_every_promise_is_kept() {
    match number("SEED") {
        Some(seed) => run(seed),
        None => run_all(0..number("SEEDS").unwrap_or(400)),
    }
}
