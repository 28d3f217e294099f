//! Single decisions of a claim, told step by step: what the simulation would find only with luck.

use mqtt_ownership::{
    Amend, AmendOutcome, Claim, ClaimOutcome, Epoch, GivenUp, Input, NodeId, Now, Output, Request, Revision, State,
    Step, Stop, Trace, Will, WillState,
};

use super::node::{In, Out};
use super::store::{Began, Progress, Record};

type Machine = Claim<usize, Began, Progress>;
type Outcome = ClaimOutcome<usize, Began, Progress>;

const NOW: Now = Now { earliest_ms: 1_000, certain_ms: 990, stamp_ms: 1_010 };

fn will() -> Will<usize> {
    Will { delay_s: 30, state: WillState::Armed, due_at_ms: None, message: 7 }
}

fn claim(will: Option<Will<usize>>) -> Machine {
    let node = NodeId("here".to_owned());
    Claim::new(Request { node, clean_start: false, expiry_s: 60, will, rest: Began(9), came_ms: None })
}

fn there(connected: bool) -> Record {
    State {
        epoch: Epoch(500),
        first_epoch: Epoch(400),
        owner: Some(NodeId("elsewhere".to_owned())),
        connected,
        since_ms: 500,
        expiry_s: 60,
        disconnected_at_ms: (!connected).then_some(900),
        will: None,
        former_wills: Vec::new(),
        handover_from: Vec::new(),
        rest: Began(4),
    }
}

fn next(claim: &mut Machine, input: In) -> Out {
    match claim.handle(NOW, input) {
        Step::Do(output) => output,
        step => unreachable!("{step:?}"),
    }
}

fn end(claim: &mut Machine, input: In) -> Outcome {
    match claim.handle(NOW, input) {
        Step::Done(outcome) => outcome,
        step => unreachable!("{step:?}"),
    }
}

fn given_up(claim: &mut Machine, input: In) -> GivenUp<usize, Began, Progress> {
    match end(claim, input) {
        ClaimOutcome::GivenUp(given_up) => *given_up,
        outcome @ ClaimOutcome::Claimed(_) => unreachable!("{outcome:?}"),
    }
}

fn loaded(claim: &mut Machine, record: Option<Record>, revision: u64) -> Out {
    claim.begin();
    next(claim, Input::Loaded(record, Revision(revision)))
}

#[test]
fn the_owner_before_is_asked_and_what_it_hands_over_is_saved() {
    let mut claim = claim(None);
    assert_eq!(loaded(&mut claim, Some(there(true)), 3), Output::Trace);
    assert!(matches!(next(&mut claim, Input::Traced(None)), Output::Put { expected: Revision(3), .. }));
    let asked = next(&mut claim, Input::Written(Revision(4)));
    let Output::AskNodes { nodes, before, last } = asked else { unreachable!("{asked:?}") };
    assert_eq!((nodes, before, last), (vec![NodeId("elsewhere".to_owned())], Epoch(1_000), Epoch(500)));
    let handed = Progress { epoch: Epoch(500), acked: 3 };
    let saving = next(&mut claim, Input::HandedOver(Some(handed)));
    assert!(matches!(saving, Output::PutProgress { progress: Some(p), fence: Revision(4), .. } if p == handed));
    let ClaimOutcome::Claimed(claimed) = end(&mut claim, Input::ProgressSaved { again: false }) else { unreachable!() };
    assert_eq!((claimed.revision, claimed.is_present, claimed.progress), (Revision(4), true, Some(handed)));
}

#[test]
fn a_save_that_may_arrive_again_is_shut_out_by_a_new_record() {
    let mut claim = claim(None);
    loaded(&mut claim, Some(there(true)), 3);
    next(&mut claim, Input::Traced(None));
    next(&mut claim, Input::Written(Revision(4)));
    next(&mut claim, Input::HandedOver(Some(Progress { epoch: Epoch(500), acked: 3 })));
    let again = next(&mut claim, Input::ProgressSaved { again: true });
    assert!(matches!(again, Output::Put { expected: Revision(4), .. }), "{again:?}");
    let ClaimOutcome::Claimed(claimed) = end(&mut claim, Input::Written(Revision(6))) else { unreachable!() };
    assert_eq!(claimed.revision, Revision(6));
}

#[test]
fn a_record_of_the_past_is_no_session() {
    for (trace, is_present) in [
        (None, true),
        (Some((Revision(2), Trace::Over)), true),
        (Some((Revision(4), Trace::Over)), false),
        (Some((Revision(4), Trace::Progress(Epoch(500)))), true),
        (Some((Revision(4), Trace::Progress(Epoch(501)))), false),
        (Some((Revision(4), Trace::Expired)), true),
    ] {
        let mut claim = claim(None);
        assert_eq!(loaded(&mut claim, Some(there(true)), 3), Output::Trace);
        let Output::Put { state, .. } = next(&mut claim, Input::Traced(trace)) else { unreachable!() };
        assert_eq!(state.first_epoch == Epoch(400), is_present, "{trace:?}");
    }
}

#[test]
fn a_claim_in_doubt_that_finds_another_leaves_its_will_to_it_and_may_not_be_refused() {
    let mut claim = claim(Some(will()));
    loaded(&mut claim, None, 0);
    assert_eq!(next(&mut claim, Input::NotNow), Output::Load { again: true });
    let given_up = given_up(&mut claim, Input::Loaded(Some(there(false)), Revision(5)));
    assert_eq!((given_up.why, given_up.left.map(|left| left.is_written)), (Stop::Preempted, Some(false)));
}

#[test]
fn a_claim_that_was_refused_for_certain_goes_on_with_its_will_and_may_be_refused() {
    let mut claim = claim(Some(will()));
    loaded(&mut claim, None, 0);
    assert_eq!(next(&mut claim, Input::Fenced), Output::Load { again: false });
    let Output::Put { state, .. } = next(&mut claim, Input::Loaded(Some(there(false)), Revision(5))) else {
        unreachable!()
    };
    assert_eq!(state.will, Some(will()));
    assert_eq!(next(&mut claim, Input::Fenced), Output::Load { again: false });
    assert_eq!(next(&mut claim, Input::Loaded(Some(there(true)), Revision(7))), Output::Trace);
    let given_up = given_up(&mut claim, Input::Cancelled);
    assert_eq!(given_up.left, None, "nothing of it was ever there");
}

#[test]
fn a_claim_that_is_given_up_amid_its_write_is_in_doubt() {
    for answer in [None, Some(Input::Written(Revision(4)))] {
        let mut claim = claim(Some(will()));
        loaded(&mut claim, Some(there(true)), 3);
        next(&mut claim, Input::Traced(None));
        let is_written = answer.is_some();
        if let Some(answer) = answer {
            next(&mut claim, answer);
        }
        let given_up = given_up(&mut claim, Input::Cancelled);
        assert_eq!(given_up.left.map(|left| left.is_written), Some(is_written));
    }
}

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
        State { owner: Some(NodeId("another".to_owned())), ..ours.clone() },
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
