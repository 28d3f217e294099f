//! Who may do what: NATS permissions and what follows from them, the templates that permissions are made of, tags, networks
//! and hours, and hashes of passwords. It does no I/O and has no clock: it is told the time.
//!
//! - [`Permissions`]: lists of subjects, compiled; publish, subscribe, deliver
//! - [`template`]: `{{name()}}` and its like, for one user
//! - [`DeviceRules`]: tags such as `mqtt:retain=deny`
//! - [`Network`], [`TimeWindows`]: where from, and when
//! - [`ReplyBudget`]: how many replies to a request
//! - [`password`]: hashes, verified and made; [`Secret`]: a password that cannot be printed
//!
//! What nats-server does is the measure; where we differ, we are stricter.
//!
//! **Invariant:** what nats-server refuses is refused here.
//!
//! **Invariant:** what a device or an identity provider chose is one [`template::Token`] of a subject: never a wildcard, never
//! two.
//!
//! **Invariant:** what was meant to forbid and cannot be understood is an error, never left out.
//!
//! Not here: topics and closed trees, which are `proto-map`'s, connections to ask somebody on, caches, and where hashing runs.

mod lists;
mod matcher;
mod network;
pub mod password;
mod permissions;
mod reply;
mod secret;
pub mod subject;
mod tags;
pub mod template;
mod time;
mod window;

pub use self::lists::{PermissionLists, SubjectLists};
pub use self::network::{Network, NotANetwork};
pub use self::permissions::{
    CurrentPermissions, InvalidDeny, MultiLevelVerdict, Permissions, PermissionsVersion, SubscribeVerdict,
};
pub use self::reply::{ReplyBudget, ResponseLimits};
pub use self::secret::Secret;
pub use self::tags::{DeviceRules, InvalidTag};
pub use self::time::UnixTime;
pub use self::window::{TimeRange, TimeWindows, WindowError, WindowVerdict};
