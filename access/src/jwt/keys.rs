//! Public NKeys.

use nkeys::{KeyPair, KeyPairType};

/// The key of this kind that a text is. Each key has one text, so texts can be compared.
pub(super) fn key(text: &str, kind: KeyPairType) -> Option<KeyPair> {
    KeyPair::from_public_key(text).ok().filter(|key| key.key_pair_type() == kind)
}

pub(super) fn is_operator(text: &str) -> bool {
    key(text, KeyPairType::Operator).is_some()
}

/// Whether a text is the public NKey of an account.
#[must_use]
pub fn is_account(text: &str) -> bool {
    key(text, KeyPairType::Account).is_some()
}

pub(super) fn is_user(text: &str) -> bool {
    key(text, KeyPairType::User).is_some()
}
