//! Public NKeys.

use nkeys::{KeyPair, KeyPairType};

/// The key of this kind that a text is. Each key has one text, so texts can be compared.
pub(super) fn key(text: &str, kind: KeyPairType) -> Option<KeyPair> {
    KeyPair::from_public_key(text).ok().filter(|key| key.key_pair_type() == kind)
}

/// The 32 bytes of the key of this kind that a text is. Whether there is such a point on the curve is found out by whoever verifies a
/// signature with it.
pub(super) fn bytes(text: &str, kind: KeyPairType) -> Option<[u8; 32]> {
    let (prefix, bytes) = nkeys::from_public_key(text).ok()?;
    (KeyPairType::from(prefix) == kind).then_some(bytes)
}

/// Whether a text is written as a key of this kind is. Whether there is such a point on the curve, which costs much more, is
/// found out by whoever verifies a signature with it, as with nats-server.
fn is_of_kind(text: &str, kind: KeyPairType) -> bool {
    bytes(text, kind).is_some()
}

pub(super) fn is_operator(text: &str) -> bool {
    is_of_kind(text, KeyPairType::Operator)
}

/// Whether a text is the public NKey of an account.
#[must_use]
pub fn is_account(text: &str) -> bool {
    is_of_kind(text, KeyPairType::Account)
}

pub(super) fn is_user(text: &str) -> bool {
    is_of_kind(text, KeyPairType::User)
}
