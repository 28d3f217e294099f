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
//! - `device`: what says anything to a server; `attacks`: what it says; `neighbour`: who is beside it

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

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use clap::Parser;

use attacks::Attack;
use harness::{Process, free_port, nats_server_program};
use neighbour::{Fared, Neighbour};

/// Set for the copy of this program that is the sidecar.
const SIDECAR: &str = "HOSTILE_SIDECAR";

/// How long something may take to start.
const READY: Duration = Duration::from_secs(60);

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

/// The server and the sidecar.
struct World {
    dir: PathBuf,
    sidecar: Process,
    _server: Process,
    mqtt: u16,
    ws: u16,
    admin: u16,
}

impl World {
    async fn start(args: &Args) -> Self {
        let dir = std::env::temp_dir().join(format!("nats-mqtt-hostile-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a directory");
        let [nats, mqtt, ws, admin] = [(); 4].map(|()| free_port());
        let text = format!(
            "listen: \"127.0.0.1:{nats}\"\nmax_payload: 8MB\n\
             jetstream {{ store_dir: data, max_file_store: 64GB, max_memory_store: 1GB }}\n"
        );
        std::fs::write(dir.join("nats.conf"), text).expect("write the configuration");
        let mut command = Command::new(nats_server_program());
        command.current_dir(&dir).args(["-c", "nats.conf"]);
        let server = Process::spawn("nats-server", &mut command, &dir.join("nats.log"));
        until("nats-server", || server.log().contains("Server is ready")).await;
        let address = |port: u16| format!("127.0.0.1:{port}");
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        command.env(SIDECAR, "1").args(["--nats", &format!("nats://127.0.0.1:{nats}")]);
        command.args(["--listen", &address(mqtt), "--listen-ws", &address(ws), "--admin", &address(admin)]);
        command.args(["--log-level", &args.sidecar_log]);
        if let Some(memory) = args.memory_mib {
            command.env("NATS_MQTT__OVERLOAD__MEMORY", format!("{memory}MiB"));
        }
        let sidecar = Process::spawn("sidecar", &mut command, &dir.join("sidecar.log"));
        until("the sidecar", || sidecar.log().contains("ready")).await;
        Self { dir, sidecar, _server: server, mqtt, ws, admin }
    }

    /// Resident memory of the sidecar.
    fn memory_kib(&self) -> u64 {
        self.status("VmRSS:")
    }

    /// The most that it has had.
    fn most_memory_kib(&self) -> u64 {
        self.status("VmHWM:")
    }

    fn status(&self, name: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.sidecar.pid())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|text| text.split_whitespace().next()?.parse().ok()).unwrap_or(0)
    }

    fn log_kib(&self) -> u64 {
        std::fs::metadata(self.dir.join("sidecar.log")).map_or(0, |file| file.len() / 1024)
    }
}

async fn until(what: &str, is_so: impl Fn() -> bool) {
    let since = std::time::Instant::now();
    while !is_so() {
        assert!(since.elapsed() < READY, "{what} does not start");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn main() -> ExitCode {
    if std::env::var_os(SIDECAR).is_some() {
        return nats_mqtt::cli::main();
    }
    let args = Args::parse();
    tokio::runtime::Runtime::new().expect("a runtime").block_on(run(&args))
}

async fn run(args: &Args) -> ExitCode {
    let world = World::start(args).await;
    let calm = beside(&world, None, args).await;
    let (before, mut is_right) = (world.memory_kib(), true);
    println!(
        "{:<18} {:>8} {:>8} {:>8} {:>8} {:>6} {:>6} {:>9} {:>8}",
        "", "pings", "p50", "p99", "connect", "sent", "lost", "memory", "log"
    );
    report("nothing", &calm, 0, 0);
    let chosen = Attack::all().filter(|attack| args.only.is_empty() || args.only.contains(attack));
    for attack in chosen {
        let log = world.log_kib();
        let fared = beside(&world, Some(attack), args).await;
        let grown = world.memory_kib().saturating_sub(before);
        report(&attack.name(), &fared, grown, world.log_kib().saturating_sub(log));
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
    if is_right {
        remove(&world.dir);
        return ExitCode::SUCCESS;
    }
    println!("logs are in {}", world.dir.display());
    ExitCode::FAILURE
}

/// How the neighbour fares while an attack goes on.
async fn beside(world: &World, attack: Option<Attack>, args: &Args) -> Fared {
    let neighbour = Neighbour::move_in(world.mqtt).await;
    let within = Duration::from_secs(args.seconds);
    match attack {
        Some(attack) => {
            // What an attack cannot do any more, because it was shut out, is over for it; what it has left behind is not.
            let _ = tokio::time::timeout(within, attack.carry_out(world.mqtt, world.ws)).await;
            tokio::time::sleep(AFTERWARDS).await;
        }
        None => tokio::time::sleep(within / 2).await,
    }
    neighbour.move_out().await
}

fn report(name: &str, fared: &Fared, grown_kib: u64, log_kib: u64) {
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

fn remove(dir: &Path) {
    // What cannot be removed stays.
    let _ = std::fs::remove_dir_all(dir);
}
