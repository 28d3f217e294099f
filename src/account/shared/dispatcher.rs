//! Who of a group gets which message, and what becomes of it. No I/O, no clock: it is told the time.
//!
//! ```text
//! pass: to the next member that takes it -> noted as given
//!     finish: the member has acknowledged it -> its answer is given out
//!     leave: the member is gone -> the answers of all that it was given are given out, but of those in doubt
//! ```

use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::time::Duration;

use mqtt_session::{Position, Time};

use super::given::Hold;

/// A message that a member was given and has not acknowledged.
#[derive(Debug)]
struct Given<Id, A> {
    to: Id,
    answer: A,
    /// When the server last heard that it is being worked on.
    said_at: Time,
    hold: Hold,
}

/// What a member that is gone leaves behind.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Left<M, A> {
    /// The member, unless it had been withdrawn.
    pub(super) member: Option<M>,
    /// What is for others, in the order of the messages, with its answers.
    pub(super) back: Vec<(Position, A)>,
    /// What stays its session's.
    pub(super) kept: Vec<(Position, A)>,
}

/// One group's members here, and what they have. `Id` names a member, `M` is one, `A` is how a message is answered.
#[derive(Debug)]
pub(super) struct Dispatcher<Id, M, A> {
    members: Vec<(Id, M)>,
    /// Who is one of them: those who are not are told without a look at all.
    ids: HashSet<Id>,
    /// Whose turn it is.
    turn: usize,
    given: HashMap<Position, Given<Id, A>>,
}

impl<Id, M, A> Default for Dispatcher<Id, M, A> {
    fn default() -> Self {
        Self { members: Vec::new(), ids: HashSet::new(), turn: 0, given: HashMap::new() }
    }
}

impl<Id: Copy + Eq + Hash, M, A: Clone> Dispatcher<Id, M, A> {
    /// A member comes; the one with its id goes, and is returned.
    pub(super) fn enter(&mut self, id: Id, member: M) -> Option<M> {
        if self.ids.insert(id) {
            self.members.push((id, member));
            return None;
        }
        let (_, old) = self.members.iter_mut().find(|(old, _)| *old == id)?;
        Some(std::mem::replace(old, member))
    }

    /// A member gets nothing new; what it was given stays its own.
    pub(super) fn withdraw(&mut self, id: Id) -> Option<M> {
        if !self.ids.remove(&id) {
            return None;
        }
        let index = self.members.iter().position(|(member, _)| *member == id)?;
        let (_, member) = self.members.remove(index);
        if index < self.turn {
            self.turn -= 1;
        }
        Some(member)
    }

    /// A member is gone: the answers of what it was given come back. What is in doubt stays.
    pub(super) fn leave(&mut self, id: Id) -> Left<M, A> {
        let of = |given: &mut HashMap<Position, Given<Id, A>>, hold| {
            let taken = given.extract_if(|_, given| given.to == id && given.hold == hold);
            let mut taken: Vec<(Position, A)> = taken.map(|(position, given)| (position, given.answer)).collect();
            taken.sort_unstable_by_key(|(position, _)| *position);
            taken
        };
        let (back, kept) = (of(&mut self.given, Hold::Connection), of(&mut self.given, Hold::Session));
        Left { member: self.withdraw(id), back, kept }
    }

    /// The members.
    pub(super) fn members(&self) -> impl Iterator<Item = &M> {
        self.members.iter().map(|(_, member)| member)
    }

    /// Whether there is neither a member nor a message that one has.
    pub(super) fn is_idle(&self) -> bool {
        self.members.is_empty() && self.given.is_empty()
    }

    /// Offers a message to the members, beginning with the one whose turn it is. Returns the one that took it.
    pub(super) fn pass(&mut self, mut takes: impl FnMut(&M) -> bool) -> Option<Id> {
        let count = self.members.len();
        for step in 0..count {
            let index = (self.turn + step) % count;
            if let Some((id, member)) = self.members.get(index)
                && takes(member)
            {
                self.turn = (index + 1) % count;
                return Some(*id);
            }
        }
        None
    }

    /// A member has this message from now on.
    pub(super) fn note(&mut self, position: Position, to: Id, answer: A, now: Time) {
        self.given.insert(position, Given { to, answer, said_at: now, hold: Hold::Connection });
    }

    /// Whether a member has this message.
    pub(super) fn has(&self, position: Position) -> bool {
        self.given.contains_key(&position)
    }

    /// How a message is answered that a member has.
    pub(super) fn answer_of(&self, position: Position) -> Option<A> {
        self.given.get(&position).map(|given| given.answer.clone())
    }

    /// Says whose a message is that a member has.
    pub(super) fn set_hold(&mut self, position: Position, hold: Hold) {
        if let Some(given) = self.given.get_mut(&position) {
            given.hold = hold;
        }
    }

    /// A message came again that a member has: it is answered as it came last, and nobody else gets it. False when nobody
    /// has it.
    pub(super) fn renew(&mut self, position: Position, answer: &A, now: Time) -> bool {
        let Some(given) = self.given.get_mut(&position) else { return false };
        (given.answer, given.said_at) = (answer.clone(), now);
        true
    }

    /// A message is done with.
    pub(super) fn finish(&mut self, position: Position) -> Option<A> {
        self.given.remove(&position).map(|given| given.answer)
    }

    /// The messages of which the server has not heard for so long, with how to tell it that they are being worked on.
    pub(super) fn due(&mut self, now: Time, age: Duration) -> Vec<(Position, A)> {
        let mut due = Vec::new();
        for (position, given) in &mut self.given {
            if given.said_at.plus(age) <= now {
                given.said_at = now;
                due.push((*position, given.answer.clone()));
            }
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Group = Dispatcher<char, u32, &'static str>;

    const START: Time = Time(0);
    const AGE: Duration = Duration::from_millis(10);

    /// Members with room for so many messages.
    fn group(members: &[char]) -> Group {
        let mut group = Group::default();
        for member in members {
            group.enter(*member, 0);
        }
        group
    }

    fn passed(group: &mut Group, count: usize, takes: impl Fn(&u32) -> bool) -> String {
        (0..count).map(|_| group.pass(&takes).unwrap_or('-')).collect()
    }

    #[test]
    fn members_take_turns() {
        let mut group = group(&['a', 'b', 'c']);
        assert_eq!(passed(&mut group, 7, |_| true), "abcabca");
        assert!(group.withdraw('a').is_some());
        assert_eq!(passed(&mut group, 3, |_| true), "bcb");
        group.enter('d', 0);
        assert_eq!(passed(&mut group, 4, |_| true), "cdbc");
        assert_eq!(passed(&mut Group::default(), 1, |_| true), "-");
    }

    #[test]
    fn who_has_no_room_is_passed_over_and_keeps_its_turn() {
        let mut group = Group::default();
        for (member, room) in [('a', 0), ('b', 1), ('c', 1)] {
            group.enter(member, room);
        }
        assert_eq!(passed(&mut group, 3, |room| *room > 0), "bcb");
        assert_eq!(passed(&mut group, 1, |_| false), "-");
        assert_eq!(group.enter('a', 1), Some(0), "a member that comes again is the same member");
        assert_eq!(passed(&mut group, 3, |room| *room > 0), "cab");
    }

    #[test]
    fn what_a_member_has_when_it_leaves_comes_back_in_order() {
        let mut group = group(&['a', 'b']);
        for (position, to, answer) in [(9, 'a', "9"), (2, 'a', "2"), (3, 'b', "3"), (1, 'a', "1")] {
            group.note(Position(position), to, answer, START);
        }
        assert_eq!(group.finish(Position(2)), Some("2"));
        assert_eq!(group.finish(Position(2)), None, "acknowledged once");
        assert_eq!(group.leave('a').back, [(Position(1), "1"), (Position(9), "9")]);
        assert_eq!(group.leave('a'), Left { member: None, back: vec![], kept: vec![] });
        assert_eq!(passed(&mut group, 2, |_| true), "bb");
        assert_eq!(group.withdraw('b'), Some(0));
        assert!(!group.is_idle(), "it has a message still");
        assert_eq!(group.finish(Position(3)), Some("3"));
        assert!(group.is_idle());
    }

    #[test]
    fn what_is_the_session_s_or_in_doubt_does_not_come_back() {
        let mut group = group(&['a']);
        for (position, answer) in [(1, "1"), (2, "2"), (3, "3")] {
            group.note(Position(position), 'a', answer, START);
        }
        group.set_hold(Position(1), Hold::Session);
        group.set_hold(Position(2), Hold::Doubt);
        group.set_hold(Position(7), Hold::Session);
        assert_eq!(
            group.leave('a'),
            Left { member: Some(0), back: vec![(Position(3), "3")], kept: vec![(Position(1), "1")] }
        );
        assert!(group.has(Position(2)) && !group.has(Position(1)) && !group.is_idle());
        assert_eq!(
            (group.answer_of(Position(2)), group.finish(Position(2)), group.answer_of(Position(2))),
            (Some("2"), Some("2"), None)
        );
        assert!(group.is_idle());
    }

    #[test]
    fn a_message_that_comes_again_while_a_member_has_it_is_given_to_nobody_else() {
        let mut group = group(&['a']);
        assert!(!group.renew(Position(5), &"first", START));
        group.note(Position(5), 'a', "first", START);
        assert!(group.renew(Position(5), &"second", Time(10)));
        assert_eq!(group.due(Time(19), AGE), []);
        assert_eq!(group.due(Time(20), AGE), [(Position(5), "second")]);
        assert_eq!(group.due(Time(20), AGE), [], "said once");
        assert_eq!(group.finish(Position(5)), Some("second"));
    }
}
