//! Packets as readable text: `82 {0001 {0B 05} s'a/+' 01}`. Hexadecimal digits are bytes, `'text'` is its bytes,
//! `s'text'` is a string with its length before it, and `{…}` is what is inside with its length before it.

use std::{iter::Peekable, str::Chars};

use bytes::BytesMut;
use mqtt_codec::{Decoder, DecoderOptions, Packet, Role, Version, Violation};

/// The bytes of the text.
pub(crate) fn bytes_of(text: &str) -> Vec<u8> {
    let mut chars = text.chars().peekable();
    let bytes = group(&mut chars);
    assert!(chars.next().is_none(), "a closing brace too many in {text}");
    bytes
}

fn group(chars: &mut Peekable<Chars<'_>>) -> Vec<u8> {
    let mut out = Vec::new();
    while let Some(c) = chars.next_if(|c| *c != '}') {
        match c {
            ' ' | '\n' => {}
            '{' => {
                let inner = group(chars);
                assert_eq!(chars.next(), Some('}'), "an open brace");
                out.extend(variable_byte_integer(inner.len()));
                out.extend(inner);
            }
            's' => {
                assert_eq!(chars.next(), Some('\''), "s is for strings");
                let text = quoted(chars);
                out.extend(u16::try_from(text.len()).unwrap().to_be_bytes());
                out.extend(text);
            }
            '\'' => out.extend(quoted(chars)),
            _ => {
                let low = chars.next().and_then(|c| c.to_digit(16));
                let (high, low) = (c.to_digit(16).unwrap(), low.unwrap());
                out.push(u8::try_from(high << 4 | low).unwrap());
            }
        }
    }
    out
}

fn quoted(chars: &mut Peekable<Chars<'_>>) -> Vec<u8> {
    let text: String = chars.by_ref().take_while(|c| *c != '\'').collect();
    text.into_bytes()
}

fn variable_byte_integer(mut value: usize) -> Vec<u8> {
    let mut out = Vec::new();
    loop {
        let seven = u8::try_from(value & 0x7F).unwrap();
        value >>= 7;
        if value == 0 {
            out.push(seven);
            return out;
        }
        out.push(seven | 0x80);
    }
}

/// A lenient decoder in the middle of a connection.
pub(crate) fn options(role: Role, version: Version) -> DecoderOptions {
    DecoderOptions { role, version: Some(version), ..DecoderOptions::default() }
}

/// Decodes one packet from these bytes, which have to be one packet and no more, or to be refused.
pub(crate) fn decode_one(options: DecoderOptions, bytes: &[u8]) -> Result<Packet, Violation> {
    let mut buf = BytesMut::from(bytes);
    let packet = Decoder::new(options).decode(&mut buf)?;
    assert!(buf.is_empty(), "{} bytes are left after {packet:?}", buf.len());
    Ok(packet.expect("a whole packet"))
}
