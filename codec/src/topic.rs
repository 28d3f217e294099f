//! Topic names and topic filters [MQTT 5, 4.7] as types that hold only valid ones.

use bytestring::ByteString;

/// A topic name: at least one character, no U+0000, no wildcard [MQTT-3.3.2-2], at most 65,535 bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicName(ByteString);

/// A topic filter: at least one character, no U+0000, `#` only as the last level, `#` and `+` only as whole levels.
/// For `$share/…` this is the whole text; see [`TopicFilter::shared`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicFilter(ByteString);

/// The text is not a topic name or not a topic filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TopicError {
    /// No characters [MQTT-4.7.3-1].
    #[error("it is empty [MQTT-4.7.3-1]")]
    Empty,
    /// More than 65,535 bytes [MQTT-4.7.3-3].
    #[error("it is longer than 65,535 bytes [MQTT-4.7.3-3]")]
    TooLong,
    /// U+0000 [MQTT-4.7.3-2].
    #[error("it contains U+0000 [MQTT-4.7.3-2]")]
    Null,
    /// A wildcard in a topic name [MQTT-4.7.0-1], or in a filter not where it can be [MQTT-4.7.1-1].
    #[error("a wildcard stands where none can [MQTT-4.7.1-1]")]
    Wildcard,
    /// `$share` without a share name or without a filter [MQTT-4.8.2-1], [MQTT-4.8.2-2].
    #[error("the shared subscription has no share name or no filter [MQTT-4.8.2-1]")]
    Share,
}

/// The parts of `$share/NAME/FILTER`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shared {
    /// Share name, not empty, without `/`, `+`, `#`.
    pub name: ByteString,
    /// The filter itself.
    pub filter: TopicFilter,
}
