//! The witness: it is told what clients did and saw, and says what was wrong. It knows nothing of how the program under
//! test works. What is decided is in pure code: `order` and `delivery` for messages, `retained`, `wills`.

pub(crate) mod delivery;
pub(crate) mod disturbances;
pub(crate) mod order;
pub(crate) mod retained;
pub(crate) mod wills;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;

use crate::trace::Traces;
use delivery::{Arrival, Deliveries, Fate};
use disturbances::Disturbances;
use order::Fault;
use retained::RetainedTopics;
use wills::{Life, Ms};

/// Mistakes of each kind that are shown, and whose clients' traces are kept as they are at that moment.
const SHOWN: usize = 8;

/// What was wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Wrong {
    MessageLost,
    MessageTwice,
    MessageLate,
    RepeatStale,
    SessionLost,
    SessionLeft,
    RetainedStale,
    WillLost,
    WillUnwanted,
    WillTwice,
    WillEarly,
    WillNotDelivered,
    Stuck,
    ProcessEnded,
}

/// Numbers that only grow.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) connects: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) unanswered: AtomicU64,
    pub(crate) resets: AtomicU64,
    pub(crate) twins: AtomicU64,
    pub(crate) zombies: AtomicU64,
    pub(crate) moves: AtomicU64,
    pub(crate) sessions_checked: AtomicU64,
    pub(crate) retained_reads: AtomicU64,
    pub(crate) retained_late: AtomicU64,
    pub(crate) dups: AtomicU64,
}

/// The witness.
#[derive(Debug)]
pub(crate) struct Witness {
    pub(crate) dir: PathBuf,
    pub(crate) traces: Traces,
    pub(crate) counters: Counters,
    pub(crate) deliveries: Mutex<Deliveries>,
    pub(crate) lives: Mutex<Vec<Life>>,
    pub(crate) retained: Mutex<RetainedTopics>,
    pub(crate) disturbances: Mutex<Disturbances>,
    /// How often each subscriber got each will.
    pub(crate) wills_got: Mutex<BTreeMap<(usize, usize), u64>>,
    mistakes: Mutex<BTreeMap<Wrong, Vec<String>>>,
}

/// The clock of this machine, which is that of all processes here.
#[allow(clippy::disallowed_methods, reason = "nats-server's clock is this one")]
pub(crate) fn now() -> SystemTime {
    SystemTime::now()
}

pub(crate) fn now_ms() -> Ms {
    now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis() as Ms)
}

pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Witness {
    pub(crate) fn new(dir: PathBuf) -> Self {
        Self {
            dir,
            traces: Traces::default(),
            counters: Counters::default(),
            deliveries: Mutex::default(),
            lives: Mutex::default(),
            retained: Mutex::default(),
            disturbances: Mutex::default(),
            wills_got: Mutex::default(),
            mistakes: Mutex::default(),
        }
    }

    /// Something is wrong; `clients` are those whose traces tell more.
    pub(crate) fn wrong(&self, wrong: Wrong, what: String, clients: &[String]) {
        let now = humantime::format_rfc3339_millis(now());
        let mut mistakes = self.mistakes.lock();
        let all = mistakes.entry(wrong).or_default();
        all.push(format!("{now} {what}"));
        let number = all.len();
        drop(mistakes);
        if number <= SHOWN {
            println!("{now} WRONG, {wrong:?}: {what}");
            self.traces.write(&self.dir.join(format!("{wrong:?}-{number}")), Some(clients));
        }
    }

    pub(crate) fn mistakes(&self) -> BTreeMap<Wrong, Vec<String>> {
        self.mistakes.lock().clone()
    }

    pub(crate) fn mistakes_of(&self, wrong: Wrong) -> usize {
        self.mistakes.lock().get(&wrong).map_or(0, Vec::len)
    }

    /// A client whose session is known to be there was let in.
    pub(crate) fn returned(&self, client: &str, is_present: bool) {
        count(&self.counters.sessions_checked);
        if !is_present {
            self.wrong(Wrong::SessionLost, client.to_owned(), &[client.to_owned()]);
        }
    }

    pub(crate) fn settled(&self, publisher: usize, number: usize, fate: Fate) {
        self.deliveries.lock().settled(publisher, number, fate);
    }

    /// A subscriber got a message.
    pub(crate) fn got(&self, subscriber: usize, arrival: Arrival) {
        let mut deliveries = self.deliveries.lock();
        let Some(fault) = deliveries.got(subscriber, arrival) else { return };
        let qos = deliveries.qos(subscriber, arrival.publisher);
        drop(deliveries);
        let Arrival { publisher, topic, number, .. } = arrival;
        let wrong = match fault {
            Fault::Late { .. } => Wrong::MessageLate,
            Fault::Twice => Wrong::MessageTwice,
            Fault::Stale { .. } => Wrong::RepeatStale,
        };
        let what =
            format!("subscriber {subscriber}, QoS {qos}: {number} of publisher {publisher}, topic {topic}: {fault:?}");
        self.wrong(wrong, what, &both(subscriber, publisher));
    }

    /// A subscriber got a will.
    pub(crate) fn got_will(&self, subscriber: usize, life: usize, qos: u8) {
        let mut got = self.wills_got.lock();
        let times = got.entry((subscriber, life)).or_default();
        *times += 1;
        let is_twice = *times > 1 && qos == 2;
        drop(got);
        if is_twice {
            let what =
                format!("subscriber {subscriber} got the will of {life} twice:{}", self.lives.lock()[life].story);
            self.wrong(Wrong::MessageTwice, what, &[format!("subscriber {subscriber}")]);
        }
    }

    /// A subscriber got a retained will with a SUBSCRIBE, which may stand for the will itself.
    pub(crate) fn got_will_state(&self, subscriber: usize, life: usize) {
        self.wills_got.lock().entry((subscriber, life)).or_default();
    }

    /// Another life with a will: its number.
    pub(crate) fn born(&self, life: Life) -> usize {
        let mut lives = self.lives.lock();
        lives.push(life);
        lives.len() - 1
    }

    /// Something becomes known of a life.
    pub(crate) fn tell(&self, life: usize, what: &str, change: impl FnOnce(&mut Life)) {
        let now = humantime::format_rfc3339_millis(now()).to_string();
        let life = &mut self.lives.lock()[life];
        // The date is that of today.
        life.story += &format!(" {} {what};", now.get(11..23).unwrap_or(&now));
        change(life);
    }
}

/// The names of a subscriber and a publisher.
pub(crate) fn both(subscriber: usize, publisher: usize) -> [String; 2] {
    [format!("subscriber {subscriber}"), format!("publisher {publisher}")]
}
