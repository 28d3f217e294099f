//! What the system says about this process, read when somebody asks. A value that cannot be read is left out.

use std::{
    sync::OnceLock,
    time::{SystemTime, UNIX_EPOCH},
};

/// The values of the `process_*` metrics.
#[derive(Debug, Default)]
pub(super) struct Process {
    pub(super) cpu_seconds: Option<f64>,
    pub(super) resident_bytes: Option<u64>,
    pub(super) start_time_seconds: f64,
    pub(super) open_fds: Option<u64>,
    pub(super) max_fds: Option<u64>,
}

/// When this was first asked: [`super::Metrics::new`] does, at start.
#[expect(clippy::disallowed_methods, reason = "it is compared with the clock of this machine")]
pub(super) fn start_time_seconds() -> f64 {
    static START: OnceLock<f64> = OnceLock::new();
    *START.get_or_init(|| SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64()))
}

impl Process {
    pub(super) fn read() -> Self {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        Self {
            cpu_seconds: Some(cpu_seconds()),
            resident_bytes: std::fs::read_to_string("/proc/self/statm").ok().and_then(|text| resident_bytes(&text)),
            start_time_seconds: start_time_seconds(),
            open_fds: std::fs::read_dir("/proc/self/fd").ok().map(|entries| entries.count() as u64),
            max_fds: limit.current,
        }
    }
}

fn cpu_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// The second number of `/proc/self/statm` is resident pages.
fn resident_bytes(statm: &str) -> Option<u64> {
    let pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_used_time_memory_and_files() {
        let process = Process::read();
        assert!(process.cpu_seconds.unwrap() > 0.0);
        assert!(process.resident_bytes.unwrap() > 100_000);
        assert!(process.open_fds.unwrap() >= 3);
        assert!(process.start_time_seconds > 1e9);
        assert_eq!(resident_bytes("rubbish"), None);
    }
}
