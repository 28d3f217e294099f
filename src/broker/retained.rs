//! Retained messages on their way to one session: pages of the index, taken when the session has room, so that a
//! subscriber to a million of them costs a cursor and not a queue. What was in flight when a connection broke is read from
//! the bucket again. What was not sent yet stays owed to a session that goes on: its record says which subscriptions have
//! something coming, and its progress how far it is.

//!
//! - [`finding`]: which subscriptions are owed something at all

pub(super) mod finding;

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::sync::Arc;

use mqtt_codec::{SubscriptionOptions, TopicFilter, TopicName};

use super::mailbox::Outgoing;
use super::router::NewSubscription;
use super::{Broker, RETRY, convert, records};
use crate::store::{
    IndexState, RetainedEntry, RetainedIndex, RetainedProgress, RetainedSearch, StoredRetained, StoredSubscription,
};

/// Messages that are taken from the index at once.
const PAGE: usize = 128;

/// What one subscription is still owed.
#[derive(Debug)]
pub(crate) struct RetainedCursor {
    /// Its filter.
    pub(crate) filter: TopicFilter,
    /// What is left of it: what was in the index at the SUBSCRIBE. What came into it later comes live.
    pub(crate) search: RetainedSearch,
    /// Its options.
    pub(crate) options: SubscriptionOptions,
    /// Its Subscription Identifier.
    pub(crate) subscription_id: Option<NonZeroU32>,
    /// Everything of it has a sequence up to this one.
    pub(crate) up_to: u64,
    /// It is below `$SYS`.
    pub(crate) is_sys: bool,
    /// Its number in the record of the session; 0 when it ends with the connection.
    pub(crate) number: u64,
}

impl RetainedCursor {
    /// All that a subscription is owed, when the index is at `seen`.
    pub(super) fn new(subscription: NewSubscription, seen: IndexState, is_sys: bool) -> Self {
        let NewSubscription { filter, options, subscription_id, .. } = subscription;
        let search = RetainedSearch::new(&filter, None, seen);
        Self { filter, search, options, subscription_id, up_to: seen.highest, is_sys, number: 0 }
    }

    /// What a session that comes back is still owed by a subscription.
    fn resume(stored: &StoredSubscription, progress: &RetainedProgress) -> Option<Self> {
        let StoredRetained { number, up_to } = stored.retained?;
        let after = progress.after.as_deref().filter(|_| number == progress.number);
        if number < progress.number || number == progress.number && after.is_none() {
            return None;
        }
        let filter = TopicFilter::new(stored.filter.as_str()).ok()?;
        let after = after.and_then(|topic| TopicName::new(topic).ok());
        Some(Self {
            search: RetainedSearch::new(&filter, after.as_ref(), IndexState::up_to(up_to)),
            filter,
            options: records::options(stored)?,
            subscription_id: stored.id.and_then(NonZeroU32::new),
            up_to,
            is_sys: false,
            number,
        })
    }

    /// What a session that comes back is still owed, in the order in which it subscribed.
    pub(super) fn resume_all<'a>(
        subscriptions: impl Iterator<Item = &'a StoredSubscription>,
        progress: &RetainedProgress,
    ) -> Vec<Self> {
        let mut all: Vec<Self> = subscriptions.filter_map(|stored| Self::resume(stored, progress)).collect();
        all.sort_unstable_by_key(|cursor| cursor.number);
        all
    }

    /// Appends the next messages, in the order of their topics, after a look at so many topics at most. Returns whether
    /// more may follow.
    pub(crate) fn page(
        &mut self,
        index: &RetainedIndex,
        looks: &mut usize,
        now_ms: u64,
        is_hidden: impl Fn(&TopicName) -> bool,
        nats_headers: bool,
        out: &mut VecDeque<Outgoing>,
    ) -> bool {
        let page = index.search(&mut self.search, PAGE, looks, now_ms);
        let leads_with_wildcard = self.filter.as_str().starts_with(['+', '#']);
        for entry in &page {
            if leads_with_wildcard && is_hidden(&entry.topic) {
                continue;
            }
            let message = convert::from_retained(entry, nats_headers);
            out.push_back(Outgoing {
                retain: true,
                qos: message.qos.min(self.options.qos),
                message: Arc::new(message),
                subscription_ids: self.subscription_id.as_slice().into(),
                others: Box::default(),
                share: None,
            });
        }
        !self.search.is_over()
    }
}

impl Broker {
    /// Retained messages that a session repeats, by their sequences in the bucket. One that a newer message of its topic has
    /// replaced is not there: the subscriber gets the newer one as it gets every message.
    pub(super) async fn find_retained(&self, sequences: &[u64]) -> Vec<(u64, Outgoing)> {
        if sequences.is_empty() {
            return Vec::new();
        }
        let entries = loop {
            match self.store.retained().get_many(sequences).await {
                Ok(entries) => break entries,
                Err(error) => tracing::warn!(%error, "retained messages in flight cannot be read yet"),
            }
            tokio::time::sleep(RETRY).await;
        };
        let outgoing = |entry: &RetainedEntry| {
            let message = convert::from_retained(entry, self.options.nats_headers);
            let (qos, subscription_ids, others) = (message.qos, Box::default(), Box::default());
            let message = Arc::new(message);
            (entry.sequence, Outgoing { message, retain: true, qos, subscription_ids, others, share: None })
        };
        entries.iter().map(outgoing).collect()
    }
}
