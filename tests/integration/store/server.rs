//! A nats-server of its own for a test: free port, temporary directory, and it can be killed and started again.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

const READY_WITHIN: Duration = Duration::from_secs(20);
/// What its streams may reserve: without it that is three quarters of the disk, which may be less than ours are made for.
const ROOM: &str = "64GB";

/// A running server; it is killed and its data is removed when this is dropped.
pub(crate) struct NatsServer {
    child: Option<Child>,
    port: u16,
    monitor: u16,
    dir: tempfile::TempDir,
    jetstream: bool,
    room: String,
    extra: String,
}

impl NatsServer {
    /// A server with JetStream.
    pub(crate) fn start() -> Self {
        Self::start_with(true, "")
    }

    /// A server with more lines in its configuration.
    pub(crate) fn start_with(jetstream: bool, extra: &str) -> Self {
        Self::start_in(ROOM, jetstream, extra)
    }

    fn start_in(room: &str, jetstream: bool, extra: &str) -> Self {
        let port = free_port();
        let dir = tempfile::tempdir().expect("temporary directory");
        let monitor = free_port();
        let mut server =
            Self { child: None, port, monitor, dir, jetstream, room: room.to_owned(), extra: extra.to_owned() };
        server.restart();
        server
    }

    /// A cluster of so many servers with JetStream.
    pub(crate) fn start_cluster(size: usize) -> Vec<Self> {
        Self::start_cluster_with(size, ROOM)
    }

    /// The same, with so much room on each server.
    pub(crate) fn start_cluster_with(size: usize, room: &str) -> Vec<Self> {
        let routes: Vec<u16> = (0..size).map(|_| free_port()).collect();
        let urls: Vec<String> = routes.iter().map(|port| format!("nats://127.0.0.1:{port}")).collect();
        let member = |(number, port): (usize, &u16)| {
            let extra = format!(
                "server_name: n{number}\ncluster {{ name: c, listen: \"127.0.0.1:{port}\", routes: [{}] }}\n",
                urls.join(", ")
            );
            Self::start_in(room, true, &extra)
        };
        routes.iter().enumerate().map(member).collect()
    }

    /// Names of its client connections, in order.
    pub(crate) fn connection_names(&self) -> Vec<String> {
        let mut socket = TcpStream::connect(("127.0.0.1", self.monitor)).expect("monitor");
        socket.write_all(b"GET /connz HTTP/1.0\r\n\r\n").expect("ask");
        let mut answer = String::new();
        socket.read_to_string(&mut answer).expect("answer");
        let body = answer.split_once("\r\n\r\n").expect("body").1;
        let body: serde_json::Value = serde_json::from_str(body).expect("JSON");
        let connections = body["connections"].as_array().expect("connections");
        let mut names: Vec<String> =
            connections.iter().map(|connection| connection["name"].as_str().unwrap_or_default().to_owned()).collect();
        names.sort();
        names
    }

    /// Where clients connect.
    pub(crate) fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Starts it again on the same port and data; it must not be running.
    pub(crate) fn restart(&mut self) {
        assert!(self.child.is_none(), "it is running");
        let config = self.dir.path().join("server.conf");
        std::fs::write(&config, self.config()).expect("write configuration");
        let mut child = Command::new(binary())
            .arg("-c")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("start nats-server; set NATS_SERVER to its path");
        wait_until_ready(&mut child, self.port);
        self.child = Some(child);
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("kill");
            child.wait().expect("wait");
        }
    }

    /// SIGTERM, and waits until it has ended.
    pub(crate) fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let status = Command::new("kill").arg(child.id().to_string()).status().expect("kill");
            assert!(status.success());
            child.wait().expect("wait");
        }
    }

    fn config(&self) -> String {
        let mut text = format!("listen: 127.0.0.1:{}\nhttp: 127.0.0.1:{}\n", self.port, self.monitor);
        if self.jetstream {
            text += &format!(
                "jetstream {{ store_dir: {:?}, max_file_store: {} }}\n",
                self.dir.path().join("js"),
                self.room
            );
        }
        text + &self.extra
    }
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        self.kill();
    }
}

fn binary() -> PathBuf {
    std::env::var_os("NATS_SERVER").map_or_else(|| PathBuf::from("nats-server"), PathBuf::from)
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    listener.local_addr().expect("address").port()
}

/// The server says when it is ready; that it accepts connections is checked as well.
fn wait_until_ready(child: &mut Child, port: u16) {
    let stderr = child.stderr.take().expect("stderr");
    let (tx, rx) = mpsc::channel();
    // Goes on reading afterwards, so that the server never blocks on its log.
    std::thread::spawn(move || {
        let mut seen = Vec::new();
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            if line.contains("Server is ready") {
                let _ = tx.send(Ok(()));
            }
            seen.push(line);
            if seen.len() > 50 {
                seen.remove(0);
            }
        }
        let _ = tx.send(Err(seen.join("\n")));
    });
    match rx.recv_timeout(READY_WITHIN) {
        Ok(Ok(())) => {}
        Ok(Err(log)) => panic!("nats-server ended:\n{log}"),
        Err(_) => panic!("nats-server is not ready after {READY_WITHIN:?}"),
    }
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let started = Instant::now();
    while TcpStream::connect(address).is_err() {
        assert!(started.elapsed() < READY_WITHIN, "nats-server does not accept connections");
        std::thread::sleep(Duration::from_millis(5));
    }
}
