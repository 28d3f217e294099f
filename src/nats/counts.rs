//! What became of messages that nobody saw, counted over all links of an account.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// The same is not said more often.
const WARN_EVERY: Duration = Duration::from_secs(60);

/// Why a message of NATS, or a part of it, was left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SkipReason {
    /// Its control line cannot be understood.
    Arguments,
    /// It is larger than we hold.
    TooLarge,
    /// Its subject is not UTF-8, so it is no topic.
    Subject,
    /// Its reply subject is not UTF-8; it was taken without.
    Reply,
    /// A line of its header block is no header, or no text; it was taken without that line or with replacement characters.
    Header,
}

impl SkipReason {
    const ALL: [Self; 5] = [Self::Arguments, Self::TooLarge, Self::Subject, Self::Reply, Self::Header];

    /// As a label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Arguments => "arguments",
            Self::TooLarge => "too_large",
            Self::Subject => "subject",
            Self::Reply => "reply",
            Self::Header => "header",
        }
    }

    const fn what(self) -> &'static str {
        match self {
            Self::Arguments => "a message whose control line cannot be understood was skipped",
            Self::TooLarge => "a message that is too large was skipped",
            Self::Subject => "a message whose subject is not UTF-8 was skipped",
            Self::Reply => "a reply subject that is not UTF-8 was left out",
            Self::Header => "header lines that are no headers or no text were left out or replaced",
        }
    }
}

/// Counters of the links of one account. Clones count together.
#[derive(Clone, Debug, Default)]
pub struct LinkCounts(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    skipped: [AtomicU64; SkipReason::ALL.len()],
    said: Mutex<[Option<Instant>; SkipReason::ALL.len()]>,
    overflows: AtomicU64,
    reconnects: AtomicU64,
    stood_in: AtomicU64,
}

impl LinkCounts {
    /// Something was left out; said once a minute.
    pub(crate) fn skipped(&self, why: SkipReason) {
        let index = why as usize;
        let total = self.0.skipped[index].fetch_add(1, Ordering::Relaxed) + 1;
        let now = Instant::now();
        let is_due = |at: &Option<Instant>| at.is_none_or(|at| now.saturating_duration_since(at) >= WARN_EVERY);
        let mut said = self.0.said.lock();
        if is_due(&said[index]) {
            said[index] = Some(now);
            drop(said);
            tracing::warn!(total, "{}", why.what());
        }
    }

    pub(crate) fn overflowed(&self) {
        self.0.overflows.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn reconnected(&self) {
        self.0.reconnects.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn stood_in(&self) {
        self.0.stood_in.fetch_add(1, Ordering::Relaxed);
    }

    /// Adds what others have counted.
    pub(crate) fn add(&self, others: &Self) {
        let (into, others) = (&*self.0, &*others.0);
        let counters = into.skipped.iter().zip(&others.skipped).chain([
            (&into.overflows, &others.overflows),
            (&into.reconnects, &others.reconnects),
            (&into.stood_in, &others.stood_in),
        ]);
        counters.for_each(|(into, counter)| {
            into.fetch_add(counter.load(Ordering::Relaxed), Ordering::Relaxed);
        });
    }

    /// Requests whose senders were told that nobody listens, in the server's place.
    #[must_use]
    pub fn stand_ins(&self) -> u64 {
        self.0.stood_in.load(Ordering::Relaxed)
    }

    /// What was left out so far, by reason.
    pub fn skips(&self) -> impl Iterator<Item = (SkipReason, u64)> + '_ {
        SkipReason::ALL.iter().map(|why| (*why, self.0.skipped[*why as usize].load(Ordering::Relaxed)))
    }

    /// Messages for us that were dropped because too many waited.
    #[must_use]
    pub fn overflows(&self) -> u64 {
        self.0.overflows.load(Ordering::Relaxed)
    }

    /// How often a link was connected again after it was lost.
    #[must_use]
    pub fn reconnects(&self) -> u64 {
        self.0.reconnects.load(Ordering::Relaxed)
    }
}
