//! One client's two keys in a bucket, as a node sees them, and the log, for wills. Compare-and-swap is exact; what nodes
//! hear of it is not.

use std::collections::{BTreeMap, BTreeSet};

use mqtt_ownership::{Epoch, NodeId, Rest, Revision, ServerTime, State, Trace};

use super::witness;

/// What a will publishes: the number of its connection.
pub(crate) type Message = usize;

/// The rest of a record: which connection began the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Began(pub(crate) usize);

impl Rest for Began {
    fn resumed(self, old: &Self) -> Self {
        *old
    }
}

/// Progress: how much is acknowledged, by the owner of an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Progress {
    pub(crate) epoch: Epoch,
    pub(crate) acked: u64,
}

pub(crate) type Record = State<Message, Began>;

#[derive(Clone, Debug)]
enum Value<T> {
    There(T),
    Over,
    Expired,
}

#[derive(Clone, Debug)]
struct Entry<T> {
    revision: u64,
    value: Value<T>,
    expires_at: Option<u64>,
}

/// A write.
#[derive(Clone, Debug)]
pub(crate) enum Write {
    Record(Record, Revision),
    /// By a node; `None`: what is there.
    Progress(NodeId, Option<Progress>, Revision, Option<u32>),
    End(Revision),
}

/// The marker of a session that is over stays for so long, and that of its progress for longer.
const MARKER_MS: u64 = 300_000;
/// The server has written down by then which messages are gone.
const FORGETS_MS: u64 = 120_000;

#[derive(Default)]
pub(crate) struct Store {
    pub(crate) now: u64,
    revision: u64,
    record: Option<Entry<Record>>,
    progress: Option<Entry<Progress>>,
    /// Every record that there was.
    history: Vec<(u64, Record)>,
    /// When the record's key lost its last message to its age.
    emptied_at: Option<u64>,
    /// A leader that knows no later record answers reads until then.
    stale: Option<(u64, u64)>,
    /// Writes that were not answered, and may arrive.
    pub(crate) late: Vec<Write>,
    /// Wills that were published, by the epoch in their message id: the second one of an id is none.
    pub(crate) wills: BTreeMap<Epoch, Message>,
    /// A record of the past is there, and nothing proves that it is one.
    pub(crate) has_brought_back: bool,
    /// A record of the past is there.
    pub(crate) has_brought_any: bool,
    /// The end of life of a record came before its will.
    pub(crate) has_forgotten_a_will: bool,
    /// Epochs of records that a CONNECT has left which was refused: it is what was there before that goes on, or ends.
    pub(crate) refused: BTreeSet<Epoch>,
    pub(crate) violations: Vec<String>,
}

impl Store {
    /// Removes what has reached its end of life.
    fn age(&mut self) {
        let now = self.now;
        let is_old = |at: Option<u64>| at.is_some_and(|at| at <= now);
        if let Some(entry) = self.record.as_mut().filter(|entry| is_old(entry.expires_at)) {
            if let Value::There(record) = &entry.value {
                // Nobody was there to publish it, not even minutes after its session had ended.
                self.has_forgotten_a_will |= record.has_will();
                self.revision += 1;
                *entry = Entry { revision: self.revision, value: Value::Expired, expires_at: Some(now + MARKER_MS) };
            } else {
                self.record = None;
                self.emptied_at = Some(now);
            }
        }
        if self.progress.as_ref().is_some_and(|entry| is_old(entry.expires_at)) {
            self.progress = None;
        }
    }

    fn last(&self) -> Revision {
        Revision(self.record.as_ref().map_or(0, |entry| entry.revision))
    }

    /// What a leader says that may know less than was acknowledged.
    pub(crate) fn load(&mut self) -> (Option<Record>, Revision) {
        self.age();
        if let Some((until, known)) = self.stale
            && self.now < until
            && self.last().0 > known
        {
            let old = self.history.iter().rev().find(|(revision, _)| *revision <= known);
            return old.map_or((None, Revision(0)), |(at, record)| (Some(record.clone()), Revision(*at)));
        }
        self.truth()
    }

    pub(crate) fn truth(&mut self) -> (Option<Record>, Revision) {
        self.age();
        let there = self.record.as_ref().and_then(|entry| match &entry.value {
            Value::There(record) => Some(record.clone()),
            Value::Over | Value::Expired => None,
        });
        (there, self.last())
    }

    pub(crate) fn trace(&mut self) -> Option<(Revision, Trace)> {
        self.age();
        self.progress.as_ref().map(|entry| {
            let trace = match &entry.value {
                Value::There(progress) => Trace::Progress(progress.epoch),
                Value::Over => Trace::Over,
                Value::Expired => Trace::Expired,
            };
            (Revision(entry.revision), trace)
        })
    }

    pub(crate) fn progress(&mut self) -> Option<Progress> {
        self.age();
        self.progress.as_ref().and_then(|entry| match entry.value {
            Value::There(progress) => Some(progress),
            Value::Over | Value::Expired => None,
        })
    }

    /// Carries out a write, if its fence lets it.
    pub(crate) fn write(&mut self, write: &Write) -> Option<Revision> {
        self.age();
        let fence = match write {
            Write::Record(_, fence) | Write::Progress(_, _, fence, _) | Write::End(fence) => *fence,
        };
        if fence != self.last() {
            return None;
        }
        self.judge(write);
        self.revision += 1;
        let at = |ttl_s: Option<u32>, now: u64| ttl_s.map(|s| now + u64::from(s) * 1000);
        match write {
            Write::Record(record, _) => {
                self.history.push((self.revision, record.clone()));
                let expires_at = at(record.ttl_s(ServerTime(self.now)), self.now);
                self.record = Some(Entry { revision: self.revision, value: Value::There(record.clone()), expires_at });
            }
            Write::Progress(node, progress, _, ttl_s) => {
                let owner = self.truth().0.and_then(|record| record.owner);
                if progress.is_some() && owner.as_ref() != Some(node) {
                    self.violations.push(format!("{node:?} writes progress of {owner:?}"));
                }
                let there = self.progress().map(Value::There);
                if let Some(value) = progress.map(Value::There).or(there) {
                    self.progress = Some(Entry { revision: self.revision, value, expires_at: at(*ttl_s, self.now) });
                }
            }
            Write::End(_) => {
                let marker = |longer| Some(self.now + MARKER_MS * longer);
                self.record = Some(Entry { revision: self.revision, value: Value::Over, expires_at: marker(1) });
                self.revision += 1;
                self.progress = Some(Entry { revision: self.revision, value: Value::Over, expires_at: marker(2) });
            }
        }
        Some(Revision(self.revision))
    }

    /// What is wrong with a write that its fence lets through.
    fn judge(&mut self, write: &Write) {
        let (now, before) = (self.now, self.truth().0);
        let fault = match (write, &before) {
            (Write::Record(record, _), before) => {
                // Of what has come back only the last one is known.
                let epochs = self.history.iter().map(|(_, record)| record.epoch).filter(|_| !self.has_brought_any);
                let newest = epochs.chain(before.as_ref().map(|before| before.epoch)).max().unwrap_or_default();
                witness::fault_of(record, before.as_ref(), newest, ServerTime(now))
            }
            (Write::End(_), Some(record)) => {
                let is_promised = !self.has_brought_any && !self.refused.contains(&record.epoch);
                (is_promised && !witness::may_end(record, ServerTime(now))).then_some("a session ends before its time")
            }
            _ => None,
        };
        if let Some(fault) = fault {
            self.violations.push(format!("{fault}: {write:?} in the place of {before:?}"));
        }
    }

    /// A will is stored. The first of an id counts.
    pub(crate) fn publish(&mut self, epoch: Epoch, message: Message) {
        let first = *self.wills.entry(epoch).or_insert(message);
        if first != message {
            self.violations.push(format!("the will of {message} has the id of that of {first}"));
        }
    }

    /// A leader is elected that answers reads before it knows everything.
    pub(crate) fn elect(&mut self, until: u64, behind: u64) {
        self.stale = Some((until, self.revision.saturating_sub(behind)));
    }

    pub(crate) const fn is_calm(&mut self) {
        self.stale = None;
    }

    /// The server is killed, and what it had forgotten is there again.
    pub(crate) fn bring_back(&mut self, drawn: usize) {
        self.age();
        let is_recent = self.emptied_at.is_some_and(|at| self.now < at + FORGETS_MS);
        if self.record.is_none() && is_recent && !self.history.is_empty() {
            let (revision, record) = self.history[drawn % self.history.len()].clone();
            let is_known = record.connected && record.is_of_the_past(Revision(revision), self.trace());
            self.has_brought_back |= !is_known;
            self.has_brought_any = true;
            let expires_at = record.ttl_s(ServerTime(self.now)).map(|s| self.now + u64::from(s) * 1000);
            self.record = Some(Entry { revision, value: Value::There(record), expires_at });
        }
    }
}
