//! Times. A machine is told them; it has no clock.

use std::time::Duration;

/// A time by the clock of the server, milliseconds since the epoch: what records have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerTime(pub u64);

impl ServerTime {
    /// So much later.
    #[must_use]
    pub const fn after(self, duration: Duration) -> Self {
        let ms = duration.as_millis();
        // Longer than there are milliseconds is for ever.
        Self(if ms > u64::MAX as u128 { u64::MAX } else { self.0.saturating_add(ms as u64) })
    }

    /// So much earlier, and not before the epoch.
    #[must_use]
    pub const fn before(self, duration: Duration) -> Self {
        let ms = duration.as_millis();
        Self(if ms > u64::MAX as u128 { 0 } else { self.0.saturating_sub(ms as u64) })
    }

    /// How long it is since then; nothing when that is still to come.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

/// What is known of the server's time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// It is this late at least: what is over by then is over.
    pub earliest: ServerTime,
    /// The same by the clock of every server: what is somebody else's is over only then.
    pub certain: ServerTime,
    /// What is written down for what happens now: not before it happens, so that nothing that is counted from it ends early.
    pub stamp: ServerTime,
}
