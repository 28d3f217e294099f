//! What the process does when there is more than it can carry ([ADR 23](../docs/adr/0023-overload.md)): one budget for all that waits in memory,
//! and levels at which less is taken in.
//!
//! There is one memory, one table of files and one event loop in a process, so there is one [`Overload`], [`PROCESS`]: whoever
//! queues something asks it, whatever account it belongs to.
//!
//! # Layout
//! - `budget`: bytes that wait, and who may queue more; `held`: what one owner holds of it;
//!   `lent`: payloads that several have
//! - `levels`: from readings to a level; `heaviest`: how fast clients are read while the heaviest are read later;
//!   `slowest`: who loses what waits at QoS 0; `spare`: memory that the allocator keeps
//! - `system`: memory, its limit and open files, as the system tells them
//!
//! Deliberately absent: who reads the system again and again, and carries out what has to be done for a level (`app::overload`).

mod budget;
mod heaviest;
mod held;
mod lent;
mod levels;
mod slowest;
mod spare;
mod system;

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};

pub(crate) use budget::{Budget, Large, WaitsForLarge};
pub(crate) use heaviest::Cap;
pub(crate) use held::Held;
pub(crate) use lent::{Lent, counted};
pub(crate) use levels::{Change, Level, Levels, Reading};
pub(crate) use slowest::cut_of;
pub(crate) use spare::Spare;
pub(crate) use system::{Memory, Source, files_left};

/// A queue has this at least, bytes.
const QUEUE_LEAST: usize = 1 << 20;

/// Of this process.
pub(crate) static PROCESS: Overload = Overload::new();

/// Something that is done because of a level, or because there is no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Deed {
    /// A CONNECT was refused.
    Refused,
    /// A socket was closed before its TLS handshake.
    Closed,
    /// A client was read from later because it publishes more than others.
    ReadLater,
    /// The socket of a client was not read on because there was no room for its packet.
    PacketWaited,
    /// A client was disconnected that sent a large packet too slowly, while others waited for its place.
    PlaceLost,
    /// What waited at QoS 0 for a slow reader was dropped.
    Dropped,
    /// A session fell behind its log because there was no room for its messages.
    FellBehind,
}

impl Deed {
    /// The values of the label.
    pub(crate) const TEXTS: [&'static str; 7] =
        ["connect_refused", "tls_closed", "read_later", "packet_waited", "place_lost", "lane_dropped", "fell_behind"];
}

/// What everybody reads: the level, and what follows from it.
#[derive(Debug)]
pub(crate) struct Overload {
    /// All that waits in memory.
    pub(crate) budget: Budget,
    level: AtomicU8,
    /// Bytes a second that are read of one client; [`u64::MAX`]: as many as come.
    cap: AtomicU64,
    deeds: [AtomicU64; Deed::TEXTS.len()],
    /// Bytes in use and the limit, and how late the event loop was, as they were read last. No limit: nothing was read.
    memory_used: AtomicU64,
    memory_limit: AtomicU64,
    lag_us: AtomicU64,
}

impl Overload {
    pub(crate) const fn new() -> Self {
        Self {
            budget: Budget::new(),
            level: AtomicU8::new(0),
            cap: AtomicU64::new(u64::MAX),
            deeds: [const { AtomicU64::new(0) }; Deed::TEXTS.len()],
            memory_used: AtomicU64::new(0),
            memory_limit: AtomicU64::new(0),
            lag_us: AtomicU64::new(0),
        }
    }

    /// Begins with what is read there: by the limit the limits of queues are made.
    pub(crate) fn begin(&self, source: &Source) {
        let (memory, is_of_group) = (source.read(), source.is_of_group());
        tracing::info!(limit = memory.limit, is_of_group, "memory that the process may take, bytes");
        self.note(memory, 0);
    }

    /// The level.
    pub(crate) fn level(&self) -> Level {
        Level::of(self.level.load(Relaxed))
    }

    /// It is this one from now on.
    pub(crate) fn set_level(&self, level: Level) {
        self.level.store(level as u8, Relaxed);
    }

    /// Whether nobody new comes in.
    pub(crate) fn refuses(&self) -> bool {
        self.level() >= Level::Refuse
    }

    /// Bytes a second that are read of one client; `None`: as many as come.
    pub(crate) fn cap(&self) -> Option<u64> {
        Some(self.cap.load(Relaxed)).filter(|cap| *cap != u64::MAX)
    }

    /// It is this from now on.
    pub(crate) fn set_cap(&self, cap: Option<u64>) {
        self.cap.store(cap.unwrap_or(u64::MAX), Relaxed);
    }

    /// Counts what was done.
    pub(crate) fn did(&self, deed: Deed) {
        if let Some(count) = self.deeds.get(deed as usize) {
            count.fetch_add(1, Relaxed);
        }
    }

    /// How often each was done, in the order of [`Deed::TEXTS`].
    pub(crate) const fn deeds(&self) -> &[AtomicU64; Deed::TEXTS.len()] {
        &self.deeds
    }

    /// So many bytes of one queue, and less where that is more than a sixteenth of the memory of the process.
    pub(crate) fn at_most(&self, bytes: usize) -> usize {
        match usize::try_from(self.memory_limit.load(Relaxed)) {
            Ok(0) | Err(_) => bytes,
            Ok(limit) => bytes.min((limit / 16).max(QUEUE_LEAST)),
        }
    }

    /// What was read: the budget follows it.
    pub(crate) fn note(&self, memory: Memory, lag_us: u64) {
        self.budget.keep_to(memory);
        self.memory_used.store(memory.used, Relaxed);
        self.memory_limit.store(memory.limit, Relaxed);
        self.lag_us.store(lag_us, Relaxed);
    }

    /// Bytes in use, and their limit; zeros before they were read.
    pub(crate) fn memory(&self) -> Memory {
        Memory { used: self.memory_used.load(Relaxed), limit: self.memory_limit.load(Relaxed) }
    }

    /// By how much the event loop was late, microseconds.
    pub(crate) fn lag_us(&self) -> u64 {
        self.lag_us.load(Relaxed)
    }
}
