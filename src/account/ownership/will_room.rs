//! Room for large wills that are read again, since whoever publishes them has only their records.
//!
//! **Invariant:** they take `mqtt.max_opening_size` at most, whoever's they are: of a connection that is over, of one that a CONNECT
//! takes over, of a sidecar that is gone. One alone always has room.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::turns::COPIES;
use crate::metrics::{AccountMetrics, Opening};

/// Bytes of a permit.
const UNIT: usize = 1024;

/// See the module.
#[derive(Debug)]
pub(in crate::account) struct WillRoom {
    units: Arc<Semaphore>,
    units_max: u32,
    metrics: Arc<AccountMetrics>,
}

/// Room that one will has. Dropped, it is another one's.
#[derive(Debug)]
pub(super) struct Room {
    permit: Option<OwnedSemaphorePermit>,
    metrics: Arc<AccountMetrics>,
}

impl WillRoom {
    /// `size_max`: bytes that they may take.
    pub(in crate::account) fn new(size_max: usize, metrics: Arc<AccountMetrics>) -> Self {
        let units_max = u32::try_from(size_max / UNIT).unwrap_or(u32::MAX).max(1);
        Self { units: Arc::new(Semaphore::new(units_max as usize)), units_max, metrics }
    }

    /// Waits for room for a will of this many bytes. Whoever has some waits for nothing but JetStream.
    pub(super) async fn enter(&self, will: usize) -> Room {
        let units = u32::try_from((COPIES * will).div_ceil(UNIT)).unwrap_or(u32::MAX).clamp(1, self.units_max);
        // It is never closed.
        let permit = Arc::clone(&self.units).acquire_many_owned(units).await.ok();
        let room = Room { permit, metrics: Arc::clone(&self.metrics) };
        self.metrics.opening_taken(Opening::Wills, room.size());
        room
    }
}

impl Room {
    fn size(&self) -> usize {
        self.permit.as_ref().map_or(0, |permit| permit.num_permits() * UNIT)
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.metrics.opening_freed(Opening::Wills, self.size());
    }
}
