//! The log: appended messages with their sequences from 1, a window in which a message id is stored once, look-ups of an
//! id above a sequence, and a beginning that is discarded now and then.

use std::collections::BTreeMap;

use mqtt_codec::QoS;
use mqtt_session::MessageId;

/// One publish of a client, wherever it appears.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Letter {
    pub(crate) publisher: usize,
    pub(crate) number: u64,
    pub(crate) topic: u8,
    pub(crate) qos: QoS,
}

/// A message id with its client: unique for ever.
pub(crate) type Name = (usize, MessageId);

#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    pub(crate) letter: Letter,
    name: Option<Name>,
    /// First sequence of the log when it was appended.
    pub(crate) first: u64,
}

/// For how many steps a message id is not stored again. Everything that is on its way to the log arrives or is lost in
/// less.
const DUPLICATE_WINDOW: u64 = 1200;

#[derive(Debug, Default)]
pub(crate) struct Log {
    /// Since ever; the log itself begins at `first`.
    entries: Vec<Entry>,
    first: u64,
    recent: BTreeMap<(usize, u64, u64), u64>,
}

impl Log {
    pub(crate) fn append(&mut self, step: u64, letter: Letter, name: Option<Name>) {
        self.recent.retain(|_, since| *since + DUPLICATE_WINDOW > step);
        if let Some((client, id)) = name {
            let key = (client, id.epoch.0, id.number.0);
            if self.recent.contains_key(&key) {
                return;
            }
            self.recent.insert(key, step);
        }
        self.entries.push(Entry { letter, name, first: self.first });
    }

    pub(crate) fn last(&self) -> u64 {
        self.entries.len() as u64
    }

    /// The message with this sequence, unless it was discarded.
    pub(crate) fn get(&self, sequence: u64) -> Option<&Entry> {
        self.ever(sequence).filter(|_| sequence >= self.first)
    }

    pub(crate) fn ever(&self, sequence: u64) -> Option<&Entry> {
        self.entries.get(usize::try_from(sequence).unwrap().checked_sub(1)?)
    }

    pub(crate) fn contains(&self, name: Name, above: u64) -> bool {
        (above + 1..=self.last()).any(|s| self.get(s).is_some_and(|e| e.name == Some(name)))
    }

    pub(crate) fn discard_below(&mut self, first: u64) {
        self.first = self.first.max(first);
    }
}
