//! How this sidecar is, at the moment when somebody asks: read from its parts, which keep what is read here anyway. Nothing
//! here waits for anything or changes anything.

use std::sync::Arc;
use std::time::Duration;

use super::Broker;
use super::mailbox::Mailbox;
use crate::metrics::Vitals;

impl Broker {
    /// All of it.
    pub(crate) fn vitals(&self) -> Vitals {
        let publisher = self.store.publisher();
        let (permits_waiting, permits_waited) = publisher.waits();
        let (sessions, feeds_behind) = self.count_feeds();
        let logs = self.logs.all();
        let core = self.store.core();
        let (shared_lost, shared_gaps) = self.shares.core_losses();
        Vitals {
            sessions,
            feeds_behind,
            publishes: publisher.in_flight() as u64,
            oldest_publish: publisher.oldest_unanswered().unwrap_or_default(),
            permits_waiting: permits_waiting as u64,
            permits_waited,
            tail_silence: logs.iter().map(|log| log.log.tail_silence()).max().unwrap_or(Duration::ZERO),
            tail_lag: logs.iter().map(|log| log.log.tail_lag()).max().unwrap_or(0),
            lease_age: self.store.nodes().lease_age(),
            qos0_lost: core.overflows() + shared_lost,
            qos0_gaps: core.gaps() + shared_gaps,
        }
    }

    /// Counts the sessions of connected clients that are fed from the tails of the logs, and those that are catching up; and
    /// the feeds that are behind.
    fn count_feeds(&self) -> ([u64; 2], u64) {
        let behind = |mailbox: &Arc<Mailbox>| mailbox.feeds_behind() as u64;
        let (mut live, mut catching_up, mut feeds) = (0, 0, 0);
        for behind in self.registry.everyone().iter().map(behind) {
            feeds += behind;
            if behind == 0 { live += 1 } else { catching_up += 1 }
        }
        ([live, catching_up], feeds)
    }
}
