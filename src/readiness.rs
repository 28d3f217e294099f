//! Whether this sidecar can serve, as latches that each part opens when it can do its share. Not ready is never a
//! reason to restart it; `/livez` is for that.

use std::sync::Arc;

use parking_lot::Mutex;

/// Named latches; ready is when all are open and nobody drains. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    latches: Vec<(&'static str, bool)>,
    draining: bool,
}

/// One condition of readiness. Closed until it is opened.
#[derive(Clone, Debug)]
pub struct Latch {
    name: &'static str,
    readiness: Readiness,
}

impl Readiness {
    /// Without latches, and not ready: the process starts.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A latch of this name (`nats`, `assets`, `retained`), closed when it is new. Declare all of them before opening
    /// the first, or readiness shows for a moment too early.
    #[must_use]
    pub fn latch(&self, name: &'static str) -> Latch {
        let mut state = self.0.lock();
        if !state.latches.iter().any(|(have, _)| *have == name) {
            state.latches.push((name, false));
        }
        Latch { name, readiness: self.clone() }
    }

    /// From now on not ready: load balancers send new connections elsewhere.
    pub fn drain(&self) {
        self.0.lock().draining = true;
    }

    /// Whether this sidecar can serve.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.missing().is_empty()
    }

    /// What is missing, in the order of declaration; nothing when it is ready.
    #[must_use]
    pub fn missing(&self) -> Vec<&'static str> {
        let state = self.0.lock();
        let closed = state.latches.iter().filter(|(_, open)| !open).map(|(name, _)| *name);
        let starting = state.latches.is_empty().then_some("started");
        let draining = state.draining.then_some("not draining");
        closed.chain(starting).chain(draining).collect()
    }
}

impl Latch {
    /// The condition holds.
    pub fn open(&self) {
        self.set(true);
    }

    /// The condition holds no more.
    pub fn close(&self) {
        self.set(false);
    }

    /// Opens or closes.
    pub fn set(&self, open: bool) {
        let mut state = self.readiness.0.lock();
        if let Some((_, latch)) = state.latches.iter_mut().find(|(name, _)| *name == self.name) {
            *latch = open;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_is_all_latches_open_and_no_drain() {
        let readiness = Readiness::new();
        assert_eq!(readiness.missing(), ["started"]);
        let nats = readiness.latch("nats");
        let assets = readiness.latch("assets");
        assert_eq!(readiness.missing(), ["nats", "assets"]);
        nats.open();
        assets.open();
        assert!(readiness.is_ready());
        nats.close();
        assert_eq!(readiness.missing(), ["nats"]);
        assert_eq!(readiness.latch("assets").name, "assets");
        assert_eq!(readiness.missing(), ["nats"], "asking for a latch again does not close it");
        nats.open();
        readiness.drain();
        assert_eq!(readiness.missing(), ["not draining"]);
    }
}
