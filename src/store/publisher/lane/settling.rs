//! What became of messages whose answer did not come: looked for at the leader, sent again when they are not there.
//!
//! Per subject, `SETTLING_MAX` of them beside each other, and the first one alone until the stream has acknowledged something:
//!
//! ```text
//! last message of the subject ── not above what was known before ──▶ none of ours is there
//!        └─ above ──▶ message by message from there on: those that have our ids are stored, the rest is not there
//! one that is not there counts as stored where the stream keeps so few that a newer one of ours has taken its place
//! the first that is not there is sent again, if the subject's last message is still that one
//!        ├─ stored: no older copy can come behind it, so all others leave in one volley
//!        └─ another one is there now, or is on its way: look again
//! ```
//!
//! **Invariant:** of a subject in doubt at most one copy is on its way, and it is stored only if nothing else was.

use std::time::{Duration, Instant};

use super::parts::{Ask, AskToken, Entry, Found, Mode, Phase, Probe, Resolved, Settling, State, Step, Token};
use super::{Lane, PAUSE_MAX};

/// Subjects that are settled at the same time once the stream has a leader for sure.
const SETTLING_MAX: usize = 64;
/// Messages of a subject that are looked at before ours are taken for lost: others write there too, faster than we look.
const WALK_MAX: u32 = 512;
/// Somebody else has written, or an older copy is just being stored: how soon it is looked again.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

impl<T> Lane<T> {
    /// What is in flight is in doubt, and nothing is tried before `at`.
    pub(super) fn doubt(&mut self, now: Instant, at: Instant) {
        self.round += 1;
        while let Some(token) = self.flight.pop_front() {
            let is_open = self
                .slot(token.number)
                .is_some_and(|slot| slot.entry.is_some() && slot.state == State::Sent && slot.attempt == token.attempt);
            if is_open
                && let Some(key) = self.key(token.number)
                && let Some(subject) = self.subjects.get_mut(key)
            {
                subject.settling.get_or_insert_with(|| Settling::new(now));
            }
        }
        let mut keys = Vec::new();
        for (key, subject) in self.subjects.iter_mut() {
            let (Some(settling), Some(first)) = (&mut subject.settling, subject.numbers.front()) else { continue };
            *settling = Settling::new(now);
            subject.ready = 0;
            keys.push((*first, key));
        }
        keys.sort_unstable();
        self.doubtful = keys.into_iter().map(|(_, key)| key).collect();
        self.asking = 0;
        self.hold_ready();
        let since = if let Mode::Doubt { since, .. } = self.mode { since } else { now };
        self.mode = Mode::Doubt { since, at, probe: None };
    }

    /// The same, with a pause that grows.
    pub(super) fn doubt_after_pause(&mut self, now: Instant) {
        self.doubt(now, now + self.pause);
        self.pause = (self.pause * 2).min(PAUSE_MAX);
    }

    /// Looks for silence. Returns how many probes in a row have met it.
    pub(in crate::store::publisher) fn check_silence(&mut self, now: Instant) -> u32 {
        self.forget_resolved();
        let patience = self.round_trip.patience() * (1 << self.silent_probes.min(6));
        let is_over = |since: Instant| now.saturating_duration_since(since) >= patience.min(PAUSE_MAX);
        // A stream that is slow answers in its order; silence is when it answers nothing.
        let oldest = self.flight.front().and_then(|token| self.slot(token.number)).map(|slot| slot.sent_at);
        let oldest = oldest.max(self.answered_at.filter(|_| oldest.is_some()));
        let asked = self.asked_since();
        if oldest.is_some_and(is_over) || asked.is_some_and(is_over) {
            if matches!(self.mode, Mode::Doubt { probe: Some(_), .. }) {
                self.silent_probes += 1;
            }
            self.slots.iter_mut().for_each(|slot| slot.refused &= slot.state != State::Sent);
            self.doubt_after_pause(now);
        }
        self.silent_probes
    }

    /// What was ready of a subject that is in doubt now waits.
    fn hold_ready(&mut self) {
        let ready = std::mem::take(&mut self.ready);
        for number in ready {
            let is_held = self
                .key(number)
                .and_then(|key| self.subjects.get(key))
                .is_some_and(|subject| subject.settling.is_some());
            if !is_held {
                self.ready.push_back(number);
            } else if let Some(slot) = self.slot_mut(number) {
                slot.state = State::Waiting;
            }
        }
    }

    /// The subject whose next step is due.
    pub(super) fn next_to_settle(&mut self, now: Instant) -> Option<u64> {
        let is_due = |lane: &Self, key: &u64| {
            let settling = lane.subjects.get(*key).and_then(|subject| subject.settling);
            settling.is_none_or(|settling| now >= settling.not_before)
        };
        let index = match self.mode {
            Mode::Open if self.asking < SETTLING_MAX => self.doubtful.iter().position(|key| is_due(self, key))?,
            Mode::Doubt { at, probe: None, .. } if now >= at => (!self.doubtful.is_empty()).then_some(0)?,
            Mode::Doubt { probe: Some(Probe::Subject(key)), .. } => {
                self.doubtful.iter().position(|doubtful| *doubtful == key && is_due(self, doubtful))?
            }
            Mode::Open | Mode::Doubt { .. } => return None,
        };
        let key = self.doubtful.remove(index)?;
        if matches!(self.mode, Mode::Doubt { .. }) {
            self.set_probe(Some(Probe::Subject(key)));
        }
        Some(key)
    }

    /// Takes the next step with a subject.
    pub(super) fn settle(&mut self, key: u64, now: Instant, is_wanted: impl Fn(&T) -> bool) -> Option<Step<'_, T>> {
        let attempt = self.asked;
        let subject = self.subjects.get_mut(key)?;
        let number = *subject.numbers.front()?;
        let settling = subject.settling.as_mut()?;
        if let Phase::Look(_) = settling.phase
            && self.is_blind
        {
            settling.phase = Phase::Repeat { behind: None };
        }
        match settling.phase {
            Phase::Look(ask) => {
                self.asked = self.asked.wrapping_add(1);
                settling.phase = Phase::Asked { ask, attempt, at: now };
                self.asking += 1;
                let item = &self.slot(number)?.entry.as_ref()?.item;
                Some(Step::Look { token: AskToken { subject: key, attempt }, item, ask })
            }
            Phase::Repeat { behind } => {
                if self.is_unwanted(number, is_wanted) {
                    // Before it goes: its successor takes its turn.
                    self.doubtful.push_front(key);
                    return self.resolve(number, now).map(Step::Withdrawn);
                }
                let token = self.mark_sent(number, now)?;
                if let Some(settling) = self.subjects.get_mut(key).and_then(|subject| subject.settling.as_mut()) {
                    settling.phase = Phase::Repeated { token, at: now };
                }
                self.asking += 1;
                let Entry { item, id, expected_last, .. } = self.slot(number)?.entry.as_ref()?;
                Some(Step::Send { token, item, id: *id, expected_last: expected_last.or(behind) })
            }
            Phase::Asked { .. } | Phase::Repeated { .. } => None,
        }
    }

    /// The leader has answered a question.
    pub(in crate::store::publisher) fn looked(
        &mut self,
        token: AskToken,
        found: Found,
        now: Instant,
        out: &mut Vec<Resolved<T>>,
    ) {
        let key = token.subject;
        let Some(ask) = self.take_asked(token, now) else { return };
        self.silent_probes = 0;
        let Some(first) = self.first_sent(key) else { return self.settled(key, now) };
        let above = self.slot(first).map_or(0, |slot| slot.above);
        let phase = match (ask, found) {
            // The last message has been seen, and is not there: another one has answered, who knows less, or it is deleted.
            (Ask::From(sequence), Found::Nothing) if sequence <= self.last_seen(key) => {
                return self.set_phase(key, Phase::Look(Ask::Last), now + LOOK_AGAIN);
            }
            (_, Found::Nothing) => return self.not_there(key, now, out),
            (Ask::Last, Found::Message { sequence, .. }) => {
                self.note_last(key, sequence);
                if sequence <= above {
                    return self.not_there(key, now, out);
                }
                Phase::Look(Ask::From(above + 1))
            }
            (Ask::From(_), Found::Message { sequence, id }) => {
                if self.note_last(key, sequence) > WALK_MAX {
                    return self.not_there(key, now, out);
                }
                if let Some(number) = id.and_then(|id| self.sent_with_id(key, id)) {
                    self.note_stored(number, sequence);
                    out.extend(self.resolve(number, now).map(|item| Resolved::Stored(item, sequence)));
                    self.highest = self.highest.max(sequence);
                }
                if self.first_sent(key).is_none() {
                    return self.settled(key, now);
                }
                Phase::Look(Ask::From(sequence + 1))
            }
        };
        self.set_phase(key, phase, now);
    }

    /// No leader has taken the question: the stream is away.
    pub(in crate::store::publisher) fn ask_refused(&mut self, token: AskToken, now: Instant) {
        if self.take_asked(token, now).is_none() {
            return;
        }
        let numbers: Vec<u64> =
            self.subjects.get(token.subject).map_or_else(Vec::new, |subject| subject.numbers.iter().copied().collect());
        for number in numbers {
            if let Some(slot) = self.slot_mut(number) {
                // Also one that was never sent: it is nowhere, and shares what comes of those before it.
                slot.refused = true;
            }
        }
        self.silent_probes = 0;
        self.doubt_after_pause(now);
    }

    /// A question could not be handed to the connection.
    pub(in crate::store::publisher) fn unask(&mut self, token: AskToken, now: Instant) {
        if let Some(ask) = self.take_asked(token, now) {
            self.set_phase(token.subject, Phase::Look(ask), now);
        }
    }

    /// The last message of the subject is another one than a copy was to follow. The item, if that is its end.
    pub(in crate::store::publisher) fn mismatched(&mut self, token: Token, now: Instant) -> Option<T> {
        let key = self.key(token.number)?;
        if self.is_repeat_of(key, token) {
            self.asking = self.asking.saturating_sub(1);
            self.open();
            self.set_phase(key, Phase::Look(Ask::Last), now + LOOK_AGAIN);
            return None;
        }
        // In doubt a look decides; and who named no predecessor was never refused for it.
        let is_settling = self.subjects.get(key).is_some_and(|subject| subject.settling.is_some());
        let is_final = !is_settling
            && self.slot(token.number).is_some_and(|slot| {
                slot.attempt == token.attempt
                    && slot.state == State::Sent
                    && slot.entry.as_ref().is_some_and(|entry| entry.expected_last.is_some())
            });
        if is_final { self.failed(token, now) } else { None }
    }

    /// None of a subject that was sent and is not resolved is in the stream.
    fn not_there(&mut self, key: u64, now: Instant, out: &mut Vec<Resolved<T>>) {
        let last = self.last_seen(key);
        while let Some(number) = self.first_sent(key) {
            if let Some(sequence) = self.replaced_by(key, number) {
                out.extend(self.resolve(number, now).map(|item| Resolved::Stored(item, sequence)));
                continue;
            }
            let expected = self.slot(number).and_then(|slot| slot.entry.as_ref()).and_then(|entry| entry.expected_last);
            if expected.is_none_or(|expected| expected == last) {
                return self.set_phase(key, Phase::Repeat { behind: Some(last) }, now);
            }
            out.extend(self.resolve(number, now).map(|item| Resolved::Overtaken(item, last)));
        }
        self.settled(key, now);
    }

    /// A message is in the stream, or was.
    pub(super) fn note_stored(&mut self, number: u64, sequence: u64) {
        if self.kept.is_none() {
            return;
        }
        let Some(subject) = self.key(number).and_then(|key| self.subjects.get_mut(key)) else { return };
        if subject.stored.is_none_or(|(newest, _)| newest < number) {
            subject.stored = Some((number, sequence));
        }
    }

    /// The sequence of the newer message of ours for which the stream has let go of one that is not there.
    fn replaced_by(&self, key: u64, number: u64) -> Option<u64> {
        let kept = self.kept?;
        let subject = self.subjects.get(key)?;
        let (_, sequence) = subject.stored.filter(|(newest, _)| number < *newest)?;
        // The first message that was seen was the last one.
        let seen = subject.settling.map_or(0, |settling| u64::from(settling.walked.saturating_sub(1)));
        let is_free = self.slot(number)?.entry.as_ref()?.expected_last.is_none();
        let has_only_newer = kept == 1 || seen >= kept;
        (is_free && has_only_newer).then_some(sequence)
    }

    /// Nothing of a subject is in doubt any more: what there is leaves.
    pub(super) fn settled(&mut self, key: u64, now: Instant) {
        let Some(subject) = self.subjects.get_mut(key) else { return };
        let Some(settling) = subject.settling.take() else { return };
        if settling.is_answer_due() {
            self.asking = self.asking.saturating_sub(1);
        }
        self.doubtful.retain(|doubtful| *doubtful != key);
        self.end_probe(|probe| probe == Probe::Subject(key));
        self.release(key, now);
    }

    pub(super) fn forget_subject(&mut self, key: u64) {
        if let Some(settling) = self.subjects.forget(key) {
            if settling.is_answer_due() {
                self.asking = self.asking.saturating_sub(1);
            }
            self.doubtful.retain(|doubtful| *doubtful != key);
            self.end_probe(|probe| probe == Probe::Subject(key));
        }
    }

    /// A message of a subject in doubt is resolved: what was asked or sent for its sake is of no use.
    pub(super) fn resolved_in_doubt(&mut self, key: u64, number: u64, now: Instant) {
        let Some(subject) = self.subjects.get(key) else { return };
        let Some(settling) = subject.settling else { return };
        match settling.phase {
            Phase::Repeated { token, .. } if token.number == number => {
                self.asking = self.asking.saturating_sub(1);
                self.set_phase(key, Phase::Look(Ask::Last), now);
            }
            Phase::Look(_) | Phase::Repeat { .. } if subject.sent == 0 => self.settled(key, now),
            _ => {}
        }
    }

    /// Whether a copy is the one that settles its subject.
    pub(super) fn is_repeat_of(&self, key: u64, copy: Token) -> bool {
        // Nothing is asked of anybody, mostly.
        if self.asking == 0 {
            return false;
        }
        let phase = self.subjects.get(key).and_then(|subject| subject.settling).map(|settling| settling.phase);
        matches!(phase, Some(Phase::Repeated { token, .. }) if token == copy)
    }

    /// A copy that settles its subject could not be handed to the connection.
    pub(super) fn unrepeat(&mut self, copy: Token, now: Instant) -> bool {
        let Some(key) = self.key(copy.number) else { return false };
        if !self.is_repeat_of(key, copy) {
            return false;
        }
        self.asking = self.asking.saturating_sub(1);
        self.set_phase(key, Phase::Look(Ask::Last), now);
        true
    }

    /// Since when the longest question has no answer.
    pub(super) fn asked_since(&self) -> Option<Instant> {
        if self.asking == 0 {
            return None;
        }
        let at = |settling: Settling| match settling.phase {
            Phase::Asked { at, .. } | Phase::Repeated { at, .. } => Some(at),
            Phase::Look(_) | Phase::Repeat { .. } => None,
        };
        self.subjects.settling().filter_map(at).min()
    }

    pub(super) fn set_probe(&mut self, new: Option<Probe>) {
        if let Mode::Doubt { probe, .. } = &mut self.mode {
            *probe = new;
        }
    }

    pub(super) fn end_probe(&mut self, is_it: impl Fn(Probe) -> bool) -> bool {
        match &mut self.mode {
            Mode::Doubt { probe, .. } => probe.take_if(|probe| is_it(*probe)).is_some(),
            Mode::Open => false,
        }
    }

    /// The question that this is the answer of.
    fn take_asked(&mut self, token: AskToken, now: Instant) -> Option<Ask> {
        let settling = self.subjects.get_mut(token.subject)?.settling.as_mut()?;
        let Phase::Asked { ask, attempt, .. } = settling.phase else { return None };
        if attempt != token.attempt {
            return None;
        }
        settling.phase = Phase::Look(Ask::Last);
        settling.not_before = now;
        self.asking = self.asking.saturating_sub(1);
        self.doubtful.push_front(token.subject);
        Some(ask)
    }

    fn set_phase(&mut self, key: u64, phase: Phase, not_before: Instant) {
        let Some(settling) = self.subjects.get_mut(key).and_then(|subject| subject.settling.as_mut()) else { return };
        settling.phase = phase;
        settling.not_before = not_before;
        if let Phase::Look(Ask::Last) = phase {
            settling.walked = 0;
            settling.last = 0;
        }
        if self.doubtful.front() != Some(&key) {
            self.doubtful.retain(|doubtful| *doubtful != key);
            self.doubtful.push_front(key);
        }
    }

    /// Notes what a look has seen, and says how many it has seen.
    fn note_last(&mut self, key: u64, sequence: u64) -> u32 {
        let Some(settling) = self.subjects.get_mut(key).and_then(|subject| subject.settling.as_mut()) else {
            return 0;
        };
        settling.last = settling.last.max(sequence);
        settling.walked += 1;
        settling.walked
    }

    /// The highest sequence that this look has seen.
    fn last_seen(&self, key: u64) -> u64 {
        self.subjects.get(key).and_then(|subject| subject.settling).map_or(0, |settling| settling.last)
    }

    fn first_sent(&self, key: u64) -> Option<u64> {
        let subject = self.subjects.get(key)?;
        subject.numbers.front().copied().filter(|_| subject.sent > 0)
    }

    fn sent_with_id(&self, key: u64, id: u64) -> Option<u64> {
        let is_it =
            |number: &u64| self.slot(*number).and_then(|slot| slot.entry.as_ref()).is_some_and(|entry| entry.id == id);
        let subject = self.subjects.get(key)?;
        subject.numbers.iter().take(subject.sent).copied().find(is_it)
    }
}
