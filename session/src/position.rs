//! Where a message is stored, in one number. There are several logs, and a session reads each of them at a position of its
//! own.
//!
//! ```text
//! bit 63: a retained message; the rest is its sequence in the bucket
//! bit 62: given to this session by the group of a shared subscription; the rest is a place in a log
//! bits 48 to 61: number of the log in this process, 0 for the one that is always there
//! bits 0 to 47: sequence in the log
//! ```
//!
//! So a place in log 0 is its sequence. Numbers of logs mean nothing outside the process: whoever stores a position stores
//! the log's name.

const RETAINED: u64 = 1 << 63;

const SHARED: u64 = 1 << 62;

const LOG_SHIFT: u32 = 48;

/// The highest number that a log can have.
pub const LOG_MAX: u16 = (1 << (62 - LOG_SHIFT)) - 1;

/// The number of a log that is gone: no log has it, and what is there is found nowhere.
pub const GONE: u16 = LOG_MAX;

/// The sequence of a message in a log, or in the bucket of retained messages. The first one is 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sequence(pub u64);

impl Sequence {
    /// The highest that there can be.
    pub const MAX: Self = Self(u64::MAX);

    /// The one behind it; of the highest, which stands in a record only when somebody has put it there, the same.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// The one before it; of zero, which no message has, zero.
    #[must_use]
    pub const fn before(self) -> Self {
        Self(self.0.saturating_sub(1))
    }
}

/// Where a message is stored: a place in a log, or in the bucket of retained messages. Those of one log ascend with their
/// sequences.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position(pub u64);

impl Position {
    /// The place of a sequence in a log.
    #[must_use]
    pub const fn new(log: u16, sequence: Sequence) -> Self {
        Self(((log & LOG_MAX) as u64) << LOG_SHIFT | sequence.0 & ((1 << LOG_SHIFT) - 1))
    }

    /// The place of a sequence in the log that is always there.
    #[must_use]
    pub const fn in_main_log(sequence: Sequence) -> Self {
        Self::new(0, sequence)
    }

    /// The place of a retained message that has this sequence in the bucket.
    #[must_use]
    pub const fn of_retained(sequence: Sequence) -> Self {
        Self(RETAINED | sequence.0)
    }

    /// The place of a message in a log that came by a shared subscription.
    #[must_use]
    pub const fn by_share(self) -> Self {
        Self(self.0 | SHARED)
    }

    /// The number of its log, shared or not. Of a retained message it means nothing.
    #[must_use]
    pub const fn log(self) -> u16 {
        ((self.0 >> LOG_SHIFT) as u16) & LOG_MAX
    }

    /// The sequence in its log.
    #[must_use]
    pub const fn sequence(self) -> Sequence {
        Sequence(self.0 & ((1 << LOG_SHIFT) - 1))
    }

    /// The sequence in the bucket of retained messages, of one of these.
    #[must_use]
    pub const fn retained(self) -> Option<Sequence> {
        if self.is_retained() { Some(Sequence(self.0 - RETAINED)) } else { None }
    }

    /// Whether it is the place of a retained message.
    #[must_use]
    pub const fn is_retained(self) -> bool {
        self.0 >= RETAINED
    }

    /// Whether it is a place that a session reads by itself, so that it moves a cursor.
    #[must_use]
    pub const fn is_in_log(self) -> bool {
        self.0 < SHARED
    }

    /// Whether it is the place of a message that came by a shared subscription.
    #[must_use]
    pub const fn is_shared(self) -> bool {
        self.0 & (RETAINED | SHARED) == SHARED
    }

    /// The sequence in its log, with the mark of what came by a shared subscription: what is left of it without the number of
    /// the log.
    #[must_use]
    pub const fn marked_sequence(self) -> Sequence {
        Sequence(self.0 & !Self::new(LOG_MAX, Sequence(0)).0)
    }

    /// The place in a log that has this [`Self::marked_sequence`].
    #[must_use]
    pub const fn from_marked(log: u16, sequence: Sequence) -> Self {
        Self(Self(sequence.0).marked_sequence().0 | Self::new(log, Sequence(0)).0)
    }

    /// The same place once its log was made anew, or has lost its end, and goes on with the sequence `next`: from there on what
    /// was there is gone, and others have these sequences.
    #[must_use]
    pub const fn after_restart(self, log: u16, next: Sequence) -> Self {
        if !self.is_retained() && self.log() == log && self.sequence().0 >= next.0 {
            Self(self.0 | Self::new(GONE, Sequence(0)).0)
        } else {
            self
        }
    }
}

/// How far a session has read, in each log; each a place in its log. Ascending, at most one of each log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cursors(Vec<Position>);

impl Cursors {
    /// The cursor of a log: the last sequence read; `None` when nothing was.
    #[must_use]
    pub fn get(&self, log: u16) -> Option<Sequence> {
        self.find(log).ok().map(|index| self.0[index].sequence())
    }

    /// Everything in the log of this place, up to it, was read. Cursors never go back. Returns whether it moved.
    pub fn raise(&mut self, position: Position) -> bool {
        match self.find(position.log()) {
            Ok(index) if self.0[index] < position => {
                self.0[index] = position;
                true
            }
            Ok(_) => false,
            Err(index) => {
                self.0.insert(index, position);
                true
            }
        }
    }

    /// The log goes on with `next`, which may be a sequence that was there before: what comes is not read yet.
    pub fn restart(&mut self, log: u16, next: Sequence) {
        if let Ok(index) = self.find(log) {
            self.0[index] = self.0[index].min(Position::new(log, next.before()));
        }
    }

    /// The cursors, as places in their logs.
    pub fn iter(&self) -> impl Iterator<Item = Position> {
        self.0.iter().copied()
    }

    fn find(&self, log: u16) -> Result<usize, usize> {
        self.0.binary_search_by_key(&log, |position| position.log())
    }
}

impl FromIterator<Position> for Cursors {
    fn from_iter<I: IntoIterator<Item = Position>>(positions: I) -> Self {
        let mut cursors = Self::default();
        for position in positions {
            cursors.raise(position);
        }
        cursors
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(log: u16, sequence: u64) -> Position {
        Position::new(log, Sequence(sequence))
    }

    #[test]
    fn a_place_is_taken_apart_into_what_it_was_made_of() {
        for (log, sequence) in [(0, 0), (0, 7), (1, 1), (LOG_MAX, (1 << 48) - 1)] {
            let (place, shared, sequence) = (at(log, sequence), at(log, sequence).by_share(), Sequence(sequence));
            let retained = Position::of_retained(sequence);
            assert_eq!((place.log(), place.sequence()), (log, sequence));
            assert_eq!((shared.log(), shared.sequence()), (log, sequence));
            assert_eq!((place.retained(), shared.retained(), retained.retained()), (None, None, Some(sequence)));
            assert!(place.is_in_log() && !shared.is_in_log() && !retained.is_in_log());
            assert!(shared.is_shared() && !place.is_shared() && !retained.by_share().is_shared());
            for place in [place, shared] {
                assert_eq!(Position::from_marked(log, place.marked_sequence()), place);
            }
        }
        assert_eq!(at(0, 42), Position::in_main_log(Sequence(42)));
        // What somebody has written into a record names no other log.
        assert_eq!(Position::in_main_log(Sequence::MAX).log(), 0);
        assert_eq!(Position::from_marked(3, Sequence::MAX).log(), 3);
        assert_eq!((Sequence::MAX.next(), Sequence(0).before()), (Sequence::MAX, Sequence(0)));
        assert_eq!(at(3, 42).marked_sequence(), Sequence(42));
    }

    #[test]
    fn what_a_log_had_before_it_was_made_anew_is_nowhere() {
        let moved = |place: Position| place.after_restart(0, Sequence(5));
        assert_eq!((moved(at(0, 4)), moved(at(0, 5))), (at(0, 4), at(GONE, 5)));
        assert_eq!(moved(at(0, 9).by_share()), at(GONE, 9).by_share());
        for elsewhere in [at(2, 9), Position::of_retained(Sequence(9))] {
            assert_eq!(moved(elsewhere), elsewhere);
        }
        let mut cursors: Cursors = [at(0, 9), at(2, 9)].into_iter().collect();
        cursors.restart(0, Sequence(5));
        assert_eq!((cursors.get(0), cursors.get(2)), (Some(Sequence(4)), Some(Sequence(9))));
        assert!(cursors.raise(at(0, 5)));
    }

    #[test]
    fn each_log_has_a_cursor_that_never_goes_back() {
        let mut cursors = Cursors::default();
        assert_eq!(cursors.get(3), None);
        assert!(cursors.raise(at(3, 5)));
        assert!(cursors.raise(at(0, 9)));
        assert!(!cursors.raise(at(3, 4)));
        assert!(cursors.raise(at(1, 1)));
        assert_eq!([0, 1, 3].map(|log| cursors.get(log)), [9, 1, 5].map(|sequence| Some(Sequence(sequence))));
        assert_eq!(cursors.iter().collect::<Cursors>(), cursors);
    }
}
