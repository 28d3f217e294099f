//! What waits until the progress of the session is saved.

use std::collections::HashMap;

use mqtt_codec::TopicName;

use crate::exchange::Output;
use crate::progress::ProgressVersion;

/// An output that waits until the progress it depends on is saved.
#[derive(Debug)]
pub(crate) struct GatedOutput<M> {
    pub(crate) needs: ProgressVersion,
    pub(crate) output: Output<M>,
}

/// How many publishes wait, by topic: what the client publishes there later waits behind them.
///
/// Only a session that lasts holds publishes, those at QoS 2, each until one save of its progress; so this costs those
/// who publish at one QoS, or whose session ends with its connection, nothing but a look whether it is empty.
#[derive(Debug, Default)]
pub(crate) struct HeldPublishes {
    of_topics: HashMap<TopicName, usize>,
    pub(crate) all: usize,
}

impl HeldPublishes {
    /// One more waits.
    pub(crate) fn begin(&mut self, topic: &TopicName) {
        *self.of_topics.entry(topic.clone()).or_default() += 1;
        self.all += 1;
    }

    /// One waits no more.
    pub(crate) fn end(&mut self, topic: &TopicName) {
        self.all -= 1;
        if let Some(count) = self.of_topics.get_mut(topic) {
            *count -= 1;
            if *count == 0 {
                self.of_topics.remove(topic);
            }
        }
    }

    /// Whether one of this topic waits.
    pub(crate) fn has(&self, topic: &TopicName) -> bool {
        !self.of_topics.is_empty() && self.of_topics.contains_key(topic)
    }
}
