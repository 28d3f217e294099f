//! Percent-encoding in the values of our own headers, where `%` is always `%25`. The escapes of subjects are other
//! ones: see `escape`.

use std::borrow::Cow;

use crate::key::push_hex;

/// Writes bytes; those that are no visible ASCII character, `%`, and those of `also` as `%XX`.
pub(crate) fn push_bytes(out: &mut String, bytes: &[u8], also: &[u8]) {
    for &byte in bytes {
        if byte.is_ascii_graphic() && byte != b'%' && !also.contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push('%');
            push_hex(out, byte);
        }
    }
}

/// Writes text, all that is not ASCII as itself except white space; of ASCII, control characters, space, `%` and the
/// characters of `also` become `%XX`.
pub(crate) fn push_text(out: &mut String, text: &str, also: &[u8]) {
    for character in text.chars() {
        if character.is_ascii() || character.is_whitespace() {
            push_bytes(out, character.encode_utf8(&mut [0; 4]).as_bytes(), also);
        } else {
            out.push(character);
        }
    }
}

/// Text that a header value carries as it is, apart from `%`: spaces are kept where no client trims them.
pub(crate) fn push_value(out: &mut String, text: &str) {
    let inner = text.trim();
    let (before, after) = match text.find(inner) {
        Some(start) => (&text[..start], &text[start + inner.len()..]),
        None => ("", ""),
    };
    push_text(out, before, &[]);
    for character in inner.chars() {
        if character == '%' || character.is_ascii_control() {
            push_bytes(out, character.encode_utf8(&mut [0; 4]).as_bytes(), &[]);
        } else {
            out.push(character);
        }
    }
    push_text(out, after, &[]);
}

/// Reads what was written; a `%` without two hexadecimal digits stands for itself.
pub(crate) fn decode(text: &str) -> Cow<'_, [u8]> {
    if !text.contains('%') {
        return Cow::Borrowed(text.as_bytes());
    }
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        match crate::key::hex_at(&bytes[at + 1..]).filter(|_| byte == b'%') {
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
    Cow::Owned(out)
}

/// Reads text that was written; `None` when it is not UTF-8 or has U+0000, which no MQTT string has [MQTT-1.5.4-2].
pub(crate) fn decode_text(text: &str) -> Option<String> {
    String::from_utf8(decode(text).into_owned()).ok().filter(|text| !text.contains('\0'))
}
