//! Which subscriptions of SUBSCRIBE packets may be made, judged before anything of them is: each filter by itself, and by what
//! the client has already.

use std::collections::HashSet;
use std::sync::Once;

use bytestring::ByteString;
use mqtt_codec::{QoS, ReasonCode, RetainHandling, SubscribeEntry, SubscriptionOptions, TopicFilter};
use mqtt_session::{Cursors, SubscribeRequest};

use super::{New, Planned};
use crate::account::Account;
use crate::account::delivery::core_subscriptions::SubscriptionOrder;
use crate::account::delivery::inbox::Inbox;
use crate::account::delivery::router::NewSubscription;
use crate::account::ownership::owned_session::OwnedSession;
use crate::account::ownership::paged::PagedSubscriptions;
use crate::account::ownership::records;
use crate::account::quotas::Quotas;
use crate::account::rights::Rights;
use crate::account::shared::NewShare;
use crate::metrics::Limit;
use crate::store::{StoredRetained, StoredSubscription};

/// Room that is left in a message beside a subscription, headers included, in bytes. What is in it grows as well.
const MESSAGE_ROOM: usize = 4 * 1024;

/// What a session's subscriptions take in JetStream.
pub(crate) struct RecordRoom<'a> {
    stored: &'a PagedSubscriptions,
    /// QoS 0 is stored too.
    is_durable: bool,
}

impl<'a> RecordRoom<'a> {
    /// Of a session that has a record; `is_durable`: it outlives its connection.
    pub(crate) fn new(owned: &'a OwnedSession, is_durable: bool) -> Self {
        Self { stored: &owned.subscriptions, is_durable }
    }

    /// Of a session of which this is stored.
    #[cfg(test)]
    pub(super) const fn of(stored: &'a PagedSubscriptions, is_durable: bool) -> Self {
        Self { stored, is_durable }
    }

    fn is_stored(&self, qos: QoS) -> bool {
        self.is_durable || qos > QoS::AtMostOnce
    }

    /// Bytes that are left for more subscriptions.
    fn left(&self, quotas: &Quotas) -> usize {
        quotas.session_size.saturating_sub(self.stored.stored_len())
    }
}

/// What a client can have more.
struct Room<'a> {
    groups: usize,
    record: Option<RecordRoom<'a>>,
    record_left: usize,
    /// Bytes that one may take.
    each: usize,
    /// Filters of these packets that take room.
    taken: HashSet<TopicFilter>,
}

impl Account {
    /// Checks the filters of SUBSCRIBE packets, one after the other [MQTT-3.8.4-5], and subscribes to them on NATS. `filters`: those of the client; `record`: what
    /// of them is stored, when the session has a record.
    pub(crate) fn plan_subscribes(
        &self,
        inbox: &Inbox,
        filters: &mut HashSet<TopicFilter>,
        record: Option<RecordRoom<'_>>,
        requests: Vec<SubscribeRequest>,
    ) -> Planned {
        let quotas = &self.options.quotas;
        let groups = filters.iter().filter(|filter| filter.is_shared()).count();
        let mut room = Room {
            groups: quotas.groups_per_client.saturating_sub(groups),
            record_left: record.as_ref().map_or(0, |record| record.left(quotas)),
            each: self.store.core().max_payload().saturating_sub(MESSAGE_ROOM),
            record,
            taken: HashSet::new(),
        };
        let (mut packets, mut wishes) = (Vec::with_capacity(requests.len()), Vec::new());
        let judged_by = inbox.rights.version();
        for request in requests {
            let mut entries = Vec::with_capacity(request.entries.len());
            for (number, entry) in request.entries.into_iter().enumerate() {
                entries.push(if number < quotas.filters_per_packet {
                    self.plan(inbox, filters, &mut room, entry, request.subscription_id, &mut wishes)
                } else {
                    Err(self.refusals.refuse(Limit::FiltersPerPacket, &inbox.client_id))
                });
            }
            packets.push((request.packet_id, entries));
        }
        Planned { packets, wishes, judged_by }
    }

    fn plan(
        &self,
        inbox: &Inbox,
        filters: &mut HashSet<TopicFilter>,
        room: &mut Room<'_>,
        entry: SubscribeEntry,
        subscription_id: Option<std::num::NonZeroU32>,
        wishes: &mut Vec<TopicFilter>,
    ) -> Result<New, ReasonCode> {
        let filter = self.check_filter(entry.filter, &inbox.client_id, &inbox.rights)?;
        // [MQTT-3.2.2-10]
        let options = SubscriptionOptions { qos: entry.options.qos.min(inbox.rights.max_qos()), ..entry.options };
        let is_new = !filters.contains(&filter);
        let over = |limit| self.refusals.refuse(limit, &inbox.client_id);
        if is_new && filters.len() >= self.options.quotas.subscriptions {
            return Err(over(Limit::Subscriptions));
        }
        if is_new && !inbox.rights.may_subscribe_beside(filters.len()) {
            return Err(over(Limit::UserSubscriptions));
        }
        if filter.is_shared() {
            if is_new && room.groups == 0 {
                return Err(over(Limit::GroupsPerClient));
            }
            let new = NewShare { filter, options, subscription_id };
            room.take(&new.filter, options.qos, || records::stored_share(&new, self.tail_sequence())).map_err(over)?;
            room.groups -= usize::from(is_new);
            filters.insert(new.filter.clone());
            return Ok(New::Shared(new, is_new));
        }
        // [MQTT-3.3.1-9, -10, -11]
        let mut new = NewSubscription {
            logs: self.logs.overlapping(&filter),
            is_owed_retained: match options.retain_handling {
                RetainHandling::Send => true,
                RetainHandling::SendIfNew => is_new,
                RetainHandling::DoNotSend => false,
            },
            filter,
            options,
            subscription_id,
            order: SubscriptionOrder::default(),
            before: None,
        };
        room.take(&new.filter, options.qos, || self.as_stored(&new)).map_err(over)?;
        new.order = self.order_of(filters, &new.filter)?;
        if let Some(ingest) = &self.ingest
            && ingest.wants.subscribed(inbox.id, &new.filter, options.qos)
        {
            wishes.push(new.filter.clone());
        }
        Ok(New::Ordinary(new, is_new))
    }

    /// A subscription as it would be stored now.
    fn as_stored(&self, new: &NewSubscription) -> StoredSubscription {
        let logs = new.logs.iter().filter_map(|number| self.logs.get(*number));
        let after: Cursors = logs.map(|log| log.position(log.tail_sequence())).collect();
        let up_to = self.store.retained().index().state().highest;
        let retained = new.is_owed_retained.then_some(StoredRetained { number: up_to, up_to });
        StoredSubscription { retained, ..records::stored_subscription(new, &after, &self.logs) }
    }

    fn check_filter(
        &self,
        filter: Result<TopicFilter, ByteString>,
        client_id: &str,
        rights: &Rights,
    ) -> Result<TopicFilter, ReasonCode> {
        let filter = filter.map_err(|text| {
            // The decoder takes one that is too deep for one that is not valid.
            match TopicFilter::new(text).is_ok_and(|filter| filter.levels_exceed(self.options.max_topic_levels)) {
                true => self.refusals.refuse(Limit::TopicLevels, client_id),
                false => ReasonCode::TopicFilterInvalid,
            }
        })?;
        if let Some(limit) = self.length_exceeded(&filter) {
            return Err(self.refusals.refuse(limit, client_id));
        }
        self.judge(&filter, rights)?;
        // A copy: the filter of a packet keeps the whole read buffer alive.
        Ok(filter.to_owned_copy())
    }

    /// Whether a client may have a subscription: one that it asks for, and one that its session has from before, when the
    /// configuration may have been another.
    pub(crate) fn judge(&self, filter: &TopicFilter, rights: &Rights) -> Result<(), ReasonCode> {
        let is_too_long = self.length_exceeded(filter).is_some();
        if is_too_long || filter.levels_exceed(self.options.max_topic_levels) || !can_be_asked_for(filter) {
            return Err(ReasonCode::TopicFilterInvalid);
        }
        if filter.is_shared() && !self.options.limits.shared_subscriptions {
            return Err(ReasonCode::SharedSubscriptionsNotSupported);
        }
        let is_served = !filter.is_shared() && self.sys.serves(filter);
        if self.router.closed().filter_is_closed(filter) && !is_served {
            return Err(ReasonCode::NotAuthorized);
        }
        if self.router.closed().refuses_wildcard(filter) {
            static SAID: Once = Once::new();
            SAID.call_once(|| {
                let filter = filter.as_str();
                tracing::warn!(
                    filter,
                    "filters whose first level is a wildcard are refused, as mqtt.root_wildcard says"
                );
            });
            return Err(ReasonCode::TopicFilterInvalid);
        }
        rights.judge_filter(filter, self.router.closed())
    }

    fn length_exceeded(&self, filter: &TopicFilter) -> Option<Limit> {
        let Quotas { filter_length, share_name_length, .. } = self.options.quotas;
        if filter.matching_part().len() > filter_length {
            return Some(Limit::FilterLength);
        }
        let is_too_long = filter.shared().is_some_and(|shared| shared.name.len() > share_name_length);
        is_too_long.then_some(Limit::ShareNameLength)
    }

    fn order_of(
        &self,
        filters: &mut HashSet<TopicFilter>,
        filter: &TopicFilter,
    ) -> Result<SubscriptionOrder, ReasonCode> {
        if filters.contains(filter)
            && let Some(order) = self.interest.order_of(filter)
        {
            return Ok(order);
        }
        let order = self.acquire(filter).map_err(|_| ReasonCode::TopicFilterInvalid)?;
        filters.insert(filter.clone());
        Ok(order)
    }
}

impl Room<'_> {
    /// Takes room for a subscription that is not there yet.
    fn take(
        &mut self,
        filter: &TopicFilter,
        qos: QoS,
        stored: impl FnOnce() -> StoredSubscription,
    ) -> Result<(), Limit> {
        let Some(record) = self.record.as_ref().filter(|record| record.is_stored(qos)) else { return Ok(()) };
        if record.stored.get(filter).is_some() || self.taken.contains(filter) {
            return Ok(());
        }
        let len = Some(stored().stored_len()).filter(|len| *len <= self.each);
        let left = len.and_then(|len| self.record_left.checked_sub(len)).ok_or(Limit::SessionSize)?;
        self.record_left = left;
        self.taken.insert(filter.clone());
        Ok(())
    }
}

/// Whether NATS takes a filter, and a share name, in one line: what it does not take ends the connection that asks.
fn can_be_asked_for(filter: &TopicFilter) -> bool {
    let Ok(subjects) = proto_map::subjects_of(filter) else { return false };
    let group = filter.shared().map(|shared| proto_map::queue_group(&shared.name).len());
    subjects.iter().all(|subject| nats_wire::can_subscribe(subject.as_str().len(), group))
}

#[cfg(test)]
mod tests;
