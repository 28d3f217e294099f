//! What drives publishing: one driver for a connection, whose loop has more to wait for, for wills, for answers to requests, and
//! for what is left when a connection ends.
//!
//! ```text
//! publish, complete -> begin_wait -> (progress, or poll_wait and resume) -> complete -> ...
//! ```

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use mqtt_ownership::Epoch;
use mqtt_session::{Sequence, Token};

use super::Publishing;
use super::completions::PublishOutcome;
use super::job::{Done, Prerequisite, PublishWait};
use crate::account::Account;
use crate::account::delivery::inbox::Wakes;
use crate::metrics::DropReason;
use crate::store::SERVERS_DIFFER_MS;

/// How long publishes are followed when nobody waits for them. The store gives up on each before that.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long to wait before the log is looked into again.
const RETRY: Duration = Duration::from_millis(500);

/// Waits for what publishing wants.
fn wait_for(account: &Account, awaited: Prerequisite) -> PublishWait {
    match awaited {
        Prerequisite::Permit(bytes) => {
            let publisher = account.store.publisher().clone();
            Box::pin(async move { Done::Permit(publisher.permit(bytes).await) })
        }
        Prerequisite::Core(copy) => {
            let core = account.store.core().clone();
            Box::pin(async move {
                let (subject, reply) = (copy.subject.as_text(), copy.reply.as_ref());
                Done::Core(core.publish_wait(subject, reply, &copy.headers, copy.payload).await)
            })
        }
        Prerequisite::Look { log, subject, above, epoch, message_id } => {
            let (streams, clock) = (account.store.streams().clone(), account.store.clock().clone());
            Box::pin(async move {
                loop {
                    let find = async {
                        // Where it was received is known in the log that is always there.
                        let above = match (log.number, begins_ms(epoch, clock.earliest().0)) {
                            (0, _) => above,
                            (_, Some(ms)) => streams.sequence_at(log.log.stream(), ms).await.map(Sequence)?.before(),
                            (_, None) => Sequence(0),
                        };
                        log.log.find(&subject, above.0, &message_id).await
                    };
                    match find.await {
                        Ok(found) => return Done::Looked(found.map(Sequence)),
                        Err(_) if log.is_gone() => return Done::Looked(None),
                        Err(error) => tracing::warn!(%error, "the log cannot be looked into"),
                    }
                    tokio::time::sleep(RETRY).await;
                }
            })
        }
    }
}

/// When what was received in an epoch was stored, at the earliest, milliseconds since the epoch. An epoch is no later than the
/// time at which it began, unless the one before was made by a clock that was ahead: such a one says nothing.
fn begins_ms(Epoch(epoch): Epoch, now_ms: u64) -> Option<u64> {
    (epoch <= now_ms).then(|| epoch.saturating_sub(SERVERS_DIFFER_MS))
}

impl Publishing {
    /// Whether something has to come before more can be published.
    pub(crate) const fn is_waiting(&self) -> bool {
        self.waiting.is_some()
    }

    /// Begins to wait for what has to come, if anything, unless it is waited for already.
    pub(crate) fn begin_wait(&mut self) {
        if self.waiting.is_none() {
            self.waiting = self.prerequisite().map(|awaited| wait_for(&self.account, awaited));
        }
    }

    /// Waits for what has to come, which is for [`Self::resume`] then.
    pub(crate) fn poll_wait(&mut self, cx: &mut Context<'_>) -> Poll<Done> {
        let Some(waiting) = &mut self.waiting else { return Poll::Pending };
        let done = waiting.as_mut().poll(cx);
        if done.is_ready() {
            self.waiting = None;
        }
        done
    }

    /// What was waited for is there.
    pub(crate) fn resume(&mut self, done: Done, wakes: &mut Wakes) {
        match done {
            Done::Permit(permit) => self.permitted(permit),
            Done::Core(handed) => {
                self.handed_over();
                if handed.is_err() {
                    self.account.metrics.dropped(DropReason::NatsUnavailable, 1);
                }
            }
            Done::Looked(found) => self.found(found, wakes),
        }
    }

    /// Takes what is completed, and appends the answers. `not_published` is told of each publish of which something else than
    /// the store decided that it goes nowhere.
    pub(crate) fn complete(
        &mut self,
        answers: &mut Vec<PublishOutcome>,
        wakes: &mut Wakes,
        not_published: impl FnMut(Token),
    ) {
        let mut completed = std::mem::take(&mut self.completed);
        self.completions.take(&mut completed);
        for (token, result) in completed.stored.drain(..) {
            self.stored(token, result, answers, wakes);
        }
        let failed = completed.reported.iter().filter(|(_, result)| result.is_err());
        failed.map(|(token, _)| *token).for_each(not_published);
        self.unreported = self.unreported.saturating_sub(completed.reported.len());
        answers.append(&mut completed.reported);
        self.completed = completed;
    }

    /// Waits until there is something to complete, or something came that was waited for. Nothing is lost of one that is given
    /// up.
    pub(crate) async fn progress(&mut self, wakes: &mut Wakes) {
        let completions = Arc::clone(&self.completions);
        tokio::select! {
            done = poll_fn(|cx| self.poll_wait(cx)) => self.resume(done, wakes),
            () = completions.notified() => {}
        }
    }

    /// Follows what was published until all of it is settled, and returns the answers. `None` when that takes too long; it
    /// is given up then.
    pub(crate) async fn settle(&mut self) -> Option<Vec<PublishOutcome>> {
        tokio::time::timeout(PATIENCE, self.follow()).await.ok()
    }

    async fn follow(&mut self) -> Vec<PublishOutcome> {
        let (mut answers, mut wakes) = (Vec::new(), Wakes::default());
        loop {
            self.complete(&mut answers, &mut wakes, |_| ());
            wakes.wake_all();
            self.begin_wait();
            if self.is_idle() && !self.is_waiting() {
                return answers;
            }
            self.progress(&mut wakes).await;
        }
    }

    /// Gives back memory that is not used.
    pub(crate) fn release_memory(&mut self) {
        self.completions.release();
        self.completed.release();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_that_is_ahead_of_the_server_does_not_say_when_something_was_stored() {
        assert_eq!(begins_ms(Epoch(1_000_000), 1_000_000), Some(940_000));
        assert_eq!(begins_ms(Epoch(1_000_001), 1_000_000), None);
        // The server's time is not known.
        assert_eq!(begins_ms(Epoch(1_000_000), 0), None);
    }
}
