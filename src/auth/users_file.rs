//! Looks at the file of users: whether it is another one than before, and what is in it.
//!
//! It is looked at, and not announced: that works on every file system, and for files that are replaced, by way of symbolic links
//! as well.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use mqtt_access::UnixTime;

use crate::config::{UserConfig, read_users};

/// What is different of a file when it was written, or replaced. `None`: it is not there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Stamp(Option<Marks>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Marks {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    pub(super) fn of(path: &Path) -> Self {
        Self(std::fs::metadata(path).ok().map(|file| Marks {
            device: file.dev(),
            inode: file.ino(),
            size: file.size(),
            modified: (file.mtime(), file.mtime_nsec()),
            changed: (file.ctime(), file.ctime_nsec()),
        }))
    }

    /// When it was written, as the file system says.
    pub(super) fn written(&self) -> UnixTime {
        let (seconds, nanoseconds) = self.0.map_or((0, 0), |marks| marks.changed);
        UnixTime::from_millis(seconds.saturating_mul(1000).saturating_add(nanoseconds / 1_000_000))
    }
}

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
