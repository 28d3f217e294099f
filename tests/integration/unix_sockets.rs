//! MQTT on a socket of the file system, with mosquitto's clients and as bytes: who may connect, who it is, and what becomes of
//! the file.

use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::harness::{NatsServer, PATIENCE, PROGRAM, Sidecar, SidecarBuilder, eventually, mosquitto_pub, run, unique};

/// A CONNECT of 3.1.1 with the client id `local`, and what accepts it.
const CONNECT: &[u8] = b"\x10\x11\0\x04MQTT\x04\x02\0\x3C\0\x05local";
const CONNACK: [u8; 4] = [0x20, 2, 0, 0];

fn config(dir: &Path, keys: &str) -> PathBuf {
    let (file, socket) = (dir.join("nats-mqtt.toml"), dir.join("mqtt.sock"));
    std::fs::write(&file, format!("[listeners.unix.local]\npath = {socket:?}\n{keys}\n[log]\nlevel = \"debug\"\n"))
        .unwrap();
    file
}

async fn start(nats: &NatsServer, dir: &TempDir, keys: &str) -> Sidecar {
    let config = config(dir.path(), keys);
    let builder = SidecarBuilder::new("unix", &["--nats", &nats.url(), "-c", config.to_str().unwrap()]);
    builder.open().start().await
}

async fn connects(path: &Path) -> bool {
    let Ok(mut stream) = UnixStream::connect(path).await else { return false };
    let mut answer = [0; 4];
    stream.write_all(CONNECT).await.is_ok() && stream.read_exact(&mut answer).await.is_ok() && answer == CONNACK
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_speaks_mqtt_by_the_file_system() {
    let (nats, dir) = (NatsServer::start(), TempDir::new().unwrap());
    let gid = std::fs::metadata(dir.path()).unwrap().gid();
    let mut sidecar = start(&nats, &dir, &format!("mode = \"0620\"\ngroup = \"{gid}\"")).await;
    let path = dir.path().join("mqtt.sock");
    let file = std::fs::metadata(&path).unwrap();
    assert!(file.file_type().is_socket());
    assert_eq!((file.permissions().mode() & 0o777, file.gid()), (0o620, gid));
    assert!(sidecar.log().contains(path.to_str().unwrap()), "the line that says where it listens: {}", sidecar.log());

    let mut watcher = sidecar.v5(&unique("watcher")).await;
    watcher.subscribe("local/#", 1).await;
    let large = "x".repeat(300_000);
    for payload in ["small", &large] {
        let args = ["--unix", path.to_str().unwrap(), "-t", "local/x", "-q", "1", "-i", "foreign", "-s"];
        let published = mosquitto_pub(sidecar.mqtt_port, &args, payload.to_owned()).await;
        assert_eq!(published.code, 0, "{}", published.stderr);
        assert!(watcher.receive().await.payload == payload.as_bytes());
    }
    assert!(connects(&path).await);
    let (uid, pid) = (rustix::process::getuid().as_raw(), std::process::id());
    eventually("it is known who it was", async || {
        let log = sidecar.log();
        log.contains(&format!("connected client_id=\"local\" remote=unix:{uid}:{pid} listener=\"local\""))
            && log.contains(&format!("connected client_id=\"foreign\" remote=unix:{uid}:"))
            && log.contains(&format!("pid={pid} uid={uid} gid="))
    })
    .await;
    assert!(sidecar.stop().await.success());
    assert!(!path.exists(), "the file is gone with it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_was_left_is_replaced_and_one_that_answers_is_not() {
    let (nats, dir) = (NatsServer::start(), TempDir::new().unwrap());
    let mut sidecar = start(&nats, &dir, "").await;
    let path = dir.path().join("mqtt.sock");
    assert!(connects(&path).await);
    // Another one says in one line why it does not start.
    let mut second = Command::new(PROGRAM);
    second.args(["--nats", &nats.url(), "--admin", "", "-c"]).arg(config(dir.path(), ""));
    let said = run(second, PATIENCE).await;
    assert_ne!(said.code, 0);
    let expected = format!("listener local: cannot listen on {}: another process listens there", path.display());
    assert_eq!(said.stderr.lines().filter(|line| line.contains(&expected)).count(), 1, "{}", said.stderr);
    assert!(connects(&path).await, "and takes nothing away");
    sidecar.kill();
    eventually("nobody answers", async || UnixStream::connect(&path).await.is_err()).await;
    assert!(path.exists(), "killed, it has left its file");
    sidecar.restart().await;
    assert!(tokio::time::timeout(Duration::from_secs(10), connects(&path)).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_there_is_not_is_one_line_of_check() {
    let dir = TempDir::new().unwrap();
    let mut check = Command::new(PROGRAM);
    check.args(["check", "--offline", "-c"]).arg(config(dir.path(), "group = \"no-such-group\""));
    let said = run(check, PATIENCE).await;
    assert_eq!(said.code, 78, "{}", said.stderr);
    let expected = "there is no group \"no-such-group\" in /etc/group: name one that is, or write its number";
    assert!(said.stderr.lines().any(|line| line.ends_with(expected)), "{}", said.stderr);
}
