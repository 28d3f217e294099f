//! What machines are told, and what they say.

use super::state::{Epoch, NodeId, Revision, State, Trace, Will};
use super::time::ServerTime;

/// What became of a will that was to be published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WillOutcome {
    /// It is stored, or may not be published by anybody.
    Done,
    /// It was refused, for a reason that may pass: a stream without a leader looks like none.
    Refused,
    /// Nobody answered.
    NotNow,
}

/// What happened. All but the last three answer the output before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input<W, R, P> {
    /// What is there, at the leader; the record is `None` when a marker or nothing has its place.
    Loaded(Option<State<W, R>>, Revision),
    /// What stands under the key of the session's progress.
    Traced(Option<(Revision, Trace)>),
    /// It is written, with this revision.
    Written(Revision),
    /// Another revision was there than the one that was expected. Of a record: it has never been there, every attempt to
    /// write it was refused. Of progress and of an end: or our own write was, whose answer was lost.
    Fenced,
    /// There was no answer. What was to be written may be, even a while later.
    NotNow,
    /// It is larger than can be written.
    TooLarge,
    /// What is there was written by a newer version, and is left alone.
    TooNew,
    /// What is there is a session of somebody who shares it with nobody, and is left alone.
    OfAnother,
    /// What the old owners had in memory, the newest of it.
    HandedOver(Option<P>),
    /// The progress is saved; whether an attempt may arrive once more, after a later save.
    ProgressSaved {
        /// It may.
        again: bool,
    },
    /// See [`WillOutcome`].
    WillPublished(WillOutcome),
    /// The wait is over.
    Time,
    /// Somebody newer wants the client id.
    Preempted,
    /// The connection is gone. A claim that is not written is given up; one that is goes on, for its client may have been
    /// accepted as far as others know.
    ConnectionGone,
    /// It takes too long, or we are about to end.
    Cancelled,
}

/// What is to be done, one thing at a time. The answer is an [`Input`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output<W, R, P> {
    /// Read the record at the leader; `again` after a pause.
    Load {
        /// After a pause.
        again: bool,
    },
    /// Look what stands under the key of the session's progress.
    Trace,
    /// Write the record if the revision of what is there is this one.
    Put {
        /// What is written.
        state: Box<State<W, R>>,
        /// What is expected.
        expected: Revision,
    },
    /// Write the progress if the record has this revision.
    PutProgress {
        /// What is written; `None`: what is there, with another life time.
        progress: Option<P>,
        /// The record's.
        fence: Revision,
        /// Its lifetime, seconds.
        ttl_s: Option<u32>,
    },
    /// End the session if the record has this revision.
    End(Revision),
    /// Have nodes end their connections, and hand over.
    AskNodes {
        /// These.
        nodes: Vec<NodeId>,
        /// Their connections of an epoch before this one.
        before: Epoch,
        /// The last owner's. What an earlier one hands over counts only when nothing newer is saved: it may have lost the
        /// session to somebody who has saved and left since.
        last: Epoch,
    },
    /// Publish a will; `again` after a pause.
    PublishWill {
        /// The will.
        will: Will<W>,
        /// That of the connection that had it.
        epoch: Epoch,
        /// After a pause.
        again: bool,
    },
    /// Wait until this time.
    Wait(ServerTime),
}

/// What a machine says to an input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step<W, R, P, D> {
    /// This is to be done, and its answer told.
    Do(Output<W, R, P>),
    /// Nothing beside what is under way.
    Wait,
    /// It is over.
    Done(D),
}
