//! The one way to write a record. A write whose fate is not known is looked into until the record tells:
//!
//! ```text
//! put ─ Written ─────────────────────────────────────▶ ours
//!  ▲ └─ Fenced, NotNow ─▶ load ┬ what we wrote ──────▶ ours
//!  │                        ▲  ├ older than we know ─┐
//!  │                        └──┼─────────────────────┘ (the leader has yet to catch up)
//!  └───────────────────────────┴ what was expected
//!                              └ anything else ──────▶ theirs
//! ```
//!
//! **Invariant:** nobody takes a session for somebody else's because of a refused write. The first try may have been
//! stored and its answer lost, so that the second one is refused; a leader that has just been elected may answer with less
//! than was acknowledged before.

use super::state::{Revision, State};
use super::step::{Input, Output};

/// Answers that know less than we do before one is believed: the server can have lost what we know, which it says for good.
const STALE_MAX: u8 = 12;

/// What is being written.
#[derive(Clone, Debug)]
enum Intent<W, R> {
    Put(State<W, R>),
    End,
}

/// Writes one record.
#[derive(Clone, Debug)]
pub(crate) struct Pen<W, R> {
    /// The newest revision that we have seen.
    known: Revision,
    expected: Revision,
    intent: Option<Intent<W, R>>,
    stale: u8,
    /// Refusals of this write; from the second one on there is a pause.
    refusals: u8,
    /// A try to write it is under way.
    is_writing: bool,
    /// A try to write it was not answered.
    is_in_doubt: bool,
}

/// How a write stands.
#[derive(Debug)]
pub(crate) enum Writing<W, R, P> {
    /// To be done next.
    Next(Output<W, R, P>),
    /// It is written, with this revision.
    Ours(Revision),
    /// Somebody else has written this.
    Theirs(Option<State<W, R>>, Revision),
    /// It is larger than can be written.
    TooLarge,
}

/// A record that was read.
pub(crate) enum Reading<W, R> {
    /// It is what is there.
    Known(Option<State<W, R>>, Revision),
    /// Whoever answered knows less than we do: it is to be read again, after a pause.
    Stale,
}

impl<W: Clone + PartialEq, R: Clone + PartialEq> Pen<W, R> {
    /// Nothing was written yet; `known`: the newest revision that was seen.
    pub(crate) const fn new(known: Revision) -> Self {
        Self { known, expected: known, intent: None, stale: 0, refusals: 0, is_writing: false, is_in_doubt: false }
    }

    /// Begins to write.
    pub(crate) fn put<P>(&mut self, state: State<W, R>, expected: Revision) -> Output<W, R, P> {
        self.expected = expected;
        debug_assert!(expected <= self.known, "what is written over was read or written");
        self.begin(Intent::Put(state.clone()));
        Output::Put { state: Box::new(state), expected }
    }

    /// Begins to end the session.
    pub(crate) fn end<P>(&mut self, expected: Revision) -> Output<W, R, P> {
        self.expected = expected;
        debug_assert!(expected <= self.known, "what is written over was read or written");
        self.begin(Intent::End);
        Output::End(expected)
    }

    fn begin(&mut self, intent: Intent<W, R>) {
        self.intent = Some(intent);
        (self.stale, self.refusals) = (0, 0);
        (self.is_writing, self.is_in_doubt) = (true, false);
    }

    /// The last output is not carried out.
    pub(crate) const fn stop(&mut self) {
        self.is_writing = false;
    }

    /// Whether what is being written may be there, or may have been: a try is under way, or was not answered.
    pub(crate) const fn may_be_there(&self) -> bool {
        self.is_writing || self.is_in_doubt
    }

    /// Takes what was read, when it knows as much as we do.
    pub(crate) fn read(&mut self, state: Option<State<W, R>>, revision: Revision) -> Reading<W, R> {
        if revision < self.known && self.stale < STALE_MAX {
            self.stale += 1;
            return Reading::Stale;
        }
        self.known = revision;
        self.stale = 0;
        Reading::Known(state, revision)
    }

    /// An answer to what was begun, or to what came of it.
    pub(crate) fn answer<P>(&mut self, input: Input<W, R, P>) -> Writing<W, R, P> {
        let was_writing = std::mem::take(&mut self.is_writing);
        self.is_in_doubt |= was_writing && matches!(input, Input::NotNow);
        match input {
            Input::Written(revision) => {
                self.known = self.known.max(revision);
                Writing::Ours(revision)
            }
            Input::TooLarge => Writing::TooLarge,
            Input::Loaded(state, revision) => match self.read(state, revision) {
                Reading::Stale => Writing::Next(Output::Load { again: true }),
                Reading::Known(state, revision) => self.judge(state, revision),
            },
            Input::Fenced => {
                self.refusals = self.refusals.saturating_add(1);
                Writing::Next(Output::Load { again: self.refusals > 1 })
            }
            _ => Writing::Next(Output::Load { again: true }),
        }
    }

    fn judge<P>(&mut self, state: Option<State<W, R>>, revision: Revision) -> Writing<W, R, P> {
        match (&self.intent, &state) {
            (Some(Intent::Put(intended)), Some(found)) if found == intended && revision > self.expected => {
                Writing::Ours(revision)
            }
            (Some(Intent::Put(intended)), _) if revision == self.expected => {
                let state = Box::new(intended.clone());
                self.again(Output::Put { state, expected: revision })
            }
            (Some(Intent::End), None) => Writing::Ours(revision),
            (Some(Intent::End), Some(_)) if revision == self.expected => self.again(Output::End(revision)),
            _ => Writing::Theirs(state, revision),
        }
    }

    /// One more try.
    const fn again<P>(&mut self, output: Output<W, R, P>) -> Writing<W, R, P> {
        self.is_writing = true;
        Writing::Next(output)
    }
}
