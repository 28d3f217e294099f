//! A start waits for JetStream as it waits for nats-server itself: a leader that is not there now, or an answer that was
//! lost, is no reason to end.

use std::time::Duration;

use crate::store::Unavailable;

/// How long to wait before JetStream is asked again.
const RETRY: Duration = Duration::from_secs(1);

/// Asks until there is an answer.
pub(super) async fn answered<T>(ask: impl AsyncFn() -> Result<T, Unavailable>) -> T {
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(error) => tracing::warn!(%error, "waiting for JetStream"),
        }
        tokio::time::sleep(RETRY).await;
    }
}
