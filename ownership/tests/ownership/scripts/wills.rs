//! The wills of a session that is not connected, each published once.

use mqtt_ownership::{Failover, FailoverOutcome, Input, Output, Revision, State, WillOutcome};

use super::super::node::{In, Out};
use super::super::store::{Began, Progress, Record};
use super::{NOW, done, firing, former, node, publish, published, put, there, to_do};

/// Refusals of a will before it is done with.
const REFUSALS_MAX: usize = 6;

type Machine = Failover<usize, Began>;

/// A session at revision 8 with three wills on their way, and the publication of the first.
fn publishing(expiry_s: u32) -> Machine {
    let former_wills = vec![former(300, 1), former(400, 2)];
    let state: Record = State { expiry_s, will: Some(firing(3)), former_wills, ..there(false) };
    let mut failover = Failover::new(state, Revision(7), node("here"));
    put(to_do(failover.begin::<Progress>(NOW)));
    let mut output = next(&mut failover, Input::Written(Revision(8)));
    if expiry_s > 0 {
        assert!(matches!(output, Output::PutProgress { .. }));
        output = next(&mut failover, Input::Fenced);
    }
    assert_eq!(output, publish(firing(1), 300, false));
    failover
}

fn next(failover: &mut Machine, input: In) -> Out {
    to_do(failover.handle::<Progress>(NOW, input))
}

#[test]
fn each_is_published_under_the_epoch_of_its_connection_and_the_record_is_cleared_once() {
    let mut failover = publishing(60);
    assert_eq!(next(&mut failover, published(WillOutcome::Done)), publish(firing(2), 400, false));
    assert_eq!(next(&mut failover, published(WillOutcome::Done)), publish(firing(3), 500, false));
    let (cleared, expected) = put(next(&mut failover, published(WillOutcome::Done)));
    assert_eq!((cleared, expected), (State { owner: None, ..there(false) }, Revision(8)));
    let outcome = done(failover.handle::<Progress>(NOW, Input::Written(Revision(9))));
    assert_eq!(outcome, FailoverOutcome::Done);
}

#[test]
fn a_session_that_ends_with_its_connection_ends_behind_its_wills() {
    let mut failover = publishing(0);
    next(&mut failover, published(WillOutcome::Done));
    next(&mut failover, published(WillOutcome::Done));
    assert_eq!(next(&mut failover, published(WillOutcome::Done)), Output::End(Revision(8)));
}

#[test]
fn a_will_without_an_answer_is_published_until_there_is_one() {
    let mut failover = publishing(60);
    for input in [published(WillOutcome::NotNow), Input::NotNow].iter().cycle().take(3 * REFUSALS_MAX) {
        assert_eq!(next(&mut failover, input.clone()), publish(firing(1), 300, true));
    }
}

#[test]
fn each_will_may_be_refused_as_often_before_it_is_done_with() {
    let mut failover = publishing(60);
    for (epoch, message, then) in [(300, 1, Some((400, 2))), (400, 2, Some((500, 3))), (500, 3, None)] {
        for _ in 1..REFUSALS_MAX {
            assert_eq!(next(&mut failover, published(WillOutcome::Refused)), publish(firing(message), epoch, true));
        }
        let output = next(&mut failover, published(WillOutcome::Refused));
        match then {
            Some((epoch, message)) => assert_eq!(output, publish(firing(message), epoch, false)),
            None => assert_eq!(put(output).0.will, None),
        }
    }
}

#[test]
fn a_will_that_is_stored_after_all_takes_nothing_from_the_next_one() {
    let mut failover = publishing(60);
    for _ in 1..REFUSALS_MAX {
        next(&mut failover, published(WillOutcome::Refused));
    }
    assert_eq!(next(&mut failover, published(WillOutcome::Done)), publish(firing(2), 400, false));
    for _ in 1..REFUSALS_MAX {
        assert_eq!(next(&mut failover, published(WillOutcome::Refused)), publish(firing(2), 400, true));
    }
}
