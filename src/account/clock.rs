//! Our own clock, for what begins and ends in this process. What is stored, or somebody else's, has the server's time:
//! [`ServerClock`](crate::store::ServerClock).

use std::sync::OnceLock;
use std::time::Instant;

/// Milliseconds since some moment of this process.
pub(crate) fn uptime_ms() -> u64 {
    static STARTED: OnceLock<Instant> = OnceLock::new();
    u64::try_from(STARTED.get_or_init(Instant::now).elapsed().as_millis()).unwrap_or(u64::MAX)
}
