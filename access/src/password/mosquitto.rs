//! `$7$101$salt$hash` of `mosquitto_passwd`: PBKDF2 with HMAC-SHA512, salt and hash in base64.

use std::fmt;
use std::num::NonZeroU32;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::pbkdf2;

use super::error::HashError;
use crate::secret::Secret;

/// Most rounds, about a second.
pub const ITERATIONS_MAX: u32 = 1_000_000;
const SALT_LENGTHS: std::ops::RangeInclusive<usize> = 1..=64;
const OUTPUT_LEN: usize = 64;

#[derive(Clone, PartialEq, Eq)]
pub(super) struct Hash {
    iterations: NonZeroU32,
    salt: Vec<u8>,
    output: Vec<u8>,
}

impl Hash {
    pub(super) fn parse(text: &str) -> Result<Self, HashError> {
        let parts: Vec<&str> = text.split('$').collect();
        let ["", "7", iterations, salt, output] = parts[..] else { return Err(HashError::Malformed) };
        let digits = iterations.bytes().all(|byte| byte.is_ascii_digit());
        let iterations: NonZeroU32 = digits.then(|| iterations.parse().ok()).flatten().ok_or(HashError::Malformed)?;
        let decode = |text: &str| STANDARD.decode(text).map_err(|_| HashError::Malformed);
        let hash = Self { iterations, salt: decode(salt)?, output: decode(output)? };
        if !SALT_LENGTHS.contains(&hash.salt.len()) || hash.output.len() != OUTPUT_LEN {
            return Err(HashError::Malformed);
        }
        if iterations.get() > ITERATIONS_MAX {
            return Err(HashError::TooCostly);
        }
        Ok(hash)
    }

    pub(super) fn verify(&self, password: &Secret) -> bool {
        let algorithm = pbkdf2::PBKDF2_HMAC_SHA512;
        pbkdf2::verify(algorithm, self.iterations, &self.salt, password.expose(), &self.output).is_ok()
    }

    pub(super) fn decoy(&self) -> Self {
        Self { iterations: self.iterations, salt: vec![0; self.salt.len()], output: vec![0; OUTPUT_LEN] }
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "$7${}${}${}", self.iterations, STANDARD.encode(&self.salt), STANDARD.encode(&self.output))
    }
}
