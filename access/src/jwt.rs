//! JWTs of NATS: who signed what, and what a user may do by them. Every step of nats-server's chain, in its order:
//!
//! 1. [`UserJwt::decode`]: the claims themselves, and whose account it is; of many at once [`UnverifiedUserJwt`]
//! 2. the caller gets that account's JWT, and [`Account::verify`] sees that our operator signed it
//! 3. [`UserJwt::judge`]: everything else, from the issuer to the permissions
//!
//! The claims are types of our own. `nats-io-jwt` is generated from a schema: it makes and signs JWTs, and reads and verifies
//! none; and what is left out of a JWT means something else than what is empty, which its types do not tell apart.
//!
//! Not read: imports, exports and mappings of an account. The link into the account is nats-server's to allow, which looks at
//! them.

mod absent;
mod account;
mod checks;
mod claims;
mod encoded;
mod keys;
mod known_keys;
mod operator;
mod refusal;
mod texts;
mod user;

pub use self::account::{Account, AccountLimits, AccountRefusal, Deletion, KnownAccount};
pub use self::encoded::{JWT_LEN_MAX, JwtError};
pub use self::keys::is_account;
pub use self::operator::{Operator, Operators};
pub use self::refusal::Refusal;
pub use self::texts::jwts_in;
pub use self::user::{Circumstances, Listener, OwnLimits, Proof, UnverifiedUserJwt, UserJwt};
