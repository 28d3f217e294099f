//! Errors that the JetStream API answered, counted by their number.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

/// Distinct codes that are counted each for itself; the rest counts as code 0.
const CODES_MAX: usize = 256;

/// JetStream error: no message with this sequence or subject. That is an answer, and no fault.
const NO_MESSAGE_FOUND: u32 = 10037;

/// How often each error was answered. Cheap to clone; clones count together.
#[derive(Clone, Debug, Default)]
pub struct ApiErrors(Arc<Mutex<BTreeMap<u32, u64>>>);

impl ApiErrors {
    pub(crate) fn count(&self, code: u32) {
        if code == NO_MESSAGE_FOUND {
            return;
        }
        let mut counts = self.0.lock();
        let code = if counts.len() < CODES_MAX || counts.contains_key(&code) { code } else { 0 };
        *counts.entry(code).or_default() += 1;
    }

    /// Adds what others have counted.
    pub(crate) fn add(&self, others: &Self) {
        let others = others.counts();
        let mut counts = self.0.lock();
        for (code, count) in others {
            let code = if counts.len() < CODES_MAX || counts.contains_key(&code) { code } else { 0 };
            *counts.entry(code).or_default() += count;
        }
    }

    /// The codes with their counts, ascending by code.
    #[must_use]
    pub fn counts(&self) -> Vec<(u32, u64)> {
        self.0.lock().iter().map(|(code, count)| (*code, *count)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_counted_together_beyond_a_limit_and_what_is_no_fault_not_at_all() {
        let errors = ApiErrors::default();
        errors.count(NO_MESSAGE_FOUND);
        assert_eq!(errors.counts(), []);
        (1..=1_000).for_each(|code| errors.clone().count(code));
        assert_eq!(errors.counts().len(), CODES_MAX + 1);
        assert_eq!(errors.counts().iter().map(|(_, count)| count).sum::<u64>(), 1_000);
    }
}
