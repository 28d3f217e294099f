//! Chaos: QoS 1 and 2 publishers and durable subscribers that move between two sidecars, and clients with wills, while
//! processes are killed with SIGKILL all the time. At the end it says what was lost, repeated or out of order; all of
//! that must be nothing.
//!
//! ```text
//! cargo run --release --example chaos -- --minutes 10 --seed 7 --servers 3
//! ```
//!
//! It needs nats-server, as the integration tests do. Where a client is in the wrong is not here: clients follow the
//! specification, and count as its receivers do.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a program for developers")]
#![allow(clippy::print_stdout, reason = "it reports on stdout")]
#![allow(dead_code, reason = "not everything of the harness is used here")]

#[path = "chaos/checker.rs"]
mod checker;
#[path = "chaos/harness.rs"]
mod harness;
#[path = "chaos/killer.rs"]
mod killer;
#[path = "chaos/mortal.rs"]
mod mortal;
#[path = "chaos/publisher.rs"]
mod publisher;
#[path = "chaos/random.rs"]
mod random;
#[path = "chaos/subscriber.rs"]
mod subscriber;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use tokio::sync::watch;

use checker::Checker;
use killer::Processes;
use random::Random;

/// Set for the copies of this program that are sidecars.
const SIDECAR: &str = "CHAOS_SIDECAR";

/// How long everything may take to calm down when nothing is killed any more.
const CALM: Duration = Duration::from_secs(120);

/// How long wills may take: a lease has to end first.
const WILLS: Duration = Duration::from_secs(60);

#[derive(Clone, Debug, Parser)]
struct Args {
    /// How long processes are killed, minutes.
    #[arg(long, default_value_t = 10.0)]
    minutes: f64,
    /// Seed of everything that is random here; when is decided by the machine.
    #[arg(long)]
    seed: Option<u64>,
    /// nats-servers: one, or a cluster of three.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=5))]
    servers: u8,
    /// Publishers of each QoS.
    #[arg(long, default_value_t = 3)]
    publishers: usize,
    /// Subscribers of each QoS.
    #[arg(long, default_value_t = 2)]
    subscribers: usize,
    /// Clients with wills at a time.
    #[arg(long, default_value_t = 6)]
    mortals: usize,
    /// Messages a second of each publisher, at most.
    #[arg(long, default_value_t = 100)]
    rate: u32,
    /// What is killed: any of `a` (sidecar), `b` (sidecar), `n` (nats-server).
    #[arg(long, default_value = "abn")]
    kill: String,
}

/// What everybody needs to know.
#[derive(Clone)]
struct Stage {
    ports: [u16; 2],
    checker: Arc<Checker>,
    /// Nothing new is begun.
    closing: watch::Receiver<bool>,
    /// Subscribers may go: all has come that is to come.
    over: watch::Receiver<bool>,
}

fn main() -> ExitCode {
    if std::env::var_os(SIDECAR).is_some() {
        return nats_mqtt::cli::main();
    }
    let args = Args::parse();
    tokio::runtime::Runtime::new().expect("a runtime").block_on(run(args))
}

async fn run(args: Args) -> ExitCode {
    let seed = args.seed.unwrap_or_else(rand::random);
    println!("seed {seed}: {args:?}");
    let mut random = Random::new(seed);
    let mut processes = Processes::start(usize::from(args.servers)).await;
    let (close, closing) = watch::channel(false);
    let (end, over) = watch::channel(false);
    let checker = Arc::new(Checker::new(args.publishers));
    let stage = Stage { ports: processes.ports(), checker: Arc::clone(&checker), closing, over };

    let mut subscribers = Vec::new();
    for n in 0..2 * args.subscribers {
        let subscriber = subscriber::Subscriber::start(n, 1 + (n % 2) as u8, random.fork(), stage.clone()).await;
        subscribers.push(tokio::spawn(subscriber.run()));
    }
    let mut others = Vec::new();
    for n in 0..2 * args.publishers {
        let publisher = publisher::Publisher::new(n, 1 + (n % 2) as u8, args.rate, random.fork(), stage.clone());
        others.push(tokio::spawn(publisher.run()));
    }
    for n in 0..args.mortals {
        others.push(tokio::spawn(mortal::live(n, random.fork(), stage.clone())));
    }

    processes.kill_for(Duration::from_secs_f64(args.minutes * 60.0), &args.kill, &mut random, &checker).await;
    println!("nothing is killed any more; {}", processes.counts());
    close.send_replace(true);
    let mut has_failed = false;
    for task in others {
        has_failed |= !matches!(tokio::time::timeout(CALM, task).await, Ok(Ok(())));
    }
    if has_failed {
        println!("FAILED: a publisher or a client with a will does not come to its end");
    }
    checker.wait_for_messages(CALM).await;
    let logged = checker.wait_for_wills(&processes, WILLS).await;
    end.send_replace(true);
    for task in subscribers {
        has_failed |= !matches!(tokio::time::timeout(CALM, task).await, Ok(Ok(())));
    }
    let is_right = checker.report(&logged);
    println!("seed {seed}: {}", if is_right && !has_failed { "all is well" } else { "FAILED" });
    if !is_right || has_failed {
        processes.keep_logs();
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
