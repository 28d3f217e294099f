//! A filter and a topic, one a line: whatever is a filter matches or does not, and its parts are filters again. Tests run this as
//! well, see `tests/codec/fuzzed.rs`.

use mqtt_codec::{TopicFilter, TopicName};

/// Whether they match.
pub(crate) fn run(text: &str) -> bool {
    let Some((filter, topic)) = text.split_once('\n') else { return false };
    let (Ok(filter), Ok(topic)) = (TopicFilter::new(filter), TopicName::new(topic)) else { return false };
    let matched = filter.matches(&topic);
    if let Some(shared) = filter.shared() {
        assert_eq!(shared.filter.matches(&topic), matched);
        assert_eq!(TopicFilter::new(shared.filter.as_str()), Ok(shared.filter));
    }
    if !filter.has_wildcards() && !filter.is_shared() {
        assert_eq!(matched, filter.as_str() == topic.as_str());
    }
    matched
}
