//! The name of a connected session.

/// Names one connected session of this sidecar; never used again.
pub(crate) type SessionId = u64;
