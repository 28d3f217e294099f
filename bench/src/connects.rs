//! CONNECT, CONNACK, DISCONNECT, over and over, by many clients at the same time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::client::{Client, Endpoint};
use crate::crowd::{AT_ONCE, together};
use crate::histogram::Histogram;
use crate::measured::{Figure, Measured};
use crate::operator::DEVICES;
use crate::process::cpu_time;
use crate::system::Target;

/// How long clients connect before it counts.
const WARM_UP: Duration = Duration::from_millis(500);

/// Sessions that each of the clients resumes in turn.
const SESSIONS_EACH: u64 = 8;

/// How clients connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Connecting {
    /// With a clean session, which ends with the connection.
    Clean,
    /// For the first time with a session that stays.
    New,
    /// To a session that is there, with a subscription at QoS 1.
    Resuming,
    /// Once, with a clean session, and stays; as many as come after a restart.
    Crowd,
}

/// How many there are in a crowd: each has a JWT of its own, where that is asked for.
pub(crate) const CROWD: u64 = DEVICES;

/// How long a crowd may take.
const CROWD_MAX: Duration = Duration::from_secs(60);

/// Runs clients that connect for some seconds.
pub(crate) async fn run(target: &Target, connecting: Connecting, seconds: f64) -> Result<Measured, String> {
    let endpoint = target.endpoint;
    if connecting == Connecting::Crowd {
        return crowd(target).await;
    }
    if connecting == Connecting::Resuming {
        let prepare = move |i| async move {
            let mut client = Client::connect(endpoint, &format!("bench-{i}"), false).await?;
            client.subscribe(&[format!("bench/resume/{i}")], 1).await?;
            client.disconnect().await
        };
        together(AT_ONCE * SESSIONS_EACH, AT_ONCE, None, prepare).await.all()?;
    }
    let begin = Instant::now() + WARM_UP;
    let end = begin + Duration::from_secs_f64(seconds);
    let connected = Arc::new(AtomicU64::new(0));
    let clients = {
        let connected = connected.clone();
        let client = move |i| client(endpoint, connecting, i, (begin, end), connected.clone());
        tokio::spawn(together(AT_ONCE, AT_ONCE, None, client))
    };
    sleep(WARM_UP).await;
    let read = || (connected.load(Ordering::Relaxed), cpu_time(&target.processes));
    let before = read();
    sleep(end - Instant::now()).await;
    let after = read();
    let results = clients.await.map_err(|e| e.to_string())?.all()?;
    let mut latencies = Histogram::new();
    results.iter().for_each(|one| latencies.merge(one));

    let count = after.0 - before.0;
    if count == 0 {
        return Err(format!("nobody was connected within {seconds} s"));
    }
    let cpu = after.1.and_then(|cpu| cpu.checked_sub(before.1?));
    Ok(measured(count, seconds, cpu, &latencies))
}

fn measured(count: u64, seconds: f64, cpu: Option<Duration>, latencies: &Histogram) -> Measured {
    let mut measured = Measured::default();
    measured.figure(Figure::ConnectsPerSecond, Some(count as f64 / seconds));
    measured.figure(Figure::CpuPerConnect, cpu.map(|cpu| cpu.as_secs_f64() * 1e6 / count as f64));
    measured.figure(Figure::MedianMs, latencies.quantile_ms(0.5));
    measured.figure(Figure::P99Ms, latencies.quantile_ms(0.99));
    measured
}

/// All come at once to a server that has just been started, and stay.
async fn crowd(target: &Target) -> Result<Measured, String> {
    let endpoint = target.endpoint;
    let id_of = |i: u64| format!("bench-{i}");
    let connect = move |i| async move {
        let started = Instant::now();
        let client = Client::connect(endpoint, &id_of(i), true).await?;
        Ok((client, started.elapsed()))
    };
    let (cpu, began) = (cpu_time(&target.processes), Instant::now());
    let clients = together(CROWD, AT_ONCE, Some(CROWD_MAX), connect).await.all()?;
    let (seconds, cpu_after) = (began.elapsed().as_secs_f64(), cpu_time(&target.processes));
    let mut latencies = Histogram::new();
    clients.iter().for_each(|(_, took)| latencies.add(took.as_nanos() as u64));
    Ok(measured(CROWD, seconds, cpu_after.and_then(|after| after.checked_sub(cpu?)), &latencies))
}

/// One client; tells how long each CONNECT took of those that came to their end between `begin` and `end`.
async fn client(
    endpoint: Endpoint,
    connecting: Connecting,
    number: u64,
    (begin, end): (Instant, Instant),
    connected: Arc<AtomicU64>,
) -> Result<Histogram, String> {
    let mut latencies = Histogram::new();
    for i in 0.. {
        let id = match connecting {
            Connecting::Resuming => number * SESSIONS_EACH + i % SESSIONS_EACH,
            Connecting::Clean | Connecting::New | Connecting::Crowd => number + i * AT_ONCE,
        };
        let started = Instant::now();
        if started >= end {
            break;
        }
        let client = Client::connect(endpoint, &format!("bench-{id}"), connecting == Connecting::Clean).await?;
        let now = Instant::now();
        if (connecting == Connecting::Resuming) != client.accepted.is_session_present {
            return Err(format!("Session Present was {} for {connecting:?}", client.accepted.is_session_present));
        }
        connected.fetch_add(1, Ordering::Relaxed);
        if (begin..end).contains(&now) {
            latencies.add((now - started).as_nanos() as u64);
        }
        client.disconnect().await?;
    }
    Ok(latencies)
}
