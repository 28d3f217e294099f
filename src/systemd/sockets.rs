//! Sockets that the service manager has opened for us (`LISTEN_FDS`): each has a name, and is found by it. One that was given no name has
//! that of its unit, or none, and is for the first who finds none of his own name.

use std::io;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::sync::LazyLock;

use parking_lot::Mutex;
use rustix::io::{FdFlags, fcntl_setfd};
use socket2::{Domain, SockRef, Type};

/// A socket that was passed, which stays open: it is the service manager's, and a listener may come back to it.
#[derive(Debug)]
struct Passed<S> {
    /// As the service manager calls it.
    name: Option<String>,
    /// Who has found it.
    by: Option<String>,
    /// How many of it there are: it is as it was found when none is left.
    claims: u32,
    socket: S,
}

/// A socket is somebody's, until this is dropped: one that has no name may be somebody else's then.
#[derive(Debug)]
pub(crate) struct Claim {
    /// Its place among [`ALL`], which stays.
    at: usize,
}

impl Drop for Claim {
    fn drop(&mut self) {
        release(&mut ALL.lock(), self.at);
    }
}

/// Those of this process.
static ALL: LazyLock<Mutex<Vec<Passed<OwnedFd>>>> = LazyLock::new(|| Mutex::new(receive()));

fn receive() -> Vec<Passed<OwnedFd>> {
    let received = match sd_listen_fds::get() {
        Ok(received) => received,
        Err(error) => {
            tracing::warn!(%error, "LISTEN_FDS, LISTEN_PID or LISTEN_FDNAMES cannot be understood");
            Vec::new()
        }
    };
    let passed = received.into_iter().filter_map(|(name, socket)| {
        let socket = socket.into_std();
        // Not for programs that we start. What is not open is not ours to close.
        match fcntl_setfd(&socket, FdFlags::CLOEXEC) {
            Ok(()) => Some(Passed { name, by: None, claims: 0, socket }),
            Err(error) => {
                tracing::warn!(%error, ?name, "a socket that was said to be passed is none");
                std::mem::forget(socket);
                None
            }
        }
    });
    passed.collect()
}

/// The place of the socket for a name: that of this name, or else the first that nobody has named or found. It is claimed.
fn find<S>(all: &mut [Passed<S>], wanted: &str) -> Option<usize> {
    let is_his = |passed: &Passed<S>| match &passed.by {
        // Who had none of its own may have found that of another name.
        Some(by) => by == wanted,
        None => passed.name.as_deref() == Some(wanted),
    };
    // What systemd calls a socket without FileDescriptorName=.
    let is_unnamed = |name: Option<&str>| name.is_none_or(|name| name == "unknown" || name.ends_with(".socket"));
    let at = all
        .iter()
        .position(is_his)
        .or_else(|| all.iter().position(|passed| passed.by.is_none() && is_unnamed(passed.name.as_deref())))?;
    let found = all.get_mut(at)?;
    found.by = Some(wanted.to_owned());
    found.claims += 1;
    Some(at)
}

/// One of those who have claimed it needs it no more.
fn release<S>(all: &mut [Passed<S>], at: usize) {
    let Some(passed) = all.get_mut(at) else { return };
    passed.claims = passed.claims.saturating_sub(1);
    if passed.claims == 0 {
        passed.by = None;
    }
}

/// The socket of the service manager for this name.
///
/// # Errors
/// There is none, or it is not one that TCP connections come to.
pub(crate) fn passed(name: &str) -> io::Result<(TcpListener, Claim)> {
    let Some(at) = find(&mut ALL.lock(), name) else {
        let message = format!("the service manager has passed no socket for it: FileDescriptorName={name} is missing");
        return Err(io::Error::new(io::ErrorKind::NotFound, message));
    };
    let claim = Claim { at };
    let socket = ALL.lock().get(at).map(|passed| passed.socket.try_clone()).transpose()?;
    Ok((listening(socket.ok_or(io::ErrorKind::NotFound)?)?, claim))
}

/// As one that TCP connections come to.
fn listening(passed: OwnedFd) -> io::Result<TcpListener> {
    let socket = SockRef::from(&passed);
    let is_tcp = matches!(socket.domain()?, Domain::IPV4 | Domain::IPV6) && socket.r#type()? == Type::STREAM;
    if !is_tcp || !socket.is_listener()? {
        let message = "what the service manager has passed for it is no listening stream socket: write ListenStream=";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    socket.set_nonblocking(true)?;
    Ok(passed.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_are_found_by_name_or_else_in_order() {
        for (names, wanted, expected) in [
            (&[Some("web"), Some("field")][..], &["field", "web"][..], &[Some(1), Some(0)][..]),
            // Asked again, it is the same one.
            (&[Some("web"), Some("field")], &["field", "field"], &[Some(1), Some(1)]),
            (&[None, None], &["field", "web", "field", "more"], &[Some(0), Some(1), Some(0), None]),
            (&[Some("x.socket"), Some("x.socket")], &["field", "web"], &[Some(0), Some(1)]),
            // One that has a name is for nobody else.
            (&[Some("web"), Some("unknown")], &["field", "other", "web"], &[Some(1), None, Some(0)]),
            (&[], &["field"], &[None]),
            // One that was taken for want of another is not that of its name as well.
            (&[Some("x.socket")], &["field", "x.socket"], &[Some(0), None]),
        ] {
            let passed =
                |name: &Option<&str>| Passed { name: name.map(str::to_owned), by: None, claims: 0, socket: () };
            let mut all: Vec<_> = names.iter().map(passed).collect();
            let found: Vec<_> = wanted.iter().map(|name| find(&mut all, name)).collect();
            assert_eq!(found, expected, "{names:?} {wanted:?}");
        }
    }

    #[test]
    fn a_socket_without_a_name_is_somebody_elses_when_nobody_needs_it_any_more() {
        let mut all = [Passed { name: None, by: None, claims: 0, socket: () }];
        // Twice, as when a listener comes back before it is gone.
        assert_eq!([find(&mut all, "a"), find(&mut all, "a"), find(&mut all, "b")], [Some(0), Some(0), None]);
        release(&mut all, 0);
        assert_eq!(find(&mut all, "b"), None);
        release(&mut all, 0);
        assert_eq!([find(&mut all, "b"), find(&mut all, "a")], [Some(0), None]);
    }
}
