//! Messages on their way to one stream, in order, until each is acknowledged or has failed. No I/O, no clock of its own.
//!
//! ```text
//!            refused (503)                in flight = 0
//!   Open ───────────────────▶ Draining ───────────────────▶ Probing(at) ──at──▶ Probing(one in flight)
//!    ▲                                                          ▲  ▲                 │        │
//!    │                                        restart, silence ─┘  └─── refused ─────┘        │
//!    └──────────────────────────────── acknowledged ──────────────────────────────────────────┘
//! ```
//!
//! **Invariant:** while the stream may be away only the first message is sent, alone. If it were sent with its successors,
//! the stream could come back between them, store a later one, and the order would be lost for good.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Why a message was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GaveUp {
    /// The last answer was that no stream has the subject.
    NoStream,
    /// There was no answer.
    Silence,
}

#[derive(Debug)]
struct Slot<T> {
    item: Option<T>,
    submitted_at: Instant,
    // In the current round; `None` before, and again when it has to be repeated.
    sent_at: Option<Instant>,
    refused: bool,
    // It was sent before this round.
    is_repeat: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Open,
    Draining,
    Probing { at: Instant, number: Option<u64> },
}

/// A queue whose items have consecutive numbers.
#[derive(Debug)]
pub(super) struct Lane<T> {
    slots: VecDeque<Slot<T>>,
    // Number of the first slot.
    first: u64,
    // Everything below it was sent in this round, or is resolved.
    unsent: u64,
    in_flight: usize,
    mode: Mode,
    pause: Duration,
    // Probes in a row that met silence.
    silent_probes: u32,
}

impl<T> Lane<T> {
    pub(super) fn new() -> Self {
        Self {
            slots: VecDeque::new(),
            first: 0,
            unsent: 0,
            in_flight: 0,
            mode: Mode::Open,
            pause: PAUSE_MIN,
            silent_probes: 0,
        }
    }

    /// Appends an item; returns its number.
    pub(super) fn push(&mut self, item: T, now: Instant) -> u64 {
        self.slots.push_back(Slot {
            item: Some(item),
            submitted_at: now,
            sent_at: None,
            refused: false,
            is_repeat: false,
        });
        self.first + self.slots.len() as u64 - 1
    }

    /// Items that are neither acknowledged nor failed.
    pub(super) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Whether everything that is sent is expected to be acknowledged.
    pub(super) fn is_open(&self) -> bool {
        self.mode == Mode::Open
    }

    /// The item that has to be sent now, if any, and whether it was sent before; it counts as sent.
    pub(super) fn next_to_send(&mut self, now: Instant) -> Option<(u64, &T, bool)> {
        if self.mode == Mode::Draining && self.in_flight == 0 {
            self.mode = Mode::Probing { at: now + self.pause, number: None };
        }
        match self.mode {
            Mode::Open => {}
            Mode::Probing { at, number: None } if now >= at => self.unsent = self.first,
            Mode::Draining | Mode::Probing { .. } => return None,
        }
        let mut index = usize::try_from(self.unsent - self.first).ok()?;
        while self.slots.get(index).is_some_and(|slot| slot.item.is_none() || slot.sent_at.is_some()) {
            index += 1;
        }
        let number = self.first + index as u64;
        self.unsent = number;
        let slot = self.slots.get_mut(index)?;
        slot.sent_at = Some(now);
        self.unsent += 1;
        self.in_flight += 1;
        if let Mode::Probing { number: probe, .. } = &mut self.mode {
            *probe = Some(number);
        }
        let is_repeat = std::mem::replace(&mut slot.is_repeat, true);
        slot.item.as_ref().map(|item| (number, item, is_repeat))
    }

    /// The item could not be handed to the connection after all.
    pub(super) fn unsend(&mut self, number: u64) {
        if let Some(slot) = self.slot(number)
            && slot.sent_at.take().is_some()
        {
            self.in_flight -= 1;
            self.unsent = self.unsent.min(number);
            if let Mode::Probing { number: probe, .. } = &mut self.mode {
                *probe = None;
            }
        }
    }

    /// Takes out the item that was to be sent: it is not to be sent any more, and its place in the round is the next one's.
    pub(super) fn withdraw(&mut self, number: u64) -> Option<T> {
        self.unsend(number);
        let item = self.slot(number)?.item.take();
        self.trim();
        item
    }

    /// The stream answered for an item, whatever the answer: the item is done.
    pub(super) fn resolve(&mut self, number: u64) -> Option<T> {
        let slot = self.slot(number)?;
        let item = slot.item.take()?;
        let was_sent = slot.sent_at.take().is_some();
        if was_sent {
            self.in_flight -= 1;
        }
        if matches!(self.mode, Mode::Probing { number: Some(probe), .. } if probe == number) {
            self.mode = Mode::Open;
            self.pause = PAUSE_MIN;
            self.silent_probes = 0;
        }
        self.trim();
        Some(item)
    }

    /// Takes out every item that was sent and of which this is true.
    pub(super) fn resolve_where(&mut self, is_it: impl Fn(&T) -> bool, out: &mut Vec<T>) {
        let sent = |slot: &Slot<T>| slot.sent_at.is_some() && slot.item.as_ref().is_some_and(&is_it);
        let found: Vec<u64> =
            (self.first..).zip(&self.slots).filter(|(_, slot)| sent(slot)).map(|(number, _)| number).collect();
        out.extend(found.into_iter().filter_map(|number| self.resolve(number)));
    }

    /// No stream was there for an item: it has to be sent again, and nothing before it.
    pub(super) fn refuse(&mut self, number: u64, now: Instant) {
        let Some(slot) = self.slot(number) else { return };
        if slot.item.is_none() || slot.sent_at.take().is_none() {
            return;
        }
        slot.refused = true;
        self.in_flight -= 1;
        match self.mode {
            Mode::Open => self.mode = Mode::Draining,
            Mode::Draining => {}
            Mode::Probing { .. } => {
                self.silent_probes = 0;
                self.probe_after_pause(now);
            }
        }
    }

    /// Everything that is not resolved has to be sent again, first things first.
    pub(super) fn restart(&mut self, now: Instant) {
        self.repeat_all();
        self.mode = Mode::Probing { at: now, number: None };
    }

    /// Looks for items that were sent and met silence for `limit`. Returns how many probes in a row did.
    pub(super) fn check_silence(&mut self, now: Instant, limit: Duration) -> u32 {
        // Sent in order, so the oldest is the first that is in flight.
        let oldest = self.slots.iter().find_map(|slot| slot.sent_at);
        let silent = oldest.is_some_and(|sent_at| now.saturating_duration_since(sent_at) >= limit);
        if silent {
            if matches!(self.mode, Mode::Probing { .. }) {
                self.silent_probes += 1;
            }
            for slot in &mut self.slots {
                slot.refused &= slot.sent_at.is_none();
            }
            self.repeat_all();
            self.probe_after_pause(now);
        }
        self.silent_probes
    }

    /// Takes out what was submitted `limit` ago and is not resolved.
    pub(super) fn give_up(&mut self, now: Instant, limit: Duration, out: &mut Vec<(T, GaveUp)>) {
        while let Some(slot) = self.slots.front_mut() {
            if let Some(item) = slot.item.take_if(|_| now.saturating_duration_since(slot.submitted_at) >= limit) {
                let why = if slot.refused { GaveUp::NoStream } else { GaveUp::Silence };
                let (number, was_sent) = (self.first, slot.sent_at.take().is_some());
                if was_sent {
                    self.in_flight -= 1;
                }
                if matches!(self.mode, Mode::Probing { number: Some(probe), .. } if probe == number) {
                    self.probe_after_pause(now);
                }
                out.push((item, why));
                self.trim();
            } else {
                return;
            }
        }
    }

    fn repeat_all(&mut self) {
        for slot in &mut self.slots {
            slot.sent_at = None;
        }
        self.in_flight = 0;
        self.unsent = self.first;
    }

    fn probe_after_pause(&mut self, now: Instant) {
        self.mode = Mode::Probing { at: now + self.pause, number: None };
        self.pause = (self.pause * 2).min(PAUSE_MAX);
    }

    fn slot(&mut self, number: u64) -> Option<&mut Slot<T>> {
        let index = usize::try_from(number.checked_sub(self.first)?).ok()?;
        self.slots.get_mut(index)
    }

    fn trim(&mut self) {
        while self.slots.front().is_some_and(|slot| slot.item.is_none()) {
            self.slots.pop_front();
            self.first += 1;
        }
        self.unsent = self.unsent.max(self.first);
    }
}

#[cfg(test)]
#[path = "lane_tests.rs"]
mod tests;
