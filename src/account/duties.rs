//! What goes on for an account until it is told to end, for a drain to wait for.

use crate::tasks::Errands;

/// What a drain waits for, each in its turn.
#[derive(Debug, Default)]
pub(in crate::account) struct Duties {
    /// What somebody has begun with who does not wait for it.
    pub(in crate::account) errands: Errands,
    /// Copying messages of NATS.
    pub(in crate::account) ingest: Errands,
    /// Keeping the backlog, and carrying what NATS clients put.
    pub(in crate::account) led: Errands,
}
