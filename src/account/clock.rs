//! Our own clock, for what begins and ends in this process. What is stored, or somebody else's, has the server's time:
//! [`ServerClock`](crate::store::ServerClock).

use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// A time by our own clock, milliseconds since some moment of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Uptime(pub(crate) u64);

impl Uptime {
    /// It is this late.
    pub(crate) fn now() -> Self {
        static STARTED: OnceLock<Instant> = OnceLock::new();
        Self(u64::try_from(STARTED.get_or_init(Instant::now).elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    /// So much later.
    pub(crate) fn after(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)))
    }

    /// How long it is since then; nothing when that is still to come.
    pub(crate) const fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}
