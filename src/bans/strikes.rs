//! Who does something too often: so many times within a time from the first. It is told the time.

use std::hash::Hash;
use std::time::Duration;

use foldhash::HashMap;

use super::table::{BANS_MAX, Millis, millis};
use crate::config::BanRule;

/// Those that may be forgotten are looked for at most so often.
const SWEEP_EVERY_MS: Millis = 1_000;

/// When it is too often, and what follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    count: u32,
    window_ms: Millis,
    duration: Duration,
}

impl Rule {
    /// `None`: it never is.
    pub(super) fn of(config: &BanRule) -> Option<Self> {
        let rule =
            Self { count: config.count, window_ms: millis(config.window.get()), duration: config.duration.get() };
        (rule.count > 0).then_some(rule)
    }
}

/// What is counted of each.
#[derive(Debug)]
pub(super) struct Strikes<K> {
    rule: Option<Rule>,
    known: HashMap<K, (u32, Millis)>,
    swept: Millis,
}

impl<K> Default for Strikes<K> {
    fn default() -> Self {
        Self { rule: None, known: HashMap::default(), swept: 0 }
    }
}

impl<K: Eq + Hash> Strikes<K> {
    pub(super) fn set_rule(&mut self, rule: Option<Rule>) {
        if self.rule != rule {
            (self.rule, self.known) = (rule, HashMap::default());
        }
    }

    /// Once more. How long it is banned for, when that was once too often; then it is forgotten. Whoever finds no room among those
    /// that are watched is not.
    pub(super) fn strike(&mut self, now: Millis, key: impl FnOnce() -> K) -> Option<Duration> {
        let rule = self.rule?;
        let key = key();
        if let Some((count, since)) = self.known.get_mut(&key) {
            if now.saturating_sub(*since) >= rule.window_ms {
                (*count, *since) = (0, now);
            }
            *count += 1;
            if *count < rule.count {
                return None;
            }
            self.known.remove(&key);
            return Some(rule.duration);
        }
        if rule.count == 1 {
            return Some(rule.duration);
        }
        self.make_room(rule, now);
        if self.known.len() < BANS_MAX {
            self.known.insert(key, (1, now));
        }
        None
    }

    fn make_room(&mut self, rule: Rule, now: Millis) {
        if self.known.len() >= BANS_MAX && now.saturating_sub(self.swept) >= SWEEP_EVERY_MS {
            self.swept = now;
            self.known.retain(|_, (_, since)| now.saturating_sub(*since) < rule.window_ms);
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.known.len()
    }
}
