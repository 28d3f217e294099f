//! A subscriber under load: acknowledges what comes, and keeps account of what came, how late, and in which order.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Buf;

use super::course::{Course, Phase, Stamp};
use crate::client::Client;
use crate::histogram::Histogram;
use crate::wire::{self, Malformed, Received};

/// How much is read at once at most, and how much room there is for it at least.
const READ_ROOM: usize = 64 * 1024;
const READ_ROOM_MIN: usize = 16 * 1024;

/// What a subscriber has seen.
#[derive(Debug)]
pub(super) struct Subscribed {
    /// From the publish to here, of what came while it counted.
    pub(super) latencies: Histogram,
    pub(super) duplicates: u64,
    pub(super) reordered: u64,
    /// Messages that nobody of this load has published.
    pub(super) foreign: u64,
}

/// Which messages of one publisher have come.
#[derive(Debug, Default)]
struct Seen {
    /// Above all that have come.
    next: u32,
    /// Below that, and not come.
    missing: HashSet<u32>,
}

/// What a message is to who has seen others before it.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    InOrder,
    Late,
    Twice,
}

impl Seen {
    fn place(&mut self, number: u32) -> Place {
        if number >= self.next {
            self.missing.extend(self.next..number);
            self.next = number + 1;
            Place::InOrder
        } else if self.missing.remove(&number) {
            Place::Late
        } else {
            Place::Twice
        }
    }
}

struct Subscriber {
    course: Arc<Course>,
    client: Client,
    seen: HashMap<u32, Seen>,
    /// Packet ids of QoS 2 messages that are not released.
    unreleased: HashSet<u16>,
    result: Subscribed,
}

/// Receives until the load ends.
pub(super) async fn run(course: Arc<Course>, client: Client) -> Subscribed {
    let result = Subscribed { latencies: Histogram::new(), duplicates: 0, reordered: 0, foreign: 0 };
    let mut subscriber = Subscriber { course, client, seen: HashMap::new(), unreleased: HashSet::new(), result };
    let mut phase = subscriber.course.phase();
    loop {
        let now = *phase.borrow_and_update();
        if now == Phase::End || subscriber.take(now == Phase::Counting).is_err() {
            break;
        }
        if subscriber.client.input.capacity() - subscriber.client.input.len() < READ_ROOM_MIN {
            subscriber.client.input.reserve(READ_ROOM);
        }
        let moved = tokio::select! {
            moved = subscriber.client.move_bytes() => moved,
            _ = phase.changed() => true,
        };
        if !moved {
            break;
        }
    }
    subscriber.course.connection_lost();
    let _ = subscriber.client.disconnect().await;
    subscriber.result
}

impl Subscriber {
    /// Handles all packets that are there.
    fn take(&mut self, is_counting: bool) -> Result<(), Malformed> {
        let input = std::mem::take(&mut self.client.input);
        let now = self.course.now();
        let (mut used, mut delivered) = (0, 0);
        while let Some(frame) = wire::frame(&input[used..])? {
            let body = &input[used + frame.body.start..used + frame.body.end];
            match frame.kind() {
                wire::PUBLISH => {
                    let message = wire::publish_of(self.client.version, frame.first, body)?;
                    delivered += u64::from(self.message(message, now, is_counting));
                }
                wire::PUBREL => {
                    let (packet_id, _) = wire::acknowledgement_of(body)?;
                    self.unreleased.remove(&packet_id);
                    wire::put_acknowledgement(&mut self.client.output, wire::PUBCOMP, packet_id);
                }
                wire::DISCONNECT => return Err(Malformed),
                _ => {}
            }
            used += frame.body.end;
        }
        self.client.input = input;
        self.client.input.advance(used);
        self.course.delivered.fetch_add(delivered, Ordering::Relaxed);
        Ok(())
    }

    /// Whether a message is one of ours, for the first time.
    fn message(&mut self, message: Received<'_>, now: u64, is_counting: bool) -> bool {
        let output = &mut self.client.output;
        match message.qos {
            1 => wire::put_acknowledgement(output, wire::PUBACK, message.packet_id),
            2 => {
                wire::put_acknowledgement(output, wire::PUBREC, message.packet_id);
                if !self.unreleased.insert(message.packet_id) {
                    return false;
                }
            }
            _ => {}
        }
        let stamp = Stamp::read(message.payload).filter(|stamp| stamp.sent <= now);
        let Some((stamp, lane)) =
            stamp.and_then(|stamp| Some((stamp, self.course.lanes.get(stamp.publisher as usize)?)))
        else {
            self.result.foreign += 1;
            return false;
        };
        match self.seen.entry(stamp.publisher).or_default().place(stamp.number) {
            Place::InOrder => {}
            Place::Late => self.result.reordered += 1,
            Place::Twice => {
                self.result.duplicates += 1;
                return false;
            }
        }
        lane.deliver();
        if is_counting {
            self.result.latencies.add(now - stamp.sent);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_late_is_not_what_comes_twice() {
        let mut seen = Seen::default();
        let places: Vec<Place> = [0, 1, 4, 2, 2, 1, 3, 5].into_iter().map(|number| seen.place(number)).collect();
        use Place::{InOrder, Late, Twice};
        assert_eq!(places, [InOrder, InOrder, InOrder, Late, Twice, Twice, Late, InOrder]);
        assert!(seen.missing.is_empty());
    }
}
