//! A session is put in order whose connection is gone, or whose will is due.

use mqtt_ownership::{
    Claim, ClaimOutcome, Epoch, Failover, FailoverOutcome, Input, NEVER, Now, Output, Request, Revision, ServerTime,
    State, Step, Trace, Will, WillOutcome,
};

use super::super::node::{In, Out};
use super::super::store::{Began, Progress, Record};
use super::{
    NOW, done, firing, former, found, load, node, publish, published, put, there, to_do, traced, will, will_at_once,
};

type Machine = Failover<usize, Began>;

/// A session of a node that is gone, at revision 7.
fn failover(state: &Record) -> (Machine, Out) {
    let mut failover = Failover::new(state.clone(), Revision(7), node("here"));
    assert!(!failover.is_adopted());
    let first = to_do(failover.begin::<Progress>(NOW));
    (failover, first)
}

fn next(failover: &mut Machine, input: In) -> Out {
    to_do(failover.handle::<Progress>(NOW, input))
}

fn end(failover: &mut Machine, input: In) -> FailoverOutcome {
    done(failover.handle::<Progress>(NOW, input))
}

/// What it writes of a session whose client was connected.
fn adopting(state: &Record) -> (Machine, Record) {
    let (mut failover, first) = failover(state);
    assert_eq!(first, Output::Trace);
    let output = next(&mut failover, traced(6, Trace::Progress(Epoch(500))));
    let (state, expected) = put(output);
    assert_eq!(expected, Revision(7));
    (failover, state)
}

/// One that has written that, at revision 8, and what it does then.
fn adopted(state: &Record) -> (Machine, Out) {
    let (mut failover, _) = adopting(state);
    let output = next(&mut failover, Input::Written(Revision(8)));
    assert!(failover.is_adopted());
    (failover, output)
}

const fn renewed(fence: u64, ttl_s: Option<u32>) -> Out {
    Output::PutProgress { progress: None, fence: Revision(fence), ttl_s }
}

const SAVED: In = Input::ProgressSaved { again: false };

/// A record that waits for its will, which is due at this time.
fn waiting(due_at: u64) -> Record {
    State { will: Some(Will { due_at: Some(ServerTime(due_at)), ..will() }), ..there(false) }
}

#[test]
fn a_session_with_nothing_to_do_has_no_owner_and_its_progress_stays_as_long_as_it_does() {
    let (mut failover, written) = adopting(&there(true));
    assert_eq!(written, State { owner: None, disconnected_at: Some(ServerTime(1_010)), ..there(false) });
    assert_eq!(next(&mut failover, Input::Written(Revision(8))), renewed(8, Some(65)));
    assert_eq!(end(&mut failover, SAVED), FailoverOutcome::Done);
}

#[test]
fn progress_that_is_not_there_is_not_renewed() {
    for trace in [Input::Traced(None), traced(6, Trace::Over), traced(8, Trace::Expired)] {
        let (mut failover, _) = failover(&there(true));
        put(next(&mut failover, trace));
        assert_eq!(end(&mut failover, Input::Written(Revision(8))), FailoverOutcome::Done);
    }
}

#[test]
fn progress_is_renewed_some_times_and_not_when_it_is_somebody_elses() {
    let (mut failover, first) = adopted(&there(true));
    let mut other = failover.clone();
    for _ in 1..5 {
        assert_eq!(next(&mut failover, Input::NotNow), first);
    }
    assert_eq!(end(&mut failover, Input::NotNow), FailoverOutcome::Done);
    assert_eq!(end(&mut other, Input::Fenced), FailoverOutcome::Done);
}

#[test]
fn an_orphan_whose_client_had_left_needs_no_proof_that_it_is_the_last_record() {
    let (mut failover, first) = failover(&waiting(5_000));
    let written = State { owner: Some(node("here")), ..waiting(5_000) };
    assert_eq!(put(first), (written.clone(), Revision(7)), "it has left when it says, and its will is due then");
    assert_eq!(next(&mut failover, Input::Written(Revision(8))), renewed(8, Some(665)), "there may be progress");
    assert_eq!(next(&mut failover, SAVED), Output::Wait(ServerTime(5_000)));
    assert_eq!(next(&mut failover, Input::Time), load(false));
    let marked = put(next(&mut failover, found(&written, 8))).0;
    assert_eq!(marked, written, "it was not due yet");
}

#[test]
fn a_record_of_the_past_ends() {
    for (trace, is_past) in [
        (traced(8, Trace::Over), true),
        (traced(6, Trace::Over), false),
        (traced(8, Trace::Progress(Epoch(501))), true),
        (traced(8, Trace::Progress(Epoch(500))), false),
        (traced(6, Trace::Progress(Epoch(501))), false),
    ] {
        let (mut failover, first) = failover(&there(true));
        assert_eq!(first, Output::Trace);
        let output = next(&mut failover, trace);
        assert_eq!(output == Output::End(Revision(7)), is_past, "{output:?}");
        if is_past {
            assert!(!failover.is_adopted());
            assert_eq!(end(&mut failover, Input::Written(Revision(8))), FailoverOutcome::Ended);
            assert!(failover.is_adopted(), "what follows takes no time");
        }
    }
}

#[test]
fn without_an_answer_it_is_judged_by_what_is_there_then() {
    let (mut failover, _) = failover(&there(true));
    assert_eq!(next(&mut failover, Input::NotNow), load(true));
    assert_eq!(next(&mut failover, Input::NotNow), load(true));
    assert_eq!(next(&mut failover, found(&there(true), 6)), load(true), "whoever says that knows less");
    assert_eq!(next(&mut failover, found(&there(true), 9)), Output::Trace);
    let mut past = failover.clone();
    assert_eq!(next(&mut past, traced(10, Trace::Over)), Output::End(Revision(9)));
    assert_eq!(put(next(&mut failover, traced(8, Trace::Over))).1, Revision(9), "that of the session before");
}

#[test]
fn what_is_read_again_and_has_left_meanwhile_needs_no_proof_any_more() {
    let (mut failover, _) = failover(&there(true));
    next(&mut failover, Input::NotNow);
    assert_eq!(put(next(&mut failover, found(&there(false), 8))).1, Revision(8));
}

#[test]
fn what_is_read_again_and_is_somebody_elses_is_left() {
    let ours = there(true);
    for theirs in [
        State { epoch: Epoch(501), ..ours.clone() },
        State { owner: Some(node("another")), ..ours.clone() },
        State { owner: None, ..ours.clone() },
    ] {
        let (mut failover, _) = failover(&ours);
        next(&mut failover, Input::NotNow);
        assert_eq!(end(&mut failover, found(&theirs, 8)), FailoverOutcome::Theirs, "{theirs:?}");
    }
    let (mut failover, _) = failover(&ours);
    next(&mut failover, Input::NotNow);
    assert_eq!(end(&mut failover, Input::Loaded(None, Revision(8))), FailoverOutcome::Theirs);
}

#[test]
fn a_session_whose_expiry_interval_is_over_for_certain_ends() {
    let at = |certain, state: &Record| {
        let mut failover: Machine = Failover::new(state.clone(), Revision(7), node("here"));
        let now = Now { earliest: ServerTime(99_000), certain, stamp: ServerTime(99_010) };
        to_do(failover.begin::<Progress>(now)) == Output::End(Revision(7))
    };
    assert!(at(ServerTime(60_900), &there(false)));
    assert!(!at(ServerTime(60_899), &there(false)), "by the clock of another server it may go on");
    assert!(!at(ServerTime(98_000), &there(true)), "nobody has said that it was left");
    let will = Some(firing(7));
    assert!(!at(ServerTime(98_000), &State { will, ..there(false) }), "its will comes first");
    assert!(!at(ServerTime(98_000), &State { former_wills: vec![former(300, 1)], ..there(false) }));
    assert!(!at(ServerTime(98_000), &State { expiry_s: NEVER, ..there(false) }));
}

#[test]
fn a_session_that_ends_with_its_connection_ends() {
    let (mut failover, written) = adopting(&State { expiry_s: 0, ..there(true) });
    assert_eq!((written.connected, written.owner), (false, Some(node("here"))), "somebody has to end it");
    assert_eq!(next(&mut failover, Input::Written(Revision(8))), Output::End(Revision(8)));
    assert_eq!(end(&mut failover, Input::Written(Revision(9))), FailoverOutcome::Done);
}

#[test]
fn a_will_is_published_at_once_and_its_session_goes_on() {
    let state = State { will: Some(will_at_once()), ..there(true) };
    let (mut failover, written) = adopting(&state);
    let left = State { disconnected_at: Some(ServerTime(1_010)), ..there(false) };
    assert_eq!(written, State { owner: Some(node("here")), will: Some(firing(7)), ..left.clone() });
    assert_eq!(next(&mut failover, Input::Written(Revision(8))), renewed(8, Some(665)));
    assert_eq!(next(&mut failover, SAVED), publish(firing(7), 500, false));
    let cleared = State { owner: None, ..left };
    assert_eq!(put(next(&mut failover, published(WillOutcome::Done))), (cleared, Revision(8)));
    assert_eq!(end(&mut failover, Input::Written(Revision(9))), FailoverOutcome::Done);
}

#[test]
fn a_will_waits_for_its_time_and_for_its_client() {
    let (mut failover, written) = adopting(&State { will: Some(will()), ..there(true) });
    let due = Some(Will { due_at: Some(ServerTime(31_010)), ..will() });
    let adopted =
        State { owner: Some(node("here")), will: due, disconnected_at: Some(ServerTime(1_010)), ..there(false) };
    assert_eq!(written, adopted);
    next(&mut failover, Input::Written(Revision(8)));
    assert_eq!(next(&mut failover, SAVED), Output::Wait(ServerTime(31_010)));
    assert_eq!(failover.handle::<Progress>(NOW, Input::NotNow), Step::Wait, "it waits for nothing else");
    assert_eq!(next(&mut failover, Input::Time), load(false));
    assert_eq!(next(&mut failover, Input::NotNow), load(true));
    assert_eq!(next(&mut failover, found(&adopted, 7)), load(true), "whoever says that knows less");
    let later = Now { earliest: ServerTime(31_010), ..NOW };
    let back = State { connected: true, ..adopted.clone() };
    let mut other = failover.clone();
    assert_eq!(end(&mut other, found(&back, 9)), FailoverOutcome::Theirs, "nobody publishes it then");
    let marking = to_do(failover.handle::<Progress>(later, found(&adopted, 8)));
    let fired = Will { delay_s: 30, ..firing(7) };
    assert_eq!(put(marking), (State { will: Some(fired.clone()), ..adopted }, Revision(8)));
    assert_eq!(next(&mut failover, Input::Written(Revision(9))), publish(fired, 500, false));
    let (cleared, expected) = put(next(&mut failover, published(WillOutcome::Done)));
    assert_eq!((cleared.will, cleared.owner, expected), (None, None, Revision(9)));
}

#[test]
fn wills_of_connections_before_are_published_before_a_will_waits() {
    let state = State { will: Some(will()), former_wills: vec![former(300, 1)], ..there(true) };
    let (mut failover, _) = adopted(&state);
    assert_eq!(next(&mut failover, SAVED), publish(firing(1), 300, false));
    let (cleared, expected) = put(next(&mut failover, published(WillOutcome::Done)));
    let due = Some(Will { due_at: Some(ServerTime(31_010)), ..will() });
    assert_eq!((cleared.will.clone(), cleared.former_wills.len()), (due, 0));
    assert_eq!((cleared.owner, expected), (Some(node("here")), Revision(8)));
    assert_eq!(next(&mut failover, Input::Written(Revision(9))), Output::Wait(ServerTime(31_010)));
    next(&mut failover, Input::Time);
    let there = State { owner: Some(node("here")), will: cleared.will, ..there(false) };
    assert_eq!(put(next(&mut failover, found(&there, 9))).1, Revision(9));
}

#[test]
fn a_will_that_is_left_to_wait_is_published_when_its_time_has_come() {
    let mut failover: Machine = Failover::due(waiting(5_000), Revision(8));
    assert!(failover.is_adopted());
    assert_eq!(to_do(failover.begin::<Progress>(NOW)), Output::Wait(ServerTime(5_000)));
    assert_eq!(next(&mut failover, Input::Time), load(false));
    let late = Now { earliest: ServerTime(5_000), ..NOW };
    let marking = to_do(failover.handle::<Progress>(late, found(&waiting(5_000), 8)));
    let fired = Will { delay_s: 30, ..firing(7) };
    assert_eq!(put(marking).0.will, Some(fired.clone()));
    assert_eq!(next(&mut failover, Input::Written(Revision(9))), publish(fired, 500, false));
}

#[test]
fn a_will_whose_time_has_passed_does_not_wait() {
    let mut failover: Machine = Failover::due(waiting(400), Revision(8));
    assert_eq!(to_do(failover.begin::<Progress>(NOW)), Output::Wait(ServerTime(1_000)));
}

#[test]
fn what_others_have_written_is_theirs_and_what_is_too_large_is_left() {
    for is_finishing in [false, true] {
        let begun = || {
            let (mut failover, _) = adopting(&State { will: Some(will_at_once()), ..there(true) });
            if is_finishing {
                next(&mut failover, Input::Written(Revision(8)));
                next(&mut failover, SAVED);
                put(next(&mut failover, published(WillOutcome::Done)));
            }
            failover
        };
        let mut theirs = begun();
        assert_eq!(next(&mut theirs, Input::Fenced), load(false));
        let newer = State { epoch: Epoch(900), ..there(true) };
        assert_eq!(end(&mut theirs, found(&newer, 9)), FailoverOutcome::Theirs);
        assert_eq!(end(&mut begun(), Input::TooLarge), FailoverOutcome::TooLarge);
        assert_eq!(end(&mut begun(), Input::TooNew), FailoverOutcome::Theirs);
        assert_eq!(begun().handle::<Progress>(NOW, Input::Cancelled), Step::Wait);
    }
}

/// What is put in order after a CONNECT that wrote revision 4 over this one, of revision 3, and was refused.
fn restoring(old: &Record) -> (Machine, Out) {
    let request =
        Request { node: node("here"), clean_start: false, expiry_s: 60, will: None, rest: Began(9), came_at: None };
    let mut claim: Claim<usize, Began, Progress> = Claim::new(request);
    claim.begin();
    let mut output = to_do(claim.handle(NOW, found(old, 3)));
    if old.connected {
        output = to_do(claim.handle(NOW, Input::Traced(None)));
    }
    let (written, _) = put(output);
    assert!(matches!(claim.handle(NOW, Input::Written(Revision(4))), Step::Do(_)));
    let ClaimOutcome::GivenUp(given_up) = done(claim.handle(NOW, Input::Cancelled)) else { unreachable!() };
    let restored = given_up.left.and_then(|left| left.restored(&written, NOW));
    let Some(restored) = restored else { unreachable!("something was there") };
    let mut failover = Failover::restoring(restored, Revision(4), node("here"));
    let first = to_do(failover.begin::<Progress>(NOW));
    (failover, first)
}

#[test]
fn what_was_there_before_a_refused_connect_is_put_in_order_unless_it_is_of_the_past() {
    let old = State { will: Some(will()), ..there(true) };
    for (trace, is_past) in [
        (Input::Traced(None), false),
        (traced(2, Trace::Over), false),
        (traced(5, Trace::Over), true),
        (traced(5, Trace::Progress(Epoch(600))), true),
        (traced(5, Trace::Progress(Epoch(500))), false),
    ] {
        let (mut failover, first) = restoring(&old);
        assert_eq!(first, Output::Trace);
        let output = next(&mut failover, trace);
        assert_eq!(output == Output::End(Revision(4)), is_past, "{output:?}");
        if !is_past {
            let (state, expected) = put(output);
            assert_eq!((state.epoch, state.owner, expected), (Epoch(1_001), Some(node("here")), Revision(4)));
        }
    }
}
