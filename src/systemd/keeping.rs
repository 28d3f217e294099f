//! The service manager is kept informed for as long as the process runs.

use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use super::Notifier;
use super::notify::Message;
use crate::readiness::{Missing, Readiness};

/// How often it is told how the process is, where that is news.
const TELL_EVERY: Duration = Duration::from_secs(2);

/// How often it is told again what it had no room for.
const AGAIN: Duration = Duration::from_millis(100);

/// While NATS is away a start asks for so much more time, again and again: it is no reason to be started again.
const LONGER: Duration = Duration::from_secs(30);

/// Asks for more time, again and again, and says what is missing. Never ends: dropped when devices are served.
pub(crate) async fn keep_starting(notifier: Notifier, readiness: Readiness) {
    while notifier.is_heard() {
        _ = notifier.tell(Message::Starting(&format!("waiting for {}", names(&readiness.missing())), LONGER));
        sleep(TELL_EVERY).await;
    }
}

/// Says that the process is alive, twice within the time in which that has to be heard. Never ends.
///
/// What that stands for: timers fire, tasks run, there is a thread for what blocks, and nothing holds a lock for ever that whoever asks
/// `/readyz` needs. Whether the process is ready, and NATS is there, does not count: a restart would not mend it.
pub(crate) async fn keep_alive(notifier: Notifier, readiness: Readiness) {
    let Some(every) = notifier.alive_every() else { return };
    let mut turns = interval(every);
    turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        turns.tick().await;
        if is_alive(&readiness, every).await {
            _ = notifier.tell(Message::Alive);
        }
    }
}

/// Whether the process does what it is asked in this time.
async fn is_alive(readiness: &Readiness, within: Duration) -> bool {
    let (ran, readiness) = (tokio::spawn(async {}), readiness.clone());
    let looked = tokio::task::spawn_blocking(move || drop(readiness.standings()));
    let both = async { ran.await.is_ok() && looked.await.is_ok() };
    timeout(within, both).await.unwrap_or(false)
}

/// Says how a process is that serves devices, whenever that is news. Never ends: dropped with the end of serving.
pub(crate) async fn keep_told(notifier: Notifier, readiness: Readiness, mut told: String) {
    while notifier.is_heard() {
        sleep(TELL_EVERY).await;
        while notifier.tell_waiting() {
            sleep(AGAIN).await;
        }
        let missing = readiness.missing();
        let now = if missing.is_empty() { "ready".to_owned() } else { format!("not ready: {}", names(&missing)) };
        if now != told && notifier.tell(Message::Status(&now)) {
            told = now;
        }
    }
}

/// In a line.
fn names(missing: &[Missing]) -> String {
    missing.iter().map(|missing| missing.name).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use parking_lot::Mutex;

    use super::*;

    const WITHIN: Duration = Duration::from_millis(200);

    #[tokio::test]
    async fn not_ready_is_alive_and_a_lock_that_is_held_for_ever_is_not() {
        let (readiness, lock) = (Readiness::new(), Arc::new(Mutex::new(())));
        let (condition, asked) = (readiness.condition("nats"), Arc::clone(&lock));
        condition.ask(move || {
            drop(asked.lock());
            Err("it is away".to_owned())
        });
        assert!(is_alive(&readiness, WITHIN).await);
        let (release, released) = std::sync::mpsc::channel::<()>();
        let (is_held, holds) = tokio::sync::oneshot::channel();
        let holder = std::thread::spawn(move || {
            let _held = lock.lock();
            is_held.send(()).unwrap();
            released.recv().unwrap();
        });
        holds.await.unwrap();
        assert!(!is_alive(&readiness, WITHIN).await);
        release.send(()).unwrap();
        holder.join().unwrap();
        assert!(is_alive(&readiness, WITHIN).await);
    }
}
