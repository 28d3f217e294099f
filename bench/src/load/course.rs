//! What all clients of a load share: how far it has come, and who waits for room.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout};

use super::plan::Load;

/// What the topics of a load begin with.
pub(super) const PREFIX: &str = "bench/load";

/// For how long nothing has to come of a full window until it is given up.
const GIVE_UP: Duration = Duration::from_secs(1);

/// How far a load has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    /// Messages flow, and nothing counts yet.
    WarmingUp,
    /// Messages flow and count.
    Counting,
    /// Nothing new is published.
    Draining,
    /// Clients leave.
    End,
}

/// A load that runs.
pub(super) struct Course {
    pub(super) load: Load,
    pub(super) payload: usize,
    /// When it began; the clock of all stamps.
    begin: Instant,
    phase: watch::Sender<Phase>,
    /// Messages that have reached a subscriber, each one once.
    pub(super) delivered: AtomicU64,
    pub(super) connections_lost: AtomicU64,
    /// For each publisher.
    pub(super) lanes: Vec<Lane>,
}

impl Course {
    pub(super) fn new(load: Load, payload: usize) -> Self {
        let lanes = (0..load.publishers).map(|_| Lane::new(&load)).collect();
        Self {
            load,
            payload: payload.max(Stamp::LEN),
            begin: Instant::now(),
            phase: watch::channel(Phase::WarmingUp).0,
            delivered: AtomicU64::new(0),
            connections_lost: AtomicU64::new(0),
            lanes,
        }
    }

    /// Nanoseconds since it began.
    pub(super) fn now(&self) -> u64 {
        self.begin.elapsed().as_nanos() as u64
    }

    /// When that is for a timer.
    pub(super) fn instant(&self, at: u64) -> Instant {
        self.begin + Duration::from_nanos(at)
    }

    pub(super) fn enter(&self, phase: Phase) {
        self.phase.send_replace(phase);
    }

    pub(super) fn phase(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    pub(super) fn connection_lost(&self) {
        if *self.phase.borrow() < Phase::End {
            self.connections_lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn published(&self) -> u64 {
        self.lanes.iter().map(|lane| lane.published.load(Ordering::SeqCst)).sum()
    }

    /// Grows as long as anything happens.
    pub(super) fn progress(&self) -> u64 {
        let acknowledged: u64 = self.lanes.iter().map(|lane| lane.acknowledged.load(Ordering::Relaxed)).sum();
        self.delivered.load(Ordering::Relaxed) + acknowledged
    }

    /// Deliveries that have not taken place.
    pub(super) fn lost(&self) -> u64 {
        (self.published() * self.load.fan_out()).saturating_sub(self.delivered.load(Ordering::Relaxed))
    }

    pub(super) fn is_complete(&self) -> bool {
        let is_acknowledged = |lane: &Lane| {
            self.load.qos == 0 || lane.acknowledged.load(Ordering::Relaxed) >= lane.published.load(Ordering::SeqCst)
        };
        self.lost() == 0 && self.lanes.iter().all(is_acknowledged)
    }
}

/// What a publisher has sent, what of it has arrived, and whether it waits for that.
pub(super) struct Lane {
    window: u64,
    /// With fewer than these on their way, it is worth going on.
    resume_at: u64,
    fan_out: u64,
    pub(super) published: AtomicU64,
    pub(super) acknowledged: AtomicU64,
    /// At all subscribers together.
    delivered: AtomicU64,
    /// Of those that were sent, how many nobody waits for any more.
    given_up: AtomicU64,
    is_waiting: AtomicBool,
    room: Notify,
}

impl Lane {
    fn new(load: &Load) -> Self {
        Self {
            window: load.window,
            resume_at: load.window - (load.window / 4).max(1),
            fan_out: load.fan_out(),
            published: AtomicU64::new(0),
            acknowledged: AtomicU64::new(0),
            delivered: AtomicU64::new(0),
            given_up: AtomicU64::new(0),
            is_waiting: AtomicBool::new(false),
            room: Notify::new(),
        }
    }

    /// Messages that are on their way, to all subscribers on average.
    fn under_way(&self) -> u64 {
        let arrived = self.delivered.load(Ordering::SeqCst) / self.fan_out + self.given_up.load(Ordering::SeqCst);
        self.published.load(Ordering::SeqCst).saturating_sub(arrived)
    }

    /// Whether one more may be sent. When not, the publisher is woken as soon as it is worth going on.
    pub(super) fn has_room(&self) -> bool {
        if self.under_way() < self.window {
            return true;
        }
        self.is_waiting.store(true, Ordering::SeqCst);
        // What has come since we looked has not seen that somebody waits.
        self.under_way() <= self.resume_at
    }

    /// Waits for room. When nothing has come for [`GIVE_UP`], what is on its way counts as lost and leaves its room.
    pub(super) async fn wait_for_room(&self) {
        let before = self.under_way();
        let is_woken = timeout(GIVE_UP, self.room.notified()).await.is_ok();
        if !is_woken && self.under_way() == before {
            self.given_up.fetch_add(before, Ordering::SeqCst);
        }
    }

    /// A message has reached one of the subscribers.
    pub(super) fn deliver(&self) {
        self.delivered.fetch_add(1, Ordering::SeqCst);
        if self.is_waiting.load(Ordering::SeqCst) && self.under_way() <= self.resume_at {
            self.is_waiting.store(false, Ordering::SeqCst);
            self.room.notify_one();
        }
    }
}

/// What a message says of itself, at the beginning of its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) publisher: u32,
    pub(super) number: u32,
    /// When it was sent, by the course's clock.
    pub(super) sent: u64,
}

impl Stamp {
    const LEN: usize = 16;

    pub(super) fn write(self, payload: &mut [u8]) {
        payload[0..4].copy_from_slice(&self.publisher.to_le_bytes());
        payload[4..8].copy_from_slice(&self.number.to_le_bytes());
        payload[8..16].copy_from_slice(&self.sent.to_le_bytes());
    }

    pub(super) fn read(payload: &[u8]) -> Option<Self> {
        let (publisher, rest) = payload.split_first_chunk()?;
        let (number, rest) = rest.split_first_chunk()?;
        let (sent, _) = rest.split_first_chunk()?;
        let (publisher, number) = (u32::from_le_bytes(*publisher), u32::from_le_bytes(*number));
        Some(Self { publisher, number, sent: u64::from_le_bytes(*sent) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Judged;

    fn lane(window: u64, subscribers: usize) -> Lane {
        let (in_flight, rate, judged, is_durable) = (1, None, Judged::Throughput, false);
        Lane::new(&Load { qos: 0, publishers: 1, subscribers, in_flight, window, rate, judged, is_durable })
    }

    #[test]
    fn a_stamp_is_read_as_it_was_written() {
        let stamp = Stamp { publisher: 3, number: 70_000, sent: u64::MAX - 1 };
        let mut payload = [0; 20];
        stamp.write(&mut payload);
        assert_eq!(Stamp::read(&payload), Some(stamp));
        assert_eq!(Stamp::read(&payload[..15]), None);
    }

    #[tokio::test]
    async fn who_waits_for_room_is_woken_when_a_quarter_of_the_window_is_free() {
        let lane = lane(8, 2);
        lane.published.store(8, Ordering::SeqCst);
        assert!(!lane.has_room());
        (0..3).for_each(|_| lane.deliver());
        assert!(lane.is_waiting.load(Ordering::SeqCst), "one and a half of eight have come");
        lane.deliver();
        lane.wait_for_room().await;
        assert_eq!((lane.under_way(), lane.has_room()), (6, true));
    }

    #[tokio::test(start_paused = true)]
    async fn what_does_not_come_is_given_up_and_takes_no_room() {
        let lane = lane(2, 1);
        lane.published.store(2, Ordering::SeqCst);
        assert!(!lane.has_room());
        lane.wait_for_room().await;
        assert_eq!((lane.under_way(), lane.has_room()), (0, true));
        // It came after all.
        lane.deliver();
        assert_eq!((lane.under_way(), lane.has_room()), (0, true));
    }
}
