//! Keys that are written by compare-and-swap, as in a bucket of JetStream.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::link::{Link, LinkState};
use crate::store::error::{Unavailable, WriteError};
use crate::store::sessions::Arrival;

/// How long a marker stays that the server leaves in the place of what has reached its end of life, seconds.
const EXPIRED_TTL_S: u32 = 3_600;

/// Names a write: whose it is, and which of theirs.
pub(super) type WriteId = (u64, u64);

/// What stands under a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Content<V> {
    Value(V),
    Expired,
    Deleted,
    Cleaned,
}

/// What a write waits for.
#[derive(Clone, Debug)]
pub(super) enum Fence<K> {
    /// The key itself has this sequence; 0: nothing is there.
    Own(u64),
    /// Another key has.
    Of(K, u64),
}

#[derive(Clone, Debug)]
pub(super) struct Write<K, V> {
    pub(super) key: K,
    pub(super) content: Content<V>,
    pub(super) fence: Fence<K>,
    pub(super) ttl_s: Option<u32>,
    pub(super) id: WriteId,
}

#[derive(Clone, Debug)]
pub(super) struct Cell<V> {
    pub(super) sequence: u64,
    pub(super) content: Content<V>,
    pub(super) id: WriteId,
    ends: Option<Instant>,
}

#[derive(Debug)]
struct State<K, V> {
    cells: HashMap<K, Cell<V>>,
    last: u64,
    /// What is on its way.
    held: Vec<Write<K, V>>,
}

#[derive(Debug)]
pub(super) struct Table<K, V>(Mutex<State<K, V>>);

impl<K, V> Default for Table<K, V> {
    fn default() -> Self {
        Self(Mutex::new(State { cells: HashMap::new(), last: 0, held: Vec::new() }))
    }
}

impl<K: Clone + Eq + Hash, V: Clone> Table<K, V> {
    /// What stands there.
    pub(super) async fn last(&self, link: &Link, key: &K) -> Result<Option<Cell<V>>, Unavailable> {
        link.reads().await?;
        Ok(self.at(key))
    }

    /// The values that are there.
    pub(super) fn values(&self) -> Vec<(K, V)> {
        let mut state = self.0.lock();
        state.expire();
        let value = |(key, cell): (&K, &Cell<V>)| match &cell.content {
            Content::Value(value) => Some((key.clone(), value.clone())),
            Content::Expired | Content::Deleted | Content::Cleaned => None,
        };
        state.cells.iter().filter_map(value).collect()
    }

    /// Writes; tries again while that can help, and says whether an attempt may arrive again.
    pub(super) async fn write(
        &self,
        link: &Link,
        write: &Write<K, V>,
        deadline: Instant,
    ) -> (Result<u64, WriteError>, Arrival) {
        let mut arrival = Arrival::Once;
        link.pass();
        loop {
            match link.state() {
                LinkState::Up => return (self.answer(write), arrival),
                LinkState::Down => {}
                LinkState::Deaf => {
                    _ = self.0.lock().apply(write);
                    arrival = Arrival::Again;
                }
                LinkState::Held => {
                    self.0.lock().held.push(write.clone());
                    arrival = Arrival::Again;
                }
            }
            if !link.comes_up_by(deadline).await {
                return (Err(WriteError::Unavailable { reason: "no answer".to_owned() }), arrival);
            }
        }
    }

    /// Removes keys without a trace.
    pub(super) fn purge(&self, is_purged: impl Fn(&K) -> bool) {
        self.0.lock().cells.retain(|key, _| !is_purged(key));
    }

    pub(super) fn has_held(&self) -> bool {
        !self.0.lock().held.is_empty()
    }

    /// What is on its way arrives.
    pub(super) fn release(&self) {
        let mut state = self.0.lock();
        for write in std::mem::take(&mut state.held) {
            _ = state.apply(&write);
        }
    }

    fn at(&self, key: &K) -> Option<Cell<V>> {
        let mut state = self.0.lock();
        state.expire();
        state.cells.get(key).cloned()
    }

    fn answer(&self, write: &Write<K, V>) -> Result<u64, WriteError> {
        let mut state = self.0.lock();
        match state.apply(write) {
            Some(sequence) => Ok(sequence),
            // Perhaps it is this one that stands there, and its acknowledgement was lost.
            None => match state.cells.get(&write.key) {
                Some(cell) if matches!(write.fence, Fence::Own(_)) && cell.id == write.id => Ok(cell.sequence),
                _ => Err(WriteError::Fenced),
            },
        }
    }
}

impl<K: Clone + Eq + Hash, V: Clone> State<K, V> {
    /// Does one attempt. `None`: something else is there than was expected.
    fn apply(&mut self, write: &Write<K, V>) -> Option<u64> {
        self.expire();
        let (key, expected) = match &write.fence {
            Fence::Own(expected) => (&write.key, *expected),
            Fence::Of(key, expected) => (key, *expected),
        };
        let is_there = self.cells.get(key).map_or(0, |cell| cell.sequence);
        if expected != is_there {
            return None;
        }
        self.last += 1;
        let (sequence, content, id) = (self.last, write.content.clone(), write.id);
        let ends = write.ttl_s.map(|ttl_s| Instant::now() + Duration::from_secs(ttl_s.max(1).into()));
        self.cells.insert(write.key.clone(), Cell { sequence, content, id, ends });
        Some(sequence)
    }

    fn expire(&mut self) {
        let now = Instant::now();
        let is_over = |cell: &Cell<V>| cell.ends.is_some_and(|ends| ends <= now);
        self.cells.retain(|_, cell| !is_over(cell) || matches!(cell.content, Content::Value(_)));
        for cell in self.cells.values_mut().filter(|cell| is_over(cell)) {
            self.last += 1;
            let ends = Some(now + Duration::from_secs(EXPIRED_TTL_S.into()));
            *cell = Cell { sequence: self.last, content: Content::Expired, id: (0, 0), ends };
        }
    }
}

/// The name of a write that no other one has.
pub(super) fn new_write_id() -> WriteId {
    (rand::random(), 0)
}
