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

/// From here on a position is of a retained message: less this, it is a sequence of the bucket.
pub const RETAINED: u64 = 1 << 63;

/// Set in the position of a message that came by a shared subscription.
pub const SHARED: u64 = 1 << 62;

const LOG_SHIFT: u32 = 48;

/// The highest number that a log can have.
pub const LOG_MAX: u16 = (1 << (62 - LOG_SHIFT)) - 1;

/// The number of a log that is gone: no log has it, and what is there is found nowhere.
pub const GONE: u16 = LOG_MAX;

/// The place of a sequence in a log.
#[must_use]
pub const fn position(log: u16, sequence: u64) -> u64 {
    ((log & LOG_MAX) as u64) << LOG_SHIFT | sequence & ((1 << LOG_SHIFT) - 1)
}

/// The number of the log of a place, shared or not. Of a retained message it means nothing.
#[must_use]
pub const fn log_of(position: u64) -> u16 {
    ((position >> LOG_SHIFT) as u16) & LOG_MAX
}

/// The sequence of a place in its log.
#[must_use]
pub const fn sequence_of(position: u64) -> u64 {
    position & ((1 << LOG_SHIFT) - 1)
}

/// Whether it is a place that a session reads by itself, so that it moves a cursor.
#[must_use]
pub const fn is_in_log(position: u64) -> bool {
    position < SHARED
}

/// Whether it is the place of a message that came by a shared subscription.
#[must_use]
pub const fn is_shared(position: u64) -> bool {
    position & (RETAINED | SHARED) == SHARED
}

/// The same place once its log was made anew, or has lost its end, and goes on with the sequence `next`: from there on what was
/// there is gone, and others have these sequences.
#[must_use]
pub const fn after_restart(place: u64, log: u16, next: u64) -> u64 {
    if place < RETAINED && log_of(place) == log && sequence_of(place) >= next {
        place | position(GONE, 0)
    } else {
        place
    }
}

/// How far a session has read, in each log; each a place in its log. Ascending, at most one of each log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cursors(Vec<u64>);

impl Cursors {
    /// The cursor of a log: the last sequence read; `None` when nothing was.
    #[must_use]
    pub fn get(&self, log: u16) -> Option<u64> {
        self.find(log).ok().map(|index| sequence_of(self.0[index]))
    }

    /// Everything in the log of this place, up to it, was read. Cursors never go back. Returns whether it moved.
    pub fn raise(&mut self, position: u64) -> bool {
        match self.find(log_of(position)) {
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
    pub fn restart(&mut self, log: u16, next: u64) {
        if let Ok(index) = self.find(log) {
            self.0[index] = self.0[index].min(position(log, next.saturating_sub(1)));
        }
    }

    /// The cursors, as places in their logs.
    pub fn iter(&self) -> impl Iterator<Item = u64> {
        self.0.iter().copied()
    }

    fn find(&self, log: u16) -> Result<usize, usize> {
        self.0.binary_search_by_key(&log, |position| log_of(*position))
    }
}

impl FromIterator<u64> for Cursors {
    fn from_iter<I: IntoIterator<Item = u64>>(positions: I) -> Self {
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

    #[test]
    fn a_place_is_taken_apart_into_what_it_was_made_of() {
        for (log, sequence) in [(0, 0), (0, 7), (1, 1), (LOG_MAX, (1 << 48) - 1)] {
            let place = position(log, sequence);
            assert_eq!((log_of(place), sequence_of(place)), (log, sequence));
            assert_eq!((log_of(place | SHARED), sequence_of(place | SHARED)), (log, sequence));
            assert!(is_in_log(place) && !is_in_log(place | SHARED) && !is_in_log(RETAINED + sequence));
            assert!(is_shared(place | SHARED) && !is_shared(place) && !is_shared(RETAINED | SHARED | sequence));
        }
        assert_eq!(position(0, 42), 42);
    }

    #[test]
    fn what_a_log_had_before_it_was_made_anew_is_nowhere() {
        let moved = |place| after_restart(place, 0, 5);
        assert_eq!((moved(4), moved(5)), (4, position(GONE, 5)));
        assert_eq!(moved(SHARED | 9), SHARED | position(GONE, 9));
        for elsewhere in [position(2, 9), RETAINED + 9] {
            assert_eq!(moved(elsewhere), elsewhere);
        }
        let mut cursors: Cursors = [9, position(2, 9)].into_iter().collect();
        cursors.restart(0, 5);
        assert_eq!((cursors.get(0), cursors.get(2)), (Some(4), Some(9)));
        assert!(cursors.raise(5));
    }

    #[test]
    fn each_log_has_a_cursor_that_never_goes_back() {
        let mut cursors = Cursors::default();
        assert_eq!(cursors.get(3), None);
        assert!(cursors.raise(position(3, 5)));
        assert!(cursors.raise(9));
        assert!(!cursors.raise(position(3, 4)));
        assert!(cursors.raise(position(1, 1)));
        assert_eq!((cursors.get(0), cursors.get(1), cursors.get(3)), (Some(9), Some(1), Some(5)));
        assert_eq!(cursors.iter().collect::<Cursors>(), cursors);
    }
}
