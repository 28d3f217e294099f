//! Looks at the file of users: whether it is another one than before, and what is in it.

use std::path::Path;

use crate::config::{UserConfig, read_users};
use crate::stamp::Stamp;

/// What a look has found.
#[derive(Debug)]
pub(super) struct Found {
    /// Of the file that was read.
    pub(super) stamp: Stamp,
    /// What is in it, or what is wrong with it.
    pub(super) users: Result<Vec<UserConfig>, String>,
}

/// Reads the file when it is another one than `before`. One that is written meanwhile is left for the next look.
pub(super) fn look(path: &Path, others: &[UserConfig], before: Option<Stamp>) -> Option<Found> {
    let stamp = Stamp::of(path);
    if before == Some(stamp) {
        return None;
    }
    let users = read_users(path, others).map_err(|error| error.to_string());
    (Stamp::of(path) == stamp).then_some(Found { stamp, users })
}
