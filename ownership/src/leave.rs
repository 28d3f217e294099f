//! A connection has ended: its progress is saved, its will published, or left to wait for its time, and its record written
//! without an owner; or the session ends with it.

use super::finish::{Finish, Finishing};
use super::pen::{Pen, Reading, Writing};
use super::state::{Due, Revision, State};
use super::step::{Input, Output, Step};
use super::time::Now;

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaveOutcome<W, R> {
    /// The session is in order, or over.
    Done,
    /// It is in order but for its will, which is not due yet: for [`super::Failover::due`].
    Later(State<W, R>, Revision),
    /// Somebody else owns it, or has adopted it, and takes care of the rest.
    Theirs,
    /// Its record or its progress is larger than can be written.
    TooLarge,
}

#[derive(Clone, Debug)]
enum At<W, R> {
    Saving,
    Checking,
    Writing(Option<State<W, R>>),
    Finishing(Finish<W, R>),
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Leave<W, R, P> {
    /// As the connection has it.
    state: State<W, R>,
    revision: Revision,
    progress: P,
    /// Whether its will is to be published.
    is_will_due: bool,
    pen: Pen<W, R>,
    at: At<W, R>,
    checks: u8,
}

impl<W: Clone + PartialEq, R: Clone + PartialEq, P: Clone> Leave<W, R, P> {
    /// The end of the owner of a record, with the expiry that its client has said last.
    #[must_use]
    pub const fn new(state: State<W, R>, revision: Revision, progress: P, is_will_due: bool) -> Self {
        Self { state, revision, progress, is_will_due, pen: Pen::new(revision), at: At::Saving, checks: 0 }
    }

    /// The first thing to do.
    pub fn begin(&mut self, now: Now) -> Step<W, R, P, LeaveOutcome<W, R>> {
        if self.state.expiry_s == 0 {
            return self.write(now);
        }
        self.at = At::Saving;
        let mut last = self.state.clone();
        last.disconnect(now.stamp);
        let (progress, ttl_s) = (Some(self.progress.clone()), last.progress_ttl_s(now.earliest));
        Step::Do(Output::PutProgress { progress, fence: self.revision, ttl_s })
    }

    /// What happened, and what to do next.
    pub fn handle(&mut self, now: Now, input: Input<W, R, P>) -> Step<W, R, P, LeaveOutcome<W, R>> {
        match (&mut self.at, input) {
            (_, Input::Preempted | Input::ConnectionGone | Input::Cancelled) => Step::Wait,
            (_, Input::TooNew) => Step::Done(LeaveOutcome::Theirs),
            (At::Saving, Input::ProgressSaved { .. }) => self.write(now),
            (At::Saving, Input::TooLarge) => Step::Done(LeaveOutcome::TooLarge),
            // By somebody else, or by a write of ours that was not answered and was done all the same.
            (At::Saving, Input::Fenced) => {
                self.at = At::Checking;
                self.checks = self.checks.saturating_add(1);
                Step::Do(Output::Load { again: self.checks > 1 })
            }
            (At::Saving, _) => self.begin(now),
            (At::Checking, Input::Loaded(state, revision)) => match self.pen.read(state, revision) {
                Reading::Stale => Step::Do(Output::Load { again: true }),
                Reading::Known(state, revision) => self.found(now, state, revision),
            },
            (At::Checking, _) => Step::Do(Output::Load { again: true }),
            (At::Writing(_), input) => match self.pen.answer(input) {
                Writing::Next(output) => Step::Do(output),
                Writing::Theirs(state, revision) => self.found(now, state, revision),
                Writing::TooLarge => Step::Done(LeaveOutcome::TooLarge),
                Writing::Ours(revision) => match std::mem::replace(&mut self.at, At::Checking) {
                    At::Writing(Some(later)) => Step::Done(LeaveOutcome::Later(later, revision)),
                    _ => Step::Done(LeaveOutcome::Done),
                },
            },
            (At::Finishing(finish), input) => match finish.answer(input, &mut self.pen) {
                Finishing::Next(output) => Step::Do(output),
                Finishing::Done => Step::Done(LeaveOutcome::Done),
                Finishing::Later(state, revision) => Step::Done(LeaveOutcome::Later(state, revision)),
                Finishing::Theirs(state, revision) => self.found(now, state, revision),
                Finishing::TooLarge => Step::Done(LeaveOutcome::TooLarge),
            },
        }
    }

    /// What is there in the place of what was expected.
    fn found(&mut self, now: Now, state: Option<State<W, R>>, revision: Revision) -> Step<W, R, P, LeaveOutcome<W, R>> {
        let is_ours =
            |found: &State<W, R>| found.connected && found.epoch == self.state.epoch && found.owner == self.state.owner;
        let Some(found) = state.filter(is_ours) else { return Step::Done(LeaveOutcome::Theirs) };
        (self.state.will, self.state.former_wills) = (found.will, found.former_wills);
        self.revision = revision;
        self.begin(now)
    }

    fn write(&mut self, now: Now) -> Step<W, R, P, LeaveOutcome<W, R>> {
        let mut last = self.state.clone();
        (last.connected, last.disconnected_at) = (false, Some(now.stamp));
        let due = last.will.as_ref().filter(|_| self.is_will_due).map(|will| will.due(last.expiry_s));
        if due.is_none() {
            last.will = None;
        }
        if let (Some(Due::In(delay)), Some(will)) = (due, &mut last.will) {
            // The owner is whose timer it is: when we are gone, somebody else's.
            will.due_at = Some(now.stamp.after(delay));
            if last.former_wills.is_empty() {
                self.at = At::Writing(Some(last.clone()));
                return Step::Do(self.pen.put(last, self.revision));
            }
        }
        if last.has_will() {
            let (finish, output) = Finish::begin(last, self.revision, now.earliest, &mut self.pen);
            self.at = At::Finishing(finish);
            return Step::Do(output);
        }
        self.at = At::Writing(None);
        last.owner = None;
        let is_over = last.expiry_s == 0;
        Step::Do(if is_over { self.pen.end(self.revision) } else { self.pen.put(last, self.revision) })
    }
}
