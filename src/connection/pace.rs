//! How fast the subscriptions of a session are written. A few bytes of SUBSCRIBE are a few kilobytes of JetStream, which every
//! sidecar reads.

use std::time::{Duration, Instant};

/// Bytes a second, in the long run.
const BYTES_PER_SECOND: u64 = 2 << 20;

/// Bytes that may be written at once, by who has not written for long.
const BURST_BYTES: u64 = 16 << 20;

/// The pace of one connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// Until then what was written lasts, at that pace.
    spent_until: Instant,
}

impl Pace {
    pub(super) const fn new(now: Instant) -> Self {
        Self { spent_until: now }
    }

    /// So many bytes are written now.
    pub(super) fn spend(&mut self, bytes: usize, now: Instant) {
        self.spent_until = self.spent_until.max(now) + lasting(bytes as u64);
    }

    /// When the next may be written; `None`: now.
    pub(super) fn due_at(&self, now: Instant) -> Option<Instant> {
        let is_over = self.spent_until.saturating_duration_since(now).checked_sub(lasting(BURST_BYTES));
        is_over.filter(|over| !over.is_zero()).map(|over| now + over)
    }
}

fn lasting(bytes: u64) -> Duration {
    Duration::from_micros(bytes * 1_000_000 / BYTES_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_free_and_what_goes_on_is_paced() {
        let mut now = Instant::now();
        let (mut pace, began, mut written) = (Pace::new(now), now, 0_u64);
        // A client that changes a large session as fast as it is answered.
        for _ in 0..1_000 {
            if let Some(due) = pace.due_at(now) {
                assert!(due > now);
                now = due;
                assert_eq!(pace.due_at(now), None);
            }
            pace.spend(256 << 10, now);
            written += 256 << 10;
        }
        let seconds = now.duration_since(began).as_secs();
        let expected = (written - BURST_BYTES) / BYTES_PER_SECOND;
        assert!((expected - 1..=expected + 1).contains(&seconds), "{seconds} s");
        // Small ones never wait for each other, and who has rested has a burst again.
        let mut small = Pace::new(now);
        for _ in 0..10_000 {
            now += Duration::from_millis(1);
            assert_eq!(small.due_at(now), None);
            small.spend(2_000, now);
        }
        now += Duration::from_secs(60);
        for _ in 0..64 {
            assert_eq!(pace.due_at(now), None);
            pace.spend(256 << 10, now);
        }
    }
}
