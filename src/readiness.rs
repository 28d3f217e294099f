//! Whether this sidecar can serve now: named conditions, each looked at when somebody asks. Not ready is never a reason to
//! restart it; `/livez` is for that.
//!
//! **Invariant:** a condition says how it is at this moment, and not that it was so once: who can say so is asked.

use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;

/// Whether a condition holds, and why not.
pub type Standing = Result<(), String>;

type Ask = Arc<dyn Fn() -> Standing + Send + Sync>;

/// Named conditions; ready is when all hold and nobody drains. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    conditions: Vec<(&'static str, Check)>,
    draining: bool,
}

/// How it is known whether a condition holds.
#[derive(Clone)]
enum Check {
    /// Somebody has said so.
    Said(bool),
    /// This is asked.
    Ask(Ask),
}

impl Check {
    fn standing(&self) -> Standing {
        match self {
            Self::Said(true) => Ok(()),
            Self::Said(false) => Err("not yet".to_owned()),
            Self::Ask(ask) => ask(),
        }
    }
}

impl fmt::Debug for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Said(holds) => write!(f, "Said({holds})"),
            Self::Ask(_) => f.write_str("Ask"),
        }
    }
}

/// One condition of readiness. It does not hold until somebody says so or can be asked.
#[derive(Clone, Debug)]
pub struct Condition {
    name: &'static str,
    readiness: Readiness,
}

/// A condition that does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// Its name.
    pub name: &'static str,
    /// Why it does not hold.
    pub why: String,
}

impl Readiness {
    /// Without conditions, and not ready: the process starts.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A condition of this name. Declare all of them before the first one holds, or readiness shows for a moment too early.
    #[must_use]
    pub fn condition(&self, name: &'static str) -> Condition {
        let mut state = self.0.lock();
        if !state.conditions.iter().any(|(have, _)| *have == name) {
            state.conditions.push((name, Check::Said(false)));
        }
        Condition { name, readiness: self.clone() }
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
    pub fn missing(&self) -> Vec<Missing> {
        let missing = |(name, standing): (&'static str, Standing)| Some(Missing { name, why: standing.err()? });
        self.standings().into_iter().filter_map(missing).collect()
    }

    /// How each condition stands, in the order of declaration.
    #[must_use]
    pub fn standings(&self) -> Vec<(&'static str, Standing)> {
        // Who is asked is not asked under the lock.
        let (conditions, draining) = {
            let state = self.0.lock();
            (state.conditions.clone(), state.draining)
        };
        let starting = conditions.is_empty().then(|| ("started", Err("the process starts".to_owned())));
        let draining = ("not draining", if draining { Err("the process ends".to_owned()) } else { Ok(()) });
        let asked = conditions.iter().map(|(name, check)| (*name, check.standing()));
        asked.chain(starting).chain([draining]).collect()
    }
}

impl Condition {
    /// It holds.
    pub fn open(&self) {
        self.set(Check::Said(true));
    }

    /// It holds no more.
    pub fn close(&self) {
        self.set(Check::Said(false));
    }

    /// It holds when this says so, which is asked whenever somebody wants to know: it must not block, wait or change anything.
    pub fn ask(&self, ask: impl Fn() -> Standing + Send + Sync + 'static) {
        self.set(Check::Ask(Arc::new(ask)));
    }

    fn set(&self, check: Check) {
        let mut state = self.readiness.0.lock();
        if let Some((_, old)) = state.conditions.iter_mut().find(|(name, _)| *name == self.name) {
            *old = check;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    fn names(readiness: &Readiness) -> Vec<&'static str> {
        readiness.missing().iter().map(|missing| missing.name).collect()
    }

    #[test]
    fn ready_is_all_conditions_and_no_drain() {
        let readiness = Readiness::new();
        assert_eq!(names(&readiness), ["started"]);
        let nats = readiness.condition("nats");
        let assets = readiness.condition("assets");
        assert_eq!(names(&readiness), ["nats", "assets"]);
        nats.open();
        assets.open();
        assert!(readiness.is_ready());
        nats.close();
        assert_eq!(names(&readiness), ["nats"]);
        assert_eq!(readiness.condition("assets").name, "assets");
        assert_eq!(names(&readiness), ["nats"], "asking for a condition again does not change it");
        nats.open();
        readiness.drain();
        assert_eq!(names(&readiness), ["not draining"]);
    }

    #[test]
    fn a_condition_says_how_it_is_now() {
        let readiness = Readiness::new();
        let (tails, reads) = (readiness.condition("tails"), Arc::new(AtomicBool::new(true)));
        let asked = Arc::clone(&reads);
        tails.ask(move || if asked.load(Ordering::Relaxed) { Ok(()) } else { Err("MQTT_log is silent".to_owned()) });
        assert!(readiness.is_ready());
        reads.store(false, Ordering::Relaxed);
        assert_eq!(readiness.missing(), [Missing { name: "tails", why: "MQTT_log is silent".to_owned() }]);
        assert_eq!(readiness.standings().last(), Some(&("not draining", Ok(()))));
        reads.store(true, Ordering::Relaxed);
        assert!(readiness.is_ready());
    }

    #[test]
    fn who_is_asked_may_look_at_readiness_itself() {
        let readiness = Readiness::new();
        let (all, looked_at) = (readiness.condition("all"), readiness.clone());
        all.ask(move || if looked_at.0.lock().draining { Err(String::new()) } else { Ok(()) });
        assert!(readiness.is_ready());
    }
}
