//! nats-mqtt as a process, and what it says over HTTP.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::ports::free_port;
use super::process::Process;
use super::{Client, LOOK_AGAIN, NatsServer, Options, PATIENCE, auth, eventually};

/// The program under test.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_nats-mqtt");

/// How a sidecar is started.
#[derive(Clone, Debug)]
pub(crate) struct SidecarBuilder {
    name: String,
    args: Vec<String>,
    env: Vec<(String, String)>,
    /// In mode `none`, whatever the mode of the tests is.
    is_open: bool,
    /// The control group that it runs in.
    group: Option<PathBuf>,
}

/// A running sidecar. Started again it has the same ports.
#[derive(Debug)]
pub(crate) struct Sidecar {
    builder: SidecarBuilder,
    pub(crate) mqtt_port: u16,
    pub(crate) ws_port: u16,
    pub(crate) admin_port: u16,
    process: Option<Process>,
    /// Goes last, with the log that a failing test shows.
    dir: TempDir,
}

impl SidecarBuilder {
    /// With these arguments besides those for the ports.
    pub(crate) fn new(name: &str, args: &[&str]) -> Self {
        let args = args.iter().map(|arg| (*arg).to_owned()).collect();
        Self { name: name.to_owned(), args, env: Vec::new(), is_open: false, group: None }
    }

    /// For this nats-server.
    pub(crate) fn of(nats: &NatsServer, name: &str) -> Self {
        let builder = Self::new(name, &["--nats", &nats.url()]);
        if nats.has_devices() { builder } else { builder.open() }
    }

    /// Lets everybody in, also where the tests run with authentication. Say why.
    pub(crate) fn open(mut self) -> Self {
        self.is_open = true;
        self
    }

    /// Sets a key of the configuration: `MQTT__WINDOW`.
    pub(crate) fn set(mut self, key: &str, value: &str) -> Self {
        self.env.push((format!("NATS_MQTT__{key}"), value.to_owned()));
        self
    }

    /// Sets a variable of the environment.
    pub(crate) fn variable(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// It runs in the control group that is this directory.
    pub(crate) fn in_group(mut self, group: &Path) -> Self {
        self.group = Some(group.to_owned());
        self
    }

    /// Its wall clock is off by this: `+3600s`.
    pub(crate) fn clock(mut self, off: &str) -> Self {
        let library = libfaketime();
        for (key, value) in [("LD_PRELOAD", library.as_str()), ("FAKETIME", off), ("FAKETIME_DONT_FAKE_MONOTONIC", "1")]
        {
            self.env.push((key.to_owned(), value.to_owned()));
        }
        self
    }

    /// Asks who its clients are in the mode of the tests, unless it says itself who may connect.
    fn guarded(mut self, dir: &Path) -> Self {
        let is_named = |arg: &String| arg == "-c";
        let own = self.args.iter().position(is_named).and_then(|at| self.args.get_mut(at + 1));
        let text = own.as_ref().map(|file| std::fs::read_to_string(file).expect("its configuration"));
        let text = text.unwrap_or_default();
        let has_own = text.contains("[auth") || self.env.iter().any(|(key, _)| key.starts_with("NATS_MQTT__AUTH__"));
        let Some(more) = (!self.is_open && !has_own).then(|| auth::configuration(dir)).flatten() else {
            return self;
        };
        let file = dir.join("nats-mqtt.toml");
        std::fs::write(&file, format!("{text}\n{more}")).expect("write the configuration");
        let file = file.to_str().expect("a path in UTF-8").to_owned();
        match own {
            Some(own) => *own = file,
            None => self.args.extend(["-c".to_owned(), file]),
        }
        self
    }

    /// Starts it without waiting for anything.
    pub(crate) fn launch(self) -> Sidecar {
        let dir = TempDir::with_prefix("nats-mqtt-").expect("a temporary directory");
        let mut sidecar = Sidecar {
            builder: self.guarded(dir.path()),
            dir,
            mqtt_port: free_port(),
            ws_port: free_port(),
            admin_port: free_port(),
            process: None,
        };
        sidecar.launch();
        sidecar
    }

    /// Starts it and waits until it is ready.
    pub(crate) async fn start(self) -> Sidecar {
        let mut sidecar = self.launch();
        sidecar.ready().await;
        sidecar
    }
}

/// The program, in a control group before its first instruction.
fn within(group: &Path) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", "echo $$ > \"$0\" && exec \"$@\""]).arg(group.join("cgroup.procs")).arg(PROGRAM);
    command
}

/// The library that a process with another clock is started with: of Python's package or of the system's.
fn libfaketime() -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let inherited = std::env::var_os("PYTHONPATH").unwrap_or_default();
    let packages = std::env::split_paths(&inherited).chain([root.join(".tools/python")]);
    let of_package = packages.map(|path| path.join("libfaketime/vendor/libfaketime/src/libfaketime.so.1"));
    let of_system =
        ["x86_64", "aarch64"].map(|cpu| format!("/usr/lib/{cpu}-linux-gnu/faketime/libfaketime.so.1").into());
    let found = of_package.chain(of_system).find(|library: &PathBuf| library.exists());
    let library = found.expect("libfaketime is needed for the integration tests: scripts/tools.sh python fetches it");
    library.to_str().expect("a path in UTF-8").to_owned()
}

impl Sidecar {
    /// Starts one for this nats-server and waits until it is ready.
    pub(crate) async fn start(nats: &NatsServer, name: &str) -> Self {
        SidecarBuilder::of(nats, name).start().await
    }

    fn launch(&mut self) {
        self.process = None;
        let address = |port: u16| format!("127.0.0.1:{port}");
        let mut command = match &self.builder.group {
            None => Command::new(PROGRAM),
            Some(group) => within(group),
        };
        command
            .current_dir(self.dir.path())
            .args(["--listen", &address(self.mqtt_port), "--listen-ws", &address(self.ws_port)])
            .args(["--admin", &address(self.admin_port)])
            .args(&self.builder.args)
            // A test that ends one does not wait for a pace that it has not asked for.
            .env("NATS_MQTT__DRAIN__DURATION", "0s")
            .envs(self.builder.env.iter().map(|(key, value)| (key, value)));
        let log = self.dir.path().join("sidecar.log");
        self.process = Some(Process::spawn(&self.builder.name, &mut command, &log));
    }

    /// Waits until `/readyz` says so.
    pub(crate) async fn ready(&mut self) {
        let ready = tokio::time::timeout(PATIENCE, async {
            while self.try_get("/readyz").await.is_none_or(|(status, _)| status != 200) {
                let status = self.process_mut().status();
                assert!(status.is_none(), "{} ended: {status:?}\n{}", self.builder.name, self.log());
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        });
        if ready.await.is_err() {
            panic!("{} is not ready: {:?}\n{}", self.builder.name, self.try_get("/readyz").await, self.log());
        }
    }

    fn process(&self) -> &Process {
        self.process.as_ref().expect("the sidecar runs")
    }

    fn process_mut(&mut self) -> &mut Process {
        self.process.as_mut().expect("the sidecar runs")
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process().pid()
    }

    pub(crate) fn log(&self) -> String {
        self.process().log()
    }

    pub(crate) fn show_log(&self) {
        super::process::show_log(&self.builder.name, &self.dir.path().join("sidecar.log"));
    }

    /// Sends SIGTERM.
    pub(crate) fn terminate(&self) {
        self.process().terminate();
    }

    /// Waits until it ends by itself.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        self.process_mut().ended().await
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        self.process = None;
    }

    /// SIGTERM, and waits for the end.
    pub(crate) async fn stop(&mut self) -> ExitStatus {
        self.terminate();
        let status = self.ended().await;
        self.process = None;
        status
    }

    /// Starts it again and waits until it is ready.
    pub(crate) async fn restart(&mut self) {
        self.launch();
        self.ready().await;
    }

    /// Connects a client that is accepted.
    pub(crate) async fn connect(&self, options: Options) -> Client {
        Client::connect(self.mqtt_port, options).await
    }

    /// Connects a client that is accepted as soon as that can be: for a while nobody may be able to know its session.
    pub(crate) async fn connect_in_the_end(&self, options: Options) -> Client {
        let mut accepted = None;
        eventually("a client is accepted", async || {
            let opened = Client::try_open(self.mqtt_port, options.clone()).await.ok();
            accepted = opened.filter(|client| !client.connack.reason.is_error());
            accepted.is_some()
        })
        .await;
        accepted.expect("it was")
    }

    /// An MQTT 5 client with a clean session.
    pub(crate) async fn v5(&self, id: &str) -> Client {
        self.connect(Options::v5(id)).await
    }

    /// An MQTT 3.1.1 client with a clean session.
    pub(crate) async fn v311(&self, id: &str) -> Client {
        self.connect(Options::v311(id)).await
    }

    /// GET of the admin listener: status and body.
    pub(crate) async fn get(&self, path: &str) -> (u16, String) {
        self.try_get(path)
            .await
            .unwrap_or_else(|| panic!("{} does not answer {path}\n{}", self.builder.name, self.log()))
    }

    /// Whether the admin listener answers a GET with this status.
    pub(crate) async fn answers(&self, path: &str, status: u16) -> bool {
        self.try_get(path).await.is_some_and(|(got, _)| got == status)
    }

    async fn try_get(&self, path: &str) -> Option<(u16, String)> {
        http_get(&format!("127.0.0.1:{}", self.admin_port), path).await
    }

    /// The value of one line of `/metrics`, written as it stands there: `mqtt_connections`, or with all its labels
    /// `mqtt_messages_total{direction="in",qos="0"}`. Zero when it is not there.
    pub(crate) async fn metric(&self, series: &str) -> f64 {
        let (_, text) = self.get("/metrics").await;
        let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.map_or(0.0, |value| value.trim().parse().expect("a number in the metrics"))
    }

    /// Resident memory in KiB.
    pub(crate) fn rss_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("a running process");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
        line.trim().trim_end_matches(" kB").parse().expect("a number of KiB")
    }
}

/// GET: status and body. HTTP/1.0, so that the body comes as it is and not in chunks.
pub(crate) async fn http_get(address: &str, path: &str) -> Option<(u16, String)> {
    let get = async {
        let mut stream = TcpStream::connect(address).await.ok()?;
        let request = format!("GET {path} HTTP/1.0\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        let status = head.split(' ').nth(1)?.parse().ok()?;
        Some((status, body.to_owned()))
    };
    tokio::time::timeout(Duration::from_secs(5), get).await.ok().flatten()
}
