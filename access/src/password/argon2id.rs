//! `$argon2id$v=19$m=19456,t=2,p=1$salt$hash`

use std::fmt;

use argon2::{Algorithm, Argon2, Params, Version};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use subtle::ConstantTimeEq as _;

use super::error::HashError;
use crate::secret::Secret;

/// Most memory that one hash may take, in KiB.
pub const MEMORY_KIB_MAX: u32 = 131_072;
/// Most passes over the memory.
pub const ITERATIONS_MAX: u32 = 10;
/// Most lanes.
pub const LANES_MAX: u32 = 16;
/// Bytes of salt in what we make.
pub const SALT_LEN: usize = 16;
/// Bytes of hash in what we make.
const OUTPUT_LEN: usize = 32;

/// What is read; salts and hashes of others have other sizes.
const SALT_LENGTHS: std::ops::RangeInclusive<usize> = 8..=48;
const OUTPUT_LENGTHS: std::ops::RangeInclusive<usize> = 16..=64;

#[derive(Clone, PartialEq, Eq)]
pub(super) struct Hash {
    memory_kib: u32,
    iterations: u32,
    lanes: u32,
    salt: Vec<u8>,
    output: Vec<u8>,
}

impl Hash {
    /// What we make, for no password.
    pub(super) fn recommended() -> Self {
        Self { memory_kib: 19_456, iterations: 2, lanes: 1, salt: vec![0; SALT_LEN], output: vec![0; OUTPUT_LEN] }
    }

    pub(super) fn make(password: &Secret, salt: [u8; SALT_LEN]) -> Result<Self, HashError> {
        let mut hash = Self { salt: salt.to_vec(), ..Self::recommended() };
        hash.output = hash.compute(password).ok_or(HashError::TooCostly)?;
        Ok(hash)
    }

    pub(super) fn verify(&self, password: &Secret) -> bool {
        self.compute(password).is_some_and(|output| output.ct_eq(&self.output).into())
    }

    pub(super) fn decoy(&self) -> Self {
        Self { salt: vec![0; self.salt.len()], output: vec![0; self.output.len()], ..self.clone() }
    }

    fn compute(&self, password: &Secret) -> Option<Vec<u8>> {
        let mut output = vec![0; self.output.len()];
        let params = Params::new(self.memory_kib, self.iterations, self.lanes, Some(output.len())).ok()?;
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        argon2.hash_password_into(password.expose(), &self.salt, &mut output).ok()?;
        Some(output)
    }

    pub(super) fn parse(text: &str) -> Result<Self, HashError> {
        let parts: Vec<&str> = text.split('$').collect();
        let ["", "argon2id", "v=19", params, salt, output] = parts[..] else { return Err(HashError::Malformed) };
        let [memory_kib, iterations, lanes] = parameters(params).ok_or(HashError::Malformed)?;
        let decode = |text: &str| STANDARD_NO_PAD.decode(text).map_err(|_| HashError::Malformed);
        let hash = Self { memory_kib, iterations, lanes, salt: decode(salt)?, output: decode(output)? };
        if !SALT_LENGTHS.contains(&hash.salt.len()) || !OUTPUT_LENGTHS.contains(&hash.output.len()) {
            return Err(HashError::Malformed);
        }
        if memory_kib > MEMORY_KIB_MAX || iterations > ITERATIONS_MAX || lanes > LANES_MAX {
            return Err(HashError::TooCostly);
        }
        Params::new(memory_kib, iterations, lanes, Some(hash.output.len())).map_err(|_| HashError::Malformed)?;
        Ok(hash)
    }
}

/// `m=1,t=2,p=3`, in this order, as it is always written.
fn parameters(text: &str) -> Option<[u32; 3]> {
    let mut numbers = [0; 3];
    let mut parts = text.split(',');
    for (number, name) in numbers.iter_mut().zip(["m=", "t=", "p="]) {
        let digits = parts.next()?.strip_prefix(name)?;
        *number = digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())??;
    }
    parts.next().is_none().then_some(numbers)
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (salt, output) = (STANDARD_NO_PAD.encode(&self.salt), STANDARD_NO_PAD.encode(&self.output));
        write!(f, "$argon2id$v=19$m={},t={},p={}${salt}${output}", self.memory_kib, self.iterations, self.lanes)
    }
}
