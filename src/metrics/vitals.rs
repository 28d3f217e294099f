//! What only the parts of a sidecar themselves know, as it is at the moment when somebody asks. It is read from them, not kept
//! beside them: nothing has to be kept in step, and nothing ticks while nobody asks.

use std::fmt;
use std::sync::OnceLock;
use std::time::Duration;

use super::SessionState;
use crate::store::StreamRoom;

/// The state of the parts at one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Vitals {
    /// Sessions of connected clients, by how they are fed.
    pub(crate) sessions: [u64; SessionState::TEXTS.len()],
    /// Feeds that read a log again because they are behind its tail.
    pub(crate) feeds_behind: u64,
    /// Messages that JetStream has neither acknowledged nor refused.
    pub(crate) publishes: u64,
    /// How long the oldest of them waits.
    pub(crate) oldest_publish: Duration,
    /// Publishes that wait for their turn, because as many as may be are under way.
    pub(crate) permits_waiting: u64,
    /// How often one has waited.
    pub(crate) permits_waited: u64,
    /// How long nothing was heard of the tail that was last heard of longest ago.
    pub(crate) tail_silence: Duration,
    /// Messages that the tail has not read that has read least.
    pub(crate) tail_lag: u64,
    /// How long ago the last refresh of the lease was sent that was acknowledged; `None` without a lease.
    pub(crate) lease_age: Option<Duration>,
    /// QoS 0 messages that came from NATS and found no room.
    pub(crate) qos0_lost: u64,
    /// How often a connection was lost that brings QoS 0: nobody knows what would have come meanwhile.
    pub(crate) qos0_gaps: u64,
    /// The streams that are ours or were written into.
    pub(crate) streams: Vec<StreamRoom>,
}

impl Vitals {
    /// That of two accounts.
    pub(super) fn merged(mut self, other: Self) -> Self {
        self.sessions.iter_mut().zip(other.sessions).for_each(|(into, n)| *into += n);
        self.feeds_behind += other.feeds_behind;
        self.publishes += other.publishes;
        self.oldest_publish = self.oldest_publish.max(other.oldest_publish);
        self.permits_waiting += other.permits_waiting;
        self.permits_waited += other.permits_waited;
        self.tail_silence = self.tail_silence.max(other.tail_silence);
        self.tail_lag = self.tail_lag.max(other.tail_lag);
        self.lease_age = self.lease_age.max(other.lease_age);
        self.qos0_lost += other.qos0_lost;
        self.qos0_gaps += other.qos0_gaps;
        for room in other.streams {
            match self.streams.iter_mut().find(|have| have.stream == room.stream) {
                Some(have) => {
                    have.bytes = sum_of(have.bytes, room.bytes);
                    have.bytes_max = sum_of(have.bytes_max, room.bytes_max);
                    have.full = have.full.take().or(room.full);
                }
                None => self.streams.push(room),
            }
        }
        self
    }
}

fn sum_of(one: Option<u64>, other: Option<u64>) -> Option<u64> {
    one.into_iter().chain(other).reduce(|one, other| one + other)
}

type Read = Box<dyn Fn() -> Option<Vitals> + Send + Sync>;

/// Where they are read; nowhere before the parts are there.
#[derive(Default)]
pub(super) struct Source(OnceLock<Read>);

impl Source {
    /// There is one account, so the first one stays.
    pub(super) fn set(&self, read: Read) {
        let _ = self.0.set(read);
    }

    pub(super) fn read(&self) -> Option<Vitals> {
        self.0.get().and_then(|read| read())
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Source")
    }
}
