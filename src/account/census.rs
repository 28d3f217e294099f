//! The sessions of the account, as their records say: how many outlive their connections, and how many are away.

use std::sync::Arc;

use foldhash::{HashMap, HashSet};
use parking_lot::Mutex;

use crate::store::{Gone, PageRecord, SessionRecord, SessionsSink};

/// What is known of a session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Known {
    /// It outlives its connection.
    lasts: bool,
    is_away: bool,
}

#[derive(Debug, Default)]
struct Counted {
    /// By [`proto_map::client_token`]: a few bytes a session, however long client ids are.
    sessions: HashMap<u64, Known>,
    lasting: usize,
    away: usize,
    /// Those that have pages beside their records.
    paged: HashSet<u64>,
    /// Such a session is over.
    leaves_pages: bool,
    /// All that there are have been read.
    is_complete: bool,
}

/// Counts the sessions of the account.
pub(crate) struct Census {
    counted: Mutex<Counted>,
    /// Who follows the records as well.
    next: Option<Arc<dyn SessionsSink>>,
}

impl Census {
    /// Nobody is known yet. `next`: is told everything as well.
    pub(crate) fn new(next: Option<Arc<dyn SessionsSink>>) -> Self {
        Self { counted: Mutex::default(), next }
    }

    /// Whether a session that outlives its connection has room among so many: one that is there has.
    pub(crate) fn has_room_for(&self, client_id: &str, most: usize) -> bool {
        let counted = self.counted.lock();
        let is_there = |known: &Known| known.lasts;
        counted.lasting < most || counted.sessions.get(&proto_map::client_token(client_id)).is_some_and(is_there)
    }

    /// How many sessions outlive their connections, and how many are away.
    pub(crate) fn counts(&self) -> (usize, usize) {
        let counted = self.counted.lock();
        (counted.lasting, counted.away)
    }

    /// Whether there is no session for certain, as far as records have been read.
    pub(crate) fn is_empty(&self) -> bool {
        let counted = self.counted.lock();
        counted.is_complete && counted.sessions.is_empty()
    }

    /// Whether a session is over since the last call that had pages beside its record, which it may have left.
    pub(crate) fn take_leaves_pages(&self) -> bool {
        std::mem::take(&mut self.counted.lock().leaves_pages)
    }

    fn set(&self, client_id: &str, known: Option<Known>) {
        let mut counted = self.counted.lock();
        let token = proto_map::client_token(client_id);
        let before = match known {
            Some(known) => counted.sessions.insert(token, known),
            None => counted.sessions.remove(&token),
        };
        let (before, known) = (before.unwrap_or_default(), known.unwrap_or_default());
        counted.lasting = counted.lasting + usize::from(known.lasts) - usize::from(before.lasts);
        counted.away = counted.away + usize::from(known.is_away) - usize::from(before.is_away);
    }
}

impl SessionsSink for Census {
    fn record(&self, sequence: u64, record: SessionRecord) {
        self.set(&record.client_id, Some(Known { lasts: record.expiry_s > 0, is_away: !record.connected }));
        if let Some(next) = &self.next {
            next.record(sequence, record);
        }
    }

    fn page(&self, sequence: u64, client_id: &str, first_epoch: u64, number: u32, page: PageRecord) {
        self.counted.lock().paged.insert(proto_map::client_token(client_id));
        if let Some(next) = &self.next {
            next.page(sequence, client_id, first_epoch, number, page);
        }
    }

    fn gone(&self, client_id: &str, sequence: u64, why: Gone) {
        self.set(client_id, None);
        let had_pages = self.counted.lock().paged.remove(&proto_map::client_token(client_id));
        self.counted.lock().leaves_pages |= had_pages;
        if let Some(next) = &self.next {
            next.gone(client_id, sequence, why);
        }
    }

    fn caught_up(&self) {
        self.counted.lock().is_complete = true;
        if let Some(next) = &self.next {
            next.caught_up();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_are_counted_once_each() {
        let census = Census::new(None);
        let record = |client_id: &str, expiry_s, connected| {
            census.record(
                1,
                SessionRecord { client_id: client_id.to_owned(), expiry_s, connected, ..SessionRecord::default() },
            );
        };
        record("a", 60, true);
        record("a", 60, false);
        record("b", 0, true);
        assert_eq!(census.counts(), (1, 1));
        assert!(census.has_room_for("a", 1) && !census.has_room_for("b", 1) && !census.has_room_for("c", 1));
        record("b", 60, true);
        assert_eq!(census.counts(), (2, 1));
        assert!(census.has_room_for("c", 3));
        record("a", 0, true);
        census.gone("b", 2, Gone::Expired);
        census.gone("b", 3, Gone::Cleaned);
        assert_eq!(census.counts(), (0, 0));
        assert!(!census.is_empty(), "there are others");
        census.gone("a", 4, Gone::Cleaned);
        assert!(!census.is_empty(), "not all of them are read");
        census.caught_up();
        assert!(census.is_empty());
    }
}
