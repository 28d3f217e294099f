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
//! - `attack`: what the storm is made of, in a process of its own; `devices`: those who behave

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

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use clap::{Parser, ValueEnum};

use devices::{Devices, Fared};
use harness::{Process, free_port, nats_server_program};

/// Set for the copies of this program that are something else: the sidecar, or the storm.
const ROLE: &str = "STORM_ROLE";

/// How long something may take to start.
const READY: Duration = Duration::from_secs(60);

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

/// The server and the sidecar.
struct World {
    dir: PathBuf,
    sidecar: Process,
    _server: Process,
    mqtt: u16,
    tls: u16,
}

impl World {
    async fn start(args: &Args) -> Self {
        let dir = std::env::temp_dir().join(format!("nats-mqtt-storm-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a directory");
        let [nats, mqtt, tls] = [(); 3].map(|()| free_port());
        let text = format!("listen: \"127.0.0.1:{nats}\"\njetstream {{ store_dir: data }}\n");
        std::fs::write(dir.join("nats.conf"), text).expect("write the configuration");
        let mut command = Command::new(nats_server_program());
        command.current_dir(&dir).args(["-c", "nats.conf"]);
        let server = Process::spawn("nats-server", &mut command, &dir.join("nats.log"));
        until("nats-server", || server.log().contains("Server is ready")).await;
        let config = configuration(&dir, (mqtt, tls));
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        command.env(ROLE, "sidecar").args(["--nats", &format!("nats://127.0.0.1:{nats}"), "--admin", ""]);
        command.arg("-c").arg(config).args(["--log-level", &args.sidecar_log]);
        let sidecar = Process::spawn("sidecar", &mut command, &dir.join("sidecar.log"));
        until("the sidecar", || sidecar.log().contains("ready")).await;
        Self { dir, sidecar, _server: server, mqtt, tls }
    }

    /// Resident memory of the sidecar.
    fn memory_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.sidecar.pid())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        line.and_then(|text| text.split_whitespace().next()?.parse().ok()).unwrap_or(0)
    }

    fn lines(&self) -> usize {
        self.sidecar.log().lines().count()
    }
}

/// Users with passwords, and a listener with TLS beside one without.
fn configuration(dir: &Path, (mqtt, tls): (u16, u16)) -> PathBuf {
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
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    let command = command.env(ROLE, "sidecar").arg("passwd").stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().expect("this program");
    child.stdin.take().expect("a pipe").write_all(format!("{PASSWORD}\n").as_bytes()).expect("write a password");
    let output = child.wait_with_output().expect("a hash");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

async fn until(what: &str, is_so: impl Fn() -> bool) {
    let since = std::time::Instant::now();
    while !is_so() {
        assert!(since.elapsed() < READY, "{what} does not start");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn main() -> ExitCode {
    match std::env::var(ROLE).as_deref() {
        Ok("sidecar") => nats_mqtt::cli::main(),
        Ok(storm) => {
            attack::main(storm);
            ExitCode::SUCCESS
        }
        Err(_) => tokio::runtime::Runtime::new().expect("a runtime").block_on(run(&Args::parse())),
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
            let world = World::start(args).await;
            let is_well = storm(&world, from, args).await;
            if is_well {
                let _ = std::fs::remove_dir_all(&world.dir);
            } else {
                println!("logs are in {}", world.dir.display());
            }
            is_right &= is_well;
        }
    }
    println!("{}", if is_right { "nobody suffered" } else { "FAILED" });
    if is_right { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// One storm, and whether everybody and everything is well behind it.
async fn storm(world: &World, from: From, args: &Args) -> bool {
    let devices = Devices::come(world.mqtt, args.devices).await;
    let (memory, lines) = (world.memory_kib(), world.lines());
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    let role = format!("{from:?} {} {} {}", world.mqtt, world.tls, args.seconds);
    let mut attack = Process::spawn("storm", command.env(ROLE, role), &world.dir.join("storm.log"));
    attack.ended().await;
    let grown = world.lines() - lines;
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
