//! How long an acknowledgement takes, and how long a silence is doubt: a smoothed round trip and how much it varies.

use std::time::Duration;

/// However fast the stream is: a busy machine makes as much of a pause.
const PATIENCE_MIN: Duration = Duration::from_millis(60);
/// However slow it was.
const PATIENCE_MAX: Duration = Duration::from_secs(1);

/// An estimate, as TCP makes it: an eighth of every measurement, a quarter of every deviation.
#[derive(Clone, Copy, Debug)]
pub(super) struct RoundTrip {
    smoothed: Option<Duration>,
    deviation: Duration,
}

impl RoundTrip {
    pub(super) const fn new() -> Self {
        Self { smoothed: None, deviation: Duration::ZERO }
    }

    pub(super) fn measured(&mut self, took: Duration) {
        match &mut self.smoothed {
            None => {
                self.smoothed = Some(took);
                self.deviation = took / 2;
            }
            Some(smoothed) => {
                self.deviation = (self.deviation * 3 + took.abs_diff(*smoothed)) / 4;
                *smoothed = (*smoothed * 7 + took) / 8;
            }
        }
    }

    /// A silence that is longer is doubt.
    pub(super) fn patience(&self) -> Duration {
        let Some(smoothed) = self.smoothed else { return PATIENCE_MAX };
        (smoothed * 2 + self.deviation * 4).clamp(PATIENCE_MIN, PATIENCE_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_follows_the_round_trips_and_stays_between_its_bounds() {
        let mut round_trip = RoundTrip::new();
        assert_eq!(round_trip.patience(), PATIENCE_MAX, "nothing is known");
        for _ in 0..50 {
            round_trip.measured(Duration::from_millis(1));
        }
        assert_eq!(round_trip.patience(), PATIENCE_MIN);
        for _ in 0..50 {
            round_trip.measured(Duration::from_millis(200));
        }
        assert!((400..450).contains(&round_trip.patience().as_millis()), "{:?}", round_trip.patience());
        round_trip.measured(Duration::from_secs(30));
        assert_eq!(round_trip.patience(), PATIENCE_MAX);
    }
}
