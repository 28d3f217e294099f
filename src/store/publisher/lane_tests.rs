//! Scripts over the lane: what is sent, in which order, when streams and connections come and go.

use super::*;

fn drain(lane: &mut Lane<u32>, now: Instant) -> Vec<u32> {
    let mut sent = Vec::new();
    while let Some((_, item, _)) = lane.next_to_send(now) {
        sent.push(*item);
    }
    sent
}

fn filled(count: u32, now: Instant) -> Lane<u32> {
    let mut lane = Lane::new();
    for item in 0..count {
        assert_eq!(lane.push(item, now), u64::from(item));
    }
    lane
}

#[test]
fn an_open_lane_sends_everything_at_once_and_in_order() {
    let now = Instant::now();
    let mut lane = filled(4, now);
    assert_eq!(drain(&mut lane, now), [0, 1, 2, 3]);
    assert_eq!(lane.resolve(1), Some(1));
    assert_eq!(lane.resolve(1), None, "a second acknowledgement changes nothing");
    assert_eq!(lane.resolve(0), Some(0));
    assert_eq!(lane.push(4, now), 4);
    assert_eq!(drain(&mut lane, now), [4]);
    for number in 2..5 {
        assert!(lane.resolve(number).is_some());
    }
    assert!(lane.is_empty());
    assert_eq!(lane.resolve(99), None);
}

#[test]
fn a_new_connection_sends_the_first_alone_until_it_is_acknowledged() {
    let now = Instant::now();
    let mut lane = filled(3, now);
    drain(&mut lane, now);
    lane.resolve(1);
    lane.restart(now);
    lane.push(3, now);
    assert_eq!(drain(&mut lane, now), [0]);
    lane.resolve(0);
    assert!(lane.is_open());
    assert_eq!(drain(&mut lane, now), [2, 3]);
}

#[test]
fn a_refused_message_stops_its_successors_until_all_answers_are_in() {
    let now = Instant::now();
    let mut lane = filled(3, now);
    drain(&mut lane, now);
    lane.refuse(0, now);
    lane.push(3, now);
    assert_eq!(drain(&mut lane, now), [0; 0]);
    lane.refuse(1, now);
    lane.resolve(2);
    assert_eq!(drain(&mut lane, now), [0; 0], "a pause first");
    let now = now + PAUSE_MIN;
    assert_eq!(drain(&mut lane, now), [0]);
    lane.refuse(0, now);
    let now = now + PAUSE_MAX;
    assert_eq!(drain(&mut lane, now), [0]);
    lane.resolve(0);
    assert_eq!(drain(&mut lane, now), [1, 3]);
}

#[test]
fn silence_repeats_everything_from_the_first_and_is_counted() {
    let limit = Duration::from_secs(5);
    let now = Instant::now();
    let mut lane = filled(2, now);
    drain(&mut lane, now);
    assert_eq!(lane.check_silence(now + limit / 2, limit), 0);
    let now = now + limit;
    assert_eq!(lane.check_silence(now, limit), 0);
    let now = now + PAUSE_MAX;
    assert_eq!(drain(&mut lane, now), [0]);
    let now = now + limit;
    assert_eq!(lane.check_silence(now, limit), 1);
    assert_eq!(lane.resolve(0), Some(0), "an acknowledgement that is late is an acknowledgement");
    let now = now + PAUSE_MAX;
    assert_eq!(drain(&mut lane, now), [1]);
    lane.resolve(1);
    assert!(lane.is_open() && lane.is_empty());
}

#[test]
fn what_waits_too_long_is_given_up_with_its_reason() {
    let limit = Duration::from_secs(20);
    let now = Instant::now();
    let mut lane = filled(2, now);
    drain(&mut lane, now);
    lane.refuse(0, now);
    lane.push(2, now + limit / 2);
    let mut out = Vec::new();
    lane.give_up(now + limit, limit, &mut out);
    assert_eq!(out, [(0, GaveUp::NoStream), (1, GaveUp::Silence)]);
    let now = now + limit;
    assert_eq!(drain(&mut lane, now), [0; 0]);
    assert_eq!(drain(&mut lane, now + PAUSE_MAX), [2]);
}

#[test]
fn a_probe_that_is_given_up_makes_room_for_the_next() {
    let limit = Duration::from_secs(20);
    let now = Instant::now();
    let mut lane = filled(2, now);
    lane.restart(now);
    assert_eq!(drain(&mut lane, now), [0]);
    lane.push(2, now + limit);
    let mut out = Vec::new();
    lane.give_up(now + limit, limit, &mut out);
    assert_eq!(out.len(), 2);
    assert_eq!(drain(&mut lane, now + limit + PAUSE_MAX), [2]);
}

#[test]
fn what_the_connection_did_not_take_is_sent_next() {
    let now = Instant::now();
    let mut lane = filled(2, now);
    let (number, ..) = lane.next_to_send(now).unwrap();
    lane.unsend(number);
    assert_eq!(drain(&mut lane, now), [0, 1]);
}

#[test]
fn what_is_withdrawn_before_a_repeat_leaves_its_turn_to_the_next() {
    let now = Instant::now();
    let mut lane = filled(3, now);
    drain(&mut lane, now);
    lane.restart(now);
    let (number, _, is_repeat) = lane.next_to_send(now).unwrap();
    assert!(is_repeat);
    assert_eq!(lane.withdraw(number), Some(0));
    assert_eq!(drain(&mut lane, now), [1], "alone, like the first");
    lane.resolve(1);
    assert_eq!(drain(&mut lane, now), [2]);
}

/// A stream that comes and goes, connections that break, answers that are lost: whatever happens, the first occurrences of
/// what is stored are in order, and what was acknowledged is stored.
#[test]
fn first_occurrences_stay_in_order_through_random_faults() {
    for seed in 0..300_u64 {
        let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        let mut now = Instant::now();
        let mut lane = Lane::<u32>::new();
        let mut stored: Vec<u32> = Vec::new();
        let mut wire: VecDeque<(u64, u32)> = VecDeque::new();
        let mut stream_up = true;
        let mut next = 0;
        for _ in 0..600 {
            now += Duration::from_millis(random.below(40));
            match random.below(12) {
                0..=3 => {
                    lane.push(next, now);
                    next += 1;
                }
                4..=6 => {
                    while let Some((number, item, _)) = lane.next_to_send(now) {
                        wire.push_back((number, *item));
                    }
                }
                // The stream's answers. A single server does not lose what came before a message it stores.
                7..=9 => {
                    while let Some((number, item)) = wire.pop_front() {
                        if !stream_up {
                            lane.refuse(number, now);
                        } else {
                            stored.push(item);
                            if random.below(10) > 0 {
                                lane.resolve(number);
                            } else {
                                // The connection breaks between storing and acknowledging.
                                wire.clear();
                                lane.restart(now);
                            }
                        }
                        if random.below(4) == 0 {
                            break;
                        }
                    }
                }
                // It goes away only for a connection that starts anew, and may come back under way.
                10 if random.below(6) == 0 => {
                    stream_up = false;
                    wire.clear();
                    lane.restart(now);
                }
                _ => stream_up = true,
            }
        }
        let mut seen = Vec::new();
        for item in stored {
            if !seen.contains(&item) {
                seen.push(item);
            }
        }
        assert!(seen.is_sorted(), "seed {seed}: {seen:?}");
    }
}

struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 33) % limit
    }
}
