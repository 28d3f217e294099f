//! The words of `sd_notify(3)`, and the socket of the service manager that they go to. Written here, and not taken from a crate: it is
//! a datagram.
//!
//! **Invariant:** what the service manager goes by, READY, RELOADING and STOPPING, reaches it in its order, also when it has no room at
//! the moment: a start whose READY is lost is ended by it. What waits is no more than the last state. Everything else is said again
//! anyway, and is lost then.

use std::env;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::io::{self, ErrorKind::WouldBlock};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rustix::time::{ClockId, clock_gettime};

/// Characters of a status: more than a line has room for.
const STATUS_MAX: usize = 300;

/// What the service manager is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Message<'a> {
    /// The start takes longer: this much from now on.
    Starting(&'a str, Duration),
    /// Devices are served.
    Ready(&'a str),
    /// The configuration is read again; `Ready` follows. With the time of the monotonic clock.
    Reloading(Duration),
    /// The process ends, which may take so long.
    Stopping(Duration),
    /// How it is.
    Status(&'a str),
    /// It is alive.
    Alive,
}

impl Message<'_> {
    /// As the datagram has it.
    fn text(self) -> String {
        let mut text = String::new();
        let (state, status, more) = match self {
            Self::Starting(status, longer) => ("", status, Some(("EXTEND_TIMEOUT_USEC", longer))),
            Self::Ready(status) => ("READY=1", status, None),
            Self::Reloading(now) => ("RELOADING=1", "the configuration is read again", Some(("MONOTONIC_USEC", now))),
            Self::Stopping(longer) => ("STOPPING=1", "clients are let go", Some(("EXTEND_TIMEOUT_USEC", longer))),
            Self::Status(status) => ("", status, None),
            Self::Alive => ("WATCHDOG=1", "", None),
        };
        if !state.is_empty() {
            text.push_str(state);
            text.push('\n');
        }
        if !status.is_empty() {
            // One line, whatever is said in it.
            let line = status.chars().take(STATUS_MAX).map(|c| if c.is_control() { ' ' } else { c });
            text.push_str("STATUS=");
            text.extend(line);
            text.push('\n');
        }
        if let Some((key, time)) = more {
            // A string takes it.
            let _ = writeln!(text, "{key}={}", time.as_micros());
        }
        text
    }
}

/// Tells the service manager how the process is. Cheap to clone; without a service manager it tells nobody.
#[derive(Clone, Debug, Default)]
pub struct Notifier(Option<Arc<Channel>>);

#[derive(Debug)]
struct Channel {
    socket: UnixDatagram,
    to: SocketAddr,
    /// It wants to hear within this time that we are alive.
    watchdog: Option<Duration>,
    /// States that it had no room for: none, one, or READY behind RELOADING.
    waiting: Mutex<Vec<Waiting>>,
}

/// A state that waits to be told.
#[derive(Debug)]
struct Waiting {
    is_ready: bool,
    text: String,
}

impl Notifier {
    /// What the environment says: `NOTIFY_SOCKET`, `WATCHDOG_USEC`, `WATCHDOG_PID`.
    #[must_use]
    pub fn from_environment() -> Self {
        let Some(name) = env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty()) else { return Self::default() };
        let variable = |name: &str| env::var(name).ok();
        let watchdog = watchdog(variable("WATCHDOG_USEC"), variable("WATCHDOG_PID"), std::process::id());
        match Channel::open(&name, watchdog) {
            Ok(channel) => Self(Some(Arc::new(channel))),
            Err(error) => {
                tracing::warn!(%error, socket = %name.display(), "the service manager cannot be told anything");
                Self::default()
            }
        }
    }

    /// Whether there is anybody to be told.
    pub(super) const fn is_heard(&self) -> bool {
        self.0.is_some()
    }

    /// How often it wants to hear that we are alive: twice in its time.
    pub(super) fn alive_every(&self) -> Option<Duration> {
        self.0.as_ref()?.watchdog.map(|within| within / 2)
    }

    /// Tells it. What it does not take now is lost, but for states, and nothing waits for that. Returns whether it was told.
    pub(super) fn tell(&self, message: Message<'_>) -> bool {
        let Some(channel) = &self.0 else { return false };
        let text = message.text();
        let is_ready = matches!(message, Message::Ready(_));
        let is_state = is_ready || matches!(message, Message::Reloading(_) | Message::Stopping(_));
        let mut waiting = channel.waiting.lock();
        channel.tell_waiting(&mut waiting);
        let is_full = !waiting.is_empty() || channel.send(&text).is_err_and(|error| error.kind() == WouldBlock);
        if is_full && is_state {
            // What was to be said before is not so any more, but that it is reading again.
            waiting.retain(|before| is_ready && !before.is_ready);
            waiting.push(Waiting { is_ready, text });
        }
        !is_full
    }

    /// Tells it what it had no room for, if there is anything. Returns whether something still waits.
    pub(super) fn tell_waiting(&self) -> bool {
        let Some(channel) = &self.0 else { return false };
        let mut waiting = channel.waiting.lock();
        channel.tell_waiting(&mut waiting);
        !waiting.is_empty()
    }

    /// The configuration is being read again, until [`Notifier::ready`].
    pub(crate) fn reloading(&self) {
        let now = clock_gettime(ClockId::Monotonic);
        let (seconds, nanos) = (u64::try_from(now.tv_sec), u32::try_from(now.tv_nsec));
        _ = self.tell(Message::Reloading(Duration::new(seconds.unwrap_or_default(), nanos.unwrap_or_default())));
    }

    /// Devices are served.
    pub(crate) fn ready(&self, status: &str) {
        _ = self.tell(Message::Ready(status));
    }

    /// The process ends, within this time.
    pub(crate) fn stopping(&self, within: Duration) {
        _ = self.tell(Message::Stopping(within));
    }
}

impl Channel {
    fn send(&self, text: &str) -> io::Result<()> {
        let sent = self.socket.send_to_addr(text.as_bytes(), &self.to).map(|_| ());
        if let Err(error) = &sent {
            tracing::debug!(%error, text, "the service manager was not told");
        }
        sent
    }

    fn tell_waiting(&self, waiting: &mut Vec<Waiting>) {
        // One that is gone is told nothing more.
        let is_full = |one: &Waiting| self.send(&one.text).is_err_and(|error| error.kind() == WouldBlock);
        let told = waiting.iter().position(is_full).unwrap_or(waiting.len());
        waiting.drain(..told);
    }

    fn open(name: &OsStr, watchdog: Option<Duration>) -> io::Result<Self> {
        let to = match name.as_bytes() {
            [b'@', rest @ ..] => SocketAddr::from_abstract_name(rest)?,
            [b'/', ..] => SocketAddr::from_pathname(Path::new(name))?,
            _ => return Err(io::Error::new(io::ErrorKind::Unsupported, "NOTIFY_SOCKET is no path, and not abstract")),
        };
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket, to, watchdog, waiting: Mutex::default() })
    }
}

/// Within what time a service manager wants to hear from this process; `None` when it does not, or is another process's.
fn watchdog(usec: Option<String>, pid: Option<String>, own: u32) -> Option<Duration> {
    let is_ours = pid.is_none_or(|pid| pid.parse() == Ok(own));
    let usec = usec?.parse().ok().filter(|usec| *usec > 0 && is_ours)?;
    Some(Duration::from_micros(usec))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_message_is_lines_of_keys_and_values() {
        let second = Duration::from_secs(1);
        for (message, text) in [
            (Message::Starting("waits", second), "STATUS=waits\nEXTEND_TIMEOUT_USEC=1000000\n"),
            (Message::Ready("serves"), "READY=1\nSTATUS=serves\n"),
            (
                Message::Reloading(second),
                "RELOADING=1\nSTATUS=the configuration is read again\nMONOTONIC_USEC=1000000\n",
            ),
            (Message::Stopping(second), "STOPPING=1\nSTATUS=clients are let go\nEXTEND_TIMEOUT_USEC=1000000\n"),
            (Message::Status("not ready: a\nREADY=1"), "STATUS=not ready: a READY=1\n"),
            (Message::Alive, "WATCHDOG=1\n"),
        ] {
            assert_eq!(message.text(), text);
        }
        assert!(Message::Status(&"ä".repeat(10_000)).text().len() < 1_000);
    }

    #[test]
    fn the_watchdog_is_that_of_this_process() {
        let text = |text: &str| Some(text.to_owned());
        let ten = Some(Duration::from_secs(10));
        for (usec, pid, expected) in [
            (None, None, None),
            (text("10000000"), None, ten),
            (text("10000000"), text("7"), ten),
            (text("10000000"), text("8"), None),
            (text("10000000"), text("x"), None),
            (text("0"), None, None),
            (text("-1"), None, None),
            (text("often"), None, None),
        ] {
            assert_eq!(watchdog(usec.clone(), pid.clone(), 7), expected, "{usec:?} {pid:?}");
        }
    }

    #[test]
    fn it_is_told_over_a_path_and_over_an_abstract_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let abstract_name = format!("nats-mqtt-test-{}", std::process::id());
        let by_name = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&abstract_name).unwrap()).unwrap();
        let by_path = UnixDatagram::bind(&path).unwrap();
        for (socket, name) in [(by_path, path.into_os_string()), (by_name, format!("@{abstract_name}").into())] {
            let notifier = Notifier(Some(Arc::new(Channel::open(&name, None).unwrap())));
            notifier.ready("serves");
            let mut room = [0; 100];
            let count = socket.recv(&mut room).unwrap();
            assert_eq!(&room[..count], b"READY=1\nSTATUS=serves\n");
        }
        assert!(Channel::open(OsStr::new("relative"), None).is_err());
    }

    #[test]
    fn one_that_does_not_read_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let _unread = UnixDatagram::bind(&path).unwrap();
        let notifier = Notifier(Some(Arc::new(Channel::open(path.as_os_str(), None).unwrap())));
        // More than any kernel keeps.
        (0..100_000).for_each(|_| notifier.ready("serves"));
        assert_eq!(notifier.0.unwrap().waiting.lock().len(), 1);
    }

    #[test]
    fn a_state_for_which_there_is_no_room_is_told_when_there_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        manager.set_nonblocking(true).unwrap();
        let heard = || {
            let mut room = [0; 200];
            let count = manager.recv(&mut room).ok()?;
            Some(String::from_utf8_lossy(&room[..count]).lines().next().unwrap_or_default().to_owned())
        };
        let notifier = Notifier(Some(Arc::new(Channel::open(path.as_os_str(), None).unwrap())));
        fn reload(notifier: &Notifier) {
            notifier.reloading();
            notifier.ready("again");
        }
        type Tell = fn(&Notifier);
        let cases: [(Tell, &[&str]); 4] = [
            (|notifier| notifier.ready("serves"), &["READY=1"]),
            (reload, &["RELOADING=1", "READY=1"]),
            (
                |notifier| {
                    reload(notifier);
                    reload(notifier);
                },
                &["RELOADING=1", "READY=1"],
            ),
            (
                |notifier| {
                    reload(notifier);
                    notifier.stopping(Duration::from_secs(1));
                },
                &["STOPPING=1"],
            ),
        ];
        for (tell, expected) in cases {
            while notifier.tell(Message::Alive) {}
            tell(&notifier);
            assert!(notifier.tell_waiting(), "there is no room yet");
            while let Some(line) = heard() {
                assert_eq!(line, "WATCHDOG=1");
            }
            // What is told next does not overtake it.
            assert!(notifier.tell(Message::Alive) && !notifier.tell_waiting());
            let told: Vec<_> = std::iter::from_fn(heard).collect();
            assert_eq!(told, [expected, &["WATCHDOG=1"]].concat());
        }
    }
}
