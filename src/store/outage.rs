//! When NATS is away, as the log says it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Which connections of one user of ours are lost: an outage is said once when it begins and once when it is over, however many there
/// are, and whatever they are for. Their names differ.
#[derive(Clone, Debug, Default)]
pub struct Outage(Arc<Mutex<Lost>>);

#[derive(Debug, Default)]
struct Lost {
    names: BTreeSet<&'static str>,
    since: Option<Instant>,
}

impl Outage {
    /// Returns whether it is the first one.
    pub(super) fn begins(&self, name: &'static str) -> bool {
        let mut lost = self.0.lock();
        let is_first = lost.since.is_none();
        lost.names.insert(name);
        lost.since.get_or_insert_with(Instant::now);
        is_first
    }

    /// Returns for how long something was lost, when nothing is any more.
    pub(super) fn ends(&self, name: &'static str) -> Option<Duration> {
        let mut lost = self.0.lock();
        lost.names.remove(name);
        if lost.names.is_empty() { lost.since.take().map(|since| since.elapsed()) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::Outage;

    #[test]
    fn an_outage_begins_with_the_first_connection_and_ends_with_the_last() {
        let outage = Outage::default();
        assert_eq!(outage.ends("core"), None, "it was connected for the first time");
        assert!(outage.begins("core"));
        assert!(!outage.begins("publish"));
        assert!(!outage.begins("core"));
        assert_eq!(outage.ends("core"), None);
        assert!(outage.ends("publish").is_some());
        assert_eq!(outage.ends("publish"), None);
        assert!(outage.begins("tail"), "another one");
    }
}
