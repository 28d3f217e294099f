//! Whether a file is another one than before.
//!
//! It is looked at, and not announced: that works on every file system, and for files that are replaced, by way of symbolic links
//! as well.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use mqtt_access::UnixTime;

/// What is different of a file when it was written, or replaced. `None`: it is not there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stamp(Option<Marks>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Marks {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    pub(crate) fn of(path: &Path) -> Self {
        Self(std::fs::metadata(path).ok().map(|file| Marks {
            device: file.dev(),
            inode: file.ino(),
            size: file.size(),
            modified: (file.mtime(), file.mtime_nsec()),
            changed: (file.ctime(), file.ctime_nsec()),
        }))
    }

    /// The same of a file that need not be named. Taken before it is read, so that what is written meanwhile is another one.
    pub(crate) fn of_some(path: Option<&Path>) -> Self {
        path.map(Self::of).unwrap_or_default()
    }

    /// When it was written, as the file system says.
    pub(crate) fn written(&self) -> UnixTime {
        let (seconds, nanoseconds) = self.0.map_or((0, 0), |marks| marks.changed);
        UnixTime::from_millis(seconds.saturating_mul(1000).saturating_add(nanoseconds / 1_000_000))
    }
}
