//! The wills of a session that is not connected, each published once, and the session's end if it was to end with its
//! connection.
//!
//! ```text
//! Armed ─ mark ─▶ Firing ─ publish ─▶ in the log ─ clear, or end ─▶ gone from the record
//! ```

use super::pen::{Pen, Writing};
use super::state::{FormerWill, Revision, State, WillState};
use super::step::{Input, Output, WillOutcome};
use super::time::ServerTime;

/// How often a will may be refused before it is done with, each time after a pause and after the publisher's own patience.
const REFUSALS_MAX: u8 = 6;

#[derive(Clone, Copy, Debug)]
enum At {
    Marking,
    Publishing(usize),
    Clearing,
}

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct Finish<W, R> {
    state: State<W, R>,
    revision: Revision,
    at: At,
    refusals: u8,
}

/// How it stands.
pub(crate) enum Finishing<W, R, P> {
    /// To be done next.
    Next(Output<W, R, P>),
    /// All is done.
    Done,
    /// All but a will whose time has not come, in this record.
    Later(State<W, R>, Revision),
    /// Somebody else has written the record.
    Theirs(Option<State<W, R>>, Revision),
    /// The record is larger than can be written.
    TooLarge,
}

impl<W: Clone + PartialEq, R: Clone + PartialEq> Finish<W, R> {
    /// Begins with a record that is not connected and may not be written like this; `revision`: of what is there.
    pub(crate) fn begin<P>(
        mut state: State<W, R>,
        revision: Revision,
        now: ServerTime,
        pen: &mut Pen<W, R>,
    ) -> (Self, Output<W, R, P>) {
        state.fire_if_due(now);
        let output = pen.put(state.clone(), revision);
        (Self { state, revision, at: At::Marking, refusals: 0 }, output)
    }

    /// Begins with a record that is written, and whose wills that are due are marked.
    pub(crate) fn marked<P>(state: State<W, R>, revision: Revision, pen: &mut Pen<W, R>) -> (Self, Output<W, R, P>) {
        let mut finish = Self { state, revision, at: At::Marking, refusals: 0 };
        let output = finish.mark_done(revision, pen);
        (finish, output)
    }

    /// The answer to the last output.
    pub(crate) fn answer<P>(&mut self, input: Input<W, R, P>, pen: &mut Pen<W, R>) -> Finishing<W, R, P> {
        match self.at {
            At::Publishing(index) => self.published(index, &input, pen),
            At::Marking | At::Clearing => match pen.answer(input) {
                Writing::Next(output) => Finishing::Next(output),
                Writing::Theirs(state, revision) => Finishing::Theirs(state, revision),
                Writing::TooLarge => Finishing::TooLarge,
                Writing::Ours(revision) if matches!(self.at, At::Clearing) => match &self.state.will {
                    Some(_) => Finishing::Later(self.state.clone(), revision),
                    None => Finishing::Done,
                },
                Writing::Ours(revision) => Finishing::Next(self.mark_done(revision, pen)),
            },
        }
    }

    fn mark_done<P>(&mut self, revision: Revision, pen: &mut Pen<W, R>) -> Output<W, R, P> {
        self.revision = revision;
        let epoch = self.state.epoch;
        let fired = self.state.will.take_if(|will| will.state == WillState::Firing);
        self.state.former_wills.extend(fired.map(|will| FormerWill { epoch, will }));
        self.publish(0, false, pen)
    }

    fn publish<P>(&mut self, index: usize, again: bool, pen: &mut Pen<W, R>) -> Output<W, R, P> {
        self.at = At::Publishing(index);
        match self.state.former_wills.get(index) {
            Some(FormerWill { epoch, will }) => Output::PublishWill { will: will.clone(), epoch: *epoch, again },
            None => {
                self.at = At::Clearing;
                self.state.former_wills.clear();
                if self.state.will.is_none() {
                    self.state.owner = None;
                }
                let is_over = self.state.expiry_s == 0 && self.state.will.is_none();
                if is_over { pen.end(self.revision) } else { pen.put(self.state.clone(), self.revision) }
            }
        }
    }

    fn published<P>(&mut self, index: usize, input: &Input<W, R, P>, pen: &mut Pen<W, R>) -> Finishing<W, R, P> {
        let is_done = is_done(input, &mut self.refusals);
        Finishing::Next(self.publish(index + usize::from(is_done), !is_done, pen))
    }
}

/// Whether a will is done with, by the answer to its publication.
fn is_done<W, R, P>(input: &Input<W, R, P>, refusals: &mut u8) -> bool {
    let is_done = match input {
        Input::WillPublished(WillOutcome::Done) => true,
        Input::WillPublished(WillOutcome::Refused) => {
            *refusals += 1;
            *refusals >= REFUSALS_MAX
        }
        _ => false,
    };
    if is_done {
        // The next one has as many tries.
        *refusals = 0;
    }
    is_done
}
