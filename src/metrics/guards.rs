//! What is there for a while, in the gauges for that while.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use super::Metrics;

impl Metrics {
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

/// One connection in `mqtt_connections`, for as long as it lives.
#[derive(Debug)]
pub struct ConnectionGuard(Arc<Metrics>);

impl ConnectionGuard {
    fn new(metrics: &Arc<Metrics>) -> Self {
        let before = metrics.connections.fetch_add(1, Relaxed);
        metrics.connections_max.fetch_max(before + 1, Relaxed);
        Self(Arc::clone(metrics))
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Relaxed);
    }
}

/// One scan in `mqtt_scans_running`, for as long as it runs.
#[derive(Debug)]
pub struct ScanGuard(Arc<Metrics>);

impl ScanGuard {
    fn new(metrics: &Arc<Metrics>) -> Self {
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
    metrics: Arc<Metrics>,
    count: usize,
}

impl HeldOutputs {
    fn new(metrics: &Arc<Metrics>) -> Self {
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
