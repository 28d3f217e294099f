//! How a sidecar and the nats-server behind it are: by /proc, and by what the sidecar says of itself.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use crate::process::{cpu_time, open_files, resident, threads};
use crate::system::Target;

/// How long the sidecar may take to tell its metrics.
const METRICS_MAX: Duration = Duration::from_secs(30);

/// Looks at both.
pub(super) struct Gauge {
    sidecar: u32,
    server: u32,
    admin: SocketAddr,
}

/// How both were.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Look {
    /// Accounts that are open, that of the sidecar among them, and clients that are connected.
    accounts: u64,
    connections: u64,
    sidecar: Standing,
    server: Standing,
}

/// How a process was.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Standing {
    /// Bytes.
    resident: u64,
    files: u64,
    threads: u64,
    /// Of one core.
    cpu_percent: f64,
}

impl Gauge {
    /// Of a target that consists of a sidecar and a nats-server.
    pub(super) fn new(target: &Target, admin: SocketAddr) -> Result<Self, String> {
        match target.processes[..] {
            [sidecar, server] => Ok(Self { sidecar, server, admin }),
            _ => Err("this takes a nats-mqtt and a nats-server".to_owned()),
        }
    }

    /// How they are, after it was counted for so long what CPU they take.
    pub(super) async fn look(&self, seconds: f64) -> Result<Look, String> {
        let processes = [self.sidecar, self.server];
        let (began, before) = (Instant::now(), processes.map(|id| cpu_time(&[id])));
        sleep(Duration::from_secs_f64(seconds)).await;
        let (took, after) = (began.elapsed(), processes.map(|id| cpu_time(&[id])));
        let standing = |which: usize| {
            let id = processes[which];
            let cpu = after[which]?.checked_sub(before[which]?)?;
            Some(Standing {
                resident: resident(&[id])?,
                files: open_files(id)?,
                threads: threads(id)?,
                cpu_percent: cpu.as_secs_f64() / took.as_secs_f64() * 100.0,
            })
        };
        let gone = || "/proc does not tell of the servers: they have ended, or are somebody else's".to_owned();
        let (sidecar, server) = (standing(0).ok_or_else(gone)?, standing(1).ok_or_else(gone)?);
        let metrics = self.metrics().await?;
        let value = |name| value_of(&metrics, name).ok_or_else(|| format!("the sidecar has no metric {name}"));
        Ok(Look { accounts: value("mqtt_accounts")?, connections: value("mqtt_connections")?, sidecar, server })
    }

    /// Accounts that are open, that of the sidecar among them.
    pub(super) async fn accounts(&self) -> Result<u64, String> {
        value_of(&self.metrics().await?, "mqtt_accounts").ok_or_else(|| "the sidecar has no mqtt_accounts".to_owned())
    }

    async fn metrics(&self) -> Result<String, String> {
        let asked = async {
            let mut stream = TcpStream::connect(self.admin).await?;
            stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: sidecar\r\nConnection: close\r\n\r\n").await?;
            let mut text = String::new();
            stream.read_to_string(&mut text).await.map(|_| text)
        };
        let told = timeout(METRICS_MAX, asked).await.map_err(|_| format!("no metrics within {METRICS_MAX:?}"))?;
        told.map_err(|e| format!("no metrics: {e}"))
    }
}

impl Look {
    /// As they stand in the table.
    pub(super) fn figures(&self) -> Vec<(&'static str, f64)> {
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let Self { accounts, connections, sidecar, server } = *self;
        vec![
            ("accounts", accounts as f64),
            ("connections", connections as f64),
            ("nats-mqtt MiB", mib(sidecar.resident)),
            ("nats-mqtt % of a core", sidecar.cpu_percent),
            ("nats-mqtt files", sidecar.files as f64),
            ("nats-mqtt threads", sidecar.threads as f64),
            ("nats-server MiB", mib(server.resident)),
            ("nats-server % of a core", server.cpu_percent),
            ("nats-server files", server.files as f64),
            ("nats-server threads", server.threads as f64),
        ]
    }

    /// What each account takes that was opened since the first look.
    pub(super) fn each(&self, first: &Self) -> Vec<(&'static str, f64)> {
        let Some(opened) = self.accounts.checked_sub(first.accounts).filter(|opened| *opened > 0) else {
            return Vec::new();
        };
        let each = |now: u64, before: u64| now.saturating_sub(before) as f64 / opened as f64;
        let kib = |now: Standing, before: Standing| each(now.resident, before.resident) / 1024.0;
        vec![
            ("nats-mqtt KiB each", kib(self.sidecar, first.sidecar)),
            ("nats-mqtt files each", each(self.sidecar.files, first.sidecar.files)),
            ("nats-server KiB each", kib(self.server, first.server)),
        ]
    }
}

/// A metric without labels.
fn value_of(metrics: &str, name: &str) -> Option<u64> {
    metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_found_by_its_whole_name() {
        let text = "# TYPE mqtt_accounts gauge\nmqtt_accounts_x 1\nmqtt_accounts 51\r\nmqtt_connections 7\n# EOF\n";
        assert_eq!((value_of(text, "mqtt_accounts"), value_of(text, "mqtt_connections")), (Some(51), Some(7)));
        assert_eq!(value_of(text, "mqtt"), None);
    }

    #[test]
    fn what_each_account_takes_is_the_growth_divided_by_those_that_were_opened() {
        let look = |accounts, kib: u64, files| {
            let standing = Standing { resident: kib * 1024, files, threads: 4, cpu_percent: 0.0 };
            Look { accounts, connections: 0, sidecar: standing, server: standing }
        };
        let each = look(11, 5_000, 80).each(&look(1, 1_000, 20));
        assert_eq!(
            each,
            [("nats-mqtt KiB each", 400.0), ("nats-mqtt files each", 6.0), ("nats-server KiB each", 400.0)]
        );
        assert_eq!(look(1, 900, 20).each(&look(1, 1_000, 20)), []);
    }
}
