//! Retained messages on their way to one session: pages of the index, taken when the session has room, so that a
//! subscriber to a million of them costs a cursor and not a queue. What was in flight when a connection broke is read from
//! the bucket again. What was not sent yet stays owed to a session that goes on: its record says which subscriptions have
//! something coming, and its progress how far it is. What comes this way has RETAIN [MQTT-3.3.1-8 of 3.1.1].
//!
//! - `cursor`: what one subscription is owed
//! - [`finding`]: which subscriptions are owed something at all

mod cursor;
pub(in crate::account) mod finding;

use std::num::NonZeroU32;
use std::sync::Arc;

use mqtt_codec::{TopicFilter, TopicName};
use mqtt_session::Sequence;

pub(crate) use self::cursor::{RetainedCursor, RetainedNumber, Visible};
use crate::account::delivery::message::Message;
use crate::account::delivery::router::NewSubscription;
use crate::account::ownership::records;
use crate::account::publish::convert;
use crate::account::{Account, RETRY};
use crate::store::{IndexState, RetainedEntry, RetainedProgress, RetainedSearch, StoredRetained, StoredSubscription};

impl RetainedCursor {
    /// All that a subscription is owed, when the index is at `seen`.
    pub(in crate::account) fn new(subscription: NewSubscription, seen: IndexState, is_sys: bool) -> Self {
        let NewSubscription { filter, options, subscription_id, .. } = subscription;
        let search = RetainedSearch::new(&filter, None, seen);
        let (up_to, number) = (Sequence(seen.highest), RetainedNumber(0));
        Self { filter, search, options, subscription_id, up_to, is_sys, number }
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
            up_to: Sequence(up_to),
            is_sys: false,
            number: RetainedNumber(number),
        })
    }

    /// What a session that comes back is still owed, in the order in which it subscribed.
    pub(in crate::account) fn resume_all<'a>(
        subscriptions: impl Iterator<Item = &'a StoredSubscription>,
        progress: &RetainedProgress,
    ) -> Vec<Self> {
        let mut all: Vec<Self> = subscriptions.filter_map(|stored| Self::resume(stored, progress)).collect();
        all.sort_unstable_by_key(|cursor| cursor.number);
        all
    }
}

impl Account {
    /// Retained messages that a session repeats, by their sequences in the bucket. One that a newer message of its topic has
    /// replaced is not there: the subscriber gets the newer one as it gets every message.
    pub(in crate::account) async fn find_retained(&self, sequences: &[Sequence]) -> Vec<(Sequence, Arc<Message>)> {
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
        let message = |entry: &RetainedEntry| {
            let message = convert::from_retained(entry, self.options.nats_headers);
            (Sequence(entry.sequence), Arc::new(message))
        };
        entries.iter().map(message).collect()
    }
}
