//! Programs that are started for a measurement, and what /proc says about them.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::client::{Client, Endpoint};

/// How long a server may take to start.
const START_MAX: Duration = Duration::from_secs(30);

/// How long to wait before trying again whether it is there.
const START_RETRY: Duration = Duration::from_millis(20);

/// How much of its log is told of a program that has failed.
const LOG_LINES: usize = 5;

/// A directory that is removed with its contents when this is dropped.
#[derive(Debug)]
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    /// A new directory in `parent`.
    pub(crate) fn new(parent: &Path) -> Result<Self, String> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = parent.join(format!("mqtt-bench-{}-{number}", std::process::id()));
        fs::create_dir_all(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        Ok(Self(path))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> Result<PathBuf, String> {
        let path = self.0.join(name);
        fs::write(&path, text).map_err(|e| format!("{}: {e}", path.display()))?;
        Ok(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A program that runs until this is dropped. What it has is thrown away, so it is killed and not asked.
#[derive(Debug)]
pub(crate) struct Program {
    name: &'static str,
    child: Child,
    log: PathBuf,
}

impl Program {
    /// Starts a program whose output goes into a file of `scratch`.
    pub(crate) fn start(name: &'static str, command: &mut Command, scratch: &Scratch) -> Result<Self, String> {
        let log = scratch.path().join(format!("{name}.log"));
        let file = File::create(&log).and_then(|file| Ok((file.try_clone()?, file)));
        let (out, err) = file.map_err(|e| format!("{}: {e}", log.display()))?;
        // What the caller's environment says about our own program is not what is compared.
        let own = std::env::vars_os().map(|(name, _)| name);
        for name in own.filter(|name| name.to_string_lossy().starts_with("NATS_MQTT")) {
            command.env_remove(name);
        }
        let child = command.stdin(Stdio::null()).stdout(out).stderr(err).spawn();
        let child = child.map_err(|e| format!("{}: {e}", command.get_program().to_string_lossy()))?;
        Ok(Self { name, child, log })
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until a TCP port takes connections.
    pub(crate) async fn listens(&mut self, address: std::net::SocketAddr) -> Result<(), String> {
        let tried = async || tokio::net::TcpStream::connect(address).await.map(drop).map_err(|e| e.to_string());
        self.ready(tried).await
    }

    /// Waits until a CONNECT is accepted.
    pub(crate) async fn serves(&mut self, endpoint: Endpoint) -> Result<(), String> {
        let tried = async || Client::connect(endpoint, "mqtt-bench-first", true).await?.disconnect().await;
        self.ready(tried).await
    }

    async fn ready(&mut self, tried: impl AsyncFn() -> Result<(), String>) -> Result<(), String> {
        let until = tokio::time::Instant::now() + START_MAX;
        while let Err(why) = tried().await {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(format!("{} has ended with {status}: {}", self.name, self.log_lines()));
            }
            if tokio::time::Instant::now() > until {
                return Err(format!("{} is not there after {START_MAX:?}: {why}: {}", self.name, self.log_lines()));
            }
            tokio::time::sleep(START_RETRY).await;
        }
        Ok(())
    }

    /// The end of what it said.
    pub(crate) fn log_lines(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().rev().take(LOG_LINES).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join(" / ")
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The processor time that processes have had; nothing when /proc does not tell. Threads that have ended are not in it: what is
/// measured keeps its threads.
pub(crate) fn cpu_time(ids: &[u32]) -> Option<Duration> {
    let mut total = 0;
    for id in ids {
        for task in fs::read_dir(format!("/proc/{id}/task")).ok()? {
            // A thread may end between the two.
            let Ok(text) = fs::read_to_string(task.ok()?.path().join("schedstat")) else { continue };
            total += text.split(' ').next()?.parse::<u64>().ok()?;
        }
    }
    Some(Duration::from_nanos(total))
}

/// How many files a process has open.
pub(crate) fn open_files(id: u32) -> Option<u64> {
    entries(&format!("/proc/{id}/fd"))
}

/// How many files this process may have open, and so may what it starts; nothing when there is no limit.
pub(crate) fn open_files_max() -> Option<u64> {
    rustix::process::getrlimit(rustix::process::Resource::Nofile).current
}

/// How many threads a process has.
pub(crate) fn threads(id: u32) -> Option<u64> {
    entries(&format!("/proc/{id}/task"))
}

fn entries(dir: &str) -> Option<u64> {
    Some(fs::read_dir(dir).ok()?.count() as u64)
}

/// The memory of processes that is in RAM, in bytes.
pub(crate) fn resident(ids: &[u32]) -> Option<u64> {
    ids.iter().map(|id| resident_of(&fs::read_to_string(format!("/proc/{id}/status")).ok()?)).sum()
}

fn resident_of(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_resident_memory_is_read_from_the_status_of_a_process() {
        assert_eq!(resident_of("Name:\tx\nVmHWM:\t    9 kB\nVmRSS:\t    1234 kB\nThreads:\t1\n"), Some(1234 * 1024));
        assert_eq!(resident_of("Name:\tkthread\n"), None);
    }

    #[test]
    fn what_has_run_has_had_processor_time_and_memory() {
        let id = [std::process::id()];
        let before = cpu_time(&id).unwrap();
        while cpu_time(&id).unwrap() <= before {}
        assert!(resident(&id).unwrap() > 0);
        assert_eq!(resident(&[u32::MAX]), None);
        assert!(threads(id[0]).unwrap() > 0 && open_files(id[0]).unwrap() > 0);
        assert_eq!((threads(u32::MAX), open_files(u32::MAX)), (None, None));
    }

    #[test]
    fn a_scratch_directory_goes_with_all_that_is_in_it() {
        let scratch = Scratch::new(&std::env::temp_dir()).unwrap();
        let path = scratch.write("conf", "text").unwrap();
        assert!(path.exists());
        drop(scratch);
        assert!(!path.exists());
    }
}
