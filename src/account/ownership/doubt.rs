//! Whether this process may have been unreachable of late: stopped, without NATS, or behind a link on which everything comes
//! late. Another sidecar that wanted one of our sessions meanwhile has asked in vain and gone on without us, so what we believe
//! of our sessions is to be looked at before it is acted upon.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::store::{CoreNats, Store};

/// How often this process says that it runs.
const BEAT: Duration = Duration::from_millis(200);

/// A beat that is so late is a sign that the process was stopped, and a round trip that takes so long one that its link is late:
/// less than a new owner waits for an answer of the old one.
const STALL: Duration = Duration::from_millis(1_500);

/// How often the link is asked for a round trip.
const ROUND_TRIP_EVERY: Duration = Duration::from_millis(500);

/// How long the doubt lasts: by then what was asked in vain is known here, by records that have another owner.
const DOUBTFUL_FOR: Duration = Duration::from_secs(10);

/// When this process was last known to be stopped or cut off.
#[derive(Debug)]
pub(crate) struct Doubt {
    began: Instant,
    /// Milliseconds since it began.
    beat_ms: AtomicU64,
    /// The same plus one; 0 is never.
    unreachable_ms: AtomicU64,
}

impl Doubt {
    fn new() -> Self {
        Self { began: Instant::now(), beat_ms: AtomicU64::new(0), unreachable_ms: AtomicU64::new(0) }
    }

    /// One that is told that this process runs, as long as somebody wants to know.
    pub(in crate::account) fn start(store: &Store) -> Arc<Self> {
        let (mut connected, core) = (store.connected(), store.core().clone());
        let doubt = Arc::new(Self::new());
        let watched = Arc::downgrade(&doubt);
        store.tasks().spawn(async move {
            let mut beat = tokio::time::interval(BEAT);
            let mut round_trip = std::pin::pin!(round_trip(core.clone()));
            let mut began = Instant::now();
            loop {
                let mut is_back = false;
                tokio::select! {
                    _ = beat.tick() => {}
                    Ok(()) = connected.changed() => {}
                    () = &mut round_trip => is_back = true,
                }
                let Some(doubt) = watched.upgrade() else { return };
                let is_late = began.elapsed() >= STALL + ROUND_TRIP_EVERY;
                doubt.beat(*connected.borrow_and_update() && !is_late);
                if is_back {
                    began = Instant::now();
                    round_trip.set(self::round_trip(core.clone()));
                }
            }
        });
        doubt
    }

    /// Says that the process runs, and whether NATS is there.
    fn beat(&self, is_connected: bool) {
        self.beat_at(self.elapsed_ms(), is_connected);
    }

    /// Whether somebody may have asked us in vain.
    pub(crate) fn is_in_doubt(&self) -> bool {
        self.is_in_doubt_at(self.elapsed_ms())
    }

    fn elapsed_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn beat_at(&self, now_ms: u64, is_connected: bool) {
        let last_ms = self.beat_ms.swap(now_ms, Ordering::Relaxed);
        if !is_connected || is_stalled(last_ms, now_ms) {
            self.unreachable_ms.store(now_ms + 1, Ordering::Relaxed);
        }
    }

    fn is_in_doubt_at(&self, now_ms: u64) -> bool {
        let unreachable_ms = self.unreachable_ms.load(Ordering::Relaxed);
        // The first thing that happens after a stop may come before the beat that notices it.
        is_stalled(self.beat_ms.load(Ordering::Relaxed), now_ms)
            || unreachable_ms > 0 && u128::from(now_ms.saturating_sub(unreachable_ms - 1)) < DOUBTFUL_FOR.as_millis()
    }
}

/// A round trip to NATS, after a pause. One that fails for want of a connection is told by that.
async fn round_trip(core: CoreNats) {
    tokio::time::sleep(ROUND_TRIP_EVERY).await;
    if core.flush().await.is_err() {
        tracing::trace!("no round trip to NATS");
    }
}

fn is_stalled(last_ms: u64, now_ms: u64) -> bool {
    u128::from(now_ms.saturating_sub(last_ms)) >= STALL.as_millis()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_stopped_or_cut_off_is_in_doubt_for_a_while() {
        let doubt = Doubt::new();
        doubt.beat_at(200, true);
        doubt.beat_at(400, true);
        assert!(!doubt.is_in_doubt_at(500));
        assert!(doubt.is_in_doubt_at(5_000), "before the beat that notices it");
        doubt.beat_at(5_000, true);
        assert!(doubt.is_in_doubt_at(5_100));
        for beat in 26..80 {
            doubt.beat_at(beat * 200, true);
        }
        assert!(!doubt.is_in_doubt_at(15_900));
        doubt.beat_at(16_000, false);
        assert!(doubt.is_in_doubt_at(16_100));
    }
}
