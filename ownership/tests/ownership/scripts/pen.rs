//! Records are written, by whatever machine: a write whose fate is not known is looked into until the record tells.

use mqtt_ownership::{
    Amend, AmendOutcome, Claim, Failover, FailoverOutcome, Input, Output, Request, Revision, State, Trace,
};

use super::super::node::{In, Out};
use super::super::store::{Began, Progress, Record};
use super::{NOW, done, found, load, node, put, there, to_do, traced};

/// Answers that know less than we do before one is believed.
const STALE_MAX: usize = 12;

type Machine = Amend<usize, Began>;

/// What the owner writes.
fn intended() -> Record {
    State { rest: Began(5), ..there(true) }
}

/// An owner that writes over revision 7.
fn amend(state: &Record) -> Machine {
    let mut amend = Amend::new(state.clone(), Revision(7));
    assert_eq!(put(to_do::<AmendOutcome>(amend.begin())), (state.clone(), Revision(7)));
    amend
}

fn next(amend: &mut Machine, input: In) -> Out {
    to_do(amend.handle::<Progress>(input))
}

#[test]
fn there_is_a_pause_from_the_second_refusal_on() {
    let mut amend = amend(&intended());
    for again in [false, true, true] {
        assert_eq!(next(&mut amend, Input::Fenced), load(again));
        assert_eq!(put(next(&mut amend, found(&there(true), 7))), (intended(), Revision(7)));
    }
}

#[test]
fn what_has_no_answer_is_read_after_a_pause() {
    let mut amend = amend(&intended());
    assert_eq!(next(&mut amend, Input::NotNow), load(true));
    assert_eq!(next(&mut amend, Input::NotNow), load(true));
    let written = done(amend.handle::<Progress>(found(&intended(), 8)));
    assert_eq!(written, AmendOutcome::Written(Revision(8)));
}

#[test]
fn what_looks_like_our_write_and_was_there_before_is_not() {
    let mut fence = amend(&there(true));
    assert_eq!(next(&mut fence, Input::NotNow), load(true));
    assert_eq!(put(next(&mut fence, found(&there(true), 7))), (there(true), Revision(7)));
    let written = done(fence.handle::<Progress>(found(&there(true), 8)));
    assert_eq!(written, AmendOutcome::Written(Revision(8)));
}

#[test]
fn an_answer_that_knows_less_is_not_believed_until_it_is_all_that_there_is() {
    let mut amend = amend(&intended());
    assert_eq!(next(&mut amend, Input::Fenced), load(false));
    for _ in 0..STALE_MAX {
        assert_eq!(next(&mut amend, found(&there(false), 6)), load(true));
    }
    assert_eq!(done(amend.handle::<Progress>(found(&there(false), 6))), AmendOutcome::Theirs);
}

#[test]
fn a_new_write_has_as_much_patience_as_the_first() {
    let mut amend = amend(&intended());
    next(&mut amend, Input::Fenced);
    next(&mut amend, Input::Fenced);
    for _ in 0..STALE_MAX {
        next(&mut amend, Input::Loaded(None, Revision(0)));
    }
    // A write of its own from before.
    assert_eq!(put(next(&mut amend, found(&there(true), 9))), (intended(), Revision(9)));
    assert_eq!(next(&mut amend, Input::Fenced), load(false));
    for _ in 0..STALE_MAX {
        assert_eq!(next(&mut amend, found(&there(true), 7)), load(true), "less than it knows by now");
    }
}

/// A claim that reads: it has written nothing yet.
fn reading() -> Claim<usize, Began, Progress> {
    let node = node("here");
    let mut claim =
        Claim::new(Request { node, clean_start: false, expiry_s: 60, will: None, rest: Began(9), came_at: None });
    claim.begin();
    claim
}

#[test]
fn what_is_known_counts_before_anything_is_written_too() {
    let mut claim = reading();
    // An answer that knows enough ends the patience with those that did not.
    for _ in 0..3 {
        assert_eq!(to_do(claim.handle(NOW, found(&there(true), 9))), Output::Trace);
        assert_eq!(to_do(claim.handle(NOW, Input::NotNow)), load(true));
        for _ in 0..STALE_MAX {
            assert_eq!(to_do(claim.handle(NOW, found(&there(false), 8))), load(true));
        }
    }
    assert_eq!(put(to_do(claim.handle(NOW, found(&there(false), 8)))).1, Revision(8));
}

#[test]
fn what_was_expected_is_what_was_read_last() {
    let mut claim = reading();
    assert_eq!(to_do(claim.handle(NOW, found(&there(true), 9))), Output::Trace);
    put(to_do(claim.handle(NOW, Input::Traced(None))));
    assert_eq!(to_do(claim.handle(NOW, Input::Fenced)), load(false));
    assert_eq!(put(to_do(claim.handle(NOW, found(&there(true), 9)))).1, Revision(9), "it is still there");
}

#[test]
fn an_end_is_tried_again_as_long_as_what_it_ends_is_there() {
    let mut failover: Failover<usize, Began> = Failover::new(there(true), Revision(7), node("here"));
    let mut told = |input: In| failover.handle::<Progress>(NOW, input);
    told(Input::Time);
    assert_eq!(to_do(told(Input::NotNow)), load(true));
    assert_eq!(to_do(told(found(&there(true), 8))), Output::Trace);
    assert_eq!(to_do(told(traced(9, Trace::Over))), Output::End(Revision(8)));
    for again in [false, true] {
        assert_eq!(to_do(told(Input::Fenced)), load(again));
        assert_eq!(to_do(told(found(&there(true), 8))), Output::End(Revision(8)));
    }
    let mut other = failover.clone();
    assert_eq!(to_do(other.handle::<Progress>(NOW, Input::NotNow)), load(true));
    assert_eq!(done(other.handle::<Progress>(NOW, found(&there(true), 9))), FailoverOutcome::Theirs);
    assert_eq!(to_do(failover.handle::<Progress>(NOW, Input::NotNow)), load(true));
    assert_eq!(done(failover.handle::<Progress>(NOW, Input::Loaded(None, Revision(9)))), FailoverOutcome::Ended);
}
