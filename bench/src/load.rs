//! Messages from publishers to subscribers for some seconds: how many arrive, how fast, and what they cost.
//!
//! The loop is closed: a publisher is ahead of its subscribers by a window of messages at most, so that what is measured is what
//! arrives and not who drops faster. A load with a rate is open as long as nobody falls behind. Then a message that is late because
//! the broker took no earlier one counts from when it should have been sent.
//!
//! # Layout
//! - `plan`: who publishes to whom
//! - `course`: what all clients of a load share; `publisher`, `subscriber`: a client each

mod course;
mod plan;
mod publisher;
mod subscriber;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use crate::client::Client;
use crate::crowd::{AT_ONCE, together};
use crate::histogram::Histogram;
use crate::measured::{Figure, Measured};
use crate::process::cpu_time;
use crate::system::Target;
use course::{Course, Phase};
pub(crate) use plan::{Judged, Load};
use publisher::Published;
use subscriber::Subscribed;

/// How long messages go their way before they count.
const WARM_UP: Duration = Duration::from_secs(1);

/// How long nothing may move at the end before what has not come is lost.
const IDLE_MAX: Duration = Duration::from_secs(5);

/// How long all that is under way at the end may take.
const DRAIN_MAX: Duration = Duration::from_secs(60);

/// How long to wait for what comes twice, when all has come.
const GRACE: Duration = Duration::from_millis(200);

/// What is looked at, and how often, while it drains.
const LOOK: Duration = Duration::from_millis(10);

/// How a load is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Effort {
    pub(crate) seconds: f64,
    pub(crate) payload: usize,
}

/// What was seen while it counted.
struct Window {
    seconds: f64,
    delivered: u64,
    cpu: Option<Duration>,
    own_cpu: Option<Duration>,
}

/// What was seen of a load.
pub(crate) struct Seen {
    window: Window,
    /// From publish to delivery, and from publish to the last acknowledgement.
    pub(crate) deliveries: Histogram,
    pub(crate) acknowledgements: Histogram,
    /// What was not as it should be.
    pub(crate) remarks: Vec<String>,
}

/// Runs a load and tells its figures.
pub(crate) async fn run(target: &Target, load: &Load, effort: Effort) -> Result<Measured, String> {
    Ok(observe(target, load, effort).await?.measured(load))
}

/// Runs a load and tells what was seen of it.
pub(crate) async fn observe(target: &Target, load: &Load, effort: Effort) -> Result<Seen, String> {
    let course = Arc::new(Course::new(load.clone(), effort.payload));
    let mut subscribers = Vec::new();
    for client in open(target, load.subscribers, ("s", !load.is_durable)).await? {
        subscribers.push(client);
    }
    for (i, client) in subscribers.iter_mut().enumerate() {
        client.subscribe(&[load.filter(course::PREFIX, i)], load.qos).await?;
    }
    let publishers = open(target, load.publishers, ("p", true)).await?;
    let subscribers: Vec<_> =
        subscribers.into_iter().map(|client| tokio::spawn(subscriber::run(course.clone(), client))).collect();
    let publishers: Vec<_> =
        (0..).zip(publishers).map(|(i, client)| tokio::spawn(publisher::run(course.clone(), client, i))).collect();

    sleep(WARM_UP).await;
    let window = count(&course, target, effort).await;
    drain(&course).await;
    course.enter(Phase::End);
    let published = joined(publishers).await?;
    let subscribed = joined(subscribers).await?;
    Seen::new(&course, window, &published, &subscribed)
}

/// Clients by their numbers: of tenants each is of the one with its number.
async fn open(target: &Target, count: usize, (kind, is_clean): (&'static str, bool)) -> Result<Vec<Client>, String> {
    let endpoint = target.endpoint;
    let opened = together(count as u64, AT_ONCE, None, move |i| async move {
        Client::connect(endpoint, &format!("bench-{kind}-{i}"), is_clean).await.map(|client| (i, client))
    });
    let mut opened = opened.await.all()?;
    opened.sort_unstable_by_key(|(i, _)| *i);
    Ok(opened.into_iter().map(|(_, client)| client).collect())
}

async fn joined<T>(tasks: Vec<JoinHandle<T>>) -> Result<Vec<T>, String> {
    let mut results = Vec::new();
    for task in tasks {
        results.push(task.await.map_err(|e| format!("a client of the generator failed: {e}"))?);
    }
    Ok(results)
}

/// Lets it run, and reads all counters at both ends.
async fn count(course: &Course, target: &Target, effort: Effort) -> Window {
    let own = [std::process::id()];
    let read =
        || (Instant::now(), course.delivered.load(Ordering::Relaxed), cpu_time(&target.processes), cpu_time(&own));
    let before = read();
    course.enter(Phase::Counting);
    sleep(Duration::from_secs_f64(effort.seconds)).await;
    let after = read();
    course.enter(Phase::Draining);
    let since = |after: Option<Duration>, before: Option<Duration>| after?.checked_sub(before?);
    Window {
        seconds: (after.0 - before.0).as_secs_f64(),
        delivered: after.1 - before.1,
        cpu: since(after.2, before.2),
        own_cpu: since(after.3, before.3),
    }
}

/// Waits until all has come that was published, or nothing comes any more.
async fn drain(course: &Course) {
    let until = Instant::now() + DRAIN_MAX;
    let (mut last, mut moved) = (course.progress(), Instant::now());
    while !course.is_complete() && moved.elapsed() < IDLE_MAX && Instant::now() < until {
        sleep(LOOK).await;
        let now = course.progress();
        if now != last {
            (last, moved) = (now, Instant::now());
        }
    }
    sleep(GRACE).await;
}

impl Seen {
    fn new(
        course: &Course,
        window: Window,
        published: &[Published],
        subscribed: &[Subscribed],
    ) -> Result<Self, String> {
        let (mut deliveries, mut acknowledgements) = (Histogram::new(), Histogram::new());
        subscribed.iter().for_each(|one| deliveries.merge(&one.latencies));
        published.iter().for_each(|one| acknowledgements.merge(&one.latencies));
        if window.delivered == 0 {
            return Err(match course.connections_lost.load(Ordering::Relaxed) {
                0 => "no message was delivered".to_owned(),
                lost => format!("no message was delivered, and {lost} connections were lost"),
            });
        }
        let sum = |of: fn(&Subscribed) -> u64| subscribed.iter().map(of).sum::<u64>();
        let mut measured = Measured::default();
        measured.remark("lost", course.lost());
        measured.remark("twice", sum(|one| one.duplicates));
        measured.remark("out of order", sum(|one| one.reordered));
        measured.remark("not ours", sum(|one| one.foreign));
        measured.remark("refused", published.iter().map(|one| one.refused).sum());
        measured.remark("connections lost", course.connections_lost.load(Ordering::Relaxed));
        Ok(Self { window, deliveries, acknowledgements, remarks: measured.remarks })
    }

    pub(crate) fn messages_per_second(&self) -> f64 {
        self.window.delivered as f64 / self.window.seconds
    }

    /// The figures that a load is judged by.
    fn measured(self, load: &Load) -> Measured {
        let latencies =
            if load.judged == Judged::RoundTrip && load.qos > 0 { &self.acknowledgements } else { &self.deliveries };
        let (window, mut measured) = (&self.window, Measured::default());
        if load.judged != Judged::Latency {
            measured.figure(Figure::MessagesPerSecond, Some(self.messages_per_second()));
        }
        let cpu = window.cpu.map(|cpu| cpu.as_secs_f64() * 1e6 / window.delivered as f64);
        measured.figure(Figure::CpuPerMessage, cpu);
        if load.judged != Judged::Throughput {
            measured.figure(Figure::MedianMs, latencies.quantile_ms(0.5));
        }
        measured.figure(Figure::P99Ms, latencies.quantile_ms(0.99));
        measured.generator_cores = window.own_cpu.map(|cpu| cpu.as_secs_f64() / window.seconds);
        measured.remarks = self.remarks;
        measured
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(publishers: usize, subscribers: usize) -> Load {
        let (qos, in_flight, window, rate, judged, is_durable) = (1, 1, 1, None, Judged::Throughput, false);
        Load { qos, publishers, subscribers, in_flight, window, rate, judged, is_durable }
    }

    #[test]
    fn filters_are_as_publishers_and_subscribers_stand_to_each_other() {
        let filters = |publishers, subscribers: usize| {
            let load = load(publishers, subscribers);
            (0..subscribers).map(|i| load.filter("t", i)).collect::<Vec<_>>()
        };
        assert_eq!(filters(1, 1), ["t/0"]);
        assert_eq!(filters(2, 2), ["t/0", "t/1"]);
        assert_eq!(filters(1, 3), ["t/0"; 3]);
        assert_eq!(filters(3, 1), ["t/+"]);
        assert_eq!(
            [load(1, 1).fan_out(), load(2, 2).fan_out(), load(1, 3).fan_out(), load(3, 1).fan_out()],
            [1, 1, 3, 1]
        );
    }
}
