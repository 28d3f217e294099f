//! What a topic may retain. Each topic has one publisher, which numbers its values and sends them in order.
//!
//! A value that was acknowledged is retained until a later one is. One that was sent later and is not acknowledged may be
//! retained or not; one that is earlier than what was acknowledged may not, ever, however often it was sent again.

use std::collections::BTreeMap;

/// What one topic was told to retain.
#[derive(Clone, Debug, Default)]
pub(crate) struct RetainedTopic {
    /// Whether each value is a deletion, by its number.
    values: Vec<bool>,
    acknowledged: Option<usize>,
}

/// All of them by name.
pub(crate) type RetainedTopics = BTreeMap<String, RetainedTopic>;

impl RetainedTopic {
    /// The next value is about to be sent: its number.
    pub(crate) fn sent(&mut self, is_deletion: bool) -> usize {
        self.values.push(is_deletion);
        self.values.len() - 1
    }

    pub(crate) fn acknowledged(&mut self, number: usize) {
        self.acknowledged = self.acknowledged.max(Some(number));
    }

    /// Whether the topic may retain this number, or nothing.
    pub(crate) fn allows(&self, found: Option<usize>) -> bool {
        let first = self.acknowledged.unwrap_or(0);
        match found {
            Some(number) => number >= first && self.values.get(number) == Some(&false),
            None => self.acknowledged.is_none() || self.values[first..].contains(&true),
        }
    }

    /// As a person would write it down.
    pub(crate) fn shown(&self) -> String {
        let values: Vec<String> = (0..self.values.len())
            .map(|n| if self.values[n] { format!("{n} (deletes)") } else { n.to_string() })
            .collect();
        format!("sent {}; acknowledged up to {:?}", values.join(", "), self.acknowledged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic(values: &[bool], acknowledged: &[usize]) -> RetainedTopic {
        let mut topic = RetainedTopic::default();
        values.iter().for_each(|is_deletion| _ = topic.sent(*is_deletion));
        acknowledged.iter().for_each(|n| topic.acknowledged(*n));
        topic
    }

    #[test]
    fn nothing_acknowledged_allows_everything_that_was_sent() {
        let topic = topic(&[false, false], &[]);
        assert!(topic.allows(None) && topic.allows(Some(0)) && topic.allows(Some(1)));
        assert!(!topic.allows(Some(2)));
    }

    #[test]
    fn what_is_older_than_what_was_acknowledged_is_wrong() {
        let topic = topic(&[false, false, false], &[1, 0]);
        assert!(!topic.allows(None) && !topic.allows(Some(0)));
        assert!(topic.allows(Some(1)) && topic.allows(Some(2)));
    }

    #[test]
    fn a_deletion_leaves_nothing() {
        let last = topic(&[false, true], &[0, 1]);
        assert!(last.allows(None) && !last.allows(Some(0)) && !last.allows(Some(1)));
        let perhaps = topic(&[false, true], &[0]);
        assert!(perhaps.allows(None) && perhaps.allows(Some(0)));
    }
}
