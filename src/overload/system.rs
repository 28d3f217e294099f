//! Memory, its limit and open files, as the system tells them. What cannot be read is as if there was no limit.
//!
//! A process is within several rooms, one in the other: its control group (cgroup v2 and v1), those that this is part of, and the
//! machine. Each has a limit, and others may be in it as well. So of each is read what is in use and what is left, and the limit of
//! this process is what it has and what is left in the room where the least is.
//!
//! **Invariant:** what is compared with a limit was read of the same room, at the same time.
//!
//! What the kernel can take back when it needs room is not in use: pages of files that are not to be written.

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
pub(crate) enum Source {
    /// What the configuration says, for the pages of this process: what else is there has no part in it.
    Configured(u64),
    /// The control group of this process first, then those that it is part of; there may be none.
    Rooms(Vec<Group>),
}

/// A control group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Group {
    dir: PathBuf,
    is_v2: bool,
}

impl Source {
    /// Finds out what limits this process. `configured`: the limit in its place; 0: none.
    pub(crate) fn find(configured: u64) -> Self {
        if configured > 0 {
            return Self::Configured(configured);
        }
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let mount = Path::new(MOUNT);
        let found = group_of(&own, mount, &|path: &Path| path.is_dir());
        Self::Rooms(found.map(|group| group.with_those_above(mount)).unwrap_or_default())
    }

    /// Whether a control group sets the limit now.
    pub(crate) fn is_of_group(&self) -> bool {
        match self {
            Self::Configured(_) => false,
            Self::Rooms(groups) => groups.iter().filter_map(Group::read).any(|group| group.limit < machine().limit),
        }
    }

    /// What is in use now, and its limit.
    pub(crate) fn read(&self) -> Memory {
        let statm = fs::read_to_string("/proc/self/statm").unwrap_or_default();
        match self {
            Self::Configured(limit) => Memory { used: resident_of(&statm).unwrap_or(0), limit: *limit },
            Self::Rooms(groups) => {
                let rooms: Vec<Option<Memory>> = groups.iter().map(Group::read).collect();
                // What is in a group with a limit is ours, as far as the limit goes; of what has none, as little as is for sure. A
                // process can be moved, and leaves behind what it has.
                let own = rooms.first().copied().flatten().map_or(0, |group| group.used);
                let own = own.max(private_of(&statm).unwrap_or(0));
                within(own, rooms.into_iter().flatten().chain([machine()]))
            }
        }
    }
}

/// What is in use of what this process may have, when it is within all of these rooms.
fn within(own: u64, rooms: impl Iterator<Item = Memory>) -> Memory {
    let limit = rooms.map(|room| own.saturating_add(room.limit.saturating_sub(room.used)).min(room.limit)).min();
    Memory { used: own, limit: limit.unwrap_or(NO_LIMIT) }
}

/// The outermost room.
fn machine() -> Memory {
    fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| machine_of(&text))
        .unwrap_or(Memory { used: 0, limit: NO_LIMIT })
}

impl Group {
    fn number(&self, file: &str) -> Option<u64> {
        fs::read_to_string(self.dir.join(file)).ok()?.trim().parse().ok()
    }

    /// This one, and those that it is part of, from within to without.
    fn with_those_above(&self, mount: &Path) -> Vec<Self> {
        let all = self.dir.ancestors().take_while(|dir| dir.starts_with(mount));
        all.map(|dir| Self { dir: dir.to_owned(), is_v2: self.is_v2 }).collect()
    }

    /// What is in use in it, and its limit, if it has one.
    fn read(&self) -> Option<Memory> {
        let limit = self.number(if self.is_v2 { "memory.max" } else { "memory.limit_in_bytes" })?;
        Some(Memory { used: self.used()?, limit }).filter(|memory| memory.limit < NO_LIMIT)
    }

    fn used(&self) -> Option<u64> {
        let charged = self.number(if self.is_v2 { "memory.current" } else { "memory.usage_in_bytes" })?;
        let stat = fs::read_to_string(self.dir.join("memory.stat")).unwrap_or_default();
        Some(charged.saturating_sub(reclaimable_of(&stat, self.is_v2)))
    }
}

/// Bytes that a control group is charged for and the kernel takes back when there is need: pages of files, whether they were used
/// lately or not, but for those that have to be written first, and what of its own the kernel can give up.
fn reclaimable_of(stat: &str, is_v2: bool) -> u64 {
    let (cached, unwritten): (&[_], &[_]) = if is_v2 {
        (&["inactive_file", "active_file", "slab_reclaimable"], &["file_dirty", "file_writeback"])
    } else {
        (&["total_inactive_file", "total_active_file"], &["total_dirty", "total_writeback"])
    };
    let sum = |names: &[&str]| names.iter().filter_map(|name| field_of(stat, name)).sum::<u64>();
    sum(cached).saturating_sub(sum(unwritten))
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
    pages_of(statm, 1)
}

/// Without those of files and what is shared with others, which is the third.
fn private_of(statm: &str) -> Option<u64> {
    Some(pages_of(statm, 1)?.saturating_sub(pages_of(statm, 2)?))
}

fn pages_of(statm: &str, index: usize) -> Option<u64> {
    let pages: u64 = statm.split_whitespace().nth(index)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

/// What `/proc/meminfo` says of the machine. `MemAvailable` is what can be had without swapping, caches included.
fn machine_of(meminfo: &str) -> Option<Memory> {
    let bytes = |name: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1_024)
    };
    let limit = bytes("MemTotal")?;
    Some(Memory { used: bytes("MemAvailable").map_or(0, |available| limit.saturating_sub(available)), limit })
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
    fn the_limit_is_that_of_the_room_where_the_least_is_left_whoever_takes_it() {
        const MIB: u64 = 1 << 20;
        let within = |own: u64, rooms: &[(u64, u64)]| {
            let rooms = rooms.iter().map(|(used, limit)| Memory { used: used * MIB, limit: limit * MIB });
            let memory = within(own * MIB, rooms);
            (memory.used / MIB, memory.limit / MIB)
        };
        assert_eq!(within(100, &[(100, 256), (900, 24_000)]), (100, 256), "alone in its own");
        assert_eq!(within(100, &[(3_900, 4_000), (9_000, 24_000)]), (100, 200), "its slice is nearly full of others");
        assert_eq!(within(100, &[(100, 256), (3_950, 4_000)]), (100, 150));
        assert_eq!(within(100, &[(100, 256), (4_100, 4_000)]), (100, 100), "there is nothing left");
        assert_eq!(within(300, &[(100, 256)]), (300, 256), "some of it is another group's");
        assert_eq!(within(100, &[]).0, 100);
        let group = |dir: &str| Group { dir: dir.into(), is_v2: true };
        let above = group("/c/a/b").with_those_above(Path::new("/c"));
        assert_eq!(above, [group("/c/a/b"), group("/c/a"), group("/c")]);
    }

    #[test]
    fn what_the_kernel_takes_back_is_not_in_use() {
        let v2 = "anon 1000\ninactive_file 50\nactive_file 70\nslab_reclaimable 5\nfile_dirty 20\nfile_writeback 1\n";
        assert_eq!(reclaimable_of(v2, true), 104);
        let v1 = "active_file 9\ntotal_inactive_file 50\ntotal_active_file 70\ntotal_dirty 20\ntotal_writeback 0\n";
        assert_eq!(reclaimable_of(v1, false), 100);
        assert_eq!((reclaimable_of("", true), reclaimable_of("file_dirty 7", true)), (0, 0));
    }

    #[test]
    fn what_the_system_says_is_understood() {
        let meminfo = "MemTotal:       24105 kB\nMemFree: 1 kB\nMemAvailable:   20000 kB\n";
        assert_eq!(machine_of(meminfo), Some(Memory { used: 4_105 * 1_024, limit: 24_105 * 1_024 }));
        assert_eq!(machine_of("MemTotal: 24105 kB\n"), Some(Memory { used: 0, limit: 24_105 * 1_024 }));
        assert_eq!(machine_of("rubbish"), None);
        assert_eq!(field_of("anon 5\ninactive_file 77\n", "inactive_file"), Some(77));
        assert_eq!(field_of("total_inactive_file 77\n", "inactive_file"), None);
        assert_eq!((resident_of("rubbish"), private_of("9 7")), (None, None));
        assert_eq!(private_of("9 7 3 1"), resident_of("0 4"));
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
