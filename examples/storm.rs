//! A storm at the front door beside five hundred devices that behave: how they fare while another process opens as many connections a
//! second as it can, with everything that costs a server something before it knows who comes.
//!
//! ```text
//! cargo run --release --example storm
//! cargo run --release --example storm -- --from one --seconds 20
//! ```
//!
//! It needs nats-server, as the integration tests do, and starts all processes itself, on free ports; they end with it. A storm comes
//! from addresses all over 127.0.0.0/8, and then one comes from a single address. It is made of garbage, half CONNECTs that stay, TLS
//! handshakes that stop in the middle or come byte by byte, wrong passwords, and one client id on a hundred connections. The devices
//! publish to themselves at QoS 1. The exit code is 1 when the 99th percentile of that was one second or more, when one of them was cut
//! off or lost a message, when the sidecar's memory stays more than a fifth and 16 MiB above what it was, or when its log has grown
//! by a thousand lines.
//!
//! # Layout
//! - `attack`: what the storm is made of, in a process of its own; `devices`: those who behave; `world`: the processes, as of `hostile`

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a program for developers")]
#![allow(clippy::large_futures, reason = "there is one of each")]
#![allow(clippy::print_stdout, reason = "it reports on stdout")]
#![allow(dead_code, reason = "not everything of the harness is used here")]

#[path = "storm/attack.rs"]
mod attack;
#[path = "storm/devices.rs"]
mod devices;
#[path = "chaos/harness.rs"]
mod harness;
#[path = "hostile/world.rs"]
mod world;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use clap::{Parser, ValueEnum};

use devices::{Devices, Fared};
use harness::{Process, free_port};
use world::{World, copy, is_sidecar, role};

/// How long the sidecar has to give back what the storm took: longer than anybody may take to connect.
const CALM: Duration = Duration::from_secs(30);

/// What devices may see.
const P99_MAX: Duration = Duration::from_secs(1);

/// By how many lines the log may grow.
const LINES_MAX: usize = 1_000;

/// What memory may keep over a fifth.
const KEPT_MAX_KIB: u64 = 16 * 1024;

/// The password of the devices that behave, and of the one whose client id is everywhere.
const PASSWORD: &str = "correct horse battery staple";

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum From {
    /// Addresses all over 127.0.0.0/8.
    Many,
    /// One address.
    One,
}

#[derive(Debug, Parser)]
struct Args {
    /// Only the storm from there.
    #[arg(long)]
    from: Option<From>,
    /// How long each one goes on.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Devices that behave.
    #[arg(long, default_value_t = 500)]
    devices: usize,
    /// Log level of the sidecar.
    #[arg(long, default_value = "info")]
    sidecar_log: String,
}

/// The ports of the sidecar.
#[derive(Clone, Copy)]
struct Ports {
    mqtt: u16,
    tls: u16,
}

async fn start(args: &Args) -> (World, Ports) {
    let [mqtt, tls] = [(); 2].map(|()| free_port());
    let ports = Ports { mqtt, tls };
    let world = World::start("storm", |command, dir| {
        command.args(["--admin", "", "--log-level", &args.sidecar_log]).arg("-c").arg(configuration(dir, ports));
    });
    (world.await, ports)
}

/// Users with passwords, and a listener with TLS beside one without.
fn configuration(dir: &Path, Ports { mqtt, tls }: Ports) -> PathBuf {
    let key = rcgen::KeyPair::generate().expect("a key");
    let certificate = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
    let certificate = certificate.self_signed(&key).expect("a certificate");
    let [cert_file, key_file] = ["server.pem", "server.key"].map(|name| dir.join(name));
    std::fs::write(&cert_file, certificate.pem()).expect("write the certificate");
    std::fs::write(&key_file, key.serialize_pem()).expect("write the key");
    let text = format!(
        "[auth]\nmode = \"file\"\n[[users]]\nname = \"device\"\npassword = {:?}\n\
         [listeners.tcp.plain]\nbind = \"127.0.0.1:{mqtt}\"\n[listeners.tcp.field]\nbind = \"127.0.0.1:{tls}\"\n\
         [listeners.tcp.field.tls]\ncert_file = {cert_file:?}\nkey_file = {key_file:?}\n",
        hash()
    );
    let path = dir.join("nats-mqtt.toml");
    std::fs::write(&path, text).expect("write the configuration");
    path
}

fn hash() -> String {
    let mut command = world::sidecar();
    let command = command.arg("passwd").stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().expect("this program");
    child.stdin.take().expect("a pipe").write_all(format!("{PASSWORD}\n").as_bytes()).expect("write a password");
    let output = child.wait_with_output().expect("a hash");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn main() -> ExitCode {
    match role() {
        Some(role) if is_sidecar(&role) => nats_mqtt::cli::main(),
        Some(storm) => {
            attack::main(&storm);
            ExitCode::SUCCESS
        }
        None => tokio::runtime::Runtime::new().expect("a runtime").block_on(run(&Args::parse())),
    }
}

async fn run(args: &Args) -> ExitCode {
    let mut is_right = true;
    println!(
        "{:<6} {:>9} {:>8} {:>8} {:>8} {:>5} {:>5} {:>8} {:>8} {:>6}",
        "from", "attempts", "sent", "p50", "p99", "lost", "cut", "before", "after", "lines"
    );
    for from in [From::Many, From::One] {
        if args.from.is_none_or(|only| only == from) {
            let (world, ports) = start(args).await;
            let is_well = storm((&world, ports), from, args).await;
            world.tidy(is_well);
            is_right &= is_well;
        }
    }
    println!("{}", if is_right { "nobody suffered" } else { "FAILED" });
    if is_right { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// One storm, and whether everybody and everything is well behind it.
async fn storm((world, ports): (&World, Ports), from: From, args: &Args) -> bool {
    let devices = Devices::come(ports.mqtt, args.devices).await;
    let lines = || world.log().lines().count();
    let (memory, before) = (world.memory_kib(), lines());
    let role = format!("{from:?} {} {} {}", ports.mqtt, ports.tls, args.seconds);
    let mut attack = Process::spawn("storm", &mut copy(&role), &world.dir.join("storm.log"));
    // What it takes beyond that is its end.
    tokio::time::sleep(Duration::from_secs(args.seconds)).await;
    attack.ended().await;
    let grown = lines() - before;
    tokio::time::sleep(CALM).await;
    let kept = world.memory_kib();
    let fared = devices.leave().await;
    let attempts = attack.log().trim().to_owned();
    report(from, &attempts, &fared, (memory, kept), grown);
    let has_memory = kept <= memory + memory / 5 + KEPT_MAX_KIB;
    fared.is_well(P99_MAX) && has_memory && grown < LINES_MAX
}

fn report(from: From, attempts: &str, fared: &Fared, (before, after): (u64, u64), lines: usize) {
    let ms = |duration: Duration| format!("{:.0} ms", duration.as_secs_f64() * 1_000.0);
    let name = format!("{from:?}").to_lowercase();
    let (p50, p99) = (ms(fared.percentile(50)), ms(fared.percentile(99)));
    let (before, after) = (before / 1024, after / 1024);
    let (sent, lost, cut) = (fared.round_trips.len(), fared.lost, fared.cut);
    println!(
        "{name:<6} {attempts:>9} {sent:>8} {p50:>8} {p99:>8} {lost:>5} {cut:>5} {before:>4} MiB {after:>4} MiB {lines:>6}"
    );
}
