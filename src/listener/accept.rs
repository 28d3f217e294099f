//! The loop that takes connections. At the limit of handshakes the oldest one of the address that has most makes room; who is
//! refused for another limit is told so, or closed at once (`reception`). What the system refuses (no more files, no more memory)
//! is tried again later.

use std::{io, sync::Arc, time::Duration};

use tokio_util::task::TaskTracker;
use tracing::warn;

use super::listening::ListeningSocket;
use super::reception::Seldom;
use super::{Bound, Dispatch, Serve};
use crate::shutdown::ShutdownSignal;

const BACKOFF_MIN: Duration = Duration::from_millis(10);
const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// A bound listener before it runs.
pub(super) struct Acceptor {
    pub(super) bound: Bound,
    pub(super) socket: Arc<ListeningSocket>,
}

impl Acceptor {
    /// Accepts until shutdown; connections run as tasks of `connections`.
    pub(super) async fn run<H: Serve>(self, dispatch: Dispatch<H>, connections: TaskTracker, shutdown: ShutdownSignal) {
        let listener = &*self.bound.entrance.name;
        let mut failed = Seldom::default();
        let mut backoff = BACKOFF_MIN;
        while let Some(accepted) = tokio::select! {
            biased;
            () = shutdown.wait() => None,
            accepted = self.socket.accept() => Some(accepted),
        } {
            let accepted = match accepted {
                Ok(accepted) => accepted,
                Err(error) if is_of_the_connection(&error) => continue,
                Err(error) => {
                    if let Some(suppressed) = failed.due() {
                        warn!(listener, %error, suppressed, "cannot accept; trying again");
                    }
                    tokio::select! {
                        () = shutdown.wait() => break,
                        () = tokio::time::sleep(backoff) => {}
                    }
                    backoff = (backoff * 2).min(BACKOFF_MAX);
                    continue;
                }
            };
            backoff = BACKOFF_MIN;
            // Of a process that is gone already nothing is known.
            let Ok(addr) = accepted.peer(&self.bound.entrance) else { continue };
            if let Some((peer, taken)) = dispatch.way.take(addr) {
                connections.spawn(dispatch.clone().run(accepted.into_stream(), peer, taken));
            }
        }
    }
}

/// The error is about the one connection that would have been accepted; the next one may be fine.
fn is_of_the_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted, TimedOut};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted | TimedOut)
}
