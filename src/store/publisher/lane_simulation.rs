//! A stream on three servers that changes its leader in every bad way: it takes and never answers, answers late, twice, out of
//! turn; stores and does not say so; wakes up and believes that it leads still; connections break under way.
//!
//! The witness is the log of the stream: per subject each message is there once, in order; what was reported as stored is
//! there, at that place; in the end nothing is missing. Of a stream that keeps the last messages of a subject the witness is what
//! it has ever stored: in order, each once, the last one last; a message may be missing whose successor is there. `LANE_SEEDS` in the environment sets the number of seeds.

use super::*;

const SEEDS: u64 = 1_000;
const STEP: Duration = Duration::from_millis(1);
const SUBJECTS: u64 = 3;

#[derive(Clone, Copy, Debug)]
struct Copy {
    token: Token,
    item: u32,
    subject: u64,
    behind: Option<u64>,
}

#[derive(Clone, Copy, Debug)]
enum Request {
    Put(Copy),
    Ask(AskToken, Ask),
}

#[derive(Clone, Copy, Debug)]
enum Answer {
    Stored(Token, u64),
    Mismatch(Token),
    Refused(Token),
    Found(AskToken, Found),
    AskRefused(AskToken),
}

/// One entry of the stream: subject, and the item when it is ours.
type Logged = (u64, Option<u32>);

#[derive(Debug, Default)]
struct Server {
    queue: VecDeque<Request>,
    answers: VecDeque<(u64, Answer)>,
    is_paused: bool,
    /// It believes that it leads, and how much of the log it knows then.
    believes: Option<usize>,
}

struct World {
    random: Random,
    now: Instant,
    step: u64,
    log: Vec<Logged>,
    servers: Vec<Server>,
    /// The one whose proposals are agreed on.
    leader: Option<usize>,
    /// Proposed and not yet agreed on.
    proposed: VecDeque<Copy>,
    /// Where messages go, as the server knows it that we are connected to.
    interest: Vec<usize>,
    elect_at: u64,
    wake_at: u64,
    lane: Lane<u32>,
    reported: Vec<(u32, u64)>,
    pushed: u32,
    /// Messages of a subject that can be seen.
    kept: Option<u64>,
}

impl World {
    fn new(seed: u64, kept: Option<u64>) -> Self {
        let mut lane = Lane::new(true);
        lane.keeps(kept);
        Self {
            random: Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1),
            now: Instant::now(),
            step: 0,
            log: Vec::new(),
            servers: (0..3).map(|_| Server::default()).collect(),
            leader: None,
            proposed: VecDeque::new(),
            interest: Vec::new(),
            elect_at: 1,
            wake_at: 0,
            lane,
            reported: Vec::new(),
            pushed: 0,
            kept,
        }
    }

    fn last(log: &[Logged], subject: u64) -> u64 {
        log.iter().rposition(|(logged, _)| *logged == subject).map_or(0, |index| index as u64 + 1)
    }

    fn look(log: &[Logged], subject: u64, ask: Ask, kept: Option<u64>) -> Found {
        let first_kept = kept.and_then(|kept| {
            let of_subject = log.iter().enumerate().rev().filter(|(_, (logged, _))| *logged == subject);
            of_subject.take(kept as usize).last().map(|(index, _)| index as u64 + 1)
        });
        let from = match ask {
            Ask::Last => Self::last(log, subject).max(1),
            Ask::From(sequence) => sequence.max(first_kept.unwrap_or(1)),
        };
        let found = log.iter().enumerate().skip(from as usize - 1).find(|(_, (logged, _))| *logged == subject);
        found.map_or(Found::Nothing, |(index, (_, item))| Found::Message {
            sequence: index as u64 + 1,
            id: item.map(u64::from),
        })
    }

    fn faults(&mut self) {
        match self.random.below(400) {
            0 => self.depose(),
            1 => {
                // Stops where it is, with what it has in its queue.
                let server = self.random.below(3) as usize;
                self.servers[server].is_paused = true;
                self.wake_at = self.step + self.random.below(400);
                if self.leader == Some(server) && self.random.below(2) == 0 {
                    self.depose();
                }
            }
            2 => {
                // The connection breaks: answers under way are gone, what was sent is not.
                self.servers.iter_mut().for_each(|server| server.answers.clear());
                self.lane.restart(self.now);
            }
            3..6 => {
                let subject = self.random.below(SUBJECTS);
                // Who else writes there replaces what is ours, and nobody can say whether it was there.
                let is_shared = self.kept.is_none() && self.leader.is_some();
                if is_shared && !self.proposed.iter().any(|copy| copy.subject == subject) {
                    self.log.push((subject, None));
                }
            }
            6 => self.lane.elected(self.now),
            _ => {}
        }
        if self.step >= self.wake_at {
            self.servers.iter_mut().for_each(|server| server.is_paused = false);
        }
    }

    /// The leader leads no more, and does not know when it is paused. Some of what it has proposed is agreed on, and nobody
    /// says so.
    fn depose(&mut self) {
        let Some(old) = self.leader.take() else { return };
        self.servers[old].believes = Some(self.log.len());
        let agreed = self.random.below(self.proposed.len() as u64 + 1) as usize;
        let agreed: Vec<Copy> = self.proposed.drain(..agreed).collect();
        self.proposed.clear();
        self.log.extend(agreed.iter().map(|copy| (copy.subject, Some(copy.item))));
        if self.random.below(3) == 0 {
            self.interest.clear();
        }
        let is_quick = self.random.below(2) == 0;
        self.elect_at = self.step + 2 + self.random.below(if is_quick { 5 } else { 300 });
    }

    fn elect(&mut self) {
        if self.leader.is_some() || self.step < self.elect_at {
            return;
        }
        let awake: Vec<usize> = (0..3).filter(|server| !self.servers[*server].is_paused).collect();
        let Some(leader) = awake.get(self.random.below(awake.len().max(1) as u64) as usize) else { return };
        // What it had in its queue from before was dropped when it was processed.
        self.servers[*leader].believes = None;
        self.servers[*leader].queue.clear();
        self.leader = Some(*leader);
        // The old one may be listening still.
        self.interest.retain(|_| self.random.below(2) == 0);
        if !self.interest.contains(leader) {
            self.interest.push(*leader);
        }
        if self.random.below(3) > 0 {
            self.lane.elected(self.now);
        }
    }

    fn serve(&mut self) {
        for server in 0..3 {
            if self.servers[server].is_paused {
                continue;
            }
            for _ in 0..self.random.below(12) {
                let Some(request) = self.servers[server].queue.pop_front() else { break };
                self.serve_one(server, request);
            }
            if self.leader != Some(server) && self.random.below(3) == 0 {
                self.servers[server].believes = None;
                self.interest.retain(|interested| *interested != server);
            }
        }
        for _ in 0..self.random.below(12) {
            let (Some(leader), Some(copy)) = (self.leader, self.proposed.pop_front()) else { break };
            if self.servers[leader].is_paused {
                self.proposed.push_front(copy);
                break;
            }
            self.log.push((copy.subject, Some(copy.item)));
            let sequence = self.log.len() as u64;
            self.answer(leader, Answer::Stored(copy.token, sequence));
        }
    }

    fn serve_one(&mut self, server: usize, request: Request) {
        let is_leader = self.leader == Some(server);
        let known = match (is_leader, self.servers[server].believes) {
            (true, _) => self.log.len(),
            (false, Some(known)) => known,
            (false, None) => return,
        };
        match request {
            Request::Ask(token, ask) => {
                let found = Self::look(&self.log[..known], token.subject, ask, self.kept);
                self.answer(server, Answer::Found(token, found));
            }
            // What a deposed leader proposes is never agreed on.
            Request::Put(_) if !is_leader => {}
            Request::Put(copy) => {
                let in_flight = self.proposed.iter().any(|other| other.subject == copy.subject);
                let last = Self::last(&self.log, copy.subject);
                if copy.behind.is_some_and(|behind| in_flight || behind != last) {
                    self.answer(server, Answer::Mismatch(copy.token));
                } else {
                    self.proposed.push_back(copy);
                }
            }
        }
    }

    fn answer(&mut self, server: usize, answer: Answer) {
        let at = self.step + self.random.below(4);
        let answers = &mut self.servers[server].answers;
        // What one server says comes in its order.
        let at = answers.back().map_or(at, |(last, _)| at.max(*last));
        answers.push_back((at, answer));
        if self.random.below(20) == 0 {
            let again = at + self.random.below(50);
            self.servers[server].answers.push_back((again, answer));
        }
    }

    fn hear(&mut self) {
        for server in 0..3 {
            while self.servers[server].answers.front().is_some_and(|(at, _)| *at <= self.step) {
                let Some((_, answer)) = self.servers[server].answers.pop_front() else { break };
                self.tell(answer);
            }
        }
    }

    fn tell(&mut self, answer: Answer) {
        let now = self.now;
        match answer {
            Answer::Stored(token, sequence) => {
                let item = self.lane.stored(token, sequence, false, now);
                self.reported.extend(item.map(|item| (item, sequence)));
            }
            Answer::Mismatch(token) => assert_eq!(self.lane.mismatched(token, now), None, "nobody asked for it"),
            Answer::Refused(token) => self.lane.refused(token, now),
            Answer::AskRefused(token) => self.lane.ask_refused(token, now),
            Answer::Found(token, found) => {
                let mut out = Vec::new();
                self.lane.looked(token, found, now, &mut out);
                for resolved in out {
                    match resolved {
                        Resolved::Stored(item, sequence) => self.reported.push((item, sequence)),
                        Resolved::Overtaken(item, _) => panic!("{item} follows nothing"),
                    }
                }
            }
        }
    }

    fn send(&mut self) {
        self.lane.check_silence(self.now);
        let mut refused = Vec::new();
        let mut burst = 0;
        while let Some(step) = self.lane.next(self.now, |_| true) {
            burst += 1;
            assert!(burst < 10_000, "it has no end");
            let request = match step {
                Step::Send { token, item, expected_last: behind, .. } => {
                    Request::Put(Copy { token, item: *item, subject: u64::from(*item) % SUBJECTS, behind })
                }
                Step::Look { token, ask, .. } => Request::Ask(token, ask),
                Step::Withdrawn(item) => panic!("{item} is wanted"),
            };
            if self.interest.is_empty() {
                refused.push(match request {
                    Request::Put(copy) => Answer::Refused(copy.token),
                    Request::Ask(token, _) => Answer::AskRefused(token),
                });
            }
            for server in &self.interest {
                self.servers[*server].queue.push_back(request);
            }
        }
        refused.into_iter().for_each(|answer| self.tell(answer));
    }

    fn turn(&mut self, is_quiet: bool) {
        self.step += 1;
        self.now += STEP;
        if is_quiet {
            self.servers.iter_mut().for_each(|server| server.is_paused = false);
        } else {
            self.faults();
            for _ in 0..self.random.below(6) {
                self.lane.push(super::entry(self.pushed, u64::from(self.pushed) % SUBJECTS), self.now);
                self.pushed += 1;
            }
        }
        self.elect();
        self.send();
        self.serve();
        self.hear();
    }

    fn check(&self, seed: u64) {
        for subject in 0..SUBJECTS {
            let ours: Vec<u32> =
                self.log.iter().filter(|(logged, _)| *logged == subject).filter_map(|(_, item)| *item).collect();
            for pair in ours.windows(2) {
                assert!(pair[0] < pair[1], "seed {seed}: {} behind {} in subject {subject}", pair[1], pair[0]);
            }
            let mut pushed = (0..self.pushed).filter(|item| u64::from(*item) % SUBJECTS == subject);
            match self.kept {
                None => assert_eq!(ours.len(), pushed.count(), "seed {seed}: lost in subject {subject}"),
                Some(_) => assert_eq!(ours.last().copied(), pushed.next_back(), "seed {seed}: the last of {subject}"),
            }
        }
        for (item, sequence) in &self.reported {
            let there = self.log[*sequence as usize - 1].1;
            let is_replaced =
                |newer: u32| self.kept.is_some() && newer > *item && u64::from(newer - item) % SUBJECTS == 0;
            assert!(
                there == Some(*item) || there.is_some_and(is_replaced),
                "seed {seed}: {item} reported at {sequence}, where {there:?} is"
            );
        }
        assert_eq!(self.reported.len(), self.pushed as usize, "seed {seed}: each is reported once");
    }
}

#[test]
fn every_message_is_stored_once_and_in_order_whatever_leaders_do() {
    let seeds = std::env::var("LANE_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(SEEDS);
    for (seed, kept) in (0..seeds).zip([None, Some(1), None, Some(2)].into_iter().cycle()) {
        let mut world = World::new(seed, kept);
        for _ in 0..600 {
            world.turn(false);
        }
        for turn in 0.. {
            world.turn(true);
            if world.lane.is_empty() {
                break;
            }
            assert!(turn < 20_000, "seed {seed}: it stands still: {:?}", world.lane);
        }
        world.check(seed);
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
