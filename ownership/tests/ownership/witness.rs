//! What was promised to clients, and whether it was kept. Knows nothing of the machines.

use std::time::Duration;

use mqtt_ownership::{Epoch, NEVER, ServerTime, WillState};

use super::store::{Record, Store};

/// One connection, as its client knows it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Conn {
    pub(crate) node: usize,
    pub(crate) clean: bool,
    pub(crate) expiry_s: u32,
    /// The delay of its will, if it has one.
    pub(crate) delay_s: Option<u32>,
    /// Its client is gone, with a reset.
    pub(crate) is_reset: bool,
    /// Its client has said goodbye; with its will?
    pub(crate) goodbye: Option<bool>,
    /// Its client has another address and does not answer.
    pub(crate) is_zombie: bool,
    pub(crate) is_accepted: bool,
    pub(crate) is_refused: bool,
    /// The server closed it, or died.
    pub(crate) is_over: bool,
    /// Its goodbye was carried out.
    pub(crate) is_taken_back: bool,
    /// Its node died or lost its lease while it was there or later.
    pub(crate) is_node_lost: bool,
    pub(crate) epoch: u64,
}

impl Conn {
    pub(crate) const fn is_open(&self) -> bool {
        !self.is_reset && self.goodbye.is_none() && !self.is_over && !self.is_zombie
    }
}

/// A session as it was promised.
#[derive(Default)]
pub(crate) struct Witness {
    pub(crate) conns: Vec<Conn>,
    /// Every client in this world goes on with its session, and never lets it end.
    pub(crate) keeps: bool,
    /// The epoch in which the session began.
    session: Option<u64>,
    /// The newest epoch that was accepted with a clean start.
    cleared_at: u64,
    /// Of the highest progress whose save was acknowledged.
    saved: u64,
}

impl Witness {
    /// A connection was accepted.
    pub(crate) fn accepted(&mut self, no: usize, is_present: bool, record: &Record, store: &mut Store) {
        let conn = &mut self.conns[no];
        (conn.is_accepted, conn.epoch) = (true, record.epoch.0);
        let (clean, is_kept) = (conn.clean, self.keeps);
        if clean && is_present {
            store.violations.push(format!("{no} has a session that it did not want"));
        }
        if is_kept && self.session.is_some_and(|began| began < record.epoch.0) && !is_present {
            store.violations.push(format!("{no} has lost its session"));
        }
        let is_later = record.epoch.0 > self.cleared_at;
        if is_present && is_later && record.first_epoch.0 < self.cleared_at && !store.has_brought_back {
            store.violations.push(format!("{no} has a session from before a clean start"));
        }
        self.session = Some(self.session.map_or(record.epoch.0, |began| began.min(record.epoch.0)));
        if clean {
            self.cleared_at = self.cleared_at.max(record.epoch.0);
        }
    }

    /// How much of what was acknowledged a session goes on with.
    pub(crate) fn goes_on_with(&self, no: usize, acked: u64, store: &mut Store) {
        if self.keeps && acked < self.saved {
            store.violations.push(format!("{no} goes on with {acked} of {}", self.saved));
        }
    }

    pub(crate) fn saved(&mut self, acked: u64) {
        self.saved = self.saved.max(acked);
    }

    /// After everything has settled.
    pub(crate) fn judge(&self, owners: &[usize], store: &mut Store) {
        if owners.len() > 1 {
            store.violations.push(format!("several own the session: {owners:?}"));
        }
        if let Some((no, last)) = self.conns.iter().enumerate().next_back()
            && last.is_open()
            && last.is_accepted
            && !last.is_node_lost
            && owners != [no]
        {
            store.violations.push(format!("the newest connection {no} is not the owner, but {owners:?}"));
        }
        for no in 0..self.conns.len() {
            self.judge_will(no, owners, store);
        }
    }

    fn judge_will(&self, no: usize, owners: &[usize], store: &mut Store) {
        let conn = &self.conns[no];
        let Some(delay_s) = conn.delay_s else { return };
        let count = store.wills.values().filter(|message| **message == no).count();
        let is_newest = self.conns.iter().all(|other| other.epoch <= conn.epoch);
        let is_last = no + 1 == self.conns.len() && is_newest;
        let (least, most) = match conn {
            // What a record says that came back without a proof that it is of the past is believed: its will is due again.
            _ if store.has_brought_back => (0, 2),
            _ if store.has_forgotten_a_will => (0, 1),
            _ if owners.contains(&no) => (0, 0),
            Conn { is_refused: true, .. } => (0, 0),
            Conn { is_accepted: false, .. } => (0, 1),
            // Nobody has taken it over meanwhile, who would have found its will.
            Conn { is_taken_back: true, is_node_lost: false, .. } if is_newest => (0, 0),
            // Whoever finds its node dead, or has its session by then, does not know.
            Conn { goodbye: Some(false), .. } => (0, 1),
            _ if delay_s.min(conn.expiry_s) == 0 || is_last => (1, 1),
            _ => (0, 1),
        };
        if count < least || count > most {
            store.violations.push(format!("the will of {no} came {count} times: {conn:?}"));
        }
    }
}

/// What is wrong with a record in the place of another, whoever wrote it. `newest`: of the epochs that there were.
pub(crate) fn fault_of(
    record: &Record,
    before: Option<&Record>,
    newest: Epoch,
    now: ServerTime,
) -> Option<&'static str> {
    let is_same = before.is_some_and(|before| before.epoch == record.epoch);
    if !is_same && record.epoch <= newest {
        return Some("an epoch comes again");
    }
    if record.first_epoch > record.epoch || record.former_wills.iter().any(|former| former.epoch >= record.epoch) {
        return Some("something is older than it");
    }
    if let Some(before) = before.filter(|before| is_same && !before.connected) {
        if record.connected {
            return Some("a connection that was over is there again");
        }
        if record.disconnected_at != before.disconnected_at {
            return Some("an expiry interval runs anew");
        }
    }
    if record.connected { fault_of_connected(record) } else { fault_of_left(record, now) }
}

fn fault_of_connected(record: &Record) -> Option<&'static str> {
    let is_waiting = |due: Option<ServerTime>, state| due.is_none() && state == WillState::Armed;
    if record.owner.is_none() || record.disconnected_at.is_some() {
        return Some("it is connected, and it is not");
    }
    if record.will.as_ref().is_some_and(|will| !is_waiting(will.due_at, will.state)) {
        return Some("the will of a connection that is there is due");
    }
    None
}

fn fault_of_left(record: &Record, now: ServerTime) -> Option<&'static str> {
    let is_over = record.will.is_none() && record.former_wills.is_empty() && record.expiry_s > 0;
    if record.owner.is_some() == is_over {
        return Some("its owner has nothing to do, or nobody has what there is to do");
    }
    let Some(left_at) = record.disconnected_at else {
        return (record.expiry_s > 0).then_some("nobody knows when its expiry interval began");
    };
    let will = record.will.as_ref()?;
    let due_at = left_at.after(Duration::from_secs(will.delay_s.min(record.expiry_s).into()));
    let is_right = match will.state {
        WillState::Armed => will.due_at == Some(due_at) && due_at > left_at,
        WillState::Firing => will.due_at.is_none() && (due_at <= now || due_at == left_at),
    };
    (!is_right).then_some("its will is due at another time")
}

/// Whether a session may end whose record is this.
pub(crate) fn may_end(record: &Record, now: ServerTime) -> bool {
    let ends_at = record.disconnected_at.map(|at| at.after(Duration::from_secs(record.expiry_s.into())));
    record.expiry_s == 0 || (!record.connected && record.expiry_s != NEVER && ends_at.is_some_and(|at| at <= now))
}
