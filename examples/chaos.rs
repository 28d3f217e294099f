//! Chaos: clients that do what clients do, while everything behind them is killed, stopped, cut off and deposed, all at
//! once; and a witness who says at the end what was lost, repeated, out of order or wrong. All of that must be nothing.
//!
//! ```text
//! cargo run --release --example chaos -- --minutes 10 --seed 7 --servers 3 --sidecars 2 --wildcard
//! cargo run --release --example chaos -- --help
//! ```
//!
//! It needs nats-server, as the integration tests do, and starts all processes itself, on free ports; they end with it. The
//! seed decides which disasters come, in which order, with which pauses and lengths, and what clients choose; when exactly is
//! decided by the machine. One line a minute tells that it goes on. The exit code is 1 when anything was wrong, and there is
//! a directory then with the logs of all processes, the disasters with their times, and what every client did and saw.
//!
//! # Layout
//! - `args`: the command line; `random`: numbers from a seed
//! - `world`: nats-servers, sidecars, and relays on all ways between them
//! - `disasters`: what can happen, and plans of it; `lanes`: who makes it happen
//! - `stage`: how clients connect and leave; `publisher`, `subscriber`, `mover` (retained), `mortal` (wills), `wildcard`: what
//!   they do; `outbox`: what is not acknowledged yet
//! - `reader`, `nats`: what is retained and stored
//! - `witness`: what is right, decided in pure code; `trace`: what each client did; `verdict`: the table
//!
//! # What is deliberately absent
//! Clients that are in the wrong. They follow the specification, and count as its receivers do.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a program for developers")]
#![allow(clippy::large_futures, reason = "there is one of each")]
#![allow(clippy::print_stdout, reason = "it reports on stdout")]
#![allow(dead_code, reason = "not everything of the harness is used here")]

#[path = "chaos/args.rs"]
mod args;
#[path = "chaos/disasters.rs"]
mod disasters;
#[path = "chaos/harness.rs"]
mod harness;
#[path = "chaos/lanes.rs"]
mod lanes;
#[path = "chaos/mortal.rs"]
mod mortal;
#[path = "chaos/mover.rs"]
mod mover;
#[path = "chaos/nats.rs"]
mod nats;
#[path = "chaos/outbox.rs"]
mod outbox;
#[path = "chaos/publisher.rs"]
mod publisher;
#[path = "chaos/random.rs"]
mod random;
#[path = "chaos/reader.rs"]
mod reader;
#[path = "chaos/stage.rs"]
mod stage;
#[path = "chaos/subscriber.rs"]
mod subscriber;
#[path = "chaos/trace.rs"]
mod trace;
#[path = "chaos/verdict.rs"]
mod verdict;
#[path = "chaos/wildcard.rs"]
mod wildcard;
#[path = "chaos/witness/mod.rs"]
mod witness;
#[path = "chaos/world.rs"]
mod world;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use args::Args;
use nats::Nats;
use random::Random;
use stage::Stage;
use witness::{Witness, Wrong};
use world::World;

/// Set for the copies of this program that are sidecars.
const SIDECAR: &str = "CHAOS_SIDECAR";

/// How long everything may take to calm down when nothing happens any more.
const CALM: Duration = Duration::from_secs(150);

/// How often it tells that it goes on.
const PROGRESS: Duration = Duration::from_secs(60);

/// Readers at a time that look at what is retained while disasters happen.
const READERS: usize = 6;

fn main() -> ExitCode {
    if std::env::var_os(SIDECAR).is_some() {
        return nats_mqtt::cli::main();
    }
    let args = Args::parse();
    tokio::runtime::Runtime::new().expect("a runtime").block_on(async {
        tokio::select! {
            code = run(args) => code,
            () = interrupted() => {
                println!("interrupted: all processes end");
                ExitCode::FAILURE
            }
        }
    })
}

async fn interrupted() {
    use tokio::signal::unix::{SignalKind, signal};
    let mut term = signal(SignalKind::terminate()).expect("SIGTERM");
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = term.recv() => {}
    }
}

/// The clients, by what they are waited for.
struct Clients {
    /// Come to their end when nothing new is begun.
    busy: Vec<JoinHandle<()>>,
    /// Go on until all has come.
    listening: Vec<JoinHandle<()>>,
}

async fn start_clients(args: &Args, random: &mut Random, stage: &Stage, nats: &Nats) -> Clients {
    let mut clients = Clients { busy: Vec::new(), listening: Vec::new() };
    let qos = |n: usize| 1 + (n % 2) as u8;
    let mut subscribers = Vec::new();
    for n in 0..2 * args.subscribers {
        subscribers.push(subscriber::Subscriber::start(n, qos(n), random.fork(), stage.clone()).await);
    }
    clients.listening.extend(subscribers.into_iter().map(|subscriber| tokio::spawn(subscriber.run())));
    for n in 0..2 * args.publishers {
        let publisher = publisher::Publisher::new(n, qos(n), args.rate, random.fork(), stage.clone());
        clients.busy.push(tokio::spawn(publisher.run()));
    }
    for n in 0..args.mortals {
        clients.busy.push(tokio::spawn(mortal::live(n, random.fork(), stage.clone())));
    }
    let readers = Arc::new(Semaphore::new(READERS));
    for n in 0..args.movers {
        let mover = mover::Mover::new(n, random.fork(), stage.clone(), nats.clone(), Arc::clone(&readers));
        clients.busy.push(tokio::spawn(mover.run()));
    }
    let wildcard = random.fork();
    if args.wildcard {
        clients.listening.push(tokio::spawn(wildcard::stand_beside(wildcard, stage.clone())));
    }
    clients
}

/// Waits for clients to come to their end.
async fn end(clients: Vec<JoinHandle<()>>, witness: &Witness) {
    let until = Instant::now() + CALM;
    for client in clients {
        match tokio::time::timeout_at(until, client).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => witness.wrong(Wrong::Stuck, format!("a client failed: {error}"), &[]),
            Err(_) => witness.wrong(Wrong::Stuck, "a client does not come to its end".to_owned(), &[]),
        }
    }
}

/// Tells once a minute that it goes on.
async fn tell(witness: &Witness) {
    let since = Instant::now();
    loop {
        tokio::time::sleep(PROGRESS).await;
        println!("{:4} s: {}", since.elapsed().as_secs(), verdict::progress(witness));
    }
}

async fn run(args: Args) -> ExitCode {
    let seed = args.seed.unwrap_or_else(rand::random);
    println!("seed {seed}: {args:?}");
    let named = || std::env::temp_dir().join(format!("nats-mqtt-chaos-{}", std::process::id()));
    let dir = std::path::absolute(args.dir.clone().unwrap_or_else(named)).expect("a path");
    std::fs::create_dir_all(&dir).expect("a directory");
    let mut random = Random::new(seed);
    let mut plans = random.fork();
    let mut world = World::start(&args, &dir).await;
    let nats = Nats::connect(&world.urls).await;
    let (close, closing) = watch::channel(false);
    let (finish, over) = watch::channel(false);
    let witness = Arc::new(Witness::new(dir.clone()));
    let disasters = args.disasters();
    let stage = Stage {
        ports: world.ports().into(),
        witness: Arc::clone(&witness),
        disasters: disasters.clone().into(),
        closing,
        over,
    };
    let clients = start_clients(&args, &mut random, &stage, &nats).await;

    let until = Instant::now() + Duration::from_secs_f64(args.minutes * 60.0);
    tokio::select! {
        () = lanes::rage(&mut world, &disasters, args.pace, &mut plans, until, &witness, &nats) => {}
        () = tell(&witness) => {}
    }
    println!("nothing happens any more: {}", verdict::progress(&witness));
    close.send_replace(true);
    end(clients.busy, &witness).await;
    verdict::messages(&witness).await;
    let logged = verdict::wills(&witness, &world, &nats).await;
    verdict::wills_delivered(&witness, &logged, 2 * args.subscribers).await;
    let retained = verdict::retained(&stage, &nats).await;
    finish.send_replace(true);
    end(clients.listening, &witness).await;
    let is_right = verdict::table(&witness, &logged, retained);
    println!("seed {seed}: {}", if is_right { "all is well" } else { "FAILED" });
    world.end();
    if is_right {
        // What cannot be removed stays.
        let _ = std::fs::remove_dir_all(&dir);
        return ExitCode::SUCCESS;
    }
    verdict::keep(&witness);
    ExitCode::FAILURE
}
