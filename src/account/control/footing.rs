//! Whose session it is, as far as its record says so.

use mqtt_ownership::{Epoch, Revision};

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
    /// The revision of one that the connection has written; 0 when it has none, or none any more.
    pub(super) written: Revision,
    /// The highest revision that was read, and what was there.
    pub(super) seen: Revision,
    pub(super) record: Option<SeenRecord>,
}

impl Footing {
    pub(super) fn is_displaced(&self, epoch: Epoch) -> bool {
        self.written > Revision(0) && self.seen > self.written && self.record != Some(SeenRecord::Connected(epoch))
    }
}
