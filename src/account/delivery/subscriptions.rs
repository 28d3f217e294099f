//! The subscriptions of this sidecar: which sessions a topic goes to. Filters without wildcards are found by one look
//! into a map; the others lie in a trie of levels. One entry a filter, however many sessions have it.

mod children;

use std::num::NonZeroU32;
use std::sync::Arc;

use bytestring::ByteString;
use foldhash::HashMap;
use mqtt_codec::{QoS, SubscriptionOptions, TopicFilter};
use mqtt_session::{Cursors, Sequence};

use self::children::Children;
use crate::account::delivery::core_subscriptions::SubscriptionOrder;
use crate::account::delivery::inbox::Inbox;
use crate::account::delivery::message::IndexVersion;
use crate::account::session_id::SessionId;
use crate::store::IndexState;

/// The place of a subscription in the order in which they were made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct CreationOrder(u64);

/// One session's subscription.
#[derive(Clone, Debug)]
pub(crate) struct Subscriber {
    /// Where the session is reached.
    pub(crate) inbox: Arc<Inbox>,
    /// Options of the subscription.
    pub(crate) options: SubscriptionOptions,
    /// Subscription Identifier.
    pub(crate) subscription_id: Option<NonZeroU32>,
    /// Its filter begins with a wildcard behind its client's mount point.
    pub(crate) leads: bool,
    /// Messages of the logs up to here were there before the subscription.
    pub(crate) gates: Gates,
    /// What it was before it was replaced by one at QoS 0.
    pub(crate) before: Option<Box<Before>>,
    /// What came as retained, so that it does not come live again.
    pub(crate) retained: CameRetained,
    /// Ascends with the subscriptions of the session, in the order in which they were made. [`Subscriptions::insert`] says it.
    pub(crate) made: CreationOrder,
}

/// What came with a SUBSCRIBE: the retained messages that the index held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct CameRetained {
    applied: Sequence,
    version: IndexVersion,
}

impl CameRetained {
    /// What the index held in this state.
    pub(crate) const fn of(state: IndexState) -> Self {
        Self { applied: Sequence(state.applied), version: IndexVersion(state.version) }
    }

    /// Whether a message was among it that has this sequence in the bucket, and came into the index live at this version.
    pub(crate) fn has(self, sequence: Option<Sequence>, indexed_at: Option<IndexVersion>) -> bool {
        sequence.is_some_and(|sequence| sequence <= self.applied)
            || indexed_at.is_some_and(|version| version <= self.version)
    }
}

/// The sequences of the logs above which messages are for a subscription: 0 where none is said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Gates {
    first: Sequence,
    /// Of the logs beside the first.
    others: Option<Box<Cursors>>,
}

impl Gates {
    /// Gates at these places.
    pub(crate) fn new(places: &Cursors) -> Self {
        let others: Cursors = places.iter().filter(|place| place.log() != 0).collect();
        let has_others = others.iter().next().is_some();
        Self { first: places.get(0).unwrap_or_default(), others: has_others.then(|| Box::new(others)) }
    }

    /// The log goes on with lower sequences: what is above this one is for the subscription.
    pub(crate) fn lower(&mut self, log: u16, sequence: Sequence) {
        match (log, &mut self.others) {
            (0, _) => self.first = self.first.min(sequence),
            (log, Some(others)) => others.restart(log, sequence.next()),
            (_, None) => {}
        }
    }

    /// The gate in a log.
    pub(crate) fn of(&self, log: u16) -> Sequence {
        match log {
            0 => self.first,
            log => self.others.as_ref().and_then(|others| others.get(log)).unwrap_or_default(),
        }
    }
}

/// A subscription above QoS 0 that was replaced by one at QoS 0: what a log had then is owed at its QoS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Before {
    /// Its QoS.
    pub(crate) qos: QoS,
    /// Where the logs stood.
    pub(crate) until: Gates,
}

/// A filter that at least one session has.
#[derive(Debug)]
pub(crate) struct Entry<S = Subscriber> {
    /// Of its NATS subscriptions, by which their copies name it: ascends with the filters that come to be wanted.
    pub(crate) order: SubscriptionOrder,
    /// The sessions.
    pub(crate) subscribers: Vec<S>,
    /// Where among them each is, when there are many: nobody looks through them all with the lock held.
    places: Option<Box<HashMap<SessionId, usize>>>,
}

/// So many subscribers of one filter are looked through; beyond it there is a map.
const LOOKED_THROUGH_MAX: usize = 16;

#[derive(Debug)]
struct Node<S> {
    children: Children<Node<S>>,
    plus: Option<Box<Node<S>>>,
    /// The filter that ends here.
    here: Option<Box<Entry<S>>>,
    /// The filter that ends here with `/#`.
    below: Option<Box<Entry<S>>>,
}

/// All subscriptions of an account on this sidecar; with another `S`, filters of whatever has any.
#[derive(Debug)]
pub(crate) struct Subscriptions<S = Subscriber> {
    exact: HashMap<ByteString, Entry<S>>,
    root: Node<S>,
    wildcards: usize,
    /// Subscriptions of sessions, of all entries together.
    subscribers: usize,
    /// How many were made, ever.
    made: CreationOrder,
}

impl<S> Default for Node<S> {
    fn default() -> Self {
        Self { children: Children::default(), plus: None, here: None, below: None }
    }
}

impl<S> Default for Subscriptions<S> {
    fn default() -> Self {
        Self { exact: HashMap::default(), root: Node::default(), wildcards: 0, subscribers: 0, made: CreationOrder(0) }
    }
}

impl Subscriptions {
    /// Adds a subscription, or replaces the one that the session has on this filter [MQTT-3.8.4-3]. `order` is for a new
    /// entry.
    ///
    /// **Invariant:** one that replaces another takes nothing away from what that was owed [MQTT-3.8.4-4]: it keeps its
    /// place in the logs, and, above QoS 0, what of the retained messages had come with the *first* SUBSCRIBE. What the
    /// new SUBSCRIBE brings is the last value of each topic, and stands in for none of those before, nor for a deletion. What
    /// is owed above QoS 0 stays owed when the new one is of QoS 0.
    pub(crate) fn insert(&mut self, filter: &TopicFilter, subscriber: Subscriber, order: SubscriptionOrder) {
        let made = self.made;
        let entry = self.entry(filter, order);
        match entry.place_of(subscriber.inbox.id).and_then(|place| entry.subscribers.get_mut(place)) {
            Some(old) => {
                let is_lowered = subscriber.options.qos == QoS::AtMostOnce;
                let before = match old.options.qos {
                    QoS::AtMostOnce => old.before.take(),
                    qos => Some(Box::new(Before { qos, until: subscriber.gates.clone() })),
                };
                // A stream that was made anew begins at 1 again.
                let first = old.gates.first.min(subscriber.gates.first);
                let gates = Gates { first, ..std::mem::take(&mut old.gates) };
                let owes = old.options.qos > QoS::AtMostOnce;
                let retained = if owes { old.retained } else { subscriber.retained };
                let (before, made) = (before.filter(|_| is_lowered), old.made);
                *old = Subscriber { gates, retained, before, made, ..subscriber };
            }
            None => {
                entry.add(Subscriber { made, ..subscriber });
                self.subscribers += 1;
                self.made.0 += 1;
            }
        }
    }

    /// How many subscriptions there are.
    pub(crate) const fn count(&self) -> usize {
        self.subscribers
    }

    /// Removes the session's subscription. Returns the order of the entry when it was the last one.
    pub(crate) fn remove(&mut self, filter: &TopicFilter, session: SessionId) -> Removed {
        let removed = self.remove_from(filter, &|entry: &mut Entry| entry.take_out(session));
        self.subscribers -= usize::from(removed != Removed::NotFound);
        removed
    }
}

impl<S> Subscriptions<S> {
    /// Adds one to those that have a filter, whoever they are. `order` is for a new entry. Returns how many have it now.
    pub(crate) fn push(&mut self, filter: &TopicFilter, order: SubscriptionOrder, one: S) -> usize {
        let entry = self.entry(filter, order);
        entry.subscribers.push(one);
        entry.subscribers.len()
    }

    /// The text of a filter, if somebody has it and it has no wildcards: for others who have it, and need no copy.
    pub(crate) fn known(&self, filter: &TopicFilter) -> Option<&ByteString> {
        self.exact.get_key_value(filter.as_str()).map(|(text, _)| text)
    }

    /// How many filters there are.
    pub(crate) fn len(&self) -> usize {
        self.exact.len() + self.wildcards
    }

    /// Removes one of those that have a filter. Returns the order of the entry when it was the last one.
    pub(crate) fn remove_one(&mut self, filter: &TopicFilter, is_it: impl Fn(&S) -> bool) -> Removed {
        self.remove_from(filter, &|entry: &mut Entry<S>| {
            let found = entry.subscribers.iter().position(&is_it);
            found.map_or(Removed::NotFound, |place| {
                entry.subscribers.swap_remove(place);
                entry.removed()
            })
        })
    }

    fn remove_from(&mut self, filter: &TopicFilter, take: &impl Fn(&mut Entry<S>) -> Removed) -> Removed {
        if !filter.has_wildcards() {
            let Some(entry) = self.exact.get_mut(filter.as_str()) else { return Removed::NotFound };
            let removed = take(entry);
            if matches!(removed, Removed::Last { .. }) {
                self.exact.remove(filter.as_str());
            }
            return removed;
        }
        let levels: Vec<&str> = filter.levels().collect();
        let removed = remove_at(&mut self.root, &levels, take);
        if matches!(removed, Removed::Last { .. }) {
            self.wildcards -= 1;
        }
        removed
    }

    /// Calls `visit` for every entry that matches. `is_hidden`: the topic is not matched by a wildcard at its first
    /// level [MQTT-4.7.2-1].
    pub(crate) fn matching<'a>(&'a self, topic: &str, is_hidden: bool, visit: &mut impl FnMut(&'a Entry<S>)) {
        if let Some(entry) = self.exact.get(topic) {
            visit(entry);
        }
        if self.wildcards > 0 {
            walk(&self.root, Some(topic), is_hidden, visit);
        }
    }

    /// Calls `visit` for everyone who has a filter.
    pub(crate) fn visit_all(&mut self, visit: &mut impl FnMut(&mut S)) {
        self.exact.values_mut().flat_map(|entry| &mut entry.subscribers).for_each(&mut *visit);
        visit_below(&mut self.root, visit);
    }

    fn entry(&mut self, filter: &TopicFilter, order: SubscriptionOrder) -> &mut Entry<S> {
        let new = || Entry { order, subscribers: Vec::new(), places: None };
        if !filter.has_wildcards() {
            return self.exact.entry(filter.as_byte_string().clone()).or_insert_with(new);
        }
        let wildcards = &mut self.wildcards;
        let new_wildcard = || {
            *wildcards += 1;
            Box::new(new())
        };
        let mut node = &mut self.root;
        for level in filter.levels() {
            node = match level {
                "#" => return node.below.get_or_insert_with(new_wildcard),
                "+" => node.plus.get_or_insert_with(Box::default),
                // A part of the filter's text, and no copy.
                level => node.children.get_or_insert(filter.as_byte_string().slice_ref(level)),
            };
        }
        node.here.get_or_insert_with(new_wildcard)
    }
}

fn visit_below<S>(node: &mut Node<S>, visit: &mut impl FnMut(&mut S)) {
    let entries = node.here.iter_mut().chain(&mut node.below);
    entries.flat_map(|entry| &mut entry.subscribers).for_each(&mut *visit);
    if let Some(plus) = &mut node.plus {
        visit_below(plus, visit);
    }
    node.children.visit_all(&mut |child| visit_below(child, visit));
}

/// What [`Subscriptions::remove`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Removed {
    /// The session had no such subscription.
    NotFound,
    /// Others still have the filter.
    Shared,
    /// It was the last one of the entry with this order, which is gone.
    Last {
        /// The order of the entry.
        order: SubscriptionOrder,
    },
}

impl<S> Entry<S> {
    /// What it means that one was removed.
    fn removed(&self) -> Removed {
        if self.subscribers.is_empty() { Removed::Last { order: self.order } } else { Removed::Shared }
    }
}

impl Entry {
    /// The subscription of a session.
    pub(crate) fn of_session(&self, session: SessionId) -> Option<&Subscriber> {
        self.subscribers.get(self.place_of(session)?)
    }

    fn place_of(&self, session: SessionId) -> Option<usize> {
        match &self.places {
            Some(places) => places.get(&session).copied(),
            None => self.subscribers.iter().position(|s| s.inbox.id == session),
        }
    }

    /// One more, who is not there yet.
    fn add(&mut self, subscriber: Subscriber) {
        let session = subscriber.inbox.id;
        self.subscribers.push(subscriber);
        let place = self.subscribers.len() - 1;
        match &mut self.places {
            Some(places) => {
                places.insert(session, place);
            }
            None if place >= LOOKED_THROUGH_MAX => {
                let numbered = self.subscribers.iter().enumerate();
                self.places = Some(Box::new(numbered.map(|(place, s)| (s.inbox.id, place)).collect()));
            }
            None => {}
        }
    }

    fn take_out(&mut self, session: SessionId) -> Removed {
        let Some(place) = self.place_of(session) else { return Removed::NotFound };
        self.subscribers.swap_remove(place);
        if let Some(places) = &mut self.places {
            places.remove(&session);
            if let Some(moved) = self.subscribers.get(place) {
                places.insert(moved.inbox.id, place);
            }
            if self.subscribers.len() < LOOKED_THROUGH_MAX / 2 {
                self.places = None;
            }
        }
        self.removed()
    }
}

fn remove_at<S>(node: &mut Node<S>, levels: &[&str], take: &impl Fn(&mut Entry<S>) -> Removed) -> Removed {
    let in_slot = |slot: &mut Option<Box<Entry<S>>>| {
        let removed = slot.as_mut().map_or(Removed::NotFound, |entry| take(entry));
        if matches!(removed, Removed::Last { .. }) {
            *slot = None;
        }
        removed
    };
    let Some((level, rest)) = levels.split_first() else { return in_slot(&mut node.here) };
    match *level {
        "#" => in_slot(&mut node.below),
        "+" => {
            let Some(next) = node.plus.as_mut() else { return Removed::NotFound };
            let removed = remove_at(next, rest, take);
            if next.is_empty() {
                node.plus = None;
            }
            removed
        }
        level => {
            let Some(next) = node.children.get_mut(level) else { return Removed::NotFound };
            let removed = remove_at(next, rest, take);
            if next.is_empty() {
                node.children.remove(level);
            }
            removed
        }
    }
}

impl<S> Node<S> {
    fn is_empty(&self) -> bool {
        self.here.is_none() && self.below.is_none() && self.plus.is_none() && self.children.is_empty()
    }
}

/// `rest`: the levels that are left, `None` after the last. `is_hidden` holds for the first level only.
fn walk<'a, S>(node: &'a Node<S>, rest: Option<&str>, is_hidden: bool, visit: &mut impl FnMut(&'a Entry<S>)) {
    if !is_hidden && let Some(entry) = &node.below {
        visit(entry);
    }
    let Some(rest) = rest else {
        if let Some(entry) = &node.here {
            visit(entry);
        }
        return;
    };
    let (level, rest) = match rest.split_once('/') {
        Some((level, rest)) => (level, Some(rest)),
        None => (rest, None),
    };
    if let Some(next) = node.children.get(level) {
        walk(next, rest, false, visit);
    }
    if !is_hidden && let Some(next) = &node.plus {
        walk(next, rest, false, visit);
    }
}

#[cfg(test)]
mod tests;
