//! A seeded simulation of the world around the machines: nodes that run them, over a store that delays, repeats, loses
//! answers, answers from a leader that knows less, and brings back records of the past; nodes that die, and nodes that stop
//! for longer than their lease and go on, under another name or with their lease taken again; clients that reset their connection after any step of a CONNECT and come back at
//! once, here or elsewhere. Every step is one event, drawn at random. Then faults end, and everything that was promised has
//! to be kept.
//!
//! `SEED=7` runs one seed (`TRACE=1` tells what happens in it), `SEEDS=100000` that many.
//!
//! - `random`: numbers
//! - `store`: JetStream as a node sees it, and the log, for wills
//! - `node`: a node and what is under way there
//! - `requests`, `answers`: what the driver does: it carries out what machines say, and feeds back answers
//! - `tenure`: leases, by themselves
//! - `world`: clients and events; `faults`: nodes that die, stop and come back
//! - `scripts`: single decisions of each machine, step by step
//! - `witness`: what was promised, and whether it was kept; knows nothing of the machines

/// Tells what happens, for whoever looks at one seed with `TRACE=1`.
macro_rules! trace {
    ($($arguments:tt)+) => {
        if std::env::var_os("TRACE").is_some() {
            eprintln!($($arguments)+);
        }
    };
}

mod answers;
mod faults;
mod node;
mod random;
mod requests;
mod scripts;
mod store;
mod tenure;
mod witness;
mod world;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().and_then(|text| text.parse().ok())
}

/// Runs them all and names those that fail.
fn run_all(seeds: std::ops::Range<u64>, run: fn(u64)) {
    let failed: Vec<u64> = seeds.filter(|seed| std::panic::catch_unwind(|| run(*seed)).is_err()).collect();
    assert!(
        failed.is_empty(),
        "{} seeds fail; try SEED={}: {:?}",
        failed.len(),
        failed[0],
        &failed[..failed.len().min(20)]
    );
}

fn run_some(run: fn(u64)) {
    match number("SEED") {
        Some(seed) => run(seed),
        None => run_all(0..number("SEEDS").unwrap_or(1_000), run),
    }
}

#[test]
fn whatever_breaks_sessions_have_one_owner_and_wills_come_once() {
    run_some(world::run);
}

#[test]
fn whatever_breaks_nobody_relies_on_a_lease_that_others_have_seen_end() {
    run_some(tenure::run);
}
