//! Nodes that die, stop, go on and come back, and what they look after then.

use mqtt_ownership::{Failover, Input, NodeId, ServerTime, Step};

use super::node::{Job, Work};
use super::store::Began;
use super::world::{LEASE_MS, LOOK_AFTER_MS, NODES, World, is_finished};

impl World {
    /// The session, if its owner is gone.
    pub(super) fn look_after(&mut self, index: usize) {
        if !self.nodes[index].runs() || self.nodes[index].is_buried {
            return;
        }
        let (Some(record), revision) = self.store.truth() else { return };
        let now = self.store.now;
        let is_alive = |owner: &NodeId| (0..NODES).any(|n| self.has_lease(n) && self.nodes[n].name == *owner);
        let is_orphan = record.owner.as_ref().is_some_and(|owner| !is_alive(owner));
        if is_orphan || (record.has_expired(ServerTime(now)) && !record.has_will()) {
            trace!("{now} {index} looks after {record:?}");
            let failover = self.nodes[index].failover(record, revision, self.time());
            self.start_failover(index, failover);
        }
    }

    pub(super) fn start_failover(&mut self, index: usize, mut failover: Failover<usize, Began>) {
        let step = failover.begin(self.time());
        let mut job = Job::new(&self.nodes[index].name, None, Work::Failover(failover));
        if let Step::Do(output) = step {
            job.pending = Some(output);
            self.nodes[index].jobs.push(job);
        }
    }

    pub(super) fn look_at_refused(&mut self, index: usize) {
        let now = self.store.now;
        if !self.nodes[index].runs() || self.nodes[index].refused.iter().all(|refused| refused.look_at > now) {
            return;
        }
        let node = &mut self.nodes[index];
        for refused in &mut node.refused {
            refused.look_at = refused.look_at.max(now + LOOK_AFTER_MS);
        }
        if node.holder.is_some() {
            return;
        }
        let (Some(record), revision) = self.store.load() else { return };
        let node = &self.nodes[index];
        if !record.connected || record.owner.as_ref() != Some(&node.name) {
            return;
        }
        if node.has_refused(record.epoch).is_some() {
            trace!("{now} {index} reclaims {record:?}");
            let failover = node.failover(record, revision, self.time());
            self.start_failover(index, failover);
        }
    }

    pub(super) fn break_node(&mut self) {
        let index = self.random.index(NODES);
        let node = &mut self.nodes[index];
        let now = self.store.now;
        if !node.is_up {
            trace!("{now} {index} starts");
            (node.is_up, node.lease_until) = (true, now + LEASE_MS);
            node.rename(index);
            self.look_after(index);
        } else if node.is_paused {
            trace!("{now} {index} goes on");
            node.is_paused = false;
        } else if node.is_buried && self.random.percent(50) {
            self.take_again(index);
        } else if node.is_buried {
            self.notice(index);
        } else if self.random.percent(50) {
            trace!("{now} {index} stops");
            node.is_paused = true;
        } else {
            self.kill(index);
        }
    }

    pub(super) fn kill(&mut self, index: usize) {
        trace!("{} {index} is killed", self.store.now);
        let node = &mut self.nodes[index];
        node.is_up = false;
        (node.holder, node.is_paused) = (None, false);
        node.jobs.clear();
        node.refused.clear();
        node.waiting.clear();
        self.lose(index);
        for conn in self.witness.conns.iter_mut().filter(|conn| conn.node == index) {
            conn.is_over = true;
        }
    }

    /// A node that was in doubt takes its lease again, under its name, and reads what others have adopted meanwhile. They may go on
    /// with what they have begun.
    pub(super) fn take_again(&mut self, index: usize) {
        trace!("{} {index} has its lease again", self.store.now);
        let now = self.store.now;
        let node = &mut self.nodes[index];
        (node.is_buried, node.lease_until) = (false, now + LEASE_MS);
        self.read_records(index);
        self.look_after(index);
    }

    /// A node reads what is written, and ends connections whose session is somebody else's.
    pub(super) fn read_records(&mut self, index: usize) {
        if !self.nodes[index].runs() {
            return;
        }
        let (record, revision) = self.store.truth();
        let is_displaced = |job: &Job| match &job.work {
            Work::Owner(owner) => {
                let is_own = record.as_ref().is_some_and(|r| r.connected && r.epoch == owner.state.epoch);
                revision > owner.revision && !is_own
            }
            _ => false,
        };
        while let Some(position) = self.nodes[index].jobs.iter().position(is_displaced) {
            trace!("{} {index} reads that {:?} is displaced", self.store.now, self.nodes[index].jobs[position].conn);
            self.leave(index, position, true);
        }
    }

    /// A node notices that it has lost its lease: its connections end, and it comes back under another name.
    pub(super) fn notice(&mut self, index: usize) {
        trace!("{} {index} has lost its lease", self.store.now);
        for position in 0..self.nodes[index].jobs.len() {
            match self.nodes[index].jobs[position].work {
                Work::Owner(_) => self.leave(index, position, true),
                Work::Claim(_) => {
                    self.nodes[index].jobs[position].is_told_to_end = true;
                    self.tell(index, position, Input::Cancelled);
                }
                _ => {}
            }
        }
        let now = self.store.now;
        let node = &mut self.nodes[index];
        node.jobs.retain(|job| !is_finished(job));
        node.rename(index);
        node.lease_until = now + LEASE_MS;
        self.lose(index);
        self.look_after(index);
    }

    /// The node of the last client dies, and no client comes any more: somebody has to see to what is left.
    pub(super) fn last_client_is_lost(&mut self) {
        self.clients = 0;
        if let Some(last) = self.witness.conns.last().filter(|last| last.is_open()) {
            let node = last.node;
            self.kill(node);
        }
    }

    pub(super) fn lose(&mut self, index: usize) {
        for conn in self.witness.conns.iter_mut().filter(|conn| conn.node == index) {
            conn.is_node_lost = true;
        }
    }
}
