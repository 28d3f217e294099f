use super::*;
use crate::account::delivery::inbox::InboxLimits;
use mqtt_codec::{TopicName, Version};
use mqtt_session::{Position, Sequence};

fn inbox(id: SessionId) -> Arc<Inbox> {
    let limits = InboxLimits { qos0_bytes: 1000, feed_messages: 10, feed_bytes: 1000 };
    Arc::new(Inbox::new(
        id,
        ByteString::from_static("c"),
        Version::V5,
        u32::MAX,
        Arc::new(crate::account::Rights::all()),
        limits,
        Arc::default(),
    ))
}

fn subscriber(inbox: &Arc<Inbox>, after: u64) -> Subscriber {
    Subscriber {
        inbox: Arc::clone(inbox),
        options: SubscriptionOptions::default(),
        subscription_id: None,
        leads: false,
        gates: gates(&[(0, after)]),
        before: None,
        retained: CameRetained::default(),
        made: CreationOrder(0),
    }
}

/// Gates at these sequences of logs.
fn gates(at: &[(u16, u64)]) -> Gates {
    Gates::new(&at.iter().map(|(log, sequence)| Position::new(*log, Sequence(*sequence))).collect())
}

fn filter(text: &str) -> TopicFilter {
    TopicFilter::new(text).unwrap()
}

/// The orders of the entries that match.
fn matched(subscriptions: &Subscriptions, topic: &str) -> Vec<u64> {
    let mut found = Vec::new();
    subscriptions.matching(topic, topic.starts_with('$'), &mut |e| found.push(e.order.0));
    found.sort();
    found
}

/// Every filter and every topic over a small alphabet, against the matching rule of the codec.
#[test]
fn the_trie_matches_what_the_filter_matches() {
    let words = |alphabet: &[&str], max: usize| {
        let mut all: Vec<String> = vec![String::new()];
        let mut last = all.clone();
        for _ in 0..max {
            last = last.iter().flat_map(|w| alphabet.iter().map(move |a| format!("{w}{a}"))).collect();
            all.extend(last.clone());
        }
        all
    };
    let filters: Vec<TopicFilter> =
        words(&["a", "$", "/", "+", "#"], 4).into_iter().filter_map(|w| TopicFilter::new(w).ok()).collect();
    let mut subscriptions: Subscriptions = Subscriptions::default();
    let inbox = inbox(SessionId(1));
    for (order, f) in (0..).zip(&filters) {
        subscriptions.insert(f, subscriber(&inbox, 0), SubscriptionOrder(order));
    }
    assert_eq!(subscriptions.len(), filters.len());
    for topic in words(&["a", "$", "/"], 4).into_iter().filter_map(|w| TopicName::new(w).ok()) {
        let expected: Vec<u64> =
            (0..).zip(&filters).filter(|(_, f)| f.matches(&topic)).map(|(order, _)| order).collect();
        assert_eq!(matched(&subscriptions, topic.as_str()), expected, "{topic:?}");
    }
    for f in &filters {
        assert!(matches!(subscriptions.remove(f, SessionId(1)), Removed::Last { .. }));
    }
    assert_eq!(subscriptions.len(), 0);
    assert!(subscriptions.root.is_empty());
}

/// Whoever subscribes to what thousands have does so with everybody's lock held. The time is far above what it takes, and
/// far below what looking through them takes.
#[test]
fn what_many_have_subscribed_to_is_subscribed_to_at_the_same_cost() {
    const MANY: u64 = 40_000;
    let inboxes: Vec<Arc<Inbox>> = (0..MANY).map(|id| inbox(SessionId(id))).collect();
    for text in ["popular", "popular/+/#"] {
        let (mut subscriptions, f) = (Subscriptions::default(), filter(text));
        let began = std::time::Instant::now();
        for _ in 0..2 {
            inboxes.iter().for_each(|inbox| subscriptions.insert(&f, subscriber(inbox, 0), SubscriptionOrder(7)));
            assert_eq!(subscriptions.count(), inboxes.len());
        }
        // From both ends: who is moved is found all the same.
        let (first, last) = inboxes.split_at(inboxes.len() / 2);
        for inbox in first.iter().chain(last.iter().rev()).take(inboxes.len() - 1) {
            assert_eq!(subscriptions.remove(&f, inbox.id), Removed::Shared);
            assert_eq!(subscriptions.remove(&f, inbox.id), Removed::NotFound);
        }
        assert_eq!(subscriptions.remove(&f, last[0].id), Removed::Last { order: SubscriptionOrder(7) });
        assert!(began.elapsed() < std::time::Duration::from_secs(30), "{:?}", began.elapsed());
    }
}

/// [MQTT-3.8.4-4]
#[test]
fn what_a_replaced_subscription_was_owed_stays_owed() {
    const OTHER: u16 = 3;
    let came = |applied| CameRetained { applied: Sequence(applied), version: IndexVersion(0) };
    let (f, one) = (filter("a"), inbox(SessionId(1)));
    let step = |qos: QoS, at: u64| Subscriber {
        options: SubscriptionOptions { qos, ..SubscriptionOptions::default() },
        gates: gates(&[(0, at), (OTHER, 10 * at)]),
        retained: came(at),
        ..subscriber(&one, 0)
    };
    let (zero, first, second) = (QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce);
    // The QoS of each SUBSCRIBE, and in the end: what it was before and up to where, and which SUBSCRIBE brought what came.
    for (steps, before, retained) in [
        (&[first][..], None, 1),
        (&[first, zero], Some((first, 2)), 1),
        (&[second, zero], Some((second, 2)), 1),
        (&[second, zero, zero], Some((second, 2)), 3),
        (&[first, zero, second], None, 3),
        (&[first, second], None, 1),
        (&[zero, zero], None, 2),
        (&[zero, first], None, 2),
    ] {
        let mut subscriptions: Subscriptions = Subscriptions::default();
        for (at, qos) in (1..).zip(steps) {
            subscriptions.insert(&f, step(*qos, at), SubscriptionOrder(0));
        }
        let mut found = None;
        subscriptions.matching("a", false, &mut |entry| found = entry.of_session(SessionId(1)).cloned());
        let found = found.unwrap();
        let was = found.before.as_ref().map(|before| (before.qos, before.until.of(0).0));
        assert_eq!(was, before, "{steps:?}");
        assert_eq!((found.gates.of(0).0, found.gates.of(OTHER).0), (1, 10), "{steps:?}: it keeps its place");
        assert_eq!(found.retained, came(retained), "{steps:?}");
        if let Some(before) = &found.before {
            assert_eq!(before.until.of(OTHER).0, 20);
        }
    }
    // A stream that was made anew begins at 1 again.
    let mut subscriptions: Subscriptions = Subscriptions::default();
    subscriptions.insert(&f, step(first, 100), SubscriptionOrder(0));
    subscriptions.insert(&f, step(first, 2), SubscriptionOrder(0));
    subscriptions.matching("a", false, &mut |entry| assert_eq!(entry.subscribers[0].gates.of(0).0, 2));
}

#[test]
fn gates_are_lowered_in_the_log_that_goes_on_with_lower_sequences_and_in_no_other() {
    let mut lowered = gates(&[(0, 9), (3, 90), (4, 90)]);
    lowered.lower(0, Sequence(4));
    lowered.lower(3, Sequence(40));
    lowered.lower(4, Sequence(100));
    lowered.lower(5, Sequence(1));
    assert_eq!([0, 3, 4, 5].map(|log| lowered.of(log).0), [4, 40, 90, 0]);
    let mut first = gates(&[(0, 9)]);
    first.lower(3, Sequence(1));
    assert_eq!((first.of(0).0, first.of(3).0), (9, 0));
}

#[test]
fn a_text_is_known_as_long_as_somebody_has_it_and_everyone_is_visited() {
    let mut subscriptions: Subscriptions<u32> = Subscriptions::default();
    let filters = ["a", "a/b", "a/+", "a/#", "+/+/c", "a"];
    for (number, text) in (0..).zip(filters) {
        subscriptions.push(&filter(text), SubscriptionOrder(0), number);
    }
    assert!(subscriptions.known(&filter("a")).is_some() && subscriptions.known(&filter("a/+")).is_none());
    let mut visited = Vec::new();
    subscriptions.visit_all(&mut |number| visited.push(*number));
    visited.sort_unstable();
    assert_eq!(visited, [0, 1, 2, 3, 4, 5]);
    assert_eq!(subscriptions.remove_one(&filter("a"), |number| *number == 5), Removed::Shared);
    assert_eq!(subscriptions.remove_one(&filter("a"), |number| *number == 5), Removed::NotFound);
    assert_eq!(
        subscriptions.remove_one(&filter("a"), |number| *number == 0),
        Removed::Last { order: SubscriptionOrder(0) }
    );
    assert_eq!(subscriptions.remove_one(&filter("a"), |_| true), Removed::NotFound);
    for text in ["+/x", "x/y", "a/+/+", "b/#"] {
        assert_eq!(subscriptions.remove_one(&filter(text), |_| true), Removed::NotFound, "{text}");
    }
    assert!(subscriptions.known(&filter("a")).is_none());
}

#[test]
fn mqtt_3_8_4_3_a_replaced_subscription_keeps_its_place_in_the_log() {
    let mut subscriptions: Subscriptions = Subscriptions::default();
    let (one, two) = (inbox(SessionId(1)), inbox(SessionId(2)));
    let f = filter("a/+");
    subscriptions.insert(&f, subscriber(&one, 5), SubscriptionOrder(0));
    subscriptions.insert(&f, subscriber(&one, 9), SubscriptionOrder(1));
    subscriptions.insert(&f, subscriber(&two, 9), SubscriptionOrder(2));
    subscriptions.matching("a/b", false, &mut |e| {
        assert_eq!(e.order, SubscriptionOrder(0));
        assert_eq!(e.subscribers.iter().map(|s| s.gates.of(0).0).collect::<Vec<_>>(), [5, 9]);
    });
    assert_eq!(subscriptions.count(), 2);
    assert_eq!(subscriptions.remove(&f, SessionId(1)), Removed::Shared);
    assert_eq!(subscriptions.remove(&f, SessionId(1)), Removed::NotFound);
    assert_eq!(subscriptions.count(), 1);
    assert_eq!(subscriptions.remove(&f, SessionId(2)), Removed::Last { order: SubscriptionOrder(0) });
    assert_eq!(subscriptions.count(), 0);
}
