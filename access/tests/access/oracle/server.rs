//! A nats-server with a configuration, which ends with its handle.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

pub(super) struct Server {
    child: Child,
    pub(super) port: u16,
    _dir: TempDir,
}

/// The program: `$NATS_SERVER`, then `$PATH`, then `.tools/bin` of the workspace.
fn program() -> PathBuf {
    if let Some(path) = std::env::var_os("NATS_SERVER") {
        return path.into();
    }
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let local = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.tools/bin");
    std::env::split_paths(&paths)
        .chain([local])
        .map(|dir| dir.join("nats-server"))
        .find(|file| file.is_file())
        .expect("nats-server is needed for this test: put it into $PATH or .tools/bin, or set NATS_SERVER to it")
}

impl Server {
    /// Starts one on a port of its own choice, with these lines in its configuration, and waits until it listens.
    pub(super) fn start(config: &str) -> Self {
        let dir = TempDir::with_prefix("mqtt-access-nats-").unwrap();
        let file = dir.path().join("nats.conf");
        std::fs::write(&file, format!("listen: \"127.0.0.1:-1\"\n{config}\n")).unwrap();
        let mut command = Command::new(program());
        command.arg("-c").arg(&file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut read = Vec::new();
        let mut port = None;
        loop {
            let Some(Ok(line)) = log.next() else { panic!("nats-server does not start:\n{}", read.join("\n")) };
            if let Some((_, address)) = line.split_once("Listening for client connections on ") {
                port = address.rsplit(':').next().and_then(|port| port.trim().parse().ok());
            }
            if line.contains("Server is ready") {
                break;
            }
            read.push(line);
        }
        // It writes a line for each refusal, and nobody is to make it wait.
        std::thread::spawn(move || log.for_each(drop));
        Self { child, port: port.unwrap(), _dir: dir }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
