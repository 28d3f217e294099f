//! A CONNECT makes its connection the owner of its session. The newcomer wins, always [MQTT-3.1.4-3].
//!
//! ```text
//! read the record ─▶ write the next epoch with ourselves as the owner ─▶ ask the old owners, save what they hand over
//!        ▲                 │ somebody else was faster                        ─▶ publish wills that are due ─▶ clear them
//!        └─────────────────┘
//! ```

use super::pen::{Pen, Reading, Writing};
use super::state::{Epoch, NodeId, Rest, Revision, State, Will};
use super::step::{Input, Output, Step, WillOutcome};
use super::time::{Now, ServerTime};

/// How often a CONNECT tries to become the owner against others that want the same client id.
const CLAIMS_MAX: u8 = 50;

/// A will that is refused so often does not hold up the client: it stays in the record until the connection ends.
const REFUSALS_MAX: u8 = 3;

/// What a CONNECT wants.
#[derive(Clone, Debug)]
pub struct Request<W, R> {
    /// The node that it came to.
    pub node: NodeId,
    /// Whether it begins a session, whatever is there.
    pub clean_start: bool,
    /// Session Expiry Interval, seconds.
    pub expiry_s: u32,
    /// Its will.
    pub will: Option<Will<W>>,
    /// The rest of its record, when it begins a session.
    pub rest: R,
    /// When the client came, if that is longer ago: whoever came later elsewhere keeps the
    /// client id.
    pub came_at: Option<ServerTime>,
}

/// Why a claim was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Somebody newer wants the client id, or has it.
    Preempted,
    /// The connection is gone.
    ConnectionGone,
    /// It takes too long, or we are about to end.
    Cancelled,
    /// Too many others want the client id.
    Contended,
    /// The record is larger than can be written.
    TooLarge,
    /// The record was written by a newer version.
    TooNew,
    /// The session is somebody else's.
    OfAnother,
}

/// The owner of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claimed<W, R, P> {
    /// The record, as it is written, but for nodes that have been asked.
    pub state: State<W, R>,
    /// Its revision.
    pub revision: Revision,
    /// The session was there before.
    pub is_present: bool,
    /// What an old owner has handed over.
    pub progress: Option<P>,
    /// What was there before, in case that it is given up all the same.
    pub left: Left<W, R>,
}

/// What a claim that was given up may have left in the place of what was there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Left<W, R> {
    /// The epoch of the record.
    pub epoch: Epoch,
    /// It is known to be written.
    pub is_written: bool,
    /// The session was there before.
    pub is_present: bool,
    /// What was there before, and its revision.
    pub found: Option<(State<W, R>, Revision)>,
    /// The will of that was marked in this record: it is published from here, if it is not yet.
    pub is_will_marked: bool,
}

/// What was there before a claim that was given up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored<W, R> {
    /// What the session is to be.
    pub state: State<W, R>,
    /// The epoch and the revision of what was there.
    pub(crate) found: (Epoch, Revision),
    /// The epoch of the record that the claim has left.
    pub(crate) written: Epoch,
}

/// A claim that was given up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GivenUp<W, R, P> {
    /// Why.
    pub why: Stop,
    /// What it may have left; `None`: the session is as it was. With it others may have seen a record of it, and done
    /// something for it: nobody may tell its client that it was refused, for that says that its will is not published.
    pub left: Option<Left<W, R>>,
    /// What an old owner has handed over and is not saved, with its fence.
    pub unsaved: Option<(P, Revision)>,
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClaimOutcome<W, R, P> {
    /// The connection owns its session.
    Claimed(Box<Claimed<W, R, P>>),
    /// It does not.
    GivenUp(Box<GivenUp<W, R, P>>),
}

#[derive(Clone, Debug)]
enum At<W, R, P> {
    Loading,
    Judging(State<W, R>, Revision),
    Writing,
    Asking,
    Saving(P),
    Publishing(usize),
    Clearing,
}

/// A record that is written or being written.
#[derive(Clone, Debug)]
struct Mine<W, R> {
    state: State<W, R>,
    is_present: bool,
    /// The will of the record before is marked in this one.
    is_will_marked: bool,
    /// Of the record, once it is written.
    revision: Option<Revision>,
}

impl<W, R> Mine<W, R> {
    const fn left(&self, found: Option<(State<W, R>, Revision)>) -> Left<W, R> {
        Left {
            epoch: self.state.epoch,
            is_written: self.revision.is_some(),
            is_present: self.is_present,
            found,
            is_will_marked: self.is_will_marked,
        }
    }
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Claim<W, R, P> {
    request: Request<W, R>,
    pen: Pen<W, R>,
    at: At<W, R, P>,
    found: Option<(State<W, R>, Revision)>,
    mine: Option<Mine<W, R>>,
    progress: Option<P>,
    /// The record is to be written once more: wills are published, or the save of what was handed over may arrive again,
    /// which a new record shuts out.
    is_stale: bool,
    stop: Option<Stop>,
    tries: u8,
    refusals: u8,
}

type Next<W, R, P> = Step<W, R, P, ClaimOutcome<W, R, P>>;

impl<W: Clone + PartialEq, R: Rest, P: Clone> Claim<W, R, P> {
    /// The claim of a CONNECT.
    #[must_use]
    pub const fn new(request: Request<W, R>) -> Self {
        Self {
            request,
            pen: Pen::new(Revision(0)),
            at: At::Loading,
            found: None,
            mine: None,
            progress: None,
            is_stale: false,
            stop: None,
            tries: 0,
            refusals: 0,
        }
    }

    /// The epoch of the record and its revision, once it is written.
    #[must_use]
    pub fn written_at(&self) -> Option<(Epoch, Revision)> {
        self.mine.as_ref().and_then(|mine| Some((mine.state.epoch, mine.revision?)))
    }

    /// The first thing to do.
    pub const fn begin(&mut self) -> Next<W, R, P> {
        Step::Do(Output::Load { again: false })
    }

    /// What happened, and what to do next.
    pub fn handle(&mut self, now: Now, input: Input<W, R, P>) -> Next<W, R, P> {
        match input {
            Input::Preempted => {
                self.stop = Some(Stop::Preempted);
                return Step::Wait;
            }
            Input::ConnectionGone => {
                self.stop.get_or_insert(Stop::ConnectionGone);
                return Step::Wait;
            }
            Input::Cancelled => return self.give_up(Stop::Cancelled),
            Input::TooNew => return self.give_up(Stop::TooNew),
            Input::OfAnother => return self.give_up(Stop::OfAnother),
            _ => {}
        }
        match (&self.at, input) {
            (At::Loading, Input::Loaded(state, revision)) => match self.pen.read(state, revision) {
                Reading::Stale => Step::Do(Output::Load { again: true }),
                Reading::Known(state, revision) => self.loaded(now, state, revision),
            },
            (At::Loading, _) => self.load_again(),
            (At::Judging(old, revision), Input::Traced(trace)) => {
                let (old, revision) = (Some(old.clone()), *revision);
                let old = old.filter(|old| !old.is_of_the_past(revision, trace));
                self.write(now, old, revision)
            }
            (At::Judging(..), _) => self.load_again(),
            (At::Writing, input) => self.written(now, input),
            (At::Asking, Input::HandedOver(progress)) => self.handed_over(progress),
            (At::Asking, _) => self.handed_over(None),
            (At::Saving(progress), input) => {
                let progress = progress.clone();
                self.saved(progress, &input)
            }
            (At::Publishing(index), input) => {
                let index = *index;
                self.published(index, &input)
            }
            (At::Clearing, input) => self.cleared(input),
        }
    }

    fn load_again(&mut self) -> Next<W, R, P> {
        if let Some(stop) = self.stop {
            return self.give_up(stop);
        }
        self.at = At::Loading;
        Step::Do(Output::Load { again: true })
    }

    fn loaded(&mut self, now: Now, old: Option<State<W, R>>, revision: Revision) -> Next<W, R, P> {
        if self.pen.may_be_there() {
            // Whoever wrote this one may have seen ours, and done for it what there was to do; or it is there yet.
            return self.give_up(self.stop.unwrap_or(Stop::Preempted));
        }
        if old.as_ref().is_some_and(|old| self.is_newer(old)) {
            self.stop = Some(Stop::Preempted);
        }
        match (self.stop, old) {
            (Some(stop), _) => self.give_up(stop),
            (None, Some(old)) if old.connected => {
                self.at = At::Judging(old, revision);
                Step::Do(Output::Trace)
            }
            (None, old) => self.write(now, old, revision),
        }
    }

    /// Whether this is the record of somebody who came later elsewhere.
    fn is_newer(&self, old: &State<W, R>) -> bool {
        let came_later = self.request.came_at.is_some_and(|came_at| old.since > came_at);
        old.connected && old.owner.as_ref() != Some(&self.request.node) && came_later
    }

    fn write(&mut self, now: Now, old: Option<State<W, R>>, revision: Revision) -> Next<W, R, P> {
        if let Some(stop) = self.stop {
            return self.give_up(stop);
        }
        let mine = self.record(now, old.as_ref());
        let output = self.pen.put(mine.state.clone(), revision);
        (self.mine, self.found, self.at) = (Some(mine), old.map(|old| (old, revision)), At::Writing);
        Step::Do(output)
    }

    fn record(&self, now: Now, old: Option<&State<W, R>>) -> Mine<W, R> {
        let Request { node, clean_start, expiry_s, will, rest, .. } = &self.request;
        // Never one that was there, not even after its session was forgotten, or when what the server has is an older
        // record than the last one.
        let epoch = old.map_or(Epoch(0), |old| old.epoch.next()).max(Epoch(now.earliest.0));
        // [MQTT-3.1.2-4, -5, -6], [MQTT-3.1.4-4]
        let resumed = old.filter(|old| !clean_start && old.expiry_s > 0 && !old.has_expired(now.earliest));
        let state = State {
            epoch,
            first_epoch: resumed.map_or(epoch, |old| old.first_epoch),
            owner: Some(node.clone()),
            connected: true,
            since: now.earliest,
            expiry_s: *expiry_s,
            disconnected_at: None,
            // [MQTT-3.1.2-7]; without one there is none to publish [MQTT-3.1.2-12 of 3.1.1].
            will: will.clone(),
            former_wills: old.map(|old| old.former_wills(resumed.is_some(), now.earliest)).unwrap_or_default(),
            handover_from: old.map(|old| old.handover_from(node)).unwrap_or_default(),
            rest: resumed.map_or_else(|| rest.clone(), |old| rest.clone().resumed(&old.rest)),
        };
        let is_will_marked = state.former_wills.iter().any(|former| Some(former.epoch) == old.map(|old| old.epoch));
        Mine { state, is_present: resumed.is_some(), is_will_marked, revision: None }
    }

    fn written(&mut self, now: Now, input: Input<W, R, P>) -> Next<W, R, P> {
        let is_in_doubt = matches!(input, Input::NotNow);
        match self.pen.answer(input) {
            Writing::Ours(revision) => self.owned(revision),
            Writing::Theirs(state, revision) => {
                self.tries += 1;
                if self.tries >= CLAIMS_MAX {
                    return self.give_up(Stop::Contended);
                }
                self.loaded(now, state, revision)
            }
            Writing::TooLarge => self.give_up(Stop::TooLarge),
            // Whoever is to stop does not try again; whether it is written is for others to see.
            Writing::Next(output) => match self.stop {
                Some(stop) if is_in_doubt || matches!(output, Output::Put { .. }) => {
                    self.pen.stop();
                    self.give_up(stop)
                }
                _ => Step::Do(output),
            },
        }
    }

    /// The record is ours. What follows is done even when somebody newer has come: nobody else knows of the old owner.
    fn owned(&mut self, revision: Revision) -> Next<W, R, P> {
        let Some(mine) = &mut self.mine else { return self.give_up(Stop::Preempted) };
        mine.revision = Some(revision);
        let (nodes, epoch) = (mine.state.handover_from.clone(), mine.state.epoch);
        if nodes.is_empty() {
            return self.handed_over(None);
        }
        self.at = At::Asking;
        let last = self.found.as_ref().map_or(epoch, |(found, _)| found.epoch);
        Step::Do(Output::AskNodes { nodes, before: epoch, last })
    }

    fn handed_over(&mut self, progress: Option<P>) -> Next<W, R, P> {
        let Some(mine) = &mut self.mine else { return self.give_up(Stop::Preempted) };
        mine.state.handover_from.clear();
        match progress.filter(|_| mine.is_present) {
            Some(progress) => self.save(progress),
            None => self.publish(0, false),
        }
    }

    fn save(&mut self, progress: P) -> Next<W, R, P> {
        let fence = self.revision();
        self.at = At::Saving(progress.clone());
        Step::Do(Output::PutProgress { progress: Some(progress), fence, ttl_s: None })
    }

    fn saved(&mut self, progress: P, input: &Input<W, R, P>) -> Next<W, R, P>
    where
        P: Clone,
    {
        match (input, self.stop) {
            (Input::ProgressSaved { again }, _) => {
                self.is_stale |= *again;
                self.progress = Some(progress);
                // Nothing is unsaved any more, whoever has come meanwhile.
                self.at = At::Publishing(0);
                self.publish(0, false)
            }
            // Kept in memory; the connection saves it, or ends in trying.
            (Input::TooLarge, _) => {
                self.progress = Some(progress);
                self.publish(0, false)
            }
            (Input::Fenced, _) => self.give_up(Stop::Preempted),
            (_, Some(Stop::Preempted)) => self.give_up(Stop::Preempted),
            _ => {
                self.is_stale = true;
                self.save(progress)
            }
        }
    }

    fn publish(&mut self, index: usize, again: bool) -> Next<W, R, P> {
        if self.stop == Some(Stop::Preempted) {
            return self.give_up(Stop::Preempted);
        }
        self.at = At::Publishing(index);
        let Some(mine) = &mut self.mine else { return self.give_up(Stop::Preempted) };
        if let Some(former) = mine.state.former_wills.get(index) {
            return Step::Do(Output::PublishWill { will: former.will.clone(), epoch: former.epoch, again });
        }
        if !self.is_stale {
            return self.claimed();
        }
        let (state, expected) = (mine.state.clone(), self.revision());
        self.at = At::Clearing;
        Step::Do(self.pen.put(state, expected))
    }

    fn published(&mut self, index: usize, input: &Input<W, R, P>) -> Next<W, R, P> {
        match input {
            Input::WillPublished(WillOutcome::Done) => {
                let wills = self.mine.as_mut().map(|mine| &mut mine.state.former_wills);
                if let Some(wills) = wills.filter(|wills| index < wills.len()) {
                    wills.remove(index);
                }
                (self.is_stale, self.refusals) = (true, 0);
                self.publish(index, false)
            }
            Input::WillPublished(WillOutcome::Refused) => {
                self.refusals += 1;
                if self.refusals < REFUSALS_MAX {
                    return self.publish(index, true);
                }
                self.refusals = 0;
                self.publish(index + 1, false)
            }
            _ => self.publish(index, true),
        }
    }

    fn cleared(&mut self, input: Input<W, R, P>) -> Next<W, R, P> {
        match self.pen.answer(input) {
            Writing::Ours(revision) => {
                if let Some(mine) = &mut self.mine {
                    mine.revision = Some(revision);
                }
                self.claimed()
            }
            Writing::Next(output) => Step::Do(output),
            Writing::Theirs(..) => self.give_up(Stop::Preempted),
            Writing::TooLarge => self.give_up(Stop::TooLarge),
        }
    }

    fn revision(&self) -> Revision {
        self.mine.as_ref().and_then(|mine| mine.revision).unwrap_or_default()
    }

    fn claimed(&mut self) -> Next<W, R, P> {
        let revision = self.revision();
        let Some(mine) = self.mine.take() else { return self.give_up(Stop::Preempted) };
        let (progress, left) = (self.progress.take(), mine.left(self.found.take()));
        let (state, is_present) = (mine.state, mine.is_present);
        Step::Done(ClaimOutcome::Claimed(Box::new(Claimed { state, revision, is_present, progress, left })))
    }

    fn give_up(&mut self, why: Stop) -> Next<W, R, P> {
        let fence = self.revision();
        let unsaved = match &self.at {
            At::Saving(progress) => Some((progress.clone(), fence)),
            _ => None,
        };
        let found = self.found.take();
        let may_be_there = |mine: &Mine<W, R>| mine.revision.is_some() || self.pen.may_be_there();
        let left = self.mine.take().filter(may_be_there).map(|mine| mine.left(found));
        Step::Done(ClaimOutcome::GivenUp(Box::new(GivenUp { why, left, unsaved })))
    }
}

impl<W: Clone, R: Clone> Left<W, R> {
    /// What the session is to be instead of the record that a refused CONNECT has left: what was there before, as far as
    /// it can be brought back. `None`: nothing was there.
    #[must_use]
    pub fn restored(&self, written: &State<W, R>, now: Now) -> Option<Restored<W, R>> {
        let (mut state, revision) = self.found.clone()?;
        let found = (state.epoch, revision);
        state.disconnect(now.stamp);
        state.epoch = written.epoch.next();
        state.owner = None;
        state.former_wills.clone_from(&written.former_wills);
        if self.is_will_marked {
            state.will = None;
        }
        state.handover_from.clone_from(&written.handover_from);
        Some(Restored { state, found, written: written.epoch })
    }
}
