//! Bans that are in force. It is told the time.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use bytestring::ByteString;
use foldhash::HashMap;
use mqtt_access::{AccountId, Network};

use crate::metrics::BanKind;
use crate::network::network_of;

/// Bans of operators that are in force on a sidecar, those of the configuration left out; as many are watched.
pub(super) const BANS_MAX: usize = 65_536;

/// Bans of rules, which take no room of those.
pub(super) const BY_RULES_MAX: usize = 32_768;

/// Those that are over are looked for at most so often to make room.
const SWEEP_EVERY_MS: Millis = 1_000;

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
    /// A client id of an account and a user, from one address, or what counts as one.
    ClientAt(AccountId, ByteString, Box<str>, IpAddr),
    /// A user of an account.
    User(AccountId, Box<str>),
}

impl Whom {
    /// What kind of ban it is.
    pub(crate) const fn kind(&self) -> BanKind {
        match self {
            Self::Address(_) => BanKind::Address,
            Self::Client(..) | Self::ClientAt(..) => BanKind::Client,
            Self::User(..) => BanKind::User,
        }
    }
}

impl fmt::Display for Whom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, account, name) = match self {
            Self::Address(network) => return write!(f, "address {network}"),
            Self::Client(account, client_id, _) | Self::ClientAt(account, client_id, ..) => {
                ("client", account, &**client_id)
            }
            Self::User(account, user) => ("user", account, &**user),
        };
        write!(f, "{kind} {}", name.escape_debug())?;
        if let Self::Client(_, _, Some(user)) | Self::ClientAt(_, _, user, _) = self {
            write!(f, " of user {}", user.escape_debug())?;
        }
        if let Self::ClientAt(.., addr) = self {
            write!(f, " at {addr}")?;
        }
        if account.is_empty() { Ok(()) } else { write!(f, " of account {}", account.as_str().escape_debug()) }
    }
}

/// Who has banned somebody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum By {
    /// A person, in the configuration or in the bucket.
    Operator,
    /// A sidecar, by a rule.
    Rule,
}

/// A ban.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ban {
    /// When it is over; `None`: never.
    pub(super) until: Option<Millis>,
    pub(super) by: By,
    /// It was made here, and nobody else has said the same yet.
    pub(super) is_ours: bool,
}

impl Ban {
    fn is_in_force(&self, now: Millis) -> bool {
        self.until.is_none_or(|until| now < until)
    }
}

/// How many bans a table has room for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    pub(super) of_operators: usize,
    pub(super) of_rules: usize,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Table {
    room: Room,
    bans: HashMap<Whom, Ban>,
    /// Networks that are not what counts as one address, which is found at once.
    networks: Vec<Network>,
    counts: Counts,
    /// When it was last looked for those that are over.
    swept: Option<Millis>,
}

/// How many bans there are, those that are over included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    of_kinds: [usize; 3],
    of_rules: usize,
}

impl Counts {
    fn add(&mut self, whom: &Whom, ban: Ban) {
        if let Some(count) = self.of_kinds.get_mut(whom.kind() as usize) {
            *count += 1;
        }
        self.of_rules += usize::from(ban.by == By::Rule);
    }

    fn subtract(&mut self, whom: &Whom, ban: Ban) {
        if let Some(count) = self.of_kinds.get_mut(whom.kind() as usize) {
            *count -= 1;
        }
        self.of_rules -= usize::from(ban.by == By::Rule);
    }
}

/// What counts as one address.
fn single(addr: IpAddr) -> Whom {
    let addr = network_of(addr);
    Whom::Address(Network::of(addr, if addr.is_ipv4() { 32 } else { 64 }))
}

/// The network of a ban that is of more than what counts as one address, or of less.
fn wide(whom: &Whom) -> Option<Network> {
    match whom {
        Whom::Address(network) if single(network.address()) != *whom => Some(*network),
        Whom::Address(_) | Whom::Client(..) | Whom::ClientAt(..) | Whom::User(..) => None,
    }
}

impl Table {
    pub(super) fn new(room: Room) -> Self {
        Self { room, bans: HashMap::default(), networks: Vec::new(), counts: Counts::default(), swept: None }
    }

    /// How many there are of addresses, clients and users, those that are over included.
    pub(super) const fn counts(&self) -> [usize; 3] {
        self.counts.of_kinds
    }

    fn has_room(&self, by: By) -> bool {
        let of_rules = self.counts.of_rules;
        match by {
            By::Operator => self.bans.len() - of_rules < self.room.of_operators,
            By::Rule => of_rules < self.room.of_rules,
        }
    }

    /// One more, or another end for one that is there. False when there is no room.
    pub(super) fn put(&mut self, whom: Whom, ban: Ban, now: Millis) -> bool {
        if self.bans.get(&whom).is_none_or(|known| known.by != ban.by) && !self.has_room(ban.by) {
            self.make_room(now);
            if !self.has_room(ban.by) {
                return false;
            }
        }
        self.counts.add(&whom, ban);
        match self.bans.insert(whom.clone(), ban) {
            Some(before) => self.counts.subtract(&whom, before),
            None => self.networks.extend(wide(&whom)),
        }
        true
    }

    pub(super) fn remove(&mut self, whom: &Whom) {
        if let Some(ban) = self.bans.remove(whom) {
            self.counts.subtract(whom, ban);
            if let Some(network) = wide(whom) {
                self.networks.retain(|known| *known != network);
            }
        }
    }

    /// Whether somebody is banned until this end, or for longer.
    pub(super) fn lasts_until(&self, whom: &Whom, until: Millis) -> bool {
        self.bans.get(whom).is_some_and(|ban| ban.until.is_none_or(|end| end >= until))
    }

    /// Whether a client or a user is banned.
    pub(super) fn has(&self, whom: &Whom, now: Millis) -> bool {
        self.bans.get(whom).is_some_and(|ban| ban.is_in_force(now))
    }

    /// Whether an address is banned.
    pub(super) fn has_address(&self, addr: IpAddr, now: Millis) -> bool {
        let is_in = |network: &Network| network.contains(addr) && self.has(&Whom::Address(*network), now);
        self.counts.of_kinds.first().is_some_and(|addresses| *addresses > 0)
            && (self.has(&single(addr), now) || self.networks.iter().any(is_in))
    }

    /// Forgets all but these, and ours.
    pub(super) fn retain(&mut self, is_known: impl Fn(&Whom) -> bool) {
        self.bans.retain(|whom, ban| ban.is_ours || is_known(whom));
        self.index();
    }

    /// Forgets those that are over. Whether there were any.
    pub(super) fn sweep(&mut self, now: Millis) -> bool {
        let before = self.bans.len();
        self.swept = Some(now);
        self.bans.retain(|_, ban| ban.is_in_force(now));
        let is_less = self.bans.len() < before;
        if is_less {
            self.index();
        }
        is_less
    }

    /// A flood of bans for which there is no room does not have all be looked at for each.
    fn make_room(&mut self, now: Millis) {
        if self.swept.is_none_or(|swept| now.saturating_sub(swept) >= SWEEP_EVERY_MS) {
            self.sweep(now);
        }
    }

    /// Some are gone.
    fn index(&mut self) {
        let Self { networks, bans, counts, .. } = self;
        networks.retain(|network| bans.contains_key(&Whom::Address(*network)));
        *counts = Counts::default();
        bans.iter().for_each(|(whom, ban)| counts.add(whom, *ban));
    }
}
