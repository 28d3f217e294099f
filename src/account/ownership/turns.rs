//! Whose turn it is to be opened or left. Either waits for JetStream, and has a will in memory meanwhile.
//!
//! **Invariant:** what is opened or left and waits for JetStream has a limit:
//! - those whose turn it is hold `mqtt.max_opening_size` at most;
//! - of CONNECTs that wait for their turn there are [`CONNECTS_MAX`], and their wills take half of that size. Beyond it, the line that
//!   has most of what there is too much of is refused its newest one, so that whoever opens many delays nobody else;
//! - a connection that is over is never refused. It waits with what it had while it was open, and nothing more.
//!
//! There is a line for each address, and another one for those of its sessions that have a will: what large wills cost is not
//! for others to pay that are behind the same address. Turns go round the lines. Of one in which both wait, a session is left for each
//! that is opened: whoever comes and goes in a loop does so no faster than JetStream takes it.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;

use foldhash::HashMap;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::metrics::{AccountMetrics, Opening};
use crate::network::network_of;

/// What a session takes that is opened or left, beside its will: its job, and a record without one.
const JOB_SIZE: usize = 16 * 1024;

/// CONNECTs that wait for their turn: as many as come when a sidecar is started again. One that waits takes no more than it will when
/// it is connected.
const CONNECTS_MAX: usize = 16 * 1024;

/// What one takes that waits, beside its will.
const CONNECT_SIZE: usize = 8 * 1024;

/// How many times a will is there whose turn it is: as it came, as it is written, and twice on its way to NATS.
pub(super) const COPIES: usize = 4;

/// Those that wait in one line: an address, and whether they have a will.
type Key = (IpAddr, bool);

/// Sessions that are being opened or left, and those that wait for it.
#[derive(Debug)]
pub(in crate::account) struct Turns {
    size_max: usize,
    state: Mutex<State>,
    metrics: Arc<AccountMetrics>,
}

#[derive(Debug, Default)]
struct State {
    lines: HashMap<Key, Line>,
    /// Those in which somebody waits, in the order of their turns.
    order: VecDeque<Key>,
    /// Bytes of those whose turn it is.
    taken: usize,
    connects: Connects,
    next: u64,
}

/// CONNECTs that wait, and the bytes of their wills.
#[derive(Debug, Default)]
struct Connects {
    count: usize,
    wills: usize,
}

impl Connects {
    const fn add(&mut self, will: usize) {
        self.count += 1;
        self.wills += will;
    }

    const fn remove(&mut self, will: usize) {
        self.count -= 1;
        self.wills -= will;
    }
}

#[derive(Debug, Default)]
struct Line {
    opened: VecDeque<Waiter>,
    left: VecDeque<Waiter>,
    /// Those in `opened`.
    connects: Connects,
    /// A connection that is over was last.
    has_left: bool,
}

#[derive(Debug)]
struct Waiter {
    id: u64,
    will: usize,
    /// Dropped when it is refused.
    tell: oneshot::Sender<()>,
}

impl Waiter {
    /// What it takes when it is its turn.
    const fn size(&self) -> usize {
        JOB_SIZE + COPIES * self.will
    }
}

impl Line {
    fn is_empty(&self) -> bool {
        self.opened.is_empty() && self.left.is_empty()
    }

    /// Who of the line is next: the two kinds take turns.
    fn is_left_next(&self) -> bool {
        !self.left.is_empty() && (!self.has_left || self.opened.is_empty())
    }

    fn front(&self) -> Option<&Waiter> {
        if self.is_left_next() { self.left.front() } else { self.opened.front() }
    }
}

impl State {
    /// Counts a CONNECT that waits no more.
    fn count_out(&mut self, key: Key, will: usize) {
        self.connects.remove(will);
        if let Some(line) = self.lines.get_mut(&key) {
            line.connects.remove(will);
        }
    }

    fn forget_if_empty(&mut self, key: Key) {
        if self.lines.get(&key).is_some_and(Line::is_empty) {
            self.lines.remove(&key);
            self.order.retain(|other| *other != key);
        }
    }

    /// Lets the next ones begin, as far as there is room. One alone always has it.
    fn advance(&mut self, size_max: usize) {
        while let Some(key) = self.order.front().copied() {
            let Some(line) = self.lines.get_mut(&key) else { return };
            let Some(size) = line.front().map(Waiter::size) else { return };
            if self.taken > 0 && self.taken + size > size_max {
                return;
            }
            let is_left = line.is_left_next();
            line.has_left = is_left;
            let Some(waiter) = (if is_left { line.left.pop_front() } else { line.opened.pop_front() }) else { return };
            if !is_left {
                self.count_out(key, waiter.will);
            }
            self.order.pop_front();
            if self.lines.get(&key).is_some_and(Line::is_empty) {
                self.lines.remove(&key);
            } else {
                self.order.push_back(key);
            }
            // Whoever is not there any more gives its turn back, see `Waiting`.
            self.taken += size;
            let _ = waiter.tell.send(());
        }
    }

    /// Makes room for a CONNECT to wait: the newest ones are refused of the line that has most of what there is too much of. False
    /// when that is its own.
    fn make_room(&mut self, key: Key, will: usize, size_max: usize) -> bool {
        // One alone always has it.
        while self.connects.count > 0 {
            let has_too_many = self.connects.count >= CONNECTS_MAX;
            let has_too_large = will > 0 && self.connects.wills + will > size_max / 2;
            if !has_too_many && !has_too_large {
                return true;
            }
            let of = |line: &Line| if has_too_many { line.connects.count } else { line.connects.wills };
            let own = self.lines.get(&key).map_or(0, of) + if has_too_many { 1 } else { will };
            let most = self.lines.iter().map(|(key, line)| (*key, of(line))).max_by_key(|(_, most)| *most);
            let Some((most, _)) = most.filter(|(_, most)| *most > own) else { return false };
            let newest = self.lines.get_mut(&most).and_then(|line| line.opened.pop_back());
            let Some(refused) = newest else { return false };
            self.count_out(most, refused.will);
            self.forget_if_empty(most);
        }
        true
    }
}

impl Turns {
    /// `size_max`: bytes that sessions may take that are opened or left.
    pub(in crate::account) fn new(size_max: usize, metrics: Arc<AccountMetrics>) -> Arc<Self> {
        Arc::new(Self { size_max, state: Mutex::default(), metrics })
    }

    /// The turn of a CONNECT with a will of this many bytes. `None`: there are too many.
    pub(in crate::account) async fn of_connect(self: &Arc<Self>, addr: IpAddr, will: usize) -> Option<Turn> {
        self.wait(addr, will, true)?.turn().await
    }

    /// The turn of a connection: one that is over, or that goes on without a record and is to have one. It is never refused.
    pub(in crate::account) async fn of_connection(self: &Arc<Self>, addr: IpAddr, will: usize) -> Option<Turn> {
        self.wait(addr, will, false)?.turn().await
    }

    /// Lets the next ones begin, as far as there is room, and says what is taken then.
    fn advance(&self, state: &mut State) {
        state.advance(self.size_max);
        self.metrics.opening(Opening::Turn, state.taken);
        self.metrics.opening(Opening::Waiting, state.connects.count * CONNECT_SIZE + state.connects.wills);
    }

    fn wait(self: &Arc<Self>, addr: IpAddr, will: usize, is_opening: bool) -> Option<Waiting> {
        let key = (network_of(addr), will > 0);
        let (tell, told) = oneshot::channel();
        let mut state = self.state.lock();
        let waiter = Waiter { id: state.next, will, tell };
        state.next += 1;
        let (id, size) = (waiter.id, waiter.size());
        if is_opening && !state.make_room(key, will, self.size_max) {
            return None;
        }
        let line = state.lines.entry(key).or_default();
        let is_new = line.is_empty();
        if is_opening {
            line.opened.push_back(waiter);
            line.connects.add(will);
            state.connects.add(will);
        } else {
            line.left.push_back(waiter);
        }
        if is_new {
            state.order.push_back(key);
        }
        self.advance(&mut state);
        drop(state);
        Some(Waiting { turns: Arc::clone(self), key, id, size, told: Some(told) })
    }

    /// Gives a turn back.
    fn end(&self, size: usize) {
        let mut state = self.state.lock();
        state.taken -= size;
        self.advance(&mut state);
    }
}

/// Somebody who waits. Dropped before it is told, it waits no more.
struct Waiting {
    turns: Arc<Turns>,
    key: Key,
    id: u64,
    size: usize,
    told: Option<oneshot::Receiver<()>>,
}

impl Waiting {
    async fn turn(mut self) -> Option<Turn> {
        // Stays in its place until it is told, so that whoever gives up before that is forgotten.
        let is_told = match &mut self.told {
            Some(told) => told.await.is_ok(),
            None => false,
        };
        self.told = None;
        is_told.then(|| Turn { turns: Arc::clone(&self.turns), size: self.size })
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let Some(mut told) = self.told.take() else { return };
        let mut state = self.turns.state.lock();
        match told.try_recv() {
            // It is its turn, and it is not there to know.
            Ok(()) => {
                drop(state);
                self.turns.end(self.size);
            }
            Err(oneshot::error::TryRecvError::Closed) => {}
            Err(oneshot::error::TryRecvError::Empty) => {
                let Some(line) = state.lines.get_mut(&self.key) else { return };
                let is_it = |waiter: &Waiter| waiter.id == self.id;
                if let Some(index) = line.opened.iter().position(is_it) {
                    if let Some(waiter) = line.opened.remove(index) {
                        state.count_out(self.key, waiter.will);
                    }
                } else if let Some(index) = line.left.iter().position(is_it) {
                    line.left.remove(index);
                }
                state.forget_if_empty(self.key);
                // It may have been the one that had no room.
                self.turns.advance(&mut state);
            }
        }
    }
}

/// A session is being opened or left. Dropped, it is somebody else's turn.
#[derive(Debug)]
pub(in crate::account) struct Turn {
    turns: Arc<Turns>,
    size: usize,
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.turns.end(self.size);
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::{Context, Poll, Waker};

    use super::*;
    use crate::metrics::Metrics;

    type Coming = Pin<Box<dyn Future<Output = Option<Turn>>>>;

    const SIZE: usize = 4 * JOB_SIZE;

    fn turns(size: usize) -> Arc<Turns> {
        Turns::new(size, Metrics::new().account())
    }

    fn addr(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    /// A CONNECT that has come.
    fn connect(turns: &Arc<Turns>, from: u8, will: usize) -> Coming {
        let turns = Arc::clone(turns);
        let mut coming: Coming = Box::pin(async move { turns.of_connect(addr(from), will).await });
        // It takes its place, or has its answer, which is asked for once more.
        coming = match poll(&mut coming) {
            Poll::Ready(turn) => Box::pin(std::future::ready(turn)),
            Poll::Pending => coming,
        };
        coming
    }

    /// A connection that is over.
    fn leave(turns: &Arc<Turns>, from: u8) -> Coming {
        let turns = Arc::clone(turns);
        let mut coming: Coming = Box::pin(async move { turns.of_connection(addr(from), 0).await });
        match poll(&mut coming) {
            Poll::Ready(turn) => Box::pin(std::future::ready(turn)),
            Poll::Pending => coming,
        }
    }

    fn poll(coming: &mut Coming) -> Poll<Option<Turn>> {
        coming.as_mut().poll(&mut Context::from_waker(Waker::noop()))
    }

    /// The turn of one whose turn it is.
    fn turn(coming: &mut Coming) -> Turn {
        match poll(coming) {
            Poll::Ready(Some(turn)) => turn,
            Poll::Ready(None) => panic!("it is refused"),
            Poll::Pending => panic!("it waits"),
        }
    }

    fn waits(coming: &mut Coming) -> bool {
        poll(coming).is_pending()
    }

    fn is_refused(coming: &mut Coming) -> bool {
        matches!(poll(coming), Poll::Ready(None))
    }

    fn is_as_new(turns: &Turns) -> bool {
        let state = turns.state.lock();
        let counts = [state.taken, state.connects.count, state.connects.wills, state.lines.len(), state.order.len()];
        counts == [0; 5]
    }

    #[test]
    fn so_many_are_opened_at_a_time_and_the_others_wait_in_order() {
        let turns = turns(SIZE);
        let mut under_way: Vec<Turn> = (0..4).map(|_| turn(&mut connect(&turns, 1, 0))).collect();
        let [mut first, mut second] = [connect(&turns, 1, 0), connect(&turns, 1, 0)];
        assert!(waits(&mut first) && waits(&mut second));
        under_way.pop();
        let next = turn(&mut first);
        assert!(waits(&mut second));
        drop((next, under_way));
        drop(turn(&mut second));
        assert!(is_as_new(&turns));
    }

    #[test]
    fn a_crowd_delays_nobody_else() {
        let turns = turns(SIZE);
        let mut under_way: Vec<Turn> = (0..4).map(|_| turn(&mut connect(&turns, 1, 0))).collect();
        let mut crowd: Vec<Coming> = (0..3).map(|_| connect(&turns, 1, 0)).collect();
        let mut other = connect(&turns, 2, 0);
        under_way.pop();
        let one = turn(&mut crowd[0]);
        assert!(waits(&mut other), "the crowd was first");
        under_way.pop();
        let two = turn(&mut other);
        assert!(waits(&mut crowd[1]) && waits(&mut crowd[2]));
        drop((one, two, under_way, crowd));
        assert!(is_as_new(&turns));
    }

    #[test]
    fn too_many_are_refused_the_newest_of_the_line_that_has_most() {
        let turns = turns(JOB_SIZE);
        let under_way = turn(&mut connect(&turns, 3, 0));
        let mut crowd: Vec<Coming> = (0..CONNECTS_MAX).map(|_| connect(&turns, 1, 0)).collect();
        assert!(is_refused(&mut connect(&turns, 1, 0)), "it is of the crowd");
        let mut other = connect(&turns, 2, 0);
        assert!(waits(&mut other) && is_refused(&mut crowd.pop().unwrap()));
        assert!(crowd.iter_mut().all(waits));
        drop((under_way, other));
        crowd.into_iter().rev().for_each(drop);
        assert!(is_as_new(&turns));
    }

    #[test]
    fn so_are_too_large_wills_and_those_without_have_a_line_of_their_own() {
        let turns = turns(SIZE);
        let mut under_way: Vec<Turn> = (0..4).map(|_| turn(&mut connect(&turns, 3, 0))).collect();
        let mut large: Vec<Coming> = (0..4).map(|_| connect(&turns, 1, SIZE / 8)).collect();
        assert!(large.iter_mut().all(waits) && is_refused(&mut connect(&turns, 1, 1)));
        let mut other = connect(&turns, 2, 1);
        assert!(waits(&mut other) && is_refused(&mut large.pop().unwrap()), "an address that has fewer");
        let mut without = connect(&turns, 1, 0);
        assert!(waits(&mut without));
        under_way.clear();
        let first = turn(&mut large[0]);
        assert!(waits(&mut large[1]), "one at a time has room");
        drop(first);
        let [_other, _without] = [turn(&mut other), turn(&mut without)];
        assert!(waits(&mut large[1]), "the others have been waiting for as long");
        drop((_other, _without, large));
        assert!(is_as_new(&turns));
    }

    #[test]
    fn one_alone_always_has_room() {
        let turns = turns(SIZE);
        let one = turn(&mut connect(&turns, 1, 10 * SIZE));
        let mut other = connect(&turns, 2, 10 * SIZE);
        assert!(waits(&mut other));
        drop(one);
        drop(turn(&mut other));
        assert!(is_as_new(&turns));
    }

    #[test]
    fn a_connection_that_is_over_is_never_refused_and_one_is_left_for_each_that_is_opened() {
        let turns = turns(JOB_SIZE);
        let mut under_way = turn(&mut connect(&turns, 1, 0));
        let mut over: Vec<Coming> = (0..100).map(|_| leave(&turns, 1)).collect();
        let mut new = connect(&turns, 1, 0);
        assert!(over.iter_mut().all(waits) && waits(&mut new));
        let mut over = over.iter_mut();
        for _ in 0..3 {
            drop(under_way);
            let left = turn(over.next().unwrap());
            assert!(waits(&mut new));
            drop(left);
            under_way = turn(&mut new);
            new = connect(&turns, 1, 0);
        }
        assert_eq!(over.filter_map(|over| waits(over).then_some(())).count(), 97);
    }

    #[test]
    fn who_gives_up_leaves_nothing_behind() {
        let turns = turns(JOB_SIZE);
        let under_way = turn(&mut connect(&turns, 1, 0));
        let [gives_up, told] = [connect(&turns, 1, 7), leave(&turns, 1)];
        let mut last = connect(&turns, 2, 0);
        drop(gives_up);
        drop(under_way);
        assert!(waits(&mut last), "it is the turn of the one that is told");
        drop(told);
        drop(turn(&mut last));
        assert!(is_as_new(&turns));
    }
}
