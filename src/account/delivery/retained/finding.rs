//! Which subscriptions of a SUBSCRIBE are owed retained messages. Most are not, and have no cursor.
//!
//! Each is looked for by itself, for a moment. Those of which that does not tell, because too many topics lie where they
//! could match, are looked for together: every topic once, and not every topic for every filter.
//!
//! **Invariant:** others have their turn after [`LOOKS`] topics, however many filters and topics there are, and no lock is
//! held meanwhile.

use std::collections::HashMap;

use mqtt_codec::TopicFilter;
use mqtt_ownership::ServerTime;
use proto_map::ClosedTrees;

use super::cursor::RetainedCursor;
use crate::account::delivery::core_subscriptions::SubscriptionOrder;
use crate::account::delivery::subscriptions::Subscriptions;
use crate::store::{IndexState, RetainedIndex, RetainedSearch};

/// Topics that are looked at before others have their turn.
pub(super) const LOOKS: usize = 1_024;

/// Topics that are looked at for one subscription alone.
const LOOKS_ALONE: usize = 32;

/// Keeps the cursors that have something to send. `seen`: the state of the index that they are for.
pub(in crate::account) async fn owed(
    cursors: Vec<RetainedCursor>,
    index: &RetainedIndex,
    closed: &ClosedTrees,
    seen: IndexState,
    now: ServerTime,
) -> Vec<RetainedCursor> {
    let mut is_owed = vec![false; cursors.len()];
    let mut unknown = Vec::new();
    let mut looks_left = LOOKS;
    for (number, cursor) in cursors.iter().enumerate() {
        let (mut search, mut looks) = (cursor.search.clone(), LOOKS_ALONE);
        is_owed[number] = !index.search(&mut search, 1, &mut looks, now.0).is_empty();
        if !is_owed[number] && !search.is_over() {
            unknown.push(number);
        }
        looks_left = looks_left.saturating_sub(1 + LOOKS_ALONE - looks);
        if looks_left == 0 {
            looks_left = LOOKS;
            tokio::task::yield_now().await;
        }
    }
    if !unknown.is_empty() {
        find_together(&cursors, unknown, &mut is_owed, index, closed, seen, now).await;
    }
    cursors.into_iter().zip(is_owed).filter_map(|(cursor, is_owed)| is_owed.then_some(cursor)).collect()
}

async fn find_together(
    cursors: &[RetainedCursor],
    unknown: Vec<usize>,
    is_owed: &mut [bool],
    index: &RetainedIndex,
    closed: &ClosedTrees,
    seen: IndexState,
    now: ServerTime,
) {
    let mut filters: Subscriptions<()> = Subscriptions::default();
    let mut of_filter: HashMap<&TopicFilter, Vec<usize>> = HashMap::new();
    let mut by_order: Vec<&TopicFilter> = Vec::new();
    for number in unknown {
        let filter = &cursors[number].filter;
        let same = of_filter.entry(filter).or_default();
        if same.is_empty() {
            filters.push(filter, SubscriptionOrder(by_order.len() as u64), ());
            by_order.push(filter);
        }
        same.push(number);
    }
    let mut left = by_order.len();
    let mut everything = RetainedSearch::everything(seen);
    while left > 0 && !everything.is_over() {
        let topics = index.search(&mut everything, LOOKS, &mut LOOKS.clone(), now.0);
        for entry in topics {
            let is_hidden = closed.hides_topic_from_wildcard(&entry.topic);
            let mut found = Vec::new();
            filters.matching(entry.topic.as_str(), is_hidden, &mut |entry| found.push(entry.order));
            for order in found {
                let Some(filter) = usize::try_from(order.0).ok().and_then(|order| by_order.get(order)) else {
                    continue;
                };
                filters.remove_one(filter, |()| true);
                for number in of_filter.get(filter).into_iter().flatten() {
                    is_owed[*number] = true;
                }
                left -= 1;
            }
        }
        tokio::task::yield_now().await;
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use bytes::Bytes;
    use mqtt_codec::{SubscriptionOptions, TopicName};
    use mqtt_session::Sequence;

    use super::super::cursor::RetainedNumber;
    use super::*;
    use crate::store::RetainedMessage;

    fn index(topics: impl Iterator<Item = String>) -> RetainedIndex {
        let index = RetainedIndex::new();
        for (sequence, topic) in (1..).zip(topics) {
            let message = RetainedMessage { payload: Bytes::from_static(b"m"), ..RetainedMessage::default() };
            index.apply_live(sequence, &TopicName::new(topic).unwrap(), Some(message));
        }
        index
    }

    fn cursor(filter: &str, seen: IndexState) -> RetainedCursor {
        let filter = TopicFilter::new(filter.to_owned()).unwrap();
        let search = RetainedSearch::new(&filter, None, seen);
        let (options, number) = (SubscriptionOptions::default(), RetainedNumber::default());
        RetainedCursor { filter, search, options, subscription_id: None, up_to: Sequence(0), is_sys: false, number }
    }

    /// Runs on one thread, beside a task that wants its turn all the time. Returns the filters that are owed something, and
    /// the longest time for which that task had none.
    async fn owed_beside(index: &RetainedIndex, filters: &[String]) -> (Vec<String>, Duration) {
        let seen = index.state();
        let cursors = filters.iter().map(|filter| cursor(filter, seen)).collect();
        let (closed, mut longest, mut last) = (ClosedTrees::default(), Duration::ZERO, Instant::now());
        let mut work = std::pin::pin!(owed(cursors, index, &closed, seen, ServerTime(0)));
        let owed = std::future::poll_fn(|cx| {
            let polled = work.as_mut().poll(cx);
            longest = longest.max(last.elapsed());
            last = Instant::now();
            polled
        });
        let owed = owed.await.into_iter().map(|cursor| cursor.filter.to_string()).collect();
        (owed, longest)
    }

    #[tokio::test]
    async fn who_is_owed_something_is_found_alone_and_together() {
        let index = index((0..5_000).map(|i| format!("t{i:04}/x")).chain(["a".to_owned(), "$aws/x/y".to_owned()]));
        let filters = ["a", "b", "+/x", "+/y", "+/x/z", "t4999/+", "+/+", "#", "$aws/#", "+/x/y", "+/y", "t4999/x"];
        let filters: Vec<String> = filters.map(str::to_owned).to_vec();
        let (owed, _) = owed_beside(&index, &filters).await;
        assert_eq!(owed, ["a", "+/x", "t4999/+", "+/+", "#", "$aws/#", "t4999/x"]);
        let last_only: Vec<String> = ["+/x", "+/last", "+/last"].map(str::to_owned).to_vec();
        index.apply_live(9_000, &TopicName::new("z/last").unwrap(), Some(RetainedMessage::default()));
        let (owed, _) = owed_beside(&index, &last_only).await;
        assert_eq!(owed, ["+/x", "+/last", "+/last"], "the same filter twice is found twice");
    }

    /// 20,000 filters over 20,000 topics took two minutes, in which nothing else on its thread had a turn.
    #[tokio::test]
    async fn twenty_thousand_filters_over_twenty_thousand_topics_leave_others_their_turn() {
        let index = index((0..20_000).map(|i| format!("t{i}/x")));
        let filters: Vec<String> = (0..20_000).map(|i| format!("+/y{i}")).collect();
        let began = Instant::now();
        let (owed, longest) = owed_beside(&index, &filters).await;
        assert!(owed.is_empty());
        assert!(longest < Duration::from_secs(2), "nobody else had a turn for {longest:?}");
        assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
    }
}
