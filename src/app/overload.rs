//! Reads again and again how the process is, and carries out what its level of overload asks for.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::account::{Event, EventOverload};
use crate::accounts::Accounts;
use crate::metrics::{Metrics, Work};
use crate::overload::{self, Cap, Change, Deed, Level, Levels, Memory, PROCESS, Reading, Source, Spare};

/// How often everything is read. Memory can grow by 100 MB in less: what waits in it has a budget of its own.
const EVERY: Duration = Duration::from_millis(100);

/// How often what has to be counted over a while is looked at: latency, rates, files.
const SECOND: Duration = Duration::from_secs(1);

/// Watches until it is dropped.
pub(super) async fn watch(source: Source, accounts: Arc<Accounts>, metrics: Arc<Metrics>) {
    let (began, mut spare) = (Instant::now(), Spare::default());
    let mut watch =
        Watch { levels: Levels::default(), cap: Cap::default(), slow: Slow::begin(&metrics), accounts, metrics };
    loop {
        let slept = Instant::now();
        tokio::time::sleep(EVERY).await;
        let lag = slept.elapsed().saturating_sub(EVERY);
        let read = source.read();
        spare.read(read.used, PROCESS.budget.held() as u64);
        let memory = Memory { used: spare.used(read.limit), ..read };
        PROCESS.note(memory, micros(lag));
        watch.look(millis(began.elapsed()), memory, lag);
    }
}

struct Watch {
    levels: Levels,
    cap: Cap,
    slow: Slow,
    accounts: Arc<Accounts>,
    metrics: Arc<Metrics>,
}

/// What is looked at once a second.
struct Slow {
    at: Instant,
    work: Work,
    publish_ms: u64,
    files_left: Option<u64>,
}

impl Slow {
    fn begin(metrics: &Metrics) -> Self {
        Self { at: Instant::now(), work: metrics.work(), publish_ms: 0, files_left: None }
    }

    /// What was done since the last time, when a second is over.
    fn look(&mut self, metrics: &Metrics) -> Option<Work> {
        if self.at.elapsed() < SECOND {
            return None;
        }
        let work = metrics.work();
        let done = work.since(self.work);
        let mean_us = done.acknowledged_us.checked_div(done.acknowledged).unwrap_or(0);
        *self = Self { at: Instant::now(), work, publish_ms: mean_us / 1_000, files_left: overload::files_left() };
        Some(done)
    }
}

impl Watch {
    fn look(&mut self, now_ms: u64, memory: Memory, lag: Duration) {
        let done = self.slow.look(&self.metrics);
        let reading = Reading {
            memory_permille: memory.permille(),
            lag_ms: millis(lag),
            publish_ms: self.slow.publish_ms,
            files_left: self.slow.files_left,
        };
        if let Some(change) = self.levels.take(now_ms, &reading) {
            PROCESS.set_level(change.to);
            self.tell(change, memory, &reading);
        }
        if let Some(done) = done {
            self.cap = self.cap.next(PROCESS.level() >= Level::ReadLater, done.received, done.clients);
            PROCESS.set_cap(self.cap.bytes_per_second());
        }
        // When there is no room for anybody, those who take nothing of what they have make some.
        if PROCESS.level() == Level::Drop || PROCESS.budget.is_full() {
            self.drop_qos0();
        }
    }

    /// Those for whom most waits at QoS 0 lose it.
    fn drop_qos0(&self) {
        let (accounts, mut waiting) = (self.accounts.all(), Vec::new());
        accounts.iter().for_each(|account| account.qos0_waiting(&mut waiting));
        let Some(cut) = overload::cut_of(&mut waiting) else { return };
        let dropped: usize = accounts.iter().map(|account| account.drop_qos0(cut)).sum();
        (0..dropped).for_each(|_| PROCESS.did(Deed::Dropped));
    }

    /// One line, and one event.
    fn tell(&self, change: Change, memory: Memory, reading: &Reading) {
        let Change { from, to, why } = change;
        let (level, state, why) = (to as u8, to.text(), why.text());
        let Memory { used, limit } = memory;
        let (waiting, lag_ms, publish_ms) = (PROCESS.budget.held(), reading.lag_ms, reading.publish_ms);
        // Within a minute the log takes one of each `setting`.
        if to > from {
            tracing::warn!(setting = state, level, why, used, limit, waiting, lag_ms, publish_ms, "overload: {state}");
        } else {
            tracing::info!(setting = state, level, why, used, limit, waiting, lag_ms, publish_ms, "overload: {state}");
        }
        let home = self.accounts.home();
        home.events.tell_of_node(home.node(), || {
            Event::Overload(EventOverload {
                level,
                state,
                before: from as u8,
                why,
                memory_used: used,
                memory_limit: limit,
            })
        });
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
