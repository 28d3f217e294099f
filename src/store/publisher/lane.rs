//! Messages on their way to one stream, in order per subject, until each is acknowledged or has failed. No I/O, no clock of
//! its own.
//!
//! ```text
//!          refused · silent for some round trips · a later one acknowledged first · leader elected · connection lost
//!   Open ──────────────────────────────────────────────────────────────────────────────────────────────────▶ Doubt
//!    ▲                                                                                                           │
//!    └──────────────── what was sent since is acknowledged, or nothing is unanswered any more ─────────────────┘
//! ```
//!
//! **Invariant:** while a message of a subject may be stored, or may be lost, without our knowing, nothing newer of that
//! subject is sent. What it became of is looked for at the stream's leader (`settling`), and only what is not there is
//! sent again, on the condition that nothing has come to the subject since. So first copies are in order, and no copy of a
//! message comes behind its successor.
//!
//! A stream may keep the last messages of a subject only. Then one that is not there may have been replaced by what came behind
//! it: where a newer message of the lane is known to have been stored, and what the stream keeps is all newer, it counts as
//! stored, and no copy of it leaves.
//!
//! A leader that has gone deaf says nothing; what comes behind may go to the next one and be stored. Therefore messages of
//! one subject leave in *volleys*: what follows the first within [`VOLLEY_SPREAD`] goes at once, the rest waits until the
//! volley is acknowledged. A stream of one replica is away for longer than a silence is patient with before anybody else
//! answers for it, so there everything goes at once.

mod parts;
mod rtt;
mod settling;
mod subjects;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

pub(super) use self::parts::{Ask, AskToken, Entry, Found, GaveUp, Resolved, Step, Token};
use self::parts::{Mode, Probe, State};
use self::rtt::RoundTrip;
use self::subjects::Subjects;

const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// Messages of a subject that leave so soon behind the first of them that is unanswered need not wait for it: as long as a
/// burst takes, and little enough that hardly any change of leaders falls into it.
const VOLLEY_SPREAD: Duration = Duration::from_micros(250);

#[derive(Debug)]
struct Slot<T> {
    entry: Option<Entry<T>>,
    state: State,
    submitted_at: Instant,
    sent_at: Instant,
    attempt: u32,
    was_sent: bool,
    /// Of the lane when it was sent last.
    round: u32,
    /// How many copies had left before.
    serial: u64,
    /// If it is in the stream, then above this sequence.
    above: u64,
    refused: bool,
}

/// A queue whose items have consecutive numbers.
#[derive(Debug)]
pub(super) struct Lane<T> {
    slots: VecDeque<Slot<T>>,
    /// Number of the first slot.
    first: u64,
    subjects: Subjects,
    ready: VecDeque<u64>,
    /// Copies in the order in which they left in this round; those that are resolved go when they are at the front.
    flight: VecDeque<Token>,
    /// Subjects in doubt with nothing asked, the one with the oldest message first.
    doubtful: VecDeque<u64>,
    /// Subjects in doubt that wait for an answer.
    asking: usize,
    /// Counts questions.
    asked: u32,
    mode: Mode,
    /// Counts doubts.
    round: u32,
    /// Counts copies.
    serial: u64,
    round_trip: RoundTrip,
    pause: Duration,
    /// When an answer came for something that was sent.
    answered_at: Option<Instant>,
    /// Probes in a row that met silence.
    silent_probes: u32,
    /// Highest sequence that an acknowledgement has named.
    highest: u64,
    /// The leader cannot be asked: what is unanswered is sent again in order, without knowing.
    is_blind: bool,
    /// The stream has replicas, of which another one may lead it in no time.
    is_replicated: bool,
    /// Messages of a subject that the stream keeps; `None`: all of them.
    kept: Option<u64>,
}

impl<T> Lane<T> {
    /// `is_replicated`: see [`Self::is_replicated`].
    pub(super) fn new(is_replicated: bool) -> Self {
        Self {
            slots: VecDeque::new(),
            first: 0,
            subjects: Subjects::default(),
            ready: VecDeque::new(),
            flight: VecDeque::new(),
            doubtful: VecDeque::new(),
            asking: 0,
            asked: 0,
            mode: Mode::Open,
            round: 0,
            serial: 0,
            round_trip: RoundTrip::new(),
            pause: PAUSE_MIN,
            answered_at: None,
            silent_probes: 0,
            highest: 0,
            is_blind: false,
            is_replicated,
            kept: None,
        }
    }

    /// How many messages of a subject the stream keeps; `None`: all of them.
    pub(super) fn keeps(&mut self, messages: Option<u64>) {
        self.kept = messages;
    }

    /// Appends a message; returns its number.
    pub(super) fn push(&mut self, entry: Entry<T>, now: Instant) -> u64 {
        let number = self.first + self.slots.len() as u64;
        let key = entry.subject;
        self.slots.push_back(Slot {
            entry: Some(entry),
            state: State::Waiting,
            submitted_at: now,
            sent_at: now,
            attempt: 0,
            was_sent: false,
            round: 0,
            serial: 0,
            above: 0,
            refused: false,
        });
        let subject = self.subjects.get_or_begin(key, now);
        let has_waiting = subject.has_waiting();
        subject.numbers.push_back(number);
        let is_free = !self.is_replicated
            || subject.sent == 0
            || now.saturating_duration_since(subject.volley_at) < VOLLEY_SPREAD;
        if subject.settling.is_none() && !has_waiting && is_free {
            subject.ready += 1;
            self.make_ready(number);
        }
        number
    }

    /// Whether every item is acknowledged or has failed.
    pub(super) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// When the oldest item was submitted that is neither acknowledged nor has failed.
    pub(super) fn oldest(&self) -> Option<Instant> {
        // What is done is never the first.
        self.slots.front().map(|slot| slot.submitted_at)
    }

    /// Whether the last answer about the oldest item was that nobody took it.
    pub(super) fn is_refused(&self) -> bool {
        self.slots.front().is_some_and(|slot| slot.refused)
    }

    /// Whether everything that is sent is expected to be acknowledged.
    pub(super) fn is_open(&self) -> bool {
        self.mode == Mode::Open
    }

    /// What has to be done now, if anything; it counts as done. Of what would be sent, or sent again, `is_wanted` is asked.
    pub(super) fn next(&mut self, now: Instant, is_wanted: impl Fn(&T) -> bool) -> Option<Step<'_, T>> {
        if let Some(key) = self.next_to_settle(now) {
            return self.settle(key, now, is_wanted);
        }
        let is_probe = match self.mode {
            Mode::Open => false,
            Mode::Doubt { at, probe: None, .. } if now >= at && self.doubtful.is_empty() => true,
            Mode::Doubt { .. } => return None,
        };
        let number = self.ready.pop_front()?;
        if self.is_unwanted(number, is_wanted) {
            return self.resolve(number, now).map(Step::Withdrawn);
        }
        let key = self.key(number)?;
        let subject = self.subjects.get_mut(key)?;
        if subject.sent == 0 {
            subject.volley_at = now;
        }
        subject.sent += 1;
        subject.ready = subject.ready.saturating_sub(1);
        let token = self.mark_sent(number, now)?;
        if is_probe {
            self.set_probe(Some(Probe::Message(token)));
        }
        let Entry { item, id, expected_last, .. } = self.slot(number)?.entry.as_ref()?;
        Some(Step::Send { token, item, id: *id, expected_last: *expected_last })
    }

    /// What [`Self::next`] gave could not be handed to the connection after all.
    pub(super) fn unsend(&mut self, token: Token, now: Instant) {
        if self.unrepeat(token, now) {
            return;
        }
        let Some(key) = self.key(token.number) else { return };
        if self.flight.back() == Some(&token) {
            self.flight.pop_back();
        }
        if let Some(subject) = self.subjects.get_mut(key) {
            subject.sent = subject.sent.saturating_sub(1);
            subject.ready += 1;
        }
        if let Some(slot) = self.slot_mut(token.number) {
            slot.state = State::Ready;
        }
        self.ready.push_front(token.number);
        self.end_probe(|probe| probe == Probe::Message(token));
    }

    /// The stream has a message, at this sequence.
    pub(super) fn stored(&mut self, token: Token, sequence: u64, is_duplicate: bool, now: Instant) -> Option<T> {
        // What was stored before says nothing about how far the stream is, and is answered out of turn.
        let is_in_turn = !is_duplicate;
        if is_in_turn {
            self.highest = self.highest.max(sequence);
        }
        let slot = self.slot(token.number).filter(|slot| slot.entry.is_some())?;
        let serial = slot.serial;
        let is_last_copy = slot.attempt == token.attempt;
        self.note_stored(token.number, sequence);
        let slot = self.slot(token.number)?;
        if is_last_copy {
            let took = now.saturating_duration_since(slot.sent_at);
            self.round_trip.measured(took);
            self.answered_at = Some(now);
        }
        let (item, is_current) = self.done(token, now)?;
        if is_current && is_in_turn && self.is_overtaken_by(serial) {
            self.doubt(now, now);
        }
        Some(item)
    }

    /// The stream will never have a message, or nobody can say: the item is done.
    pub(super) fn failed(&mut self, token: Token, now: Instant) -> Option<T> {
        self.done(token, now).map(|(item, _)| item)
    }

    /// An item is done, by an answer to this copy; whether that one left last, and in this round.
    fn done(&mut self, token: Token, now: Instant) -> Option<(T, bool)> {
        let slot = self.slot(token.number)?;
        let key = slot.entry.as_ref()?.subject;
        let is_current = slot.attempt == token.attempt && slot.round == self.round;
        let is_repeat = self.is_repeat_of(key, token);
        let item = self.resolve(token.number, now)?;
        if is_repeat {
            self.settled(key, now);
        }
        if is_current || self.has_no_doubt() {
            self.open();
        }
        Some((item, is_current))
    }

    /// Takes out every item that was sent and of which this is true.
    pub(super) fn take_sent(&mut self, is_it: impl Fn(&T) -> bool, now: Instant, out: &mut Vec<T>) {
        let sent =
            |slot: &Slot<T>| slot.state == State::Sent && slot.entry.as_ref().is_some_and(|entry| is_it(&entry.item));
        let found: Vec<u64> =
            (self.first..).zip(&self.slots).filter(|(_, slot)| sent(slot)).map(|(number, _)| number).collect();
        out.extend(found.into_iter().filter_map(|number| self.resolve(number, now)));
        if self.has_no_doubt() {
            self.open();
        }
    }

    /// Nobody took a copy, or an answer: the stream is away.
    pub(super) fn refused(&mut self, token: Token, now: Instant) {
        let round = self.round;
        let Some(slot) = self.slot_mut(token.number).filter(|slot| slot.attempt == token.attempt) else { return };
        slot.refused = true;
        if slot.round != round {
            return;
        }
        self.silent_probes = 0;
        self.doubt_after_pause(now);
    }

    /// A leader was elected: who waits for one need not wait any more, and what an older one has not answered may be lost.
    pub(super) fn elected(&mut self, now: Instant) {
        match &mut self.mode {
            Mode::Doubt { at, .. } => *at = now.min(*at),
            Mode::Open => {
                self.forget_resolved();
                if !self.flight.is_empty() {
                    self.doubt(now, now);
                }
            }
        }
    }

    /// There is another connection: no answer will come of what the last one has taken.
    pub(super) fn restart(&mut self, now: Instant) {
        self.silent_probes = 0;
        self.doubt(now, now);
    }

    /// The leader cannot be asked about messages on this connection.
    pub(super) fn is_not_answered(&mut self) {
        self.is_blind = true;
    }

    /// Takes out what was submitted `limit` ago and is not resolved.
    pub(super) fn give_up(&mut self, now: Instant, limit: Duration, out: &mut Vec<(T, GaveUp)>) {
        while let Some(slot) = self.slots.front() {
            if now.saturating_duration_since(slot.submitted_at) < limit {
                return;
            }
            let why = if slot.refused { GaveUp::NoStream } else { GaveUp::Silence };
            let (number, attempt) = (self.first, slot.attempt);
            let Some(item) = self.resolve(number, now) else { return };
            if self.end_probe(|probe| probe == Probe::Message(Token { number, attempt })) {
                self.doubt_after_pause(now);
            }
            out.push((item, why));
        }
    }

    fn open(&mut self) {
        self.mode = Mode::Open;
        self.pause = PAUSE_MIN;
        self.silent_probes = 0;
    }

    fn has_no_doubt(&self) -> bool {
        self.doubtful.is_empty() && self.asking == 0 && self.mode != Mode::Open
    }

    /// Whether something that left before a copy is still without an answer.
    fn is_overtaken_by(&mut self, serial: u64) -> bool {
        self.forget_resolved();
        self.flight.front().and_then(|first| self.slot(first.number)).is_some_and(|slot| slot.serial < serial)
    }

    fn forget_resolved(&mut self) {
        while let Some(token) = self.flight.front() {
            let is_open = self
                .slot(token.number)
                .is_some_and(|slot| slot.entry.is_some() && slot.state == State::Sent && slot.attempt == token.attempt);
            if is_open {
                return;
            }
            self.flight.pop_front();
        }
    }

    fn make_ready(&mut self, number: u64) {
        if let Some(slot) = self.slot_mut(number) {
            slot.state = State::Ready;
            self.ready.push_back(number);
        }
    }

    fn mark_sent(&mut self, number: u64, now: Instant) -> Option<Token> {
        let (round, highest, serial) = (self.round, self.highest, self.serial);
        self.serial += 1;
        let slot = self.slot_mut(number)?;
        slot.serial = serial;
        slot.state = State::Sent;
        slot.sent_at = now;
        slot.attempt = slot.attempt.wrapping_add(1);
        slot.round = round;
        if !slot.was_sent {
            slot.above = highest;
        }
        slot.was_sent = true;
        let token = Token { number, attempt: slot.attempt };
        self.flight.push_back(token);
        Some(token)
    }

    fn is_unwanted(&self, number: u64, is_wanted: impl Fn(&T) -> bool) -> bool {
        let Some(slot) = self.slot(number) else { return false };
        slot.entry.as_ref().is_some_and(|entry| !is_wanted(&entry.item))
    }

    fn resolve(&mut self, number: u64, now: Instant) -> Option<T> {
        let slot = self.slot_mut(number)?;
        let entry = slot.entry.take()?;
        let state = slot.state;
        if let Some(subject) = self.subjects.get_mut(entry.subject) {
            subject.remove(number);
            match state {
                State::Sent => subject.sent = subject.sent.saturating_sub(1),
                State::Ready => subject.ready = subject.ready.saturating_sub(1),
                State::Waiting => {}
            }
            if subject.numbers.is_empty() {
                self.forget_subject(entry.subject);
            } else if subject.settling.is_some() {
                self.resolved_in_doubt(entry.subject, number, now);
            } else if subject.sent + subject.ready == 0 {
                self.release(entry.subject, now);
            }
        }
        if state == State::Ready {
            self.ready.retain(|ready| *ready != number);
        }
        while self.slots.front().is_some_and(|slot| slot.entry.is_none()) {
            self.slots.pop_front();
            self.first += 1;
        }
        Some(entry.item)
    }

    /// Everything of a subject may leave.
    fn release(&mut self, key: u64, now: Instant) {
        let Some(subject) = self.subjects.get_mut(key) else { return };
        (subject.sent, subject.ready, subject.volley_at) = (0, subject.numbers.len(), now);
        let numbers = std::mem::take(&mut subject.numbers);
        for number in &numbers {
            self.make_ready(*number);
        }
        if let Some(subject) = self.subjects.get_mut(key) {
            subject.numbers = numbers;
        }
    }

    fn key(&self, number: u64) -> Option<u64> {
        self.slot(number)?.entry.as_ref().map(|entry| entry.subject)
    }

    fn slot(&self, number: u64) -> Option<&Slot<T>> {
        self.slots.get(usize::try_from(number.checked_sub(self.first)?).ok()?)
    }

    fn slot_mut(&mut self, number: u64) -> Option<&mut Slot<T>> {
        self.slots.get_mut(usize::try_from(number.checked_sub(self.first)?).ok()?)
    }
}

#[cfg(test)]
#[path = "lane_tests.rs"]
mod tests;
