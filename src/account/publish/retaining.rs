//! Whether a message may be retained: there is room for so many, of such a size. Every sidecar has them all in memory.
//!
//! One that may not is refused at QoS 1 and 2. Nobody can be told at QoS 0, and nobody is there to be told of a will: those
//! are published, and not retained.

use mqtt_codec::{QoS, TopicName};
use mqtt_session::Publication;

use super::Publishing;
use super::job::Refused;
use crate::account::Account;
use crate::metrics::Limit;

impl Publishing {
    /// Judges whether a publication may be retained.
    pub(super) fn judge_retained(&self, publication: &mut Publication) -> Result<(), Refused> {
        // An empty one makes room.
        if !publication.retain || publication.payload.is_empty() {
            return Ok(());
        }
        let Some(limit) = self.account.retained_limit(&publication.topic, publication.payload.len()) else {
            return Ok(());
        };
        self.account.refusals.refuse(limit, &self.completions.client_id);
        if publication.qos > QoS::AtMostOnce && self.will_of.is_none() {
            return Err(Refused::OverLimit);
        }
        publication.retain = false;
        Ok(())
    }
}

impl Account {
    /// The limit that keeps a message from being retained.
    fn retained_limit(&self, topic: &TopicName, payload_len: usize) -> Option<Limit> {
        let quotas = &self.options.quotas;
        if payload_len > quotas.retained_size {
            return Some(Limit::RetainedSize);
        }
        let (messages, bytes) = self.store.retained().index().beside(topic);
        if messages >= quotas.retained_messages {
            return Some(Limit::RetainedMessages);
        }
        (bytes + topic.as_str().len() + payload_len > quotas.retained_bytes).then_some(Limit::RetainedBytes)
    }
}
