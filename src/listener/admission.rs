//! Who is let in, as far as numbers go: connections, of all listeners, of one, and of an address, and how many are taken in a
//! second. The limits can change while listeners are open; a lower one ends nobody.
//!
//! What belongs to an address can be taken for another one later ([`Gate::move_to`]), when it is known who is behind a proxy; until
//! then a connection takes nothing of any rate.
//!
//! **Invariant:** whoever is refused takes nothing: places come first and are given back, and of rates it takes only when there is
//! everything else.
//!
//! Whoever is refused is told so by CONNACK as long as that is cheap: so many a second, and so many at a time. What is beyond is
//! closed when it is accepted.

use std::net::IpAddr;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use parking_lot::{Mutex, RwLock};

use super::pacing::{self, Pacing};
use super::places::{Addresses, Counted};
use crate::config::Limits;
use crate::metrics::Limit;
use crate::network::network_of;
use crate::rate::{Allowance, Bucket, Nanos};

/// Refusals that are told in a second, of all listeners. What they cost a storm cannot make more.
const TOLD_PER_SECOND: NonZeroU64 = NonZeroU64::new(100).unwrap();

/// Connections that wait for that at a time.
const TOLD_AT_ONCE: u32 = 64;

/// Limits that can be replaced at any time.
#[derive(Debug, Default)]
pub struct LimitsInForce(RwLock<Limits>);

impl LimitsInForce {
    pub(super) const fn new(limits: Limits) -> Self {
        Self(RwLock::new(limits))
    }

    /// Those that count now.
    #[must_use]
    pub fn get(&self) -> Limits {
        *self.0.read()
    }

    /// These count from now on, for whoever comes. Whether they are others than before: those who are there are to look again.
    pub fn set(&self, limits: Limits) -> bool {
        std::mem::replace(&mut *self.0.write(), limits) != limits
    }
}

/// What all listeners share.
#[derive(Debug)]
pub(super) struct Hall {
    began: Instant,
    /// Connections of all of them, resolved: never 0.
    connections_max: AtomicU32,
    connections: Arc<AtomicU32>,
    addresses: Arc<Addresses>,
    pacing: Pacing,
    told: Mutex<Bucket>,
    telling: Arc<AtomicU32>,
}

/// Where those come in who come to one listener.
#[derive(Debug)]
pub(super) struct Gate {
    hall: Arc<Hall>,
    limits: Arc<LimitsInForce>,
    connections: Arc<AtomicU32>,
    addresses: Arc<Addresses>,
    pacing: Pacing,
}

/// What a connection takes of the limits, until it is over.
#[derive(Debug)]
pub(super) struct Admitted {
    /// Of the hall, and of the listener.
    _places: [Place; 2],
    /// `None`: it is not known yet whose it is.
    _address: Option<Counted>,
    /// It has taken of the rate of all.
    is_paced: bool,
}

/// One more that is counted.
#[derive(Debug)]
struct Place(Arc<AtomicU32>);

impl Place {
    fn take(count: &Arc<AtomicU32>, most: u32) -> Option<Self> {
        let more = |taken: u32| (taken < most).then_some(taken + 1);
        count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some(Self(Arc::clone(count)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A connection that is told that it is refused.
#[derive(Debug)]
pub(super) struct Telling(#[expect(dead_code, reason = "given back when it is dropped")] Place);

impl Hall {
    /// `connections_max`: of all listeners.
    pub(super) fn new(connections_max: u32) -> Arc<Self> {
        Arc::new(Self {
            began: Instant::now(),
            connections_max: AtomicU32::new(connections_max),
            connections: Arc::default(),
            addresses: Arc::default(),
            pacing: Pacing::default(),
            told: Mutex::new(Bucket::new(Allowance::new(TOLD_PER_SECOND, None), 0)),
            telling: Arc::default(),
        })
    }

    /// So many connections there may be from now on.
    pub(super) fn set_connections_max(&self, most: u32) {
        self.connections_max.store(most, Ordering::Relaxed);
    }

    fn now(&self) -> Nanos {
        Nanos::try_from(self.began.elapsed().as_nanos()).unwrap_or(Nanos::MAX)
    }

    /// Whether whoever is refused now is told so.
    pub(super) fn tells(&self) -> Option<Telling> {
        let place = Place::take(&self.telling, TOLD_AT_ONCE)?;
        self.told.lock().take(self.now()).then_some(Telling(place))
    }
}

impl Gate {
    pub(super) fn new(hall: Arc<Hall>, limits: Arc<LimitsInForce>) -> Self {
        Self { hall, limits, connections: Arc::default(), addresses: Arc::default(), pacing: Pacing::default() }
    }

    /// Lets somebody in, or says what there is no more of. What is of the address comes first, so that whoever asks too often takes
    /// nothing from others; `None`: it is a proxy, and not known yet whose connection it is, which [`Gate::move_to`] or
    /// [`Gate::settle`] says later.
    pub(super) fn admit(&self, addr: Option<IpAddr>) -> Result<Admitted, Limit> {
        let limits = self.limits.get();
        let address = addr.map(|addr| self.address(addr, &limits)).transpose()?;
        let most = self.hall.connections_max.load(Ordering::Relaxed);
        let in_hall = Place::take(&self.hall.connections, most).ok_or(Limit::Connections)?;
        let most = limits.connections.unwrap_or(u32::MAX);
        let here = Place::take(&self.connections, most).ok_or(Limit::ListenerConnections)?;
        if addr.is_some() {
            self.pace(addr, true, &limits)?;
        }
        Ok(Admitted { _places: [in_hall, here], _address: address, is_paced: addr.is_some() })
    }

    /// This address is behind a connection: it counts for that one from now on. What it has taken stays when that one has too many.
    pub(super) fn move_to(&self, admitted: &mut Admitted, addr: IpAddr) -> Result<(), Limit> {
        let limits = self.limits.get();
        let address = self.address(addr, &limits)?;
        self.pace(Some(addr), !admitted.is_paced, &limits)?;
        (admitted._address, admitted.is_paced) = (Some(address), true);
        Ok(())
    }

    /// Nobody is behind a connection but the proxy itself: it counts for no address.
    pub(super) fn settle(&self, admitted: &mut Admitted) -> Result<(), Limit> {
        self.pace(None, !admitted.is_paced, &self.limits.get())?;
        admitted.is_paced = true;
        Ok(())
    }

    fn address(&self, addr: IpAddr, limits: &Limits) -> Result<Counted, Limit> {
        let addresses = if limits.scopes.per_address { &self.addresses } else { &self.hall.addresses };
        let most = limits.connections_per_address.unwrap_or(0);
        addresses.enter(network_of(addr), most).ok_or(Limit::ConnectionsPerAddress)
    }

    /// Takes of the rates: of that of an address, and of that of all.
    fn pace(&self, addr: Option<IpAddr>, of_all: bool, limits: &Limits) -> Result<(), Limit> {
        let pacing = |is_own: bool| if is_own { &self.pacing } else { &self.hall.pacing };
        let all = (pacing(limits.scopes.rate), limits.connection_rate.filter(|_| of_all));
        let of_address = (pacing(limits.scopes.rate_per_address), limits.connection_rate_per_address);
        pacing::take(all, addr.map(|addr| (network_of(addr), of_address)), self.hall.now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, LimitsConfig, Overrides};

    fn addr(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    /// Two listeners, of which the second has limits of its own.
    fn gates(all: &str, own: &str) -> [Gate; 2] {
        let text = format!("[limits]\n{all}\n[listeners.tcp.limits]\n{own}");
        let config = Config::assemble(Some(("f", &text)), &[], &Overrides::default()).unwrap();
        let (all, own, hall) = (config.limits, config.listeners.tcp[0].limits, Hall::new(100));
        [LimitsConfig::default(), own]
            .map(|own| Gate::new(Arc::clone(&hall), Arc::new(LimitsInForce::new(own.over(&all)))))
    }

    #[test]
    fn connections_are_counted_of_all_of_a_listener_and_of_an_address_until_they_are_over() {
        let [plain, own] = gates("connections_per_address = 2", "connections = 3\nconnections_per_address = 1");
        let held = [plain.admit(Some(addr(1))), plain.admit(Some(addr(1)))];
        assert!(held.iter().all(Result::is_ok));
        assert_eq!(plain.admit(Some(addr(1))).err(), Some(Limit::ConnectionsPerAddress));
        let here = own.admit(Some(addr(1))).unwrap();
        assert_eq!(own.admit(Some(addr(1))).err(), Some(Limit::ConnectionsPerAddress), "counted there only");
        let others = [own.admit(Some(addr(2))), own.admit(Some(addr(3)))];
        assert_eq!(own.admit(Some(addr(4))).err(), Some(Limit::ListenerConnections));
        plain.hall.set_connections_max(5);
        assert_eq!(plain.admit(Some(addr(5))).err(), Some(Limit::Connections), "five are there, and nobody ends");
        drop(here);
        assert!(plain.admit(Some(addr(5))).is_ok());
        drop((held, others));
        assert_eq!(plain.hall.connections.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn whoever_asks_too_often_takes_nothing_from_others() {
        let [gate, own] = gates(
            "connection_rate = \"1/s\"\nconnection_burst = 20\nconnection_rate_per_address = \"1/s\"\nconnection_burst_per_address = 3",
            "connection_rate = \"1/s\"",
        );
        let refused = (0..1_000).filter_map(|_| gate.admit(Some(addr(1))).err()).collect::<Vec<_>>();
        assert_eq!(refused.len(), 997);
        assert!(refused.iter().all(|limit| *limit == Limit::ConnectionRatePerAddress));
        assert!((2..19).all(|last| gate.admit(Some(addr(last))).is_ok()));
        assert_eq!(gate.admit(Some(addr(50))).err(), Some(Limit::ConnectionRate));
        assert!(own.admit(Some(addr(51))).is_ok());
        assert_eq!(own.admit(Some(addr(52))).err(), Some(Limit::ConnectionRate), "its own");
    }

    #[test]
    fn whoever_finds_no_place_takes_nothing_of_a_rate() {
        let [gate, _] = gates(
            "connection_rate = \"1/s\"\nconnection_burst = 3\nconnection_rate_per_address = \"1/s\"\nconnection_burst_per_address = 2",
            "",
        );
        gate.hall.set_connections_max(1);
        let held = gate.admit(Some(addr(1))).unwrap();
        assert!((0..10).all(|_| gate.admit(Some(addr(1))).err() == Some(Limit::Connections)));
        drop(held);
        assert!(gate.admit(Some(addr(1))).is_ok() && gate.admit(Some(addr(2))).is_ok());
        assert_eq!(gate.hall.connections.load(Ordering::Relaxed), 0, "whoever is refused gives back what it has");
        assert_eq!(gate.admit(Some(addr(1))).err(), Some(Limit::ConnectionRatePerAddress));
        assert_eq!(gate.admit(Some(addr(3))).err(), Some(Limit::ConnectionRate));
        assert_eq!(gate.hall.connections.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn the_rate_is_taken_when_it_is_known_whose_a_connection_is_and_once() {
        let [gate, _] = gates("connection_rate = \"1/s\"\nconnection_burst = 3", "");
        let mut unknown: Vec<_> = (0..5).map(|_| gate.admit(None).unwrap()).collect();
        let mut direct = gate.admit(Some(addr(1))).unwrap();
        assert!(gate.move_to(&mut direct, addr(2)).is_ok(), "it has taken of the rate");
        let [first, second, third, ..] = &mut *unknown else { unreachable!() };
        assert_eq!((gate.settle(first), gate.settle(first)), (Ok(()), Ok(())));
        assert!(gate.move_to(second, addr(3)).is_ok() && gate.move_to(second, addr(4)).is_ok());
        assert_eq!(gate.move_to(third, addr(5)), Err(Limit::ConnectionRate));
        assert_eq!(gate.settle(third), Err(Limit::ConnectionRate));
    }

    #[test]
    fn a_burst_of_one_listener_is_nothing_to_the_others() {
        let [plain, own] = gates("connection_rate = \"1/s\"\nconnection_burst = 20", "connection_burst = 1");
        assert!(own.admit(Some(addr(1))).is_ok());
        assert_eq!(own.admit(Some(addr(1))).err(), Some(Limit::ConnectionRate));
        assert!((0..20).all(|_| plain.admit(Some(addr(2))).is_ok()));
    }

    #[test]
    fn a_connection_counts_for_who_is_behind_it_once_that_is_known() {
        let [gate, _] = gates("connections_per_address = 1", "");
        let mut proxied = gate.admit(Some(addr(1))).unwrap();
        assert!(gate.admit(Some(addr(1))).is_err());
        gate.move_to(&mut proxied, addr(2)).unwrap();
        let _direct = gate.admit(Some(addr(1))).unwrap();
        assert_eq!(gate.admit(Some(addr(2))).err(), Some(Limit::ConnectionsPerAddress));
        let mut third = gate.admit(Some(addr(3))).unwrap();
        assert_eq!(gate.move_to(&mut third, addr(2)), Err(Limit::ConnectionsPerAddress));
        assert!(gate.admit(Some(addr(3))).is_err(), "it keeps what it had");
    }

    #[test]
    fn limits_change_for_whoever_comes() {
        let [gate, _] = gates("connections_per_address = 2", "");
        let _held = [gate.admit(Some(addr(1))).unwrap(), gate.admit(Some(addr(1))).unwrap()];
        gate.limits.set(Limits { connections_per_address: Some(1), ..Limits::default() });
        assert!(gate.admit(Some(addr(1))).is_err() && gate.admit(Some(addr(2))).is_ok());
        gate.limits.set(Limits { connections_per_address: Some(3), ..Limits::default() });
        assert!(gate.admit(Some(addr(1))).is_ok());
    }

    #[test]
    fn refusals_are_told_to_so_many() {
        let hall = Hall::new(1);
        let told: Vec<_> = std::iter::from_fn(|| hall.tells()).take(1_000).collect();
        assert_eq!(told.len(), 64);
        drop(told);
        let again = (0..1_000).filter(|_| hall.tells().is_some()).count();
        assert!((36..60).contains(&again), "{again} of the hundred of this second are left");
    }
}
