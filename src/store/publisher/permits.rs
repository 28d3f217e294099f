//! How many messages and bytes may be without an acknowledgement.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use futures_util::FutureExt as _;
use tokio::sync::Semaphore;

/// Two counters that a [`Permit`] takes from.
#[derive(Debug)]
pub(super) struct Permits {
    messages: Semaphore,
    bytes: Semaphore,
    messages_max: usize,
    bytes_max: usize,
    /// Who waits for one now.
    waiting: AtomicUsize,
    /// How often somebody has waited.
    waited: AtomicU64,
}

/// Somebody waits for a permit, until this is dropped.
struct Waiting<'a>(&'a Permits);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The right to have one message of a size under way. Dropping it, with or without a message, gives it back.
#[derive(Debug)]
pub struct Permit {
    permits: Arc<Permits>,
    bytes: u32,
}

impl Permits {
    pub(super) fn new(messages_max: usize, bytes_max: usize) -> Arc<Self> {
        let messages_max = messages_max.clamp(1, u32::MAX as usize >> 1);
        let bytes_max = bytes_max.clamp(1, u32::MAX as usize >> 1);
        Arc::new(Self {
            messages: Semaphore::new(messages_max),
            bytes: Semaphore::new(bytes_max),
            messages_max,
            bytes_max,
            waiting: AtomicUsize::new(0),
            waited: AtomicU64::new(0),
        })
    }

    /// A message that is larger than all that may be under way still may go, alone.
    fn cost(&self, bytes: usize) -> u32 {
        u32::try_from(bytes.min(self.bytes_max)).unwrap_or(u32::MAX)
    }

    pub(super) async fn acquire(self: &Arc<Self>, bytes: usize) -> Permit {
        let mut taking = std::pin::pin!(self.take(bytes));
        if let Some(permit) = taking.as_mut().now_or_never() {
            return permit;
        }
        self.waiting.fetch_add(1, Ordering::Relaxed);
        self.waited.fetch_add(1, Ordering::Relaxed);
        let _waiting = Waiting(self);
        taking.await
    }

    async fn take(self: &Arc<Self>, bytes: usize) -> Permit {
        let bytes = self.cost(bytes);
        // Neither semaphore is ever closed, so an error cannot occur; then the limit would not hold, nothing worse.
        if let Ok(permit) = self.messages.acquire().await {
            let room = self.bytes.acquire_many(bytes).await;
            permit.forget();
            if let Ok(room) = room {
                room.forget();
            }
        }
        Permit { permits: Arc::clone(self), bytes }
    }

    pub(super) fn try_acquire(self: &Arc<Self>, bytes: usize) -> Option<Permit> {
        let bytes = self.cost(bytes);
        let message = self.messages.try_acquire().ok()?;
        let room = self.bytes.try_acquire_many(bytes).ok()?;
        message.forget();
        room.forget();
        Some(Permit { permits: Arc::clone(self), bytes })
    }

    /// Waits until nothing is under way; who asks for a permit meanwhile waits behind this.
    pub(super) async fn idle(&self) {
        let all = u32::try_from(self.messages_max).unwrap_or(u32::MAX);
        // Dropped at once, so everybody goes on.
        let _ = self.messages.acquire_many(all).await;
    }

    pub(super) fn in_flight(&self) -> usize {
        self.messages_max - self.messages.available_permits().min(self.messages_max)
    }

    /// Who waits for a permit now, and how often somebody has.
    pub(super) fn waits(&self) -> (usize, u64) {
        (self.waiting.load(Ordering::Relaxed), self.waited.load(Ordering::Relaxed))
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.permits.messages.add_permits(1);
        self.permits.bytes.add_permits(self.bytes as usize);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn permits_end_at_messages_and_at_bytes_and_come_back() {
        let permits = Permits::new(2, 100);
        let a = permits.try_acquire(60).unwrap();
        assert!(permits.try_acquire(60).is_none(), "bytes");
        let b = permits.try_acquire(40).unwrap();
        assert!(permits.try_acquire(0).is_none(), "messages");
        assert_eq!(permits.in_flight(), 2);
        drop(a);
        drop(b);
        let alone = permits.acquire(1_000).await;
        assert!(permits.try_acquire(1).is_none(), "one that is too large goes alone");
        drop(alone);
        assert_eq!(permits.in_flight(), 0);
        assert_eq!(permits.waits(), (0, 0), "nobody had to wait");
    }

    #[tokio::test]
    async fn who_waits_is_counted_until_there_is_a_permit_or_it_gives_up() {
        let permits = Permits::new(1, 100);
        let first = permits.acquire(1).await;
        let mut second = Box::pin(permits.acquire(1));
        let mut third = Box::pin(permits.acquire(1));
        assert!(second.as_mut().now_or_never().is_none() && third.as_mut().now_or_never().is_none());
        assert_eq!(permits.waits(), (2, 2));
        drop(third);
        assert_eq!(permits.waits(), (1, 2));
        drop(first);
        drop(second.await);
        assert_eq!(permits.waits(), (0, 2));
    }
}
