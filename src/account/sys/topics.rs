//! The topics below `$SYS` that are served here, and who is subscribed to them.

use std::sync::Arc;

use mqtt_codec::TopicFilter;
use mqtt_session::Sequence;
use parking_lot::Mutex;
use proto_map::ClosedTrees;

use crate::account::delivery::inbox::Wakes;
use crate::account::delivery::logs::Logs;
use crate::account::delivery::message::Message;
use crate::account::delivery::router::{Reading, Router};
use crate::account::requests::Requests;
use crate::account::session_id::SessionId;
use crate::account::sys::bridge_state::BridgeStates;
use crate::metrics::AccountMetrics;
use crate::store::RetainedIndex;

/// The topics and who is subscribed to them.
pub(crate) struct Sys {
    pub(crate) router: Router,
    pub(crate) index: Arc<RetainedIndex>,
    /// What bridges say of themselves.
    pub(in crate::account) bridges: BridgeStates,
    /// Names each message for those who subscribe meanwhile; held while one is told.
    sequence: Mutex<u64>,
}

impl Sys {
    /// Without topics yet.
    pub(crate) fn new(
        logs: Arc<Logs>,
        closed: ClosedTrees,
        requests: Arc<Requests>,
        reading: Reading,
        metrics: Arc<AccountMetrics>,
    ) -> Self {
        let index = Arc::new(RetainedIndex::new());
        let (bridges, sequence) = Default::default();
        let router = Router::new(logs, Arc::clone(&index), closed, None, reading, requests, metrics);
        Self { router, index, bridges, sequence }
    }

    /// Tells who is subscribed, and keeps what is retained.
    pub(in crate::account) fn tell(&self, message: &mut Message, publisher: SessionId, wakes: &mut Wakes) {
        let mut sequence = self.sequence.lock();
        if message.retain {
            *sequence += 1;
            message.retained_at = Some(Sequence(*sequence));
        }
        self.router.route_local(message, publisher, wakes);
    }

    /// Whether a filter is served from here: it is below `$SYS`, and the operator has not opened that part of NATS's own
    /// tree to devices.
    pub(crate) fn serves(&self, filter: &TopicFilter) -> bool {
        serves(filter, self.router.closed())
    }
}

/// See [`Sys::serves`].
fn serves(filter: &TopicFilter, closed: &ClosedTrees) -> bool {
    filter.as_str().starts_with("$SYS/") && closed.filter_is_closed(filter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_below_sys_are_served_here_unless_opened() {
        let serves = |closed: &ClosedTrees, filter: &str| serves(&TopicFilter::new(filter).unwrap(), closed);
        let closed = ClosedTrees::default();
        for filter in ["$SYS/#", "$SYS/broker/+/x", "$SYS/ACCOUNT/+/CONNECT", "$SYS/+"] {
            assert!(serves(&closed, filter), "{filter}");
        }
        for filter in ["$SYS", "#", "+/broker/#", "a/$SYS/#", "$SYSTEM/#", "$share/g/$SYS/#"] {
            assert!(!serves(&closed, filter), "{filter}");
        }
        let opened = ClosedTrees::new("$NMQ", &["$SYS.ACCOUNT"]);
        assert!(serves(&opened, "$SYS/#"));
        assert!(!serves(&opened, "$SYS/ACCOUNT/+/CONNECT"));
    }
}
