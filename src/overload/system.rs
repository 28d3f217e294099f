//! Memory, its limit and open files, as the system tells them. What cannot be read is as if there was no limit.
//!
//! The limit is that of the control group (cgroup v2 and v1), or that of the machine. What counts against it is what the kernel
//! cannot take back when it needs room: in a control group all that it is charged for but the pages of files that are not in use;
//! otherwise the pages of this process.

use std::fs;
use std::path::{Path, PathBuf};

/// Where control groups are mounted.
const MOUNT: &str = "/sys/fs/cgroup";

/// A limit above this is none: version 1 says "none" with a number.
const NO_LIMIT: u64 = 1 << 60;

/// Memory in use, and its limit, bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Memory {
    pub(crate) used: u64,
    pub(crate) limit: u64,
}

impl Memory {
    /// What is in use, in thousandths of the limit.
    pub(crate) fn permille(self) -> u64 {
        let permille = u128::from(self.used) * 1_000 / u128::from(self.limit.max(1));
        u64::try_from(permille).unwrap_or(u64::MAX)
    }
}

/// Where both are read.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    group: Option<Group>,
    limit: u64,
}

/// The control group that limits memory.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Group {
    dir: PathBuf,
    is_v2: bool,
}

impl Source {
    /// Finds out what limits this process. `configured`: the limit in its place; 0: none.
    pub(crate) fn find(configured: u64) -> Self {
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let found = group_of(&own, Path::new(MOUNT), &|path: &Path| path.is_dir());
        let of_group = found.and_then(|group| Some((group.limit()?, group)));
        let physical = fs::read_to_string("/proc/meminfo").ok().and_then(|text| total_of(&text)).unwrap_or(NO_LIMIT);
        match (configured, of_group) {
            // What else runs in the group has no part in what was configured.
            (1.., _) => Self { group: None, limit: configured },
            (0, Some((limit, group))) if limit < physical => Self { group: Some(group), limit },
            (0, _) => Self { group: None, limit: physical },
        }
    }

    /// Whether the limit is that of a control group.
    pub(crate) const fn is_of_group(&self) -> bool {
        self.group.is_some()
    }

    /// What is in use now.
    pub(crate) fn read(&self) -> Memory {
        let resident = fs::read_to_string("/proc/self/statm").ok().and_then(|text| resident_of(&text)).unwrap_or(0);
        let used = self.group.as_ref().and_then(Group::used).unwrap_or(0).max(resident);
        Memory { used, limit: self.limit }
    }
}

impl Group {
    fn number(&self, file: &str) -> Option<u64> {
        fs::read_to_string(self.dir.join(file)).ok()?.trim().parse().ok()
    }

    /// Its limit, or that of a group that it is part of.
    fn limit(&self) -> Option<u64> {
        let file = if self.is_v2 { "memory.max" } else { "memory.limit_in_bytes" };
        let all = self.dir.ancestors().take_while(|dir| dir.starts_with(MOUNT));
        let limits = all.filter_map(|dir| Self { dir: dir.to_owned(), is_v2: self.is_v2 }.number(file));
        limits.min().filter(|limit| *limit < NO_LIMIT)
    }

    fn used(&self) -> Option<u64> {
        let (file, idle) = if self.is_v2 {
            ("memory.current", "inactive_file")
        } else {
            ("memory.usage_in_bytes", "total_inactive_file")
        };
        let stat = fs::read_to_string(self.dir.join("memory.stat")).unwrap_or_default();
        Some(self.number(file)?.saturating_sub(field_of(&stat, idle).unwrap_or(0)))
    }
}

/// The group of memory in what `/proc/self/cgroup` says: `4:memory:/path` of version 1, `0::/path` of version 2. Inside a
/// container the path may be one that is not seen there, and the mount is the group.
fn group_of(own: &str, mount: &Path, is_there: &dyn Fn(&Path) -> bool) -> Option<Group> {
    let groups = own.lines().filter_map(|line| {
        let mut parts = line.splitn(3, ':');
        let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
        Some((controllers, path.trim_start_matches('/')))
    });
    let of = |root: PathBuf, path: &str, is_v2| {
        let dir = if is_there(&root.join(path)) { root.join(path) } else { root };
        is_there(&dir).then_some(Group { dir, is_v2 })
    };
    let mut v2 = None;
    for (controllers, path) in groups {
        if controllers.split(',').any(|controller| controller == "memory") {
            return of(mount.join("memory"), path, false);
        }
        if controllers.is_empty() {
            v2 = of(mount.to_owned(), path, true);
        }
    }
    v2
}

/// Files that this process can still open; `None`: as many as it wants, or nobody knows.
pub(crate) fn files_left() -> Option<u64> {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current?;
    // Linux 6.2 and later say how many there are without a list of them.
    let open = fs::metadata("/proc/self/fd").ok().map(|files| files.len()).filter(|open| *open > 0);
    Some(limit.saturating_sub(open?))
}

/// The second number of `/proc/self/statm` is resident pages.
fn resident_of(statm: &str) -> Option<u64> {
    let pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

/// `MemTotal` of `/proc/meminfo`, bytes.
fn total_of(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1_024)
}

fn field_of(stat: &str, name: &str) -> Option<u64> {
    stat.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_group_is_found_in_both_versions_and_inside_a_container() {
        let group = |own: &str, there: &[&str]| {
            let is_there = |path: &Path| there.iter().any(|dir| Path::new(dir) == path);
            let found = group_of(own, Path::new("/c"), &is_there)?;
            Some((found.dir.to_str().unwrap().to_owned(), found.is_v2))
        };
        let v1 = "5:cpu,cpuacct:/\n4:memory:/docker/abc\n0::/\n";
        assert_eq!(group(v1, &["/c/memory", "/c/memory/docker/abc"]), Some(("/c/memory/docker/abc".to_owned(), false)));
        assert_eq!(group(v1, &["/c/memory"]), Some(("/c/memory".to_owned(), false)), "as seen from inside");
        let v2 = "0::/system.slice/nats-mqtt.service\n";
        let unit = "/c/system.slice/nats-mqtt.service";
        assert_eq!(group(v2, &["/c/", "/c", unit]), Some((unit.to_owned(), true)));
        assert_eq!(group("0::/../x\n", &["/c"]), Some(("/c".to_owned(), true)));
        assert_eq!(group("", &["/c"]), None);
        assert_eq!(group("rubbish", &["/c"]), None);
    }

    #[test]
    fn what_the_system_says_is_understood() {
        assert_eq!(total_of("MemTotal:       24105 kB\nMemFree: 1 kB\n"), Some(24_105 * 1_024));
        assert_eq!(field_of("anon 5\ninactive_file 77\n", "inactive_file"), Some(77));
        assert_eq!(field_of("total_inactive_file 77\n", "inactive_file"), None);
        assert_eq!(resident_of("rubbish"), None);
    }

    #[test]
    fn this_process_has_a_limit_uses_some_of_it_and_can_open_files() {
        let source = Source::find(0);
        let memory = source.read();
        assert!(memory.limit > 1 << 20 && memory.used > 1 << 20, "{memory:?} {source:?}");
        assert_eq!(Source::find(1 << 30).read().limit, 1 << 30);
        assert!(files_left().is_none_or(|left| left > 0));
    }
}
