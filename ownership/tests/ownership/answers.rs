//! What machines are told, and what comes of it.

use mqtt_ownership::{
    Amend, AmendOutcome, ClaimOutcome, Claimed, Failover, FailoverOutcome, GivenUp, Input, LeaveOutcome, Step, Stop,
};

use super::node::{In, Job, Owner, Refused, Work};
use super::store::{Began, Progress};
use super::world::{LOOK_AFTER_MS, World};

impl World {
    /// Tells a machine, and does what it says.
    pub(super) fn tell(&mut self, index: usize, position: usize, input: In) {
        let (now, time) = (self.store.now, self.time());
        let node = &mut self.nodes[index];
        let over = Job::new(&node.name, None, Work::Over);
        let mut job = std::mem::replace(&mut node.jobs[position], over);
        trace!("{now} {index} {:?} <- {input:?}", job.conn);
        match &mut job.work {
            Work::Claim(claim) => match claim.handle(time, input) {
                Step::Do(output) => job.pending = Some(output),
                Step::Wait => {}
                Step::Done(outcome) => self.claimed(index, &mut job, outcome),
            },
            Work::Owner(owner) => {
                if let Some(mut amend) = owner.amend.take() {
                    match amend.handle::<Progress>(input) {
                        Step::Do(output) => (job.pending, owner.amend) = (Some(output), Some(amend)),
                        Step::Done(AmendOutcome::Written(revision)) => owner.revision = revision,
                        Step::Done(_) => job.answer = Some(Input::Preempted),
                        Step::Wait => {}
                    }
                } else {
                    match (input, owner.saving.take()) {
                        (Input::ProgressSaved { again: false }, Some(acked)) => self.witness.saved(acked),
                        // A record written anew keeps out what may arrive again.
                        (Input::ProgressSaved { again: true } | Input::NotNow, _) => {
                            let mut amend = Amend::new(owner.state.clone(), owner.revision);
                            if let Step::Do(output) = amend.begin() {
                                job.pending = Some(output);
                            }
                            owner.amend = Some(amend);
                        }
                        (Input::Fenced | Input::Preempted, _) => job.wait_until = Some(0),
                        _ => {}
                    }
                    if job.wait_until == Some(0) {
                        job.wait_until = None;
                        self.nodes[index].jobs[position] = job;
                        return self.leave(index, position, true);
                    }
                }
            }
            Work::Leave(leave, progress, is_will_off) => match leave.handle(time, input) {
                Step::Do(output) => job.pending = Some(output),
                Step::Wait => {}
                Step::Done(outcome) => {
                    let (progress, is_will_off) = (*progress, *is_will_off);
                    self.left(index, &mut job, outcome, progress, is_will_off);
                }
            },
            Work::Failover(failover) => match failover.handle::<Progress>(time, input) {
                Step::Do(output) => job.pending = Some(output),
                Step::Wait => {}
                Step::Done(outcome) => {
                    trace!("{now} {index} failover {outcome:?}");
                    assert_ne!(outcome, FailoverOutcome::TooLarge);
                }
            },
            Work::Behind | Work::Kept(..) | Work::Over => {}
        }
        self.nodes[index].jobs[position] = job;
    }

    pub(super) fn left(
        &mut self,
        index: usize,
        job: &mut Job,
        outcome: LeaveOutcome<usize, Began>,
        progress: Progress,
        is_will_off: bool,
    ) {
        trace!("{} {index} {:?} has left: {outcome:?}", self.store.now, job.conn);
        let no = job.conn.unwrap_or_default();
        if self.nodes[index].holder == Some(no) {
            self.nodes[index].holder = None;
        }
        let conn = &mut self.witness.conns[no];
        match outcome {
            LeaveOutcome::Done => {
                conn.is_taken_back = is_will_off;
                if conn.expiry_s > 0 {
                    self.witness.saved(progress.acked);
                }
            }
            LeaveOutcome::Later(state, revision) => {
                self.witness.saved(progress.acked);
                self.start_failover(index, Failover::due(state, revision));
            }
            LeaveOutcome::Theirs => {
                job.work = Work::Kept(progress, self.store.now + 2_000);
                return;
            }
            LeaveOutcome::TooLarge => unreachable!("records of this world are small"),
        }
        job.work = Work::Over;
    }

    pub(super) fn claimed(&mut self, index: usize, job: &mut Job, outcome: ClaimOutcome<usize, Began, Progress>) {
        let no = job.conn.unwrap_or_default();
        (job.pending, job.answer) = (None, None);
        trace!("{} {index} {no} {outcome:?}", self.store.now);
        match outcome {
            ClaimOutcome::Claimed(claimed) => {
                let Claimed { state, revision, is_present, progress, .. } = *claimed;
                self.witness.accepted(no, is_present, &state, &mut self.store);
                let stored = self.store.progress().filter(|stored| stored.epoch >= state.first_epoch);
                let goes_on = progress.or(stored).filter(|_| is_present).map_or(0, |progress| progress.acked);
                // What a newer owner has saved meanwhile is not ours to miss.
                if is_present && self.store.truth().1 == revision {
                    self.witness.goes_on_with(no, goes_on, &mut self.store);
                }
                let owner = Owner { state, revision, acked: goes_on, amend: None, saving: None };
                job.work = Work::Owner(Box::new(owner));
                // Its order to end came when its record was written.
                job.answer = (self.nodes[index].holder != Some(no)).then_some(Input::Preempted);
            }
            ClaimOutcome::GivenUp(given_up) => {
                let GivenUp { why, left, unsaved } = *given_up;
                if self.nodes[index].holder == Some(no) {
                    self.nodes[index].holder = None;
                }
                let conn = &mut self.witness.conns[no];
                conn.is_over = true;
                // It was connected, for no time at all. What is in doubt gets no answer.
                let is_told = why == Stop::Preempted || job.is_told_to_end;
                let was_accepted = is_told && left.as_ref().is_some_and(|left| left.is_written);
                (conn.is_accepted, conn.is_refused) = (was_accepted, !was_accepted && left.is_none());
                conn.epoch = left.as_ref().map_or(0, |left| left.epoch.0);
                if let Some(left) = left {
                    if !was_accepted {
                        self.store.refused.insert(left.epoch);
                    }
                    let look_at = self.store.now + LOOK_AFTER_MS;
                    self.nodes[index].refused.push(Refused { left, is_accepted: was_accepted, look_at });
                }
                job.work = match unsaved {
                    Some((progress, _)) => Work::Kept(progress, self.store.now + 2_000),
                    None => Work::Over,
                };
            }
        }
    }
}
