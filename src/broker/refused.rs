//! CONNECTs that were refused although their record may have been written, or may be yet: nobody answered whether it was.
//! Such a record says that the client is connected here, which it never was. It is put in order when it is found, and a
//! will that came with it is not published, since no CONNACK accepted it [MQTT-3.1.2-8].

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytestring::ByteString;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::Broker;
use crate::store::{SessionRecord, WriteError};

/// How long after the last refused CONNECT of a client its session is looked at.
const LOOK_AFTER: Duration = Duration::from_secs(15);

/// Clients that are looked after. The records of more are left to the end of our lease, or the next CONNECT.
const CLIENTS_MAX: usize = 65_536;

/// Refused CONNECTs of one client that are told apart; the oldest one is forgotten.
const EPOCHS_MAX: usize = 16;

/// The CONNECTs of this process that were refused and may have left a record.
#[derive(Debug, Default)]
pub(crate) struct RefusedConnects(Mutex<HashMap<ByteString, Refusals>>);

#[derive(Debug)]
struct Refusals {
    /// What their records have as the epoch.
    epochs: Vec<u64>,
    last: Instant,
}

impl RefusedConnects {
    /// Notes a CONNECT that was given up, with its epoch if it was refused. Returns whether somebody has to start to look
    /// after the client.
    fn note(&self, client_id: &ByteString, refused: Option<u64>) -> bool {
        let mut clients = self.0.lock();
        let is_known = clients.contains_key(client_id);
        if !is_known && clients.len() >= CLIENTS_MAX {
            return false;
        }
        let last = Instant::now();
        let refusals = clients.entry(client_id.clone()).or_insert(Refusals { epochs: Vec::new(), last });
        refusals.last = last;
        if let Some(epoch) = refused.filter(|epoch| !refusals.epochs.contains(epoch)) {
            if refusals.epochs.len() >= EPOCHS_MAX {
                refusals.epochs.remove(0);
            }
            refusals.epochs.push(epoch);
        }
        !is_known
    }

    fn has(&self, client_id: &str, epoch: u64) -> bool {
        self.0.lock().get(client_id).is_some_and(|refusals| refusals.epochs.contains(&epoch))
    }

    /// When the client is to be looked at; `None` when nobody needs to any more.
    fn look_at(&self, client_id: &str) -> Option<Instant> {
        self.0.lock().get(client_id).map(|refusals| refusals.last + LOOK_AFTER)
    }

    fn forget(&self, client_id: &str) {
        self.0.lock().remove(client_id);
    }
}

impl Broker {
    /// A CONNECT was given up whose record may make us the owner: should it do so, the session is left as one whose client
    /// is not connected. `refused`: its epoch, when CONNACK did not accept it.
    pub(super) fn abandon(self: &Arc<Self>, node: Arc<str>, client_id: &ByteString, refused: Option<u64>) {
        if !self.refused.note(client_id, refused) {
            return;
        }
        let (broker, client_id) = (Arc::clone(self), client_id.clone());
        tokio::spawn(async move {
            while let Some(at) = broker.refused.look_at(&client_id) {
                if at > Instant::now() {
                    tokio::time::sleep_until(at).await;
                } else if broker.settle_refused(&node, &client_id).await {
                    broker.refused.forget(&client_id);
                } else {
                    tokio::time::sleep(LOOK_AFTER).await;
                }
            }
        });
    }

    /// Puts the session of a client in order whose CONNECT was refused. False when JetStream cannot be asked.
    async fn settle_refused(self: &Arc<Self>, node: &str, client_id: &ByteString) -> bool {
        if self.registry.find(client_id).is_some_and(|mailbox| mailbox.epoch() > 0) {
            return true;
        }
        let Ok(loaded) = self.store.sessions().load(client_id).await else { return false };
        let Some(mut record) = loaded.record.filter(|r| r.connected && r.owner.as_deref() == Some(node)) else {
            return true;
        };
        if self.was_refused(&record) {
            record.will = None;
        }
        !matches!(self.adopt(record, loaded.sequence).await, Err(WriteError::Unavailable { .. }))
    }

    /// Whether a record is that of a CONNECT of ours that was refused and would have begun a session. One that would
    /// have gone on with a session has the place of the will of its last connection, so its will counts.
    pub(super) fn was_refused(&self, record: &SessionRecord) -> bool {
        let is_new = record.first_epoch == record.epoch;
        is_new && record.connected && self.refused.has(&record.client_id, record.epoch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_looked_after_once_and_its_refused_connects_are_known() {
        let refused = RefusedConnects::default();
        let id = ByteString::from("c");
        assert!(refused.note(&id, Some(1)), "somebody has to");
        for epoch in 2..=20 {
            assert!(!refused.note(&id, Some(epoch)), "somebody does");
        }
        assert_eq!([1, 4, 5, 20].map(|epoch| refused.has("c", epoch)), [false, false, true, true]);
        assert!(!refused.note(&id, None), "one that was accepted and then given up");
        assert!(refused.has("c", 20) && !refused.has("d", 20) && refused.look_at("c").is_some());
        refused.forget("c");
        assert!(!refused.has("c", 20) && refused.look_at("c").is_none());
    }
}
