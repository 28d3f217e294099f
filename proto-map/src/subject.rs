//! NATS subjects as types that hold only what can be published to or subscribed to, and how a wildcard subject
//! matches. How topics become subjects is in `topic`.

use std::fmt;

use bytestring::ByteString;

use crate::MapError;
use crate::escape::is_outside_subjects;

/// Longest subject in bytes that a topic is mapped to. nats-server refuses a control line of more than 4,096 bytes
/// (`max_control_line`); what is left of that is for our prefixes, a reply subject and the sizes.
pub const MAX_SUBJECT_LEN: usize = 3840;

/// A subject that can be published to: tokens separated by `.`, none empty, none `*` or `>`, no white space, no U+0000.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Subject(ByteString);

/// A subject that can be subscribed to: as [`Subject`], but tokens can be `*`, and the last one `>`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SubjectFilter(ByteString);

impl Subject {
    /// Checks a subject that comes from elsewhere.
    ///
    /// # Errors
    /// [`MapError::InvalidSubject`] when it is none, or has a wildcard.
    pub fn new(text: impl Into<ByteString>) -> Result<Self, MapError> {
        let text = text.into();
        check_literal(&text)?;
        Ok(Self(text))
    }

    /// For text that was made by the mapping.
    pub(crate) const fn trusted(text: ByteString) -> Self {
        Self(text)
    }

    /// The subject as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The subject as text that is cheap to clone.
    #[must_use]
    pub const fn as_text(&self) -> &ByteString {
        &self.0
    }

    /// The subject as shared text.
    #[must_use]
    pub fn into_inner(self) -> ByteString {
        self.0
    }
}

impl SubjectFilter {
    pub(crate) const fn trusted(text: ByteString) -> Self {
        Self(text)
    }

    /// The filter as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The filter as text that is cheap to clone.
    #[must_use]
    pub const fn as_text(&self) -> &ByteString {
        &self.0
    }

    /// The filter as shared text.
    #[must_use]
    pub fn into_inner(self) -> ByteString {
        self.0
    }

    /// Whether a subject matches, by the rules of NATS.
    #[must_use]
    pub fn matches(&self, subject: &str) -> bool {
        matches(&self.0, subject)
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for SubjectFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<str> for Subject {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for SubjectFilter {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl From<Subject> for SubjectFilter {
    fn from(subject: Subject) -> Self {
        Self(subject.0)
    }
}

/// The subjects that together match what one topic filter matches: one, or two for `foo/#`, which in MQTT matches
/// `foo` too. No subject matches both, so nothing arrives twice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilterSubjects {
    /// The subject of the filter itself: `foo.>` for `foo/#`.
    pub subject: SubjectFilter,
    /// The parent level of a filter that ends in `/#`: `foo` for `foo/#` [MQTT 5, 4.7.1.2].
    pub parent: Option<SubjectFilter>,
}

impl FilterSubjects {
    /// One or two subjects.
    pub fn iter(&self) -> impl Iterator<Item = &SubjectFilter> {
        std::iter::once(&self.subject).chain(&self.parent)
    }

    /// Whether a subject matches one of them.
    #[must_use]
    pub fn matches(&self, subject: &str) -> bool {
        self.iter().any(|filter| filter.matches(subject))
    }
}

/// Whether `subject` matches `filter` by the rules of NATS: `*` is exactly one token, a last `>` is one or more.
#[must_use]
pub fn matches(filter: &str, subject: &str) -> bool {
    let mut tokens = subject.split('.');
    let mut wanted = filter.split('.').peekable();
    while let Some(want) = wanted.next() {
        let Some(token) = tokens.next() else {
            return false;
        };
        if want == ">" && wanted.peek().is_none() {
            return true;
        }
        if want != "*" && want != token {
            return false;
        }
    }
    tokens.next().is_none()
}

/// Checks that text is a subject without wildcards.
pub(crate) fn check_literal(text: &str) -> Result<(), MapError> {
    let is_token = |token: &str| !matches!(token, "" | "*" | ">");
    if text.bytes().any(is_outside_subjects) || !text.split('.').all(is_token) {
        return Err(MapError::InvalidSubject);
    }
    Ok(())
}
