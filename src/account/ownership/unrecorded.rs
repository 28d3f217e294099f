//! What is known of the sessions of an account without JetStream, which are written nowhere: when each came, and its will.

use foldhash::HashMap;
use mqtt_ownership::ServerTime;
use parking_lot::Mutex;

use crate::account::session_id::SessionId;
use crate::store::StoredWill;

/// What is known of those that are connected here.
#[derive(Debug, Default)]
pub(in crate::account) struct Unrecorded(Mutex<HashMap<SessionId, Kept>>);

#[derive(Debug)]
struct Kept {
    came: ServerTime,
    will: Option<Box<StoredWill>>,
}

impl Unrecorded {
    pub(in crate::account) fn enter(&self, session: SessionId, came: ServerTime, will: Option<StoredWill>) {
        self.0.lock().insert(session, Kept { came, will: will.map(Box::new) });
    }

    pub(in crate::account) fn came(&self, session: SessionId) -> ServerTime {
        self.0.lock().get(&session).map_or(ServerTime(0), |kept| kept.came)
    }

    pub(in crate::account) fn take_will(&self, session: SessionId) -> Option<(Box<StoredWill>, ServerTime)> {
        let mut all = self.0.lock();
        let kept = all.get_mut(&session)?;
        Some((kept.will.take()?, kept.came))
    }

    /// A connection has ended.
    pub(in crate::account) fn leave(&self, session: SessionId) {
        self.0.lock().remove(&session);
    }
}

/// Whether a connection that asks gives way to the one that is asked for: who has its answer was there before, and of two that wait
/// for theirs the later one stays, by when they came and, of two that came together, by where.
pub(in crate::account) fn is_late(asks: (ServerTime, &str), holds: (ServerTime, &str), is_answered: bool) -> bool {
    !is_answered && asks < holds
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_comes_to_another_sidecar_is_late_only_when_both_wait_and_the_other_one_came_later() {
        let came = |(ms, process)| (ServerTime(ms), process);
        for (asks, holds, is_answered, late) in [
            ((10, "a"), (11, "b"), false, true),
            ((11, "a"), (10, "b"), false, false),
            ((10, "a"), (10, "b"), false, true),
            ((10, "b"), (10, "a"), false, false),
            // Clocks that differ do not decide about who has its answer.
            ((11, "a"), (10, "b"), true, false),
            ((10, "a"), (99, "b"), true, false),
        ] {
            assert_eq!(is_late(came(asks), came(holds), is_answered), late, "{asks:?} {holds:?} {is_answered}");
        }
    }
}
