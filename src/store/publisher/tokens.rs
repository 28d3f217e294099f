//! Where JetStream acknowledges one message: `<inbox>.<what it is>-<token>`. Whoever subscribes to the message's subject sees
//! it, and can count; the token, a keyed hash of what it is, keeps them from answering for any other message. (SipHash
//! with a key of this process: 64 bits cannot be guessed in the seconds that a message is under way, and it is made twice for
//! every message.)
//!
//! It is one token of a subject and no more: nats-server looks for each of them, and has seen none of these subjects before.
//!
//! Where others are denied to publish below our subject prefix, they cannot answer for the very message that they saw either.

use std::hash::Hasher as _;

use siphasher::sip::SipHasher24;

/// The token behind its hyphen.
const TOKEN_LEN: usize = 1 + 16;

/// Makes and reads these subjects.
#[derive(Debug)]
pub(super) struct Tokens {
    inbox: String,
    key: [u8; 16],
}

impl Tokens {
    /// Below this subject.
    pub(super) fn new(inbox: String) -> Self {
        Self { inbox, key: rand::random() }
    }

    /// What is subscribed to.
    pub(super) fn subscription(&self) -> String {
        format!("{}.*", self.inbox)
    }

    /// Writes where what has this name is answered into `out`, which is made for each message and so used again and again.
    pub(super) fn write_subject(&self, out: &mut Vec<u8>, write_name: impl FnOnce(&mut Vec<u8>)) {
        out.clear();
        out.extend_from_slice(self.inbox.as_bytes());
        out.push(b'.');
        let name_at = out.len();
        write_name(out);
        let token = hexadecimal(self.token(&out[name_at..]));
        out.push(b'-');
        out.extend_from_slice(token.as_bytes());
    }

    /// The name of what a subject is for; `None` when we have not made it.
    pub(super) fn read<'a>(&self, subject: &'a [u8]) -> Option<&'a str> {
        let rest = subject.get(self.inbox.len() + 1..)?;
        let (name, token) = rest.split_at_checked(rest.len().checked_sub(TOKEN_LEN)?)?;
        let token = token.strip_prefix(b"-")?;
        (token == hexadecimal(self.token(name)).as_bytes()).then(|| std::str::from_utf8(name).ok())?
    }

    fn token(&self, name: &[u8]) -> u64 {
        let mut hasher = SipHasher24::new_with_key(&self.key);
        hasher.write(name);
        hasher.finish()
    }
}

/// A number in digits, without an allocation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Digits {
    digits: [u8; 20],
    start: usize,
}

impl Digits {
    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.digits[self.start..]
    }

    pub(super) fn as_str(&self) -> &str {
        std::str::from_utf8(self.as_bytes()).unwrap_or_default()
    }

    fn of(mut number: u64, base: u64, len_min: usize) -> Self {
        let mut digits = Self { digits: [b'0'; 20], start: 20 };
        while number > 0 || 20 - digits.start < len_min {
            digits.start -= 1;
            digits.digits[digits.start] = b"0123456789abcdef"[(number % base) as usize];
            number /= base;
        }
        digits
    }
}

pub(super) fn decimal(number: u64) -> Digits {
    Digits::of(number, 10, 1)
}

/// All 16 digits.
pub(super) fn hexadecimal(number: u64) -> Digits {
    Digits::of(number, 16, 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject(tokens: &Tokens, name: &str) -> String {
        let mut out = b"what was there before".to_vec();
        tokens.write_subject(&mut out, |out| out.extend_from_slice(name.as_bytes()));
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_subject_is_of_what_it_was_made_for() {
        let tokens = Tokens::new("$NMQ.ack.x".to_owned());
        for name in ["0-17-1", "12-ask-3-1"] {
            assert_eq!(tokens.read(subject(&tokens, name).as_bytes()), Some(name));
        }
        let seen = subject(&tokens, "0-17-1");
        let (_, token) = seen.rsplit_once('-').unwrap();
        let of_others = subject(&Tokens::new("$NMQ.ack.x".to_owned()), "0-17-1");
        let made = [format!("$NMQ.ack.x.0-18-1-{token}"), format!("$NMQ.ack.x.0-17-2-{token}"), of_others];
        for forged in made.iter().map(String::as_str).chain([
            "",
            "$NMQ.ack.x",
            "$NMQ.ack.x.0-17-1",
            "$NMQ.ack.x.0-17-1-x",
            &format!("$NMQ.ack.x.0-17-1.{token}"),
            &format!("$NMQ.ack.x.{token}"),
        ]) {
            assert_eq!(tokens.read(forged.as_bytes()), None, "{forged}");
        }
    }

    #[test]
    fn numbers_are_written_as_they_are_read() {
        for number in [0, 1, 9, 10, 15, 16, 1 << 32, u64::MAX] {
            assert_eq!(decimal(number).as_str(), number.to_string());
            assert_eq!(hexadecimal(number).as_str(), format!("{number:016x}"));
        }
    }
}
