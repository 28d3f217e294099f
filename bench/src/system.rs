//! The systems that are compared, and how each is started: anew for every measurement, so that none depends on an earlier one.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::ValueEnum;

use crate::client::Endpoint;
use crate::operator::Operator;
use crate::process::{Program, Scratch};
use crate::wire::Version;

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum System {
    /// nats-mqtt beside a nats-server: what is judged.
    NatsMqtt,
    /// The same that lets in by JWTs of nats-server's operator, each device by its own.
    NatsMqttJwt,
    /// Another build of nats-mqtt, also beside a nats-server.
    Beside,
    /// nats-server's own MQTT listener.
    NatsServer,
    /// mosquitto.
    Mosquitto,
}

impl System {
    pub(crate) const ALL: [Self; 5] =
        [Self::NatsMqtt, Self::NatsMqttJwt, Self::Beside, Self::NatsServer, Self::Mosquitto];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::NatsMqtt => "nats-mqtt",
            Self::NatsMqttJwt => "nats-mqtt-jwt",
            Self::Beside => "beside",
            Self::NatsServer => "nats-server",
            Self::Mosquitto => "mosquitto",
        }
    }
}

impl fmt::Display for System {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Where the programs are.
#[derive(Clone, Debug)]
pub(crate) struct Programs {
    pub(crate) nats_mqtt: PathBuf,
    pub(crate) beside: Option<PathBuf>,
    pub(crate) nats_server: PathBuf,
    pub(crate) mosquitto: Option<PathBuf>,
}

/// A broker that can be measured: where it is, and which processes it consists of.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) endpoint: Endpoint,
    pub(crate) processes: Vec<u32>,
}

/// A system that runs, until this is dropped.
#[derive(Debug)]
pub(crate) struct Running {
    /// In the order in which they are stopped.
    programs: Vec<Program>,
    address: SocketAddr,
    operator: Option<&'static Operator>,
    _scratch: Scratch,
}

impl Running {
    /// Starts a system with its data in a new directory of `dir`, and waits until it serves.
    pub(crate) async fn start(system: System, programs: &Programs, dir: &Path) -> Result<Self, String> {
        let scratch = Scratch::new(dir)?;
        let address = free_address()?;
        // Endpoints are copied into every client, and there are as many operators as measurements.
        let operator = match system {
            System::NatsMqttJwt => Some(&*Box::leak(Box::new(Operator::new()?))),
            _ => None,
        };
        let started = match system {
            System::NatsMqtt | System::NatsMqttJwt => {
                sidecar(&programs.nats_mqtt, programs, address, operator, &scratch).await?
            }
            System::Beside => {
                let program = programs.beside.as_ref().ok_or("no other nats-mqtt was named with --beside")?;
                sidecar(program, programs, address, None, &scratch).await?
            }
            System::NatsServer => {
                let mqtt = format!("mqtt {{ listen: \"{address}\" }}\n");
                vec![nats_server(programs, free_address()?, &mqtt, &scratch).await?]
            }
            System::Mosquitto => vec![mosquitto(programs, address, &scratch)?],
        };
        let mut running = Self { programs: started, address, operator, _scratch: scratch };
        let endpoint = running.target(Version::V3).endpoint;
        if let Some(program) = running.programs.first_mut() {
            program.serves(endpoint).await?;
        }
        Ok(running)
    }

    pub(crate) fn target(&self, version: Version) -> Target {
        let processes = self.programs.iter().map(Program::id).collect();
        Target { endpoint: Endpoint { address: self.address, version, operator: self.operator }, processes }
    }

    /// What the broker said, when it is one that says nothing as long as all is well.
    pub(crate) fn complaints(&self, system: System) -> Option<String> {
        let says = match system {
            System::NatsMqtt | System::NatsMqttJwt | System::Beside => self.programs.first()?.log_lines(),
            System::NatsServer | System::Mosquitto => return None,
        };
        (!says.is_empty()).then_some(says)
    }
}

/// nats-mqtt and the nats-server behind it, with their defaults.
async fn sidecar(
    program: &Path,
    programs: &Programs,
    address: SocketAddr,
    operator: Option<&Operator>,
    scratch: &Scratch,
) -> Result<Vec<Program>, String> {
    let nats = free_address()?;
    let files = operator.map(|operator| operator.write(scratch.path())).transpose()?;
    let accounts = files.as_ref().map(|files| &*files.accounts).unwrap_or_default();
    let server = nats_server(programs, nats, accounts, scratch).await?;
    let mut command = Command::new(program);
    if let Some(files) = files {
        let config = scratch.write("nats-mqtt.toml", &files.sidecar())?;
        command.arg("-c").arg(config).arg("--creds").arg(files.creds);
    }
    command.args(["--nats", &format!("nats://{nats}"), "--listen", &address.to_string()]);
    command.args(["--admin", "", "--log-level", "warn"]).env_remove("RUST_LOG");
    Ok(vec![Program::start("nats-mqtt", &mut command, scratch)?, server])
}

/// A nats-server with its defaults and JetStream in files.
async fn nats_server(
    programs: &Programs,
    address: SocketAddr,
    more: &str,
    scratch: &Scratch,
) -> Result<Program, String> {
    let store = scratch.path().join("jetstream");
    let config = format!(
        "server_name: bench\nlisten: \"{address}\"\njetstream {{ store_dir: \"{}\" }}\n{more}",
        store.display()
    );
    let config = scratch.write("nats.conf", &config)?;
    let mut command = Command::new(&programs.nats_server);
    let mut program = Program::start("nats-server", command.arg("-c").arg(config), scratch)?;
    program.listens(address).await?;
    Ok(program)
}

/// mosquitto with its defaults, but that it does not wait for more before it sends, drops nothing, and has as many messages in
/// flight as the publishers: with its own limit of 20 it would close their connections.
fn mosquitto(programs: &Programs, address: SocketAddr, scratch: &Scratch) -> Result<Program, String> {
    let program = programs.mosquitto.as_ref().ok_or("there is no mosquitto on the PATH")?;
    let config = format!(
        "listener {} {}\nallow_anonymous true\nset_tcp_nodelay true\nmax_queued_messages 0\nmax_inflight_messages 1000\nlog_type error\n",
        address.port(),
        address.ip()
    );
    let config = scratch.write("mosquitto.conf", &config)?;
    Program::start("mosquitto", Command::new(program).arg("-c").arg(config), scratch)
}

/// An address of this machine that nobody listens on now.
fn free_address() -> Result<SocketAddr, String> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(|e| e.to_string())?;
    listener.local_addr().map_err(|e| e.to_string())
}

/// A program of that name on the PATH, or where Debian keeps programs that only root has on it.
pub(crate) fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let more = [PathBuf::from("/usr/sbin"), PathBuf::from("/usr/local/sbin")];
    std::env::split_paths(&path).chain(more).map(|dir| dir.join(name)).find(|program| program.is_file())
}
