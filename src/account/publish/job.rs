//! What is published, on its way: the types that its stages share.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use bytestring::ByteString;
use mqtt_codec::ReasonCode;
use mqtt_ownership::{Epoch, ServerTime};
use mqtt_session::{Publication, Sequence};
use proto_map::{HeaderError, Headers, Subject};

use crate::account::delivery::logs::{LogHandle, LogsVersion};
use crate::store::{Dropped, Permit};

/// Names one publish of a connection to the store: its place in the order in which they went there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct PutToken(pub(super) u64);

/// A publish whose topic was mapped.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) publication: Publication,
    pub(super) route: Route,
    /// Sequence in the retained bucket, once it is stored there.
    pub(super) retained_at: Option<Sequence>,
    /// When its Message Expiry Interval begins to run.
    pub(super) since: ServerTime,
    pub(super) began: Instant,
    pub(super) stage: Stage,
    /// It may be in the log already, above this sequence.
    pub(super) maybe_above: Option<Sequence>,
    /// It is in the log, at this sequence; what is left is the bucket.
    pub(super) logged_at: Option<Sequence>,
}

/// Where a topic leads.
#[derive(Clone, Debug)]
pub(super) struct Route {
    pub(super) subject: Subject,
    /// The subject is not the topic as nats-server maps it.
    pub(super) is_escaped: bool,
    /// The log that owns the subject.
    pub(super) log: Arc<LogHandle>,
    /// [`Logs::version`](crate::account::delivery::logs::Logs::version) by which it does.
    pub(super) version: LogsVersion,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Bucket,
    Log,
}

/// A message that cannot be handed to the store.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unstorable {
    /// Its properties are larger than headers may be.
    #[error(transparent)]
    Headers(#[from] HeaderError),
    /// Its topic is longer than the key of a bucket may be.
    #[error(transparent)]
    Key(#[from] proto_map::MapError),
}

/// What has to come before more can be published.
#[derive(Debug)]
pub(super) enum Prerequisite {
    /// The message may be in the log already, above this sequence: it is to be looked for there by its subject and its
    /// id, for [`super::Publishing::found`].
    Look {
        /// The log.
        log: Arc<LogHandle>,
        /// Subject in the log.
        subject: ByteString,
        /// Its sequence, if it is there, is above.
        above: Sequence,
        /// The epoch in which it was received. It was not received before: in other logs that says where.
        epoch: Epoch,
        /// Its `Nats-Msg-Id`.
        message_id: ByteString,
    },
    /// The account has as many messages in flight as it may: a permit for this many bytes.
    Permit(usize),
    /// The connection to NATS took nothing: this is to be sent.
    Core(CoreCopy),
}

/// What publishing waited for.
pub(crate) enum Done {
    /// A permit.
    Permit(Permit),
    /// Core NATS took a message, or will not.
    Core(Result<(), Dropped>),
    /// The log was looked into: the message is there at this sequence, or not.
    Looked(Option<Sequence>),
}

/// Something that publishing waits for.
pub(super) type PublishWait = Pin<Box<dyn Future<Output = Done> + Send>>;

/// A client may not publish this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// The topic leads into a tree that is closed to devices.
    Closed,
    /// The client may not publish there, or not so.
    Denied,
    /// It would have to be stored, and the account has no JetStream.
    Unstored(ReasonCode),
    /// It is the answer to a request, and too late.
    Late,
    /// The topic has no subject.
    Unmappable(ReasonCode),
    /// NATS does not take headers, keys or messages of this size.
    TooLarge,
    /// Its payload is larger than its client may send.
    OverPayload,
    /// There are as many as there may be.
    NoRoom,
    /// There is no room for it among the retained messages.
    OverLimit,
}

/// A message for core NATS.
#[derive(Debug)]
pub(crate) struct CoreCopy {
    /// Its subject.
    pub(crate) subject: Subject,
    /// Where an answer is expected.
    pub(crate) reply: Option<ByteString>,
    /// Its headers.
    pub(crate) headers: Headers,
    /// Its payload.
    pub(crate) payload: bytes::Bytes,
}

/// How the messages of a connection say whose they are.
#[derive(Debug)]
pub(super) struct EpochText {
    pub(super) made_for: Epoch,
    /// Where sidecars alone write.
    pub(super) plain: ByteString,
    /// Where others write too.
    pub(super) sealed: ByteString,
}
