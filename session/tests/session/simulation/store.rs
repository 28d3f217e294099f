//! The store of sessions: who owns which, and its progress. Whoever claimed last is the owner; nobody else writes.

use mqtt_codec::{PacketId, QoS};
use mqtt_session::{InFlightState, Position, Progress};

#[derive(Clone, Debug, Default)]
struct Record {
    epoch: u64,
    progress: Progress,
}

#[derive(Debug)]
pub(crate) struct Store(Vec<Record>);

impl Store {
    /// The sessions of these clients, each with the packet id that it used last: with a message in flight that nobody can
    /// find any more.
    pub(crate) fn new(last_ids: impl Iterator<Item = Option<PacketId>>) -> Self {
        let lost =
            |packet_id| InFlightState { packet_id, position: Position(0), qos: QoS::AtLeastOnce, is_released: false };
        let progress =
            |id: Option<PacketId>| Progress { in_flight: id.map(lost).into_iter().collect(), ..Progress::default() };
        Self(last_ids.map(|id| Record { epoch: 0, progress: progress(id) }).collect())
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
