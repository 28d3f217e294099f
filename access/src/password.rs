//! Hashes of passwords: argon2id, bcrypt as nats-server's configuration has it, and `$7$` of mosquitto's password files.
//!
//! All of this takes time on purpose, some to some hundred milliseconds of CPU. These are plain functions: callers decide
//! where they run, and how many at once. What a hash may cost is bounded, since whoever writes one decides what each failed
//! login costs.

mod argon2id;
mod bcrypt;
mod error;
mod mosquitto;

use std::fmt;
use std::str::FromStr;

use crate::secret::Secret;

pub use self::argon2id::{ITERATIONS_MAX as ARGON2_ITERATIONS_MAX, MEMORY_KIB_MAX as ARGON2_MEMORY_KIB_MAX};
pub use self::argon2id::{LANES_MAX as ARGON2_LANES_MAX, SALT_LEN};
pub use self::bcrypt::COST_MAX as BCRYPT_COST_MAX;
pub use self::error::HashError;
pub use self::mosquitto::ITERATIONS_MAX as MOSQUITTO_ITERATIONS_MAX;

/// Longest hash that is read.
const HASH_LEN_MAX: usize = 256;

/// The hash of a password.
#[derive(Clone, PartialEq, Eq)]
pub struct PasswordHash(Kind);

#[derive(Clone, PartialEq, Eq)]
enum Kind {
    Argon2id(argon2id::Hash),
    Bcrypt(bcrypt::Hash),
    Mosquitto(mosquitto::Hash),
}

impl PasswordHash {
    /// Makes an argon2id hash with the parameters that we recommend: 19 MiB, two passes, one lane. The salt is random, and the
    /// caller's.
    ///
    /// # Errors
    /// [`HashError::TooCostly`] when there is no memory for it.
    pub fn make(password: &Secret, salt: [u8; SALT_LEN]) -> Result<Self, HashError> {
        argon2id::Hash::make(password, salt).map(|hash| Self(Kind::Argon2id(hash)))
    }

    /// Whether it is the hash of this password.
    #[must_use]
    pub fn verify(&self, password: &Secret) -> bool {
        match &self.0 {
            Kind::Argon2id(hash) => hash.verify(password),
            Kind::Bcrypt(hash) => hash.verify(password),
            Kind::Mosquitto(hash) => hash.verify(password),
        }
    }

    /// A hash that costs what this one does, and that no password is known to have.
    #[must_use]
    pub fn decoy(&self) -> Self {
        Self(match &self.0 {
            Kind::Argon2id(hash) => Kind::Argon2id(hash.decoy()),
            Kind::Bcrypt(hash) => Kind::Bcrypt(hash.decoy()),
            Kind::Mosquitto(hash) => Kind::Mosquitto(hash.decoy()),
        })
    }

    /// How it is called in a log line.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match &self.0 {
            Kind::Argon2id(_) => "argon2id",
            Kind::Bcrypt(_) => "bcrypt",
            Kind::Mosquitto(_) => "mosquitto",
        }
    }
}

/// Takes as long as a wrong password of a user that exists, so that nobody learns who does. `like` is the hash of such a user,
/// best of the kind that most have; without one it costs what [`PasswordHash::make`] makes. The answer is always no.
#[must_use]
pub fn verify_unknown_user(password: &Secret, like: Option<&PasswordHash>) -> bool {
    let decoy = like.map_or_else(|| PasswordHash(Kind::Argon2id(argon2id::Hash::recommended())), PasswordHash::decoy);
    std::hint::black_box(decoy.verify(password));
    false
}

impl FromStr for PasswordHash {
    type Err = HashError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() > HASH_LEN_MAX {
            return Err(HashError::Malformed);
        }
        if text.starts_with("$argon2id$") {
            argon2id::Hash::parse(text).map(Kind::Argon2id)
        } else if text.starts_with("$7$") {
            mosquitto::Hash::parse(text).map(Kind::Mosquitto)
        } else {
            bcrypt::Hash::parse(text).map(Kind::Bcrypt)
        }
        .map(Self)
    }
}

/// The text that can be kept and read again. It is for a file of users, never for a log; so [`fmt::Debug`] does not have it.
impl fmt::Display for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Argon2id(hash) => hash.fmt(f),
            Kind::Bcrypt(hash) => hash.fmt(f),
            Kind::Mosquitto(hash) => hash.fmt(f),
        }
    }
}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PasswordHash").field(&self.kind()).finish()
    }
}
