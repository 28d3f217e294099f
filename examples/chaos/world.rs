//! The processes: nats-servers, and sidecars with a relay on each of their ways to NATS. They end with this program, also
//! when it panics or is interrupted.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::SIDECAR;
use crate::args::Args;
use crate::harness::{LOOK_AGAIN, Process, Relay, free_port, nats_server_program};

/// How long a nats-server may take to say that it is ready.
const READY: Duration = Duration::from_secs(60);

/// A sidecar, which has the same ports each time that it is started.
pub(crate) struct Sidecar {
    pub(crate) n: usize,
    pub(crate) name: String,
    pub(crate) port: u16,
    process: Option<Process>,
    command: Vec<(String, String)>,
    args: Vec<String>,
    log: PathBuf,
}

/// One nats-server, which has the same port and data each time that it is started.
pub(crate) struct Server {
    pub(crate) name: String,
    dir: PathBuf,
    url: String,
    process: Option<Process>,
}

/// All processes, and the relays between them.
pub(crate) struct World {
    pub(crate) sidecars: Vec<Sidecar>,
    pub(crate) servers: Vec<Server>,
    /// Of each sidecar, one to each server.
    pub(crate) links: Vec<Vec<Relay>>,
    /// From one server to another.
    pub(crate) routes: BTreeMap<(usize, usize), Relay>,
    pub(crate) urls: Vec<String>,
}

/// Sends a signal to a process of ours.
fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        // It may have ended by itself, which is found out elsewhere.
        let _ = kill_process(pid, signal);
    }
}

impl Sidecar {
    pub(crate) fn start(&mut self) {
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        command.env(SIDECAR, "1").envs(self.command.iter().cloned()).args(&self.args);
        self.process = Some(Process::spawn(&self.name, &mut command, &self.log));
    }

    pub(crate) fn kill(&mut self) {
        self.process = None;
    }

    /// SIGSTOP, SIGCONT, SIGTERM.
    pub(crate) fn signal(&self, number: Signal) {
        if let Some(process) = &self.process {
            signal(process.pid(), number);
        }
    }

    /// How it ended by itself, if it has.
    pub(crate) fn ended(&mut self) -> Option<std::process::ExitStatus> {
        self.process.as_mut().and_then(Process::status)
    }

    /// Waits until it has ended.
    pub(crate) async fn end(&mut self) -> Option<std::process::ExitStatus> {
        let status = self.process.as_mut()?.ended().await;
        self.process = None;
        Some(status)
    }

    /// From when to when it had no lease while others could adopt what it had, in milliseconds, as its log says.
    pub(crate) fn lost_leases(&self) -> Vec<(u64, u64)> {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lost = |line: &str| {
            let time = humantime::parse_rfc3339(line.split_whitespace().next()?).ok()?;
            let at = time.duration_since(std::time::UNIX_EPOCH).ok()?.as_millis() as u64;
            let unheld =
                line.split_once("unheld_ms=").and_then(|(_, rest)| rest.split_whitespace().next()?.parse().ok());
            Some((at - unheld.unwrap_or(0), at))
        };
        let is_it = |line: &&str| {
            line.contains("all connections end") || line.contains("what others have adopted meanwhile is known")
        };
        text.lines().filter(is_it).filter_map(lost).collect()
    }
}

impl Server {
    /// One that is not started yet, with more lines in its configuration.
    fn prepared(name: String, dir: &Path, more: &str) -> Self {
        let dir = dir.join(&name);
        std::fs::create_dir_all(&dir).expect("a directory");
        let port = free_port();
        // The log reserves 4 GiB, which is not written.
        let store = "jetstream { store_dir: data, max_file_store: 64GB, max_memory_store: 1GB }";
        let text = format!("listen: \"127.0.0.1:{port}\"\nserver_name: {name}\n{store}\n{more}\n");
        std::fs::write(dir.join("nats.conf"), text).expect("write the configuration");
        Self { name, dir, url: format!("nats://127.0.0.1:{port}"), process: None }
    }

    /// Starts it, again or for the first time, and waits until it says that it is ready.
    async fn start(&mut self) {
        let log = self.dir.join("nats.log");
        // What an earlier run wrote says nothing about this one.
        let _ = std::fs::rename(&log, self.dir.join("nats.log.before"));
        let mut command = Command::new(nats_server_program());
        command.current_dir(&self.dir).args(["-c", "nats.conf"]);
        let process = self.process.insert(Process::spawn(&self.name, &mut command, &log));
        let since = std::time::Instant::now();
        while !process.log().contains("Server is ready") {
            assert!(process.status().is_none(), "nats-server ended: {}", process.log());
            assert!(since.elapsed() < READY, "nats-server is not ready: {}", process.log());
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    pub(crate) fn signal(&self, number: Signal) {
        if let Some(process) = &self.process {
            signal(process.pid(), number);
        }
    }

    /// SIGKILL, and the same server again after a pause.
    pub(crate) async fn restart(&mut self, pause: Duration) {
        self.process = None;
        tokio::time::sleep(pause).await;
        self.start().await;
    }
}

/// Servers of one cluster, whose ways to each other are relays.
async fn cluster(count: usize, dir: &Path) -> (Vec<Server>, BTreeMap<(usize, usize), Relay>) {
    let ports: Vec<u16> = (0..count).map(|_| free_port()).collect();
    let mut routes = BTreeMap::new();
    for from in 0..count {
        for to in (0..count).filter(|to| *to != from) {
            routes.insert((from, to), Relay::start(format!("nats://127.0.0.1:{}", ports[to])).await);
        }
    }
    let mut servers = Vec::new();
    for (n, port) in ports.iter().enumerate() {
        let ways = routes.iter().filter(|((from, _), _)| *from == n);
        let ways: Vec<String> = ways.map(|(_, relay)| format!("\"{}\"", relay.url())).collect();
        // Nobody may find a way past the relays: what is told to others leads nowhere.
        let more = format!(
            "cluster {{ name: chaos, listen: \"127.0.0.1:{port}\", advertise: \"127.0.0.1:9\", \
             no_advertise: true, routes: [{}] }}",
            ways.join(", ")
        );
        let more = if count > 1 { more } else { String::new() };
        servers.push(Server::prepared(format!("n{n}"), dir, &more));
    }
    // Together, as each waits for the others.
    futures_util::future::join_all(servers.iter_mut().map(Server::start)).await;
    (servers, routes)
}

impl World {
    pub(crate) async fn start(args: &Args, dir: &Path) -> Self {
        let count = usize::from(args.servers);
        let (servers, routes) = cluster(count, dir).await;
        let urls: Vec<String> = servers.iter().map(|server| server.url.clone()).collect();
        let (mut sidecars, mut links) = (Vec::new(), Vec::new());
        for n in 0..usize::from(args.sidecars) {
            let mut ways = Vec::new();
            for url in &urls {
                ways.push(Relay::start(url.clone()).await);
            }
            let name = char::from(b'a' + n as u8).to_string();
            let (port, admin) = (free_port(), free_port());
            let nats = ways.iter().map(Relay::url).collect::<Vec<_>>().join(",");
            let (listen, admin) = (format!("127.0.0.1:{port}"), format!("127.0.0.1:{admin}"));
            let args = ["--nats", &nats, "--listen", &listen, "--admin", &admin, "--log-level", &args.sidecar_log];
            let replicas = if count < 3 { "1" } else { "3" };
            let mut sidecar = Sidecar {
                n,
                port,
                process: None,
                command: vec![("NATS_MQTT__JETSTREAM__REPLICAS".to_owned(), replicas.to_owned())],
                args: args.map(str::to_owned).to_vec(),
                log: dir.join(format!("sidecar-{name}.log")),
                name,
            };
            sidecar.start();
            sidecars.push(sidecar);
            links.push(ways);
        }
        Self { sidecars, servers, links, routes, urls }
    }

    pub(crate) fn ports(&self) -> Vec<u16> {
        self.sidecars.iter().map(|sidecar| sidecar.port).collect()
    }

    /// Ends all processes, and removes what is large.
    pub(crate) fn end(self) {
        let dirs: Vec<PathBuf> = self.servers.iter().map(|server| server.dir.join("data")).collect();
        drop(self);
        // What cannot be removed stays.
        dirs.iter().for_each(|dir| _ = std::fs::remove_dir_all(dir));
    }
}
