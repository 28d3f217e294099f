//! How many consumers of a stream groups may have. The others are kept: a sidecar that finds none left for its own reader
//! delivers nothing above QoS 0.

use std::sync::Arc;

use crate::store::api::ApiFailure;
use crate::store::error::Unavailable;

/// Consumers of a stream that nats-server allows when the stream does not say.
const CONSUMERS_MAX: u64 = 1_000;
/// Consumers of a stream that are left to sidecars, for which nothing else would do, and to whoever else reads it; at most
/// half of all.
const CONSUMERS_KEPT: u64 = 200;
/// Why there is no consumer.
#[derive(Debug, thiserror::Error)]
pub enum NoConsumer {
    /// JetStream does not answer, or what has its name is of another kind.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
    /// The stream has as many as are left to groups.
    #[error("{stream} has {consumers} consumers, and the others are kept for sidecars")]
    NoRoom {
        /// The stream.
        stream: Arc<str>,
        /// How many it has.
        consumers: u64,
    },
}

impl From<ApiFailure> for NoConsumer {
    fn from(failure: ApiFailure) -> Self {
        Self::Unavailable(failure.into())
    }
}

impl From<NoConsumer> for Unavailable {
    fn from(error: NoConsumer) -> Self {
        match error {
            NoConsumer::Unavailable(error) => error,
            NoConsumer::NoRoom { .. } => Self::new(error),
        }
    }
}

/// How many consumers a stream may have when one more of a group is made. `max_consumers`: as the stream is configured.
pub(super) fn left_to_groups(max_consumers: Option<i64>) -> u64 {
    let configured = max_consumers.and_then(|max| u64::try_from(max).ok()).filter(|max| *max > 0);
    let most = configured.unwrap_or(CONSUMERS_MAX);
    most - CONSUMERS_KEPT.min(most.div_ceil(2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_sidecars_need_is_not_left_to_groups() {
        for (configured, left) in
            [(None, 800), (Some(-1), 800), (Some(2_000), 1_800), (Some(300), 150), (Some(5), 2), (Some(1), 0)]
        {
            assert_eq!(left_to_groups(configured), left, "{configured:?}");
        }
    }
}
