//! Up to where the log has to be copied: what it is about to lose. Nothing is copied while it lies in the newer half of
//! what the log can hold; then a piece is copied at once, so that the work comes in few large passes.
//!
//! ```text
//!  first                        trigger     horizon                last
//!    |--- older half of its room ---|--- piece ---|--- newer part ---|
//! ```
//!
//! By age this is exact. By bytes and messages it is a proportion of sequences, which is early where the newer messages
//! are the smaller ones and late where they are the larger ones; the writer looks often enough for that.

use std::time::Duration;

use mqtt_ownership::ServerTime;
use mqtt_session::Sequence;

use crate::store::LogInfo;

/// A copy is due when more than this part of what the log can hold lies behind a message, in eighths.
const DUE_EIGHTHS: u64 = 4;

/// A pass leaves this part of what the log can hold, in eighths.
const KEPT_EIGHTHS: u64 = 3;

/// The horizon by the room that the log has: up to where it is to be copied when everything up to `position` is. `None`
/// when nothing is due.
pub(crate) fn by_room(log: &LogInfo, position: Sequence) -> Option<Sequence> {
    let rooms = [(log.bytes, log.max_bytes), (log.messages, log.max_messages)];
    rooms.into_iter().filter_map(|(used, max)| by_limit(log, position, used, max?)).max()
}

fn by_limit(log: &LogInfo, position: Sequence, used: u64, max: u64) -> Option<Sequence> {
    let behind = |eighths: u64| {
        let kept = u128::from(max) * u128::from(eighths) / 8;
        let sequences = u128::from((log.last + 1).saturating_sub(log.first));
        // As many sequences at the end as hold that much.
        let newest = if u128::from(used) <= kept { sequences } else { sequences * kept / u128::from(used) };
        Sequence(log.last.saturating_sub(u64::try_from(newest).unwrap_or(u64::MAX)))
    };
    (behind(DUE_EIGHTHS) > position).then(|| behind(KEPT_EIGHTHS)).filter(|horizon| *horizon > position)
}

/// Whether a message of this age is to be copied, for its age alone.
pub(crate) fn is_due_by_age(max_age: Duration, age: Duration) -> bool {
    age.as_millis() > max_age.as_millis() / 8 * u128::from(DUE_EIGHTHS)
}

/// The age from which on messages are copied when a pass is made for their age.
pub(crate) const fn age_of_horizon(max_age: Duration) -> Duration {
    Duration::from_millis(max_age.as_millis() as u64 / 8 * KEPT_EIGHTHS)
}

/// Finds the last message that is not newer than `until` by halving: each answer is the first message at or after
/// what was asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Search {
    found: Sequence,
    last: Sequence,
    until: ServerTime,
}

impl Search {
    /// Looks above `position`, up to and with `last`.
    pub(crate) const fn new(position: Sequence, last: Sequence, until: ServerTime) -> Self {
        Self { found: position, last, until }
    }

    /// The sequence to look at, or what was found: `position` when there is none.
    pub(crate) const fn next(&self) -> Result<Sequence, Sequence> {
        let (found, last) = (self.found.0, self.last.0);
        if last <= found { Err(self.found) } else { Ok(Sequence(found + (last - found).div_ceil(2))) }
    }

    /// At or after `asked` the first message is this one, stored then.
    pub(crate) const fn answer(&mut self, asked: Sequence, message: Option<(Sequence, ServerTime)>) {
        match message {
            Some((sequence, stored)) if stored.0 <= self.until.0 && sequence.0 <= self.last.0 => self.found = sequence,
            _ => self.last = Sequence(asked.0 - 1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A log of 1,000 bytes with 10 bytes a message.
    fn log(first: u64, last: u64) -> LogInfo {
        let messages = (last + 1).saturating_sub(first);
        LogInfo { first, last, messages, bytes: messages * 10, max_bytes: Some(1000), ..LogInfo::default() }
    }

    fn due(log: &LogInfo, position: u64) -> Option<u64> {
        by_room(log, Sequence(position)).map(|horizon| horizon.0)
    }

    #[test]
    fn nothing_is_due_in_a_log_that_is_half_full() {
        assert_eq!(due(&LogInfo { max_bytes: Some(1000), ..LogInfo::default() }, 0), None);
        assert_eq!(due(&log(1, 1), 0), None);
        assert_eq!(due(&log(1, 50), 0), None);
        assert_eq!(due(&LogInfo { max_bytes: None, ..log(1, 1000) }, 0), None);
    }

    #[test]
    fn beyond_half_the_newest_three_eighths_stay() {
        assert_eq!(due(&log(1, 51), 0), Some(51 - 37));
        assert_eq!(due(&log(901, 1000), 900), Some(1000 - 37));
    }

    #[test]
    fn the_next_pass_waits_until_what_is_not_copied_lies_in_the_older_half() {
        assert_eq!(due(&log(901, 1000), 963), None);
        assert_eq!(due(&log(914, 1013), 963), None);
        assert_eq!(due(&log(915, 1014), 963), Some(1014 - 37));
    }

    #[test]
    fn the_limit_of_messages_counts_as_that_of_bytes() {
        let log = LogInfo { max_bytes: Some(1_000_000), max_messages: Some(80), ..log(1, 80) };
        assert_eq!(due(&log, 0), Some(50));
    }

    #[test]
    fn a_log_that_has_overtaken_its_copies_is_copied_from_its_beginning() {
        assert_eq!(due(&log(5001, 5100), 40), Some(5100 - 37));
        assert_eq!(due(&log(u64::MAX - 99, u64::MAX - 1), 40), Some(u64::MAX - 1 - 37));
    }

    #[test]
    fn a_pass_is_always_ahead_of_what_half_a_log_of_new_messages_truncates() {
        // Whatever the log holds, once nothing is due another half of it fits in before anything goes uncopied.
        for messages in 1..200_u64 {
            for position in 0..messages {
                let log = log(1, messages);
                let copied = due(&log, position).unwrap_or(position);
                let uncopied = messages - copied;
                assert!(uncopied * 10 <= 510, "{messages} messages, {position} copied: {uncopied} are not");
            }
        }
    }

    #[test]
    fn copies_by_age_are_due_at_half_of_it_and_go_up_to_three_eighths() {
        let ms = Duration::from_millis;
        assert!(!is_due_by_age(ms(8000), ms(4000)));
        assert!(is_due_by_age(ms(8000), ms(4001)));
        assert_eq!(age_of_horizon(ms(8000)), ms(3000));
    }

    #[test]
    fn the_search_finds_the_last_message_that_is_old_enough_over_gaps() {
        let log = [(3, 10), (4, 10), (9, 20), (10, 35), (400, 35), (401, 90)].map(|(s, ms)| (Sequence(s), ms));
        let at = |sequence: Sequence| log.iter().find(|(s, _)| *s >= sequence).map(|&(s, ms)| (s, ServerTime(ms)));
        for until_ms in 0..100 {
            for position in [0, 2, 3, 9, 200, 401].map(Sequence) {
                let mut search = Search::new(position, Sequence(401), ServerTime(until_ms));
                let mut steps = 0;
                let found = loop {
                    match search.next() {
                        Ok(asked) => search.answer(asked, at(asked)),
                        Err(found) => break found,
                    }
                    steps += 1;
                    assert!(steps < 20);
                };
                let old = log.iter().rev().find(|(s, ms)| *ms <= until_ms && *s > position);
                assert_eq!(found, old.map_or(position, |(s, _)| *s), "until {until_ms} above {position:?}");
            }
        }
    }
}
