//! A filter and a topic, one a line: whatever is a filter matches or does not, and its parts are filters again.

#![no_main]

use libfuzzer_sys::fuzz_target;
use mqtt_codec::{TopicFilter, TopicName};

fuzz_target!(|text: &str| {
    let Some((filter, topic)) = text.split_once('\n') else { return };
    let (Ok(filter), Ok(topic)) = (TopicFilter::new(filter), TopicName::new(topic)) else { return };
    let matched = filter.matches(&topic);
    if let Some(shared) = filter.shared() {
        assert_eq!(shared.filter.matches(&topic), matched);
        assert_eq!(TopicFilter::new(shared.filter.as_str()), Ok(shared.filter));
    }
    if !filter.has_wildcards() && !filter.is_shared() {
        assert_eq!(matched, filter.as_str() == topic.as_str());
    }
});
