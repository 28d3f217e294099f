//! nats-server and a sidecar in a directory of their own. The sidecar is a copy of this program, and so is whatever else plays a part.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::harness::{Process, free_port, nats_server_program};

/// That of the program: what a sidecar gives back is measured.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Set for the copies of this program that play a part.
const ROLE: &str = "NATS_MQTT_ROLE";

/// The part of the sidecar.
const SIDECAR: &str = "sidecar";

/// How long something may take to start.
const READY: Duration = Duration::from_secs(60);

/// The part that this process plays; `None`: it is the one that somebody has started.
pub(crate) fn role() -> Option<String> {
    std::env::var(ROLE).ok()
}

/// A copy of this program that plays a part.
pub(crate) fn copy(role: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.env(ROLE, role);
    command
}

/// A copy that does what the sidecar's command line says.
pub(crate) fn sidecar() -> Command {
    copy(SIDECAR)
}

/// Whether a part is that of the sidecar.
pub(crate) fn is_sidecar(role: &str) -> bool {
    role == SIDECAR
}

/// The server and the sidecar. They end with it.
pub(crate) struct World {
    pub(crate) dir: PathBuf,
    sidecar: Process,
    _server: Process,
}

impl World {
    /// Starts both. `configure` adds to the sidecar's command what is not the address of nats-server, and may write files beside it.
    pub(crate) async fn start(name: &str, configure: impl FnOnce(&mut Command, &Path)) -> Self {
        let dir = std::env::temp_dir().join(format!("nats-mqtt-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a directory");
        let nats = free_port();
        let text = format!(
            "listen: \"127.0.0.1:{nats}\"\nmax_payload: 8MB\n\
             jetstream {{ store_dir: data, max_file_store: 64GB, max_memory_store: 1GB }}\n"
        );
        std::fs::write(dir.join("nats.conf"), text).expect("write the configuration");
        let mut command = Command::new(nats_server_program());
        command.current_dir(&dir).args(["-c", "nats.conf"]);
        let server = Process::spawn("nats-server", &mut command, &dir.join("nats.log"));
        until("nats-server", || server.log().contains("Server is ready")).await;
        let mut command = sidecar();
        command.args(["--nats", &format!("nats://127.0.0.1:{nats}")]);
        configure(&mut command, &dir);
        let sidecar = Process::spawn("sidecar", &mut command, &dir.join("sidecar.log"));
        until("the sidecar", || sidecar.log().contains("ready")).await;
        Self { dir, sidecar, _server: server }
    }

    /// Resident memory of the sidecar.
    pub(crate) fn memory_kib(&self) -> u64 {
        self.status("VmRSS:")
    }

    /// The most that it has had.
    pub(crate) fn most_memory_kib(&self) -> u64 {
        self.status("VmHWM:")
    }

    fn status(&self, name: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.sidecar.pid())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|text| text.split_whitespace().next()?.parse().ok()).unwrap_or(0)
    }

    /// What the sidecar has said.
    pub(crate) fn log(&self) -> String {
        self.sidecar.log()
    }

    /// Removes the directory where everybody is well, and says where it is where not.
    pub(crate) fn tidy(self, is_well: bool) {
        if is_well {
            // What cannot be removed stays.
            let _ = std::fs::remove_dir_all(&self.dir);
        } else {
            println!("logs are in {}", self.dir.display());
        }
    }
}

/// The one below which so many in a hundred are.
pub(crate) fn percentile(durations: &[Duration], percent: usize) -> Duration {
    let mut sorted = durations.to_vec();
    sorted.sort_unstable();
    let index = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
    sorted.get(index).copied().unwrap_or_default()
}

async fn until(what: &str, is_so: impl Fn() -> bool) {
    let since = std::time::Instant::now();
    while !is_so() {
        assert!(since.elapsed() < READY, "{what} does not start");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
