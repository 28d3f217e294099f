//! What machines ask for: it is carried out, well or not.

use mqtt_ownership::{Epoch, Input, NodeId, Output, WillOutcome};

use super::node::{In, Out, Work};
use super::store::{Progress, Write};
use super::world::{NODES, PATIENCE_MS, World};

impl World {
    /// Carries out what a machine said, well or not.
    pub(super) fn carry_out(&mut self, index: usize, position: usize, output: Out) {
        let is_faulty = !self.is_calm && self.random.percent(self.faults);
        let is_peer_gone = |no: Option<usize>| no.is_some_and(|no| self.witness.conns[no].is_reset);
        let job = &self.nodes[index].jobs[position];
        if is_peer_gone(job.conn) && matches!(job.work, Work::Claim(_)) && self.random.percent(50) {
            self.nodes[index].jobs[position].pending = Some(output);
            return self.tell(index, position, Input::ConnectionGone);
        }
        let is_claim = matches!(job.work, Work::Claim(_));
        let is_late = self.nodes[index].jobs[position].began_at + PATIENCE_MS < self.store.now;
        if is_claim && (is_late || !self.is_calm && self.random.percent(2)) {
            self.nodes[index].jobs[position].pending = Some(output);
            return self.tell(index, position, Input::Cancelled);
        }
        let answer = match output {
            Output::Load { .. } if is_faulty => Input::NotNow,
            Output::Load { .. } => {
                let (record, revision) = self.store.load();
                let record = if is_claim { self.nodes[index].see_through(record, self.time()) } else { record };
                Input::Loaded(record, revision)
            }
            Output::Trace if is_faulty => Input::NotNow,
            Output::Trace => Input::Traced(self.store.trace()),
            Output::Put { state, expected } => self.write(Write::Record(*state, expected), is_faulty),
            Output::End(fence) => self.write(Write::End(fence), is_faulty),
            Output::PutProgress { progress, fence, ttl_s } => {
                let name = self.nodes[index].jobs[position].name.clone();
                self.write(Write::Progress(name, progress, fence, ttl_s), is_faulty)
            }
            Output::AskNodes { nodes, before, last } => {
                let handed = self.ask(&nodes, before.0, is_faulty);
                let saved = self.store.progress();
                let is_newest =
                    |handed: &Progress| handed.epoch == last || saved.is_none_or(|s| s.epoch <= handed.epoch);
                Input::HandedOver(handed.filter(is_newest))
            }
            Output::PublishWill { will, epoch, .. } => self.publish(epoch, will.message, is_faulty),
            Output::Wait(until) => {
                self.nodes[index].jobs[position].wait_until = Some(until.0);
                return;
            }
        };
        self.nodes[index].jobs[position].answer = Some(answer);
    }

    pub(super) fn publish(&mut self, epoch: Epoch, message: usize, is_faulty: bool) -> In {
        if !is_faulty {
            trace!("{} will of {message}, epoch {}", self.store.now, epoch.0);
            self.store.publish(epoch, message);
            return Input::WillPublished(WillOutcome::Done);
        }
        match self.random.below(3) {
            0 => {
                self.store.publish(epoch, message);
                Input::WillPublished(WillOutcome::NotNow)
            }
            1 => Input::WillPublished(WillOutcome::NotNow),
            _ => Input::WillPublished(WillOutcome::Refused),
        }
    }

    pub(super) fn write(&mut self, write: Write, is_faulty: bool) -> In {
        let (is_progress, is_end) = (matches!(write, Write::Progress(..)), matches!(write, Write::End(_)));
        let done = |revision| {
            if is_progress { Input::ProgressSaved { again: false } } else { Input::Written(revision) }
        };
        if !is_faulty {
            return self.store.write(&write).map_or(Input::Fenced, done);
        }
        match self.random.below(5) {
            0 => Input::NotNow,
            1 => {
                self.store.write(&write);
                Input::NotNow
            }
            2 if is_end => {
                self.store.write(&write);
                Input::Fenced
            }
            3 => {
                self.store.late.push(write);
                Input::NotNow
            }
            _ => match self.store.write(&write) {
                Some(revision) => {
                    self.store.late.push(write);
                    if is_progress { Input::ProgressSaved { again: true } } else { done(revision) }
                }
                None => Input::Fenced,
            },
        }
    }

    /// Asks nodes for what connections before an epoch had in memory, and has them end.
    pub(super) fn ask(&mut self, nodes: &[NodeId], epoch: u64, is_faulty: bool) -> Option<Progress> {
        let mut newest: Option<Progress> = None;
        for index in 0..NODES {
            let node = &self.nodes[index];
            if is_faulty || !node.runs() || !nodes.contains(&node.name) {
                continue;
            }
            for position in 0..node.jobs.len() {
                let job = &self.nodes[index].jobs[position];
                let Some(progress) = job.in_memory().filter(|progress| progress.epoch.0 < epoch) else { continue };
                if newest.is_none_or(|newest| newest.epoch < progress.epoch) {
                    newest = Some(progress);
                }
                if matches!(job.work, Work::Owner(_)) {
                    self.leave(index, position, true);
                }
            }
        }
        newest
    }
}
