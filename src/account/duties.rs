//! What goes on for an account until it is told to end, for a drain to wait for.

use crate::tasks::Errands;

/// What a drain waits for, each in its turn.
#[derive(Debug, Default)]
pub(in crate::account) struct Duties {
    /// What somebody has begun with who does not wait for it.
    pub(in crate::account) errands: Errands,
    /// What waits for its time, or looks for what others have left: wills of sessions that are ours. Only an account that is retired
    /// waits for it, since our lease goes on.
    pub(in crate::account) waiting: Errands,
    /// What the sidecar that leads does: keeping the backlog, carrying what NATS clients put, copying what they publish.
    pub(in crate::account) led: Errands,
}
