//! Clients that others have written: mosquitto's programs, and paho and nats-py from Python.

use std::path::Path;
use std::process::{Command, Stdio};

use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout};
use tokio::sync::{mpsc, oneshot};

use super::{Finished, PATIENCE, credentials, run};

/// A running `mosquitto_sub` that has its SUBACK.
#[derive(Debug)]
pub(crate) struct MosquittoSub {
    lines: Lines<BufReader<ChildStdout>>,
    _child: Child,
}

impl MosquittoSub {
    /// Starts `mosquitto_sub -v` with these arguments besides the address.
    pub(crate) async fn start(port: u16, args: &[&str]) -> Self {
        // -d tells when it is subscribed; stdbuf, because it keeps that back when it writes into a pipe.
        let mut child = tokio::process::Command::new("stdbuf")
            .args(["-oL", "mosquitto_sub", "-h", "127.0.0.1", "-p", &port.to_string(), "-d", "-v"])
            .args(introduction())
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("mosquitto_sub is needed for the integration tests (package mosquitto-clients)");
        let stdout = child.stdout.take().expect("it is piped");
        let mut sub = Self { lines: BufReader::new(stdout).lines(), _child: child };
        sub.line(|line| line.starts_with("Subscribed")).await;
        sub
    }

    async fn line(&mut self, wanted: impl Fn(&str) -> bool) -> String {
        let found = tokio::time::timeout(PATIENCE, async {
            while let Some(line) = self.lines.next_line().await.expect("read from mosquitto_sub") {
                if wanted(&line) {
                    return line;
                }
            }
            panic!("mosquitto_sub ended")
        });
        found.await.expect("a line of mosquitto_sub in time")
    }

    /// The next message, as `topic payload`.
    pub(crate) async fn next(&mut self) -> String {
        let is_message = |line: &str| !line.starts_with("Client ") && !line.starts_with("Subscribed");
        self.line(is_message).await
    }
}

/// How mosquitto's programs are told who they are.
fn introduction() -> Vec<&'static str> {
    credentials().map_or_else(Vec::new, |(user, password)| vec!["-u", user, "-P", password])
}

/// Runs `mosquitto_pub` with these arguments besides the address, and `stdin` as its input.
pub(crate) async fn mosquitto_pub(port: u16, args: &[&str], stdin: String) -> Finished {
    use tokio::io::AsyncWriteExt;
    let mut child = tokio::process::Command::new("mosquitto_pub")
        .args(["-h", "127.0.0.1", "-p", &port.to_string()])
        .args(introduction())
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("mosquitto_pub is needed for the integration tests (package mosquitto-clients)");
    let mut input = child.stdin.take().expect("it is piped");
    tokio::spawn(async move {
        // It may end before it has read everything; its exit code tells.
        let _ = input.write_all(stdin.as_bytes()).await;
    });
    let output = tokio::time::timeout(PATIENCE * 2, child.wait_with_output()).await;
    let output = output.expect("mosquitto_pub ends in time").expect("its output");
    Finished {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// A script of `tests/integration/py` with these arguments.
fn script(name: &str, args: &[&str]) -> Command {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let inherited = std::env::var_os("PYTHONPATH").unwrap_or_default();
    let paths = std::env::split_paths(&inherited).chain([root.join(".tools/python")]);
    let mut command = Command::new("python3");
    command
        .arg(root.join("tests/integration/py").join(name))
        .args(args)
        .env("PYTHONPATH", std::env::join_paths(paths).expect("paths without separators"))
        .env("PYTHONDONTWRITEBYTECODE", "1");
    if let Some((user, password)) = credentials() {
        command.env("TEST_USER", user).env("TEST_PASSWORD", password);
    }
    command
}

/// Runs a script of `tests/integration/py` to its end, which has to be a good one; its output.
pub(crate) async fn python(name: &str, args: &[&str]) -> String {
    let finished = run(script(name, args), PATIENCE * 3).await;
    let hint = if finished.stderr.contains("ModuleNotFoundError") {
        "paho-mqtt 2 is needed for the integration tests: put it into .tools/python, or set PYTHONPATH to it\n"
    } else {
        ""
    };
    assert_eq!(finished.code, 0, "{name} {args:?}: {hint}{}{}", finished.stdout, finished.stderr);
    finished.stdout
}

/// A worker of a shared subscription in a process of its own, `worker.py`. It says what it has done before it acknowledges it.
#[derive(Debug)]
pub(crate) struct Worker {
    lines: Lines<BufReader<ChildStdout>>,
    child: Child,
}

impl Worker {
    /// Starts one, and waits until it is there.
    pub(crate) async fn start(args: &[&str]) -> Self {
        let mut child = tokio::process::Command::from(script("worker.py", args))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("python3 is needed for the integration tests");
        let stdout = child.stdout.take().expect("it is piped");
        let mut worker = Self { lines: BufReader::new(stdout).lines(), child };
        let ready = tokio::time::timeout(PATIENCE, worker.lines.next_line()).await;
        assert_eq!(ready.expect("a worker in time").expect("its output").as_deref(), Some("ready"), "{args:?}");
        worker
    }

    /// Hands on what it says, to the last line before it ends. What this returns kills it, with SIGKILL, when it is used or
    /// dropped.
    pub(crate) fn run(self, name: &str, done: mpsc::UnboundedSender<(String, String)>) -> oneshot::Sender<()> {
        let Self { mut lines, mut child } = self;
        let (kill, mut killed) = oneshot::channel();
        let name = name.to_owned();
        tokio::spawn(async move {
            loop {
                let line = tokio::select! {
                    line = lines.next_line() => line,
                    _ = &mut killed, if child.id().is_some() => {
                        child.kill().await.expect("SIGKILL");
                        continue;
                    }
                };
                let Ok(Some(line)) = line else { return };
                if done.send((name.clone(), line)).is_err() {
                    return;
                }
            }
        });
        kill
    }
}
