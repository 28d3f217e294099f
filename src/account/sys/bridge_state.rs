//! What a bridge of mosquitto says of its own connection: `1` on `$SYS/broker/connection/ID/state` when it is there, `0` in its
//! will, retained, where ID is the client id that it has here. The topic is in a closed tree, and nothing of it goes to NATS: it
//! is one of the topics of `$SYS` on this sidecar, for the clients of this sidecar.
//!
//! A client says something about itself only, some bytes, and of so many clients and no more it is kept.

use std::collections::HashSet;

use bytestring::ByteString;
use mqtt_codec::TopicName;
use mqtt_session::Publication;
use parking_lot::Mutex;
use proto_map::{ClosedTrees, client_of};

use crate::account::publish::Refused;

/// Longest state, in bytes; a bridge says one.
const STATE_LEN_MAX: usize = 64;

/// Clients whose state is kept.
const STATES_MAX: usize = 1_000;

/// Whose state a topic has.
fn subject_of_state(topic: &str) -> Option<&str> {
    topic.strip_prefix("$SYS/broker/connection/")?.strip_suffix("/state")
}

/// Whether a topic has the state of this client. What the operator has opened to devices leads to NATS.
pub(in crate::account) fn is_own_state(topic: &TopicName, client_id: &str, closed: &ClosedTrees) -> bool {
    subject_of_state(topic.as_str()) == Some(client_of(client_id).1) && closed.is_closed_topic(topic)
}

/// The clients whose state is kept.
#[derive(Debug, Default)]
pub(crate) struct BridgeStates(Mutex<HashSet<ByteString>>);

impl BridgeStates {
    /// Whether a client may say this, and makes room for it.
    pub(in crate::account) fn admit(&self, client_id: &ByteString, publication: &Publication) -> Result<(), Refused> {
        judge(publication)?;
        let mut kept = self.0.lock();
        if !publication.retain {
            return Ok(());
        }
        if publication.payload.is_empty() {
            kept.remove(client_id);
        } else if kept.len() < STATES_MAX || kept.contains(client_id) {
            kept.insert(client_id.clone());
        } else {
            return Err(Refused::NoRoom);
        }
        Ok(())
    }
}

/// Whether a state is short enough.
pub(in crate::account) fn judge(publication: &Publication) -> Result<(), Refused> {
    if publication.payload.len() > STATE_LEN_MAX { Err(Refused::TooLarge) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use mqtt_codec::QoS;

    fn publication(payload: &str, retain: bool) -> Publication {
        let topic = TopicName::new("$SYS/broker/connection/b/state").unwrap();
        let (payload, qos) = (Bytes::copy_from_slice(payload.as_bytes()), QoS::AtMostOnce);
        Publication { token: None, once: None, topic, qos, retain, payload, properties: None }
    }

    #[test]
    fn a_state_is_the_clients_own() {
        let is_own = |topic: &str, id: &str, closed: &ClosedTrees| {
            is_own_state(&TopicName::new(topic.to_owned()).unwrap(), id, closed)
        };
        let closed = ClosedTrees::default();
        assert!(is_own("$SYS/broker/connection/site.bridge-1/state", "site.bridge-1", &closed));
        assert!(is_own("$SYS/broker/connection/a/b/state", "a/b", &closed));
        assert!(is_own("$SYS/broker/connection/a/state", "site7/\0a", &closed));
        for (topic, id) in [
            ("$SYS/broker/connection/a/state", "b"),
            ("$SYS/broker/connection/a/state", ""),
            ("$SYS/broker/connection/a/state/x", "a"),
            ("$SYS/broker/connection//state", "a"),
            ("$SYS/broker/connection/state", "a"),
            ("$SYS/broker/uptime", "uptime"),
            ("$sys/broker/connection/a/state", "a"),
        ] {
            assert!(!is_own(topic, id, &closed), "{topic} {id}");
        }
        let opened = ClosedTrees::new("$NMQ", &["$SYS.broker"]);
        assert!(!is_own("$SYS/broker/connection/a/state", "a", &opened));
    }

    #[test]
    fn states_are_short_and_not_too_many() {
        let states = BridgeStates::default();
        let id = |number: usize| ByteString::from(format!("b{number}"));
        assert_eq!(states.admit(&id(0), &publication(&"x".repeat(65), true)), Err(Refused::TooLarge));
        for number in 0..STATES_MAX {
            assert_eq!(states.admit(&id(number), &publication("1", true)), Ok(()));
        }
        assert_eq!(states.admit(&id(STATES_MAX), &publication("1", true)), Err(Refused::NoRoom));
        // What is not kept needs no room, and who has a place keeps it.
        assert_eq!(states.admit(&id(STATES_MAX), &publication("1", false)), Ok(()));
        assert_eq!(states.admit(&id(5), &publication("0", true)), Ok(()));
        assert_eq!(states.admit(&id(5), &publication("", true)), Ok(()));
        assert_eq!(states.admit(&id(STATES_MAX), &publication("1", true)), Ok(()));
    }
}
