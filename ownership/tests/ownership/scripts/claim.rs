//! A CONNECT makes its connection the owner of its session, or gives up.

use mqtt_ownership::{
    Claim, ClaimOutcome, Claimed, Epoch, GivenUp, Input, Left, NEVER, Output, Request, Revision, ServerTime, State,
    Step, Stop, Trace, Will, WillOutcome,
};

use super::super::node::{In, Out};
use super::super::store::{Began, Progress, Record};
use super::{
    NOW, done, firing, former, found, load, node, publish, published, put, there, to_do, traced, will, will_at_once,
};

type Machine = Claim<usize, Began, Progress>;

const HANDED: Progress = Progress { epoch: Epoch(500), acked: 3 };

fn request(will: Option<Will<usize>>) -> Request<usize, Began> {
    Request { node: node("here"), clean_start: false, expiry_s: 60, will, rest: Began(9), came_at: None }
}

fn claim(will: Option<Will<usize>>) -> Machine {
    Claim::new(request(will))
}

fn next(claim: &mut Machine, input: In) -> Out {
    to_do(claim.handle(NOW, input))
}

fn given_up(claim: &mut Machine, input: In) -> GivenUp<usize, Began, Progress> {
    match done(claim.handle(NOW, input)) {
        ClaimOutcome::GivenUp(given_up) => *given_up,
        outcome @ ClaimOutcome::Claimed(_) => unreachable!("{outcome:?}"),
    }
}

fn claimed(claim: &mut Machine, input: In) -> Claimed<usize, Began, Progress> {
    match done(claim.handle(NOW, input)) {
        ClaimOutcome::Claimed(claimed) => *claimed,
        outcome @ ClaimOutcome::GivenUp(_) => unreachable!("{outcome:?}"),
    }
}

fn loaded(claim: &mut Machine, record: Option<Record>, revision: u64) -> Out {
    assert_eq!(to_do(claim.begin()), load(false));
    next(claim, Input::Loaded(record, Revision(revision)))
}

/// The record that a claim writes in the place of this one.
fn written(claim: &mut Machine, old: &Record) -> Record {
    let mut output = loaded(claim, Some(old.clone()), 3);
    if old.connected {
        assert_eq!(output, Output::Trace);
        output = next(claim, Input::Traced(None));
    }
    let (state, expected) = put(output);
    assert_eq!(expected, Revision(3));
    state
}

/// A claim that is written, at revision 4, over a session with these wills on their way; and what it does first.
fn publishing(former_wills: &[(u64, usize)]) -> (Machine, Out) {
    let mut claim = claim(None);
    let former_wills = former_wills.iter().map(|(epoch, message)| former(*epoch, *message)).collect();
    written(&mut claim, &State { former_wills, ..there(false) });
    let output = next(&mut claim, Input::Written(Revision(4)));
    (claim, output)
}

/// One that is written, at revision 4, and asks the owner before.
fn asking(old: &Record) -> Machine {
    let mut claim = claim(None);
    written(&mut claim, old);
    assert!(matches!(next(&mut claim, Input::Written(Revision(4))), Output::AskNodes { .. }));
    claim
}

#[test]
fn a_session_begins_where_nothing_is() {
    let mut claim = claim(Some(will()));
    let (state, expected) = put(loaded(&mut claim, None, 2));
    assert_eq!(expected, Revision(2), "that of a marker");
    let begun = State {
        epoch: Epoch(1_000),
        first_epoch: Epoch(1_000),
        owner: Some(node("here")),
        connected: true,
        since: ServerTime(1_000),
        expiry_s: 60,
        disconnected_at: None,
        will: Some(will()),
        former_wills: Vec::new(),
        handover_from: Vec::new(),
        rest: Began(9),
    };
    assert_eq!(state, begun);
    assert_eq!(claim.written_at(), None);
    let claimed = claimed(&mut claim, Input::Written(Revision(4)));
    assert_eq!((claimed.state, claimed.revision, claimed.is_present), (begun, Revision(4), false));
    assert_eq!((claimed.left.found, claimed.left.is_written), (None, true));
}

#[test]
fn the_epoch_is_one_that_never_was_whatever_the_clock_says() {
    for (old, new) in [(500, 1_000), (999, 1_000), (1_000, 1_001), (5_000, 5_001)] {
        let state = written(&mut claim(None), &State { epoch: Epoch(old), ..there(false) });
        assert_eq!((state.epoch, state.first_epoch), (Epoch(new), Epoch(400)));
    }
}

#[test]
fn a_session_goes_on_unless_it_is_over_or_not_wanted() {
    let ends = |expiry_s| State { expiry_s, ..there(false) };
    let long_ago = State { expiry_s: 1, disconnected_at: Some(ServerTime(0)), ..there(false) };
    for (clean_start, old, is_present) in [
        (false, there(false), true),
        (false, there(true), true),
        (false, ends(NEVER), true),
        (false, ends(0), false),
        (false, State { expiry_s: 0, ..there(true) }, false),
        (false, long_ago.clone(), false),
        (true, there(false), false),
        (true, there(true), false),
        (true, long_ago, false),
    ] {
        let mut claim = Claim::new(Request { clean_start, ..request(None) });
        let state = written(&mut claim, &old);
        let (first, rest) = if is_present { (Epoch(400), Began(4)) } else { (Epoch(1_000), Began(9)) };
        assert_eq!((state.first_epoch, state.rest), (first, rest), "{old:?}");
        let given_up = given_up(&mut claim, Input::Cancelled);
        assert_eq!(given_up.left.map(|left| left.is_present), Some(is_present), "{old:?}");
    }
}

#[test]
fn a_will_is_published_or_cancelled_by_the_next_connection() {
    let old = State { will: Some(will()), former_wills: vec![former(300, 1)], ..there(true) };
    let state = written(&mut claim(None), &old);
    assert_eq!(state.former_wills, [former(300, 1)], "cancelled [MQTT-3.1.3-9]");
    let mut clean = Claim::new(Request { clean_start: true, ..request(None) });
    let state = written(&mut clean, &old);
    assert_eq!(state.former_wills.iter().map(|will| will.epoch).collect::<Vec<_>>(), [Epoch(300), Epoch(500)]);
}

#[test]
fn the_owner_before_is_asked_and_what_it_hands_over_is_saved() {
    let mut claim = claim(None);
    written(&mut claim, &there(true));
    let asked = next(&mut claim, Input::Written(Revision(4)));
    let nodes = vec![node("elsewhere")];
    assert_eq!(asked, Output::AskNodes { nodes, before: Epoch(1_000), last: Epoch(500) });
    assert_eq!(claim.written_at(), Some((Epoch(1_000), Revision(4))));
    let saving = next(&mut claim, Input::HandedOver(Some(HANDED)));
    assert_eq!(saving, Output::PutProgress { progress: Some(HANDED), fence: Revision(4), ttl_s: None });
    let claimed = claimed(&mut claim, Input::ProgressSaved { again: false });
    assert_eq!((claimed.revision, claimed.is_present, claimed.progress), (Revision(4), true, Some(HANDED)));
    assert_eq!(claimed.state.handover_from, [], "nobody has to be asked again");
}

#[test]
fn what_is_handed_over_of_a_session_that_is_over_is_not_saved() {
    let mut claim = asking(&State { expiry_s: 0, ..there(true) });
    assert_eq!(claimed(&mut claim, Input::HandedOver(Some(HANDED))).progress, None);
}

#[test]
fn a_save_that_may_arrive_again_is_shut_out_by_a_new_record() {
    let mut claim = asking(&there(true));
    next(&mut claim, Input::HandedOver(Some(HANDED)));
    let (_, expected) = put(next(&mut claim, Input::ProgressSaved { again: true }));
    assert_eq!(expected, Revision(4));
    assert_eq!(claimed(&mut claim, Input::Written(Revision(6))).revision, Revision(6));
}

#[test]
fn a_save_without_an_answer_is_tried_again_and_shut_out_in_the_end() {
    let mut claim = asking(&there(true));
    let saving = next(&mut claim, Input::HandedOver(Some(HANDED)));
    assert_eq!(next(&mut claim, Input::NotNow), saving);
    let (_, expected) = put(next(&mut claim, Input::ProgressSaved { again: false }));
    assert_eq!(expected, Revision(4), "the first try may arrive yet");
}

#[test]
fn what_is_too_large_to_be_saved_is_kept_and_what_somebody_newer_keeps_out_is_left_to_others() {
    let mut claim = asking(&there(true));
    next(&mut claim, Input::HandedOver(Some(HANDED)));
    assert_eq!(claimed(&mut claim, Input::TooLarge).progress, Some(HANDED));

    let mut claim = asking(&there(true));
    next(&mut claim, Input::HandedOver(Some(HANDED)));
    let given_up = given_up(&mut claim, Input::Fenced);
    assert_eq!((given_up.why, given_up.unsaved), (Stop::Preempted, Some((HANDED, Revision(4)))));
}

#[test]
fn an_owner_that_is_preempted_saves_what_it_has_asked_for_but_does_not_try_for_ever() {
    let mut claim = asking(&there(true));
    assert_eq!(claim.handle(NOW, Input::Preempted), Step::Wait);
    assert!(matches!(next(&mut claim, Input::HandedOver(Some(HANDED))), Output::PutProgress { .. }));
    let given_up = given_up(&mut claim, Input::NotNow);
    assert_eq!((given_up.why, given_up.unsaved), (Stop::Preempted, Some((HANDED, Revision(4)))));
    assert_eq!(given_up.left.map(|left| left.is_written), Some(true));
}

#[test]
fn what_is_saved_is_not_handed_on_by_an_owner_that_is_preempted_and_what_is_too_large_is() {
    for (answer, unsaved) in [
        (Input::ProgressSaved { again: false }, None),
        (Input::ProgressSaved { again: true }, None),
        (Input::TooLarge, Some((HANDED, Revision(4)))),
    ] {
        let mut claim = asking(&there(true));
        assert_eq!(claim.handle(NOW, Input::Preempted), Step::Wait);
        next(&mut claim, Input::HandedOver(Some(HANDED)));
        let given_up = given_up(&mut claim, answer);
        assert_eq!((given_up.why, given_up.unsaved), (Stop::Preempted, unsaved));
    }
}

#[test]
fn wills_are_published_one_after_the_other_and_leave_the_record() {
    let (mut claim, first) = publishing(&[(300, 1), (400, 2)]);
    assert_eq!(first, publish(firing(1), 300, false));
    assert_eq!(next(&mut claim, Input::NotNow), publish(firing(1), 300, true));
    assert_eq!(next(&mut claim, published(WillOutcome::NotNow)), publish(firing(1), 300, true));
    assert_eq!(next(&mut claim, published(WillOutcome::Done)), publish(firing(2), 400, false));
    let (state, expected) = put(next(&mut claim, published(WillOutcome::Done)));
    assert_eq!((state.former_wills, expected), (Vec::new(), Revision(4)));
    let claimed = claimed(&mut claim, Input::Written(Revision(5)));
    assert_eq!((claimed.state.former_wills, claimed.revision), (Vec::new(), Revision(5)));
}

#[test]
fn a_will_that_is_refused_for_long_stays_in_the_record_and_does_not_hold_up_the_client() {
    let (mut claim, _) = publishing(&[(300, 1), (400, 2)]);
    let refused = || published(WillOutcome::Refused);
    for _ in 1..3 {
        assert_eq!(next(&mut claim, refused()), publish(firing(1), 300, true));
    }
    assert_eq!(next(&mut claim, refused()), publish(firing(2), 400, false));
    for _ in 1..3 {
        assert_eq!(next(&mut claim, refused()), publish(firing(2), 400, true), "each has as many tries");
    }
    let claimed = claimed(&mut claim, refused());
    assert_eq!(claimed.state.former_wills, [former(300, 1), former(400, 2)]);
    assert_eq!(claimed.revision, Revision(4), "nothing has changed");
}

#[test]
fn a_will_behind_one_that_is_refused_leaves_the_record_alone() {
    let (mut claim, _) = publishing(&[(300, 1), (400, 2)]);
    for _ in 0..3 {
        next(&mut claim, published(WillOutcome::Refused));
    }
    let (state, _) = put(next(&mut claim, published(WillOutcome::Done)));
    assert_eq!(state.former_wills, [former(300, 1)]);
}

#[test]
fn a_will_after_the_save_is_published_without_a_pause() {
    for answer in [Input::ProgressSaved { again: false }, Input::TooLarge] {
        let mut claim = asking(&State { former_wills: vec![former(300, 1)], ..there(true) });
        next(&mut claim, Input::HandedOver(Some(HANDED)));
        assert_eq!(next(&mut claim, answer), publish(firing(1), 300, false));
    }
}

#[test]
fn an_owner_that_is_displaced_amid_its_wills_leaves_them_to_the_next_one() {
    let (mut claim, _) = publishing(&[(300, 1)]);
    assert_eq!(claim.handle(NOW, Input::Preempted), Step::Wait);
    assert_eq!(given_up(&mut claim, published(WillOutcome::Done)).why, Stop::Preempted);

    let (mut claim, _) = publishing(&[(300, 1)]);
    next(&mut claim, published(WillOutcome::Done));
    assert_eq!(next(&mut claim, Input::Fenced), load(false));
    let newer = State { epoch: Epoch(2_000), ..there(true) };
    assert_eq!(given_up(&mut claim, found(&newer, 5)).why, Stop::Preempted);
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
        let (state, _) = put(next(&mut claim, Input::Traced(trace)));
        assert_eq!(state.first_epoch == Epoch(400), is_present, "{trace:?}");
    }
}

#[test]
fn what_is_read_without_an_answer_is_read_again() {
    let mut claim = claim(None);
    claim.begin();
    assert_eq!(next(&mut claim, Input::NotNow), load(true));
    assert_eq!(next(&mut claim, found(&there(true), 9)), Output::Trace);
    assert_eq!(next(&mut claim, Input::NotNow), load(true));
    assert_eq!(next(&mut claim, found(&there(true), 9)), Output::Trace, "it is judged by what is there then");
    assert_eq!(put(next(&mut claim, traced(4, Trace::Over))).1, Revision(9));
}

#[test]
fn whoever_is_to_stop_before_it_has_written_leaves_nothing() {
    let stopped = |inputs: &[In]| {
        let mut claim = claim(Some(will()));
        claim.begin();
        for input in inputs {
            assert_eq!(claim.handle(NOW, input.clone()), Step::Wait);
        }
        let mut others = claim.clone();
        let given_up = given_up(&mut claim, Input::Loaded(None, Revision(0)));
        assert_eq!(given_up.left, None);
        assert_eq!(self::given_up(&mut others, Input::NotNow).why, given_up.why);
        given_up.why
    };
    assert_eq!(stopped(&[Input::Preempted]), Stop::Preempted);
    assert_eq!(stopped(&[Input::ConnectionGone]), Stop::ConnectionGone);
    assert_eq!(stopped(&[Input::ConnectionGone, Input::Preempted]), Stop::Preempted);
    assert_eq!(stopped(&[Input::Preempted, Input::ConnectionGone]), Stop::Preempted, "which says more");
    for (input, why) in
        [(Input::Cancelled, Stop::Cancelled), (Input::TooNew, Stop::TooNew), (Input::OfAnother, Stop::OfAnother)]
    {
        let mut claim = claim(None);
        claim.begin();
        assert_eq!(given_up(&mut claim, input).why, why);
    }
}

#[test]
fn whoever_is_to_stop_while_the_past_is_looked_for_writes_nothing() {
    let mut claim = claim(None);
    loaded(&mut claim, Some(there(true)), 3);
    assert_eq!(claim.handle(NOW, Input::ConnectionGone), Step::Wait);
    let given_up = given_up(&mut claim, Input::Traced(None));
    assert_eq!((given_up.why, given_up.left), (Stop::ConnectionGone, None));
}

#[test]
fn whoever_came_later_elsewhere_keeps_the_client_id() {
    let here = State { owner: Some(node("here")), ..there(true) };
    for (came_at, old, is_newer) in [
        (None, there(true), false),
        (Some(499), there(true), true),
        (Some(500), there(true), false),
        (Some(499), there(false), false),
        (Some(499), here, false),
    ] {
        let mut claim = Claim::new(Request { came_at: came_at.map(ServerTime), ..request(None) });
        claim.begin();
        let step = claim.handle(NOW, found(&old, 3));
        assert_eq!(matches!(step, Step::Done(_)), is_newer, "{came_at:?} {old:?}");
        if is_newer {
            assert!(matches!(done(step), ClaimOutcome::GivenUp(given_up) if given_up.why == Stop::Preempted));
        }
    }
}

#[test]
fn a_claim_in_doubt_that_finds_another_leaves_its_will_to_it_and_may_not_be_refused() {
    let mut claim = claim(Some(will()));
    loaded(&mut claim, None, 0);
    assert_eq!(next(&mut claim, Input::NotNow), load(true));
    let given_up = given_up(&mut claim, found(&there(false), 5));
    assert_eq!((given_up.why, given_up.left.map(|left| left.is_written)), (Stop::Preempted, Some(false)));
}

#[test]
fn a_claim_that_was_refused_for_certain_goes_on_with_its_will_and_may_be_refused() {
    let mut claim = claim(Some(will()));
    loaded(&mut claim, None, 0);
    assert_eq!(next(&mut claim, Input::Fenced), load(false));
    let (state, expected) = put(next(&mut claim, found(&there(false), 5)));
    assert_eq!((state.will, expected), (Some(will()), Revision(5)));
    assert_eq!(next(&mut claim, Input::Fenced), load(false));
    assert_eq!(next(&mut claim, found(&there(true), 7)), Output::Trace);
    let given_up = given_up(&mut claim, Input::Cancelled);
    assert_eq!(given_up.left, None, "nothing of it was ever there");
}

#[test]
fn a_claim_gives_up_when_too_many_others_are_faster() {
    let mut claim = claim(None);
    loaded(&mut claim, None, 0);
    for revision in 1..50 {
        next(&mut claim, Input::Fenced);
        assert_eq!(put(next(&mut claim, found(&there(false), revision))).1, Revision(revision));
    }
    next(&mut claim, Input::Fenced);
    let given_up = given_up(&mut claim, found(&there(false), 50));
    assert_eq!((given_up.why, given_up.left), (Stop::Contended, None));
}

#[test]
fn a_claim_that_is_given_up_amid_its_write_is_in_doubt() {
    for answer in [None, Some(Input::Written(Revision(4)))] {
        let mut claim = claim(Some(will()));
        written(&mut claim, &there(true));
        let is_written = answer.is_some();
        if let Some(answer) = answer {
            next(&mut claim, answer);
        }
        let given_up = given_up(&mut claim, Input::Cancelled);
        assert_eq!(given_up.left.map(|left| left.is_written), Some(is_written));
    }
}

#[test]
fn a_second_try_that_is_under_way_is_in_doubt_as_the_first_was() {
    let mut claim = claim(None);
    written(&mut claim, &there(false));
    next(&mut claim, Input::Fenced);
    assert_eq!(put(next(&mut claim, found(&there(false), 3))).1, Revision(3));
    let given_up = given_up(&mut claim, Input::Cancelled);
    assert_eq!(given_up.left.map(|left| left.is_written), Some(false));
}

#[test]
fn whoever_is_to_stop_does_not_try_again_and_says_what_it_knows_of_its_first_try() {
    for (stop, why) in [(Input::Preempted, Stop::Preempted), (Input::ConnectionGone, Stop::ConnectionGone)] {
        let mut claim = claim(None);
        written(&mut claim, &there(false));
        assert_eq!(claim.handle(NOW, stop.clone()), Step::Wait);
        let in_doubt = given_up(&mut claim, Input::NotNow);
        assert_eq!((in_doubt.why, in_doubt.left.map(|left| left.is_written)), (why, Some(false)));

        let mut claim = self::claim(None);
        written(&mut claim, &there(false));
        assert_eq!(claim.handle(NOW, stop), Step::Wait);
        assert_eq!(next(&mut claim, Input::Fenced), load(false));
        let refused = given_up(&mut claim, found(&there(false), 3));
        assert_eq!((refused.why, refused.left), (why, None), "it was not written, and is not any more");
    }
}

#[test]
fn a_write_whose_answer_was_lost_is_known_by_what_is_there() {
    let mut claim = claim(None);
    let state = written(&mut claim, &there(false));
    assert_eq!(next(&mut claim, Input::NotNow), load(true));
    assert_eq!(claimed(&mut claim, found(&state, 4)).revision, Revision(4));
}

/// What a claim leaves that is given up when its record is written over this one, and that record.
fn left(old: &Record) -> (Record, Left<usize, Began>) {
    let mut claim = claim(Some(will()));
    let state = written(&mut claim, old);
    let _ = claim.handle(NOW, Input::Written(Revision(4)));
    let given_up = given_up(&mut claim, Input::Cancelled);
    let Some(left) = given_up.left else { unreachable!("{given_up:?}") };
    (state, left)
}

#[test]
fn what_a_refused_connect_has_left_is_what_was_there_before() {
    let old = State { will: Some(will()), former_wills: vec![former(300, 1)], ..there(true) };
    let (written, left) = left(&old);
    assert!(!left.is_will_marked, "its client has come back in time");
    let restored = left.restored(&written, NOW).expect("something was there").state;
    let due = Will { due_at: Some(ServerTime(31_010)), ..will() };
    let expected = State {
        epoch: Epoch(1_001),
        owner: None,
        connected: false,
        disconnected_at: Some(ServerTime(1_010)),
        will: Some(due),
        handover_from: vec![node("elsewhere")],
        ..old
    };
    assert_eq!(restored, expected);
}

#[test]
fn a_will_that_is_marked_in_what_a_refused_connect_has_left_is_published_from_there() {
    let (written, left) = left(&State { will: Some(will_at_once()), ..there(true) });
    assert!(left.is_will_marked);
    let restored = left.restored(&written, NOW).expect("something was there").state;
    assert_eq!((restored.will, restored.former_wills.len()), (None, 1));
}
