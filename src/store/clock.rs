//! The server's time. JetStream expires records, stamps messages and is asked for "what came after then" by its own clock,
//! so that is the only one that means anything to more than one process.
//!
//! **Invariant:** no decision about somebody else's data is made on the local wall clock. What is stored as a time is the
//! server's time, and what is compared with a stored time is what the server's time is known to be *at least*. A sidecar
//! whose clock is an hour off behaves like any other.
//!
//! Nothing is asked for this: many answers of the JetStream API say when they were made (`ts`), and that was after our request
//! left and before its answer came. Each so bounds the distance between the server's clock and our monotonic one.
//!
//! ```text
//!   sent ────────── ts (the server's clock) ────────── received       by our monotonic clock
//!   ts - received  ≤  server's clock - ours  ≤  ts - sent
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use mqtt_ownership::ServerTime;
use parking_lot::Mutex;
use tokio::time::Instant;

/// How far the clocks of the servers of one account may differ, milliseconds. What is taken from somebody else is taken so
/// much later.
pub const SERVERS_DIFFER_MS: u64 = 60_000;
/// Our clock and the server's drift apart by less than one millisecond in so many.
const DRIFT: i64 = 2_000;

/// What the server's clock shows less what ours does, milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Bounds {
    low: i64,
    high: i64,
    /// When that was so, by our clock.
    at: i64,
}

impl Bounds {
    /// What one answer says. Times of the server are cut to milliseconds, and so are ours.
    const fn of(sent: i64, stamp: i64, received: i64) -> Self {
        Self { low: stamp - received - 1, high: stamp - sent + 1, at: received }
    }

    /// What is left of that at a later time.
    const fn at(self, now: i64) -> Self {
        let drift = if now > self.at { (now - self.at) / DRIFT + 1 } else { 0 };
        Self { low: self.low - drift, high: self.high + drift, at: now }
    }

    /// With what a newer answer says. Where both cannot be true the clock was set, or another server has another one: the
    /// newer answer stands.
    fn with(self, newer: Self) -> Self {
        let old = self.at(newer.at);
        let both = Self { low: old.low.max(newer.low), high: old.high.min(newer.high), at: newer.at };
        if both.low <= both.high { both } else { newer }
    }

    /// How far apart two bounds are that cannot both be true.
    fn distance(self, other: Self) -> u64 {
        (self.low.saturating_sub(other.high)).max(other.low.saturating_sub(self.high)).max(0).unsigned_abs()
    }
}

/// The clock of the server, as far as it is known.
#[derive(Clone, Debug)]
pub struct ServerClock {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    started: Instant,
    bounds: Mutex<Option<Bounds>>,
    // The same to be read without a lock: each is a bound by itself.
    low: AtomicI64,
    high: AtomicI64,
    at: AtomicI64,
}

/// As a time of observation: there was none.
const NEVER: i64 = i64::MIN;

impl Default for ServerClock {
    fn default() -> Self {
        let (low, high, at) = (AtomicI64::new(0), AtomicI64::new(0), AtomicI64::new(NEVER));
        Self { shared: Arc::new(Shared { started: Instant::now(), bounds: Mutex::default(), low, high, at }) }
    }
}

impl ServerClock {
    /// The server said that it was `stamp_ms`, between a request that was sent and its answer that has just come.
    pub(crate) fn observe(&self, sent: Instant, stamp_ms: u64) {
        let (sent, received) = (self.ours(sent), self.ours(Instant::now()));
        let newer = Bounds::of(sent, i64::try_from(stamp_ms).unwrap_or(i64::MAX / 2), received);
        let mut known = self.shared.bounds.lock();
        let distance = known.map_or(0, |known| known.at(received).distance(newer));
        if distance > SERVERS_DIFFER_MS {
            tracing::warn!(distance_ms = distance, "the clocks of the NATS servers differ, or one was set");
        }
        let bounds = known.map_or(newer, |known| known.with(newer));
        *known = Some(bounds);
        self.shared.low.store(bounds.low, Ordering::Relaxed);
        self.shared.high.store(bounds.high, Ordering::Relaxed);
        self.shared.at.store(bounds.at, Ordering::Release);
    }

    /// It is this late at the server at least. 0 before anything is known: nothing is over yet.
    #[must_use]
    pub fn earliest(&self) -> ServerTime {
        ServerTime(self.read().map_or(0, |(now, bounds)| u64::try_from(now.saturating_add(bounds.low)).unwrap_or(0)))
    }

    /// It is this late at the server at most; [`u64::MAX`] before anything is known.
    #[must_use]
    pub fn latest(&self) -> ServerTime {
        self.now().unwrap_or(ServerTime(u64::MAX))
    }

    /// The time to be written down for what happens now: not before it happens, so that nothing that is counted from it ends
    /// early. `None` before anything is known.
    #[must_use]
    pub fn now(&self) -> Option<ServerTime> {
        self.read().map(|(now, bounds)| ServerTime(u64::try_from(now.saturating_add(bounds.high)).unwrap_or(0)))
    }

    /// It is this late by the clock of every server of the account: what is somebody else's is over only when it was to be
    /// over by then. 0 before anything is known.
    #[must_use]
    pub fn certain(&self) -> ServerTime {
        self.earliest().before(Duration::from_millis(SERVERS_DIFFER_MS))
    }

    /// When something was, so long ago, at the earliest.
    #[must_use]
    pub fn ago(&self, ago: Duration) -> ServerTime {
        self.earliest().before(ago)
    }

    fn read(&self) -> Option<(i64, Bounds)> {
        let at = self.shared.at.load(Ordering::Acquire);
        if at == NEVER {
            return None;
        }
        let (low, high) = (self.shared.low.load(Ordering::Relaxed), self.shared.high.load(Ordering::Relaxed));
        let now = self.ours(Instant::now());
        Some((now, Bounds { low, high, at }.at(now)))
    }

    /// Our clock: milliseconds since this was made.
    fn ours(&self, at: Instant) -> i64 {
        let since = at.saturating_duration_since(self.shared.started).as_millis();
        i64::try_from(since).unwrap_or(i64::MAX / 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_bounds_the_clock_by_when_it_was_asked_for_and_when_it_came() {
        // Asked at 100, made at 5,000 by the server's clock, there at 140.
        let bounds = Bounds::of(100, 5_000, 140);
        assert_eq!((bounds.low, bounds.high), (4_859, 4_901));
        // A slow answer says less, and takes nothing away.
        let slow = Bounds::of(1_000, 5_905, 9_000);
        let both = bounds.with(slow);
        assert!(both.low >= 4_850 && both.high <= 4_906, "{both:?}");
        // A fast one says more.
        let fast = bounds.with(Bounds::of(200, 5_080, 202));
        assert_eq!((fast.low, fast.high), (4_877, 4_881));
    }

    #[test]
    fn what_is_known_wears_off_as_clocks_drift() {
        let bounds = Bounds::of(100, 5_000, 140).at(3_600_140);
        assert_eq!((bounds.low, bounds.high), (4_859 - 1_801, 4_901 + 1_801));
    }

    #[test]
    fn a_clock_that_was_set_is_believed() {
        let before = Bounds::of(0, 1_000_000, 10);
        let after = Bounds::of(20, 500_000, 30);
        assert_eq!(before.with(after), after);
        assert!(before.distance(after) > 499_000);
        assert_eq!(before.distance(Bounds::of(20, 1_000_025, 30)), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn before_it_is_known_nothing_is_over_and_nothing_can_be_written_down() {
        let clock = ServerClock::default();
        assert_eq!((clock.earliest(), clock.latest()), (ServerTime(0), ServerTime(u64::MAX)));
        assert_eq!((clock.certain(), clock.now()), (ServerTime(0), None));
        let sent = Instant::now();
        tokio::time::advance(Duration::from_millis(30)).await;
        clock.observe(sent, 1_700_000_000_000);
        tokio::time::advance(Duration::from_millis(100)).await;
        let (earliest, latest) = (clock.earliest().0, clock.latest().0);
        assert!((1_700_000_000_095..=1_700_000_000_100).contains(&earliest), "{earliest}");
        assert!((1_700_000_000_130..=1_700_000_000_135).contains(&latest), "{latest}");
        assert_eq!(clock.certain().0, earliest - SERVERS_DIFFER_MS);
        assert_eq!(clock.now(), Some(ServerTime(latest)));
        assert_eq!(clock.ago(Duration::from_secs(2)).0, earliest - 2_000);
    }
}
