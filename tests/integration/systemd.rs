//! What a service manager is told, by a test in its place.

use std::io::Write as _;
use std::net::{TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt as _;

use crate::harness::{
    Client, Finished, NatsServer, Options, PATIENCE, PROGRAM, Process, SidecarBuilder, eventually, free_port, http_get,
    unique,
};
use crate::reload::{end_of_pipe, make_pipe};

/// The socket of a service manager.
struct Manager {
    socket: UnixDatagram,
    name: String,
}

impl Manager {
    /// With an abstract name, that no file has.
    fn open() -> Self {
        let name = format!("{}-{}", unique("nats-mqtt-manager"), std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let socket = UnixDatagram::bind_addr(&address).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        Self { socket, name: format!("@{name}") }
    }

    fn of(&self, builder: SidecarBuilder) -> SidecarBuilder {
        builder.variable("NOTIFY_SOCKET", &self.name)
    }

    /// What has come since it was asked last.
    fn heard(&self) -> Vec<String> {
        let mut room = [0; 4096];
        let mut heard = Vec::new();
        while let Ok(count) = self.socket.recv(&mut room) {
            heard.push(String::from_utf8(room[..count].to_vec()).unwrap());
        }
        heard
    }

    /// What it hears until one of it has this line.
    async fn hears(&self, line: &str) -> Vec<String> {
        let mut all = Vec::new();
        eventually(&format!("the service manager hears {line}"), async || {
            all.extend(self.heard());
            has(&all, line)
        })
        .await;
        all
    }
}

fn has(heard: &[String], line: &str) -> bool {
    heard.iter().any(|message| message.lines().any(|it| it.starts_with(line)))
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_ready_when_devices_are_served_and_asks_for_more_time_before() {
    let (manager, mut nats) = (Manager::open(), NatsServer::prepared(true, ""));
    let mut sidecar = manager.of(SidecarBuilder::of(&nats, "sidecar")).launch();
    let mut before = manager.hears("EXTEND_TIMEOUT_USEC=30000000").await;
    assert!(has(&before, "STATUS=waiting for nats"), "{before:?}");
    // The next one: it goes on asking.
    before.extend(manager.hears("EXTEND_TIMEOUT_USEC=").await);
    assert!(!has(&before, "READY"), "nobody is served: {before:?}");
    nats.restart();
    let starting = manager.hears("READY=1").await;
    assert!(has(&starting, "STATUS=ready: MQTT on 127.0.0.1:"), "{starting:?}");
    // What was said is so.
    sidecar.v5("device").await.ping().await;
    sidecar.terminate();
    let ending = manager.hears("STOPPING=1").await;
    assert!(has(&ending, "EXTEND_TIMEOUT_USEC=") && !has(&ending, "READY"), "{ending:?}");
    assert_eq!(sidecar.ended().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manager_that_had_no_room_hears_that_it_is_ready_all_the_same() {
    let (manager, nats) = (Manager::open(), NatsServer::start());
    let filling = UnixDatagram::unbound().unwrap();
    filling.set_nonblocking(true).unwrap();
    let address = SocketAddr::from_abstract_name(&manager.name[1..]).unwrap();
    while filling.send_to_addr(b"STATUS=of somebody else", &address).is_ok() {}
    // It serves, and its words have gone nowhere.
    let sidecar = manager.of(SidecarBuilder::of(&nats, "sidecar")).start().await;
    sidecar.v5("device").await.ping().await;
    manager.hears("READY=1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_reload_is_told_from_its_beginning_to_its_end_before_the_next() {
    let (manager, nats, dir) = (Manager::open(), NatsServer::start(), tempfile::tempdir().unwrap());
    let (file, socket) = (dir.path().join("nats-mqtt.toml"), dir.path().join("control"));
    let [port, admin] = [free_port(), free_port()];
    let text = format!(
        "[nats]\nurls = [\"{}\"]\n[admin]\nbind = \"127.0.0.1:{admin}\"\nsocket = {socket:?}\n[listeners.tcp]\nbind = \"127.0.0.1:{port}\"\n",
        nats.url()
    );
    std::fs::write(&file, &text).unwrap();
    let mut command = Command::new(PROGRAM);
    command.arg("-c").arg(&file).env("NOTIFY_SOCKET", &manager.name).env("NATS_MQTT__DRAIN__DURATION", "0s");
    let process = Process::spawn("sidecar", &mut command, &dir.path().join("log"));
    manager.hears("READY=1").await;
    // It is under way until this is written.
    make_pipe(&file);
    process.hang_up();
    let mut pipe = end_of_pipe(&file).await;
    let mut all = manager.hears("RELOADING=1").await;
    let mut asking = tokio::net::UnixStream::connect(&socket).await.unwrap();
    asking.write_all(b"reload\n").await.unwrap();
    // Long enough for it to be there.
    tokio::time::sleep(Duration::from_millis(300)).await;
    all.extend(manager.heard());
    pipe.write_all(text.as_bytes()).unwrap();
    drop(pipe);
    all.extend(manager.hears("READY=1").await);
    let mut pipe = end_of_pipe(&file).await;
    pipe.write_all(text.as_bytes()).unwrap();
    drop(pipe);
    while states(&all).len() < 4 {
        all.extend(manager.hears("READY=1").await);
    }
    assert_eq!(states(&all), ["RELOADING=1", "READY=1", "RELOADING=1", "READY=1"]);
}

/// What of it says in which state the process is.
fn states(heard: &[String]) -> Vec<&str> {
    let first = heard.iter().filter_map(|message| message.lines().next());
    first.filter(|line| ["RELOADING=1", "READY=1"].contains(line)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_watchdog_hears_it_twice_in_its_time_while_nats_is_away_too() {
    const WITHIN: Duration = Duration::from_millis(600);
    let (manager, nats) = (Manager::open(), NatsServer::prepared(true, ""));
    let builder = manager.of(SidecarBuilder::of(&nats, "sidecar"));
    let _sidecar = builder.variable("WATCHDOG_USEC", &WITHIN.as_micros().to_string()).launch();
    manager.hears("WATCHDOG=1").await;
    let since = Instant::now();
    let mut count = 0;
    while since.elapsed() < 4 * WITHIN {
        count += manager.heard().iter().filter(|message| *message == "WATCHDOG=1\n").count();
    }
    // Eight; a machine that is busy is late.
    assert!((4..=9).contains(&count), "{count} times in four times its time");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watchdog_of_another_process_hears_nothing() {
    let (manager, nats) = (Manager::open(), NatsServer::start());
    let builder = manager.of(SidecarBuilder::of(&nats, "sidecar"));
    let builder = builder.variable("WATCHDOG_USEC", "200000").variable("WATCHDOG_PID", "1");
    let _sidecar = builder.start().await;
    let heard = manager.hears("READY=1").await;
    assert!(!has(&heard, "WATCHDOG"), "{heard:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manager_that_is_gone_disturbs_nobody() {
    let nats = NatsServer::start();
    for name in ["/nowhere/notify", "@nats-mqtt-nobody", "relative"] {
        let mut sidecar = SidecarBuilder::of(&nats, "sidecar").variable("NOTIFY_SOCKET", name).start().await;
        sidecar.v5("device").await.ping().await;
        let status = tokio::time::timeout(PATIENCE, sidecar.stop()).await.unwrap();
        assert_eq!(status.code(), Some(0), "{name}");
    }
}

/// A sidecar to which a socket is passed as systemd does it, by this name.
fn with_socket(socket: impl Into<OwnedFd>, name: &str, config: &Path) -> tokio::process::Command {
    // A shell makes it the third file, and has the process id that is said.
    let script = r#"exec 3<&0 0</dev/null; LISTEN_FDS=1 LISTEN_PID=$$ exec "$@""#;
    let mut command = Command::new("sh");
    command.args(["-c", script, "sh", PROGRAM, "-c"]).arg(config).stdin(Stdio::from(socket.into()));
    command.env("NATS_MQTT__DRAIN__DURATION", "0s");
    if !name.is_empty() {
        command.env("LISTEN_FDNAMES", name);
    }
    let mut command = tokio::process::Command::from(command);
    command.kill_on_drop(true).stderr(Stdio::piped()).stdout(Stdio::piped());
    command
}

fn configured(dir: &Path, nats: &str, admin: u16) -> std::path::PathBuf {
    let file = dir.join("nats-mqtt.toml");
    let text = format!(
        "[nats]\nurls = [\"{nats}\"]\n[admin]\nbind = \"127.0.0.1:{admin}\"\n[listeners.tcp.field]\nbind = \"systemd:field\"\n"
    );
    std::fs::write(&file, text).unwrap();
    file
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_come_by_a_socket_that_was_passed_and_wait_in_it_before() {
    let (nats, dir) = (NatsServer::start(), tempfile::tempdir().unwrap());
    for name in ["field", "", "nats-mqtt.socket"] {
        let (socket, admin) = (TcpListener::bind("127.0.0.1:0").unwrap(), free_port());
        let port = socket.local_addr().unwrap().port();
        let early = tokio::spawn(Client::try_open(port, Options::v5(&unique("early"))));
        let mut sidecar = with_socket(socket, name, &configured(dir.path(), &nats.url(), admin)).spawn().unwrap();
        let mut early = early.await.unwrap().expect("it was accepted when there was somebody");
        early.ping().await;
        Client::connect(port, Options::v5(&unique("late"))).await.ping().await;
        assert!(http_get(&format!("127.0.0.1:{admin}"), "/livez").await.is_some());
        sidecar.kill().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_that_was_not_passed_or_is_another_kind_is_said_in_a_line() {
    let (nats, dir) = (NatsServer::start(), tempfile::tempdir().unwrap());
    let file = configured(dir.path(), &nats.url(), free_port());
    let tcp = || OwnedFd::from(TcpListener::bind("127.0.0.1:0").unwrap());
    let udp = OwnedFd::from(UdpSocket::bind("127.0.0.1:0").unwrap());
    for (socket, name, why) in [
        (tcp(), "other", "the service manager has passed no socket for it: FileDescriptorName=field is missing"),
        (udp, "field", "no listening stream socket"),
    ] {
        let ended = tokio::time::timeout(PATIENCE, with_socket(socket, name, &file).output()).await.expect("it ends");
        let ended = Finished::from(ended.unwrap());
        let last = ended.stderr.lines().last().unwrap_or_default();
        assert!(ended.code == 1 && last.contains("systemd:field") && last.contains(why), "{ended:?}");
    }
}
