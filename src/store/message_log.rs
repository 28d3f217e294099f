//! One log of messages, as whoever publishes and looks for messages sees it: the second of three seams, see ADR 18.

use std::future::Future;

use super::entry::LogEntry;
use super::error::Unavailable;
use super::publisher::Put;

/// A log of messages: what is stored has a sequence, and is read by it.
///
/// # The promise
///
/// **Success.** A message whose sink is told that it is stored is in the log at that sequence, and stays there until the log's
/// own limits take it. Sequences only grow.
///
/// **Order.** Messages of one subject that are handed over one after the other are stored in that order, if both are. While one
/// of them may be stored or lost without anybody's knowing, nothing newer of its subject is sent. Nothing is promised between
/// subjects.
///
/// **Once.** A message with a `Nats-Msg-Id` that the log has seen a while ago, two minutes at least, is not stored again: its
/// sink is told the sequence of the first one, which is marked as a duplicate. Behind that time the id has to be looked for:
/// [`Self::find`].
///
/// **Failure.** [`PutError::Unavailable`](super::PutError::Unavailable) and [`PutError::Withdrawn`](super::PutError::Withdrawn)
/// do not say that the message is not there: an attempt may have been stored, and one on its way may arrive later. So it is
/// sent again under the same id, or looked for, and never published anew. Every other error says that it is not stored.
///
/// **The sink** is told once of each message that was handed over, and never from within [`Self::submit`].
///
/// **Time to live.** A message with `ttl_s` is gone after it, by the store's clock and not before, as if the log had lost it.
///
/// **Reading.** Who answers knows everything that was acknowledged before the question, or does not answer: that a message is not
/// there is never said by somebody who has not heard of it. [`Unavailable`] says nothing.
pub trait MessageLog: Send + Sync {
    /// The right to have one message of a size under way.
    type Permit: Send;

    /// Waits for the right to have a message of so many bytes under way. What is under way is bounded.
    fn permit(&self, bytes: usize) -> impl Future<Output = Self::Permit> + Send;

    /// Hands over a message. Never blocks, never calls the sink, and allocates nothing beside what it keeps of the message.
    fn submit(&self, permit: Self::Permit, put: Put);

    /// The sequence, above `after`, of the first message on a subject of the stream whose `Nats-Msg-Id` is `message_id`; `None`
    /// when it is not there.
    fn find(
        &self,
        subject: &str,
        after: u64,
        message_id: &str,
    ) -> impl Future<Output = Result<Option<u64>, Unavailable>> + Send;

    /// The messages with these sequences, in the order given; those that the log does not have any more are left out.
    fn get_many(&self, sequences: &[u64]) -> impl Future<Output = Result<Vec<LogEntry>, Unavailable>> + Send;

    /// The last sequence at some moment after the call.
    fn last_sequence(&self) -> impl Future<Output = Result<u64, Unavailable>> + Send;
}
