//! Our own clock, for what begins and ends in this process. What is stored, or somebody else's, has the server's time:
//! [`ServerClock`](crate::store::ServerClock).

use std::sync::OnceLock;
use std::time::Instant;

use mqtt_session::Time;

/// How late it is by our own clock.
pub(crate) fn uptime() -> Time {
    static STARTED: OnceLock<Instant> = OnceLock::new();
    Time(u64::try_from(STARTED.get_or_init(Instant::now).elapsed().as_millis()).unwrap_or(u64::MAX))
}
