//! From readings to a level. Each signal says which level it asks for, with one threshold to enter a level and a lower one to
//! leave it; the highest that is asked for counts.
//!
//! ```text
//!            one step a reading                    one step, CALM_MS after the last change
//!   Normal ⇄ Refuse ⇄ ReadLater ⇄ Drop
//! ```
//!
//! **Invariant:** a level is entered and left by way of its neighbours; readings that stay between the two thresholds of a level
//! change nothing; between a change and a step down there are [`CALM_MS`].
//!
//! No clock: it is told the time.

/// So long nothing may have changed before the level is lowered, milliseconds.
pub(crate) const CALM_MS: u64 = 2_000;

/// So long a signal that may be a hiccup has to ask for a level before it gets one, milliseconds.
pub(crate) const LASTING_MS: u64 = 3_000;

/// How much the process takes in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Level {
    /// Everything.
    #[default]
    Normal = 0,
    /// No new connections.
    Refuse = 1,
    /// Those who publish most are read from later.
    ReadLater = 2,
    /// Those who read slowest lose what waits for them at QoS 0.
    Drop = 3,
}

impl Level {
    const ALL: [Self; 4] = [Self::Normal, Self::Refuse, Self::ReadLater, Self::Drop];

    /// The one with this number.
    pub(crate) fn of(number: u8) -> Self {
        Self::ALL.get(usize::from(number)).copied().unwrap_or(Self::Drop)
    }

    /// Its name for people and events.
    pub(crate) const fn text(self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::Refuse => "refuse_connections",
            Self::ReadLater => "read_heaviest_later",
            Self::Drop => "drop_qos0_of_slowest",
        }
    }
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signal {
    /// Memory against its limit.
    Memory,
    /// How late the event loop is.
    Lag,
    /// How long JetStream takes to acknowledge a publish.
    Publish,
    /// Open files against their limit.
    Files,
}

impl Signal {
    const ALL: [Self; 4] = [Self::Memory, Self::Lag, Self::Publish, Self::Files];

    /// Its name for people and events.
    pub(crate) const fn text(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Lag => "event_loop",
            Self::Publish => "publish_latency",
            Self::Files => "open_files",
        }
    }

    /// Where each level begins, and where it ends; in the unit of [`Reading::of`]. Levels that are not named are never asked for.
    const fn thresholds(self) -> &'static [(u64, u64)] {
        match self {
            // Of a thousand. The budget keeps to 700.
            Self::Memory => &[(800, 750), (850, 800), (900, 850)],
            Self::Lag => &[(1_000, 300), (3_000, 1_000)],
            Self::Publish => &[(2_000, 1_000), (4_000, 2_000)],
            Self::Files => &[(FILES_KEPT - 32, 1)],
        }
    }

    /// Whether one bad reading may be a hiccup, so that several are waited for.
    const fn has_hiccups(self) -> bool {
        matches!(self, Self::Lag | Self::Publish)
    }
}

/// Files that the process wants to have left. What is missing of them is what is measured.
const FILES_KEPT: u64 = 64;

/// What was measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reading {
    /// Memory in use, in thousandths of its limit.
    pub(crate) memory_permille: u64,
    /// By how much the event loop was late, milliseconds.
    pub(crate) lag_ms: u64,
    /// How long JetStream took to acknowledge, on average; 0 when it did not: that it does not answer is not for us to mend.
    pub(crate) publish_ms: u64,
    /// Files that can still be opened; `None`: as many as one wants.
    pub(crate) files_left: Option<u64>,
}

impl Reading {
    fn of(&self, signal: Signal) -> u64 {
        match signal {
            Signal::Memory => self.memory_permille,
            Signal::Lag => self.lag_ms,
            Signal::Publish => self.publish_ms,
            Signal::Files => self.files_left.map_or(0, |left| FILES_KEPT.saturating_sub(left)),
        }
    }
}

/// The level has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) from: Level,
    pub(crate) to: Level,
    /// What asks for it; when it is lowered, what asked for it last.
    pub(crate) why: Signal,
}

/// The machine.
#[derive(Clone, Debug)]
pub(crate) struct Levels {
    level: Level,
    why: Signal,
    changed_ms: u64,
    /// Of each signal: since when it has asked for more than there is.
    asking_since: [Option<u64>; Signal::ALL.len()],
}

impl Default for Levels {
    fn default() -> Self {
        Self { level: Level::Normal, why: Signal::Memory, changed_ms: 0, asking_since: [None; Signal::ALL.len()] }
    }
}

impl Levels {
    /// Takes what was measured; returns what changes.
    pub(crate) fn take(&mut self, now_ms: u64, reading: &Reading) -> Option<Change> {
        let from = self.level;
        let mut asked = (Level::Normal, self.why);
        for (signal, since) in Signal::ALL.into_iter().zip(&mut self.asking_since) {
            let mut wanted = wanted(signal, reading.of(signal), from);
            if wanted > from {
                let asks_since = *since.get_or_insert(now_ms);
                if signal.has_hiccups() && now_ms.saturating_sub(asks_since) < LASTING_MS {
                    wanted = from.min(wanted);
                }
            } else {
                *since = None;
            }
            if wanted > asked.0 {
                asked = (wanted, signal);
            }
        }
        let number = from as u8;
        let to = match asked.0.cmp(&from) {
            std::cmp::Ordering::Greater => Level::of(number + 1),
            std::cmp::Ordering::Less if now_ms.saturating_sub(self.changed_ms) >= CALM_MS => Level::of(number - 1),
            _ => return None,
        };
        if to > from {
            self.why = asked.1;
            // The next step has to be asked for anew by what may be a hiccup.
            self.asking_since = [None; Signal::ALL.len()];
        }
        (self.level, self.changed_ms) = (to, now_ms);
        Some(Change { from, to, why: self.why })
    }
}

/// The level that a signal asks for, when there is this one.
fn wanted(signal: Signal, value: u64, level: Level) -> Level {
    let is_asked = |(number, (enter, leave)): &(u8, &(u64, u64))| {
        let is_entered = level as u8 > *number;
        value >= if is_entered { *leave } else { *enter }
    };
    let asked = (0_u8..).zip(signal.thresholds()).take_while(is_asked).count();
    Level::of(u8::try_from(asked).unwrap_or(0))
}

#[cfg(test)]
mod tests;
