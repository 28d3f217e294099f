//! A node: machines under way, each with something that is to be done, or an answer that it has yet to hear.

use mqtt_ownership::{Amend, Claim, Epoch, Failover, Input, Leave, Left, NodeId, Now, Output, Revision};

use super::store::{Began, Message, Progress, Record};

pub(crate) type In = Input<Message, Began, Progress>;
pub(crate) type Out = Output<Message, Began, Progress>;

/// A connection that owns its session.
#[derive(Clone)]
pub(crate) struct Owner {
    pub(crate) state: Record,
    pub(crate) revision: Revision,
    pub(crate) acked: u64,
    /// A write of the record that is under way.
    pub(crate) amend: Option<Amend<Message, Began>>,
    pub(crate) saving: Option<u64>,
}

pub(crate) enum Work {
    /// Waits for the connection before to end.
    Behind,
    Claim(Claim<Message, Began, Progress>),
    Owner(Box<Owner>),
    /// With what it had in memory, and whether its will is off.
    Leave(Leave<Message, Began, Progress>, Progress, bool),
    Failover(Failover<Message, Began>),
    /// What a connection had in memory, kept for whoever asks.
    Kept(Progress, u64),
    Over,
}

pub(crate) struct Job {
    /// The name of the node when it began.
    pub(crate) name: NodeId,
    /// The connection; `None`: a session is put in order.
    pub(crate) conn: Option<usize>,
    pub(crate) work: Work,
    pub(crate) pending: Option<Out>,
    pub(crate) answer: Option<In>,
    pub(crate) wait_until: Option<u64>,
    /// When a claim began.
    pub(crate) began_at: u64,
    /// Its node has told it to end.
    pub(crate) is_told_to_end: bool,
}

impl Job {
    pub(crate) fn new(name: &NodeId, conn: Option<usize>, work: Work) -> Self {
        Self {
            name: name.clone(),
            conn,
            work,
            pending: None,
            answer: None,
            wait_until: None,
            began_at: 0,
            is_told_to_end: false,
        }
    }

    /// What it would hand over.
    pub(crate) fn in_memory(&self) -> Option<Progress> {
        match &self.work {
            Work::Owner(owner) => Some(Progress { epoch: owner.state.epoch, acked: owner.acked }),
            Work::Leave(_, progress, _) | Work::Kept(progress, _) => Some(*progress),
            Work::Behind | Work::Claim(_) | Work::Failover(_) | Work::Over => None,
        }
    }
}

/// A CONNECT that was given up and may have left a record.
pub(crate) struct Refused {
    pub(crate) left: Left<Message, Began>,
    /// CONNACK accepted it.
    pub(crate) is_accepted: bool,
    pub(crate) look_at: u64,
}

pub(crate) struct Node {
    pub(crate) name: NodeId,
    pub(crate) boots: u64,
    pub(crate) is_up: bool,
    pub(crate) is_paused: bool,
    pub(crate) lease_until: u64,
    /// Others have seen the end of its lease.
    pub(crate) is_buried: bool,
    pub(crate) jobs: Vec<Job>,
    pub(crate) refused: Vec<Refused>,
    /// Connections whose CONNECT nobody has read yet, in the order in which they were taken.
    pub(crate) waiting: Vec<usize>,
    /// Who has the client id here.
    pub(crate) holder: Option<usize>,
}

impl Node {
    pub(crate) fn new(index: usize, lease_until: u64) -> Self {
        Self {
            name: NodeId(format!("n{index}.0")),
            boots: 0,
            is_up: true,
            is_paused: false,
            lease_until,
            is_buried: false,
            jobs: Vec::new(),
            refused: Vec::new(),
            waiting: Vec::new(),
            holder: None,
        }
    }

    pub(crate) const fn runs(&self) -> bool {
        self.is_up && !self.is_paused
    }

    /// Another name, and a new lease.
    pub(crate) fn rename(&mut self, index: usize) {
        self.boots += 1;
        self.name = NodeId(format!("n{index}.{}", self.boots));
        self.is_buried = false;
    }

    pub(crate) fn position(&self, conn: usize) -> Option<usize> {
        self.jobs.iter().position(|job| job.conn == Some(conn))
    }

    /// A record of a CONNECT that was refused here is seen as what it found.
    pub(crate) fn see_through(&self, record: Option<Record>, now: Now) -> Option<Record> {
        let written = record?;
        match self.unaccepted(written.epoch) {
            Some(refused) => refused.left.restored(&written, now).map(|restored| restored.state),
            None => Some(written),
        }
    }

    /// Puts a session in order: instead of a record of a CONNECT that was refused here, what it found, or a session that ends.
    pub(crate) fn failover(&self, written: Record, revision: Revision, now: Now) -> Failover<Message, Began> {
        let name = self.name.clone();
        let Some(refused) = self.unaccepted(written.epoch) else { return Failover::new(written, revision, name) };
        match refused.left.restored(&written, now) {
            Some(restored) => Failover::restoring(restored, revision, name),
            None => Failover::new(Record { connected: false, expiry_s: 0, will: None, ..written }, revision, name),
        }
    }

    fn unaccepted(&self, epoch: Epoch) -> Option<&Refused> {
        self.refused.iter().find(|refused| refused.left.epoch == epoch && !refused.is_accepted)
    }

    pub(crate) fn has_refused(&self, epoch: Epoch) -> Option<&Refused> {
        self.refused.iter().find(|refused| refused.left.epoch == epoch)
    }
}
