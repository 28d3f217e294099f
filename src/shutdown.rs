//! The one signal that says "drain and end", and what triggers it: SIGTERM, SIGINT, or a part that cannot go on.

use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

/// A signal that comes again within this is the same one: `make` and shells send it to the whole process group, and
/// `make` sends it once more to what it started.
const SAME_SIGNAL: Duration = Duration::from_secs(1);

/// Tells every part of the process to drain and end. Cheap to clone; once triggered it stays triggered.
#[derive(Clone, Debug, Default)]
pub struct ShutdownSignal(CancellationToken);

impl ShutdownSignal {
    /// A signal that nobody has triggered.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks everybody who holds a clone to drain and end.
    pub fn trigger(&self) {
        self.0.cancel();
    }

    /// Whether it was triggered.
    #[must_use]
    pub fn is_triggered(&self) -> bool {
        self.0.is_cancelled()
    }

    /// Resolves when it is triggered, at once when it was before. Safe to drop and to call again.
    pub async fn wait(&self) {
        self.0.cancelled().await;
    }

    /// A signal that follows this one and can be triggered alone.
    #[must_use]
    pub fn child(&self) -> Self {
        Self(self.0.child_token())
    }

    /// Triggers on SIGTERM or SIGINT. A second one ends the process at once with exit code 1: whoever sends it does
    /// not want to wait for the drain.
    pub fn trigger_on_signals(&self) {
        let shutdown = self.clone();
        tokio::spawn(async move {
            let (mut terminate, mut interrupt) = match (
                signal(SignalKind::terminate()),
                signal(SignalKind::interrupt()),
            ) {
                (Ok(terminate), Ok(interrupt)) => (terminate, interrupt),
                (Err(error), _) | (_, Err(error)) => {
                    error!(%error, "cannot watch for SIGTERM and SIGINT: they will end the process without a drain");
                    return;
                }
            };
            let mut drains_since: Option<Instant> = None;
            loop {
                let name = tokio::select! {
                    _ = terminate.recv() => "SIGTERM",
                    _ = interrupt.recv() => "SIGINT",
                };
                match drains_since {
                    None => {
                        info!("{name}: draining; a second signal ends at once");
                        drains_since = Some(Instant::now());
                        shutdown.trigger();
                    }
                    Some(since) if since.elapsed() < SAME_SIGNAL => {}
                    Some(_) => {
                        warn!("{name} again: ending at once");
                        std::process::exit(1);
                    }
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_triggered_signal_stays_triggered_and_reaches_children_only() {
        let parent = ShutdownSignal::new();
        let child = parent.child();
        child.trigger();
        assert!(child.is_triggered() && !parent.is_triggered());
        let other = parent.child();
        parent.trigger();
        other.wait().await;
        other.wait().await;
        assert!(other.is_triggered());
    }
}
