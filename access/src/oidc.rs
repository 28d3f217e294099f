//! JWTs of an identity provider: whether one of its keys has signed one, and what its claims say.
//!
//! Signatures are `ring`'s, which is in the program anyway. The crate `jsonwebtoken` brings another implementation of
//! everything along; what of it is needed here is these files.
//!
//! **Invariant:** the algorithm is the key's. What a token says of it only has to agree, and where it wants to get a key from is
//! not read.

mod algorithm;
mod der;
mod keys;
mod token;

pub use self::keys::{KeyError, KeySet, Signed};
pub use self::token::{Expected, OidcRefusal, OidcToken};
