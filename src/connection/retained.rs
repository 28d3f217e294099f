//! Retained messages that a connection owes its client: one subscription after the other, in the order in which they were
//! made, each in the order of the topics. How far it is belongs to the progress of the session.

use std::collections::{HashSet, VecDeque};

use mqtt_codec::{TopicFilter, TopicName};

use crate::account::{Account, Outgoing, RetainedCursor, RetainedNumber, Rights};
use crate::store::{RetainedProgress, StoredRetained, StoredSubscription};

/// How far the client is with what it is owed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Place {
    /// Of the last subscription that was begun with.
    number: RetainedNumber,
    /// The last topic of it that was taken; `None` when all was.
    after: Option<TopicName>,
}

/// What is owed. Most connections owe nothing, and have room for a pointer then.
#[derive(Debug, Default)]
pub(super) struct PendingRetained(Option<Box<Pending>>);

#[derive(Debug, Default)]
struct Pending {
    cursors: VecDeque<RetainedCursor>,
    /// The next messages of the first cursor.
    page: VecDeque<Outgoing>,
    /// Nothing of the first cursor is behind the page.
    is_last_page: bool,
    place: Place,
    /// Where a save that is under way says that we are.
    saving: Place,
    /// Everything of the subscriptions up to this one is taken, and that is saved.
    saved: RetainedNumber,
    last_number: RetainedNumber,
    /// Topics of the index that may still be looked at in this turn of the connection.
    looks: usize,
}

/// Topics of the index that are looked at in one turn of the connection, before others have theirs.
const LOOKS: usize = 1_024;

impl PendingRetained {
    /// Goes on where the session was.
    pub(super) fn resume<'a>(
        progress: RetainedProgress,
        subscriptions: impl Iterator<Item = &'a StoredSubscription>,
    ) -> Self {
        let pending = Pending::resume(progress, subscriptions);
        let is_new = pending.last_number == RetainedNumber::default() && pending.place == Place::default();
        Self((!is_new).then(|| Box::new(pending)))
    }

    /// More is owed.
    pub(super) fn add(&mut self, cursors: Vec<RetainedCursor>) {
        if !cursors.is_empty() {
            self.needed().cursors.extend(cursors);
        }
    }

    fn needed(&mut self) -> &mut Pending {
        self.0.get_or_insert_with(|| Box::new(Pending { looks: LOOKS, ..Pending::default() }))
    }

    /// Numbers what a subscription is owed that goes on with its session, which is written into the record.
    pub(super) fn number(&mut self, cursor: &mut RetainedCursor) -> StoredRetained {
        self.needed().number(cursor)
    }

    /// A turn of the connection begins.
    pub(super) fn begin_turn(&mut self) {
        if let Some(pending) = &mut self.0 {
            pending.looks = LOOKS;
        }
    }

    /// Whether the next message was not found in this turn, and is to be looked for in the next one.
    pub(super) fn is_searching(&self) -> bool {
        self.0.as_ref().is_some_and(|pending| pending.is_searching())
    }

    /// The next message, unless it is not found in this turn.
    pub(super) fn front(&mut self, account: &Account, rights: &Rights) -> Option<&Outgoing> {
        self.0.as_mut()?.front(account, rights)
    }

    /// Takes the next message, which the client will have got as far as the session's progress says.
    pub(super) fn take(&mut self) -> Option<Outgoing> {
        self.0.as_mut()?.take()
    }

    /// Subscriptions end, and nothing more of them comes [MQTT-3.10.4-2].
    pub(super) fn forget<'a>(&mut self, filters: impl Iterator<Item = &'a TopicFilter>) {
        if let Some(pending) = &mut self.0 {
            pending.forget(filters);
        }
    }

    /// Whether something was taken to its end that is not saved yet.
    pub(super) fn is_unsaved(&self) -> bool {
        self.0.as_ref().is_some_and(|pending| pending.place != pending.saving)
    }

    /// How far it is, for a save that begins now.
    pub(super) fn begin_save(&mut self) -> RetainedProgress {
        if let Some(pending) = &mut self.0 {
            pending.saving = pending.place.clone();
        }
        self.progress()
    }

    /// That save is done.
    pub(super) fn end_save(&mut self) {
        if let Some(pending) = &mut self.0 {
            pending.end_save();
        }
    }

    /// How far it is.
    pub(super) fn progress(&self) -> RetainedProgress {
        let place = self.0.as_ref().map(|pending| pending.place.clone()).unwrap_or_default();
        RetainedProgress { number: place.number.0, after: place.after.as_ref().map(ToString::to_string) }
    }

    /// Whether what a record says a subscription is owed is done with, and need not stand there any more.
    pub(super) fn is_done(&self, owed: StoredRetained) -> bool {
        owed.number <= self.0.as_ref().map_or(0, |pending| pending.saved.0)
    }
}

impl Pending {
    fn resume<'a>(progress: RetainedProgress, subscriptions: impl Iterator<Item = &'a StoredSubscription>) -> Self {
        let RetainedProgress { number, after } = progress;
        let numbers = subscriptions.filter_map(|s| s.retained.map(|retained| retained.number));
        let last_number = RetainedNumber(numbers.fold(number, u64::max));
        let place = Place { number: RetainedNumber(number), after: after.and_then(|topic| TopicName::new(topic).ok()) };
        Self { place, last_number, ..Self::default() }
    }

    fn number(&mut self, cursor: &mut RetainedCursor) -> StoredRetained {
        self.last_number.0 = self.last_number.0.saturating_add(1);
        cursor.number = self.last_number;
        StoredRetained { number: cursor.number.0, up_to: cursor.up_to.0 }
    }

    fn is_searching(&self) -> bool {
        self.looks == 0 && self.page.is_empty() && !self.cursors.is_empty()
    }

    fn front(&mut self, account: &Account, rights: &Rights) -> Option<&Outgoing> {
        while self.page.is_empty() {
            if self.is_last_page {
                self.finish_first();
            }
            let cursor = self.cursors.front_mut()?;
            if self.looks == 0 {
                return None;
            }
            self.looks -= 1;
            self.is_last_page = !account.retained_page(cursor, rights, &mut self.looks, &mut self.page);
        }
        self.page.front()
    }

    fn take(&mut self) -> Option<Outgoing> {
        let outgoing = self.page.pop_front()?;
        let number = self.cursors.front().map_or_else(RetainedNumber::default, |cursor| cursor.number);
        if number > RetainedNumber(0) {
            self.place = Place { number, after: Some(outgoing.message.topic.clone()) };
        }
        Some(outgoing)
    }

    fn forget<'a>(&mut self, filters: impl Iterator<Item = &'a TopicFilter>) {
        if self.cursors.is_empty() {
            return;
        }
        let filters: HashSet<&TopicFilter> = filters.collect();
        if self.cursors.front().is_some_and(|first| filters.contains(&first.filter)) {
            self.page.clear();
            self.finish_first();
        }
        self.cursors.retain(|cursor| !filters.contains(&cursor.filter));
    }

    /// What a record says may be anything.
    fn end_save(&mut self) {
        self.saved = RetainedNumber(self.saving.number.0.saturating_sub(u64::from(self.saving.after.is_some())));
    }

    fn finish_first(&mut self) {
        self.is_last_page = false;
        if let Some(cursor) = self.cursors.pop_front().filter(|cursor| cursor.number > RetainedNumber(0)) {
            self.place = Place { number: cursor.number, after: None };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_with_numbers_of_somebody_elses_making_ends_nothing() {
        for (number, after, expected) in [
            (3, None, 3),
            (3, Some("a"), 2),
            (0, Some("a"), 0),
            (u64::MAX, None, u64::MAX),
            (u64::MAX, Some("a"), u64::MAX - 1),
        ] {
            let progress = RetainedProgress { number, after: after.map(str::to_owned) };
            let mut pending = PendingRetained::resume(progress.clone(), std::iter::empty());
            assert_eq!(pending.begin_save(), progress);
            pending.end_save();
            let saved = pending.0.map(|pending| pending.saved);
            assert_eq!(saved, Some(RetainedNumber(expected)), "{number} {after:?}");
        }
    }
}
