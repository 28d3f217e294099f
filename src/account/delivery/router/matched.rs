//! Who gets a message: from the filters that it matches to one copy a session.
//!
//! Of a message of core NATS as many copies come as filters of this sidecar match it, one by each NATS subscription, one after
//! the other and amid those of other messages. Meanwhile clients subscribe and unsubscribe: to filters that match it too, whose
//! copies are behind, before, or were never sent.
//!
//! **Invariant:** which copy a session gets is said by what that session has, and is not changed by what is made while the copies
//! come: it is that of the subscription which the session made first, of those that match. A filter is entered when its NATS
//! subscription stands, so that copy comes, once. (A session that ends a subscription while the copies of a message come can get
//! it by none or by two: it was sent for both.)

use std::sync::Arc;

use mqtt_codec::QoS;
use mqtt_session::Sequence;

use crate::account::delivery::core_subscriptions::SubscriptionOrder;
use crate::account::delivery::grant::{Audience, Grant, MessageFacts, Terms, grant, grants};
use crate::account::delivery::inbox::{Inbox, Outgoing};
use crate::account::delivery::message::Message;
use crate::account::delivery::subscriptions::{Entry, Subscriber};
use crate::account::session_id::SessionId;

/// Where a message comes from.
#[derive(Clone, Copy, Debug)]
pub(super) enum Source {
    /// A client of this sidecar, at QoS 0.
    Local {
        /// Its session.
        publisher: SessionId,
    },
    /// Core NATS, as the copy for one filter.
    Core {
        /// Of its entry.
        order: SubscriptionOrder,
    },
    /// A log, at this sequence.
    Log {
        /// Its number.
        log: u16,
        /// The sequence.
        sequence: Sequence,
    },
}

/// What one session gets of a message.
pub(super) struct Target<'a> {
    /// Where it is reached.
    pub(super) inbox: &'a Arc<Inbox>,
    /// The copy.
    pub(super) grant: &'a Grant,
    /// For other subscriptions of the session, where each gets a copy.
    pub(super) others: &'a [Grant],
}

/// The entries that a message matches. Mostly one, which costs no allocation.
#[derive(Default)]
pub(super) struct Matched<'a> {
    first: Option<&'a Entry>,
    others: Vec<&'a Entry>,
    /// Each of several subscriptions of a session that match gets a copy.
    copies_overlapping: bool,
}

impl<'a> Matched<'a> {
    /// Nobody yet. `copies_overlapping`: each of several subscriptions of a session gets a copy.
    pub(super) fn new(copies_overlapping: bool) -> Self {
        Self { copies_overlapping, ..Self::default() }
    }

    /// One more that matches.
    pub(super) fn push(&mut self, entry: &'a Entry) {
        if self.first.is_none() {
            self.first = Some(entry);
        } else {
            self.others.push(entry);
        }
    }

    /// Nobody takes it.
    pub(super) const fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    /// Whether this copy stands for the message where that is counted: once, as far as the filters stay the same.
    pub(super) fn is_counted(&self, order: SubscriptionOrder) -> bool {
        self.entries().map(|entry| entry.order).min() == Some(order)
    }

    /// Calls `deliver` with what each session gets: once for each, or more often where overlapping subscriptions get a copy each.
    pub(super) fn targets(
        &self,
        message: &Message,
        source: Source,
        audience: Audience,
        mut deliver: impl FnMut(Target<'_>),
    ) {
        let Some(first) = self.first else { return };
        let offer = Offered { message, source, facts: MessageFacts { audience, ..MessageFacts::of(message) } };
        match source {
            Source::Core { order } => self.targets_of_copy(order, offer, &mut deliver),
            _ if self.others.is_empty() => first.subscribers.iter().for_each(|s| s.target(offer, &mut deliver)),
            _ => {
                let mut all: Vec<&Subscriber> = self.entries().flat_map(|e| &e.subscribers).collect();
                all.sort_unstable_by_key(|s| s.inbox.id);
                for of_session in all.chunk_by(|a, b| a.inbox.id == b.inbox.id) {
                    self.target_session(of_session, offer, &mut deliver);
                }
            }
        }
    }

    /// Those who get a message of core NATS as this copy of it; see the top of this file.
    fn targets_of_copy(&self, order: SubscriptionOrder, offer: Offered<'_>, deliver: &mut impl FnMut(Target<'_>)) {
        let Some(entry) = self.entries().find(|entry| entry.order == order) else { return };
        if self.others.is_empty() {
            return entry.subscribers.iter().for_each(|s| s.target(offer, deliver));
        }
        let mut of_session = Vec::new();
        for subscriber in &entry.subscribers {
            of_session.clear();
            of_session.extend(self.entries().filter_map(|entry| entry.of_session(subscriber.inbox.id)));
            if of_session.iter().all(|one| one.made >= subscriber.made) {
                self.target_session(&of_session, offer, deliver);
            }
        }
    }

    /// What one session gets for all of its subscriptions that match.
    fn target_session(&self, of_session: &[&Subscriber], offer: Offered<'_>, deliver: &mut impl FnMut(Target<'_>)) {
        let [one, _, ..] = *of_session else {
            return of_session.iter().for_each(|s| s.target(offer, deliver));
        };
        let Offered { message, source, facts } = offer;
        let (inbox, terms) = (&one.inbox, of_session.iter().map(|s| s.terms(message, source)));
        let facts = MessageFacts { is_own: one.is_own(message, source), ..facts };
        let all = grants(terms, &facts, self.copies_overlapping, &**inbox);
        // At QoS 0 each by itself, above it all together.
        let (live, stored) = all.split_at(all.partition_point(|grant| grant.qos == QoS::AtMostOnce));
        live.iter().for_each(|grant| deliver(Target { inbox, grant, others: &[] }));
        if let Some((grant, others)) = stored.split_first() {
            deliver(Target { inbox, grant, others });
        }
    }

    fn entries(&self) -> impl Iterator<Item = &'a Entry> {
        self.first.into_iter().chain(self.others.iter().copied())
    }
}

/// A message that is on its way to sessions.
#[derive(Clone, Copy)]
struct Offered<'a> {
    message: &'a Message,
    source: Source,
    facts: MessageFacts<'a>,
}

impl Subscriber {
    /// What it asks for of a message that comes from there.
    fn terms(&self, message: &Message, source: Source) -> Terms {
        let (qos, is_new) = match source {
            Source::Log { log, sequence } => {
                let before = self.before.as_ref().filter(|before| sequence <= before.until.of(log));
                (before.map_or(self.options.qos, |before| before.qos), sequence > self.gates.of(log))
            }
            Source::Local { .. } | Source::Core { .. } => (self.options.qos, true),
        };
        let is_known = self.retained.has(message.retained_at, message.indexed_at);
        Terms { qos, is_due: is_new && !is_known, leads: self.leads, ..Terms::new(self.options, self.subscription_id) }
    }

    /// Calls `deliver` with what its session gets, when it is the only one of that to match.
    #[inline]
    fn target(&self, offer: Offered<'_>, deliver: &mut impl FnMut(Target<'_>)) {
        let Offered { message, source, facts } = offer;
        // Whose the message is is found out only where it matters.
        let facts = MessageFacts { is_own: self.options.no_local && self.is_own(message, source), ..facts };
        if let Some(grant) = grant(&self.terms(message, source), &facts, &*self.inbox) {
            deliver(Target { inbox: &self.inbox, grant: &grant, others: &[] });
        }
    }

    /// The session is the publisher's.
    fn is_own(&self, message: &Message, source: Source) -> bool {
        match source {
            Source::Local { publisher } => publisher == self.inbox.id,
            Source::Core { .. } | Source::Log { .. } => message.publisher.as_ref() == Some(&self.inbox.client_id),
        }
    }
}

impl Target<'_> {
    /// As it goes into the queue of a session.
    pub(super) fn outgoing(&self, message: &Arc<Message>) -> Outgoing {
        let (grant, others) = (self.grant.clone(), self.others.into());
        Outgoing { message: Arc::clone(message), grant, others, share: None }
    }
}

#[cfg(test)]
mod tests;
