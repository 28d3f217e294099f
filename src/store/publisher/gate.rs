//! Until when messages may be sent.
//!
//! **Invariant:** it is the clock that closes it. A process that was stopped finds it closed when it goes on, before any task of
//! its own has noticed.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Open without end.
const OPEN: u64 = u64::MAX;

/// See the module. Open at first.
#[derive(Debug)]
pub(super) struct Gate {
    began: Instant,
    /// Milliseconds since it began.
    until_ms: AtomicU64,
}

impl Gate {
    pub(super) fn new() -> Self {
        Self { began: Instant::now(), until_ms: AtomicU64::new(OPEN) }
    }

    pub(super) fn is_open(&self, now: Instant) -> bool {
        let until_ms = self.until_ms.load(Ordering::Acquire);
        until_ms == OPEN || self.millis(now) < until_ms
    }

    /// Open until then; `None`: without end.
    pub(super) fn set(&self, until: Option<Instant>) {
        self.until_ms.store(until.map_or(OPEN, |until| self.millis(until)), Ordering::Release);
    }

    fn millis(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.began).as_millis()).map_or(OPEN - 1, |ms| ms.min(OPEN - 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn it_closes_with_the_clock() {
        let (gate, second) = (Gate::new(), Duration::from_secs(1));
        let now = Instant::now();
        assert!(gate.is_open(now + 1_000 * second));
        gate.set(Some(now + 20 * second));
        assert!(gate.is_open(now + 19 * second) && !gate.is_open(now + 20 * second));
        gate.set(Some(now));
        assert!(!gate.is_open(now));
        gate.set(None);
        assert!(gate.is_open(now + 1_000 * second));
    }
}
