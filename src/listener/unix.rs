//! Sockets of the file system. Nobody can connect before mode and group are what they are to be: until it listens, a socket that
//! is bound refuses everybody.

use std::fs::{self, Metadata};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};

use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::UnixListener;

use super::socket::BACKLOG;
use crate::config::UnixSocketConfig;

/// Where the groups of the system are.
const GROUPS: &str = "/etc/group";

/// The file of a socket that listens. It is removed with it.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    /// Device and number of the file: another one of this name is not ours to remove.
    id: (u64, u64),
}

impl SocketFile {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if id_at(&self.path).is_ok_and(|id| id == self.id) {
            // It may be gone by now; nobody waits for it.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Listens at a path. A file that somebody left there who has ended is replaced.
pub(crate) fn listen(config: &UnixSocketConfig) -> io::Result<(UnixListener, SocketFile)> {
    let path = &config.path;
    let group = config.group.as_deref().map(|name| group(name, GROUPS)).transpose()?;
    make_room(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::unix(path)?)?;
    let file = SocketFile { path: path.clone(), id: id_at(path)? };
    fs::set_permissions(path, fs::Permissions::from_mode(config.mode.bits()))?;
    if let Some(group) = group {
        let changed = chown(path, None, Some(group));
        changed.map_err(|error| within(&error, "its group cannot be set: is this process in that group?"))?;
    }
    socket.listen(BACKLOG)?;
    // Who begins at the same moment takes what does not listen yet for a file that was left.
    if id_at(path).is_ok_and(|id| id == file.id) {
        Ok((UnixListener::from_std(socket.into())?, file))
    } else {
        Err(io::Error::new(ErrorKind::AddrInUse, "another process has taken its place meanwhile"))
    }
}

/// Looks whether there is the group that a socket is to have.
pub(super) fn check(config: &UnixSocketConfig) -> io::Result<()> {
    config.group.as_deref().map_or(Ok(()), |name| group(name, GROUPS).map(|_| ()))
}

fn within(error: &io::Error, what: &str) -> io::Error {
    io::Error::new(error.kind(), format!("{what} ({error})"))
}

fn id_at(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|file: Metadata| (file.dev(), file.ino()))
}

/// Removes what was left at a path by a process that has ended, and nothing else.
fn make_room(path: &Path) -> io::Result<()> {
    let file = match fs::symlink_metadata(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !file.file_type().is_socket() {
        return Err(io::Error::new(ErrorKind::AlreadyExists, "a file is there that is no socket: it is left alone"));
    }
    match probe(path) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            Err(within(&error, "a socket is there, and it cannot be told whether somebody listens"))
        }
        // Also when those who wait there are too many.
        Ok(()) | Err(_) => Err(io::Error::new(ErrorKind::AddrInUse, "another process listens there")),
    }
}

/// Connects, without waiting for room among those who wait to be accepted.
fn probe(path: &Path) -> io::Result<()> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.connect(&SockAddr::unix(path)?)
}

/// The number of a group, by its name or its number. Groups of a directory are known by their number only.
fn group(name: &str, groups: &str) -> io::Result<u32> {
    if let Ok(number) = name.parse() {
        return Ok(number);
    }
    let text = fs::read_to_string(groups)?;
    let numbers = text.lines().filter_map(|line| {
        let mut fields = line.split(':');
        (fields.next()? == name).then(|| fields.nth(1)?.parse().ok())?
    });
    numbers.into_iter().next().ok_or_else(|| {
        let why = format!("there is no group {name:?} in {groups}: name one that is, or write its number");
        io::Error::new(ErrorKind::InvalidInput, why)
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixListener as StdListener, UnixStream};

    use super::*;

    fn config(path: &Path) -> UnixSocketConfig {
        UnixSocketConfig { path: path.to_owned(), mode: "0640".parse().unwrap(), group: None }
    }

    fn error(path: &Path) -> String {
        listen(&config(path)).unwrap_err().to_string()
    }

    #[tokio::test]
    async fn a_socket_has_its_mode_and_is_gone_with_its_listener() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mqtt.sock");
        let (listener, file) = listen(&config(&path)).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o640);
        UnixStream::connect(&path).unwrap();
        assert_eq!(error(&path), "another process listens there");
        drop((listener, file));
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn what_a_dead_process_left_is_replaced_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mqtt.sock");
        drop(StdListener::bind(&path).unwrap());
        assert!(path.exists(), "it is left");
        let held = listen(&config(&path)).unwrap();
        // Somebody has put his own there: it stays.
        fs::remove_file(&path).unwrap();
        let _theirs = StdListener::bind(&path).unwrap();
        drop(held);
        assert!(UnixStream::connect(&path).is_ok());
        let other = dir.path().join("text");
        fs::write(&other, "x").unwrap();
        assert!(error(&other).contains("no socket"));
        assert_eq!(fs::read_to_string(&other).unwrap(), "x");
        assert!(error(&dir.path().join("nowhere/mqtt.sock")).contains("No such file"));
    }

    #[test]
    fn a_group_is_found_by_name_or_number() {
        let dir = tempfile::tempdir().unwrap();
        let groups = dir.path().join("group");
        fs::write(&groups, "root:x:0:\ndevices:x:1234:a,b\nbroken\n").unwrap();
        let groups = groups.to_str().unwrap();
        assert_eq!(group("devices", groups).unwrap(), 1234);
        assert_eq!(group("77", groups).unwrap(), 77);
        let error = group("nobody-has-it", groups).unwrap_err().to_string();
        assert!(error.starts_with("there is no group \"nobody-has-it\" in "), "{error}");
    }
}
