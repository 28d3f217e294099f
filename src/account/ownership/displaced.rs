//! Connections here whose session is somebody else's by now: its record says so. Most learn it sooner, when the next owner asks for
//! what they have, or by a write of theirs that is refused. But a connection may have nothing to write, and whoever adopts a
//! session, because our lease had ended as far as anybody could see, asks nobody.
//!
//! **Invariant:** a connection with a record ends when a record, or its end, is read that is newer than its own and not its own.

use std::sync::Arc;

use mqtt_ownership::{Epoch, Revision};

use crate::account::control::SeenRecord;
use crate::account::registry::Registry;
use crate::metrics::{AccountMetrics, TakenBy};
use crate::store::{Gone, PageRecord, SessionRecord, SessionsSink};

/// Follows the records of sessions for those that are connected here.
pub(in crate::account) struct Displaced {
    registry: Arc<Registry>,
    metrics: Arc<AccountMetrics>,
    /// Who follows the records as well.
    next: Arc<dyn SessionsSink>,
}

impl Displaced {
    pub(in crate::account) fn new(
        registry: Arc<Registry>,
        metrics: Arc<AccountMetrics>,
        next: Arc<dyn SessionsSink>,
    ) -> Self {
        Self { registry, metrics, next }
    }

    fn saw(&self, client_id: &str, revision: Revision, record: SeenRecord) {
        for control in self.registry.all_of(client_id) {
            if !control.sees_record(revision, record) {
                continue;
            }
            match record {
                // It may ask for what there is a moment later.
                SeenRecord::Connected(epoch) | SeenRecord::Left(epoch) if epoch > control.epoch() => {
                    self.metrics.takeover(TakenBy::Other);
                }
                _ => tracing::info!(client_id, "the session of a connection here was adopted by now, or is over"),
            }
        }
    }
}

impl SessionsSink for Displaced {
    fn record(&self, sequence: u64, record: SessionRecord) {
        let seen = if record.connected { SeenRecord::Connected } else { SeenRecord::Left };
        self.saw(&record.client_id, Revision(sequence), seen(Epoch(record.epoch)));
        self.next.record(sequence, record);
    }

    fn page(&self, sequence: u64, client_id: &str, first_epoch: u64, number: u32, page: PageRecord) {
        self.next.page(sequence, client_id, first_epoch, number, page);
    }

    fn gone(&self, client_id: &str, sequence: u64, why: Gone) {
        self.saw(client_id, Revision(sequence), SeenRecord::Ended);
        self.next.gone(client_id, sequence, why);
    }

    fn caught_up(&self) {
        self.next.caught_up();
    }
}

#[cfg(test)]
mod tests {
    use mqtt_codec::Version;
    use mqtt_ownership::ArrivalPlace;

    use super::*;
    use crate::account::control::Control;
    use crate::account::delivery::inbox::InboxLimits;
    use crate::account::registry::Entered;
    use crate::account::session_id::SessionId;
    use crate::metrics::Metrics;

    struct Nobody;

    impl SessionsSink for Nobody {
        fn record(&self, _sequence: u64, _record: SessionRecord) {}

        fn page(&self, _sequence: u64, _client_id: &str, _first_epoch: u64, _number: u32, _page: PageRecord) {}

        fn gone(&self, _client_id: &str, _sequence: u64, _why: Gone) {}

        fn caught_up(&self) {}
    }

    fn control(id: u64) -> Arc<Control> {
        let limits = InboxLimits { qos0_bytes: 1_000, feed_messages: 4, feed_bytes: 1_000 };
        Arc::new(
            Control::new(
                SessionId(id),
                "c".into(),
                Version::V5,
                u32::MAX,
                Arc::new(crate::account::Rights::all()),
                limits,
            )
            .taken_at(ArrivalPlace(id)),
        )
    }

    fn record(epoch: u64, connected: bool) -> SessionRecord {
        SessionRecord { client_id: "c".to_owned(), epoch, connected, ..SessionRecord::default() }
    }

    #[test]
    fn a_connection_elsewhere_is_a_takeover_whoever_says_it_first() {
        for (epoch, connected, takeovers) in [(8, true, 1), (8, false, 1), (7, false, 0)] {
            let (registry, process, old) = (Arc::new(Registry::default()), Metrics::new(), control(1));
            let metrics = process.account();
            let displaced = Displaced::new(Arc::clone(&registry), Arc::clone(&metrics), Arc::new(Nobody));
            registry.enter(&old, || false);
            old.owns(Epoch(7), Revision(20));
            displaced.record(21, record(epoch, connected));
            displaced.record(22, record(epoch, connected));
            let text = process.render();
            let line = format!("mqtt_takeovers_total{{by=\"other_sidecar\"}} {takeovers}");
            assert!(text.contains(&line), "{epoch} {connected}");
            assert!(!old.take_over(), "it ends already");
        }
    }

    #[test]
    fn one_that_is_taken_over_and_has_not_ended_learns_that_it_was_adopted() {
        let (registry, old, new) = (Arc::new(Registry::default()), control(1), control(2));
        let displaced = Displaced::new(Arc::clone(&registry), Metrics::new().account(), Arc::new(Nobody));
        registry.enter(&old, || false);
        old.owns(Epoch(7), Revision(20));
        assert!(matches!(registry.enter(&new, || false), Entered::Behind(_)));
        old.take_over();
        let adopted =
            SessionRecord { client_id: "c".to_owned(), epoch: 7, connected: false, ..SessionRecord::default() };
        displaced.record(21, adopted);
        assert!(old.is_displaced() && old.completions().is_withdrawn());
        assert!(!new.is_displaced() && !new.completions().is_withdrawn());
        assert_eq!(registry.everyone_and_leaving().len(), 2);
    }
}
