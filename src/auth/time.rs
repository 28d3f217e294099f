//! The time of day, by which JWTs expire.

use std::time::{SystemTime, UNIX_EPOCH};

use mqtt_access::UnixTime;

/// Now, by the clock of this machine.
#[expect(
    clippy::disallowed_methods,
    reason = "whoever verifies a JWT does it by its own clock, as nats-server does, and before there is an account to ask"
)]
pub(crate) fn now() -> UnixTime {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixTime::from_millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}
