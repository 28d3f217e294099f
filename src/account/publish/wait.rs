//! Publishes are followed until they are settled, with or without a connection that waits for them.

use std::pin::Pin;
use std::time::Duration;

use crate::account::Account;
use crate::account::delivery::mailbox::{Mail, Mailbox, PublishOutcome, Wakes};
use crate::account::publish::{Publishing, Wanted};
use crate::metrics::DropReason;
use crate::store::{Dropped, Permit, SERVERS_DIFFER_MS};

/// How long publishes are followed when nobody waits for them. The store gives up on each before that.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long to wait before the log is looked into again.
const RETRY: Duration = Duration::from_millis(500);

/// What publishing waited for.
pub(crate) enum Done {
    /// A permit.
    Permit(Permit),
    /// Core NATS took a message, or will not.
    Core(Result<(), Dropped>),
    /// The log was looked into: the message is there at this sequence, or not.
    Looked(Option<u64>),
}

/// Something that publishing waits for.
pub(crate) type PublishWait = Pin<Box<dyn Future<Output = Done> + Send>>;

/// Waits for what publishing wants.
pub(crate) fn wait_for(account: &Account, wanted: Option<Wanted>) -> Option<PublishWait> {
    match wanted? {
        Wanted::Permit(bytes) => {
            let publisher = account.store.publisher().clone();
            Some(Box::pin(async move { Done::Permit(publisher.permit(bytes).await) }))
        }
        Wanted::Core(copy) => {
            let core = account.store.core().clone();
            Some(Box::pin(async move {
                let (subject, reply) = (copy.subject.as_text(), copy.reply.as_ref());
                Done::Core(core.publish_wait(subject, reply, &copy.headers, copy.payload).await)
            }))
        }
        Wanted::Look { log, subject, above, epoch, message_id } => {
            let (streams, clock) = (account.store.streams().clone(), account.store.clock().clone());
            Some(Box::pin(async move {
                loop {
                    let find = async {
                        // Where it was received is known in the log that is always there.
                        let above = match (log.number, begins_ms(epoch, clock.earliest_ms())) {
                            (0, _) => above,
                            (_, Some(ms)) => streams.sequence_at(log.log.stream(), ms).await?.saturating_sub(1),
                            (_, None) => 0,
                        };
                        log.log.find(&subject, above, &message_id).await
                    };
                    match find.await {
                        Ok(found) => return Done::Looked(found),
                        Err(_) if log.is_gone() => return Done::Looked(None),
                        Err(error) => tracing::warn!(%error, "the log cannot be looked into"),
                    }
                    tokio::time::sleep(RETRY).await;
                }
            }))
        }
    }
}

/// When what was received in an epoch was stored, at the earliest, milliseconds since the epoch. An epoch is no later than the
/// time at which it began, unless the one before was made by a clock that was ahead: such a one says nothing.
fn begins_ms(epoch: u64, now_ms: u64) -> Option<u64> {
    (epoch <= now_ms).then(|| epoch.saturating_sub(SERVERS_DIFFER_MS))
}

impl Publishing {
    /// What was waited for is there.
    pub(crate) fn take(&mut self, done: Done, account: &Account, wakes: &mut Wakes) {
        match done {
            Done::Permit(permit) => self.resume(permit),
            Done::Core(handed) => {
                self.handed_over();
                if handed.is_err() {
                    account.metrics.dropped(DropReason::NatsUnavailable, 1);
                }
            }
            Done::Looked(found) => self.found(found, wakes),
        }
    }

    /// Follows what was published until all of it is settled, and returns the answers. `None` when that takes too long; it
    /// is given up then.
    pub(crate) async fn settle(
        &mut self,
        account: &Account,
        mailbox: &Mailbox,
        waiting: Option<PublishWait>,
    ) -> Option<Vec<PublishOutcome>> {
        tokio::time::timeout(PATIENCE, self.follow(account, mailbox, waiting)).await.ok()
    }

    async fn follow(
        &mut self,
        account: &Account,
        mailbox: &Mailbox,
        mut waiting: Option<PublishWait>,
    ) -> Vec<PublishOutcome> {
        let mut mail = Mail::default();
        let mut answers = Vec::new();
        let mut wakes = Wakes::default();
        loop {
            mailbox.take(&mut mail);
            for (token, result) in mail.stored.drain(..) {
                self.stored(token, result, &mut answers, &mut wakes);
            }
            self.told(&mut mail.told, &mut answers);
            wakes.wake_all();
            if let Some(wait) = waiting.take() {
                let done = wait.await;
                self.take(done, account, &mut wakes);
                continue;
            }
            waiting = wait_for(account, self.wanted());
            if waiting.is_none() {
                if self.is_idle() {
                    return answers;
                }
                mailbox.notified().await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_that_is_ahead_of_the_server_does_not_say_when_something_was_stored() {
        assert_eq!(begins_ms(1_000_000, 1_000_000), Some(940_000));
        assert_eq!(begins_ms(1_000_001, 1_000_000), None);
        // The server's time is not known.
        assert_eq!(begins_ms(1_000_000, 0), None);
    }
}
