//! The index against a naive model.

use std::collections::HashMap;

use super::*;

/// Everything that the index has.
const ALL: IndexState = IndexState::up_to(u64::MAX);

/// Everything that it had at a version.
const fn seen(version: u64) -> IndexState {
    IndexState { version, ..ALL }
}

fn topic(text: &str) -> TopicName {
    TopicName::new(text.to_owned()).unwrap()
}

fn filter(text: &str) -> TopicFilter {
    TopicFilter::new(text.to_owned()).unwrap()
}

fn message(payload: &str) -> Option<RetainedMessage> {
    Some(RetainedMessage { payload: Bytes::copy_from_slice(payload.as_bytes()), ..RetainedMessage::default() })
}

fn filled(topics: &[&str]) -> RetainedIndex {
    let index = RetainedIndex::new();
    for (number, text) in topics.iter().enumerate() {
        index.apply(number as u64 + 1, &topic(text), message("x"));
    }
    index
}

fn matching(index: &RetainedIndex, text: &str) -> Vec<String> {
    let page = index.page(&filter(text), None, ALL, usize::MAX, 0);
    page.iter().map(|entry| entry.topic.as_str().to_owned()).collect()
}

#[test]
fn filters_find_what_they_match_in_order() {
    let index = filled(&["a", "a/b", "a/b/c", "a/", "a!", "b/b/c", "$SYS/x", "/", "//", "a/b!/c", "aa/b"]);
    assert_eq!(matching(&index, "a"), ["a"]);
    assert_eq!(matching(&index, "a/#"), ["a", "a/", "a/b", "a/b/c", "a/b!/c"]);
    assert_eq!(matching(&index, "+/b"), ["a/b", "aa/b"]);
    assert_eq!(matching(&index, "+/b/c"), ["a/b/c", "b/b/c"]);
    assert_eq!(matching(&index, "a/+/c"), ["a/b/c", "a/b!/c"]);
    assert_eq!(matching(&index, "a/+/#"), ["a/", "a/b", "a/b/c", "a/b!/c"]);
    assert_eq!(matching(&index, "a/b/#"), ["a/b", "a/b/c"]);
    assert_eq!(matching(&index, "+"), ["a", "a!"]);
    assert_eq!(matching(&index, "+/+"), ["/", "a/", "a/b", "aa/b"]);
    assert_eq!(matching(&index, "$SYS/#"), ["$SYS/x"]);
    assert_eq!(matching(&index, "#").len(), 10, "all but $SYS [MQTT-4.7.2-1]");
    assert_eq!(matching(&index, "nothing/+/here"), [""; 0]);
}

#[test]
fn a_page_goes_on_where_the_last_one_ended_and_shows_no_later_version() {
    let index = filled(&["t/1", "t/2", "t/3", "t/4"]);
    let version = index.state().version;
    index.apply(5, &topic("t/2"), message("new"));
    index.apply(6, &topic("t/25"), message("new"));
    let first = index.page(&filter("t/#"), None, seen(version), 2, 0);
    assert_eq!(first.iter().map(|e| e.topic.as_str()).collect::<Vec<_>>(), ["t/1", "t/3"]);
    let rest = index.page(&filter("t/#"), Some(&first[1].topic), seen(version), 2, 0);
    assert_eq!(rest.iter().map(|e| e.topic.as_str()).collect::<Vec<_>>(), ["t/4"]);
    assert!(index.page(&filter("t/#"), Some(&topic("t/4")), seen(version), 2, 0).is_empty());
    assert_eq!(index.page(&filter("t/#"), Some(&topic("a")), seen(version), 9, 0).len(), 3);
    assert!(index.page(&filter("t/#"), Some(&topic("u")), seen(version), 9, 0).is_empty());
}

#[test]
fn the_newer_sequence_wins_whoever_brings_it() {
    let index = RetainedIndex::new();
    let t = topic("t");
    index.apply_live(5, &t, message("five"));
    index.apply(3, &t, message("three"));
    assert_eq!(index.get(&t).unwrap().sequence, 5);
    index.apply_live(7, &t, None);
    index.apply(5, &t, message("five"));
    index.applied(5);
    assert_eq!(index.get(&t), None);
    index.apply(6, &t, message("six"));
    assert_eq!(index.get(&t), None, "the deletion is newer");
    index.apply(7, &t, None);
    index.applied(7);
    assert!(index.inner.read().topics.is_empty(), "no mark stays");
    index.apply_live(6, &t, message("six"));
    assert_eq!(index.get(&t), None, "late");
    assert_eq!(index.len(), 0);
}

#[test]
fn what_expires_is_not_shown_and_then_removed() {
    let index = RetainedIndex::new();
    let mut ends = message("x").unwrap();
    ends.expires_at_ms = Some(1_000);
    index.apply(1, &topic("t"), Some(ends));
    assert_eq!(index.page(&filter("t"), None, ALL, 9, 999).len(), 1);
    assert_eq!(index.page(&filter("t"), None, ALL, 9, 1_000).len(), 0);
    assert_eq!(index.next_expiry_ms(), Some(1_000));
    index.expire(999);
    assert_eq!(index.len(), 1);
    index.expire(1_000);
    assert_eq!(index.next_expiry_ms(), None, "then nothing is waited for");
    assert_eq!(index.len(), 0);
    assert!(index.inner.read().expiries.is_empty());
}

#[test]
fn a_snapshot_removes_what_it_does_not_have() {
    let index = filled(&["a", "b", "c"]);
    index.applied(3);
    index.apply_live(9, &topic("live"), message("x"));
    index.begin_snapshot();
    index.apply(1, &topic("a"), message("x"));
    index.apply(5, &topic("c"), message("x"));
    index.end_snapshot(6);
    assert_eq!(matching(&index, "#"), ["a", "c", "live"]);
    assert_eq!(index.state().applied, 6);
    index.drop_before(4);
    assert_eq!(matching(&index, "#"), ["c", "live"]);
}

#[test]
fn random_operations_agree_with_a_naive_model() {
    let alphabet = ["a", "b", "", "ab", "$x", "!"];
    for seed in 1..200_u64 {
        let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        let index = RetainedIndex::new();
        let mut model: HashMap<String, u64> = HashMap::new();
        for sequence in 1..120_u64 {
            let levels: Vec<&str> = (0..=random.below(4)).map(|_| *random.pick(&alphabet)).collect();
            let text = levels.join("/");
            if text.is_empty() {
                continue;
            }
            if random.below(4) == 0 {
                model.remove(&text);
                index.apply(sequence, &topic(&text), None);
            } else {
                model.insert(text.clone(), sequence);
                index.apply(sequence, &topic(&text), message("x"));
            }
            if random.below(3) == 0 {
                index.applied(sequence);
            }
        }
        assert_eq!(index.len(), model.len(), "seed {seed}");
        for _ in 0..60 {
            let mut levels: Vec<&str> =
                (0..=random.below(4)).map(|_| *random.pick(&["a", "b", "", "ab", "$x", "!", "+", "+"])).collect();
            if random.below(3) == 0 {
                levels.push("#");
            }
            let Ok(filter) = TopicFilter::new(levels.join("/")) else { continue };
            let mut expected: Vec<&str> =
                model.keys().map(String::as_str).filter(|text| filter.matches(&topic(text))).collect();
            let mut found = Vec::new();
            let mut after: Option<TopicName> = None;
            loop {
                let page = index.page(&filter, after.as_ref(), ALL, 3, 0);
                let Some(last) = page.last() else { break };
                after = Some(last.topic.clone());
                found.extend(page);
            }
            let mut found: Vec<&str> = found.iter().map(|entry| entry.topic.as_str()).collect();
            found.sort_unstable();
            expected.sort_unstable();
            assert_eq!(found, expected, "seed {seed}, filter {}", filter.as_str());
        }
    }
}

struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 33) % limit
    }

    fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len() as u64) as usize]
    }
}

#[test]
fn who_subscribes_within_a_snapshot_gets_what_comes_out_of_turn_live_and_not_as_retained_as_well() {
    let index = RetainedIndex::new();
    index.applied(3);
    index.begin_snapshot();
    index.apply(9, &topic("t"), message("new"));
    let early = index.state();
    assert!(index.page(&filter("t"), None, early, 9, 0).is_empty(), "it is above 3, so it comes live");
    // The tail brings it: from now on it will not come live to anybody who subscribes.
    index.apply_live(9, &topic("t"), message("new"));
    assert_eq!(index.page(&filter("t"), None, index.state(), 9, 0).len(), 1);
    assert!(index.page(&filter("t"), None, early, 9, 0).is_empty());
}

/// However few topics are looked at in one go, the same is found, in the same order.
#[test]
fn a_search_that_is_broken_off_goes_on_where_it_was() {
    let index = RetainedIndex::new();
    let topics: Vec<String> = (0..40).flat_map(|i| [format!("a{i}/x"), format!("a{i}/y/z"), format!("a{i}")]).collect();
    for (sequence, text) in (1..).zip(&topics) {
        index.apply(sequence, &topic(text), message("m"));
    }
    // A deletion that the reader has not passed is a topic that is looked at.
    index.apply_live(500, &topic("a7/x"), None);
    for text in ["+/x", "+/y/#", "#", "a3/+", "+/+/nothing", "a9/x", "nothing/+"] {
        let whole = index.page(&filter(text), None, ALL, usize::MAX, 0);
        for (looks_each, max) in [(1, 1), (1, 100), (7, 2), (usize::MAX, 3)] {
            let mut search = RetainedSearch::new(&filter(text), None, ALL);
            let (mut found, mut rounds) = (Vec::new(), 0);
            while !search.is_over() {
                let mut looks = looks_each;
                let page = index.search(&mut search, max, &mut looks, 0);
                assert!(page.len() <= max && looks <= looks_each);
                found.extend(page);
                rounds += 1;
                assert!(rounds < 1_000, "{text}: it does not end");
            }
            assert_eq!(found, whole, "{text}, {looks_each} looks at a time");
        }
    }
    let mut everything = RetainedSearch::everything(ALL);
    assert_eq!(index.search(&mut everything, usize::MAX, &mut usize::MAX.clone(), 0).len(), topics.len() - 1);
}

#[test]
fn what_is_kept_is_counted_through_every_change() {
    let index = RetainedIndex::new();
    assert_eq!((index.beside(&topic("a/b")), index.bytes()), ((0, 0), 0));
    index.apply(1, &topic("a/b"), message("12345"));
    index.apply(2, &topic("c"), message("1"));
    assert_eq!((index.beside(&topic("a/b")), index.beside(&topic("c")), index.bytes()), ((1, 2), (1, 8), 10));
    index.apply(3, &topic("a/b"), message("1"));
    assert_eq!((index.beside(&topic("new")), index.bytes()), ((2, 6), 6));
    index.apply_live(4, &topic("c"), None);
    assert_eq!((index.beside(&topic("c")), index.bytes()), ((1, 4), 4));
    let expires = RetainedMessage { expires_at_ms: Some(10), ..message("12").unwrap() };
    index.apply(5, &topic("e"), Some(expires));
    index.expire(10);
    assert_eq!((index.len(), index.bytes()), (1, 4));
    index.reset();
    assert_eq!((index.len(), index.bytes()), (0, 0));
}

/// Each NATS subscription that matches brings its copy. Between the first, which no subscriber was there for, and the second
/// somebody subscribes, and the reader passes the message.
#[test]
fn a_copy_behind_the_reader_is_known_to_who_had_the_message_as_retained() {
    let index = RetainedIndex::new();
    let first = index.apply_live(1, &topic("t"), message("m"));
    assert!(first.is_some());
    let seen = index.state();
    assert!(seen.applied < 1);
    assert_eq!(index.page(&filter("#"), None, seen, 9, 0).len(), 1, "it is owed to who subscribes now");
    index.apply(1, &topic("t"), message("m"));
    index.applied(1);
    let again = index.apply_live(1, &topic("t"), message("m"));
    assert_eq!(again, first);
    assert!(again.is_some_and(|version| version <= seen.version), "and is nothing new for it");

    index.apply(2, &topic("t"), message("n"));
    index.applied(2);
    assert_eq!(index.apply_live(1, &topic("t"), message("m")), None, "a later one is there");
    assert_eq!(index.apply_live(2, &topic("t"), message("n")), None, "the reader brought it");
}
