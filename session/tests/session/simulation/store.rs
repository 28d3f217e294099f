//! The store of sessions: who owns which, and its progress. Whoever claimed last is the owner; nobody else writes.

use mqtt_session::Progress;

#[derive(Clone, Debug, Default)]
struct Record {
    epoch: u64,
    progress: Progress,
}

#[derive(Debug)]
pub(crate) struct Store(Vec<Record>);

impl Store {
    pub(crate) fn new(clients: usize) -> Self {
        Self(vec![Record::default(); clients])
    }

    pub(crate) fn epoch(&self, client: usize) -> u64 {
        self.0[client].epoch
    }

    /// A new owner: its epoch, and the progress that the last one saved.
    pub(crate) fn claim(&mut self, client: usize) -> (u64, Progress) {
        let record = &mut self.0[client];
        record.epoch += 1;
        (record.epoch, record.progress.clone())
    }

    /// False: refused, since another one owns the session.
    pub(crate) fn save(&mut self, client: usize, epoch: u64, progress: &Progress) -> bool {
        let record = &mut self.0[client];
        let is_owner = record.epoch == epoch;
        if is_owner {
            record.progress = progress.clone();
        }
        is_owner
    }
}
