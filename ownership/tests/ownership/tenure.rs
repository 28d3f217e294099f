//! The leases of nodes over a server that lets them expire, stands still, loses answers and gets requests late, while processes
//! stop for whatever long and go on. Every step is a moment, drawn at random.

use std::time::Duration;

use mqtt_ownership::{Found, PutNumber, Revision, Standing, Tenure, TenureInput, TenureStep, TenureTimes};

use super::random::Random;

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn whole_ms(moment: Duration) -> u64 {
    u64::try_from(moment.as_millis()).unwrap_or(u64::MAX)
}

const TTL_MS: u64 = 25_000;
const TIMES: TenureTimes = TenureTimes {
    refresh_every: ms(4_000),
    fence_after: ms(20_000),
    give_up_after: ms(60_000),
    settle: ms(9_000),
    is_taken_again: true,
};
/// How long an answer is waited for.
const ANSWER_WITHIN_MS: u64 = 1_000;
/// The longest pause between tries, and what a connection takes that has to be made again.
const PAUSE_MAX_MS: u64 = 2_000;
const STEPS: usize = 3_000;

/// A lease at the server: whose it is, and the number of the put.
#[derive(Clone, Copy, Debug)]
struct Stored {
    revision: u64,
    put: Option<(usize, u64)>,
    expires_at: u64,
}

#[derive(Clone, Copy, Debug)]
struct Request {
    node: usize,
    question: u64,
    /// What is put and expected, or a look.
    put: Option<(Revision, u64)>,
    arrives_at: u64,
}

struct Node {
    tenure: Tenure,
    /// The name that it has.
    name: usize,
    question: u64,
    until: u64,
    is_asking: bool,
    answer: Option<(u64, TenureInput)>,
    stopped_until: u64,
    /// Its gaps when somebody saw that its lease had ended.
    seen_ended: Option<u32>,
    gaps: u32,
    /// When the last put was sent whose answer came.
    answered_sent: u64,
    sent: u64,
}

struct World {
    random: Random,
    now: u64,
    revision: u64,
    names: Vec<Stored>,
    nodes: Vec<Node>,
    requests: Vec<Request>,
    stalled_until: u64,
    /// Answers that are lost, of a hundred.
    lost: u64,
    /// Requests that arrive late, of a hundred.
    late: u64,
    /// Whether processes stop.
    stops: bool,
    /// Two processes have one name.
    is_shared: bool,
    /// Nothing breaks but the server, which stands still.
    only_stalls: bool,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let only_stalls = random.percent(30);
        let (lost, late) = if only_stalls { (0, 0) } else { (random.below(30), random.below(10)) };
        let [stops, is_shared] = [50, 10].map(|percent| !only_stalls && random.percent(percent));
        let mut world = Self {
            random,
            now: 1_000_000,
            revision: 10,
            names: Vec::new(),
            nodes: Vec::new(),
            requests: Vec::new(),
            stalled_until: 0,
            lost,
            late,
            stops,
            is_shared,
            only_stalls,
        };
        for node in 0..2 {
            let name = if is_shared { 0 } else { node };
            world.revision += 1;
            let stored = Stored { revision: world.revision, put: Some((node, 0)), expires_at: world.now + TTL_MS };
            if name == world.names.len() {
                world.names.push(stored);
            } else {
                world.names[name] = stored;
            }
            let tenure = Tenure::new(TIMES, Revision(world.revision), ms(world.now), ms(world.now));
            let TenureStep::Wait(until) = tenure.begin() else { unreachable!("it waits first") };
            world.nodes.push(Node {
                tenure,
                name,
                question: 0,
                until: whole_ms(until),
                is_asking: false,
                answer: None,
                stopped_until: 0,
                seen_ended: None,
                gaps: 0,
                answered_sent: world.now,
                sent: world.now,
            });
        }
        world
    }

    fn step(&mut self, breaks: bool) {
        self.now += self.random.below(400) + 1;
        if breaks && self.random.below(300) == 0 {
            self.stalled_until = self.now + self.random.below(50_000);
        }
        if breaks && self.stops && self.random.below(300) == 0 {
            let node = self.random.index(self.nodes.len());
            self.nodes[node].stopped_until = self.now + self.random.below(80_000);
        }
        if self.now >= self.stalled_until {
            // What lies in sockets is read in whatever order with what is over by then.
            if self.random.percent(50) {
                self.expire();
            }
            self.arrive();
            self.expire();
        }
        for node in 0..self.nodes.len() {
            if self.now >= self.nodes[node].stopped_until {
                self.run(node);
            }
        }
        self.look();
    }

    fn expire(&mut self) {
        for stored in &mut self.names {
            if stored.put.is_some() && self.now >= stored.expires_at {
                self.revision += 1;
                (stored.put, stored.revision) = (None, self.revision);
            }
        }
    }

    fn arrive(&mut self) {
        let now = self.now;
        for request in self.requests.extract_if(.., |request| request.arrives_at <= now).collect::<Vec<_>>() {
            let name = self.nodes[request.node].name;
            let stored = &mut self.names[name];
            let input = match request.put {
                Some((expected, number)) if expected.0 == stored.revision => {
                    self.revision += 1;
                    let (revision, put) = (self.revision, Some((request.node, number)));
                    *stored = Stored { revision, put, expires_at: now + TTL_MS };
                    TenureInput::Stored(Revision(revision))
                }
                Some(_) => TenureInput::Refused,
                None => TenureInput::Found(match stored.put {
                    Some((node, number)) if node == request.node => {
                        Found::Ours(PutNumber(number), Revision(stored.revision))
                    }
                    Some(_) => Found::Theirs,
                    None => Found::Nobody(Revision(stored.revision)),
                }),
            };
            if !self.random.percent(self.lost) {
                self.nodes[request.node].answer = Some((request.question, input));
            }
        }
    }

    /// What a node does now.
    fn run(&mut self, index: usize) {
        let now = self.now;
        let node = &mut self.nodes[index];
        let answer = node.answer.take().filter(|(question, _)| node.is_asking && *question == node.question);
        let input = match answer {
            Some((_, input)) => input,
            None if now < node.until => return,
            None if node.is_asking => TenureInput::NoAnswer,
            None => TenureInput::Time,
        };
        if matches!(input, TenureInput::Stored(_)) {
            node.answered_sent = node.sent;
        }
        node.is_asking = false;
        let changes_at = node.tenure.changes_at(ms(now));
        match node.tenure.handle(ms(now), input) {
            TenureStep::Wait(until) => node.until = until.as_millis() as u64,
            TenureStep::Pause => node.until = now + self.random.below(PAUSE_MAX_MS),
            TenureStep::Put { expected, number } => self.ask(index, Some((expected, number.0)), whole_ms(changes_at)),
            TenureStep::Look => self.ask(index, None, whole_ms(changes_at)),
            TenureStep::End => node.until = u64::MAX,
        }
    }

    fn ask(&mut self, index: usize, put: Option<(Revision, u64)>, changes_at: u64) {
        let late = if self.random.percent(self.late) { self.random.below(40_000) } else { self.random.below(50) };
        let node = &mut self.nodes[index];
        node.question += 1;
        (node.is_asking, node.until) = (true, changes_at.max(self.now + 1).min(self.now + ANSWER_WITHIN_MS));
        if put.is_some() {
            node.sent = self.now;
        }
        self.requests.push(Request { node: index, question: node.question, put, arrives_at: self.now + late });
    }

    /// What others see, and what was promised.
    fn look(&mut self) {
        let now = self.now;
        let is_observed = self.random.percent(20) && now >= self.stalled_until;
        for (index, node) in self.nodes.iter_mut().enumerate() {
            let is_there = self.names[node.name].put.is_some_and(|(holder, _)| holder == index);
            match node.tenure.standing(ms(now)) {
                Standing::Held { gaps } => {
                    assert!(is_there || self.is_shared, "{index} relies on what has ended");
                    let knows = node.seen_ended.is_none_or(|seen| gaps > seen);
                    assert!(knows || self.is_shared, "{index} does not know that it had ended");
                    node.gaps = gaps;
                }
                Standing::InDoubt => {}
                Standing::Lost => {
                    let is_late = now >= node.answered_sent + whole_ms(TIMES.give_up_after);
                    assert!(is_late || self.is_shared, "{index} has given up, and was heard");
                }
            }
            if is_observed && !is_there {
                node.seen_ended = Some(node.gaps);
            }
        }
        if self.only_stalls {
            self.judge_judges();
        }
    }

    /// Where only the server stands still, nobody says of anybody that its lease has ended.
    fn judge_judges(&self) {
        let judges = |node: &Node| node.tenure.judges_from(ms(self.now)).is_some_and(|from| from <= ms(self.now));
        for (index, node) in self.nodes.iter().enumerate().filter(|(_, node)| judges(node)) {
            let others = self.nodes.iter().filter(|other| other.name != node.name);
            let is_ended = |other: &Node| self.names[other.name].put.is_none();
            let is_heard = |other: &Node| !matches!(other.tenure.standing(ms(self.now)), Standing::Lost);
            assert!(!others.clone().any(|other| is_ended(other) && is_heard(other)), "{index} judges too soon");
        }
    }

    /// Nothing breaks any more.
    fn settle(&mut self) {
        (self.stalled_until, self.lost, self.late) = (0, 0, 0);
        self.nodes.iter_mut().for_each(|node| node.stopped_until = 0);
        self.requests.iter_mut().for_each(|request| request.arrives_at = request.arrives_at.min(self.now));
        for _ in 0..1_000 {
            self.step(false);
        }
        let standings: Vec<Standing> = self.nodes.iter().map(|node| node.tenure.standing(ms(self.now))).collect();
        assert!(!standings.contains(&Standing::InDoubt), "{standings:?}");
        let held = standings.iter().filter(|standing| matches!(standing, Standing::Held { .. })).count();
        assert!(!self.is_shared || held <= 1, "{standings:?}");
    }
}

pub(super) fn run(seed: u64) {
    let mut world = World::new(seed);
    for _ in 0..STEPS {
        world.step(true);
    }
    world.settle();
}

fn at(now_ms: u64) -> Tenure {
    Tenure::new(TIMES, Revision(7), ms(now_ms), ms(now_ms))
}

#[test]
fn a_lease_that_is_not_refreshed_is_in_doubt_and_then_lost() {
    let tenure = at(1_000);
    assert_eq!(tenure.begin(), TenureStep::Wait(ms(5_000)));
    assert_eq!(tenure.standing(ms(20_999)), Standing::Held { gaps: 0 });
    assert_eq!(tenure.standing(ms(21_000)), Standing::InDoubt);
    assert_eq!(tenure.standing(ms(60_999)), Standing::InDoubt);
    assert_eq!(tenure.standing(ms(61_000)), Standing::Lost);
    assert_eq!(at(1_000).handle(ms(61_000), TenureInput::Time), TenureStep::End, "it was stopped");
}

#[test]
fn it_is_known_when_its_standing_changes() {
    let tenure = at(1_000);
    assert_eq!((tenure.held_until(), tenure.sent(), tenure.revision()), (ms(21_000), ms(1_000), Revision(7)));
    assert_eq!([1_000, 20_999].map(|now_ms| tenure.changes_at(ms(now_ms))), [ms(21_000); 2]);
    assert_eq!([21_000, 60_999].map(|now_ms| tenure.changes_at(ms(now_ms))), [ms(61_000); 2]);
}

#[test]
fn what_is_lost_is_not_had_again() {
    let mut tenure = at(0);
    assert!(matches!(tenure.handle(ms(59_000), TenureInput::Time), TenureStep::Put { .. }));
    assert_eq!(tenure.handle(ms(60_000), TenureInput::NoAnswer), TenureStep::End);
    for input in [TenureInput::Time, TenureInput::Stored(Revision(8))] {
        assert_eq!(tenure.handle(ms(60_100), input), TenureStep::End);
        assert_eq!(tenure.standing(ms(60_100)), Standing::Lost);
    }
}

/// One that has sent 65 puts, one more than it remembers, every 100 ms from 100 on, and has heard of none.
fn unheard() -> Tenure {
    let mut tenure = at(0);
    for number in 1..65 {
        let put = tenure.handle(ms(number * 100), TenureInput::Time);
        assert_eq!(put, TenureStep::Put { expected: Revision(7), number: PutNumber(number) });
        assert_eq!(tenure.handle(ms(number * 100 + 50), TenureInput::NoAnswer), TenureStep::Pause);
    }
    tenure.handle(ms(6_500), TenureInput::Time);
    assert_eq!(tenure.handle(ms(6_510), TenureInput::Refused), TenureStep::Look);
    tenure
}

#[test]
fn what_is_there_and_forgotten_may_have_taken_it() {
    for (number, gaps, sent_ms) in [(1, 1, 0), (2, 0, 200), (64, 0, 6_400)] {
        let mut tenure = unheard();
        let ours = TenureInput::Found(Found::Ours(PutNumber(number), Revision(8)));
        assert_eq!(tenure.handle(ms(6_520), ours), TenureStep::Put { expected: Revision(8), number: PutNumber(66) });
        assert_eq!((tenure.standing(ms(6_520)), tenure.sent()), (Standing::Held { gaps }, ms(sent_ms)), "{number}");
        assert_eq!(tenure.handle(ms(6_530), TenureInput::Stored(Revision(9))), TenureStep::Wait(ms(10_520)));
        assert_eq!(tenure.standing(ms(6_530)), Standing::Held { gaps }, "a refresh takes nothing");
    }
}

#[test]
fn what_was_sent_before_the_last_one_that_is_stored_is_forgotten() {
    let mut tenure = unheard();
    tenure.handle(ms(6_520), TenureInput::Found(Found::Ours(PutNumber(3), Revision(8))));
    assert_eq!(tenure.handle(ms(6_530), TenureInput::Refused), TenureStep::Look);
    tenure.handle(ms(6_540), TenureInput::Found(Found::Ours(PutNumber(3), Revision(8))));
    assert_eq!(tenure.standing(ms(6_540)), Standing::Held { gaps: 0 }, "it is known");
    assert_eq!(tenure.handle(ms(6_550), TenureInput::Refused), TenureStep::Look);
    tenure.handle(ms(6_560), TenureInput::Found(Found::Ours(PutNumber(40), Revision(9))));
    assert_eq!(tenure.standing(ms(6_560)), Standing::Held { gaps: 1 }, "it expected what was there before");
}

#[test]
fn a_refresh_that_is_stored_after_all_leaves_no_gap_and_one_that_takes_it_again_does() {
    let mut tenure = at(0);
    assert_eq!(
        tenure.handle(ms(25_000), TenureInput::Time),
        TenureStep::Put { expected: Revision(7), number: PutNumber(1) }
    );
    assert_eq!(tenure.handle(ms(25_010), TenureInput::Stored(Revision(8))), TenureStep::Wait(ms(29_000)));
    assert_eq!(tenure.standing(ms(25_010)), Standing::Held { gaps: 0 });

    assert_eq!(
        tenure.handle(ms(55_000), TenureInput::Time),
        TenureStep::Put { expected: Revision(8), number: PutNumber(2) }
    );
    assert_eq!(tenure.handle(ms(55_010), TenureInput::Refused), TenureStep::Look);
    let nobody = TenureInput::Found(Found::Nobody(Revision(9)));
    assert_eq!(tenure.handle(ms(55_020), nobody), TenureStep::Put { expected: Revision(9), number: PutNumber(3) });
    assert_eq!(tenure.handle(ms(56_020), TenureInput::NoAnswer), TenureStep::Pause);
    assert_eq!(
        tenure.handle(ms(56_100), TenureInput::Time),
        TenureStep::Put { expected: Revision(8), number: PutNumber(4) }
    );
    assert_eq!(tenure.handle(ms(56_110), TenureInput::Refused), TenureStep::Look);
    let ours = TenureInput::Found(Found::Ours(PutNumber(3), Revision(10)));
    assert_eq!(tenure.handle(ms(56_120), ours), TenureStep::Put { expected: Revision(10), number: PutNumber(5) });
    assert_eq!(tenure.standing(ms(56_120)), Standing::Held { gaps: 1 }, "it was the one without an answer");
}

#[test]
fn a_name_that_somebody_else_has_is_lost() {
    let mut tenure = at(0);
    tenure.handle(ms(4_000), TenureInput::Time);
    tenure.handle(ms(4_010), TenureInput::Refused);
    assert_eq!(tenure.handle(ms(4_020), TenureInput::Found(Found::Theirs)), TenureStep::End);
    assert_eq!(tenure.standing(ms(4_020)), Standing::Lost);
}

#[test]
fn a_lease_that_has_ended_is_taken_again_only_where_that_is_wanted() {
    let times = TenureTimes { is_taken_again: false, ..TIMES };
    let mut tenure = Tenure::new(times, Revision(7), ms(0), ms(0));
    tenure.handle(ms(30_000), TenureInput::Time);
    tenure.handle(ms(30_010), TenureInput::Refused);
    assert_eq!(tenure.handle(ms(30_020), TenureInput::Found(Found::Nobody(Revision(8)))), TenureStep::End);
    assert_eq!(tenure.standing(ms(30_020)), Standing::Lost);
}

#[test]
fn who_was_not_heard_judges_others_only_when_they_have_had_time() {
    let mut tenure = at(0);
    assert_eq!(tenure.judges_from(ms(100)), Some(ms(9_000)), "who has just come does not know what was");
    tenure.handle(ms(4_000), TenureInput::Time);
    tenure.handle(ms(4_010), TenureInput::Stored(Revision(8)));
    assert_eq!(tenure.judges_from(ms(10_000)), Some(ms(9_000)));
    assert_eq!(tenure.judges_from(ms(10_010)), Some(ms(9_000)), "one refresh may take half as long again");
    assert_eq!(tenure.judges_from(ms(10_011)), None, "it is not heard itself");
    tenure.handle(ms(13_000), TenureInput::Time);
    tenure.handle(ms(13_010), TenureInput::Stored(Revision(9)));
    assert_eq!(tenure.judges_from(ms(13_020)), Some(ms(22_010)));
}
