//! How many messages and bytes may be without an acknowledgement.

use std::sync::Arc;

use tokio::sync::Semaphore;

/// Two counters that a [`Permit`] takes from.
#[derive(Debug)]
pub(super) struct Permits {
    messages: Semaphore,
    bytes: Semaphore,
    messages_max: usize,
    bytes_max: usize,
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
        })
    }

    /// A message that is larger than all that may be under way still may go, alone.
    fn cost(&self, bytes: usize) -> u32 {
        u32::try_from(bytes.min(self.bytes_max)).unwrap_or(u32::MAX)
    }

    pub(super) async fn acquire(self: &Arc<Self>, bytes: usize) -> Permit {
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
    }
}
