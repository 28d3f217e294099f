//! What the files of a listener say that counts beyond it: certificates that are revoked, for clients who are connected, and until when
//! files count, for metrics.
//!
//! **Invariant:** it counts from when the listener runs until it stops, and not for one that is only prepared: that may come to nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::revoked::Revocations;
use super::setup::Setup;
use crate::metrics::Metrics;

/// Each that was ever made has a number of its own: names of listeners come again.
static COUNT: AtomicU64 = AtomicU64::new(0);

/// See the module. It is taken back when this is dropped.
pub(in crate::listener) struct Published {
    number: u64,
    /// The name of the listener.
    listener: Box<str>,
    revocations: Arc<Revocations>,
    metrics: Arc<Metrics>,
}

impl Published {
    /// Of a listener of this name. Nothing is said yet.
    pub(super) fn new(listener: &str, revocations: &Arc<Revocations>, metrics: &Arc<Metrics>) -> Self {
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        Self { number, listener: listener.into(), revocations: Arc::clone(revocations), metrics: Arc::clone(metrics) }
    }

    /// Says what counts now.
    pub(super) fn say(&self, setup: &Setup) {
        let terms = setup.terms.iter().map(|term| (term.key, term.until_s)).collect();
        self.metrics.tls_terms(self.number, &self.listener, terms);
        if let Some(lists) = &setup.revoked {
            self.revocations.put(self.number, Arc::clone(lists));
        }
    }
}

impl Drop for Published {
    fn drop(&mut self) {
        self.revocations.forget(self.number);
        self.metrics.forget_tls_terms(self.number);
    }
}
