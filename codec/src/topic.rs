//! Topic names and topic filters [MQTT 5, 4.7] as types that hold only valid ones.

use std::{borrow::Borrow, fmt, ops::Deref, str::FromStr};

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

impl TopicName {
    /// Checks the text.
    ///
    /// # Errors
    /// When it is no topic name.
    #[inline]
    pub fn new(text: impl Into<ByteString>) -> Result<Self, TopicError> {
        let text = text.into();
        check_text(&text)?;
        // [MQTT-3.3.2-2]
        if text.bytes().any(|byte| byte == b'+' || byte == b'#') {
            return Err(TopicError::Wildcard);
        }
        Ok(Self(text))
    }

    /// A copy that holds no more memory than its text: for what outlives the packet that it came in.
    #[must_use]
    pub fn detached(&self) -> Self {
        Self(ByteString::from(&*self.0))
    }

    /// Begins with `$`, so that wildcards at the first level do not match it [MQTT-4.7.2-1].
    #[must_use]
    pub fn is_dollar(&self) -> bool {
        self.0.starts_with('$')
    }
}

impl TopicFilter {
    /// Checks the text, which may be that of a shared subscription.
    ///
    /// # Errors
    /// When it is no topic filter.
    pub fn new(text: impl Into<ByteString>) -> Result<Self, TopicError> {
        let text = text.into();
        check_text(&text)?;
        let filter = match split_shared(&text)? {
            Some((_, filter)) => filter,
            None => &text,
        };
        check_wildcards(filter)?;
        Ok(Self(text))
    }

    /// A copy that holds no more memory than its text: for what outlives the packet that it came in.
    #[must_use]
    pub fn detached(&self) -> Self {
        Self(ByteString::from(&*self.0))
    }

    /// Whether it has `+` or `#`.
    #[must_use]
    pub fn has_wildcards(&self) -> bool {
        self.0.bytes().any(|byte| byte == b'+' || byte == b'#')
    }

    /// Whether it is a shared subscription.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        matches!(split_shared(&self.0), Ok(Some(_)))
    }

    /// Share name and filter of a shared subscription. `$queue/FILTER` is one of the share name `$queue`.
    #[must_use]
    pub fn shared(&self) -> Option<Shared> {
        let (name, filter) = split_shared(&self.0).ok()??;
        Some(Shared { name: self.0.slice_ref(name), filter: Self(self.0.slice_ref(filter)) })
    }

    /// The filter that topics are matched with: for a shared subscription without `$share/NAME/`.
    #[must_use]
    pub fn matching_part(&self) -> &str {
        match split_shared(&self.0) {
            Ok(Some((_, filter))) => filter,
            _ => &self.0,
        }
    }

    /// Whether messages of this topic belong to the subscription [MQTT 5, 4.7]. The share name does not matter here. Levels are
    /// compared as they are [MQTT-4.7.3-4].
    #[must_use]
    pub fn matches(&self, topic: &TopicName) -> bool {
        let mut filter = self.matching_part().split('/');
        let mut levels = topic.levels();
        let mut is_first = true;
        loop {
            match (filter.next(), levels.next()) {
                // [MQTT-4.7.2-1]
                (Some("#" | "+"), _) if is_first && topic.is_dollar() => return false,
                // `#` stands for its parent too [MQTT 5, 4.7.1.2], so the end of the topic is a match.
                (Some("#"), _) | (None, None) => return true,
                (Some("+"), Some(_)) => {}
                (Some(wanted), Some(level)) if wanted == level => {}
                _ => return false,
            }
            is_first = false;
        }
    }

    /// More levels than this, the share name not counted.
    #[must_use]
    pub fn levels_exceed(&self, limit: u16) -> bool {
        levels_exceed(self.matching_part(), limit)
    }
}

impl TopicName {
    /// More levels than this.
    #[inline]
    pub(crate) fn levels_exceed(&self, limit: u16) -> bool {
        levels_exceed(&self.0, limit)
    }
}

#[inline]
fn levels_exceed(text: &str, limit: u16) -> bool {
    // A text has one level more than it has separators, so a short one cannot exceed the limit.
    text.len() >= usize::from(limit) && text.bytes().filter(|byte| *byte == b'/').count() >= usize::from(limit)
}

fn check_text(text: &str) -> Result<(), TopicError> {
    if text.is_empty() {
        return Err(TopicError::Empty);
    }
    if text.len() > usize::from(u16::MAX) {
        return Err(TopicError::TooLong);
    }
    if text.as_bytes().contains(&0) {
        return Err(TopicError::Null);
    }
    Ok(())
}

/// `+` and `#` are whole levels [MQTT-4.7.1-2], and `#` is the last one [MQTT-4.7.1-1].
fn check_wildcards(filter: &str) -> Result<(), TopicError> {
    let mut levels = filter.split('/').peekable();
    while let Some(level) = levels.next() {
        let is_right = match level {
            "+" => true,
            "#" => levels.peek().is_none(),
            _ => !level.contains(['+', '#']),
        };
        if !is_right {
            return Err(TopicError::Wildcard);
        }
    }
    Ok(())
}

/// Share name and filter of `$share/NAME/FILTER` and of `$queue/FILTER`.
fn split_shared(text: &str) -> Result<Option<(&str, &str)>, TopicError> {
    if !text.starts_with('$') {
        return Ok(None);
    }
    if let Some(filter) = text.strip_prefix("$queue/") {
        let name = text.get(.."$queue".len()).unwrap_or_default();
        return if is_shareable(filter) { Ok(Some((name, filter))) } else { Err(TopicError::Share) };
    }
    match text.strip_prefix("$share") {
        Some("") => Err(TopicError::Share),
        Some(rest) if rest.starts_with('/') => {
            // [MQTT-4.8.2-1], [MQTT-4.8.2-2]
            let (name, filter) = rest.get(1..).and_then(|rest| rest.split_once('/')).ok_or(TopicError::Share)?;
            if name.is_empty() || name.contains(['+', '#']) || !is_shareable(filter) {
                return Err(TopicError::Share);
            }
            Ok(Some((name, filter)))
        }
        _ => Ok(None),
    }
}

/// A share of a share has no meaning, and would be read as another share later.
fn is_shareable(filter: &str) -> bool {
    !filter.is_empty() && filter != "$share" && !filter.starts_with("$share/") && !filter.starts_with("$queue/")
}

macro_rules! text_type {
    ($type:ident) => {
        impl $type {
            /// The text.
            #[must_use]
            #[inline]
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// The text as the string that it was made of, without a copy.
            #[must_use]
            pub fn as_byte_string(&self) -> &ByteString {
                &self.0
            }

            /// The levels: what is between the `/`. At least one, and each may be empty. `$share` and a share name
            /// are levels too: for what topics are matched with see `shared`.
            pub fn levels(&self) -> std::str::Split<'_, char> {
                self.0.split('/')
            }

            /// The same in an allocation of its own. One that was decoded is a range of the packet it came in, which
            /// therefore lives as long: whatever keeps a topic longer than the packet wants a copy.
            #[must_use]
            pub fn to_owned_copy(&self) -> Self {
                Self(ByteString::from(self.as_str()))
            }
        }

        impl Deref for $type {
            type Target = str;
            #[inline]
            fn deref(&self) -> &str {
                &self.0
            }
        }

        impl AsRef<str> for $type {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl Borrow<str> for $type {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl PartialEq<str> for $type {
            fn eq(&self, other: &str) -> bool {
                self.as_str() == other
            }
        }

        impl PartialEq<&str> for $type {
            fn eq(&self, other: &&str) -> bool {
                self.as_str() == *other
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $type {
            type Err = TopicError;
            fn from_str(text: &str) -> Result<Self, TopicError> {
                Self::new(text)
            }
        }

        impl TryFrom<ByteString> for $type {
            type Error = TopicError;
            fn try_from(text: ByteString) -> Result<Self, TopicError> {
                Self::new(text)
            }
        }

        impl TryFrom<&str> for $type {
            type Error = TopicError;
            fn try_from(text: &str) -> Result<Self, TopicError> {
                Self::new(text)
            }
        }

        impl From<$type> for ByteString {
            fn from(text: $type) -> Self {
                text.0
            }
        }
    };
}

text_type!(TopicName);
text_type!(TopicFilter);

/// The filter that matches this name alone. It fails for the names that a filter would read as a shared
/// subscription: those that begin with `$share` or `$queue/`.
impl TryFrom<TopicName> for TopicFilter {
    type Error = TopicError;
    fn try_from(name: TopicName) -> Result<Self, TopicError> {
        match split_shared(&name.0)? {
            Some(_) => Err(TopicError::Share),
            None => Ok(Self(name.0)),
        }
    }
}

/// The topic name that reads like this filter. It fails when the filter has wildcards.
impl TryFrom<TopicFilter> for TopicName {
    type Error = TopicError;
    fn try_from(filter: TopicFilter) -> Result<Self, TopicError> {
        if filter.has_wildcards() { Err(TopicError::Wildcard) } else { Ok(Self(filter.0)) }
    }
}
