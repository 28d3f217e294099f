//! What a connection holds of its session in JetStream.

use std::collections::HashMap;
use std::num::NonZeroU32;

use bytestring::ByteString;
use mqtt_codec::{PacketId, TopicFilter};

use crate::store::{Rest, SessionRecord, StoredSubscription};

/// Messages of shared subscriptions at QoS 2 that are a session's, of which their consumers may not know it: where to tell
/// them.
pub(crate) type Claims = HashMap<PacketId, ByteString>;

/// The Subscription Identifiers of messages in flight that are each sent for one subscription.
pub(crate) type SentFor = HashMap<PacketId, NonZeroU32>;

/// What a connection holds of its session in JetStream.
#[derive(Clone, Debug)]
pub(crate) struct OwnedSession {
    /// The record as it was written last, but for its subscriptions.
    pub(crate) record: SessionRecord,
    /// Its sequence: the fence of every write.
    pub(crate) sequence: u64,
    /// The subscriptions, of a session that outlives its connection.
    pub(crate) subscriptions: HashMap<TopicFilter, StoredSubscription>,
    /// What its progress says of shared subscriptions, and they may not know.
    pub(crate) claims: Claims,
    /// Which subscriptions messages in flight were sent for.
    pub(crate) sent_for: SentFor,
    /// What a newer version has added to its progress.
    pub(crate) progress_rest: Rest,
}

/// Bytes that a subscription takes in a record beside its filter, about.
const SUBSCRIPTION_LEN: usize = 64;

impl OwnedSession {
    /// Bytes of the record, about.
    pub(crate) fn record_len(&self) -> usize {
        let subscriptions = self.subscriptions.keys().map(|filter| filter.as_str().len() + SUBSCRIPTION_LEN);
        self.record.will.as_ref().map_or(0, |will| will.size()) + subscriptions.sum::<usize>()
    }

    /// The record as it is to be written.
    pub(crate) fn record(&self) -> SessionRecord {
        let mut record = self.record.clone();
        record.subscriptions = self.subscriptions.values().cloned().collect();
        record.subscriptions.sort_unstable_by(|a, b| a.filter.cmp(&b.filter));
        record
    }
}
