//! `$2a$11$…`, 60 characters. As with nats-server, what of a password is beyond 72 bytes does not count.

use std::fmt;

use super::error::HashError;
use crate::secret::Secret;

/// Highest cost: two to this power rounds, about a second.
pub const COST_MAX: u32 = 14;
const COST_MIN: u32 = 4;
const LEN: usize = 60;
/// Characters of salt, after `$2a$11$`.
const SALT: std::ops::Range<usize> = 7..29;

#[derive(Clone, PartialEq, Eq)]
pub(super) struct Hash {
    text: String,
}

impl Hash {
    pub(super) fn parse(text: &str) -> Result<Self, HashError> {
        let is_alphabet = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'/');
        let well_formed = text.len() == LEN
            && text.is_ascii()
            && ["$2a$", "$2b$", "$2x$", "$2y$"].iter().any(|prefix| text.starts_with(prefix))
            && text.as_bytes()[6] == b'$'
            && text.bytes().skip(SALT.start).all(is_alphabet);
        let digits = text.get(4..6).filter(|digits| well_formed && digits.bytes().all(|byte| byte.is_ascii_digit()));
        let cost: u32 = digits.and_then(|digits| digits.parse().ok()).ok_or(HashError::Malformed)?;
        match cost {
            ..COST_MIN => return Err(HashError::Malformed),
            COST_MIN..=COST_MAX => {}
            _ => return Err(HashError::TooCostly),
        }
        text.parse::<bcrypt::HashParts>().map_err(|_| HashError::Malformed)?;
        Ok(Self { text: text.to_owned() })
    }

    pub(super) fn verify(&self, password: &Secret) -> bool {
        bcrypt::verify(password.expose(), &self.text).unwrap_or(false)
    }

    pub(super) fn decoy(&self) -> Self {
        let nothing = ".".repeat(LEN - SALT.start);
        Self { text: format!("{}{nothing}", &self.text[..SALT.start]) }
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
