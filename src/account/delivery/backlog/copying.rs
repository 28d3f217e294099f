//! From the log into the backlogs of those who are owed it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use mqtt_session::Sequence;
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::failure::Failure;
use super::oldest::Uncounted;
use super::plan::BacklogPlan;
use crate::account::Account;
use crate::account::delivery::message::Message;
use crate::account::publish::convert;
use crate::metrics::DropReason;
use crate::store::{LogEntry, Put, PutError, Stored, StoredSink};

/// Copies that are not acknowledged yet: a part of what the publisher takes, so that clients do not wait for them.
const IN_FLIGHT_MAX: u32 = 128;

/// JetStream error: a limit is reached that refuses what is new.
const STORE_FAILED: u32 = 10077;

/// Reads the log from a sequence up to the horizon, and copies what is owed. Returns how many copies were made, when all are
/// acknowledged. What was stored is said to `uncounted`, also when it fails.
pub(super) async fn copy(
    account: &Arc<Account>,
    owed: &BacklogPlan,
    from: Sequence,
    horizon: Sequence,
    uncounted: &mut Uncounted,
) -> Result<u64, Failure> {
    let copies = Arc::new(Copies::default());
    let handed_over = hand_over(account, owed, from, horizon, &copies).await;
    // Whatever failed, each copy has its answer, or will have none.
    let made = copies.all(account, owed, uncounted).await;
    handed_over?;
    Ok(made?)
}

async fn hand_over(
    account: &Arc<Account>,
    owed: &BacklogPlan,
    from: Sequence,
    horizon: Sequence,
    copies: &Arc<Copies>,
) -> Result<(), Failure> {
    let mut scan = account.store.log().scan(from.0);
    let mut recipients = Vec::new();
    while Sequence(scan.position()) <= horizon {
        let batch = scan.next().await?;
        for entry in batch.iter().take_while(|entry| Sequence(entry.sequence) <= horizon) {
            let Some((ttl_s, is_hidden, message)) = live(account, entry) else { continue };
            owed.matching(Sequence(entry.sequence), &message, is_hidden, &mut recipients);
            for recipient in &recipients {
                copies.put(account, entry, *recipient, owed.client_id(*recipient), ttl_s).await?;
            }
        }
        if scan.is_caught_up() {
            break;
        }
    }
    Ok(())
}

/// A message of the log with what is left of its life, in seconds, unless nobody is to have it.
fn live(account: &Account, entry: &LogEntry) -> Option<(Option<u32>, bool, Message)> {
    let closed = account.router.closed();
    if closed.is_closed_subject(entry.subject()) {
        return None;
    }
    let message = convert::from_log(entry, convert::STORED, false, None).ok()?;
    match message.expiry(account.store.clock().earliest()) {
        Ok(Some(0)) | Err(_) => None,
        Ok(ttl_s) => Some((ttl_s, closed.hides_topic_from_wildcard(&message.topic), message)),
    }
}

/// Copies under way, and what became of them.
#[derive(Debug)]
struct Copies {
    room: Semaphore,
    outcome: Mutex<Outcome>,
}

#[derive(Debug, Default)]
struct Outcome {
    /// By recipient.
    stored: HashMap<u32, u64>,
    /// Recipient and sequence of what has no answer yet, by token.
    under_way: HashMap<u64, (u32, Sequence)>,
    last_token: u64,
    /// Recipient and sequence of what has none and will have none.
    in_doubt: Vec<(u32, Sequence)>,
    /// Recipient and sequence of what was refused: it is not there, and what was handed over behind it may be.
    refused: Vec<(u32, Sequence)>,
    /// Sessions whose queue takes nothing more, and what was dropped for that.
    full: HashSet<u32>,
    queue_full: u64,
    too_large: u64,
    failed: Option<PutError>,
}

impl Default for Copies {
    fn default() -> Self {
        Self { room: Semaphore::new(IN_FLIGHT_MAX as usize), outcome: Mutex::default() }
    }
}

impl Copies {
    /// Hands over one copy, when there is room. Fails when one before it has.
    async fn put(
        self: &Arc<Self>,
        account: &Account,
        entry: &LogEntry,
        recipient: u32,
        client_id: &str,
        ttl_s: Option<u32>,
    ) -> Result<(), PutError> {
        {
            let mut outcome = self.outcome.lock();
            if let Some(error) = outcome.failed.clone() {
                return Err(error);
            }
            if outcome.full.contains(&recipient) {
                outcome.queue_full += 1;
                return Ok(());
            }
        }
        let Some((target, headers)) = account.store.backlog().copy_of(entry, client_id) else { return Ok(()) };
        let bytes = entry.payload.len() + headers.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
        let publisher = account.store.publisher();
        // Never closed, so an error cannot occur.
        if let Ok(room) = self.room.acquire().await {
            room.forget();
        }
        let permit = publisher.permit(bytes).await;
        let token = self.outcome.lock().begin(recipient, Sequence(entry.sequence));
        let sink = Arc::clone(self) as Arc<dyn StoredSink>;
        let payload = entry.payload.clone();
        publisher
            .submit(permit, Put { target, headers, payload, ttl_s, expected_last: None, guard: None, sink, token });
        Ok(())
    }

    /// Waits until each has its answer. Returns how many were stored, when all were.
    async fn all(&self, account: &Account, owed: &BacklogPlan, uncounted: &mut Uncounted) -> Result<u64, PutError> {
        let _all = self.room.acquire_many(IN_FLIGHT_MAX).await;
        let outcome = std::mem::take(&mut *self.outcome.lock());
        outcome.stored.iter().for_each(|(recipient, count)| uncounted.stored(owed.client_id(*recipient), *count));
        for (recipient, sequence) in outcome.in_doubt {
            uncounted.in_doubt(owed.client_id(recipient), sequence);
        }
        for (recipient, sequence) in outcome.refused {
            uncounted.refused(owed.client_id(recipient), sequence);
        }
        if let Some(error) = outcome.failed {
            return Err(error);
        }
        // Another pass would have dropped them again.
        for (reason, count) in [(DropReason::QueueFull, outcome.queue_full), (DropReason::TooLarge, outcome.too_large)]
        {
            if count > 0 {
                account.metrics.dropped(reason, count);
            }
        }
        Ok(outcome.stored.values().sum())
    }
}

impl Outcome {
    /// A copy is handed over. Its token.
    fn begin(&mut self, recipient: u32, sequence: Sequence) -> u64 {
        self.last_token += 1;
        self.under_way.insert(self.last_token, (recipient, sequence));
        self.last_token
    }
}

impl StoredSink for Copies {
    fn stored(&self, token: u64, result: Result<Stored, PutError>) {
        let mut outcome = self.outcome.lock();
        let Some((recipient, sequence)) = outcome.under_way.remove(&token) else { return };
        match result {
            Ok(_) => *outcome.stored.entry(recipient).or_default() += 1,
            Err(PutError::Full { code: STORE_FAILED, .. }) => {
                outcome.full.insert(recipient);
                outcome.queue_full += 1;
            }
            // No other attempt would be better.
            Err(PutError::TooLarge | PutError::Invalid { .. }) => outcome.too_large += 1,
            Err(error) => {
                match error {
                    PutError::Rejected { .. } | PutError::Full { .. } => outcome.refused.push((recipient, sequence)),
                    _ => outcome.in_doubt.push((recipient, sequence)),
                }
                outcome.failed = Some(error);
            }
        }
        drop(outcome);
        self.room.add_permits(1);
    }

    fn flush(&self) {}
}
