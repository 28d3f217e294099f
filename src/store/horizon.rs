//! How far a stream reaches for sure: up to the highest sequence that we have read in it, or that it has acknowledged to us.
//!
//! **Invariant:** an answer about a stream is believed only if who gives it knows as much as we do. A leader that was deposed
//! and does not know, or a new one that is not ready, says that messages are not there which are: whoever believed it would
//! go back, and forget what is in flight. A stream that was deleted and made again has another time of creation; one that
//! has lost its end (a server that lost power, a backup that was restored) says so for longer than any leader is behind.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// A leader is behind for less than this; who knows less for longer is believed.
const BEHIND_MAX: Duration = Duration::from_secs(10);

/// What to make of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It knows as much as we do.
    Knows,
    /// It is about a stream that has taken the place of the one that we knew.
    Another,
    /// The stream has lost its end.
    Cut,
    /// It knows less: whoever asked asks again.
    Behind,
}

/// What is known of the streams of an account: one for each stream that was read or written, of which there are few.
#[derive(Clone, Debug, Default)]
pub(crate) struct Horizons(Arc<Mutex<HashMap<Arc<str>, Arc<Horizon>>>>);

impl Horizons {
    /// That of one stream.
    pub(crate) fn of(&self, stream: &str) -> Arc<Horizon> {
        let mut all = self.0.lock();
        if let Some(horizon) = all.get(stream) {
            return Arc::clone(horizon);
        }
        let horizon = Arc::<Horizon>::default();
        all.insert(Arc::from(stream), Arc::clone(&horizon));
        horizon
    }
}

/// What is known of one stream.
#[derive(Debug, Default)]
pub(crate) struct Horizon {
    highest: AtomicU64,
    doubts: Mutex<Doubts>,
}

#[derive(Debug, Default)]
struct Doubts {
    /// Milliseconds since the epoch; 0: nobody has said.
    created_ms: u64,
    /// Since when answers know less than we do.
    behind_since: Option<Instant>,
    /// A sequence that somebody has seen and the leader does not know, and since when.
    unknown: Option<(u64, Instant)>,
}

impl Horizon {
    /// There is a message with this sequence, or was.
    pub(crate) fn note(&self, sequence: u64) {
        self.highest.fetch_max(sequence, Ordering::Relaxed);
    }

    /// The highest sequence that is known, to be read before a question is asked: what comes while it is answered is no sign
    /// that the answer is old.
    pub(crate) fn highest(&self) -> u64 {
        self.highest.load(Ordering::Relaxed)
    }

    /// Judges an answer that says when the stream was created and which sequence is its last. `highest` was known when it was
    /// asked for.
    pub(crate) fn judge(&self, created_ms: u64, last_sequence: u64, highest: u64, now: Instant) -> Verdict {
        let mut doubts = self.doubts.lock();
        let highest = highest.min(self.highest());
        let is_first = doubts.created_ms == 0;
        let is_another = !is_first && created_ms > doubts.created_ms;
        let is_of_before = created_ms < doubts.created_ms;
        if !is_another && (is_of_before || last_sequence < highest) {
            let since = *doubts.behind_since.get_or_insert(now);
            if now.saturating_duration_since(since) < BEHIND_MAX {
                return Verdict::Behind;
            }
        }
        doubts.created_ms = created_ms;
        doubts.behind_since = None;
        if is_another || is_of_before || last_sequence < highest {
            doubts.unknown = None;
            self.highest.store(last_sequence, Ordering::Relaxed);
            return if is_another || is_of_before { Verdict::Another } else { Verdict::Cut };
        }
        self.note(last_sequence);
        Verdict::Knows
    }

    /// Whether a leader whose last sequence is this one is believed that there is nothing at `exists`, which somebody has seen.
    pub(crate) fn is_absence_believed(&self, exists: u64, last_sequence: u64, now: Instant) -> bool {
        let mut doubts = self.doubts.lock();
        if exists <= last_sequence {
            doubts.unknown = doubts.unknown.filter(|(unknown, _)| *unknown > last_sequence);
            return true;
        }
        // The stream may be another one than the one that it was seen in.
        let (_, since) = *doubts.unknown.get_or_insert((exists, now));
        now.saturating_duration_since(since) >= BEHIND_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(horizon: &Horizon, created_ms: u64, last_sequence: u64, now: Instant) -> Verdict {
        horizon.judge(created_ms, last_sequence, horizon.highest(), now)
    }

    #[test]
    fn an_answer_from_the_past_is_not_believed_and_one_that_knows_more_is() {
        let (horizon, now) = (Horizon::default(), Instant::now());
        assert_eq!(judge(&horizon, 1_000, 50, now), Verdict::Knows);
        horizon.note(70);
        assert_eq!(judge(&horizon, 1_000, 69, now), Verdict::Behind, "a new leader that is not ready");
        assert_eq!(judge(&horizon, 1_000, 70, now), Verdict::Knows);
        assert_eq!(judge(&horizon, 1_000, 69, now + BEHIND_MAX), Verdict::Behind, "the doubt is new");
        assert_eq!(judge(&horizon, 1_000, 90, now), Verdict::Knows);
        assert_eq!(horizon.judge(1_000, 89, 88, now), Verdict::Knows, "asked before there were 90");
        assert_eq!(judge(&horizon, 1_000, 89, now), Verdict::Behind, "what an answer said counts as well");
    }

    #[test]
    fn a_stream_that_was_made_again_is_told_from_a_leader_that_is_behind() {
        let (horizon, now) = (Horizon::default(), Instant::now());
        judge(&horizon, 1_000, 50, now);
        assert_eq!(judge(&horizon, 2_000, 3, now), Verdict::Another);
        assert_eq!(judge(&horizon, 2_000, 3, now), Verdict::Knows);
        assert_eq!(judge(&horizon, 1_000, 50, now), Verdict::Behind, "who has not heard of it");
        assert_eq!(judge(&horizon, 2_000, 2, now), Verdict::Behind);
    }

    #[test]
    fn a_stream_that_has_lost_its_end_is_believed_in_the_end() {
        let (horizon, now) = (Horizon::default(), Instant::now());
        judge(&horizon, 1_000, 50, now);
        for second in 0..10 {
            assert_eq!(judge(&horizon, 1_000, 40, now + Duration::from_secs(second)), Verdict::Behind);
        }
        assert_eq!(judge(&horizon, 1_000, 40, now + BEHIND_MAX), Verdict::Cut);
        assert_eq!(judge(&horizon, 1_000, 41, now + BEHIND_MAX), Verdict::Knows);
    }

    #[test]
    fn what_somebody_has_seen_is_not_gone_because_a_leader_has_not_heard_of_it() {
        let (horizon, now) = (Horizon::default(), Instant::now());
        assert!(!horizon.is_absence_believed(500, 480, now));
        assert!(horizon.is_absence_believed(500, 501, now + Duration::from_secs(1)), "it has caught up");
        assert!(!horizon.is_absence_believed(500, 480, now + Duration::from_secs(20)), "the doubt is new");
        assert!(horizon.is_absence_believed(500, 480, now + Duration::from_secs(20) + BEHIND_MAX), "another stream");
    }
}
