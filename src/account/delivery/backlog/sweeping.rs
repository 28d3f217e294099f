//! What nobody needs any more: backlogs, and what sessions have left beside their records.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream};
use tokio::task::JoinHandle;

use super::plan::is_consumed;
use crate::account::Account;
use crate::store::{BacklogEnd, SessionState};

/// How many backlogs are removed in one sweep, and how many at once.
const SWEEP_MAX: usize = 1_000;
const SWEEP_AT_ONCE: usize = 16;

/// How long what is beside records is left alone behind a sweep, which lists it all: when a session is over that had some,
/// and in any case.
const BESIDES_PAUSE: Duration = Duration::from_secs(10);
const BESIDES_EVERY: Duration = Duration::from_secs(600);

/// When what is beside records was looked at: pages of subscriptions, and wills.
#[derive(Debug, Default)]
pub(super) struct Besides {
    swept_at: Option<Instant>,
    /// A session is over that had pages, since the sweep began, or the sweep has failed.
    is_some_left: bool,
    sweep: Option<Sweep>,
}

/// A sweep of that. It is a task of its own, since it asks for every session that has some, and no backlog waits for it; it ends
/// with our term.
#[derive(Debug)]
struct Sweep {
    task: JoinHandle<()>,
    has_ended: Arc<AtomicBool>,
}

impl Sweep {
    fn begin(account: &Account) -> Self {
        let has_ended = Arc::new(AtomicBool::new(false));
        let (sessions, ended) = (account.store.sessions().clone(), Arc::clone(&has_ended));
        let task = account.store.tasks().spawn(async move {
            match sessions.sweep().await {
                Ok(removed) => {
                    ended.store(true, Ordering::Release);
                    tracing::debug!(removed, "what sessions have left beside their records");
                }
                Err(error) => {
                    tracing::debug!(%error, "what sessions have left beside their records is left to the next sweep");
                }
            }
        });
        Self { task, has_ended }
    }
}

impl Drop for Sweep {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Besides {
    /// Begins to remove what sessions have left that are over, when one is, and now and then for those of which nobody has
    /// heard.
    pub(super) fn look(&mut self, account: &Account) {
        self.is_some_left |= account.census.take_leaves_pages();
        if let Some(sweep) = self.sweep.take_if(|sweep| sweep.task.is_finished()) {
            self.swept_at = Some(Instant::now());
            self.is_some_left |= !sweep.has_ended.load(Ordering::Acquire);
        }
        if self.sweep.is_none() && self.is_due(Instant::now()) {
            self.is_some_left = false;
            self.sweep = Some(Sweep::begin(account));
        }
    }

    fn is_due(&self, now: Instant) -> bool {
        let pause = if self.is_some_left { BESIDES_PAUSE } else { BESIDES_EVERY };
        self.swept_at.is_none_or(|at| now.saturating_duration_since(at) >= pause)
    }
}

/// Removes backlogs that nobody is owed any more. What fails here is found again.
pub(super) async fn sweep(
    account: &Account,
    states: &HashMap<String, SessionState>,
    ends: &HashMap<String, BacklogEnd>,
) {
    let now = account.store.clock().certain();
    let is_wanted = |client_id: &str, end: &BacklogEnd| match states.get(client_id) {
        Some(SessionState { record, .. }) if record.is_too_new() => true,
        Some(SessionState { record, .. }) if record.expiry_s == 0 || record.has_expired(now.0) => false,
        Some(state) => !is_consumed(state, end.log_sequence),
        None => false,
    };
    let unwanted = ends.iter().filter(|(client_id, end)| !is_wanted(client_id, end)).take(SWEEP_MAX);
    let (sessions, backlog) = (account.store.sessions(), account.store.backlog());
    let removed = stream::iter(unwanted).for_each_concurrent(SWEEP_AT_ONCE, |(client_id, end)| async move {
        let remove = async {
            if !states.contains_key(client_id) {
                sessions.clean_up(client_id).await?;
            }
            backlog.purge(client_id, end.stream_sequence).await
        };
        if let Err(error) = remove.await {
            tracing::debug!(client_id, %error, "a backlog that is not wanted is still there");
        }
    });
    removed.await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_beside_records_is_looked_at_soon_when_some_is_left_and_never_all_the_time() {
        let begin = Instant::now();
        let is_due =
            |swept_at, is_some_left, later| Besides { swept_at, is_some_left, sweep: None }.is_due(begin + later);
        assert!(is_due(None, false, Duration::ZERO), "at the begin of a term");
        assert!(!is_due(Some(begin), false, BESIDES_PAUSE) && is_due(Some(begin), false, BESIDES_EVERY));
        assert!(!is_due(Some(begin), true, BESIDES_PAUSE / 2) && is_due(Some(begin), true, BESIDES_PAUSE));
    }
}
