//! A publisher under load: sends as long as window, acknowledgements and rate allow it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Buf;
use tokio::time::sleep_until;

use super::course::{Course, Lane, PREFIX, Phase, Stamp};
use crate::client::Client;
use crate::histogram::Histogram;
use crate::wire::{self, Malformed, Publish};

/// How many bytes are written ahead of the socket.
const OUTPUT_MAX: usize = 64 * 1024;

const READ_ROOM: usize = 16 * 1024;

/// What a publisher has seen.
#[derive(Debug)]
pub(super) struct Published {
    /// From a publish to its last acknowledgement, of those that came while it counted.
    pub(super) latencies: Histogram,
    pub(super) refused: u64,
}

/// What a publisher waits for, besides its socket.
#[derive(Debug, PartialEq, Eq)]
enum Wait {
    /// Acknowledgements, or room in the output.
    Socket,
    /// The time of the next message.
    Until(u64),
    /// That subscribers get what is on its way.
    Room,
}

struct Publisher {
    course: Arc<Course>,
    client: Client,
    number: u32,
    topic: String,
    payload: Vec<u8>,
    /// Messages that were sent.
    sent: u64,
    /// The broker has held it up since the last message that was sent in time. Then messages count from when they were due: who is
    /// late because of his own timer has only himself to blame, and they count from when they are sent.
    is_held_up: bool,
    /// Packet ids that are free.
    free: Vec<u16>,
    /// When the message of each packet id was sent.
    sent_at: Vec<Option<u64>>,
    pace: Option<Pace>,
    result: Published,
}

/// When each message is due.
#[derive(Clone, Copy, Debug)]
struct Pace {
    first: u64,
    interval_ns: f64,
}

impl Pace {
    /// Of `publishers` that send `rate` messages a second together, the one with this number: they take turns.
    fn new(rate: u32, publishers: usize, number: u32, now: u64) -> Self {
        let interval_ns = publishers as f64 * 1e9 / f64::from(rate);
        Self { first: now + (interval_ns * f64::from(number) / publishers as f64) as u64, interval_ns }
    }

    fn due(&self, message: u64) -> u64 {
        self.first + (message as f64 * self.interval_ns) as u64
    }
}

/// Publishes until the load drains, and stays until it ends.
pub(super) async fn run(course: Arc<Course>, client: Client, number: u32) -> Published {
    let mut publisher = Publisher::new(course, client, number);
    let mut phase = publisher.course.phase();
    loop {
        let now = *phase.borrow_and_update();
        if now == Phase::End || publisher.take(now == Phase::Counting).is_err() {
            break;
        }
        let wait = if now < Phase::Draining { publisher.fill() } else { Wait::Socket };
        let course = &publisher.course;
        let until = match wait {
            Wait::Until(at) => course.instant(at),
            Wait::Socket | Wait::Room => course.instant(0),
        };
        publisher.client.input.reserve(READ_ROOM);
        let is_idle = publisher.client.output.is_empty();
        let lane = &course.lanes[number as usize];
        let moved = tokio::select! {
            moved = publisher.client.move_bytes() => moved,
            () = sleep_until(until), if is_idle && matches!(wait, Wait::Until(_)) => true,
            () = lane.wait_for_room(), if is_idle && wait == Wait::Room => true,
            _ = phase.changed() => true,
        };
        if !moved {
            break;
        }
    }
    publisher.course.connection_lost();
    let _ = publisher.client.disconnect().await;
    publisher.result
}

impl Publisher {
    fn new(course: Arc<Course>, client: Client, number: u32) -> Self {
        let load = &course.load;
        let in_flight = load.in_flight.min(client.accepted.receive_max);
        let pace = load.rate.map(|rate| Pace::new(rate, load.publishers, number, course.now()));
        Self {
            client,
            number,
            topic: format!("{PREFIX}/{number}"),
            payload: vec![b'x'; course.payload],
            sent: 0,
            is_held_up: false,
            free: (1..=in_flight).rev().collect(),
            sent_at: vec![None; usize::from(in_flight) + 1],
            pace,
            result: Published { latencies: Histogram::new(), refused: 0 },
            course,
        }
    }

    /// Handles all acknowledgements that are there.
    fn take(&mut self, is_counting: bool) -> Result<(), Malformed> {
        let input = std::mem::take(&mut self.client.input);
        let mut used = 0;
        while let Some(frame) = wire::frame(&input[used..])? {
            let body = &input[used + frame.body.start..used + frame.body.end];
            match frame.kind() {
                kind @ (wire::PUBACK | wire::PUBREC | wire::PUBCOMP) => {
                    let (packet_id, code) = wire::acknowledgement_of(body)?;
                    let is_refused = code >= 0x80;
                    self.result.refused += u64::from(is_refused);
                    if kind == wire::PUBREC && !is_refused {
                        wire::put_acknowledgement(&mut self.client.output, wire::PUBREL, packet_id);
                    } else {
                        self.acknowledged(packet_id, is_counting);
                    }
                }
                wire::DISCONNECT => return Err(Malformed),
                _ => {}
            }
            used += frame.body.end;
        }
        self.client.input = input;
        self.client.input.advance(used);
        Ok(())
    }

    /// The exchange of a message is over.
    fn acknowledged(&mut self, packet_id: u16, is_counting: bool) {
        let Some(sent_at) = self.sent_at.get_mut(usize::from(packet_id)).and_then(Option::take) else { return };
        if is_counting {
            self.result.latencies.add(self.course.now().saturating_sub(sent_at));
        }
        self.lane().acknowledged.fetch_add(1, Ordering::Relaxed);
        self.free.push(packet_id);
    }

    /// Writes as many messages as may be sent now.
    fn fill(&mut self) -> Wait {
        let qos = self.course.load.qos;
        loop {
            let now = self.course.now();
            let due = self.pace.map_or(now, |pace| pace.due(self.sent));
            let is_full = qos > 0 && self.free.is_empty() || self.client.output.len() >= OUTPUT_MAX;
            if due > now {
                self.is_held_up = false;
                return Wait::Until(due);
            } else if is_full || !self.lane().has_room() {
                self.is_held_up = true;
                return if is_full { Wait::Socket } else { Wait::Room };
            }
            self.send(qos, if self.is_held_up { due } else { now });
        }
    }

    fn send(&mut self, qos: u8, at: u64) {
        let packet_id = if qos > 0 { self.free.pop().unwrap_or_default() } else { 0 };
        if let Some(sent_at) = self.sent_at.get_mut(usize::from(packet_id)) {
            *sent_at = Some(at);
        }
        Stamp { publisher: self.number, number: self.sent as u32, sent: at }.write(&mut self.payload);
        let publish = Publish { topic: &self.topic, qos, packet_id, retain: false, payload: &self.payload };
        wire::put_publish(&mut self.client.output, self.client.version, &publish);
        self.sent += 1;
        self.lane().published.store(self.sent, Ordering::SeqCst);
    }

    fn lane(&self) -> &Lane {
        &self.course.lanes[self.number as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn publishers_with_a_rate_take_turns() {
        let due = |number, message| Pace::new(1000, 4, number, 5_000_000).due(message) / 1000;
        assert_eq!([due(0, 0), due(1, 0), due(3, 0), due(0, 1), due(1, 1)], [5000, 6000, 8000, 9000, 10_000]);
    }
}
