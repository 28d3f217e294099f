//! A hostile device beside a well-behaved one: each attack is tried for some seconds, and the neighbour tells how it fared.
//!
//! ```text
//! cargo run --release --example hostile
//! cargo run --release --example hostile -- --only subscribe-flood,half-connects --seconds 20
//! ```
//!
//! It needs nats-server, as the integration tests do, and starts all processes itself, on free ports; they end with it. For
//! each attack there is a line: round trips of the neighbour's PINGREQ, how long a CONNECT took beside it, messages that were
//! acknowledged and did not come, and by how much the sidecar's memory has grown since before the first attack. The exit code
//! is 1 when anybody suffered: a 99th percentile of one second or more, a message that was lost or came twice at QoS 2, a connection of
//! the neighbour that was closed, or 64 MiB of growth in all; with `--memory-mib`, more memory than that at any time.
//!
//! # Layout
//! - `device`: what says anything to a server; `attacks`: what it says; `neighbour`: who is beside it; `world`: the processes

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a program for developers")]
#![allow(clippy::large_futures, reason = "there is one of each")]
#![allow(clippy::print_stdout, reason = "it reports on stdout")]
#![allow(dead_code, reason = "not everything of the harness is used here")]

#[path = "hostile/attacks.rs"]
mod attacks;
#[path = "hostile/device.rs"]
mod device;
#[path = "chaos/harness.rs"]
mod harness;
#[path = "hostile/neighbour.rs"]
mod neighbour;
#[path = "hostile/world.rs"]
mod world;

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

use attacks::Attack;
use harness::free_port;
use neighbour::{Fared, Neighbour};
use world::{World, role};

/// How long the neighbour stays when an attack is over.
const AFTERWARDS: Duration = Duration::from_secs(2);

/// What the neighbour may see.
const P99_MAX: Duration = Duration::from_secs(1);

/// By how much the sidecar may grow.
const GROWTH_MAX_KIB: u64 = 64 * 1024;

#[derive(Debug, Parser)]
struct Args {
    /// Only these attacks.
    #[arg(long, value_delimiter = ',')]
    only: Vec<Attack>,
    /// How long each one goes on at most.
    #[arg(long, default_value_t = 8)]
    seconds: u64,
    /// Memory that the sidecar may take, MiB (`overload.memory`). It fails when it takes more.
    #[arg(long)]
    memory_mib: Option<u64>,
    /// Log level of the sidecar.
    #[arg(long, default_value = "info")]
    sidecar_log: String,
}

/// The ports of the sidecar.
#[derive(Clone, Copy)]
struct Ports {
    mqtt: u16,
    ws: u16,
}

async fn start(args: &Args) -> (World, Ports) {
    let [mqtt, ws, admin] = [(); 3].map(|()| free_port());
    let world = World::start("hostile", |command, _| {
        let address = |port: u16| format!("127.0.0.1:{port}");
        command.args(["--listen", &address(mqtt), "--listen-ws", &address(ws), "--admin", &address(admin)]);
        command.args(["--log-level", &args.sidecar_log]);
        if let Some(memory) = args.memory_mib {
            command.env("NATS_MQTT__OVERLOAD__MEMORY", format!("{memory}MiB"));
        }
    });
    (world.await, Ports { mqtt, ws })
}

fn main() -> ExitCode {
    if role().is_some() {
        return nats_mqtt::cli::main();
    }
    let args = Args::parse();
    tokio::runtime::Runtime::new().expect("a runtime").block_on(run(&args))
}

async fn run(args: &Args) -> ExitCode {
    let (world, ports) = start(args).await;
    let calm = beside(ports, None, args).await;
    let (before, mut is_right) = (world.memory_kib(), true);
    println!(
        "{:<18} {:>8} {:>8} {:>8} {:>8} {:>6} {:>6} {:>9} {:>8}",
        "", "pings", "p50", "p99", "connect", "sent", "lost", "memory", "log"
    );
    report("nothing", &calm, 0, 0);
    let chosen = Attack::all().filter(|attack| args.only.is_empty() || args.only.contains(attack));
    for attack in chosen {
        let log = world.log().len();
        let fared = beside(ports, Some(attack), args).await;
        let grown = world.memory_kib().saturating_sub(before);
        report(&attack.name(), &fared, grown, world.log().len().saturating_sub(log) / 1024);
        is_right &= fared.is_well(P99_MAX);
    }
    let grown = world.memory_kib().saturating_sub(before);
    is_right &= grown < GROWTH_MAX_KIB;
    let most = world.most_memory_kib();
    is_right &= args.memory_mib.is_none_or(|memory| (1..memory * 1024).contains(&most));
    let (grown, most) = (grown / 1024, most / 1024);
    println!(
        "memory has grown by {grown} MiB, and was {most} MiB at most; {}",
        if is_right { "nobody suffered" } else { "FAILED" }
    );
    world.tidy(is_right);
    if is_right { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// How the neighbour fares while an attack goes on.
async fn beside(ports: Ports, attack: Option<Attack>, args: &Args) -> Fared {
    let neighbour = Neighbour::move_in(ports.mqtt).await;
    let within = Duration::from_secs(args.seconds);
    match attack {
        Some(attack) => {
            // What an attack cannot do any more, because it was shut out, is over for it; what it has left behind is not.
            let _ = tokio::time::timeout(within, attack.carry_out(ports.mqtt, ports.ws)).await;
            tokio::time::sleep(AFTERWARDS).await;
        }
        None => tokio::time::sleep(within / 2).await,
    }
    neighbour.move_out().await
}

fn report(name: &str, fared: &Fared, grown_kib: u64, log_kib: usize) {
    let ms = |duration: Duration| format!("{:.1} ms", duration.as_secs_f64() * 1_000.0);
    let (p50, p99, connect) = (fared.percentile(50), fared.percentile(99), fared.slowest_connect);
    let closed = if fared.was_closed { "  its connection was closed" } else { "" };
    println!(
        "{name:<18} {:>8} {:>8} {:>8} {:>8} {:>6} {:>6} {:>5} MiB {log_kib:>4} KiB{closed}",
        fared.pings.len(),
        ms(p50),
        ms(p99),
        ms(connect),
        fared.sent,
        fared.lost,
        grown_kib / 1024,
    );
}
