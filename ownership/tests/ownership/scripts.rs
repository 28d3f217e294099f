//! Single decisions of the machines, told step by step: what the simulation would find only with luck.

use std::fmt::Debug;

use mqtt_ownership::{
    Epoch, FormerWill, Input, NodeId, Now, Output, Revision, ServerTime, State, Step, Trace, Will, WillOutcome,
    WillState,
};

use super::node::{In, Out};
use super::store::{Began, Progress, Record};

mod amend;
mod claim;
mod failover;
mod leave;
mod pen;
mod wills;

const NOW: Now = Now { earliest: ServerTime(1_000), certain: ServerTime(990), stamp: ServerTime(1_010) };

fn node(name: &str) -> NodeId {
    NodeId(name.to_owned())
}

fn will() -> Will<usize> {
    Will { delay_s: 30, state: WillState::Armed, due_at: None, message: 7 }
}

/// One without a delay.
fn will_at_once() -> Will<usize> {
    Will { delay_s: 0, ..will() }
}

fn firing(message: usize) -> Will<usize> {
    Will { state: WillState::Firing, message, ..will_at_once() }
}

fn former(epoch: u64, message: usize) -> FormerWill<usize> {
    FormerWill { epoch: Epoch(epoch), will: firing(message) }
}

fn there(connected: bool) -> Record {
    State {
        epoch: Epoch(500),
        first_epoch: Epoch(400),
        owner: Some(node("elsewhere")),
        connected,
        since: ServerTime(500),
        expiry_s: 60,
        disconnected_at: (!connected).then_some(ServerTime(900)),
        will: None,
        former_wills: Vec::new(),
        handover_from: Vec::new(),
        rest: Began(4),
    }
}

type Told<D> = Step<usize, Began, Progress, D>;

/// What is to be done.
fn to_do<D: Debug>(step: Told<D>) -> Out {
    match step {
        Step::Do(output) => output,
        step => unreachable!("{step:?}"),
    }
}

/// What became of it.
fn done<D: Debug>(step: Told<D>) -> D {
    match step {
        Step::Done(outcome) => outcome,
        step => unreachable!("{step:?}"),
    }
}

/// What is written, and what is expected to be there.
fn put(output: Out) -> (Record, Revision) {
    match output {
        Output::Put { state, expected } => (*state, expected),
        output => unreachable!("{output:?}"),
    }
}

fn load(again: bool) -> Out {
    Output::Load { again }
}

fn found(record: &Record, revision: u64) -> In {
    Input::Loaded(Some(record.clone()), Revision(revision))
}

fn traced(revision: u64, trace: Trace) -> In {
    Input::Traced(Some((Revision(revision), trace)))
}

fn publish(will: Will<usize>, epoch: u64, again: bool) -> Out {
    Output::PublishWill { will, epoch: Epoch(epoch), again }
}

const fn published(outcome: WillOutcome) -> In {
    Input::WillPublished(outcome)
}
