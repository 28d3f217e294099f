//! What one subscription is still owed of the retained messages.

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::sync::Arc;

use mqtt_codec::{SubscriptionOptions, TopicFilter, TopicName};
use mqtt_ownership::ServerTime;
use mqtt_session::Sequence;
use proto_map::{ClosedTrees, MountPoint};

use crate::account::delivery::grant::{MessageFacts, Permits, Terms, grant};
use crate::account::delivery::inbox::Outgoing;
use crate::account::publish::convert;
use crate::account::rights::Rights;
use crate::store::{RetainedIndex, RetainedSearch};

/// Messages that are taken from the index at once.
const PAGE: usize = 128;

/// Names what is owed among all that a session is owed: it is sent in this order. 0 ends with the connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RetainedNumber(pub(crate) u64);

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
    pub(crate) up_to: Sequence,
    /// It is below `$SYS`.
    pub(crate) is_sys: bool,
    /// Its number in the record of the session.
    pub(crate) number: RetainedNumber,
}

/// What one subscription of a client may receive of the retained messages.
pub(crate) struct Visible<'a> {
    /// Those of the client.
    pub(crate) rights: &'a Rights,
    /// What is closed, for a filter that does not see it.
    pub(crate) closed: Option<&'a ClosedTrees>,
}

impl Permits for Visible<'_> {
    fn may_receive(&self, topic: &TopicName) -> bool {
        !self.closed.is_some_and(|closed| closed.hides_topic_from_wildcard(topic)) && self.rights.may_receive(topic)
    }

    fn mount(&self) -> Option<&MountPoint> {
        self.rights.mount().map(|mount| &**mount)
    }
}

impl RetainedCursor {
    /// Whether it begins with a wildcard, which does not see what is hidden.
    pub(crate) fn leads_with_wildcard(&self) -> bool {
        self.filter.as_str().starts_with(['+', '#'])
    }

    /// Appends the next messages, in the order of their topics, after a look at so many topics at most. Returns whether
    /// more may follow.
    pub(crate) fn page(
        &mut self,
        index: &RetainedIndex,
        looks: &mut usize,
        now: ServerTime,
        permits: &impl Permits,
        nats_headers: bool,
        out: &mut VecDeque<Outgoing>,
    ) -> bool {
        let page = index.search(&mut self.search, PAGE, looks, now.0);
        let leads = permits.leads(&self.filter);
        let terms = Terms { leads, ..Terms::new(self.options, self.subscription_id) };
        for entry in &page {
            let message = convert::from_retained(entry, nats_headers);
            let facts = MessageFacts { is_retained: true, ..MessageFacts::of(&message) };
            let Some(grant) = grant(&terms, &facts, permits) else { continue };
            out.push_back(Outgoing { message: Arc::new(message), grant, others: Box::default(), share: None });
        }
        !self.search.is_over()
    }
}
