//! A session whose connection is gone is put in order: it is not connected any more, its expiry runs, its wills are
//! published, each at its time, and it ends if it was to end with its connection. All who see that a node is gone try, and
//! compare-and-swap decides.
//!
//! **Invariant:** whoever is written into the record as the one who has more to do goes on until it is done or somebody
//! else's: nobody looks after the sessions of a node that is alive.

use super::claim::Restored;
use super::finish::{Finish, Finishing};
use super::pen::{Pen, Reading, Writing};
use super::state::{Epoch, NodeId, Revision, State, Trace, WillState};
use super::step::{Input, Output, Step};
use super::time::Now;

/// Progress is given another life time so often; without it, it goes with its last one.
const RENEWALS_MAX: u8 = 5;

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailoverOutcome {
    /// It is in order.
    Done,
    /// It was over, or has ended.
    Ended,
    /// Somebody else has it: its client came back, or another sidecar was faster.
    Theirs,
    /// Its record is larger than can be written.
    TooLarge,
}

#[derive(Clone, Debug)]
enum At<W, R> {
    Begin,
    Judging,
    Ending,
    Adopting,
    Renewing(u8),
    Waiting,
    Reading,
    Finishing(Finish<W, R>),
}

const fn built_on<W, R>(state: &State<W, R>, revision: Revision) -> Option<(Epoch, Revision)> {
    if state.connected { Some((state.epoch, revision)) } else { None }
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Failover<W, R> {
    state: State<W, R>,
    revision: Revision,
    /// Who is in the record as long as there is something to do.
    node: Option<NodeId>,
    pen: Pen<W, R>,
    at: At<W, R>,
    is_adopted: bool,
    /// There is progress of it, as far as we know.
    has_progress: bool,
    /// Records on which it is built, whose clients were connected: they may be of the past.
    built_on: [Option<(Epoch, Revision)>; 2],
}

impl<W: Clone + PartialEq, R: Clone + PartialEq> Failover<W, R> {
    /// A session whose owner is gone, as it was read. `node`: ours.
    #[must_use]
    pub const fn new(state: State<W, R>, revision: Revision, node: NodeId) -> Self {
        Self::of(state, revision, Some(node))
    }

    const fn of(state: State<W, R>, revision: Revision, node: Option<NodeId>) -> Self {
        let built_on = [built_on(&state, revision), None];
        let pen = Pen::new(revision);
        Self { state, revision, node, pen, at: At::Begin, is_adopted: false, has_progress: true, built_on }
    }

    /// A session as it was before a claim that was given up, whose record has this revision.
    #[must_use]
    pub fn restoring(restored: Restored<W, R>, revision: Revision, node: NodeId) -> Self {
        let Restored { state, found, written } = restored;
        Self { built_on: [Some((written, revision)), Some(found)], ..Self::new(state, revision, node) }
    }

    /// A session that is ours to finish, as it was written: what is left is to wait for its will.
    #[must_use]
    pub fn due(state: State<W, R>, revision: Revision) -> Self {
        let node = state.owner.clone();
        Self { at: At::Waiting, is_adopted: true, ..Self::of(state, revision, node) }
    }

    /// Whether the record says by now that the client is not connected, or the session is over: what follows takes its time.
    #[must_use]
    pub const fn is_adopted(&self) -> bool {
        self.is_adopted
    }

    /// The first thing to do.
    pub fn begin<P>(&mut self, now: Now) -> Step<W, R, P, FailoverOutcome> {
        if matches!(self.at, At::Waiting) {
            return Step::Do(Output::Wait(self.state.due_at(now.earliest)));
        }
        if self.state.has_expired(now.certain) && !self.state.has_will() {
            return self.end();
        }
        if self.built_on.iter().any(Option::is_some) {
            self.at = At::Judging;
            return Step::Do(Output::Trace);
        }
        self.adopt(now)
    }

    /// What happened, and what to do next.
    pub fn handle<P>(&mut self, now: Now, input: Input<W, R, P>) -> Step<W, R, P, FailoverOutcome> {
        match (&mut self.at, input) {
            (_, Input::Preempted | Input::ConnectionGone | Input::Cancelled) => Step::Wait,
            (_, Input::TooNew) => Step::Done(FailoverOutcome::Theirs),
            (At::Begin, _) => self.begin(now),
            (At::Judging, Input::Traced(trace)) => {
                let is_past = |(epoch, revision): &(Epoch, Revision)| epoch.is_of_the_past(*revision, trace);
                if self.built_on.iter().flatten().any(is_past) {
                    return self.end();
                }
                self.has_progress = matches!(trace, Some((_, Trace::Progress(_))));
                self.adopt(now)
            }
            // Read again, and judged by what is there then.
            (At::Judging, _) => {
                self.at = At::Reading;
                Step::Do(Output::Load { again: true })
            }
            (At::Ending | At::Adopting, input) => self.written(now, input),
            (At::Renewing(tries), input) => {
                *tries += 1;
                match input {
                    Input::NotNow if *tries < RENEWALS_MAX => self.renew(now),
                    // The next read tells whether somebody else has the session.
                    _ => self.wait(now),
                }
            }
            (At::Waiting, Input::Time) => {
                self.at = At::Reading;
                Step::Do(Output::Load { again: false })
            }
            (At::Waiting, _) => Step::Wait,
            (At::Reading, Input::Loaded(state, revision)) => match self.pen.read(state, revision) {
                Reading::Stale => Step::Do(Output::Load { again: true }),
                Reading::Known(state, revision) => self.read(now, state, revision),
            },
            (At::Reading, _) => Step::Do(Output::Load { again: true }),
            (At::Finishing(finish), input) => match finish.answer(input, &mut self.pen) {
                Finishing::Next(output) => Step::Do(output),
                Finishing::Done => Step::Done(FailoverOutcome::Done),
                Finishing::Later(state, revision) => {
                    (self.state, self.revision) = (state, revision);
                    self.wait(now)
                }
                Finishing::Theirs(..) => Step::Done(FailoverOutcome::Theirs),
                Finishing::TooLarge => Step::Done(FailoverOutcome::TooLarge),
            },
        }
    }

    fn end<P>(&mut self) -> Step<W, R, P, FailoverOutcome> {
        self.at = At::Ending;
        Step::Do(self.pen.end(self.revision))
    }

    fn adopt<P>(&mut self, now: Now) -> Step<W, R, P, FailoverOutcome> {
        self.state.disconnect(now.stamp);
        self.state.fire_if_due(now.earliest);
        // Ours as long as there is something to do for it, so that somebody else does it when we are gone.
        self.state.owner = self.node.clone().filter(|_| self.state.is_unfinished());
        self.at = At::Adopting;
        Step::Do(self.pen.put(self.state.clone(), self.revision))
    }

    fn written<P>(&mut self, now: Now, input: Input<W, R, P>) -> Step<W, R, P, FailoverOutcome> {
        match self.pen.answer(input) {
            Writing::Next(output) => Step::Do(output),
            Writing::Theirs(..) => Step::Done(FailoverOutcome::Theirs),
            Writing::TooLarge => Step::Done(FailoverOutcome::TooLarge),
            Writing::Ours(_) if matches!(self.at, At::Ending) => {
                self.is_adopted = true;
                Step::Done(FailoverOutcome::Ended)
            }
            Writing::Ours(revision) => {
                (self.revision, self.is_adopted) = (revision, true);
                self.at = At::Renewing(0);
                self.renew(now)
            }
        }
    }

    /// Progress that stays for as long as the record does.
    fn renew<P>(&mut self, now: Now) -> Step<W, R, P, FailoverOutcome> {
        if self.state.expiry_s == 0 || !self.has_progress {
            return self.wait(now);
        }
        let (fence, ttl_s) = (self.revision, self.state.progress_ttl_s(now.earliest));
        Step::Do(Output::PutProgress { progress: None, fence, ttl_s })
    }

    fn wait<P>(&mut self, now: Now) -> Step<W, R, P, FailoverOutcome> {
        if !self.state.is_unfinished() {
            return Step::Done(FailoverOutcome::Done);
        }
        let is_armed = self.state.will.as_ref().is_some_and(|will| will.state == WillState::Armed);
        if is_armed && self.state.former_wills.is_empty() {
            self.at = At::Waiting;
            return Step::Do(Output::Wait(self.state.due_at(now.earliest)));
        }
        let (finish, output) = Finish::marked(self.state.clone(), self.revision, &mut self.pen);
        self.at = At::Finishing(finish);
        Step::Do(output)
    }

    /// What is there before something is done for it.
    fn read<P>(&mut self, now: Now, state: Option<State<W, R>>, revision: Revision) -> Step<W, R, P, FailoverOutcome> {
        let is_same = |found: &State<W, R>| found.epoch == self.state.epoch && found.owner == self.state.owner;
        let Some(state) = state.filter(is_same) else { return Step::Done(FailoverOutcome::Theirs) };
        self.built_on = [built_on(&state, revision), None];
        (self.state, self.revision) = (state, revision);
        if !self.is_adopted {
            return self.begin(now);
        }
        if self.state.connected {
            return Step::Done(FailoverOutcome::Theirs);
        }
        let (finish, output) = Finish::begin(self.state.clone(), revision, now.earliest, &mut self.pen);
        self.at = At::Finishing(finish);
        Step::Do(output)
    }
}
