//! The subjects that a sidecar is subscribed to for what is wanted: those of each filter, and, when there are too many
//! filters, all that begin as they do, and in the end everything, unless wildcards at the first level are narrowed. A
//! subscription costs memory; a message too many is looked at and left.

use std::collections::HashMap;

use bytestring::ByteString;
use mqtt_codec::{TopicFilter, TopicName};
use proto_map::ClosedTrees;

use crate::account::delivery::core_subscriptions::{CoreSubscriptionId, SubscriptionOrder};
use crate::account::delivery::subscriptions::Subscriptions;

/// Filters, and first tokens, before they are covered by something wider.
const FILTERS_MAX: usize = 1_024;

/// How much is subscribed to. It only grows wider: who was many will be many again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Width {
    /// The subjects of each filter.
    #[default]
    Filters,
    /// The first token of each, and everything below.
    FirstTokens,
    /// Everything.
    All,
}

/// Subscriptions to make and to end, in this order.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Change {
    /// With their subjects.
    pub(super) subscribe: Vec<(ByteString, CoreSubscriptionId)>,
    pub(super) unsubscribe: Vec<CoreSubscriptionId>,
}

/// The subjects that are subscribed to.
#[derive(Debug, Default)]
pub(super) struct SubjectAggregator {
    closed: ClosedTrees,
    width: Width,
    /// With the order of each, of no meaning beyond [`Width::Filters`].
    filters: HashMap<TopicFilter, SubscriptionOrder>,
    /// The same, to be found by topic.
    by_topic: Subscriptions<()>,
    /// First tokens, with the order of each and how many filters have it; at [`Width::All`] an empty one.
    tokens: HashMap<ByteString, (SubscriptionOrder, usize)>,
    next: SubscriptionOrder,
}

impl SubjectAggregator {
    /// Nothing is wanted yet.
    pub(super) fn new(closed: ClosedTrees) -> Self {
        Self { closed, ..Self::default() }
    }

    /// A filter is wanted.
    pub(super) fn add(&mut self, filter: &TopicFilter) -> Change {
        let mut change = Change::default();
        let Ok(subjects) = self.closed.subjects_of(filter) else { return change };
        if self.filters.contains_key(filter) {
            return change;
        }
        let order = self.next;
        self.filters.insert(filter.clone(), order);
        if self.width == Width::Filters {
            self.next.0 += 1;
            self.by_topic.push(filter, order, ());
            change.subscribe = subjects.into_iter().map(|s| s.as_text().clone()).zip(order.ids()).collect();
        } else {
            self.add_tokens(filter, &mut change);
        }
        self.widen(&mut change);
        change
    }

    /// A filter is not wanted any more.
    pub(super) fn remove(&mut self, filter: &TopicFilter) -> Change {
        let mut change = Change::default();
        let Some(order) = self.filters.remove(filter) else { return change };
        if self.width == Width::Filters {
            self.by_topic.remove_one(filter, |()| true);
            change.unsubscribe = order.ids().collect();
        } else {
            for token in self.tokens_of(filter) {
                let Some((order, count)) = self.tokens.get_mut(&token) else { continue };
                *count -= 1;
                if *count == 0 {
                    change.unsubscribe.extend(order.ids());
                    self.tokens.remove(&token);
                }
            }
        }
        change
    }

    /// Whether of the copies that come of one message this one counts: that of the oldest subscription that matches.
    pub(super) fn counts(&self, id: CoreSubscriptionId, subject: &str, topic: &TopicName, is_hidden: bool) -> bool {
        let order = SubscriptionOrder::of(id);
        let of_token = |token: &str| self.tokens.get(token).is_some_and(|(held, _)| *held == order);
        match self.width {
            Width::All => of_token(""),
            Width::FirstTokens => of_token(subject.split('.').next().unwrap_or_default()),
            Width::Filters => {
                let mut oldest = SubscriptionOrder(u64::MAX);
                self.by_topic.matching(topic.as_str(), is_hidden, &mut |entry| oldest = oldest.min(entry.order));
                oldest == order
            }
        }
    }

    /// The first tokens of a filter, each once.
    fn first_tokens(&self, filter: &TopicFilter) -> Vec<ByteString> {
        let subjects = self.closed.subjects_of(filter).unwrap_or_default();
        let first = |subject: &str| subject.split('.').next().map(ByteString::from);
        let mut tokens: Vec<ByteString> = subjects.iter().filter_map(|s| first(s.as_str())).collect();
        tokens.sort_unstable();
        tokens.dedup();
        tokens
    }

    fn tokens_of(&self, filter: &TopicFilter) -> Vec<ByteString> {
        if self.width == Width::All { vec![ByteString::new()] } else { self.first_tokens(filter) }
    }

    /// Whether it overlaps with all others.
    fn has_wildcard(&self, filter: &TopicFilter) -> bool {
        self.first_tokens(filter).iter().any(|token| matches!(&**token, "*" | ">"))
    }

    fn add_tokens(&mut self, filter: &TopicFilter, change: &mut Change) {
        if self.width == Width::FirstTokens && self.has_wildcard(filter) {
            return self.widen_to(Width::All, change);
        }
        for token in self.tokens_of(filter) {
            self.add_token(token, change);
        }
    }

    fn add_token(&mut self, token: ByteString, change: &mut Change) {
        let next = self.next;
        let (order, count) = self.tokens.entry(token.clone()).or_insert((next, 0));
        *count += 1;
        if *count > 1 {
            return;
        }
        let subjects = match self.width {
            Width::All => vec![ByteString::from_static(">")],
            _ => vec![token.clone(), ByteString::from(format!("{token}.>"))],
        };
        change.subscribe.extend(subjects.into_iter().zip(order.ids()));
        self.next.0 += 1;
    }

    fn widen(&mut self, change: &mut Change) {
        match self.width {
            Width::Filters if self.filters.len() > FILTERS_MAX => {
                let can_be_first = !self.filters.keys().any(|filter| self.has_wildcard(filter));
                self.widen_to(if can_be_first { Width::FirstTokens } else { Width::All }, change);
                self.widen(change);
            }
            Width::FirstTokens if self.tokens.len() > FILTERS_MAX && self.closed.wildcard_sees_all() => {
                self.widen_to(Width::All, change);
            }
            Width::Filters | Width::FirstTokens | Width::All => {}
        }
    }

    fn widen_to(&mut self, width: Width, change: &mut Change) {
        let old: Vec<SubscriptionOrder> = match self.width {
            Width::Filters => self.filters.values().copied().collect(),
            _ => self.tokens.values().map(|(order, _)| *order).collect(),
        };
        // What was to be made a moment ago need not be.
        let unmade = std::mem::take(&mut change.subscribe).into_iter().map(|(_, id)| SubscriptionOrder::of(id));
        let unmade: Vec<SubscriptionOrder> = unmade.collect();
        change
            .unsubscribe
            .extend(old.into_iter().filter(|order| !unmade.contains(order)).flat_map(SubscriptionOrder::ids));
        self.width = width;
        self.by_topic = Subscriptions::default();
        self.tokens.clear();
        for filter in self.filters.keys().cloned().collect::<Vec<_>>() {
            self.add_tokens(&filter, change);
        }
    }
}

#[cfg(test)]
mod tests {
    use proto_map::RootWildcard;

    use super::*;

    fn filter(text: &str) -> TopicFilter {
        TopicFilter::new(text).unwrap()
    }

    fn names(change: &Change) -> Vec<&str> {
        change.subscribe.iter().map(|(subject, _)| &**subject).collect()
    }

    /// Subscriptions of one filter.
    const SUBJECTS_MAX: u64 = SubscriptionOrder::SUBJECTS_MAX;

    fn ids(order: u64) -> Vec<CoreSubscriptionId> {
        SubscriptionOrder(order).ids().collect()
    }

    fn counts(cover: &SubjectAggregator, id: u64, topic: &str) -> bool {
        let topic = TopicName::new(topic).unwrap();
        let subject = proto_map::subject_of(&topic).unwrap();
        cover.counts(CoreSubscriptionId(id), subject.as_str(), &topic, false)
    }

    #[test]
    fn each_filter_has_its_subjects_and_one_copy_of_a_message_counts() {
        let mut cover = SubjectAggregator::default();
        assert_eq!(names(&cover.add(&filter("a/#"))), ["a.>", "a"]);
        assert_eq!(cover.add(&filter("a/#")), Change::default());
        assert_eq!(names(&cover.add(&filter("+/x"))), ["*.x"]);
        assert!(counts(&cover, 0, "a/x") && !counts(&cover, SUBJECTS_MAX, "a/x"));
        assert!(counts(&cover, SUBJECTS_MAX, "b/x"));
        assert_eq!(cover.remove(&filter("a/#")).unsubscribe, ids(0));
        assert!(counts(&cover, SUBJECTS_MAX, "a/x"));
    }

    #[test]
    fn too_many_filters_are_covered_by_their_first_tokens_and_then_by_everything() {
        let mut cover = SubjectAggregator::default();
        for n in 0..FILTERS_MAX {
            assert_eq!(names(&cover.add(&filter(&format!("d/{n}/x")))).len(), 1);
        }
        let change = cover.add(&filter("d/more"));
        assert_eq!((names(&change), change.unsubscribe.len()), (vec!["d", "d.>"], SUBJECTS_MAX as usize * FILTERS_MAX));
        assert_eq!(cover.add(&filter("d/again")), Change::default());
        let number = change.subscribe[1].1.0;
        assert!(counts(&cover, number, "d/5/x"));
        assert_eq!(names(&cover.add(&filter("e/1"))), ["e", "e.>"]);
        assert_eq!(cover.remove(&filter("e/1")).unsubscribe.len(), SUBJECTS_MAX as usize);
        let change = cover.add(&filter("+/x"));
        assert_eq!(names(&change), [">"]);
        assert_eq!(change.unsubscribe, ids(number / SUBJECTS_MAX));
        assert!(counts(&cover, change.subscribe[0].1.0, "d/5/x"));
        assert_eq!(cover.add(&filter("f/1")), Change::default());
    }

    #[test]
    fn too_many_first_tokens_are_covered_by_everything() {
        let mut cover = SubjectAggregator::default();
        let changes: Vec<Change> = (0..=FILTERS_MAX).map(|n| cover.add(&filter(&format!("d{n}/x")))).collect();
        assert_eq!(names(changes.last().unwrap()), [">"]);
    }

    #[test]
    fn narrowed_wildcards_never_become_everything() {
        let narrow =
            || SubjectAggregator::new(ClosedTrees::default().with_root_wildcard(RootWildcard::trees(["a", "b/c"])));
        let mut cover = narrow();
        assert_eq!(names(&cover.add(&filter("#"))), ["a.>", "a", "b.c.>", "b.c"]);
        assert!(counts(&cover, 0, "b/c/x") && counts(&cover, 1, "a"));
        let changes: Vec<Change> = (0..=FILTERS_MAX).map(|n| cover.add(&filter(&format!("d{n}/x")))).collect();
        assert!(changes.iter().all(|change| !names(change).contains(&">")));
        let mut tokens: Vec<&str> =
            names(&changes[FILTERS_MAX - 1]).into_iter().filter(|name| !name.starts_with('d')).collect();
        tokens.sort_unstable();
        assert_eq!(tokens, ["a", "a.>", "b", "b.>"]);
        assert_eq!(names(changes.last().unwrap()), [format!("d{FILTERS_MAX}"), format!("d{FILTERS_MAX}.>")]);
        assert_eq!(cover.remove(&filter("#")).unsubscribe.len(), 2 * SUBJECTS_MAX as usize);
    }
}
