//! MQTT clients that others have written: mosquitto's programs, and paho from Python.

use std::path::Path;
use std::process::{Command, Stdio};

use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout};

use super::{Finished, PATIENCE, run};

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

/// Runs `mosquitto_pub` with these arguments besides the address, and `stdin` as its input.
pub(crate) async fn mosquitto_pub(port: u16, args: &[&str], stdin: String) -> Finished {
    use tokio::io::AsyncWriteExt;
    let mut child = tokio::process::Command::new("mosquitto_pub")
        .args(["-h", "127.0.0.1", "-p", &port.to_string()])
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

/// Runs a script of `tests/integration/py` to its end, which has to be a good one; its output.
pub(crate) async fn python(script: &str, args: &[&str]) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let inherited = std::env::var_os("PYTHONPATH").unwrap_or_default();
    let paths = std::env::split_paths(&inherited).chain([root.join(".tools/python")]);
    let mut command = Command::new("python3");
    command
        .arg(root.join("tests/integration/py").join(script))
        .args(args)
        .env("PYTHONPATH", std::env::join_paths(paths).expect("paths without separators"))
        .env("PYTHONDONTWRITEBYTECODE", "1");
    let finished = run(command, PATIENCE * 3).await;
    let hint = if finished.stderr.contains("ModuleNotFoundError") {
        "paho-mqtt 2 is needed for the integration tests: put it into .tools/python, or set PYTHONPATH to it\n"
    } else {
        ""
    };
    assert_eq!(finished.code, 0, "{script} {args:?}: {hint}{}{}", finished.stdout, finished.stderr);
    finished.stdout
}
