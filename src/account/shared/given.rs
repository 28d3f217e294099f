//! A message that a group gave to a session, as the session holds it. It says what becomes of it without knowing the group.

use std::fmt::Debug;
use std::sync::Arc;

use bytestring::ByteString;
use mqtt_session::Position;

use crate::store::ShareAnswer;

/// Whose a message is that a member was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hold {
    /// The connection's: when that is over it is for others.
    Connection,
    /// The session's, which outlives the connection.
    Session,
    /// It is not known yet, and somebody else will say.
    Doubt,
}

/// Whoever gave a message away.
pub(crate) trait Giver: Debug + Send + Sync {
    /// The message at this position is done with; `answer` is what its consumer is told.
    fn finish(&self, position: Position, answer: Option<ShareAnswer>);
    /// Where the consumer is told what becomes of it; `None` when nobody has to tell it.
    fn ack(&self, position: Position) -> Option<ByteString>;
    /// Says whose it is from now on.
    fn set_hold(&self, position: Position, hold: Hold);
}

/// A message that a group gave to a session.
#[derive(Clone, Debug)]
pub(crate) struct Share {
    giver: Arc<dyn Giver>,
    position: Position,
}

impl Share {
    /// The message at this position.
    pub(super) const fn new(giver: Arc<dyn Giver>, position: Position) -> Self {
        Self { giver, position }
    }

    /// Its place.
    pub(super) const fn position(&self) -> Position {
        self.position
    }

    /// The session has acknowledged the message, or will not get it, and nobody else is to get it.
    pub(crate) fn done(&self) {
        self.giver.finish(self.position, Some(ShareAnswer::Ack));
    }

    /// The session does not have it after all, and somebody else is to get it.
    pub(crate) fn give_back(&self) {
        self.giver.finish(self.position, Some(ShareAnswer::Nak));
    }

    /// The consumer knows what became of it, or will find out.
    pub(crate) fn settled(&self) {
        self.giver.finish(self.position, None);
    }

    /// Where the consumer is told what becomes of it; `None` when nobody has to tell it.
    pub(crate) fn ack(&self) -> Option<ByteString> {
        self.giver.ack(self.position)
    }

    /// It is saved that the session has it: whatever becomes of the connection, nobody else gets it.
    pub(crate) fn keep(&self) {
        self.giver.set_hold(self.position, Hold::Session);
    }

    /// The connection is over, and it may be saved that the session has it. Somebody will say: [`Self::give_back`] or
    /// [`Self::settled`].
    pub(crate) fn doubt(&self) {
        self.giver.set_hold(self.position, Hold::Doubt);
    }
}
