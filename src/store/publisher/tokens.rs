//! Where JetStream acknowledges one message: `<inbox>.<what it is>.<token>`. Whoever subscribes to the message's subject sees
//! it, and can count; the token, a keyed hash of what it is, keeps them from answering for any other message. (SipHash
//! with a key of this process: 64 bits cannot be guessed in the seconds that a message is under way, and it is made twice for
//! every message.)
//!
//! Where others are denied to publish below our subject prefix, they cannot answer for the very message that they saw either.

use std::hash::Hasher as _;

use siphasher::sip::SipHasher24;

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
        format!("{}.>", self.inbox)
    }

    /// Where what has this name is answered.
    pub(super) fn subject(&self, name: &str) -> String {
        format!("{}.{name}.{:016x}", self.inbox, self.token(name))
    }

    /// The name of what a subject is for; `None` when we have not made it.
    pub(super) fn read<'a>(&self, subject: &'a [u8]) -> Option<&'a str> {
        let rest = std::str::from_utf8(subject.get(self.inbox.len() + 1..)?).ok()?;
        let (name, token) = rest.rsplit_once('.')?;
        (u64::from_str_radix(token, 16).ok()? == self.token(name)).then_some(name)
    }

    fn token(&self, name: &str) -> u64 {
        let mut hasher = SipHasher24::new_with_key(&self.key);
        hasher.write(name.as_bytes());
        hasher.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_is_of_what_it_was_made_for() {
        let tokens = Tokens::new("$NMQ.ack.x".to_owned());
        for name in ["0.17.1", "12.ask.3.1"] {
            assert_eq!(tokens.read(tokens.subject(name).as_bytes()), Some(name));
        }
        let seen = tokens.subject("0.17.1");
        let (_, token) = seen.rsplit_once('.').unwrap();
        let of_others = Tokens::new("$NMQ.ack.x".to_owned()).subject("0.17.1");
        let made = [format!("$NMQ.ack.x.0.18.1.{token}"), format!("$NMQ.ack.x.0.17.2.{token}"), of_others];
        for forged in
            made.iter().map(String::as_str).chain(["", "$NMQ.ack.x", "$NMQ.ack.x.0.17.1", "$NMQ.ack.x.0.17.1.x"])
        {
            assert_eq!(tokens.read(forged.as_bytes()), None, "{forged}");
        }
    }
}
