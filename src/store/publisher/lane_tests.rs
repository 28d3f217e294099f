//! Scripts over the lane, and a simulation: a stream that changes its leaders in every bad way.

#[path = "lane_simulation.rs"]
mod simulation;

use super::*;

fn entry(item: u32, subject: u64) -> Entry<u32> {
    Entry { item, subject, id: u64::from(item), expected_last: None }
}

/// Everything that is to be done now; a look is written as `None`.
fn drain(lane: &mut Lane<u32>, now: Instant) -> Vec<Option<u32>> {
    steps(lane, now).into_iter().map(|(item, _)| item).collect()
}

fn steps(lane: &mut Lane<u32>, now: Instant) -> Vec<(Option<u32>, Option<Token>)> {
    let mut steps = Vec::new();
    while let Some(step) = lane.next(now, |_| true) {
        steps.push(match step {
            Step::Send { item, token, .. } => (Some(*item), Some(token)),
            Step::Look { .. } => (None, None),
            Step::Withdrawn(item) => panic!("{item} is wanted"),
        });
    }
    steps
}

fn some(items: &[u32]) -> Vec<Option<u32>> {
    items.iter().copied().map(Some).collect()
}

/// A lane with messages 0, 1, 2 … of one subject, which are sent.
fn sent(count: u32, now: Instant) -> (Lane<u32>, Vec<Token>) {
    let mut lane = Lane::new(true);
    for item in 0..count {
        assert_eq!(lane.push(entry(item, 7), now), u64::from(item));
    }
    let tokens = steps(&mut lane, now).into_iter().filter_map(|(_, token)| token).collect();
    (lane, tokens)
}

/// The one look that is due; then what it leads to.
fn look(lane: &mut Lane<u32>, now: Instant) -> (AskToken, Ask) {
    match lane.next(now, |_| true) {
        Some(Step::Look { token, ask, .. }) => (token, ask),
        other => panic!("a look is due, not {other:?}"),
    }
}

fn message(sequence: u64, id: u64) -> Found {
    Found::Message { sequence, id: Some(id) }
}

#[test]
fn an_open_lane_sends_everything_at_once_and_in_order() {
    let now = Instant::now();
    let (mut lane, tokens) = sent(4, now);
    assert_eq!(tokens.len(), 4);
    assert_eq!(lane.stored(tokens[0], 1, false, now), Some(0));
    assert_eq!(lane.stored(tokens[0], 1, false, now), None, "a second acknowledgement changes nothing");
    for (token, sequence) in tokens[1..].iter().zip(2..) {
        assert!(lane.stored(*token, sequence, false, now).is_some());
    }
    assert!(lane.is_empty() && lane.is_open());
    assert_eq!(lane.stored(Token { number: 99, attempt: 1 }, 9, false, now), None);
}

#[test]
fn what_comes_later_of_a_subject_waits_for_the_volley_and_other_subjects_do_not() {
    let now = Instant::now();
    let (mut lane, tokens) = sent(2, now);
    let later = now + VOLLEY_SPREAD * 2;
    lane.push(entry(2, 7), later);
    lane.push(entry(3, 8), later);
    assert_eq!(drain(&mut lane, later), some(&[3]));
    lane.stored(tokens[0], 1, false, later);
    assert_eq!(drain(&mut lane, later), []);
    lane.push(entry(4, 7), later);
    lane.stored(tokens[1], 2, false, later);
    assert_eq!(drain(&mut lane, later), some(&[2, 4]));
}

#[test]
fn a_later_acknowledgement_before_an_earlier_one_is_doubt_and_both_are_looked_for() {
    let now = Instant::now();
    let (mut lane, tokens) = sent(3, now);
    assert_eq!(lane.stored(tokens[1], 10, false, now), Some(1));
    assert!(!lane.is_open());
    let (token, ask) = look(&mut lane, now);
    assert_eq!(ask, Ask::Last);
    let mut out = Vec::new();
    lane.looked(token, message(10, 1), now, &mut out);
    let (token, ask) = look(&mut lane, now);
    assert_eq!(ask, Ask::From(1));
    lane.looked(token, message(9, 0), now, &mut out);
    assert_eq!(out, [Resolved::Stored(0, 9)]);
    let (token, _) = look(&mut lane, now);
    lane.looked(token, message(10, 1), now, &mut out);
    let (token, ask) = look(&mut lane, now);
    assert_eq!(ask, Ask::From(11));
    lane.looked(token, Found::Nothing, now, &mut out);
    match lane.next(now, |_| true) {
        Some(Step::Send { item: 2, expected_last: Some(10), .. }) => {}
        other => panic!("the last is sent behind what is there, not {other:?}"),
    }
}

#[test]
fn what_is_not_there_is_sent_again_first_alone_and_then_all() {
    let now = Instant::now();
    let (mut lane, _) = sent(3, now);
    lane.restart(now);
    lane.push(entry(3, 7), now);
    lane.push(entry(4, 8), now);
    let (token, _) = look(&mut lane, now);
    assert_eq!(drain(&mut lane, now), [], "one thing at a time");
    lane.looked(token, Found::Nothing, now, &mut Vec::new());
    let repeat = steps(&mut lane, now);
    assert_eq!(repeat[0].0, Some(0));
    assert_eq!(repeat.len(), 1);
    assert_eq!(lane.stored(repeat[0].1.unwrap(), 1, false, now), Some(0));
    assert!(lane.is_open());
    assert_eq!(drain(&mut lane, now), some(&[4, 1, 2, 3]));
}

#[test]
fn a_copy_that_was_stored_meanwhile_keeps_its_repetition_out() {
    let now = Instant::now();
    let (mut lane, old) = sent(2, now);
    lane.restart(now);
    let (token, _) = look(&mut lane, now);
    lane.looked(token, Found::Nothing, now, &mut Vec::new());
    let repeat = steps(&mut lane, now)[0].1.unwrap();
    // The old leader goes on: its acknowledgement comes, and the repetition is refused.
    assert_eq!(lane.stored(old[0], 1, false, now), Some(0));
    assert_eq!(lane.mismatched(repeat, now), None);
    let later = now + Duration::from_millis(10);
    let (token, _) = look(&mut lane, later);
    let mut out = Vec::new();
    lane.looked(token, message(2, 1), later, &mut out);
    let (token, _) = look(&mut lane, later);
    lane.looked(token, message(2, 1), later, &mut out);
    assert_eq!(out, [Resolved::Stored(1, 2)]);
    assert!(lane.is_empty());
}

/// Two are stored, the stream keeps the last one, and both acknowledgements are lost.
#[test]
fn what_its_successor_has_replaced_is_not_sent_behind_it() {
    let now = Instant::now();
    let (mut lane, _) = sent(2, now);
    lane.keeps(Some(1));
    lane.restart(now);
    let mut out = Vec::new();
    let (token, _) = look(&mut lane, now);
    lane.looked(token, message(9, 1), now, &mut out);
    let (token, ask) = look(&mut lane, now);
    assert_eq!(ask, Ask::From(1));
    lane.looked(token, message(9, 1), now, &mut out);
    assert_eq!(out, [Resolved::Stored(1, 9)]);
    // In doubt once more, when the one that was found is known to nobody any more.
    lane.restart(now);
    let (token, _) = look(&mut lane, now);
    lane.looked(token, Found::Nothing, now, &mut out);
    assert_eq!(out, [Resolved::Stored(1, 9), Resolved::Stored(0, 9)]);
    assert!(lane.is_empty());
}

#[test]
fn what_is_not_there_though_there_was_room_is_sent_again() {
    let now = Instant::now();
    let (mut lane, _) = sent(3, now);
    lane.keeps(Some(3));
    lane.restart(now);
    let mut out = Vec::new();
    let (token, _) = look(&mut lane, now);
    lane.looked(token, message(9, 2), now, &mut out);
    for found in [message(8, 1), message(9, 2), Found::Nothing] {
        let (token, _) = look(&mut lane, now);
        lane.looked(token, found, now, &mut out);
    }
    assert_eq!(out, [Resolved::Stored(1, 8), Resolved::Stored(2, 9)]);
    assert!(matches!(lane.next(now, |_| true), Some(Step::Send { item: 0, expected_last: Some(9), .. })));
}

#[test]
fn silence_is_doubt_and_an_elected_leader_ends_the_wait() {
    let now = Instant::now();
    let (mut lane, _) = sent(2, now);
    assert_eq!(lane.check_silence(now + Duration::from_millis(900)), 0);
    assert!(lane.is_open());
    let now = now + Duration::from_secs(1);
    lane.check_silence(now);
    assert!(!lane.is_open());
    assert_eq!(drain(&mut lane, now), [], "a pause first");
    lane.elected(now);
    assert_eq!(drain(&mut lane, now), [None]);
    let mut silent = 0;
    let mut later = now;
    for _ in 0..600 {
        later += Duration::from_millis(20);
        silent = lane.check_silence(later);
        drain(&mut lane, later);
    }
    assert!(silent >= 3, "{silent}");
}

#[test]
fn what_waits_too_long_is_given_up_with_its_reason() {
    let limit = Duration::from_secs(20);
    let now = Instant::now();
    let (mut lane, tokens) = sent(2, now);
    lane.refused(tokens[0], now);
    lane.push(entry(2, 7), now + limit / 2);
    let mut out = Vec::new();
    lane.give_up(now + limit, limit, &mut out);
    assert_eq!(out, [(0, GaveUp::NoStream), (1, GaveUp::Silence)]);
    assert_eq!(drain(&mut lane, now + limit), some(&[2]), "nothing of its subject is in doubt any more");
}

#[test]
fn what_is_withdrawn_is_not_sent_again_and_leaves_its_turn_to_the_next() {
    let now = Instant::now();
    let (mut lane, _) = sent(3, now);
    lane.restart(now);
    let (token, _) = look(&mut lane, now);
    lane.looked(token, Found::Nothing, now, &mut Vec::new());
    assert!(matches!(lane.next(now, |item| *item > 0), Some(Step::Withdrawn(0))));
    assert!(matches!(lane.next(now, |item| *item > 0), Some(Step::Send { item: 1, expected_last: Some(0), .. })));
}

#[test]
fn what_the_connection_did_not_take_is_sent_next() {
    let now = Instant::now();
    let mut lane = Lane::new(true);
    lane.push(entry(0, 7), now);
    lane.push(entry(1, 7), now);
    let Some(Step::Send { token, .. }) = lane.next(now, |_| true) else { panic!("it is to be sent") };
    lane.unsend(token, now);
    assert_eq!(drain(&mut lane, now), some(&[0, 1]));
}

#[test]
fn a_message_that_names_its_predecessor_is_refused_for_good_only_when_it_is_not_there() {
    let now = Instant::now();
    let mut lane = Lane::new(true);
    lane.push(Entry { expected_last: Some(5), ..entry(0, 7) }, now);
    let token = steps(&mut lane, now)[0].1.unwrap();
    assert_eq!(lane.mismatched(token, now), Some(0), "the first copy: nobody else is to blame");
    lane.push(Entry { expected_last: Some(5), ..entry(1, 7) }, now);
    drain(&mut lane, now);
    lane.restart(now);
    let (token, _) = look(&mut lane, now);
    let mut out = Vec::new();
    lane.looked(token, Found::Message { sequence: 6, id: Some(1) }, now, &mut out);
    let (token, _) = look(&mut lane, now);
    lane.looked(token, Found::Message { sequence: 6, id: Some(1) }, now, &mut out);
    assert_eq!(out, [Resolved::Stored(1, 6)]);
}

#[test]
fn what_nobody_wants_any_more_is_not_sent_for_the_first_time_either() {
    let now = Instant::now();
    let mut lane = Lane::new(true);
    for item in 0..3 {
        lane.push(entry(item, 7), now);
    }
    assert!(matches!(lane.next(now, |item| *item > 0), Some(Step::Withdrawn(0))));
    assert_eq!(drain(&mut lane, now), some(&[1, 2]));
}

#[test]
fn a_walk_that_ends_before_the_last_message_was_answered_by_two_who_know_differently() {
    let now = Instant::now();
    let (mut lane, _) = sent(1, now);
    lane.restart(now);
    let (token, _) = look(&mut lane, now);
    lane.looked(token, message(5, 0), now, &mut Vec::new());
    let (token, ask) = look(&mut lane, now);
    assert_eq!(ask, Ask::From(1));
    lane.looked(token, Found::Nothing, now, &mut Vec::new());
    assert_eq!(drain(&mut lane, now), [], "not sent behind itself");
    let (_, ask) = look(&mut lane, now + Duration::from_millis(10));
    assert_eq!(ask, Ask::Last);
}
