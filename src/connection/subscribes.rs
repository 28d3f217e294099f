//! SUBSCRIBE, from the session to the account and back.

use std::collections::HashMap;
use std::sync::Arc;

use mqtt_codec::{QoS, TopicFilter};
use tokio::io::{AsyncRead, AsyncWrite};

use super::Connection;
use super::parts::Answered;
use crate::account::{RecordRoom, RetainedCursor, Subscribed};
use crate::store::{StoredBefore, StoredRetained, StoredSubscription};

impl<S> Connection<S>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    pub(super) fn start_subscribes(&mut self) {
        if self.subscribes.is_empty() || self.subscribing.is_some() {
            return;
        }
        let requests = std::mem::take(&mut self.subscribes);
        self.log_subscribes(&requests);
        let is_durable = self.session.is_durable();
        let planned = self.account.plan_subscribes(
            &self.inbox,
            &mut self.filters,
            self.owned.as_ref().map(|owned| RecordRoom::new(owned, is_durable)),
            requests,
        );
        self.making = planned.filters().cloned().collect();
        self.publishing.tells_publisher |= planned.has_no_local();
        let (account, inbox) = (Arc::clone(&self.account), Arc::clone(&self.inbox));
        self.subscribing = Some(Box::pin(async move { account.subscribe(&inbox, planned).await }));
    }

    pub(super) fn subscribed(&mut self, mut subscribed: Subscribed) {
        self.subscribing = None;
        self.making = Box::default();
        for filter in &subscribed.failed {
            self.filters.remove(filter);
        }
        self.tell_subscribed(&subscribed.made);
        self.log_granted(&subscribed.reasons);
        let owed = self.number_retained(&mut subscribed.retained);
        self.inbox.owe_retained(subscribed.retained);
        if let Some(owned) = &mut self.owned {
            // That of a session that ends with its connection tells the others what it wants above QoS 0.
            let is_durable = self.session.is_durable();
            let made = subscribed.made.into_iter().filter(|(_, stored)| is_durable || stored.qos > 0);
            for (filter, mut stored) in made {
                stored.retained = owed.get(&filter).copied();
                if let Some(old) = owned.subscriptions.get(&filter) {
                    // One that is replaced goes on where it was.
                    stored.before = before(&stored, old);
                    stored.since = stored.since.min(old.since);
                    stored.since_in.clone_from(&old.since_in);
                    stored.retained = stored.retained.or(old.retained);
                    stored.rest.clone_from(&old.rest);
                    if stored == *old {
                        continue;
                    }
                }
                owned.subscriptions.insert(filter, stored);
            }
        }
        self.end_unwanted(subscribed.denied);
        // Nobody was told that they were there.
        let never_granted: Vec<_> = subscribed.never_granted.into_iter().map(Ok).collect();
        if !never_granted.is_empty() {
            self.take_back(&never_granted);
        }
        for (packet_id, reasons) in subscribed.reasons {
            self.answer_after_record(Answered::Subscribed(packet_id, reasons));
        }
    }

    /// What is owed to subscriptions of a session that goes on has numbers, by which its record and its progress name it.
    pub(super) fn number_retained(&mut self, cursors: &mut [RetainedCursor]) -> HashMap<TopicFilter, StoredRetained> {
        let mut owed = HashMap::new();
        if !self.session.is_durable() || self.owned.is_none() {
            return owed;
        }
        let lasts = |cursor: &&mut RetainedCursor| cursor.options.qos > QoS::AtMostOnce && !cursor.is_sys;
        for cursor in cursors.iter_mut().filter(lasts) {
            owed.insert(cursor.filter.clone(), self.retained.number(cursor));
        }
        owed
    }
}

/// What is to be remembered of a subscription that this one replaces, which begins where the logs stand now: at QoS 0 nothing
/// is owed of them, but what the old one was owed stays owed [MQTT-3.8.4-4].
fn before(new: &StoredSubscription, old: &StoredSubscription) -> Option<Box<StoredBefore>> {
    match (new.qos, old.qos) {
        (1.., _) => None,
        (0, 0) => old.before.clone(),
        (0, qos) => Some(Box::new(StoredBefore { qos, up_to: new.since, up_to_in: new.since_in.clone() })),
    }
}
