//! What is left in an inbox, and its limits.

use std::collections::VecDeque;
use std::sync::Arc;

use mqtt_session::{Position, Sequence};

use crate::account::delivery::grant::Grant;
use crate::account::delivery::message::Message;
use crate::account::shared::Share;

/// Limits of the lanes.
#[derive(Clone, Copy, Debug)]
pub struct InboxLimits {
    /// Bytes of QoS 0 packets that wait; above, they are dropped.
    pub qos0_bytes: usize,
    /// QoS 1 and 2 messages that wait; above, the session falls behind and reads from the log.
    pub feed_messages: usize,
    /// Bytes of QoS 1 and 2 messages that wait; above, the session falls behind.
    pub feed_bytes: usize,
}

/// A QoS 1 or 2 message and how this session gets it.
#[derive(Clone, Debug)]
pub(crate) struct Outgoing {
    /// The message.
    pub(crate) message: Arc<Message>,
    /// Its copy.
    pub(crate) grant: Grant,
    /// The copies for other subscriptions of the session, where each gets one.
    pub(crate) others: Box<[Grant]>,
    /// The group that gave it, when a shared subscription did.
    pub(crate) share: Option<Share>,
}

/// A log goes on with this sequence, which may have been there before: it was made anew, or has lost its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LogRestart {
    /// Its number.
    pub(crate) log: u16,
    /// Where it goes on.
    pub(crate) next: Sequence,
}

/// What a connection takes out at once.
#[derive(Debug, Default)]
pub(crate) struct Mail {
    /// What shared subscriptions gave, with its position; it stays here until it is taken out.
    pub(crate) shared: VecDeque<(Position, Outgoing)>,
    /// Logs that go on elsewhere.
    pub(crate) restarts: Vec<LogRestart>,
}

impl Mail {
    /// Gives back memory that is not used.
    pub(crate) fn release(&mut self) {
        self.shared.shrink_to_fit();
    }
}
