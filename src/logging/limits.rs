//! How many lines of a kind the log takes: the one place that decides it. A kind is a place in the code that writes lines.
//!
//! Whoever makes a line be written by what he sends, or a fault that lasts, must not fill a disk: within a minute a kind has
//! some lines of each client, some of each address and some in all. What is left out is counted, and said at the end of the
//! minute. At `debug` everything is written.
//!
//! ```text
//!   INFO of a client or an address: LINES_OF_CLIENT, LINES_OF_ADDRESS, and LINES_OF_KIND in all
//!   WARN, ERROR of a client:        one, and WARNINGS_OF_KIND in all
//!   other WARN, ERROR:              one of each account, stream, lease, listener, ...
//!   other INFO:                     LINES_OF_KIND
//! ```

use std::collections::HashMap;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};
use tracing::callsite::Identifier;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Context, Filter};

use crate::network::PeerAddr;

/// The time that the limits are for.
pub(super) const WINDOW: Duration = Duration::from_secs(60);

/// INFO lines of one kind about one client.
const LINES_OF_CLIENT: u32 = 5;
/// The same about one address, whatever clients it has.
const LINES_OF_ADDRESS: u32 = 20;
/// The same about anybody.
const LINES_OF_KIND: u32 = 100;
/// WARN and ERROR lines of one kind about clients.
const WARNINGS_OF_KIND: u32 = 10;

/// What is counted at the same time; what comes on top is counted by its kind only.
const COUNTED_MAX: usize = 4_096;

/// Lines of this target are about lines that were left out.
pub(super) const LEFT_OUT: &str = "nats_mqtt::left_out";

/// A nats-server of ours has limits of its own, and each reload is the operator's, who reads what comes of it.
const UNLIMITED: [&str; 3] = [LEFT_OUT, "nats_mqtt::embedded", "nats_mqtt::app::reload"];

/// Fields that say what a line is about, where that is no client.
const THINGS: [&str; 8] = ["account", "stream", "lease", "node", "consumer", "connection", "listener", "setting"];

/// Whom a line is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Whom {
    Anybody,
    /// A client, by a hash of its id.
    Client(u64),
    Address(IpAddr),
    /// Something of ours, by a hash of what it is called.
    Thing(u64),
}

/// What was left out of one kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LeftOut {
    /// The text of its lines.
    pub(super) line: String,
    pub(super) count: u64,
}

#[derive(Debug)]
struct Minute {
    began: Instant,
    /// Lines of a kind about somebody.
    counts: HashMap<(Identifier, Whom), u32>,
    left_out: HashMap<Identifier, LeftOut>,
}

/// Decides which lines are written.
#[derive(Debug)]
pub(super) struct LineLimits {
    /// What is written at `debug` is not limited.
    levels: RwLock<Targets>,
    minute: Mutex<Minute>,
    left_out: AtomicU64,
}

impl LineLimits {
    pub(super) fn new(levels: Targets) -> Self {
        let minute = Minute { began: Instant::now(), counts: HashMap::new(), left_out: HashMap::new() };
        Self { levels: RwLock::new(levels), minute: Mutex::new(minute), left_out: AtomicU64::new(0) }
    }

    /// Other levels from now on.
    pub(super) fn set_levels(&self, levels: Targets) {
        *self.levels.write() = levels;
    }

    /// Lines that were left out, so far.
    pub(super) fn left_out(&self) -> u64 {
        self.left_out.load(Ordering::Relaxed)
    }

    /// Begins a new minute when one is over. Returns what was left out in it.
    pub(super) fn turn(&self, now: Instant) -> Vec<LeftOut> {
        let mut minute = self.minute.lock();
        if now.saturating_duration_since(minute.began) < WINDOW {
            return Vec::new();
        }
        minute.began = now;
        minute.counts = HashMap::new();
        minute.left_out.drain().map(|(_, left_out)| left_out).collect()
    }

    fn takes(&self, event: &Event<'_>) -> bool {
        let metadata = event.metadata();
        let target = metadata.target();
        let level = *metadata.level();
        if level > Level::INFO || UNLIMITED.contains(&target) || self.levels.read().would_enable(target, &Level::DEBUG)
        {
            return true;
        }
        let mut about = About::default();
        event.record(&mut about);
        let limits = about.limits(level > Level::WARN);
        let kind = metadata.callsite();
        let mut minute = self.minute.lock();
        let is_taken = limits.iter().flatten().all(|(whom, max)| minute.has_room(&kind, *whom, *max));
        if is_taken {
            limits.iter().flatten().for_each(|(whom, _)| minute.count(&kind, *whom));
        } else {
            self.left_out.fetch_add(1, Ordering::Relaxed);
            let line = || LeftOut { line: about.line.clone(), count: 0 };
            minute.left_out.entry(kind).or_insert_with(line).count += 1;
        }
        is_taken
    }
}

impl Minute {
    fn has_room(&self, kind: &Identifier, whom: Whom, max: u32) -> bool {
        self.counts.get(&(kind.clone(), whom)).is_none_or(|lines| *lines < max)
    }

    fn count(&mut self, kind: &Identifier, whom: Whom) {
        if whom == Whom::Anybody || self.counts.len() < COUNTED_MAX {
            *self.counts.entry((kind.clone(), whom)).or_default() += 1;
        }
    }
}

impl<S: Subscriber> Filter<S> for &'static LineLimits {
    fn enabled(&self, _metadata: &Metadata<'_>, _context: &Context<'_, S>) -> bool {
        true
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        let levels = self.levels.read();
        levels.iter().map(|(_, level)| level).chain(levels.default_level()).max()
    }

    fn event_enabled(&self, event: &Event<'_>, _context: &Context<'_, S>) -> bool {
        self.takes(event)
    }
}

/// What the fields of a line say about whom it is.
#[derive(Default)]
struct About {
    client: Option<u64>,
    address: Option<IpAddr>,
    thing: Option<u64>,
    line: String,
}

impl About {
    /// Whom it counts for, and how many lines those may have.
    fn limits(&self, is_info: bool) -> [Option<(Whom, u32)>; 3] {
        let client = self.client.map(|id| (Whom::Client(id), if is_info { LINES_OF_CLIENT } else { 1 }));
        let address = self.address.map(|ip| (Whom::Address(ip), LINES_OF_ADDRESS));
        let all = match (client.or(address), is_info) {
            (_, true) => (Whom::Anybody, LINES_OF_KIND),
            (Some(_), false) => (Whom::Anybody, WARNINGS_OF_KIND),
            (None, false) => (Whom::Thing(self.thing.unwrap_or_default()), 1),
        };
        [client, address, Some(all)]
    }

    fn name(&mut self, field: &Field, value: &str) {
        let mut hasher = DefaultHasher::new();
        (field.name(), value).hash(&mut hasher);
        match field.name() {
            "client_id" => self.client = Some(hasher.finish()),
            "remote" => self.address = value.parse::<PeerAddr>().ok().map(|peer| peer.counted_by().to_canonical()),
            "message" => value.clone_into(&mut self.line),
            name if THINGS.contains(&name) => {
                self.thing.unwrap_or_default().hash(&mut hasher);
                self.thing = Some(hasher.finish());
            }
            _ => {}
        }
    }
}

impl Visit for About {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.name(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if matches!(field.name(), "client_id" | "remote" | "message") || THINGS.contains(&field.name()) {
            self.name(field, &format!("{value:?}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Arc;

    use tracing_subscriber::layer::SubscriberExt;
    use tracing_subscriber::{Layer, fmt, registry};

    use super::*;

    #[derive(Clone, Default)]
    struct Captured(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// The limits after `write`, and how many lines there are.
    fn lines(levels: &str, write: impl FnOnce()) -> (&'static LineLimits, usize) {
        let captured = Captured::default();
        let writer = captured.clone();
        let limits: &'static LineLimits = Box::leak(Box::new(LineLimits::new(levels.parse().unwrap())));
        let layer = fmt::layer().with_ansi(false).with_writer(move || writer.clone()).with_filter(limits);
        tracing::subscriber::with_default(registry().with(layer), write);
        let text = String::from_utf8(captured.0.lock().clone()).unwrap();
        (limits, text.lines().count())
    }

    fn refused(client: &str, remote: &str) {
        let remote: PeerAddr = remote.parse().unwrap();
        tracing::info!(client_id = client, %remote, "a publish was refused");
    }

    #[test]
    fn a_client_has_some_lines_of_a_kind_and_what_is_left_out_is_counted() {
        let (limits, written) = lines("info", || {
            for _ in 0..1_000 {
                refused("a", "10.0.0.1:1000");
            }
            tracing::info!(client_id = "a", "another kind");
        });
        assert_eq!(written, 6);
        assert_eq!(limits.left_out(), 995);
        let now = Instant::now();
        assert_eq!(limits.turn(now), []);
        let left_out = LeftOut { line: "a publish was refused".to_owned(), count: 995 };
        assert_eq!(limits.turn(now + WINDOW), [left_out]);
        assert_eq!(limits.turn(now + 2 * WINDOW), []);
    }

    #[test]
    fn an_address_has_some_lines_whatever_it_calls_itself() {
        let (_, written) = lines("info", || {
            for number in 0..1_000 {
                refused(&number.to_string(), &format!("10.0.0.1:{}", 1000 + number));
            }
            refused("b", "[2001:db8::1]:1000");
        });
        assert_eq!(written, 21);
        let (_, written) = lines("info", || {
            for number in 0..1_000 {
                refused(&number.to_string(), &format!("10.0.{}.1:1000", number % 250));
            }
        });
        assert_eq!(written, 100, "in all");
    }

    #[test]
    fn a_fault_is_said_once_of_each_thing() {
        let (_, written) = lines("info", || {
            for _ in 0..100 {
                for stream in ["MQTT_log", "KV_MQTT_retained"] {
                    tracing::warn!(stream, error = "no leader", "cannot read the stream now");
                    tracing::error!(stream = %stream, "the stream is gone");
                }
                tracing::warn!("JetStream does not answer");
            }
        });
        assert_eq!(written, 5);
        let (_, written) = lines("info", || {
            for number in 0..100 {
                tracing::warn!(client_id = &*number.to_string(), "a will could not be stored yet");
            }
        });
        assert_eq!(written, 10);
    }

    #[test]
    fn who_asks_for_debug_gets_everything() {
        let write = || (0..50).for_each(|_| refused("a", "10.0.0.1:1"));
        assert_eq!(lines("debug", write).1, 50);
        assert_eq!(lines("info,nats_mqtt=debug", write).1, 50);
        assert_eq!(lines("info,nats_mqtt::store=debug", write).1, 5);
    }

    #[test]
    fn what_is_counted_is_limited() {
        let (limits, _) = lines("info", || {
            for number in 0..3 * COUNTED_MAX {
                tracing::debug!("not written");
                refused(&number.to_string(), &format!("10.{}.{}.1:1000", number / 250, number % 250));
            }
        });
        assert!(limits.minute.lock().counts.len() <= COUNTED_MAX + 10);
    }
}
