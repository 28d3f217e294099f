//! Signatures by NKeys.

use std::sync::atomic::{AtomicU64, Ordering};

use nkeys::KeyPair;

/// Each costs more than all else that is looked at, so they are counted.
static VERIFIED: AtomicU64 = AtomicU64::new(0);

/// Whether this key has signed this.
#[must_use]
pub fn is_signed(key: &KeyPair, signed: &[u8], signature: &[u8]) -> bool {
    VERIFIED.fetch_add(1, Ordering::Relaxed);
    key.verify(signed, signature).is_ok()
}

/// How many signatures this process has verified, whatever came of it.
#[must_use]
pub fn signatures_verified() -> u64 {
    VERIFIED.load(Ordering::Relaxed)
}
