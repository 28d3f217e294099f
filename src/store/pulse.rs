//! Whether a stream is read now: its reader leaves here when it last heard of its consumer, and whoever wants to know looks.
//! A reader hears of its consumer every two seconds, also when nothing is stored.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// Who was heard of within this reads. A consumer that is silent for five seconds is given up, and making another one takes
/// two round trips, of up to a second each.
pub(crate) const READS_WITHIN: Duration = Duration::from_secs(7);

/// The pulse of one reader.
#[derive(Debug)]
pub(crate) struct Pulse {
    began: Instant,
    /// Milliseconds after `began`; 0: not yet.
    beat_ms: AtomicU64,
    /// Messages of the stream behind the last one that was read.
    behind: AtomicU64,
}

impl Default for Pulse {
    fn default() -> Self {
        Self { began: Instant::now(), beat_ms: AtomicU64::new(0), behind: AtomicU64::new(0) }
    }
}

impl Pulse {
    /// The consumer is there, and had so many messages left behind the last one that we have of it.
    pub(crate) fn beat(&self, behind: u64) {
        let after = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.beat_ms.store(after.max(1), Ordering::Relaxed);
        self.behind.store(behind, Ordering::Relaxed);
    }

    /// How long nothing was heard of the consumer, or there is none.
    pub(crate) fn silence(&self) -> Duration {
        self.began.elapsed().saturating_sub(Duration::from_millis(self.beat_ms.load(Ordering::Relaxed)))
    }

    /// Whether the stream is read: its consumer is there, and was heard of a moment ago.
    pub(crate) fn is_reading(&self) -> bool {
        self.beat_ms.load(Ordering::Relaxed) > 0 && self.silence() < READS_WITHIN
    }

    /// Messages that were not read yet when the consumer was last heard of.
    pub(crate) fn behind(&self) -> u64 {
        self.behind.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn silence_is_from_the_last_beat_and_before_the_first_from_the_beginning() {
        let pulse = Pulse::default();
        tokio::time::advance(Duration::from_secs(3)).await;
        assert_eq!((pulse.silence(), pulse.is_reading()), (Duration::from_secs(3), false));
        pulse.beat(7);
        assert_eq!((pulse.silence(), pulse.behind(), pulse.is_reading()), (Duration::ZERO, 7, true));
        tokio::time::advance(Duration::from_millis(1_500)).await;
        assert_eq!((pulse.silence(), pulse.is_reading()), (Duration::from_millis(1_500), true));
        tokio::time::advance(READS_WITHIN).await;
        assert!(!pulse.is_reading());
    }
}
