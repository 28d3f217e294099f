//! What is there for a while, in the gauges for that while.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use super::{AccountMetrics, Counts};

impl AccountMetrics {
    /// Adds a connection until the guard is dropped.
    #[must_use]
    pub fn connection(self: &Arc<Self>) -> ConnectionGuard {
        ConnectionGuard::new(self)
    }

    /// Counts a scan of a log, which runs until the guard is dropped.
    #[must_use]
    pub fn scan(self: &Arc<Self>) -> ScanGuard {
        ScanGuard::new(self)
    }

    /// What a connection holds back until it is saved, none at first.
    #[must_use]
    pub fn held_outputs(self: &Arc<Self>) -> HeldOutputs {
        HeldOutputs::new(self)
    }
}

impl Counts {
    fn count_connection(&self) {
        let before = self.connections.fetch_add(1, Relaxed);
        self.connections_max.fetch_max(before + 1, Relaxed);
    }
}

/// One connection in `mqtt_connections`, for as long as it lives.
#[derive(Debug)]
pub struct ConnectionGuard(Arc<AccountMetrics>);

impl ConnectionGuard {
    fn new(metrics: &Arc<AccountMetrics>) -> Self {
        metrics.count_connection();
        if let Some(process) = metrics.process() {
            process.count_connection();
        }
        Self(Arc::clone(metrics))
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Relaxed);
        if let Some(process) = self.0.process() {
            process.connections.fetch_sub(1, Relaxed);
        }
    }
}

/// One scan in `mqtt_scans_running`, for as long as it runs.
#[derive(Debug)]
pub struct ScanGuard(Arc<AccountMetrics>);

impl ScanGuard {
    fn new(metrics: &Arc<AccountMetrics>) -> Self {
        metrics.scans.fetch_add(1, Relaxed);
        metrics.scans_running.fetch_add(1, Relaxed);
        Self(Arc::clone(metrics))
    }
}

impl Drop for ScanGuard {
    fn drop(&mut self) {
        self.0.scans_running.fetch_sub(1, Relaxed);
    }
}

/// The part of one connection in `mqtt_outputs_held`.
#[derive(Debug)]
pub struct HeldOutputs {
    metrics: Arc<AccountMetrics>,
    count: usize,
}

impl HeldOutputs {
    fn new(metrics: &Arc<AccountMetrics>) -> Self {
        Self { metrics: Arc::clone(metrics), count: 0 }
    }

    /// So many are held now.
    pub fn set(&mut self, count: usize) {
        if count != self.count {
            let signed = |count| i64::try_from(count).unwrap_or(i64::MAX);
            self.metrics.outputs_held.fetch_add(signed(count) - signed(self.count), Relaxed);
            self.count = count;
        }
    }
}

impl Drop for HeldOutputs {
    fn drop(&mut self) {
        self.set(0);
    }
}
