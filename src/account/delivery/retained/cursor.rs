//! What one subscription is still owed of the retained messages.

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::sync::Arc;

use mqtt_codec::{SubscriptionOptions, TopicFilter, TopicName};

use crate::account::delivery::grant::{Everybody, MessageFacts, Terms, grant};
use crate::account::delivery::inbox::Outgoing;
use crate::account::publish::convert;
use crate::store::{RetainedIndex, RetainedSearch};

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
        let terms = Terms::new(self.options, self.subscription_id);
        let leads_with_wildcard = self.filter.as_str().starts_with(['+', '#']);
        for entry in &page {
            if leads_with_wildcard && is_hidden(&entry.topic) {
                continue;
            }
            let message = convert::from_retained(entry, nats_headers);
            let facts = MessageFacts { is_retained: true, ..MessageFacts::of(&message) };
            let Some(grant) = grant(&terms, &facts, &Everybody) else { continue };
            out.push_back(Outgoing { message: Arc::new(message), grant, others: Box::default(), share: None });
        }
        !self.search.is_over()
    }
}
