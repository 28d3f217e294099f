//! Turns of hashing, of which there is a limited number at once. They go round the addresses that wait: whoever sends many wrong
//! passwords from one delays nobody who comes from another one by more than a turn.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;

use foldhash::HashMap;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::network::network_of;

/// Gives turns. As many wait at most as there are connections without a complete CONNECT.
#[derive(Debug)]
pub(super) struct Turns(Mutex<Lines>);

#[derive(Debug)]
struct Lines {
    free: usize,
    of: HashMap<IpAddr, VecDeque<(u64, oneshot::Sender<Turn>)>>,
    /// Those that have a line, the next one first.
    order: VecDeque<IpAddr>,
    next: u64,
}

/// A turn, until it is dropped.
#[derive(Debug)]
pub(super) struct Turn(Option<Arc<Turns>>);

/// A place in a line, which is empty when it is dropped.
struct Place<'a> {
    turns: &'a Turns,
    address: IpAddr,
    id: u64,
}

impl Turns {
    /// So many at once.
    pub(super) fn new(at_once: usize) -> Arc<Self> {
        let lines = Lines { free: at_once, of: HashMap::default(), order: VecDeque::new(), next: 0 };
        Arc::new(Self(Mutex::new(lines)))
    }

    /// Waits for a turn of an address.
    pub(super) async fn wait(self: &Arc<Self>, address: IpAddr) -> Turn {
        let address = network_of(address);
        let (sender, receiver) = oneshot::channel();
        let place = {
            let mut lines = self.0.lock();
            if lines.free > 0 {
                lines.free -= 1;
                return Turn(Some(Arc::clone(self)));
            }
            Place { turns: self, address, id: lines.push(address, sender) }
        };
        // A sender goes with its place, or with a turn.
        let turn = receiver.await.unwrap_or(Turn(None));
        drop(place);
        turn
    }

    /// How many are free.
    #[cfg(test)]
    pub(super) fn free(&self) -> usize {
        self.0.lock().free
    }

    /// Who waits.
    #[cfg(test)]
    fn waiting(&self) -> usize {
        let lines = self.0.lock();
        assert_eq!(lines.of.len(), lines.order.len());
        lines.of.values().map(VecDeque::len).sum()
    }
}

impl Lines {
    fn push(&mut self, address: IpAddr, sender: oneshot::Sender<Turn>) -> u64 {
        let id = self.next;
        self.next += 1;
        let line = self.of.entry(address).or_default();
        if line.is_empty() {
            self.order.push_back(address);
        }
        line.push_back((id, sender));
        id
    }

    /// Whose turn it is; its address is the last one then.
    fn pop(&mut self) -> Option<oneshot::Sender<Turn>> {
        let address = self.order.pop_front()?;
        let line = self.of.get_mut(&address)?;
        let (_, sender) = line.pop_front()?;
        if line.is_empty() {
            self.of.remove(&address);
        } else {
            self.order.push_back(address);
        }
        Some(sender)
    }

    fn remove(&mut self, address: IpAddr, id: u64) {
        let Some(line) = self.of.get_mut(&address) else { return };
        line.retain(|(other, _)| *other != id);
        if line.is_empty() {
            self.of.remove(&address);
            self.order.retain(|other| *other != address);
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let Some(turns) = self.0.take() else { return };
        loop {
            let next = {
                let mut lines = turns.0.lock();
                let next = lines.pop();
                lines.free += usize::from(next.is_none());
                next
            };
            let Some(sender) = next else { return };
            match sender.send(Turn(Some(Arc::clone(&turns)))) {
                Ok(()) => return,
                // It has gone meanwhile: the turn is still this one's to give.
                Err(mut turn) => turn.0 = None,
            }
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.turns.0.lock().remove(self.address, self.id);
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use futures_util::poll;
    use tokio::task::JoinSet;

    use super::*;

    fn address(last: u8) -> IpAddr {
        Ipv4Addr::new(192, 0, 2, last).into()
    }

    #[tokio::test]
    async fn turns_go_round_the_addresses() {
        let turns = Turns::new(1);
        let first = turns.wait(address(9)).await;
        let (mut waiting, order) = (JoinSet::new(), Arc::new(Mutex::new(Vec::new())));
        for (number, last) in [1, 1, 1, 2, 2, 3].into_iter().enumerate() {
            let (turns, order) = (Arc::clone(&turns), Arc::clone(&order));
            let from = Arc::clone(&turns);
            waiting.spawn(async move {
                let turn = turns.wait(address(last)).await;
                order.lock().push(last);
                drop(turn);
            });
            while from.waiting() <= number {
                tokio::task::yield_now().await;
            }
        }
        drop(first);
        waiting.join_all().await;
        assert_eq!(*order.lock(), [1, 2, 3, 1, 2, 1]);
        assert_eq!((turns.free(), turns.waiting()), (1, 0));
    }

    #[tokio::test]
    async fn who_goes_away_leaves_nothing_and_takes_no_turn_along() {
        let turns = Turns::new(2);
        let (one, other) = (turns.wait(address(1)).await, turns.wait(address(1)).await);
        let mut gone = Box::pin(turns.wait(address(1)));
        let mut given = Box::pin(turns.wait(address(2)));
        let mut last = Box::pin(turns.wait(address(3)));
        for waiting in [&mut gone, &mut given, &mut last] {
            assert!(poll!(waiting).is_pending());
        }
        assert_eq!(turns.waiting(), 3);
        drop(gone);
        assert_eq!(turns.waiting(), 2);
        // It has a turn and does not know it yet.
        drop(one);
        drop(given);
        let last = last.await;
        assert_eq!((turns.free(), turns.waiting()), (0, 0));
        // It goes at the moment at which it is its turn.
        let (sender, receiver) = oneshot::channel();
        turns.0.lock().push(address(4), sender);
        drop(receiver);
        drop((last, other));
        assert_eq!((turns.free(), turns.waiting()), (2, 0));
    }
}
