//! What a session that outlives its connection must not forget of its messages. Who stores it, and where, is not here.

use mqtt_codec::{PacketId, QoS};
use mqtt_ownership::Epoch;

use crate::position::{Cursors, Position, Sequence};

/// Numbers the QoS 2 messages of an epoch, in the order in which they came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageNumber(pub u64);

/// Names a QoS 2 message of a client for ever: the epoch of the session that received it, and a number within it; and which
/// secret of the account makes what it is called in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MessageId {
    /// Epoch of the session.
    pub epoch: Epoch,
    /// Number of the message within it.
    pub number: MessageNumber,
    /// The secret, by its number. Zero: of a version before there were any.
    pub key: u32,
}

/// A message that was sent and is not acknowledged in full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InFlightState {
    /// Its packet id.
    pub packet_id: PacketId,
    /// Where it is stored.
    pub position: Position,
    /// The QoS at which it was sent.
    pub qos: QoS,
    /// PUBREC came: PUBREL is what is repeated.
    pub is_released: bool,
}

/// A QoS 2 PUBLISH whose PUBREL has not come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReceivedState {
    /// Its packet id.
    pub packet_id: PacketId,
    /// Names the message.
    pub message: MessageId,
    /// Log sequence before it was stored, if it was: it is above.
    pub after: Sequence,
}

/// The progress of a session. Everything in a log up to its cursor is acknowledged or in flight.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Up to where the session has read, in each log.
    pub cursors: Cursors,
    /// What is in flight to the client, in the order in which it was sent.
    pub in_flight: Vec<InFlightState>,
    /// What is in flight from the client at QoS 2, in the order in which it came.
    pub received: Vec<ReceivedState>,
}

impl Progress {
    /// The log that is always there is another one, which goes on with the sequence `next`.
    pub fn log_restarted(&mut self, next: Sequence) {
        self.cursors.restart(0, next);
        self.in_flight.iter_mut().for_each(|m| m.position = m.position.after_restart(0, next));
        self.received.iter_mut().for_each(|r| r.after = r.after.min(next.before()));
    }
}

/// How soon the progress of a session has to be saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Save {
    /// It is saved.
    No,
    /// When there is time: what is lost may be sent again.
    Lazily,
    /// Something waits for it.
    Now,
}

/// Names a state of the progress of a session on one connection: the number of its last change. What is saved at one has all
/// changes before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProgressVersion(pub u64);

impl ProgressVersion {
    /// Before any change: that is saved.
    pub(crate) const UNCHANGED: Self = Self(0);
}

/// Counts the changes of a progress, and how far they are saved. A session that ends with its connection saves nothing
/// and waits for nothing.
#[derive(Debug)]
pub(crate) struct Durability {
    is_durable: bool,
    changed: ProgressVersion,
    saved: ProgressVersion,
}

impl Durability {
    pub(crate) const fn new(is_durable: bool) -> Self {
        Self { is_durable, changed: ProgressVersion::UNCHANGED, saved: ProgressVersion::UNCHANGED }
    }

    pub(crate) const fn is_durable(&self) -> bool {
        self.is_durable
    }

    /// A change; returns its version.
    pub(crate) const fn change(&mut self) -> ProgressVersion {
        self.changed.0 += 1;
        self.changed
    }

    /// The version of the last change.
    pub(crate) const fn version(&self) -> ProgressVersion {
        self.changed
    }

    /// Everything up to this version is saved.
    pub(crate) fn save(&mut self, version: ProgressVersion) {
        self.saved = self.saved.max(version);
    }

    /// Whether what depends on this version may happen.
    pub(crate) const fn permits(&self, version: ProgressVersion) -> bool {
        !self.is_durable || self.saved.0 >= version.0
    }

    /// Changes that are not saved.
    pub(crate) const fn unsaved(&self) -> u64 {
        if self.is_durable { self.changed.0 - self.saved.0 } else { 0 }
    }
}
