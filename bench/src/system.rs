//! The systems that are compared, and how each is started: anew for every measurement, so that none depends on an earlier one.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::{Args, ValueEnum};

use crate::client::Endpoint;
use crate::encryption::Encryption;
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
    /// nats-mqtt with TLS, whose clients resume the TLS of earlier connections.
    NatsMqttTls,
    /// The same, with a whole handshake for each connection.
    NatsMqttTlsFull,
    /// mosquitto with TLS, whose clients resume.
    MosquittoTls,
    /// The same, with a whole handshake for each connection.
    MosquittoTlsFull,
}

impl System {
    pub(crate) const ALL: [Self; 9] = [
        Self::NatsMqtt,
        Self::NatsMqttJwt,
        Self::Beside,
        Self::NatsServer,
        Self::Mosquitto,
        Self::NatsMqttTls,
        Self::NatsMqttTlsFull,
        Self::MosquittoTls,
        Self::MosquittoTlsFull,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::NatsMqtt => "nats-mqtt",
            Self::NatsMqttJwt => "nats-mqtt-jwt",
            Self::Beside => "beside",
            Self::NatsServer => "nats-server",
            Self::Mosquitto => "mosquitto",
            Self::NatsMqttTls => "nats-mqtt-tls",
            Self::NatsMqttTlsFull => "nats-mqtt-tls-full",
            Self::MosquittoTls => "mosquitto-tls",
            Self::MosquittoTlsFull => "mosquitto-tls-full",
        }
    }

    /// Whether clients resume the TLS of earlier connections, where there is TLS.
    fn resumes_tls(self) -> Option<bool> {
        match self {
            Self::NatsMqttTls | Self::MosquittoTls => Some(true),
            Self::NatsMqttTlsFull | Self::MosquittoTlsFull => Some(false),
            Self::NatsMqtt | Self::NatsMqttJwt | Self::Beside | Self::NatsServer | Self::Mosquitto => None,
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

/// The programs that are always there, and where they run.
#[derive(Debug, Args)]
pub(crate) struct Servers {
    /// The nats-mqtt to be judged; the one beside this program, when none is named.
    #[arg(long, value_name = "FILE")]
    nats_mqtt: Option<PathBuf>,
    /// nats-server, behind nats-mqtt and with its own MQTT listener.
    #[arg(long, value_name = "FILE", env = "NATS_SERVER", default_value = ".tools/bin/nats-server")]
    nats_server: PathBuf,
    /// Where servers keep their data while they run.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

impl Servers {
    /// They and what else is compared; or which of them is missing.
    pub(crate) fn programs(&self, beside: Option<PathBuf>, mosquitto: Option<PathBuf>) -> Result<Programs, String> {
        let beside_us = std::env::current_exe().map_err(|e| e.to_string())?.with_file_name("nats-mqtt");
        let programs = Programs {
            nats_mqtt: self.nats_mqtt.clone().unwrap_or(beside_us),
            beside,
            nats_server: self.nats_server.clone(),
            mosquitto,
        };
        let named = [Some(&programs.nats_mqtt), programs.beside.as_ref(), Some(&programs.nats_server)];
        if let Some(missing) = named.into_iter().flatten().find(|program| !program.is_file()) {
            return Err(format!("there is no {}: `make bench` builds and fetches what is needed", missing.display()));
        }
        Ok(programs)
    }

    /// The directory for their data.
    pub(crate) fn dir(&self) -> PathBuf {
        self.dir.clone().unwrap_or_else(std::env::temp_dir)
    }
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
    encryption: Option<&'static Encryption>,
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
        let encryption = match system.resumes_tls() {
            Some(resumes) => Some(&*Box::leak(Box::new(Encryption::new(resumes)?))),
            None => None,
        };
        let broker = Broker { programs, address, admin: None, operator, encryption, scratch: &scratch };
        let started = match system {
            System::NatsMqtt | System::NatsMqttJwt | System::NatsMqttTls | System::NatsMqttTlsFull => {
                broker.sidecar(&programs.nats_mqtt).await?
            }
            System::Beside => {
                let program = programs.beside.as_ref().ok_or("no other nats-mqtt was named with --beside")?;
                broker.sidecar(program).await?
            }
            System::NatsServer => {
                let mqtt = format!("mqtt {{ listen: \"{address}\" }}\n");
                vec![nats_server(programs, free_address()?, (&mqtt, ""), &scratch).await?]
            }
            System::Mosquitto | System::MosquittoTls | System::MosquittoTlsFull => vec![broker.mosquitto()?],
        };
        let mut running = Self { programs: started, address, operator, encryption, _scratch: scratch };
        let endpoint = running.target(Version::V3).endpoint;
        if let Some(program) = running.programs.first_mut() {
            program.serves(endpoint).await?;
        }
        Ok(running)
    }

    /// Starts a sidecar and a nats-server for all tenants of an operator, before any of them is open, and waits until the sidecar
    /// listens: for devices, and for who asks at `admin`.
    pub(crate) async fn start_for_tenants(
        programs: &Programs,
        dir: &Path,
        operator: &'static Operator,
        admin: SocketAddr,
    ) -> Result<Self, String> {
        let (scratch, address) = (Scratch::new(dir)?, free_address()?);
        let (operator, admin) = (Some(operator), Some(admin));
        let broker = Broker { programs, address, admin, operator, encryption: None, scratch: &scratch };
        let started = broker.sidecar(&programs.nats_mqtt).await?;
        let mut running = Self { programs: started, address, operator, encryption: None, _scratch: scratch };
        if let Some(sidecar) = running.programs.first_mut() {
            sidecar.listens(address).await?;
        }
        Ok(running)
    }

    pub(crate) fn target(&self, version: Version) -> Target {
        let processes = self.programs.iter().map(Program::id).collect();
        let Self { address, operator, encryption, .. } = *self;
        Target { endpoint: Endpoint { address, version, operator, encryption }, processes }
    }

    /// What the broker said, when it is one that says nothing as long as all is well.
    pub(crate) fn complaints(&self, system: System) -> Option<String> {
        let says = match system {
            System::NatsServer | System::Mosquitto | System::MosquittoTls | System::MosquittoTlsFull => return None,
            _ => self.programs.first()?.log_lines(),
        };
        (!says.is_empty()).then_some(says)
    }
}

/// How a broker is to be started.
struct Broker<'a> {
    programs: &'a Programs,
    address: SocketAddr,
    /// Where the sidecar tells its metrics, when somebody wants to know them.
    admin: Option<SocketAddr>,
    operator: Option<&'a Operator>,
    encryption: Option<&'a Encryption>,
    scratch: &'a Scratch,
}

impl Broker<'_> {
    /// nats-mqtt and the nats-server behind it, with their defaults.
    async fn sidecar(&self, program: &Path) -> Result<Vec<Program>, String> {
        let (nats, scratch) = (free_address()?, self.scratch);
        let files = self.operator.map(|operator| operator.write(scratch.path())).transpose()?;
        let more = files.as_ref().map(|files| (&*files.accounts, &*files.storage)).unwrap_or_default();
        let server = nats_server(self.programs, nats, more, scratch).await?;
        let mut command = Command::new(program);
        let mut config = format!("[listeners.tcp]\nbind = \"{}\"\n", self.address);
        if let Some(encryption) = self.encryption {
            let (certificate, key) = written(encryption, scratch)?;
            config += &format!("[listeners.tcp.tls]\ncert_file = {certificate:?}\nkey_file = {key:?}\n");
        }
        if let Some(files) = files {
            config += &files.sidecar();
            command.arg("--creds").arg(files.creds);
        }
        command.arg("-c").arg(scratch.write("nats-mqtt.toml", &config)?);
        let admin = self.admin.map(|admin| admin.to_string()).unwrap_or_default();
        command.args(["--nats", &format!("nats://{nats}"), "--admin", &admin, "--log-level", "warn"]);
        Ok(vec![Program::start("nats-mqtt", command.env_remove("RUST_LOG"), scratch)?, server])
    }

    /// mosquitto with its defaults, but that it does not wait for more before it sends, drops nothing, and has as many messages in
    /// flight as the publishers: with its own limit of 20 it would close their connections.
    fn mosquitto(&self) -> Result<Program, String> {
        let program = self.programs.mosquitto.as_ref().ok_or("there is no mosquitto on the PATH")?;
        let mut config = format!(
            "listener {} {}\nallow_anonymous true\nset_tcp_nodelay true\nmax_queued_messages 0\nmax_inflight_messages 1000\nlog_type error\n",
            self.address.port(),
            self.address.ip()
        );
        if let Some(encryption) = self.encryption {
            let (certificate, key) = written(encryption, self.scratch)?;
            config += &format!("certfile {}\nkeyfile {}\n", certificate.display(), key.display());
        }
        let config = self.scratch.write("mosquitto.conf", &config)?;
        Program::start("mosquitto", Command::new(program).arg("-c").arg(config), self.scratch)
    }
}

/// Certificate and key of a broker, in files.
fn written(encryption: &Encryption, scratch: &Scratch) -> Result<(PathBuf, PathBuf), String> {
    let (certificate, key) = encryption.of_broker();
    Ok((scratch.write("server.pem", certificate)?, scratch.write("server.key", key)?))
}

/// A nats-server with its defaults and JetStream in files, and more of the configuration: of the server, and of JetStream.
async fn nats_server(
    programs: &Programs,
    address: SocketAddr,
    (more, storage): (&str, &str),
    scratch: &Scratch,
) -> Result<Program, String> {
    let store = scratch.path().join("jetstream");
    let config = format!(
        "server_name: bench\nlisten: \"{address}\"\njetstream {{ store_dir: \"{}\"{storage} }}\n{more}",
        store.display()
    );
    let config = scratch.write("nats.conf", &config)?;
    let mut command = Command::new(&programs.nats_server);
    let mut program = Program::start("nats-server", command.arg("-c").arg(config), scratch)?;
    program.listens(address).await?;
    Ok(program)
}

/// An address of this machine that nobody listens on now.
pub(crate) fn free_address() -> Result<SocketAddr, String> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(|e| e.to_string())?;
    listener.local_addr().map_err(|e| e.to_string())
}

/// A program of that name on the PATH, or where Debian keeps programs that only root has on it.
pub(crate) fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let more = [PathBuf::from("/usr/sbin"), PathBuf::from("/usr/local/sbin")];
    std::env::split_paths(&path).chain(more).map(|dir| dir.join(name)).find(|program| program.is_file())
}
