//! Queues that discard the oldest message when they are full: JetStream makes the room by itself, so what went is found
//! by looking how long the backlogs are before a pass and behind it.
//!
//! **Invariant:** what a pass stored is counted, also when it does not end: with the next one that does, from the lengths before
//! the first. Of a copy without an answer the end of its backlog says whether it is there; of one that was refused, whether it is
//! lost: a backlog is in the order of the log, so nothing can be put into it before what was stored behind.

use std::collections::HashMap;

use mqtt_session::Sequence;

use crate::store::{Backlog, BacklogEnd, Lengths, Unavailable};

/// What passes have stored that was not looked for yet.
#[derive(Debug, Default)]
pub(super) struct Uncounted {
    /// The lengths before it.
    before: Option<Lengths>,
    /// Copies, by client id.
    stored: HashMap<String, u64>,
    /// Client id and sequence in the log of copies that may be there: no more than a pass has under way.
    in_doubt: Vec<(String, Sequence)>,
    /// The same of copies that were refused.
    refused: Vec<(String, Sequence)>,
}

impl Uncounted {
    /// Before copies are made.
    pub(super) async fn begin(&mut self, backlog: &Backlog) -> Result<(), Unavailable> {
        if self.before.is_none() {
            self.before = backlog.lengths().await?;
        }
        Ok(())
    }

    /// So many copies were stored for a client.
    pub(super) fn stored(&mut self, client_id: &str, count: u64) {
        *self.stored.entry(client_id.to_owned()).or_default() += count;
    }

    /// A copy of the message with this sequence in the log was stored for a client, or not.
    pub(super) fn in_doubt(&mut self, client_id: &str, sequence: Sequence) {
        self.in_doubt.push((client_id.to_owned(), sequence));
    }

    /// A copy of the message with this sequence in the log was refused for a client.
    pub(super) fn refused(&mut self, client_id: &str, sequence: Sequence) {
        self.refused.push((client_id.to_owned(), sequence));
    }

    /// When copies were made: how many messages gave way to them, in queues that discard the oldest.
    pub(super) async fn count(&mut self, backlog: &Backlog) -> Result<u64, Unavailable> {
        if self.stored.is_empty() {
            self.before = None;
            return Ok(0);
        }
        let Some(now) = backlog.lengths().await? else {
            *self = Self::default();
            return Ok(0);
        };
        let Self { before, stored, .. } = std::mem::take(self);
        let before = before.unwrap_or_default();
        let before = |client_id: &str| before.clients.get(client_id).copied().unwrap_or_default();
        Ok(stored.iter().map(|(client_id, stored)| now.gave_way(client_id, before(client_id), *stored)).sum())
    }

    /// After a pass that did not end, with how far the backlogs reach: their copies are in the order of the log. Returns how many
    /// messages their clients do not get, since copies of later ones are there.
    pub(super) fn settle(&mut self, ends: &HashMap<String, BacklogEnd>) -> u64 {
        let is_passed = |client_id: &str, sequence| ends.get(client_id).is_some_and(|end| end.log_sequence >= sequence);
        for (client_id, sequence) in std::mem::take(&mut self.in_doubt) {
            if is_passed(&client_id, sequence) {
                self.stored(&client_id, 1);
            }
        }
        let refused = std::mem::take(&mut self.refused);
        refused.iter().filter(|(client_id, sequence)| is_passed(client_id, *sequence)).count() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_copies_without_an_answer_those_are_counted_that_are_there() {
        let mut uncounted = Uncounted::default();
        uncounted.stored("a", 3);
        for (client_id, sequence) in [("a", 10), ("a", 11), ("a", 12), ("b", 11), ("gone", 12)] {
            uncounted.in_doubt(client_id, Sequence(sequence));
        }
        let end = |sequence| BacklogEnd { stream_sequence: 1, log_sequence: Sequence(sequence) };
        for (client_id, sequence) in [("a", 9), ("a", 12), ("b", 10), ("gone", 1)] {
            uncounted.refused(client_id, Sequence(sequence));
        }
        let ends = HashMap::from([("a".to_owned(), end(11)), ("b".to_owned(), end(10))]);
        assert_eq!(uncounted.settle(&ends), 2, "what is behind the end is copied again");
        assert_eq!(uncounted.settle(&ends), 0, "once");
        assert_eq!(uncounted.stored, HashMap::from([("a".to_owned(), 5)]));
        assert!(uncounted.in_doubt.is_empty());
    }
}
