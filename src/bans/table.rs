//! Bans that are in force. It is told the time.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use bytestring::ByteString;
use foldhash::HashMap;
use mqtt_access::{AccountId, Network};

use crate::network::network_of;

/// Bans of a sidecar that are in force, those of the configuration left out; as many are watched.
pub(super) const BANS_MAX: usize = 65_536;

/// A moment, milliseconds since the start of the process.
pub(super) type Millis = u64;

pub(super) fn millis(duration: Duration) -> Millis {
    Millis::try_from(duration.as_millis()).unwrap_or(Millis::MAX)
}

/// Whom a ban is of. The account is nameless when it is the home account.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Whom {
    /// Everybody in a network.
    Address(Network),
    /// A client id of an account, of one user or whoever it is.
    Client(AccountId, ByteString, Option<Box<str>>),
    /// A user of an account.
    User(AccountId, Box<str>),
}

impl fmt::Display for Whom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, account, name) = match self {
            Self::Address(network) => return write!(f, "address {network}"),
            Self::Client(account, client_id, _) => ("client", account, &**client_id),
            Self::User(account, user) => ("user", account, &**user),
        };
        write!(f, "{kind} {}", name.escape_debug())?;
        if let Self::Client(_, _, Some(user)) = self {
            write!(f, " of user {}", user.escape_debug())?;
        }
        if account.is_empty() { Ok(()) } else { write!(f, " of account {}", account.as_str().escape_debug()) }
    }
}

/// A ban.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ban {
    /// When it is over; `None`: never.
    pub(super) until: Option<Millis>,
    /// It was made here, and nobody else has said the same yet.
    pub(super) is_ours: bool,
}

impl Ban {
    fn is_in_force(&self, now: Millis) -> bool {
        self.until.is_none_or(|until| now < until)
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Table {
    max: usize,
    /// Networks that are what counts as one address, which are found at once.
    addresses: HashMap<IpAddr, Ban>,
    /// All others.
    networks: Vec<(Network, Ban)>,
    clients: HashMap<ClientKey, Ban>,
    users: HashMap<(AccountId, Box<str>), Ban>,
}

/// A client id of an account, and of a user.
type ClientKey = (AccountId, ByteString, Option<Box<str>>);

/// The address that a network is.
fn single(network: &Network) -> Option<IpAddr> {
    let is_single = matches!((network.address(), network.prefix()), (IpAddr::V4(_), 32) | (IpAddr::V6(_), 64));
    is_single.then(|| network_of(network.address()))
}

impl Table {
    pub(super) fn new(max: usize) -> Self {
        Self { max, ..Self::default() }
    }

    /// How many there are of addresses, clients and users, those that are over included.
    pub(super) fn counts(&self) -> [usize; 3] {
        [self.addresses.len() + self.networks.len(), self.clients.len(), self.users.len()]
    }

    /// One more, or another end for one that is there. False when there is no room.
    pub(super) fn put(&mut self, whom: Whom, ban: Ban, now: Millis) -> bool {
        if self.counts().iter().sum::<usize>() >= self.max {
            self.sweep(now);
        }
        let is_full = self.counts().iter().sum::<usize>() >= self.max;
        if is_full && !self.is_known(&whom) {
            return false;
        }
        match whom {
            Whom::Address(network) => match single(&network) {
                Some(addr) => drop(self.addresses.insert(addr, ban)),
                None => match self.networks.iter_mut().find(|(known, _)| *known == network) {
                    Some((_, known)) => *known = ban,
                    None => self.networks.push((network, ban)),
                },
            },
            Whom::Client(account, id, user) => drop(self.clients.insert((account, id, user), ban)),
            Whom::User(account, user) => drop(self.users.insert((account, user), ban)),
        }
        true
    }

    pub(super) fn remove(&mut self, whom: &Whom) {
        match whom {
            Whom::Address(network) => match single(network) {
                Some(addr) => drop(self.addresses.remove(&addr)),
                None => self.networks.retain(|(known, _)| known != network),
            },
            Whom::Client(account, id, user) => {
                self.clients.remove(&(account.clone(), id.clone(), user.clone()));
            }
            Whom::User(account, user) => drop(self.users.remove(&(account.clone(), user.clone()))),
        }
    }

    /// Whether somebody is banned until this end, or for longer.
    pub(super) fn lasts_until(&self, whom: &Whom, until: Millis) -> bool {
        self.find(whom).is_some_and(|ban| ban.until.is_none_or(|end| end >= until))
    }

    /// Whether a client or a user is banned.
    pub(super) fn has(&self, whom: &Whom, now: Millis) -> bool {
        self.find(whom).is_some_and(|ban| ban.is_in_force(now))
    }

    /// Whether an address is banned.
    pub(super) fn has_address(&self, addr: IpAddr, now: Millis) -> bool {
        let is_single = || self.addresses.get(&network_of(addr)).is_some_and(|ban| ban.is_in_force(now));
        let is_in = |(network, ban): &(Network, Ban)| ban.is_in_force(now) && network.contains(addr);
        !self.addresses.is_empty() && is_single() || self.networks.iter().any(is_in)
    }

    fn is_known(&self, whom: &Whom) -> bool {
        self.find(whom).is_some()
    }

    fn find(&self, whom: &Whom) -> Option<&Ban> {
        match whom {
            Whom::Address(network) => match single(network) {
                Some(addr) => self.addresses.get(&addr),
                None => self.networks.iter().find(|(known, _)| known == network).map(|(_, ban)| ban),
            },
            Whom::Client(account, id, user) => self.clients.get(&(account.clone(), id.clone(), user.clone())),
            Whom::User(account, user) => self.users.get(&(account.clone(), user.clone())),
        }
    }

    /// Forgets all but these, and ours.
    pub(super) fn retain(&mut self, is_known: impl Fn(&Whom) -> bool) {
        let is_kept = |ban: &Ban, whom: &dyn Fn() -> Whom| ban.is_ours || is_known(&whom());
        let network = |addr: &IpAddr| Network::of(*addr, if addr.is_ipv4() { 32 } else { 64 });
        self.addresses.retain(|addr, ban| is_kept(ban, &|| Whom::Address(network(addr))));
        self.networks.retain(|(network, ban)| is_kept(ban, &|| Whom::Address(*network)));
        self.clients.retain(|(account, id, user), ban| {
            is_kept(ban, &|| Whom::Client(account.clone(), id.clone(), user.clone()))
        });
        self.users.retain(|(account, user), ban| is_kept(ban, &|| Whom::User(account.clone(), user.clone())));
    }

    /// Forgets those that are over. Whether there were any.
    pub(super) fn sweep(&mut self, now: Millis) -> bool {
        let before = self.counts();
        self.addresses.retain(|_, ban| ban.is_in_force(now));
        self.networks.retain(|(_, ban)| ban.is_in_force(now));
        self.clients.retain(|_, ban| ban.is_in_force(now));
        self.users.retain(|_, ban| ban.is_in_force(now));
        before != self.counts()
    }
}
