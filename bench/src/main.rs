//! Measures nats-mqtt beside nats-server's own MQTT listener and mosquitto, on this machine, and prints one table.
//!
//! ```text
//! make bench
//! make bench ARGS="--rows qos1-1:1,memory-* --rounds 5"
//! make bench ARGS="--beside ../before/nats-mqtt --systems nats-mqtt,beside"
//! target/release/mqtt-bench tenants --accounts 1000 --busy 50 --rounds 2
//! ```
//!
//! Systems are measured in turn, row by row: a moment at which the machine has something else to do hits all of them, and the ratio
//! of two measurements that followed each other says more than each of them. Every measurement has servers of its own, on free ports,
//! with their data in a directory that goes with them.
//!
//! # Layout
//! - `rows`: what there is to measure; `load`, `connects`, `memory`, `wake`: how
//! - `tenants`: what many accounts cost one sidecar, which is compared with nobody
//! - `wire`, `client`, `crowd`: MQTT clients; they share nothing with the code that they measure
//! - `system`, `process`: servers that are started, and what /proc says of them; `operator`: JWTs for those that let in by them; `encryption`: TLS
//! - `compare`, `results`, `table`, `machine`: all of it in turn, and what is told at the end

mod client;
mod compare;
mod connects;
mod crowd;
mod encryption;
mod histogram;
mod load;
mod machine;
mod measured;
mod memory;
mod operator;
mod process;
mod results;
mod rows;
mod system;
mod table;
mod tenants;
mod wake;
mod wire;

use std::fs::File;
use std::io::{self, Write};
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

use client::Endpoint;
use compare::Plan;
use load::Effort;
use results::Results;
use system::{Programs, Servers, System, Target};
use tenants::Tenants;
use wire::Version;

/// Measures nats-mqtt beside nats-server's own MQTT listener and mosquitto.
#[derive(Debug, Parser)]
#[command(name = "mqtt-bench")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start each system in turn, measure it, and print a table in Markdown.
    Compare(Compare),
    /// Measure a broker that runs already; nothing is started.
    Against(Against),
    /// Measure what many accounts cost one nats-mqtt: memory, files, and CPU while they are idle, busy, and closed again.
    Tenants(Tenants),
    /// List the rows, and what each of them is.
    Rows,
}

/// What and how to measure.
#[derive(Debug, Args)]
struct What {
    /// Only these rows; `*` stands for any part of a name.
    #[arg(long, value_delimiter = ',')]
    rows: Vec<String>,
    /// For how long each load counts, after a second of warming up.
    #[arg(long, default_value_t = 4.0)]
    seconds: f64,
    /// Bytes of each message.
    #[arg(long, default_value_t = 128)]
    payload: usize,
    /// The version that clients speak.
    #[arg(long, default_value = "3.1.1")]
    mqtt: Version,
}

impl What {
    fn effort(&self) -> Effort {
        Effort { seconds: self.seconds, payload: self.payload }
    }
}

#[derive(Debug, Args)]
struct Compare {
    #[command(flatten)]
    what: What,
    /// How often each system is measured in each row.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// The systems, of which the first one is judged by the others; all that there are, when none is named.
    #[arg(long, value_delimiter = ',')]
    systems: Vec<System>,
    #[command(flatten)]
    servers: Servers,
    /// Another nats-mqtt, measured as the first one is: before and after a change.
    #[arg(long, value_name = "FILE")]
    beside: Option<PathBuf>,
    /// mosquitto; the one on the PATH, when none is named.
    #[arg(long, value_name = "FILE")]
    mosquitto: Option<PathBuf>,
    /// Write each measurement into this file, as a line of JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct Against {
    /// HOST:PORT of the broker.
    address: String,
    #[command(flatten)]
    what: What,
    /// Processes of the broker on this machine: whose CPU and memory count.
    #[arg(long, value_name = "PID", value_delimiter = ',')]
    pid: Vec<u32>,
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Compare(compare) => runtime().and_then(|runtime| runtime.block_on(compare.run())),
        Command::Against(against) => runtime().and_then(|runtime| runtime.block_on(against.run())),
        Command::Tenants(tenants) => runtime().and_then(|runtime| runtime.block_on(measure_tenants(&tenants))),
        Command::Rows => list_rows(),
    };
    result.unwrap_or_else(|why| {
        eprintln!("bench: {why}");
        ExitCode::FAILURE
    })
}

fn runtime() -> Result<tokio::runtime::Runtime, String> {
    raise_file_limit();
    tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(|e| e.to_string())
}

/// Thousands of connections need a file each, here and in the servers, which inherit the limit.
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}

fn print(text: &str) -> Result<(), String> {
    io::stdout().write_all(text.as_bytes()).map_err(|e| e.to_string())
}

fn list_rows() -> Result<ExitCode, String> {
    let rows = rows::all();
    let width = rows.iter().map(|row| row.name.len()).max().unwrap_or(0);
    rows.iter().try_for_each(|row| print(&format!("{:width$}  {}\n", row.name, row.what)))?;
    Ok(ExitCode::SUCCESS)
}

impl Compare {
    async fn run(self) -> Result<ExitCode, String> {
        let programs = self.programs()?;
        let systems = self.systems(&programs);
        let machine = format!(
            "{}. {}. {} × {} s for each row and system, messages of {} bytes, MQTT {}.",
            machine::machine(),
            machine::versions(&systems, &programs),
            self.rounds,
            self.what.seconds,
            self.what.payload,
            self.what.mqtt
        );
        let json = self.json.as_ref().map(|path| File::create(path).map_err(|e| format!("{}: {e}", path.display())));
        let mut plan = Plan {
            rows: rows::named(&self.what.rows)?,
            rounds: self.rounds,
            systems: systems.clone(),
            programs,
            version: self.what.mqtt,
            effort: self.what.effort(),
            dir: self.servers.dir(),
            json: json.transpose()?,
        };
        eprintln!("bench: {machine}");
        let mut results = Results::default();
        // What is dropped here kills what it has started.
        let ended = tokio::select! {
            result = plan.run(&mut results) => result.map(|()| ExitCode::SUCCESS),
            code = asked_to_end() => code,
        };
        print(&table::markdown(&results, &systems, &machine))?;
        ended
    }

    fn programs(&self) -> Result<Programs, String> {
        let mosquitto = self.mosquitto.clone().or_else(|| system::on_path("mosquitto"));
        self.servers.programs(self.beside.clone(), mosquitto)
    }

    fn systems(&self, programs: &Programs) -> Vec<System> {
        if !self.systems.is_empty() {
            return self.systems.clone();
        }
        let is_there = |system: &System| match system {
            System::NatsMqtt | System::NatsServer => true,
            // Only by its name: it is about connecting.
            System::NatsMqttJwt => false,
            // Only by their names: they are about TLS.
            System::NatsMqttTls | System::NatsMqttTlsFull | System::MosquittoTls | System::MosquittoTlsFull => false,
            System::Beside => programs.beside.is_some(),
            System::Mosquitto => programs.mosquitto.is_some(),
        };
        System::ALL.into_iter().filter(is_there).collect()
    }
}

/// Prints what there is to tell, also when somebody does not want to wait for the rest.
async fn measure_tenants(tenants: &Tenants) -> Result<ExitCode, String> {
    let mut results = tenants::Results::default();
    let ended = tokio::select! {
        result = tenants.run(&mut results) => result.map(|()| ExitCode::SUCCESS),
        code = asked_to_end() => code,
    };
    print(&results.markdown())?;
    ended
}

/// Ends with the exit code when somebody does not want to wait any longer.
async fn asked_to_end() -> Result<ExitCode, String> {
    let listen = |kind| signal(kind).map_err(|e| e.to_string());
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut terminate = listen(SignalKind::terminate())?;
    let mut hangup = listen(SignalKind::hangup())?;
    tokio::select! {
        _ = interrupt.recv() => Ok(ExitCode::from(130)),
        _ = terminate.recv() => Ok(ExitCode::from(143)),
        _ = hangup.recv() => Ok(ExitCode::from(129)),
    }
}

impl Against {
    async fn run(self) -> Result<ExitCode, String> {
        let endpoint =
            Endpoint { address: resolved(&self.address)?, version: self.what.mqtt, operator: None, encryption: None };
        if let Some(pid) = self.pid.iter().find(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            return Err(format!("there is no process {pid}"));
        }
        let target = Target { endpoint, processes: self.pid };
        for row in rows::named(&self.what.rows)? {
            let outcome = row.measure(&target, self.what.effort()).await;
            print(&format!("{}: {}\n", row.name, compare::in_words(&outcome)))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn resolved(address: &str) -> Result<SocketAddr, String> {
    let mut addresses = address.to_socket_addrs().map_err(|e| format!("{address}: {e}"))?;
    addresses.next().ok_or_else(|| format!("{address} has no address"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_as_documented() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
        let cli = Cli::parse_from([
            "mqtt-bench",
            "compare",
            "--rows",
            "qos1-1:1,wake",
            "--mqtt",
            "5",
            "--systems",
            "nats-mqtt,beside",
        ]);
        let Command::Compare(compare) = cli.command else { panic!("{cli:?}") };
        assert_eq!((compare.what.rows.len(), compare.what.mqtt), (2, Version::V5));
        assert_eq!(compare.systems, [System::NatsMqtt, System::Beside]);
    }
}
