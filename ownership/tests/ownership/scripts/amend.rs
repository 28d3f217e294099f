//! The owner of a session writes its record.

use mqtt_ownership::{Amend, AmendOutcome, Epoch, Input, Output, Revision, State, Step};

use super::super::store::{Began, Progress, Record};
use super::{node, there};

/// What the owner of a session writes over what it has written, told what became of it.
fn amended(found: Option<Record>, revision: u64) -> Step<usize, Began, Progress, AmendOutcome> {
    let state = State { epoch: Epoch(500), rest: Began(5), ..there(true) };
    let mut amend = Amend::new(state.clone(), Revision(7));
    assert!(matches!(amend.begin::<Progress>(), Step::Do(Output::Put { expected: Revision(7), .. })));
    assert!(matches!(amend.handle::<Progress>(Input::Fenced), Step::Do(Output::Load { again: false })));
    amend.handle(Input::Loaded(found, Revision(revision)))
}

#[test]
fn an_owner_goes_on_behind_its_own_write_and_behind_nobody_elses() {
    let ours = there(true);
    assert!(matches!(amended(Some(ours.clone()), 8), Step::Do(Output::Put { expected: Revision(8), .. })));
    for theirs in [
        State { epoch: Epoch(501), ..ours.clone() },
        State { owner: Some(node("another")), ..ours.clone() },
        State { owner: None, ..ours.clone() },
        there(false),
    ] {
        assert_eq!(amended(Some(theirs), 8), Step::Done(AmendOutcome::Theirs));
    }
    assert_eq!(amended(None, 8), Step::Done(AmendOutcome::Theirs));
    let stored = State { rest: Began(5), ..ours };
    assert_eq!(amended(Some(stored), 8), Step::Done(AmendOutcome::Written(Revision(8))), "it was the first try");
}

#[test]
fn an_owner_leaves_what_a_newer_version_has_written_and_what_is_too_large() {
    let begun = || {
        let mut amend = Amend::new(there(true), Revision(7));
        let _: Step<usize, Began, Progress, AmendOutcome> = amend.begin();
        amend
    };
    assert_eq!(begun().handle::<Progress>(Input::TooNew), Step::Done(AmendOutcome::Theirs));
    assert_eq!(begun().handle::<Progress>(Input::TooLarge), Step::Done(AmendOutcome::TooLarge));
    let written = begun().handle::<Progress>(Input::Written(Revision(9)));
    assert_eq!(written, Step::Done(AmendOutcome::Written(Revision(9))));
    assert!(matches!(begun().handle::<Progress>(Input::NotNow), Step::Do(Output::Load { again: true })));
}
