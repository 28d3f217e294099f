//! CONNECTs that were given up although their record was written, or may be yet: nobody answered whether it was. Such a
//! record says that the client is connected here, which it is not. Until it is put in order, it is seen as what was there
//! before; a will that came with a CONNECT that no CONNACK accepted is not published from here [MQTT-3.1.2-8], and that of
//! the session before is. Other sidecars see what is written, so a client whose CONNECT may have left a record is not told
//! that it was refused.

use std::collections::HashMap;
use std::time::Duration;

use bytestring::ByteString;
use mqtt_ownership::{Epoch, Failover, Left, NodeId, Now, Restored, Revision};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::record::{Message, Rest, State};

/// How long after the last CONNECT of a client that was given up its session is looked at.
pub(super) const LOOK_AFTER: Duration = Duration::from_secs(15);

/// Clients that are looked after. The records of more are left to the end of our lease, or the next CONNECT.
const CLIENTS_MAX: usize = 16_384;

/// CONNECTs of one client that are told apart; the oldest one is forgotten.
const CONNECTS_MAX: usize = 16;

/// What a CONNECT may have left.
#[derive(Debug)]
pub(super) struct Orphan {
    left: Left<Message, Rest>,
    /// CONNACK accepted it.
    is_accepted: bool,
}

impl Orphan {
    pub(super) const fn new(left: Left<Message, Rest>, is_accepted: bool) -> Self {
        Self { left, is_accepted }
    }
}

/// The CONNECTs of this process that were given up and may have left a record.
#[derive(Debug, Default)]
pub(in crate::account) struct OrphanedConnects(Mutex<HashMap<ByteString, Connects>>);

#[derive(Debug)]
struct Connects {
    orphans: Vec<Orphan>,
    last: Instant,
}

impl OrphanedConnects {
    /// Notes one. Returns whether somebody has to start to look after the client.
    pub(super) fn note(&self, client_id: &ByteString, orphan: Orphan) -> bool {
        let mut clients = self.0.lock();
        let is_known = clients.contains_key(client_id);
        if !is_known && clients.len() >= CLIENTS_MAX {
            return false;
        }
        let last = Instant::now();
        let connects = clients.entry(client_id.clone()).or_insert(Connects { orphans: Vec::new(), last });
        connects.last = last;
        if connects.orphans.len() >= CONNECTS_MAX {
            connects.orphans.remove(0);
        }
        connects.orphans.push(orphan);
        !is_known
    }

    pub(super) fn has(&self, client_id: &str, epoch: Epoch) -> bool {
        self.0.lock().get(client_id).is_some_and(|connects| connects.orphans.iter().any(|o| o.left.epoch == epoch))
    }

    /// A record as it is to be seen: that of a CONNECT that was not accepted as what was there before, or as nothing.
    pub(super) fn see_through(&self, client_id: &str, written: State, now: Now) -> Option<State> {
        match self.unaccepted(client_id, &written, now) {
            Some(restored) => restored.map(|restored| restored.state),
            None => Some(written),
        }
    }

    /// The machine that puts a session in order whose record has this revision: in the place of that of a CONNECT that was not
    /// accepted, what was there before, or a session that ends.
    pub(super) fn failover(
        &self,
        client_id: &str,
        written: State,
        revision: Revision,
        node: NodeId,
        now: Now,
    ) -> Failover<Message, Rest> {
        match self.unaccepted(client_id, &written, now) {
            Some(Some(restored)) => Failover::restoring(restored, revision, node),
            Some(None) => Failover::new(State { connected: false, expiry_s: 0, will: None, ..written }, revision, node),
            None => Failover::new(written, revision, node),
        }
    }

    /// What was there before, if the record is that of a CONNECT that was not accepted.
    fn unaccepted(&self, client_id: &str, written: &State, now: Now) -> Option<Option<Restored<Message, Rest>>> {
        let clients = self.0.lock();
        let is_it = |orphan: &&Orphan| !orphan.is_accepted && orphan.left.epoch == written.epoch;
        let orphan = clients.get(client_id)?.orphans.iter().find(is_it)?;
        Some(orphan.left.restored(written, now))
    }

    /// When the client is to be looked at; `None` when nobody needs to any more.
    pub(super) fn look_at(&self, client_id: &str) -> Option<Instant> {
        self.0.lock().get(client_id).map(|connects| connects.last + LOOK_AFTER)
    }

    pub(super) fn forget(&self, client_id: &str) {
        self.0.lock().remove(client_id);
    }
}

#[cfg(test)]
mod tests {
    use mqtt_ownership::ServerTime;

    use super::*;
    use crate::account::ownership::record::state_of;
    use crate::store::SessionRecord;

    const NOW: Now = Now { earliest: ServerTime(1_000), certain: ServerTime(1_000), stamp: ServerTime(1_000) };

    fn orphan(epoch: u64, found: Option<State>, is_accepted: bool) -> Orphan {
        let (is_written, is_present) = (false, found.is_some());
        let found = found.map(|found| (found, Revision(3)));
        let left = Left { epoch: Epoch(epoch), is_written, is_present, found, is_will_marked: false };
        Orphan::new(left, is_accepted)
    }

    fn record(epoch: u64) -> State {
        state_of(SessionRecord { epoch, connected: true, expiry_s: 60, ..SessionRecord::default() })
    }

    #[test]
    fn a_client_is_looked_after_once_and_its_connects_are_known() {
        let orphans = OrphanedConnects::default();
        let id = ByteString::from("c");
        assert!(orphans.note(&id, orphan(1, None, false)), "somebody has to");
        for epoch in 2..=20 {
            assert!(!orphans.note(&id, orphan(epoch, None, false)), "somebody does");
        }
        assert_eq!([1, 4, 5, 20].map(|epoch| orphans.has("c", Epoch(epoch))), [false, false, true, true]);
        assert!(!orphans.has("d", Epoch(20)) && orphans.look_at("c").is_some());
        orphans.forget("c");
        assert!(!orphans.has("c", Epoch(20)) && orphans.look_at("c").is_none());
    }

    #[test]
    fn the_record_of_a_refused_connect_is_seen_as_what_it_found() {
        let orphans = OrphanedConnects::default();
        let id = ByteString::from("c");
        orphans.note(&id, orphan(7, None, false));
        orphans.note(&id, orphan(8, Some(record(5)), false));
        orphans.note(&id, orphan(9, None, true));
        assert_eq!(orphans.see_through("c", record(7), NOW), None, "nothing was there");
        let restored = orphans.see_through("c", record(8), NOW).unwrap();
        assert_eq!((restored.epoch, restored.connected), (Epoch(9), false), "no epoch comes twice");
        assert_eq!(orphans.see_through("c", record(9), NOW), Some(record(9)), "it was accepted");
        assert_eq!(orphans.see_through("d", record(7), NOW), Some(record(7)));
    }
}
