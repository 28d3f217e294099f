//! Who may do what. It does no I/O and has no clock: it is told the time. Random are only the
//! factors with which signatures are verified together.
//!
//! - [`Principal`]: who a connection is, whatever has proven it
//! - [`Publisher`]: what is kept of it for its will
//! - [`jwt`]: a user by its JWT, its account and operator
//! - [`oidc`]: a token of an identity provider
//! - [`Permissions`]: lists of subjects, compiled; publish, subscribe, deliver
//! - [`template`]: `{{name()}}` and its like, for one user
//! - [`DeviceRules`]: tags such as `mqtt:retain=deny`
//! - [`Network`], [`TimeWindows`]: where from, and when
//! - [`Certificate`], [`CertificateIdentity`]: whom a client certificate names
//! - [`ReplyBudget`]: how many replies to a request
//! - [`is_signed`]: signatures by NKeys, counted
//! - [`password`]: hashes, verified and made; [`Secret`]: a password that cannot be printed
//!
//! What nats-server does is the measure; where we differ, we are stricter but for a few cases: `docs/nats-cases.md` says in what.
//!
//! **Invariant:** what nats-server refuses is refused here, but for what `docs/nats-cases.md` lists.
//!
//! **Invariant:** what a device or an identity provider chose is one [`template::Token`] of a subject: never a wildcard, never
//! two.
//!
//! **Invariant:** what was meant to forbid and cannot be understood is an error, never left out.
//!
//! Not here: topics and closed trees, which are `proto-map`'s, connections to ask somebody on, caches, and where hashing runs.

mod certificate;
pub mod jwt;
mod limit;
mod lists;
mod matcher;
mod network;
pub mod oidc;
pub mod password;
mod permissions;
mod principal;
mod publisher;
mod reply;
mod secret;
mod signature;
pub mod subject;
mod tags;
pub mod template;
mod time;
mod window;

pub use self::certificate::{Certificate, CertificateId, CertificateIdentity, NotAnIdentity};
pub use self::limit::Limit;
pub use self::lists::{PermissionLists, SubjectLists};
pub use self::network::{Network, NotANetwork};
pub use self::permissions::{
    CurrentPermissions, InvalidDeny, MultiLevelVerdict, Permissions, PermissionsVersion, SubscribeVerdict,
};
pub use self::principal::{AccountId, Ending, Limits, Mode, Origin, Principal, Ticket, User};
pub use self::publisher::Publisher;
pub use self::reply::{ReplyBudget, ResponseLimits};
pub use self::secret::Secret;
pub use self::signature::{is_signed, signatures_verified};
pub use self::tags::{DeviceRules, InvalidTag};
pub use self::time::UnixTime;
pub use self::window::{TimeRange, TimeWindows, WindowError, WindowVerdict};
