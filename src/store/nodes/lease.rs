//! One lease: taken, refreshed, lost or released.
//!
//! ```text
//!   sent ─────────── refresh_every ──▶ next one is sent …
//!   sent ──────────────────── fence_after ──▶ the holder gives up, unless a later one was acknowledged
//!   stored ───────────────────────────────────── ttl ──▶ the server lets it expire, and the others see that
//! ```
//!
//! **Invariant:** what counts for the holder is when the last refresh that was acknowledged was *sent*, so `sent ≤ stored`
//! and, with `fence_after` below `ttl`, it gives up before anybody can see the lease as ended, however long the
//! acknowledgement took.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use bytestring::ByteString;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::{Grip, LeaseTimes, NodeInfo, Nodes, Shared};
use crate::store::bucket::{Bucket, Fence, Pause, Value, Write, new_write_id};
use crate::store::error::{Unavailable, WriteError};
use crate::store::sessions::RECORD_VERSION;

/// How long the marker of a lease that was released stays, seconds: long enough for all who are there to see it, and for
/// one that starts meanwhile.
const RELEASED_TTL_S: u32 = 600;
/// Refreshes whose acknowledgement is still of interest.
const SENT_MAX: usize = 16;

/// Whether a lease is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseState {
    /// It is, as far as we know, and for a while at least.
    Held,
    /// It was not refreshed in time, or somebody else has it. This is final.
    Lost,
}

/// Takes and refreshes one key.
#[derive(Clone, Debug)]
pub(super) struct Keeper {
    bucket: Bucket,
    subject: ByteString,
    value: Bytes,
    times: LeaseTimes,
    /// Begins the ids of our writes.
    boot: Arc<str>,
}

impl Keeper {
    pub(super) fn new(shared: &Shared, subject: ByteString, value: Bytes, boot: &str) -> Self {
        Self { bucket: shared.bucket.clone(), subject, value, times: shared.times, boot: Arc::from(boot) }
    }

    pub(super) fn is_held(&self, grip: &Grip) -> bool {
        grip.sent.elapsed() < self.times.fence_after
    }

    /// Takes the lease; with `by_force` also when somebody has it. `None`: somebody has it, or was faster.
    pub(super) async fn take(&self, by_force: bool) -> Result<Option<Grip>, Unavailable> {
        let last = self.bucket.last(&self.subject).await?;
        let is_held = last.as_ref().is_some_and(|last| last.value().is_some());
        if is_held && !by_force {
            return Ok(None);
        }
        if is_held {
            tracing::warn!(lease = %self.subject, "taking over a lease that was not released");
        }
        let sent = Instant::now();
        let expected = last.map_or(0, |last| last.sequence);
        match self.put(expected, 0, sent + self.times.fence_after).await {
            Ok(sequence) => Ok(Some(Grip { sequence, sent })),
            Err(WriteError::Fenced) => Ok(None),
            Err(error) => Err(Unavailable::new(error)),
        }
    }

    async fn put(&self, expected: u64, number: u64, deadline: Instant) -> Result<u64, WriteError> {
        let value = Value::Put(self.value.clone());
        let fence = Fence::Own(expected);
        let write = Write { subject: &self.subject, value, fence, ttl_s: Some(self.times.ttl_s) };
        self.bucket.write_as(&write, &self.write_id(number), deadline).await
    }

    fn write_id(&self, number: u64) -> String {
        format!("{}.{number}", self.boot)
    }

    /// Keeps the lease until it is lost.
    pub(super) async fn keep(&self, grip: watch::Sender<Grip>) {
        let mut number = 0_u64;
        // Refreshes that may have arrived although we do not know it: number and when each was sent.
        let mut sent_before = VecDeque::new();
        let mut pause = Pause::new();
        let mut next = grip.borrow().sent + self.times.refresh_every;
        loop {
            let held = *grip.borrow();
            let end = held.sent + self.times.fence_after;
            tokio::time::sleep_until(next.min(end)).await;
            let sent = Instant::now();
            if sent >= end {
                tracing::error!(lease = %self.subject, "the lease could not be refreshed in time");
                return;
            }
            number += 1;
            sent_before.push_back((number, sent));
            if sent_before.len() > SENT_MAX {
                sent_before.pop_front();
            }
            // Not tried to the end under the same number: a later one counts for longer.
            let deadline = end.min(sent + self.times.refresh_every / 4);
            match tokio::time::timeout_at(end, self.put(held.sequence, number, deadline)).await {
                Ok(Ok(sequence)) => {
                    grip.send_replace(Grip { sequence, sent });
                    pause = Pause::new();
                    next = sent + self.times.refresh_every;
                }
                // An earlier refresh of ours may be what stands there.
                Ok(Err(WriteError::Fenced)) => match self.ours(&sent_before, held).await {
                    Ok(Some(found)) => {
                        grip.send_replace(found);
                        next = Instant::now();
                    }
                    Ok(None) => {
                        tracing::error!(lease = %self.subject, "somebody else has the lease, or it has ended");
                        return;
                    }
                    Err(_) => next = Instant::now() + pause.next(),
                },
                Ok(Err(error)) => {
                    tracing::warn!(lease = %self.subject, %error, "the lease cannot be refreshed now");
                    next = Instant::now() + pause.next();
                }
                Err(_) => {}
            }
        }
    }

    /// What stands there, if one of our refreshes put it there.
    async fn ours(&self, sent: &VecDeque<(u64, Instant)>, held: Grip) -> Result<Option<Grip>, Unavailable> {
        let Some(last) = self.bucket.last(&self.subject).await? else { return Ok(None) };
        let number = last.write_id.as_deref().and_then(|id| id.strip_prefix(&*self.boot)?.strip_prefix('.'));
        let Some(number) = number.filter(|_| last.value().is_some()).and_then(|number| number.parse::<u64>().ok())
        else {
            return Ok(None);
        };
        let sent = sent.iter().find(|(known, _)| *known == number).map_or(held.sent, |(_, sent)| *sent);
        Ok(Some(Grip { sequence: last.sequence, sent }))
    }

    /// Gives the lease back, so that the others need not wait for its end.
    pub(super) async fn release(&self, grip: Grip) {
        let fence = Fence::Own(grip.sequence);
        let write = Write { subject: &self.subject, value: Value::Deleted, fence, ttl_s: Some(RELEASED_TTL_S) };
        let deadline = Instant::now() + self.times.refresh_every;
        match self.bucket.write_as(&write, &new_write_id(), deadline).await {
            Ok(_) | Err(WriteError::Fenced) => {}
            Err(error) => tracing::warn!(lease = %self.subject, %error, "the lease was not released and will expire"),
        }
    }
}

impl Nodes {
    /// Takes the lease of a node and keeps it. A lease of the same name that is there is taken over: an earlier process of
    /// this node did not end well, or, which is an error of the operator, is still there and becomes [`LeaseState::Lost`].
    ///
    /// # Errors
    /// When JetStream does not answer.
    pub async fn acquire(&self, node: &str, mqtt: Vec<String>) -> Result<Lease, Unavailable> {
        let subject = self.shared.names.node_lease(node).map_err(Unavailable::new)?;
        let boot = format!("{:016x}", rand::random::<u64>());
        let since_ms = self.shared.bucket.api.link.clock.earliest_ms();
        let info = NodeInfo { version: RECORD_VERSION, node: node.to_owned(), boot, since_ms, mqtt, seals: true };
        let value = serde_json::to_vec(&info).map_err(Unavailable::new)?;
        let keeper = Keeper::new(&self.shared, subject, value.into(), &info.boot);
        let Some(grip) = keeper.take(true).await? else {
            return Err(Unavailable::new("another process takes the lease of this node at the same time"));
        };
        let (tx, state) = watch::channel(LeaseState::Held);
        let lease = Lease::start(info, keeper, grip, tx, state);
        *self.shared.grip.write() = Some(lease.grip());
        Ok(lease)
    }
}

/// The lease of a node. Dropped without [`Lease::release`] it expires, as when the process is killed.
#[derive(Debug)]
pub struct Lease {
    info: NodeInfo,
    keeper: Keeper,
    grip: watch::Receiver<Grip>,
    state: watch::Receiver<LeaseState>,
    task: JoinHandle<()>,
}

impl Lease {
    pub(super) fn start(
        info: NodeInfo,
        keeper: Keeper,
        grip: Grip,
        tx: watch::Sender<LeaseState>,
        state: watch::Receiver<LeaseState>,
    ) -> Self {
        let (grip_tx, grip) = watch::channel(grip);
        let task = tokio::spawn({
            let keeper = keeper.clone();
            async move {
                keeper.keep(grip_tx).await;
                tx.send_replace(LeaseState::Lost);
            }
        });
        Self { info, keeper, grip, state, task }
    }

    /// What the others see of us.
    pub fn info(&self) -> &NodeInfo {
        &self.info
    }

    /// What the holder knows of it; closed when it is held no more.
    pub(super) fn grip(&self) -> watch::Receiver<Grip> {
        self.grip.clone()
    }

    /// Whether we hold it.
    pub fn state(&self) -> watch::Receiver<LeaseState> {
        self.state.clone()
    }

    /// Gives it back.
    pub async fn release(self) {
        self.task.abort();
        let grip = *self.grip.borrow();
        if *self.state.borrow() == LeaseState::Held {
            self.keeper.release(grip).await;
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.task.abort();
    }
}
