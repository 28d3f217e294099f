//! How this sidecar is, at the moment when somebody asks: read from its parts, which keep what is read here anyway. Nothing
//! here waits for anything or changes anything.

use std::sync::Arc;
use std::time::Duration;

use crate::account::Account;
use crate::account::control::Control;
use crate::account::delivery::logs::LogHandle;
use crate::metrics::Vitals;
use crate::readiness::Standing;

/// A publish that JetStream has not answered for so long shows that it does not answer. The way there and back may take a second,
/// an election takes four to nine, and after twenty the publish is refused.
const UNANSWERED_MAX: Duration = Duration::from_secs(5);

impl Account {
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
            // Without JetStream nothing is read.
            tail_silence: logs
                .iter()
                .filter(|_| self.has_jetstream())
                .map(|log| log.log.tail_silence())
                .max()
                .unwrap_or(Duration::ZERO),
            tail_lag: logs.iter().map(|log| log.log.tail_lag()).max().unwrap_or(0),
            lease_age: self.lease.view().map(|view| view.age()),
            qos0_lost: core.overflows() + shared_lost,
            qos0_gaps: core.gaps() + shared_gaps,
            streams: self.store.stream_rooms(),
        }
    }

    /// Whether all connections to NATS stand.
    pub(crate) fn links_stand(&self) -> Standing {
        let lost = self.store.lost_links();
        none_of(&lost, || format!("connections that are lost: {}", lost.join(", ")))
    }

    /// Whether the streams that are ours are there.
    pub(crate) fn assets_are_there(&self) -> Standing {
        let missing = self.store.missing_streams();
        none_of(&missing, || format!("streams that are not there: {}", missing.join(", ")))
    }

    /// Whether our lease is held for sure. Half of the time after which it is in doubt is more than two refreshes.
    pub(crate) fn lease_is_held(&self) -> Standing {
        let fence_after = self.store.nodes().times().fence_after;
        match self.lease.view().map(|view| view.age()) {
            None => Err("there is no lease".to_owned()),
            Some(age) if age < fence_after / 2 => Ok(()),
            Some(age) => Err(format!(
                "the lease was refreshed {} s ago; from {} s on it is in doubt",
                age.as_secs(),
                fence_after.as_secs()
            )),
        }
    }

    /// Whether the index of retained messages is what the bucket has.
    pub(crate) fn retained_is_warm(&self) -> Standing {
        let is_warm = self.store.retained().is_warm();
        if is_warm { Ok(()) } else { Err("the retained messages are not read, or not to their end".to_owned()) }
    }

    /// Whether the tail of every log reads.
    pub(crate) fn tails_read(&self) -> Standing {
        let silent = |log: &Arc<LogHandle>| !log.log.is_tail_reading() && !log.is_gone();
        let silent: Vec<_> = self.logs.all().into_iter().filter(silent).collect();
        let said = |log: &Arc<LogHandle>| {
            format!("{}, of which nothing was heard for {} s", log.log.stream(), log.log.tail_silence().as_secs())
        };
        none_of(&silent, || {
            format!("logs that are not read: {}", silent.iter().map(said).collect::<Vec<_>>().join("; "))
        })
    }

    /// Whether JetStream answers what is published, whichever stream it is for: what one of them does not answer takes the places
    /// of what is for others.
    pub(crate) fn publishes_are_answered(&self) -> Standing {
        match self.store.publisher().oldest_unanswered() {
            Some(age) if age >= UNANSWERED_MAX => {
                Err(format!("the oldest publish has waited for JetStream for {} s", age.as_secs()))
            }
            _ => Ok(()),
        }
    }

    /// Whether the streams that are ours have room. One of somebody else that is full is his wish: who publishes there is told,
    /// here as on every other sidecar.
    pub(crate) fn streams_have_room(&self) -> Standing {
        let rooms = self.store.stream_rooms();
        let full: Vec<String> =
            rooms.iter().filter(|room| room.is_ours && room.full.is_some()).map(ToString::to_string).collect();
        none_of(&full, || format!("streams without room: {}", full.join("; ")))
    }

    /// Counts the sessions of connected clients that are fed from the tails of the logs, and those that are catching up; and
    /// the feeds that are behind.
    fn count_feeds(&self) -> ([u64; 2], u64) {
        let behind = |control: &Arc<Control>| control.inbox().feeds_behind() as u64;
        let (mut live, mut catching_up, mut feeds) = (0, 0, 0);
        for behind in self.registry.everyone().iter().map(behind) {
            feeds += behind;
            if behind == 0 { live += 1 } else { catching_up += 1 }
        }
        ([live, catching_up], feeds)
    }
}

fn none_of<T>(found: &[T], why: impl FnOnce() -> String) -> Standing {
    if found.is_empty() { Ok(()) } else { Err(why()) }
}
