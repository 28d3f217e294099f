//! Topic ⇄ subject, and topic filter → subjects. The subject is the one that nats-server's own MQTT gives the topic,
//! wherever it accepts the topic, with these exceptions, which keep the mapping reversible: control characters, and
//! `*` and `>` inside a level, are escaped; and the text `%XX` (also `%25XX` and so on), where XX is one of the codes
//! that the escaping makes, is not taken literally. Every topic has a subject and every subject has a topic, and both
//! ways round come back to where they began. The escaping of one level is in `escape`.

use bytestring::ByteString;
use mqtt_codec::{TopicFilter, TopicName};

use crate::MapError;
use crate::escape::{CLASS, Class, push_level, push_token};
use crate::subject::{FilterSubjects, MAX_SUBJECT_LEN, Subject, SubjectFilter, check_literal};

/// A subject, and whether something in it is escaped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapped {
    /// The subject.
    pub subject: Subject,
    /// The subject is another one than the rules for `/` and `.` alone would make, so that a NATS client is helped by
    /// the original topic in a header.
    pub escaped: bool,
}

/// The subject of a topic, at most [`MAX_SUBJECT_LEN`] bytes long.
///
/// # Errors
/// [`MapError::TooLong`]
pub fn subject_of(topic: &TopicName) -> Result<Subject, MapError> {
    map_topic(topic, MAX_SUBJECT_LEN).map(|mapped| mapped.subject)
}

/// The subject of a topic, at most `max_len` bytes long, and whether it is escaped.
///
/// # Errors
/// [`MapError::TooLong`]
pub fn map_topic(topic: &TopicName, max_len: usize) -> Result<Mapped, MapError> {
    let topic = topic.as_str();
    let (subject, escaped) = match plain_subject(topic) {
        Some(subject) => (subject, false),
        None => {
            let subject = ByteString::from(levels_to_tokens(topic));
            let escaped = is_escaped(topic, &subject);
            (subject, escaped)
        }
    };
    if subject.len() > max_len {
        return Err(MapError::TooLong { len: subject.len(), max: max_len });
    }
    Ok(Mapped { subject: Subject::trusted(subject), escaped })
}

/// The topic of a subject.
///
/// # Errors
/// [`MapError::InvalidSubject`] when it is no subject or has wildcards, [`MapError::TooLong`] when the topic would have
/// more than 65,535 bytes.
pub fn topic_of(subject: &str) -> Result<TopicName, MapError> {
    let text = match plain_topic(subject) {
        Some(text) => text,
        None => {
            check_literal(subject)?;
            ByteString::from(tokens_to_levels(subject))
        }
    };
    let len = text.len();
    TopicName::new(text).map_err(|_| MapError::TooLong { len, max: usize::from(u16::MAX) })
}

/// The subjects that match what a filter matches, exactly: a subject matches one of them if, and only if, its topic
/// matches the filter. What MQTT says in addition about topics that begin with `$` and filters that begin with a
/// wildcard is not in a subject; see [`crate::ClosedTrees::hides_topic_from_wildcard`]. Of a shared subscription it is the
/// filter behind the share name that is mapped.
///
/// # Errors
/// [`MapError::TooLong`] when one is longer than [`MAX_SUBJECT_LEN`].
pub fn subjects_of(filter: &TopicFilter) -> Result<FilterSubjects, MapError> {
    let filter = filter.matching_part();
    let subject = SubjectFilter::trusted(limited(levels_to_tokens(filter))?);
    // The parent of `/#` would be the empty topic, which does not exist [MQTT-4.7.3-1].
    let parent = match filter.strip_suffix("/#").filter(|parent| !parent.is_empty()) {
        Some(parent) => Some(SubjectFilter::trusted(limited(levels_to_tokens(parent))?)),
        None => None,
    };
    Ok(FilterSubjects { subject, parent })
}

fn limited(text: String) -> Result<ByteString, MapError> {
    if text.len() > MAX_SUBJECT_LEN {
        return Err(MapError::TooLong { len: text.len(), max: MAX_SUBJECT_LEN });
    }
    Ok(text.into())
}

/// The tokens of a topic or of a filter; in a topic no level is `+` or `#`.
pub(crate) fn levels_to_tokens(levels: &str) -> String {
    let mut out = String::with_capacity(levels.len() + 16);
    let alone = !levels.contains('/');
    for (index, level) in levels.split('/').enumerate() {
        if index > 0 {
            out.push('.');
        }
        match level {
            "+" => out.push('*'),
            "#" => out.push('>'),
            _ => push_token(&mut out, level, alone),
        }
    }
    out
}

fn tokens_to_levels(subject: &str) -> String {
    let mut out = String::with_capacity(subject.len() + 16);
    let alone = !subject.contains('.');
    for (index, token) in subject.split('.').enumerate() {
        if index > 0 {
            out.push('/');
        }
        push_level(&mut out, token, alone);
    }
    out
}

/// The subject of a topic in which nothing is special: one scan, one allocation of the exact size.
fn plain_subject(topic: &str) -> Option<ByteString> {
    let mut extra = 0;
    let mut after_slash = true;
    for byte in topic.bytes() {
        let class = CLASS[usize::from(byte)];
        match class {
            Class::Plain => {}
            Class::Dot => extra += 1,
            Class::Slash => extra += usize::from(after_slash),
            Class::Special => return None,
        }
        after_slash = class == Class::Slash;
    }
    extra += usize::from(after_slash);
    let mut out = Vec::with_capacity(topic.len() + extra);
    if extra == 0 {
        out.extend(topic.bytes().map(|byte| if byte == b'/' { b'.' } else { byte }));
    } else {
        write_with_empty_levels_and_dots(topic, &mut out);
    }
    ByteString::try_from(out).ok()
}

/// Whether a subject is another one than the plain rules alone would make of the topic.
fn is_escaped(topic: &str, subject: &str) -> bool {
    let mut plain = Vec::with_capacity(subject.len());
    write_with_empty_levels_and_dots(topic, &mut plain);
    plain != subject.as_bytes()
}

fn write_with_empty_levels_and_dots(topic: &str, out: &mut Vec<u8>) {
    let mut after_slash = true;
    for byte in topic.bytes() {
        match byte {
            b'/' if after_slash => out.extend(b"/."),
            b'/' => out.push(b'.'),
            b'.' => out.extend(b"//"),
            other => out.push(other),
        }
        after_slash = byte == b'/';
    }
    if after_slash {
        out.push(b'/');
    }
}

/// The topic of a subject in which nothing is special and no token is empty.
fn plain_topic(subject: &str) -> Option<ByteString> {
    let mut after_dot = true;
    for byte in subject.bytes() {
        match CLASS[usize::from(byte)] {
            Class::Plain => after_dot = false,
            Class::Dot if !after_dot => after_dot = true,
            _ => return None,
        }
    }
    if after_dot {
        return None;
    }
    let mut out = Vec::with_capacity(subject.len());
    out.extend(subject.bytes().map(|byte| if byte == b'.' { b'/' } else { byte }));
    ByteString::try_from(out).ok()
}
