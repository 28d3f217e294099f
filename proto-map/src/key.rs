//! Keys of key-value buckets. Client tools take `[-/_=.a-zA-Z0-9]` only, so everything else is written as `=XX`, the
//! byte in upper-case hexadecimal; what a client tool puts under a plain key is found under the same plain subject.

use bytestring::ByteString;

use crate::MapError;
use crate::escape::is_outside_subjects;
use crate::subject::Subject;

/// Longest key or other subject of ours in bytes: the server's control line limit less room for a reply subject, the
/// sizes, and a JetStream API prefix in front of it.
const KEY_SUBJECT_LEN_MAX: usize = 3968;

pub(crate) fn push_hex(out: &mut String, byte: u8) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    out.push(char::from(DIGITS[usize::from(byte >> 4)]));
    out.push(char::from(DIGITS[usize::from(byte & 15)]));
}

/// The byte that two upper-case hexadecimal digits at the beginning of `text` stand for.
pub(crate) fn hex_at(text: &[u8]) -> Option<u8> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    };
    Some(digit(*text.first()?)? << 4 | digit(*text.get(1)?)?)
}

const fn is_key_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'/' | b'_' | b'=' | b'.')
}

/// Whether `text`, which follows a `=`, makes it an escape when it is read: the code of a byte that is always escaped,
/// or of `=` itself, which is escaped where it would otherwise be read as one.
fn is_escape(text: &[u8]) -> bool {
    hex_at(text).is_some_and(|byte| byte == b'=' || !is_key_byte(byte) && !is_outside_subjects(byte))
}

/// Appends the key of a subject, or of a filter, to the root of a bucket.
pub(crate) fn retained_key(root: &str, subject: &str) -> Result<ByteString, MapError> {
    let mut out = String::with_capacity(root.len() + subject.len());
    out.push_str(root);
    if subject.bytes().all(|byte| is_key_byte(byte) && byte != b'=') {
        out.push_str(subject);
        return limited(out);
    }
    for (index, token) in subject.split('.').enumerate() {
        if index > 0 {
            out.push('.');
        }
        if matches!(token, "*" | ">") {
            out.push_str(token);
            continue;
        }
        for (at, byte) in token.bytes().enumerate() {
            if is_key_byte(byte) && !(byte == b'=' && is_escape(&token.as_bytes()[at + 1..])) {
                out.push(char::from(byte));
            } else {
                out.push('=');
                push_hex(&mut out, byte);
            }
        }
    }
    limited(out)
}

/// The subject of a key; `None` when it is the key of no subject.
pub(crate) fn subject_of_retained_key(key: &str) -> Option<Subject> {
    if !key.contains('=') {
        let subject = Subject::new(key).ok()?;
        // Put there by someone who escapes nothing: see `subject_of_unescaped_key`.
        return key.bytes().all(is_key_byte).then_some(subject);
    }
    let bytes = key.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let rest = &bytes[at + 1..];
        match hex_at(rest).filter(|_| byte == b'=' && is_escape(rest)) {
            Some(code) => {
                out.push(code);
                at += 3;
            }
            None => {
                out.push(byte);
                at += 1;
            }
        }
    }
    let subject = Subject::new(String::from_utf8(out).ok()?).ok()?;
    // Two keys never give one subject, or one of them could not be deleted by its topic.
    let canonical = retained_key("", subject.as_str()).ok()?;
    (canonical == key).then_some(subject)
}

/// The subject that somebody has put something under as it stands, where client tools would not take it as a key: the same
/// subject has another key, the escaped one, and that one counts. `None` for every key that is taken.
#[must_use]
pub fn subject_of_unescaped_key(key: &str) -> Option<Subject> {
    let is_unescaped = !key.bytes().all(is_key_byte);
    Subject::new(key).ok().filter(|_| is_unescaped && subject_of_retained_key(key).is_none())
}

/// A client identifier, or the name of a node, as one token between a root and a suffix.
pub(crate) fn client_key(root: &str, client_id: &str, suffix: &str) -> Result<ByteString, MapError> {
    let mut out = String::with_capacity(root.len() + client_id.len() + suffix.len());
    out.push_str(root);
    if client_id.is_empty() {
        // Followed by no digits, so no other identifier has it.
        out.push('=');
    }
    for byte in client_id.bytes() {
        if is_key_byte(byte) && !matches!(byte, b'.' | b'=') {
            out.push(char::from(byte));
        } else {
            out.push('=');
            push_hex(&mut out, byte);
        }
    }
    out.push_str(suffix);
    limited(out)
}

/// The client identifier of a token that [`client_key`] made.
pub(crate) fn client_of_key(token: &str) -> Option<String> {
    if token == "=" {
        return Some(String::new());
    }
    let bytes = token.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        if byte == b'=' {
            let code = hex_at(&bytes[at + 1..])?;
            if is_key_byte(code) && !matches!(code, b'.' | b'=') {
                return None;
            }
            out.push(code);
            at += 3;
        } else if is_key_byte(byte) && byte != b'.' {
            out.push(byte);
            at += 1;
        } else {
            return None;
        }
    }
    String::from_utf8(out).ok().filter(|id| !id.is_empty())
}

fn limited(text: String) -> Result<ByteString, MapError> {
    if text.len() > KEY_SUBJECT_LEN_MAX {
        return Err(MapError::TooLong { len: text.len(), max: KEY_SUBJECT_LEN_MAX });
    }
    Ok(text.into())
}
