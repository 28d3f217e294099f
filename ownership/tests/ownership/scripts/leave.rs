//! A connection has ended and puts its session in order.

use mqtt_ownership::{
    Epoch, Input, Leave, LeaveOutcome, NEVER, Output, Revision, ServerTime, State, Step, Will, WillOutcome,
};

use super::super::node::{In, Out};
use super::super::store::{Began, Progress, Record};
use super::{NOW, done, firing, former, found, load, node, publish, published, put, there, to_do, will, will_at_once};

type Machine = Leave<usize, Began, Progress>;
type Outcome = LeaveOutcome<usize, Began>;

const PROGRESS: Progress = Progress { epoch: Epoch(500), acked: 3 };

fn leave(state: &Record, is_will_due: bool) -> (Machine, Out) {
    let mut leave = Leave::new(state.clone(), Revision(7), PROGRESS, is_will_due);
    let first = to_do(leave.begin(NOW));
    (leave, first)
}

fn next(leave: &mut Machine, input: In) -> Out {
    to_do(leave.handle(NOW, input))
}

fn end(leave: &mut Machine, input: In) -> Outcome {
    done(leave.handle(NOW, input))
}

fn save(fence: u64, ttl_s: Option<u32>) -> Out {
    Output::PutProgress { progress: Some(PROGRESS), fence: Revision(fence), ttl_s }
}

/// One whose progress is saved, and what it writes then.
fn saved(state: &Record, is_will_due: bool) -> (Machine, Out) {
    let (mut leave, first) = leave(state, is_will_due);
    assert!(matches!(first, Output::PutProgress { .. }));
    let output = next(&mut leave, Input::ProgressSaved { again: false });
    (leave, output)
}

/// What a record says when its connection has left.
fn left() -> Record {
    State { owner: None, disconnected_at: Some(ServerTime(1_010)), ..there(false) }
}

#[test]
fn progress_is_saved_for_longer_than_the_record_stays_and_the_record_has_no_owner_then() {
    let (mut leave, first) = leave(&there(true), true);
    assert_eq!(first, save(7, Some(65)));
    let output = next(&mut leave, Input::ProgressSaved { again: false });
    assert_eq!(put(output), (left(), Revision(7)));
    assert_eq!(end(&mut leave, Input::Written(Revision(8))), LeaveOutcome::Done);
}

#[test]
fn what_never_ends_stays_for_ever() {
    let (_, first) = leave(&State { expiry_s: NEVER, ..there(true) }, true);
    assert_eq!(first, save(7, None));
}

#[test]
fn a_session_that_ends_with_its_connection_saves_nothing() {
    for (will, is_will_due) in [(None, true), (Some(will()), false)] {
        let (mut leave, first) = leave(&State { expiry_s: 0, will, ..there(true) }, is_will_due);
        assert_eq!(first, Output::End(Revision(7)));
        assert_eq!(end(&mut leave, Input::Written(Revision(8))), LeaveOutcome::Done);
    }
}

#[test]
fn a_will_that_is_not_due_at_all_leaves_the_record() {
    let (mut leave, output) = saved(&State { will: Some(will()), ..there(true) }, false);
    assert_eq!(put(output), (left(), Revision(7)));
    assert_eq!(end(&mut leave, Input::Written(Revision(8))), LeaveOutcome::Done);
}

#[test]
fn a_will_that_is_due_later_waits_for_its_time_with_its_owner() {
    let (mut leave, output) = saved(&State { will: Some(will()), ..there(true) }, true);
    let due = Some(Will { due_at: Some(ServerTime(31_010)), ..will() });
    let waiting = State { owner: Some(node("elsewhere")), will: due, ..left() };
    assert_eq!(put(output), (waiting.clone(), Revision(7)));
    assert_eq!(end(&mut leave, Input::Written(Revision(8))), LeaveOutcome::Later(waiting, Revision(8)));
}

#[test]
fn a_will_that_is_due_is_marked_and_published_and_leaves_the_record() {
    let (mut leave, output) = saved(&State { will: Some(will_at_once()), ..there(true) }, true);
    let marked = State { owner: Some(node("elsewhere")), will: Some(firing(7)), ..left() };
    assert_eq!(put(output), (marked, Revision(7)));
    assert_eq!(next(&mut leave, Input::Written(Revision(8))), publish(firing(7), 500, false));
    assert_eq!(put(next(&mut leave, published(WillOutcome::Done))), (left(), Revision(8)));
    assert_eq!(end(&mut leave, Input::Written(Revision(9))), LeaveOutcome::Done);
}

#[test]
fn the_will_of_a_session_that_ends_is_published_before_its_end_whatever_its_delay() {
    let (mut leave, output) = leave(&State { expiry_s: 0, will: Some(will()), ..there(true) }, true);
    let fired = Will { delay_s: 30, ..firing(7) };
    assert_eq!(put(output).0.will, Some(fired.clone()));
    assert_eq!(next(&mut leave, Input::Written(Revision(8))), publish(fired, 500, false));
    assert_eq!(next(&mut leave, published(WillOutcome::Done)), Output::End(Revision(8)));
    assert_eq!(end(&mut leave, Input::Written(Revision(9))), LeaveOutcome::Done);
}

#[test]
fn wills_of_connections_before_are_published_before_a_will_waits() {
    let state = State { will: Some(will()), former_wills: vec![former(300, 1)], ..there(true) };
    let (mut leave, output) = saved(&state, true);
    let due = Some(Will { due_at: Some(ServerTime(31_010)), ..will() });
    let waiting = State { owner: Some(node("elsewhere")), will: due, ..left() };
    assert_eq!(put(output), (State { former_wills: vec![former(300, 1)], ..waiting.clone() }, Revision(7)));
    assert_eq!(next(&mut leave, Input::Written(Revision(8))), publish(firing(1), 300, false));
    assert_eq!(put(next(&mut leave, published(WillOutcome::Done))), (waiting.clone(), Revision(8)));
    assert_eq!(end(&mut leave, Input::Written(Revision(9))), LeaveOutcome::Later(waiting, Revision(9)));
}

#[test]
fn a_save_without_an_answer_is_tried_again() {
    let (mut leave, first) = leave(&there(true), true);
    assert_eq!(next(&mut leave, Input::NotNow), first);
}

#[test]
fn a_save_that_was_refused_is_tried_again_behind_what_its_owner_wrote() {
    let (mut leave, _) = leave(&there(true), true);
    assert_eq!(next(&mut leave, Input::Fenced), load(false));
    assert_eq!(next(&mut leave, Input::NotNow), load(true));
    assert_eq!(next(&mut leave, found(&there(true), 6)), load(true), "whoever says that knows less");
    assert_eq!(next(&mut leave, found(&there(true), 8)), save(8, Some(65)));
    assert_eq!(next(&mut leave, Input::Fenced), load(true));
    let wills = State { will: Some(will_at_once()), former_wills: vec![former(300, 1)], ..there(true) };
    assert_eq!(next(&mut leave, found(&wills, 9)), save(9, Some(60 + 600 + 5)));
    let (marked, expected) = put(next(&mut leave, Input::ProgressSaved { again: false }));
    assert_eq!((marked.will, marked.former_wills), (Some(firing(7)), vec![former(300, 1)]));
    assert_eq!(expected, Revision(9));
}

#[test]
fn whoever_has_left_leaves_what_is_somebody_elses() {
    let ours = there(true);
    for theirs in [
        State { epoch: Epoch(501), ..ours.clone() },
        State { owner: Some(node("another")), ..ours.clone() },
        State { owner: None, ..ours.clone() },
        there(false),
    ] {
        let (mut leave, _) = leave(&ours, true);
        next(&mut leave, Input::Fenced);
        assert_eq!(end(&mut leave, found(&theirs, 8)), LeaveOutcome::Theirs, "{theirs:?}");

        let (mut leave, _) = saved(&ours, true);
        next(&mut leave, Input::Fenced);
        assert_eq!(end(&mut leave, found(&theirs, 8)), LeaveOutcome::Theirs, "{theirs:?}");
    }
    let (mut leave, _) = leave(&ours, true);
    next(&mut leave, Input::Fenced);
    assert_eq!(end(&mut leave, Input::Loaded(None, Revision(8))), LeaveOutcome::Theirs);
}

#[test]
fn what_was_written_behind_its_back_by_its_owner_is_written_over() {
    let (mut leave, _) = saved(&there(true), true);
    assert_eq!(next(&mut leave, Input::Fenced), load(false));
    assert_eq!(next(&mut leave, found(&there(true), 8)), save(8, Some(65)), "it is fenced by the record");
    let output = next(&mut leave, Input::ProgressSaved { again: false });
    assert_eq!(put(output), (left(), Revision(8)));
}

#[test]
fn what_is_too_large_or_too_new_is_left() {
    let (mut leave, _) = leave(&there(true), true);
    assert_eq!(end(&mut leave.clone(), Input::TooLarge), LeaveOutcome::TooLarge);
    assert_eq!(end(&mut leave, Input::TooNew), LeaveOutcome::Theirs);
    for will in [None, Some(will_at_once())] {
        let (mut leave, _) = saved(&State { will, ..there(true) }, true);
        assert_eq!(end(&mut leave, Input::TooLarge), LeaveOutcome::TooLarge);
    }
}

#[test]
fn nobody_stops_it() {
    for input in [Input::Preempted, Input::ConnectionGone, Input::Cancelled] {
        let (mut leave, _) = leave(&there(true), true);
        assert_eq!(leave.handle(NOW, input), Step::Wait);
        assert_eq!(put(next(&mut leave, Input::ProgressSaved { again: false })).0, left());
    }
}
