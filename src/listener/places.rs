//! Places that addresses take: one for each connection, and one for each that has not completed CONNECT.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;

use foldhash::HashMap;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::network::network_of;

/// Connections that have not completed CONNECT. At the limit a newcomer takes the place of the one that has waited for longest
/// among those of the address that has most of them, so that whoever opens many delays nobody else.
#[derive(Debug)]
pub(super) struct Handshakes {
    max: usize,
    places: Mutex<Places>,
}

#[derive(Debug, Default)]
struct Places {
    of: HashMap<IpAddr, VecDeque<(u64, CancellationToken)>>,
    count: usize,
    next: u64,
}

impl Places {
    /// Whether it was there.
    fn remove(&mut self, addr: IpAddr, id: u64) -> bool {
        let Some(places) = self.of.get_mut(&addr) else { return false };
        let before = places.len();
        places.retain(|(other, _)| *other != id);
        let removed = before - places.len();
        self.count -= removed;
        if places.is_empty() {
            self.of.remove(&addr);
        }
        removed > 0
    }

    /// Takes one away.
    fn evict(&mut self) -> Option<CancellationToken> {
        let addr = *self.of.iter().max_by_key(|(_, places)| places.len())?.0;
        let (id, token) = self.of.get(&addr)?.front()?.clone();
        self.remove(addr, id);
        Some(token)
    }
}

impl Handshakes {
    pub(super) fn new(max: u32) -> Arc<Self> {
        Arc::new(Self { max: usize::try_from(max).unwrap_or(usize::MAX), places: Mutex::default() })
    }

    /// A place for a connection, and whether another one has lost its own for it.
    pub(super) fn enter(self: &Arc<Self>, addr: IpAddr) -> (Handshake, bool) {
        let (addr, evicted) = (network_of(addr), CancellationToken::new());
        let mut places = self.places.lock();
        let loser = if places.count >= self.max { places.evict() } else { None };
        let id = places.next;
        places.next += 1;
        places.count += 1;
        places.of.entry(addr).or_default().push_back((id, evicted.clone()));
        drop(places);
        if let Some(loser) = &loser {
            loser.cancel();
        }
        (Handshake(Some(Place { table: Arc::clone(self), addr, id, evicted })), loser.is_some())
    }
}

/// A place among the connections that have not completed CONNECT, of which there is a limited number. Given back by
/// [`Handshake::complete`], or when it is dropped.
#[derive(Debug, Default)]
pub struct Handshake(Option<Place>);

#[derive(Debug)]
struct Place {
    table: Arc<Handshakes>,
    addr: IpAddr,
    id: u64,
    evicted: CancellationToken,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.table.places.lock().remove(self.addr, self.id);
    }
}

impl Handshake {
    /// The client is known: makes room for the next one.
    pub fn complete(&mut self) {
        self.0 = None;
    }

    /// It is of another address, as is known now, in the order in which connections were taken.
    pub(super) fn move_to(&mut self, addr: IpAddr) {
        let Some(place) = &mut self.0 else { return };
        let (table, addr) = (Arc::clone(&place.table), network_of(addr));
        let mut places = table.places.lock();
        // Who has lost its place meanwhile gets none again.
        if !places.remove(place.addr, place.id) {
            return;
        }
        let of = places.of.entry(addr).or_default();
        let at = of.partition_point(|(id, _)| *id < place.id);
        of.insert(at, (place.id, place.evicted.clone()));
        places.count += 1;
        place.addr = addr;
    }

    /// Waits until somebody else has the place: the connection is to be closed. Never after [`Handshake::complete`].
    pub async fn evicted(&self) {
        match &self.0 {
            Some(place) => place.evicted.cancelled().await,
            None => std::future::pending().await,
        }
    }
}

/// Connections of each address, of which there is a limited number.
#[derive(Debug, Default)]
pub(super) struct Addresses(Mutex<HashMap<IpAddr, u32>>);

impl Addresses {
    /// Counts a connection until the guard is dropped; `None` when there are too many. `most`: 0 is as many as it wants, which are
    /// not counted, so that those that are there when a limit comes are beside it.
    pub(super) fn enter(self: &Arc<Self>, addr: IpAddr, most: u32) -> Option<Counted> {
        if most == 0 {
            return Some(Counted(None));
        }
        let addr = network_of(addr);
        let mut counts = self.0.lock();
        let count = counts.entry(addr).or_default();
        if *count >= most {
            return None;
        }
        *count += 1;
        Some(Counted(Some((Arc::clone(self), addr))))
    }
}

/// A connection that is counted.
#[derive(Debug)]
pub(super) struct Counted(Option<(Arc<Addresses>, IpAddr)>);

impl Drop for Counted {
    fn drop(&mut self) {
        let Some((addresses, addr)) = &self.0 else { return };
        let mut counts = addresses.0.lock();
        if let Some(count) = counts.get_mut(addr) {
            *count -= 1;
            if *count == 0 {
                counts.remove(addr);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    fn is_evicted(handshake: &Handshake) -> bool {
        handshake.0.as_ref().is_some_and(|place| place.evicted.is_cancelled())
    }

    #[test]
    fn the_oldest_of_the_address_that_has_most_loses_its_place() {
        let table = Handshakes::new(4);
        let other = table.enter(addr(1)).0;
        let many: Vec<Handshake> = (0..3).map(|_| table.enter(addr(2)).0).collect();
        let (newcomer, has_evicted) = table.enter(addr(3));
        assert!(has_evicted);
        assert_eq!(many.iter().map(is_evicted).collect::<Vec<_>>(), [true, false, false]);
        assert!(!is_evicted(&other) && !is_evicted(&newcomer));
        assert_eq!(table.places.lock().count, 4);
        drop((other, many, newcomer));
        let places = table.places.lock();
        assert_eq!((places.count, places.of.len()), (0, 0));
    }

    #[test]
    fn a_completed_handshake_makes_room() {
        let table = Handshakes::new(1);
        let (mut first, _) = table.enter(addr(1));
        first.complete();
        let (_second, has_evicted) = table.enter(addr(1));
        assert!(!has_evicted && !is_evicted(&first));
    }

    #[test]
    fn a_place_is_moved_in_its_order_and_never_back_to_who_lost_it() {
        let table = Handshakes::new(3);
        let enter = |last| table.enter(addr(last)).0;
        let (mut proxied, second, third) = (enter(9), enter(1), enter(1));
        proxied.move_to(addr(1));
        // It came first.
        let _fourth = enter(2);
        assert!(is_evicted(&proxied) && !is_evicted(&second) && !is_evicted(&third));
        proxied.move_to(addr(2));
        drop((proxied, second, third));
        assert_eq!(table.places.lock().count, 1);
        assert_eq!(table.places.lock().of.len(), 1);
    }

    #[test]
    fn an_address_has_so_many_connections_and_no_more() {
        let addresses = Arc::<Addresses>::default();
        let enter = |addr| addresses.enter(addr, 2);
        let [first, second] = [enter(addr(1)), enter(addr(1))];
        assert!(first.is_some() && second.is_some() && enter(addr(1)).is_none());
        assert!(enter(addr(2)).is_some());
        drop(first);
        assert!(enter(addr(1)).is_some());
        let network = |last| IpAddr::from([0x2001, 0xdb8, 0, 1, 0, 0, 0, last]);
        let held = [enter(network(1)), enter(network(2))];
        assert!(held.iter().all(Option::is_some) && enter(network(3)).is_none(), "one network of 64 bits");
    }
}
