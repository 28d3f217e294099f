//! What a lane is made of, and what it asks for.

use std::time::Instant;

/// Why a message was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store::publisher) enum GaveUp {
    /// The last answer was that no stream has the subject.
    NoStream,
    /// There was no answer.
    Silence,
}

/// Names one copy of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store::publisher) struct Token {
    pub(in crate::store::publisher) number: u64,
    pub(in crate::store::publisher) attempt: u32,
}

/// A message that is pushed.
#[derive(Debug)]
pub(in crate::store::publisher) struct Entry<T> {
    pub(in crate::store::publisher) item: T,
    /// Stands for its subject: the same for the same subject.
    pub(in crate::store::publisher) subject: u64,
    /// Told from every other message in the stream by this.
    pub(in crate::store::publisher) id: u64,
    /// The sequence that the last message of its subject must have, when the sender says so.
    pub(in crate::store::publisher) expected_last: Option<u64>,
}

/// What is to be done now.
#[derive(Debug)]
pub(in crate::store::publisher) enum Step<'a, T> {
    /// The item is to be sent.
    Send {
        token: Token,
        item: &'a T,
        /// What it is told by from every other message.
        id: u64,
        /// On the condition that the last message of its subject has this sequence.
        expected_last: Option<u64>,
    },
    /// The leader is to be asked about the item's subject.
    Look { token: AskToken, item: &'a T, ask: Ask },
    /// It would have to be sent, and nobody wants it any more.
    Withdrawn(T),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Behind others of its subject.
    Waiting,
    /// In the line of what may be sent.
    Ready,
    /// A copy may be somewhere, or may be stored.
    Sent,
}

/// A question to the leader about a subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store::publisher) enum Ask {
    /// Its last message.
    Last,
    /// Its first message at this sequence or behind it.
    From(u64),
}

/// The answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store::publisher) enum Found {
    /// A message.
    Message {
        /// Its sequence.
        sequence: u64,
        /// Its id, when it has one of ours.
        id: Option<u64>,
    },
    /// There is none.
    Nothing,
}

/// Names a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store::publisher) struct AskToken {
    pub(in crate::store::publisher) subject: u64,
    pub(in crate::store::publisher) attempt: u32,
}

/// What a look has found out about an item.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::store::publisher) enum Resolved<T> {
    /// It is stored, at this sequence.
    Stored(T, u64),
    /// It is not, and cannot be: it was to follow another message than the last one, which has this sequence.
    Overtaken(T, u64),
}

/// The one thing that is tried while the lane is in doubt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Probe {
    /// A message, of a subject that is not in doubt.
    Message(Token),
    /// A subject is settled.
    Subject(u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// To be asked.
    Look(Ask),
    Asked {
        ask: Ask,
        attempt: u32,
        at: Instant,
    },
    /// The first that is not there is to be sent, behind this sequence.
    Repeat {
        behind: Option<u64>,
    },
    Repeated {
        token: Token,
        at: Instant,
    },
}

/// How far a subject in doubt is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Settling {
    pub(super) phase: Phase,
    pub(super) not_before: Instant,
    /// The highest sequence that a look has seen.
    pub(super) last: u64,
    pub(super) walked: u32,
}

impl Settling {
    pub(super) const fn new(now: Instant) -> Self {
        Self { phase: Phase::Look(Ask::Last), not_before: now, last: 0, walked: 0 }
    }

    pub(super) const fn is_answer_due(&self) -> bool {
        matches!(self.phase, Phase::Asked { .. } | Phase::Repeated { .. })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Open,
    /// Since when; one thing at a time, the next not before `at`.
    Doubt {
        since: Instant,
        at: Instant,
        probe: Option<Probe>,
    },
}
