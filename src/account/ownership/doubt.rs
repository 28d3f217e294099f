//! Whether this process may have been unreachable of late: stopped, without NATS, or behind a link on which everything comes
//! late. Another sidecar that wanted one of our sessions meanwhile has asked in vain and gone on without us, so what we believe
//! of our sessions is to be looked at before it is acted upon.
//!
//! It is found out from the first client on, for as long as somebody wants to know: an account of which nobody has asked for a while
//! costs nothing, and in a process that has a thousand such accounts nothing ticks. Meanwhile everybody is in doubt, and so is whoever
//! asks first after such a time, since something may be left that is older. Nobody was asked in vain before the first client.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

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
    /// When somebody wanted to know it last, in the same milliseconds.
    asked_ms: AtomicU64,
    /// Somebody finds out.
    is_watched: AtomicBool,
    /// Somebody wants to know while nobody finds out.
    wanted: watch::Sender<()>,
}

/// Finds out, while it is worth it.
struct Watch<R> {
    doubt: Weak<Doubt>,
    is_connected: watch::Receiver<bool>,
    /// Whether any client is here.
    is_occupied: watch::Receiver<bool>,
    is_wanted: watch::Receiver<()>,
    /// How long after the last one who wanted to know it is found out: as long as anything may wait to be acted upon.
    lingers: Duration,
    round_trip: R,
}

impl Doubt {
    fn new() -> Self {
        let (beat_ms, unreachable_ms, asked_ms, is_watched, wanted) = Default::default();
        Self { began: Instant::now(), beat_ms, unreachable_ms, asked_ms, is_watched, wanted }
    }

    /// One that finds out from the first client on, as `is_occupied` says, while somebody wants to know and `lingers` longer.
    pub(in crate::account) fn start(store: &Store, is_occupied: watch::Receiver<bool>, lingers: Duration) -> Arc<Self> {
        let doubt = Arc::new(Self::new());
        let (core, is_connected) = (store.core().clone(), store.connected());
        let round_trip = move || round_trip(core.clone());
        let is_wanted = doubt.wanted.subscribe();
        let watch = Watch { doubt: Arc::downgrade(&doubt), is_connected, is_occupied, is_wanted, lingers, round_trip };
        store.tasks().spawn(watch.run());
        doubt
    }

    /// From here on the process says that it runs. What happened before the first time is nobody's business.
    fn begin(&self, is_first: bool) {
        let now_ms = self.elapsed_ms();
        self.beat_ms.store(now_ms, Ordering::Relaxed);
        self.asked_ms.fetch_max(now_ms, Ordering::Relaxed);
        if !is_first {
            self.unreachable_ms.store(now_ms + 1, Ordering::Relaxed);
        }
        self.is_watched.store(true, Ordering::Release);
    }

    /// From here on nobody says that it runs.
    fn end(&self) {
        self.is_watched.store(false, Ordering::Release);
    }

    /// Says that the process runs, and whether NATS is there.
    fn beat(&self, is_connected: bool) {
        self.beat_at(self.elapsed_ms(), is_connected);
    }

    /// Whether somebody may have asked us in vain.
    pub(crate) fn is_in_doubt(&self) -> bool {
        let now_ms = self.elapsed_ms();
        self.asked_ms.fetch_max(now_ms, Ordering::Relaxed);
        if self.is_watched.load(Ordering::Acquire) {
            return self.is_in_doubt_at(now_ms);
        }
        self.wanted.send_replace(());
        true
    }

    /// How long nobody has wanted to know.
    fn unasked(&self) -> Duration {
        Duration::from_millis(self.elapsed_ms().saturating_sub(self.asked_ms.load(Ordering::Relaxed)))
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

impl<R: Fn() -> F, F: Future<Output = ()>> Watch<R> {
    async fn run(mut self) {
        if self.is_occupied.wait_for(|is_occupied| *is_occupied).await.is_err() {
            return;
        }
        let mut is_first = true;
        loop {
            let Some(doubt) = self.doubt.upgrade() else { return };
            doubt.begin(is_first);
            drop(doubt);
            if self.beats().await.is_none() || self.is_wanted.changed().await.is_err() {
                return;
            }
            is_first = false;
        }
    }

    /// Says that the process runs, until nobody has wanted to know for so long; `None`: nobody will any more.
    async fn beats(&mut self) -> Option<()> {
        let mut beat = tokio::time::interval(BEAT);
        let mut round_trip = std::pin::pin!((self.round_trip)());
        let mut began = Instant::now();
        loop {
            let mut is_back = false;
            tokio::select! {
                _ = beat.tick() => {}
                Ok(()) = self.is_connected.changed() => {}
                () = &mut round_trip => is_back = true,
            }
            let doubt = self.doubt.upgrade()?;
            let is_late = began.elapsed() >= STALL + ROUND_TRIP_EVERY;
            doubt.beat(*self.is_connected.borrow_and_update() && !is_late);
            if is_back {
                began = Instant::now();
                round_trip.set((self.round_trip)());
            }
            if doubt.unasked() >= self.lingers {
                doubt.end();
                return Some(());
            }
        }
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
    use std::future::poll_fn;
    use std::pin::pin;
    use std::sync::atomic::AtomicUsize;

    use super::*;

    const LINGERS: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn while_nobody_wants_to_know_nothing_ticks_and_everybody_is_in_doubt() {
        let doubt = Arc::new(Doubt::new());
        let ((occupied, is_occupied), (_connected, is_connected)) = (watch::channel(false), watch::channel(true));
        let round_trip = || tokio::time::sleep(ROUND_TRIP_EVERY);
        let (weak, is_wanted) = (Arc::downgrade(&doubt), doubt.wanted.subscribe());
        let watch = Watch { doubt: weak, is_connected, is_occupied, is_wanted, lingers: LINGERS, round_trip };
        let polls = Arc::<AtomicUsize>::default();
        let counted = Arc::clone(&polls);
        let watching = tokio::spawn(async move {
            let mut running = pin!(watch.run());
            poll_fn(|cx| {
                counted.fetch_add(1, Ordering::Relaxed);
                running.as_mut().poll(cx)
            })
            .await;
        });
        let wakes = async |within: Duration| {
            let before = polls.load(Ordering::Relaxed);
            tokio::time::sleep(within).await;
            polls.load(Ordering::Relaxed) - before
        };
        assert!(wakes(LINGERS).await <= 1, "before the first client");
        occupied.send_replace(true);
        assert!(wakes(BEAT * 2).await > 0 && !doubt.is_in_doubt(), "nobody was asked before there was anybody");
        for _ in 0..2 {
            assert!(wakes(LINGERS - BEAT).await > 300, "it is known for as long as somebody may want to know it again");
            assert!(!doubt.is_in_doubt());
            wakes(LINGERS + BEAT).await;
            // Clients are here, and have nothing to ask.
            assert_eq!(wakes(LINGERS * 10).await, 0);
            assert!(doubt.is_in_doubt(), "and whoever asks now is in doubt, until it is known");
            assert!(wakes(DOUBTFUL_FOR - BEAT).await > 40 && doubt.is_in_doubt());
            wakes(BEAT * 3).await;
            assert!(!doubt.is_in_doubt());
        }
        drop(doubt);
        watching.await.unwrap();
    }

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
