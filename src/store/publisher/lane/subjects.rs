//! What of each subject is not resolved.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::time::Instant;

use super::parts::Settling;

/// Queues of subjects that are kept for others, and how large one of them may be.
const SPARE_MAX: usize = 1_024;
const SPARE_CAPACITY_MAX: usize = 64;

/// The messages of one subject.
#[derive(Debug)]
pub(super) struct Subject {
    /// Ascending: first the ones that are sent, then those that are ready, then those that wait.
    pub(super) numbers: VecDeque<u64>,
    pub(super) sent: usize,
    pub(super) ready: usize,
    pub(super) volley_at: Instant,
    pub(super) settling: Option<Settling>,
    /// The newest of its messages that is known to have been stored, and its sequence, where the stream does not keep all.
    pub(super) stored: Option<(u64, u64)>,
}

impl Subject {
    const fn new(now: Instant, numbers: VecDeque<u64>) -> Self {
        Self { numbers, sent: 0, ready: 0, volley_at: now, settling: None, stored: None }
    }

    /// Whether some of it wait behind others.
    pub(super) fn has_waiting(&self) -> bool {
        self.numbers.len() > self.sent + self.ready
    }

    /// A message of it is resolved.
    pub(super) fn remove(&mut self, number: u64) {
        if self.numbers.front() == Some(&number) {
            self.numbers.pop_front();
        } else if let Ok(index) = self.numbers.binary_search(&number) {
            self.numbers.remove(index);
        }
    }
}

/// All subjects that have messages, by what stands for them.
#[derive(Debug, Default)]
pub(super) struct Subjects {
    map: HashMap<u64, Subject, BuildHasherDefault<Plain>>,
    /// Memory of subjects that are done with.
    spare: Vec<VecDeque<u64>>,
}

impl Subjects {
    pub(super) fn get(&self, key: u64) -> Option<&Subject> {
        self.map.get(&key)
    }

    pub(super) fn get_mut(&mut self, key: u64) -> Option<&mut Subject> {
        self.map.get_mut(&key)
    }

    pub(super) fn get_or_begin(&mut self, key: u64, now: Instant) -> &mut Subject {
        let Self { map, spare } = self;
        map.entry(key).or_insert_with(|| Subject::new(now, spare.pop().unwrap_or_default()))
    }

    /// Nothing of a subject is left; how far it was in doubt. Most subjects have one message at a time: their next one finds the
    /// memory of the last.
    pub(super) fn forget(&mut self, key: u64) -> Option<Settling> {
        let Subject { mut numbers, settling, .. } = self.map.remove(&key)?;
        if self.spare.len() < SPARE_MAX && numbers.capacity() <= SPARE_CAPACITY_MAX {
            numbers.clear();
            self.spare.push(numbers);
        }
        settling
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (u64, &mut Subject)> {
        self.map.iter_mut().map(|(key, subject)| (*key, subject))
    }

    /// Those in doubt.
    pub(super) fn settling(&self) -> impl Iterator<Item = Settling> {
        self.map.values().filter_map(|subject| subject.settling)
    }
}

/// Keys are hashes already.
#[derive(Clone, Copy, Debug, Default)]
struct Plain(u64);

impl Hasher for Plain {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, key: u64) {
        self.0 = key;
    }
}
