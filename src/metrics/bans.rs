//! What is counted of bans: they are of the process, and of no account.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::labels::{BanCause, BanKind};

/// See the module.
#[derive(Debug, Default)]
pub struct BanCounts {
    pub(super) in_force: [AtomicU64; BanKind::TEXTS.len()],
    pub(super) refused: [AtomicU64; BanKind::TEXTS.len()],
    pub(super) made: [AtomicU64; BanCause::TEXTS.len()],
}

impl BanCounts {
    /// Sets how many are in force of a kind.
    pub fn in_force(&self, kind: BanKind, count: usize) {
        if let Some(gauge) = self.in_force.get(kind as usize) {
            gauge.store(u64::try_from(count).unwrap_or(u64::MAX), Relaxed);
        }
    }

    /// Counts a connection that was refused, or ended, since somebody is banned.
    pub fn refused(&self, kind: BanKind) {
        super::add(&self.refused, kind as usize, 1);
    }

    /// Counts a ban that was made here.
    pub fn made(&self, cause: BanCause) {
        super::add(&self.made, cause as usize, 1);
    }
}
