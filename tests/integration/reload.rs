//! The configuration is read again under connected clients: what changes for them, and what does not.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use mqtt_codec::{ReasonCode, Version};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::harness::{
    Client, Finished, NatsServer, Options, PATIENCE, PROGRAM, Process, eventually, free_port, http_get, msg, run,
    unique,
};

const LIGHT: &str =
    "$7$10$MDEyMzQ1Njc4OWFi$NrzwjNkm0devHqjYkA7HqLMvRhp+AsLReNF6SvsV8eCNpQ1+C4DLO/N1v2TyhqbZt6lLUVErC2CGca242OSJCA==";

/// A sidecar that has everything from its file.
struct Configured {
    process: Process,
    file: PathBuf,
    admin: u16,
    nats: String,
    dir: TempDir,
}

impl Configured {
    /// With these tables besides; waits until it is ready.
    async fn start(nats: &NatsServer, more: &str) -> Self {
        let mut sidecar = Self::launch(nats, more);
        sidecar.ready().await;
        sidecar
    }

    fn launch(nats: &NatsServer, more: &str) -> Self {
        let dir = TempDir::with_prefix("nats-mqtt-").expect("a temporary directory");
        let (file, admin, url) = (dir.path().join("nats-mqtt.toml"), free_port(), nats.url());
        std::fs::write(&file, text(&url, admin, dir.path(), more)).expect("write the configuration");
        let mut command = Command::new(PROGRAM);
        command.arg("-c").arg(&file).env("NATS_MQTT__DRAIN__DURATION", "0s").env_remove("RUST_LOG");
        let process = Process::spawn("sidecar", &mut command, &dir.path().join("sidecar.log"));
        Self { process, file, admin, nats: url, dir }
    }

    async fn ready(&mut self) {
        let address = format!("127.0.0.1:{}", self.admin);
        let ready = async || http_get(&address, "/readyz").await.is_some_and(|(status, _)| status == 200);
        eventually("it is ready", ready).await;
    }

    /// Other tables from now on, which it does not know yet.
    fn write(&self, more: &str) {
        // As editors and packages do it, in one step.
        let aside = self.dir.path().join("aside");
        std::fs::write(&aside, text(&self.nats, self.admin, self.dir.path(), more)).expect("write the configuration");
        std::fs::rename(&aside, &self.file).expect("replace the configuration");
    }

    async fn logs(&self, line: &str) {
        eventually(&format!("the log says {line:?}"), async || self.process.log().contains(line)).await;
    }

    /// `nats-mqtt COMMAND -c FILE`.
    async fn program(&self, command: &str) -> Finished {
        self.program_of(command, &self.file).await
    }

    async fn program_of(&self, command: &str, file: &Path) -> Finished {
        let mut program = Command::new(PROGRAM);
        program
            .args(command.split(' '))
            .arg("-c")
            .arg(file)
            .env("NATS_MQTT__DRAIN__DURATION", "0s")
            .env_remove("RUST_LOG");
        run(program, PATIENCE).await
    }
}

/// In place of a file: whoever reads it waits until somebody has written it.
pub(crate) fn make_pipe(path: &Path) {
    let aside = path.with_extension("pipe");
    assert!(Command::new("mkfifo").arg(&aside).status().expect("mkfifo").success());
    std::fs::rename(aside, path).expect("put it there");
}

/// The end of such a file that is written, when somebody waits at the other one.
pub(crate) async fn end_of_pipe(path: &Path) -> File {
    /// `O_NONBLOCK`: opening fails while nobody reads.
    const NONBLOCK: i32 = 0o4000;
    let mut opened = None;
    eventually("somebody reads", async || {
        opened = OpenOptions::new().write(true).custom_flags(NONBLOCK).open(path).ok();
        opened.is_some()
    })
    .await;
    opened.expect("it was opened")
}

fn text(nats: &str, admin: u16, dir: &Path, more: &str) -> String {
    let socket = dir.join("control");
    format!("[nats]\nurls = [\"{nats}\"]\n[admin]\nbind = \"127.0.0.1:{admin}\"\nsocket = {socket:?}\n{more}")
}

fn listener(name: &str, port: u16, more: &str) -> String {
    format!("[listeners.tcp.{name}]\nbind = \"127.0.0.1:{port}\"\n{more}\n")
}

fn user(name: &str) -> String {
    format!("[[users]]\nname = \"{name}\"\npassword = \"{LIGHT}\"\n")
}

/// A client of this name.
async fn named(port: u16, name: &str) -> Client {
    let mut options = Options::v5(&unique(name));
    options.connect.username = Some(name.into());
    options.connect.password = Some("light".as_bytes().into());
    Client::open(port, options).await
}

async fn is_closed(port: u16) -> bool {
    TcpStream::connect(("127.0.0.1", port)).await.is_err()
}

#[tokio::test(flavor = "multi_thread")]
async fn sighup_opens_and_closes_listeners_under_clients_who_stay() {
    let nats = NatsServer::start();
    let [stays, goes, comes] = [free_port(), free_port(), free_port()];
    let sidecar = Configured::start(&nats, &(listener("stays", stays, "") + &listener("goes", goes, ""))).await;
    let mut staying = Client::connect(stays, Options::v5(&unique("stays"))).await;
    let (mut going, mut old) = (
        Client::connect(goes, Options::v5(&unique("goes"))).await,
        Client::connect(goes, Options::new(Version::V311, &unique("old"))).await,
    );
    let topic = unique("reload");
    staying.subscribe(&topic, 1).await;
    let more = listener("renamed", stays, "") + &listener("comes", comes, "") + "[log]\nlevel = \"debug\"\n";
    sidecar.write(&more);
    sidecar.process.hang_up();
    assert_eq!(going.closed().await, Some(ReasonCode::ServerShuttingDown));
    assert_eq!(old.closed().await, None);
    eventually("it is closed", async || is_closed(goes).await).await;
    let mut newcomer = Client::connect(comes, Options::v5(&unique("comes"))).await;
    newcomer.publish(msg(&topic, "x").qos(1)).await;
    assert_eq!(staying.receive_shown().await, format!("{topic} x qos1"));
    Client::connect(stays, Options::v5(&unique("again"))).await.ping().await;
    // At the level before nobody was told who connects, and by which listener.
    sidecar.logs("listener=\"renamed\"").await;
    for line in [
        "SIGHUP: listener renamed: changed for those who connect from now on",
        &format!("SIGHUP: listener comes: opened on 127.0.0.1:{comes}"),
        &format!("SIGHUP: listener goes: closed on 127.0.0.1:{goes}, and its clients are let go"),
        "SIGHUP: log.level: replaced",
    ] {
        assert!(sidecar.process.log().contains(line), "{line}: {}", sidecar.process.log());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn users_come_and_go_and_those_who_are_left_stay_connected() {
    let (nats, port) = (NatsServer::start(), free_port());
    let door = "[auth]\nmode = \"file\"\n".to_owned() + &listener("door", port, "");
    let sidecar = Configured::start(&nats, &(door.clone() + &user("stays") + &user("goes"))).await;
    let (mut stays, mut goes) = (named(port, "stays").await, named(port, "goes").await);
    let refused = named(port, "comes").await.connack.reason;
    assert_eq!(refused, ReasonCode::BadUserNameOrPassword);
    sidecar.write(&(door + &user("stays") + &user("comes")));
    let reloaded = sidecar.program("reload").await;
    assert_eq!((reloaded.code, &*reloaded.stdout), (0, "users: replaced\n"), "{reloaded:?}");
    assert!(goes.closed().await.is_some_and(ReasonCode::is_error));
    assert_eq!(named(port, "comes").await.connack.reason, ReasonCode::Success);
    assert_eq!(named(port, "goes").await.connack.reason, ReasonCode::BadUserNameOrPassword);
    stays.ping().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_that_is_wrong_changes_nothing_and_says_why() {
    let (nats, port, taken) = (NatsServer::start(), free_port(), free_port());
    let right = listener("door", port, "");
    let sidecar = Configured::start(&nats, &right).await;
    let mut client = Client::connect(port, Options::v5(&unique("c"))).await;
    let _holder = std::net::TcpListener::bind(("127.0.0.1", taken)).expect("a port");
    for (more, why) in [
        (listener("other", free_port(), "bnid = 1"), "unknown key: did you mean \"bind\"?"),
        ("[listeners]\n[mqtt]\nwindow = 0".to_owned(), "mqtt.window: 0 would deliver no message"),
        (right.clone() + &listener("other", taken, ""), "cannot listen on"),
        ("[listeners]".to_owned(), "no listener is configured"),
        (listener("door", port, "tls = { cert_file = \"/no\", key_file = \"/no\" }"), "/no"),
        ("= nonsense".to_owned(), "nats-mqtt.toml:"),
    ] {
        sidecar.write(&more);
        sidecar.process.hang_up();
        eventually(&format!("it says {why:?}"), async || {
            let log = sidecar.process.log();
            log.lines().any(|line| line.contains("everything stays as it was") && line.contains(why))
        })
        .await;
        let reloaded = sidecar.program("reload").await;
        assert!(reloaded.code != 0 && reloaded.stderr.contains(why), "{more}: {reloaded:?}");
        assert_eq!(reloaded.stderr.lines().count(), 1, "{reloaded:?}");
        client.ping().await;
        Client::connect(port, Options::v5(&unique("c"))).await.ping().await;
    }
    sidecar.write(&right);
    let reloaded = sidecar.program("reload").await;
    assert_eq!((reloaded.code, &*reloaded.stdout), (0, "nothing is different\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn check_says_in_advance_what_a_reload_does_and_what_it_does_not() {
    let (nats, port, more_port) = (NatsServer::start(), free_port(), free_port());
    let sidecar = Configured::start(&nats, &listener("door", port, "")).await;
    let next = listener("door", port, "") + &listener("more", more_port, "") + "[mqtt]\nwindow = 7\n";
    sidecar.write(&next);
    let opened = format!("listener more: opened on 127.0.0.1:{more_port}");
    let stays = "mqtt.window: stays as it was, this needs a restart";
    for _ in 0..2 {
        let checked = sidecar.program("check").await;
        assert_eq!(checked.code, 0, "{checked:?}");
        for line in [&opened, stays] {
            assert!(checked.stdout.contains(&format!("reload: {line}\n")), "{checked:?}");
        }
        assert!(is_closed(more_port).await, "nothing is done");
    }
    let reloaded = sidecar.program("reload").await;
    assert_eq!((reloaded.code, reloaded.stdout), (0, format!("{opened}\n{stays}\n")));
    assert!(!is_closed(more_port).await);
    let checked = sidecar.program("check").await;
    assert!(
        checked.stdout.contains(&format!("reload: {stays}\n")) && !checked.stdout.contains("opened"),
        "{checked:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_signals_are_one_reload_or_two_and_one_at_the_start_ends_nothing() {
    let (mut nats, port) = (NatsServer::prepared(true, ""), free_port());
    let mut sidecar = Configured::launch(&nats, &listener("door", port, ""));
    sidecar.logs("nats-mqtt starts").await;
    eventually("it lives", async || http_get(&format!("127.0.0.1:{}", sidecar.admin), "/livez").await.is_some()).await;
    sidecar.write(&(listener("door", port, "") + "[log]\nlevel = \"debug\"\n"));
    sidecar.process.hang_up();
    nats.restart();
    sidecar.ready().await;
    sidecar.logs("SIGHUP: log.level: replaced").await;
    let count = || sidecar.process.log().matches("SIGHUP: ").count();
    let (before, since) = (count(), Instant::now());
    while since.elapsed() < Duration::from_secs(1) {
        sidecar.process.hang_up();
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    eventually("one reload follows them", async || count() > before).await;
    let mut client = Client::connect(port, Options::v5(&unique("c"))).await;
    client.ping().await;
    assert!(count() - before <= 3, "{} reloads for a hundred signals in a second", count() - before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_watched_is_read_when_it_changes() {
    let (nats, port, more_port) = (NatsServer::start(), free_port(), free_port());
    let watching = |more: &str| {
        let text = listener("door", port, "") + more;
        format!("watch = true\n{text}")
    };
    let sidecar = Configured::start(&nats, &watching("")).await;
    sidecar.write(&watching(&listener("more", more_port, "")));
    eventually("it listens there", async || !is_closed(more_port).await).await;
    // No more without being asked.
    sidecar.write(&listener("door", port, ""));
    eventually("it is closed there", async || is_closed(more_port).await).await;
    sidecar.write(&(listener("door", port, "") + &listener("more", more_port, "")));
    sidecar.process.hang_up();
    let opened = format!("SIGHUP: listener more: opened on 127.0.0.1:{more_port}");
    sidecar.logs(&opened).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_and_bans_are_others_and_a_listener_that_changes_goes_on_counting() {
    let (nats, port, flooding) = (NatsServer::start(), free_port(), unique("floods"));
    let sidecar = Configured::start(&nats, &listener("door", port, "limits = { connections = 2 }")).await;
    let mut stays = Client::connect(port, Options::v5(&unique("stays"))).await;
    let mut floods = Client::connect(port, Options::v5(&flooding)).await;
    let answer = async |id: &str| Client::open(port, Options::v5(id)).await.connack.reason;
    assert_eq!(answer("third").await, ReasonCode::QuotaExceeded);
    let changed = "listener renamed: changed for those who connect from now on\n";
    let ban = format!("[[bans.list]]\nclient_id = \"{flooding}\"\n");
    for (now, bans, lines, third) in [
        // Those whom it had by its other name are counted.
        ("connections = 2", "", changed.to_owned(), ReasonCode::QuotaExceeded),
        ("connections = 3", "", changed.to_owned(), ReasonCode::Success),
        (
            "connections = 3",
            "[limits]\nconnections = 2\n",
            "limits.connections: replaced\n".to_owned(),
            ReasonCode::QuotaExceeded,
        ),
        (
            "connections = 3",
            &*ban,
            "limits.connections: replaced\nbans.list: replaced\n".to_owned(),
            ReasonCode::Success,
        ),
    ] {
        sidecar.write(&(listener("renamed", port, &format!("limits = {{ {now} }}")) + bans));
        let reloaded = sidecar.program("reload").await;
        assert_eq!((reloaded.code, &*reloaded.stdout), (0, &*lines), "{reloaded:?}");
        // Whoever was there a moment ago may be counted still.
        eventually(&format!("{now} {bans}"), async || answer("third").await == third).await;
    }
    assert_eq!(floods.closed().await, Some(ReasonCode::AdministrativeAction));
    eventually("nobody is counted who is gone", async || answer(&flooding).await == ReasonCode::Banned).await;
    stays.ping().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_before_the_file_is_read_ends_nothing() {
    let dir = TempDir::new().expect("a temporary directory");
    let file = dir.path().join("nats-mqtt.toml");
    make_pipe(&file);
    let mut command = Command::new(PROGRAM);
    command.arg("-c").arg(&file);
    let mut process = Process::spawn("sidecar", &mut command, &dir.path().join("sidecar.log"));
    let mut pipe = end_of_pipe(&file).await;
    process.hang_up();
    pipe.write_all(b"= nonsense").expect("it reads");
    drop(pipe);
    assert_eq!(process.ended().await.code(), Some(78), "it has read what was written, which is wrong");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_while_the_process_starts_is_read_when_its_file_is_watched() {
    let (mut nats, port, more_port) = (NatsServer::prepared(true, ""), free_port(), free_port());
    let watching = |more: &str| format!("watch = true\n{}{more}", listener("door", port, ""));
    let mut sidecar = Configured::launch(&nats, &watching(""));
    sidecar.logs("nats-mqtt starts").await;
    sidecar.write(&watching(&listener("more", more_port, "")));
    nats.restart();
    sidecar.ready().await;
    eventually("it listens there", async || !is_closed(more_port).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_starts_says_so_when_it_is_asked() {
    let (mut nats, port) = (NatsServer::prepared(true, ""), free_port());
    let mut sidecar = Configured::launch(&nats, &listener("door", port, ""));
    eventually("its socket is there", async || sidecar.dir.path().join("control").exists()).await;
    let reloaded = sidecar.program("reload").await;
    assert!(reloaded.code == 1 && reloaded.stderr.contains("is starting"), "{reloaded:?}");
    let checked = sidecar.program("check --offline").await;
    assert!(checked.code == 0 && checked.stdout.contains("reload: the process is starting"), "{checked:?}");
    nats.restart();
    sidecar.ready().await;
    eventually("it reloads", async || sidecar.program("reload").await.code == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn check_says_what_another_file_would_do_in_place_of_that_of_the_process() {
    let (nats, port, more_port) = (NatsServer::start(), free_port(), free_port());
    let levels = |levels: u32| format!("[mqtt]\nmax_topic_levels = {levels}\n");
    let mut sidecar = Configured::start(&nats, &(listener("door", port, "") + &levels(4))).await;
    let candidate = sidecar.dir.path().join("candidate.toml");
    let put = |more: &str| {
        let all = listener("door", port, "") + more;
        std::fs::write(&candidate, text(&sidecar.nats, sidecar.admin, sidecar.dir.path(), &all)).expect("write it");
    };
    put(&(listener("more", more_port, "") + &levels(4) + "window = 7\n"));
    let checked = sidecar.program_of("check --offline", &candidate).await;
    for line in [&*format!("listener more: opened on 127.0.0.1:{more_port}"), "mqtt.window: stays as it was"] {
        assert!(checked.code == 0 && checked.stdout.contains(&format!("reload: {line}")), "{checked:?}");
    }
    assert!(sidecar.program("check --offline").await.stdout.contains("reload: nothing is different"));
    // Right by itself, and not beside what the process goes on with.
    put(&("mount_point = \"a/b/c/d/\"\n".to_owned() + &levels(8)));
    let checked = sidecar.program_of("check --offline", &candidate).await;
    let why = "a reload would change nothing: configuration: listeners.tcp: mount_point of door leaves no level";
    assert!(checked.code == 78 && checked.stderr.contains(why), "{checked:?}");
    sidecar.process.terminate();
    assert_eq!(sidecar.process.ended().await.code(), Some(0));
    let checked = sidecar.program("check --offline").await;
    let none = format!("reload: none runs that answers on {}", sidecar.dir.path().join("control").display());
    assert!(checked.code == 0 && checked.stdout.contains(&none), "{checked:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_cannot_be_read_does_not_hold_up_the_end() {
    let (nats, port) = (NatsServer::start(), free_port());
    let mut sidecar = Configured::start(&nats, &listener("door", port, "")).await;
    make_pipe(&sidecar.file);
    sidecar.process.hang_up();
    // It reads, and nothing comes.
    let _pipe = end_of_pipe(&sidecar.file).await;
    sidecar.process.terminate();
    assert_eq!(sidecar.process.ended().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_that_is_another_one_counts_for_those_who_are_connected() {
    let (nats, port) = (NatsServer::start(), free_port());
    let door = |limits: &str| listener("door", port, "") + limits;
    let sidecar = Configured::start(&nats, &door("")).await;
    let mut client = Client::connect(port, Options::v5(&unique("fast"))).await;
    client.publish(msg("t", "x").qos(1)).await;
    for (limits, count, least, most) in [
        ("[limits]\nmessage_rate = \"20/s\"\nmessage_burst = 1\n", 41, 2, 20),
        ("[limits]\nmessage_rate = \"1/s\"\nmessage_burst = 1\n", 3, 2, 20),
        ("", 100, 0, 20),
    ] {
        sidecar.write(&door(limits));
        let reloaded = sidecar.program("reload").await;
        assert_eq!(reloaded.code, 0, "{reloaded:?}");
        // By its answer it is known that the client has been told.
        client.ping().await;
        let began = Instant::now();
        client.publish_all((0..count).map(|n| msg("t", n.to_string()).qos(1)), 50, |_| ()).await;
        let took = began.elapsed();
        assert!((Duration::from_secs(least)..Duration::from_secs(most)).contains(&took), "{limits}: {took:?}");
    }
}
