//! How many looks there may be at who serves the subjects of requests, and what they have found.

use std::collections::HashMap;

use parking_lot::Mutex;
use tokio::time::Instant;

/// Looks of requests that are under way on one link, and how many there may be in a second: when many wait, because JetStream
/// is slow, it is not made slower.
const LOOKS_MAX: usize = 8;
const LOOKS_PER_SECOND: f64 = 250.0;
/// Subjects of which it is remembered that nobody serves them.
const UNSERVED_MAX: usize = 256;

/// Looks of the requests of one link.
#[derive(Debug)]
pub(super) struct Looks {
    under_way: usize,
    budget: f64,
    at: Instant,
    /// When it was asked who serves them.
    pub(super) unserved: HashMap<Box<[u8]>, Instant>,
}

impl Looks {
    pub(super) fn new() -> Self {
        Self { under_way: 0, budget: LOOKS_PER_SECOND, at: Instant::now(), unserved: HashMap::new() }
    }

    pub(super) fn begin(&mut self, now: Instant) -> bool {
        let since = now.saturating_duration_since(self.at);
        self.budget = (self.budget + since.as_secs_f64() * LOOKS_PER_SECOND).min(LOOKS_PER_SECOND);
        self.at = now;
        let may = self.under_way < LOOKS_MAX && self.budget >= 1.0;
        if may {
            self.under_way += 1;
            self.budget -= 1.0;
        }
        may
    }

    pub(super) fn note_unserved(&mut self, subject: &[u8], asked_at: Instant) {
        if self.unserved.len() >= UNSERVED_MAX {
            self.unserved.clear();
        }
        self.unserved.insert(subject.into(), asked_at);
    }
}

/// A look that is under way.
pub(super) struct Look<'a>(&'a Mutex<Looks>);

impl<'a> Look<'a> {
    pub(super) fn begin(looks: &'a Mutex<Looks>, now: Instant) -> Option<Self> {
        let may = looks.lock().begin(now);
        may.then(|| Self(looks))
    }
}

impl Drop for Look<'_> {
    fn drop(&mut self) {
        self.0.lock().under_way -= 1;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn looks_are_few_and_what_one_has_found_out_is_known_to_all() {
        let (now, second) = (Instant::now(), Duration::from_secs(1));
        let looks = Mutex::new(Looks::new());
        let held: Vec<_> = (0..=LOOKS_MAX).map_while(|_| Look::begin(&looks, now)).collect();
        assert_eq!(held.len(), LOOKS_MAX);
        drop(held);
        let count = |now| (0..1_000).filter(|_| Look::begin(&looks, now).is_some()).count();
        assert_eq!(count(now), LOOKS_PER_SECOND as usize - LOOKS_MAX);
        assert_eq!((count(now), count(now + second)), (0, LOOKS_PER_SECOND as usize));
        for n in 0..=UNSERVED_MAX {
            looks.lock().note_unserved(n.to_string().as_bytes(), now);
        }
        assert_eq!(looks.lock().unserved.len(), 1);
    }
}
