//! Signatures by NKeys.

use std::sync::atomic::{AtomicU64, Ordering};

use ed25519_zebra::batch::{Item, Verifier};
use ed25519_zebra::{Signature, VerificationKeyBytes};
use nkeys::KeyPair;
use rand_core::OsRng;

/// Each costs more than all else that is looked at, so they are counted.
static VERIFIED: AtomicU64 = AtomicU64::new(0);

/// Whether this key has signed this.
#[must_use]
pub fn is_signed(key: &KeyPair, signed: &[u8], signature: &[u8]) -> bool {
    VERIFIED.fetch_add(1, Ordering::Relaxed);
    key.verify(signed, signature).is_ok()
}

/// How many signatures this process has verified, whatever came of it. One of several that were verified together counts as one.
#[must_use]
pub fn signatures_verified() -> u64 {
    VERIFIED.load(Ordering::Relaxed)
}

/// A signature that is still to be verified. It does not hold what was signed.
///
/// **Invariant:** whether it is right depends on nothing but itself, not on those that it is verified with: what counts are the rules of
/// ZIP 215, for one as for many (ADR 28).
#[derive(Clone, Debug)]
pub(crate) struct Unverified(Item);

impl Unverified {
    /// What a key, in 32 bytes, is said to have signed.
    pub(crate) fn new(key: [u8; 32], signed: &[u8], signature: [u8; 64]) -> Self {
        Self(Item::from((VerificationKeyBytes::from(key), Signature::from(signature), signed)))
    }

    /// Whether the key has signed it.
    pub(crate) fn is_right(&self) -> bool {
        VERIFIED.fetch_add(1, Ordering::Relaxed);
        self.0.clone().verify_single().is_ok()
    }

    /// Whether their keys have signed all of them. Of eight by one key each costs half of what one by itself does, of many more a third;
    /// where one is wrong, nothing is known of the others.
    pub(crate) fn are_right(all: impl IntoIterator<Item = Self>) -> bool {
        let mut verifier = Verifier::new();
        let mut count = 0;
        for Self(item) in all {
            verifier.queue(item);
            count += 1;
        }
        let are_right = verifier.verify(OsRng).is_ok();
        // Otherwise each is verified once more, and is counted then.
        VERIFIED.fetch_add(if are_right { count } else { 0 }, Ordering::Relaxed);
        are_right
    }
}

#[cfg(test)]
mod tests {
    use curve25519_dalek::constants::{ED25519_BASEPOINT_POINT, EIGHT_TORSION};
    use curve25519_dalek::scalar::{Scalar, clamp_integer};
    use sha2::{Digest as _, Sha512};

    use super::*;

    fn unverified(key: &KeyPair, said: &KeyPair, text: &str) -> Unverified {
        let (_, said) = nkeys::from_public_key(&said.public_key()).unwrap();
        Unverified::new(said, text.as_bytes(), key.sign(text.as_bytes()).unwrap().try_into().unwrap())
    }

    #[test]
    fn one_that_is_wrong_is_found_among_any_number_of_others() {
        let [one, other] = [KeyPair::new_account(), KeyPair::new_account()];
        for count in [1, 2, 7, 40] {
            let right = |number: usize| {
                let key = [&one, &other][number % 2];
                unverified(key, key, &format!("text {number}"))
            };
            let all = || (0..count).map(right);
            assert!(Unverified::are_right(all()));
            assert!(all().all(|right| right.is_right()));
            for place in [0, count / 2, count - 1] {
                let wrong = unverified(&one, &other, "text");
                assert!(!wrong.is_right());
                let with_it =
                    all().enumerate().map(|(number, right)| if number == place { wrong.clone() } else { right });
                assert!(!Unverified::are_right(with_it), "{place} of {count}");
            }
        }
        assert!(Unverified::are_right([]));
    }

    #[test]
    fn no_byte_can_be_changed() {
        let key = KeyPair::new_account();
        let (_, raw) = nkeys::from_public_key(&key.public_key()).unwrap();
        let signature: [u8; 64] = key.sign(b"text").unwrap().try_into().unwrap();
        assert!(Unverified::new(raw, b"text", signature).is_right());
        assert!(!Unverified::new(raw, b"texts", signature).is_right());
        for place in 0..64 {
            for bit in 0..8 {
                let mut changed = signature;
                changed[place] ^= 1 << bit;
                let unverified = Unverified::new(raw, b"text", changed);
                assert!(!Unverified::are_right([unverified.clone(), unverified.clone()]));
                assert!(!unverified.is_right(), "bit {bit} of byte {place}");
            }
        }
        // Whatever is no point is no key.
        let mut no_key = raw;
        no_key[0] ^= 1;
        assert!(!Unverified::new(no_key, b"text", signature).is_right());
        assert!(!Unverified::are_right([Unverified::new(no_key, b"text", signature)]));
    }

    /// A signature that only who has the key can make, and that is right but for a point of small order.
    fn off_by_a_small_order(key: &KeyPair, text: &[u8], order: usize) -> Unverified {
        let (_, seed) = nkeys::decode_seed(&key.seed().unwrap()).unwrap();
        let (_, raw) = nkeys::from_public_key(&key.public_key()).unwrap();
        let half: [u8; 32] = Sha512::digest(seed)[..32].try_into().unwrap();
        let (secret, nonce) = (Scalar::from_bytes_mod_order(clamp_integer(half)), Scalar::from(7_u8));
        let r = (ED25519_BASEPOINT_POINT * nonce + EIGHT_TORSION[order]).compress();
        let hash = Sha512::new().chain_update(r.as_bytes()).chain_update(raw).chain_update(text).finalize();
        let s = nonce + Scalar::from_bytes_mod_order_wide(&hash.into()) * secret;
        let signature: [u8; 64] = [r.to_bytes(), s.to_bytes()].concat().try_into().unwrap();
        assert_eq!(key.verify(text, &signature).is_ok(), order == 0);
        Unverified::new(raw, text, signature)
    }

    #[test]
    fn what_counts_for_one_counts_for_many() {
        let key = KeyPair::new_account();
        let right = || unverified(&key, &key, "text");
        for order in 0..EIGHT_TORSION.len() {
            for _ in 0..8 {
                let odd = off_by_a_small_order(&key, b"odd", order);
                assert!(Unverified::are_right([right(), odd.clone(), right()]), "{order}");
                assert!(odd.is_right(), "{order}");
            }
        }
    }
}
