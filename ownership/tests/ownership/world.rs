//! Clients, events and faults.

use mqtt_ownership::{
    Amend, Arrival, ArrivalPlace, Claim, Input, Leave, NEVER, Now, Output, Request, ServerTime, Step, Will, WillState,
};

use super::node::{Job, Node, Work};
use super::random::Random;
use super::store::{Began, Progress, Store};
use super::witness::{Conn, Witness};

pub(super) const NODES: usize = 3;
pub(super) const STEPS: usize = 400;
pub(super) const LEASE_MS: u64 = 25_000;
pub(super) const LOOK_AFTER_MS: u64 = 15_000;
/// How long a claim is tried.
pub(super) const PATIENCE_MS: u64 = 10_000;
/// How far nodes know the time.
pub(super) const CLOCK_MS: u64 = 20;
/// What is over ends within so many steps when nothing breaks any more.
pub(super) const SETTLED_WITHIN: usize = 20_000;

pub(super) struct World {
    pub(super) random: Random,
    pub(super) store: Store,
    pub(super) nodes: Vec<Node>,
    pub(super) witness: Witness,
    /// Faults of a hundred requests.
    pub(super) faults: u64,
    /// Whether records of the past come back.
    pub(super) brings_back: bool,
    /// How often nodes break, of a hundred steps.
    pub(super) breaks: u64,
    /// How often clients do something, of a hundred steps.
    pub(super) clients: u64,
    pub(super) is_calm: bool,
    /// Whether connections that own their session have nothing to write.
    pub(super) is_idle: bool,
}

pub(crate) fn run(seed: u64) {
    let mut random = Random::new(seed);
    let (faults, keeps, brings_back) = (random.below(40), random.percent(50), random.percent(25));
    let (breaks, clients) = (random.below(4), 3 + random.below(12));
    // What comes back of the past is found by a write only.
    let is_idle = !brings_back && random.percent(40);
    let mut witness = Witness::default();
    witness.keeps = keeps;
    let mut store = Store::default();
    store.now = 1_000_000;
    let nodes = (0..NODES).map(|index| Node::new(index, store.now + LEASE_MS)).collect();
    let is_calm = false;
    let mut world = World { random, store, nodes, witness, faults, brings_back, breaks, clients, is_calm, is_idle };
    for step in 0..STEPS {
        if step == STEPS * 3 / 4 && world.random.percent(30) {
            world.last_client_is_lost();
        }
        world.step();
    }
    world.settle();
    let owners = world.owners();
    world.witness.judge(&owners, &mut world.store);
    if let (Some(record), _) = world.store.truth()
        && record.connected
        && owners.is_empty()
        // One of the past waits for the end of its owner's lease, or the next CONNECT.
        && !world.store.has_brought_any
    {
        world.store.violations.push(format!("nobody is connected, and nobody knows: {record:?}"));
    }
    if keeps {
        // What is left of the session goes on.
        world.open(0, false);
        world.settle();
    }
    assert!(world.store.violations.is_empty(), "seed {seed}: {:#?}", world.store.violations);
}

impl World {
    pub(super) fn step(&mut self) {
        if self.random.percent(self.breaks) {
            self.break_node();
        }
        if self.random.percent(self.clients) {
            self.client();
        }
        match self.random.below(100) {
            0..74 => self.advance_somebody(),
            74..78 => {
                let index = self.random.index(NODES);
                self.read_records(index);
            }
            78..90 => self.read_connect(),
            90..93 => self.tick(1_000),
            93 => self.tick(40_000),
            94 if self.brings_back => {
                self.tick(400_000);
                let drawn = self.random.index(64);
                self.store.bring_back(drawn);
            }
            94..97 => {
                let (until, behind) = (self.store.now + self.random.below(400), self.random.below(6));
                trace!("{} a leader that is {behind} behind", self.store.now);
                self.store.elect(until, behind);
            }
            _ => self.arrive_late(),
        }
        self.tick(20);
        self.check();
    }

    pub(super) fn check(&self) {
        assert!(self.store.violations.is_empty(), "{:#?}", self.store.violations);
    }

    pub(super) fn arrive_late(&mut self) {
        if !self.store.late.is_empty() {
            let drawn = self.random.index(self.store.late.len());
            let write = self.store.late.swap_remove(drawn);
            let done = self.store.write(&write);
            trace!("{} late: {write:?}: {done:?}", self.store.now);
        }
    }

    pub(super) fn tick(&mut self, up_to_ms: u64) {
        let before = self.store.now;
        self.store.now += self.random.below(up_to_ms) + 1;
        // Whoever runs has refreshed its lease meanwhile.
        for node in self.nodes.iter_mut().filter(|node| node.runs() && before < node.lease_until) {
            node.lease_until = self.store.now + LEASE_MS;
        }
        let dead: Vec<usize> = (0..NODES).filter(|n| !self.nodes[*n].is_buried && !self.has_lease(*n)).collect();
        for index in dead {
            self.nodes[index].is_buried = true;
            self.lose(index);
            for other in 0..NODES {
                self.look_after(other);
            }
        }
        for index in 0..NODES {
            self.look_at_refused(index);
        }
    }

    pub(super) fn has_lease(&self, index: usize) -> bool {
        let node = &self.nodes[index];
        !node.is_buried && self.store.now < node.lease_until
    }

    pub(super) fn client(&mut self) {
        let last = self.witness.conns.len().checked_sub(1);
        let Some(no) = last.filter(|no| self.witness.conns[*no].is_open()) else {
            return self.open_somewhere();
        };
        let conn = &mut self.witness.conns[no];
        match self.random.below(10) {
            0..4 => {
                trace!("{} {no} is reset", self.store.now);
                conn.is_reset = true;
                if self.random.percent(70) {
                    self.open_somewhere();
                }
            }
            4..6 if conn.is_accepted => conn.goodbye = Some(false),
            6 if conn.is_accepted => conn.goodbye = Some(true),
            7 if conn.is_accepted => {
                conn.is_zombie = true;
                self.open_somewhere();
            }
            8 if !conn.is_refused => {
                // Elsewhere nobody could tell which of them is newer.
                conn.is_zombie = true;
                let (node, is_clean) = (conn.node, conn.clean);
                self.open(node, is_clean);
            }
            _ => {}
        }
    }

    pub(super) fn open_somewhere(&mut self) {
        let node = match self.witness.conns.last() {
            Some(last) if self.random.percent(60) => last.node,
            _ => self.random.index(NODES),
        };
        let is_clean = !self.witness.keeps && self.random.percent(25);
        self.open(node, is_clean);
    }

    pub(super) fn open(&mut self, node: usize, clean: bool) {
        if !self.nodes[node].is_up {
            return;
        }
        let no = self.witness.conns.len();
        let expiry_s = match self.random.below(4) {
            _ if self.witness.keeps => NEVER,
            0 => 0,
            1 => NEVER,
            _ => 5 + u32::try_from(self.random.below(60)).unwrap_or(0),
        };
        let delay_s = [None, Some(0), Some(3), Some(30)][self.random.index(4)];
        trace!("{} {no} sends CONNECT to {node}: clean {clean}, expiry {expiry_s}, will {delay_s:?}", self.store.now);
        self.witness.conns.push(Conn { node, clean, expiry_s, delay_s, ..Conn::default() });
        self.nodes[node].waiting.push(no);
    }

    /// A node reads a CONNECT that waits, in whatever order.
    pub(super) fn read_connect(&mut self) {
        let index = self.random.index(NODES);
        let node = &mut self.nodes[index];
        if !node.runs() || node.waiting.is_empty() {
            return;
        }
        let drawn = self.random.index(node.waiting.len());
        let no = node.waiting.swap_remove(drawn);
        let conns = &self.witness.conns;
        let arrival = |no: usize| Arrival {
            place: ArrivalPlace(no as u64),
            is_gone: conns[no].is_reset,
            is_answered: conns[no].is_accepted || conns[no].is_refused,
        };
        let (is_gone, holder) = (arrival(no).is_gone, node.holder);
        let gives_way = holder.map_or(is_gone, |holder| arrival(no).yields_to(&arrival(holder)));
        let is_older = holder.is_some_and(|holder| no < holder && !conns[holder].is_reset);
        if gives_way != (is_gone || is_older) && holder.is_some_and(|holder| !arrival(holder).is_answered) {
            self.store.violations.push(format!("{no} gives way to {holder:?}: {gives_way}"));
        }
        let node = &mut self.nodes[index];
        if gives_way {
            trace!("{} {no} gives way to {:?}", self.store.now, node.holder);
            let conn = &mut self.witness.conns[no];
            (conn.is_refused, conn.is_over) = (true, true);
            return;
        }
        let before = node.holder.replace(no);
        let job = Job::new(&node.name, Some(no), Work::Behind);
        node.jobs.push(job);
        if let Some(position) = before.and_then(|before| node.position(before)) {
            self.order_to_end(index, position);
        }
    }

    pub(super) fn order_to_end(&mut self, index: usize, position: usize) {
        match self.nodes[index].jobs[position].work {
            Work::Owner(_) => self.leave(index, position, true),
            Work::Claim(_) => self.tell(index, position, Input::Preempted),
            Work::Behind => {
                let no = self.nodes[index].jobs[position].conn.unwrap_or_default();
                let conn = &mut self.witness.conns[no];
                (conn.is_refused, conn.is_over) = (true, true);
                // Whoever waited for it waits for the one before it.
                self.nodes[index].jobs.remove(position);
            }
            _ => {}
        }
    }

    pub(super) fn begin_claim(&mut self, index: usize, position: usize) {
        let node = &mut self.nodes[index];
        let no = node.jobs[position].conn.unwrap_or_default();
        // Older connections of the client id on this node have ended.
        let is_first =
            !node.jobs[..position].iter().any(|job| job.conn.is_some() && !matches!(job.work, Work::Kept(..)));
        if !is_first {
            return;
        }
        let conn = &self.witness.conns[no];
        let will = conn.delay_s.map(|delay_s| Will { delay_s, state: WillState::Armed, due_at: None, message: no });
        let name = node.name.clone();
        node.jobs[position].name.clone_from(&name);
        let request = Request {
            node: name,
            clean_start: conn.clean,
            expiry_s: conn.expiry_s,
            will,
            rest: Began(no),
            came_at: None,
        };
        let mut claim = Claim::new(request);
        let step = claim.begin();
        node.jobs[position].work = Work::Claim(claim);
        node.jobs[position].began_at = self.store.now;
        if let Step::Do(output) = step {
            node.jobs[position].pending = Some(output);
        }
    }

    /// The next thing of something that is under way.
    pub(super) fn advance_somebody(&mut self) {
        let index = self.random.index(NODES);
        let node = &self.nodes[index];
        if !node.runs() || node.jobs.is_empty() {
            return;
        }
        let position = self.random.index(node.jobs.len());
        self.advance(index, position);
        self.nodes[index].jobs.retain(|job| !is_finished(job));
    }

    pub(super) fn advance(&mut self, index: usize, position: usize) {
        let now = self.store.now;
        let job = &mut self.nodes[index].jobs[position];
        let conn = job.conn.map(|no| self.witness.conns[no].clone()).unwrap_or_default();
        if let Some(input) = job.answer.take() {
            return self.tell(index, position, input);
        }
        if let Some(output) = job.pending.take() {
            return self.carry_out(index, position, output);
        }
        if let Some(until) = job.wait_until {
            if until <= now {
                job.wait_until = None;
                self.tell(index, position, Input::Time);
            }
            return;
        }
        match &mut job.work {
            Work::Behind => self.begin_claim(index, position),
            Work::Owner(owner) => {
                if conn.is_reset || conn.goodbye.is_some() {
                    let is_will_due = conn.goodbye != Some(false);
                    return self.leave(index, position, is_will_due);
                }
                if self.is_idle {
                    return;
                }
                owner.acked += 1;
                if self.random.percent(40) {
                    owner.saving = Some(owner.acked);
                    let progress = Progress { epoch: owner.state.epoch, acked: owner.acked };
                    let (progress, fence, ttl_s) = (Some(progress), owner.revision, None);
                    job.pending = Some(Output::PutProgress { progress, fence, ttl_s });
                } else if self.random.percent(30) || self.is_calm {
                    let mut amend = Amend::new(owner.state.clone(), owner.revision);
                    if let Step::Do(output) = amend.begin() {
                        job.pending = Some(output);
                    }
                    owner.amend = Some(amend);
                }
            }
            Work::Kept(_, until) if *until < now => job.work = Work::Over,
            _ => {}
        }
        // The peer of a connection that is being claimed may be gone, which is seen at any time.
        if conn.is_reset && matches!(self.nodes[index].jobs[position].work, Work::Claim(_)) {
            self.tell(index, position, Input::ConnectionGone);
        }
    }

    pub(super) fn leave(&mut self, index: usize, position: usize, is_will_due: bool) {
        let (now, time) = (self.store.now, self.time());
        let node = &mut self.nodes[index];
        let job = &mut node.jobs[position];
        let Work::Owner(owner) = &job.work else { return };
        let owner = owner.as_ref().clone();
        let progress = Progress { epoch: owner.state.epoch, acked: owner.acked };
        if let Some(no) = job.conn {
            self.witness.conns[no].is_over = true;
        }
        let mut leave = Leave::new(owner.state, owner.revision, progress, is_will_due);
        trace!("{now} {:?} leaves {index}, will due: {is_will_due}", job.conn);
        if let Step::Do(output) = leave.begin(time) {
            (job.pending, job.answer) = (Some(output), None);
        }
        job.work = Work::Leave(leave, progress, !is_will_due);
    }

    /// Faults end, and everything goes its way.
    pub(super) fn settle(&mut self) {
        self.is_calm = true;
        self.store.is_calm();
        for index in 0..NODES {
            let now = self.store.now;
            let node = &mut self.nodes[index];
            node.is_paused = false;
            if !node.is_up {
                (node.is_up, node.lease_until) = (true, now + LEASE_MS);
                node.rename(index);
            } else if node.is_buried {
                self.notice(index);
            }
        }
        while !self.store.late.is_empty() {
            self.arrive_late();
        }
        for round in 0..SETTLED_WITHIN {
            self.read_connect();
            self.advance_somebody();
            self.tick(100);
            if round % 1_000 == 0 {
                self.tick(40_000);
                (0..NODES).for_each(|index| self.look_after(index));
                (0..NODES).for_each(|index| self.read_records(index));
            }
            self.check();
            let is_owner = |job: &Job| matches!(job.work, Work::Owner(_));
            let is_idle = |node: &Node| node.waiting.is_empty() && node.jobs.iter().all(is_owner);
            if round > 4_000 && self.nodes.iter().all(is_idle) {
                return;
            }
        }
        unreachable!("something does not end");
    }

    /// What nodes know of the time.
    pub(super) fn time(&self) -> Now {
        let now = self.store.now;
        Now {
            earliest: ServerTime(now - CLOCK_MS),
            certain: ServerTime(now - 10 * CLOCK_MS),
            stamp: ServerTime(now + CLOCK_MS),
        }
    }

    pub(super) fn owners(&self) -> Vec<usize> {
        let jobs = self.nodes.iter().flat_map(|node| &node.jobs);
        jobs.filter(|job| matches!(job.work, Work::Owner(_))).filter_map(|job| job.conn).collect()
    }
}

pub(super) fn is_finished(job: &Job) -> bool {
    let is_idle = job.pending.is_none() && job.answer.is_none() && job.wait_until.is_none();
    matches!(job.work, Work::Over) || is_idle && matches!(job.work, Work::Failover(_))
}
