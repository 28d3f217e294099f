//! Whose session it is, as far as its record says so.

use mqtt_ownership::Epoch;

/// What was read of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SeenRecord {
    /// The connection of this epoch is there.
    Connected(Epoch),
    /// It is not any more.
    Left(Epoch),
    /// There is no session.
    Ended,
}

/// What is known of the record of a connection's session.
#[derive(Debug, Default)]
pub(super) struct Footing {
    /// The sequence of one that the connection has written; 0 when it has none, or none any more.
    pub(super) written: u64,
    /// The highest sequence that was read, and what was there.
    pub(super) seen: u64,
    pub(super) record: Option<SeenRecord>,
}

impl Footing {
    pub(super) fn is_displaced(&self, epoch: Epoch) -> bool {
        self.written > 0 && self.seen > self.written && self.record != Some(SeenRecord::Connected(epoch))
    }
}
