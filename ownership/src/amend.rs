//! The owner of a session writes its record: at SUBSCRIBE, UNSUBSCRIBE, and as a fence.

use super::pen::{Pen, Writing};
use super::state::{Revision, State};
use super::step::{Input, Step};

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AmendOutcome {
    /// It is written, with this revision.
    Written(Revision),
    /// Somebody else owns the session.
    Theirs,
    /// It is larger than can be written.
    TooLarge,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Amend<W, R> {
    state: State<W, R>,
    revision: Revision,
    pen: Pen<W, R>,
}

impl<W: Clone + PartialEq, R: Clone + PartialEq> Amend<W, R> {
    /// Writes `state` in the place of what its owner wrote last.
    #[must_use]
    pub const fn new(state: State<W, R>, revision: Revision) -> Self {
        Self { state, revision, pen: Pen::new(revision) }
    }

    /// The first thing to do.
    pub fn begin<P>(&mut self) -> Step<W, R, P, AmendOutcome> {
        Step::Do(self.pen.put(self.state.clone(), self.revision))
    }

    /// What happened, and what to do next.
    pub fn handle<P>(&mut self, input: Input<W, R, P>) -> Step<W, R, P, AmendOutcome> {
        if matches!(input, Input::TooNew) {
            return Step::Done(AmendOutcome::Theirs);
        }
        match self.pen.answer(input) {
            Writing::Next(output) => Step::Do(output),
            Writing::Ours(revision) => Step::Done(AmendOutcome::Written(revision)),
            Writing::TooLarge => Step::Done(AmendOutcome::TooLarge),
            // A write of ours from before, which was not answered.
            Writing::Theirs(Some(found), revision)
                if found.connected && found.epoch == self.state.epoch && found.owner == self.state.owner =>
            {
                Step::Do(self.pen.put(self.state.clone(), revision))
            }
            Writing::Theirs(..) => Step::Done(AmendOutcome::Theirs),
        }
    }
}
