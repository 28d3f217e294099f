//! Who may not connect: an address, a client id or a user of an account, for some time or for ever. By the configuration, by an
//! operator in the bucket of bans, by another sidecar, or by ourselves, when somebody connects, fails to log in or breaks the
//! protocol too often.
//!
//! # Layout
//! - `table`: the bans that are in force; `strikes`: who has done something too often.
//! - Here: both together, for whoever lets clients in. Nothing is read, written or ended here: who does follows [`Bans::changes`] and
//!   takes [`Bans::take_made`].
//!
//! **Invariant:** whatever hostile clients choose, there are at most `BY_RULES_MAX` bans by rules, which take no room of those of
//! operators, `BANS_MAX`; and as many as those are watched.
//!
//! **Invariant:** while nobody is banned, it costs an atomic load to know that somebody is not.
//!
//! **Invariant:** whoever takes a ban from [`Bans::take_fresh`] finds it in force, and so does whoever connects later: a ban is in
//! its table, then in the counts, then among the fresh ones, and only then [`Bans::changes`] says so.

mod strikes;
mod table;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytestring::ByteString;
use mqtt_access::{AccountId, Network};
use parking_lot::{Mutex, RwLock};
use proto_map::client_of;
use tokio::sync::watch;

use self::strikes::{Rule, Strikes};
use self::table::{BANS_MAX, BY_RULES_MAX, Ban, Millis, Room, Table, millis};
pub(crate) use self::table::{By, Whom};
use crate::config::{BanConfig, BansConfig};
use crate::metrics::{BanCause, BanKind, Metrics};
use crate::network::network_of;

/// Bans that wait to be written. What is beyond stays a ban of this sidecar.
const UNWRITTEN_MAX: usize = 4_096;

/// The configuration is as long as it is.
const NO_LIMIT: Room = Room { of_operators: usize::MAX, of_rules: 0 };

/// A ban that was made here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Made {
    /// Whom it is of.
    pub(crate) whom: Whom,
    /// How long it is from now.
    pub(crate) left: Duration,
    /// Why, for people.
    pub(crate) cause: BanCause,
}

/// Whom to look for among those who are connected.
#[derive(Debug, Default)]
pub(crate) struct Fresh {
    /// These.
    pub(crate) some: Vec<Whom>,
    /// There are too many to be named: everybody is looked at.
    pub(crate) is_everybody: bool,
}

impl Fresh {
    fn push(&mut self, whom: Whom) {
        if self.some.len() < UNWRITTEN_MAX { self.some.push(whom) } else { self.is_everybody = true }
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Bans {
    began: Instant,
    /// What the home account is called, which has no name in bans.
    home: Option<AccountId>,
    /// Of the configuration.
    configured: RwLock<Table>,
    /// All others.
    shared: RwLock<Table>,
    /// How many there are of each kind, of both.
    counts: [AtomicUsize; 3],
    /// Held while those are counted and written down, so that what is written last was counted last.
    counting: Mutex<()>,
    flapping: Mutex<Strikes<Whom>>,
    failed_logins: Mutex<Strikes<IpAddr>>,
    violations: Mutex<Strikes<IpAddr>>,
    /// There is, or was, a listener with a mount point.
    has_mounts: AtomicBool,
    /// Those of whom somebody may be connected.
    fresh: Mutex<Fresh>,
    /// To be written, with when they were made. Whether they are, and when, is nothing to whether they are in force.
    unwritten: Mutex<Vec<(Made, Millis)>>,
    changes: watch::Sender<u64>,
    metrics: Arc<Metrics>,
}

impl Bans {
    /// Nobody is banned, and what is counted is shown to nobody.
    pub(crate) fn none() -> Arc<Self> {
        Self::new(&BansConfig::default(), None, Metrics::new())
    }

    /// `home`: what the home account is called, where that is known.
    pub(crate) fn new(config: &BansConfig, home: Option<&str>, metrics: Arc<Metrics>) -> Arc<Self> {
        let bans = Self {
            began: Instant::now(),
            home: home.map(AccountId::new),
            configured: RwLock::new(Table::new(NO_LIMIT)),
            shared: RwLock::new(Table::new(Room { of_operators: BANS_MAX, of_rules: BY_RULES_MAX })),
            counts: Default::default(),
            counting: Mutex::default(),
            flapping: Mutex::default(),
            failed_logins: Mutex::default(),
            violations: Mutex::default(),
            has_mounts: AtomicBool::new(false),
            fresh: Mutex::default(),
            unwritten: Mutex::default(),
            changes: watch::Sender::default(),
            metrics,
        };
        bans.configure(config);
        Arc::new(bans)
    }

    /// What the configuration says now. Bans that were made by a rule stay.
    pub(crate) fn configure(&self, config: &BansConfig) {
        let now = self.now();
        let mut table = Table::new(NO_LIMIT);
        for ban in &config.list {
            let until = ban.duration.map(|duration| now.saturating_add(millis(duration.get())));
            table.put(self.whom(ban), Ban { until, by: By::Operator, is_ours: false }, now);
        }
        *self.configured.write() = table;
        self.count();
        self.fresh.lock().is_everybody = true;
        self.flapping.lock().set_rule(Rule::of(&config.flapping));
        self.failed_logins.lock().set_rule(Rule::of(&config.failed_logins));
        self.violations.lock().set_rule(Rule::of(&config.violations));
        self.notify();
    }

    fn whom(&self, ban: &BanConfig) -> Whom {
        let named = AccountId::new(&ban.account);
        let account = if self.home.as_ref() == Some(&named) { AccountId::new("") } else { named };
        match (&ban.address, &ban.client_id, &ban.user) {
            (Some(address), ..) => Whom::Address(*address),
            (None, Some(client_id), _) => Whom::Client(account, client_id.as_str().into(), None),
            (None, None, user) => Whom::User(account, user.as_deref().unwrap_or_default().into()),
        }
    }

    /// A listener has a mount point: a client id may be that of several sessions from now on.
    pub(crate) fn expect_mounts(&self) {
        self.has_mounts.store(true, Ordering::Relaxed);
    }

    /// Whether a client id may be that of several sessions.
    pub(crate) fn has_mounts(&self) -> bool {
        self.has_mounts.load(Ordering::Relaxed)
    }

    fn now(&self) -> Millis {
        millis(self.began.elapsed())
    }

    /// Changes whenever somebody is banned who was not, or not any more.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// A table is different: what it has is counted.
    fn count(&self) {
        let _counting = self.counting.lock();
        let (configured, shared) = (self.configured.read().counts(), self.shared.read().counts());
        let both = configured.into_iter().zip(shared).map(|(configured, shared)| configured + shared);
        for ((count, all), kind) in self.counts.iter().zip(both).zip(BanKind::ALL) {
            count.store(all, Ordering::Relaxed);
            self.metrics.bans.in_force(kind, all);
        }
    }

    fn notify(&self) {
        self.changes.send_modify(|version| *version += 1);
    }

    fn has_some(&self, kind: BanKind) -> bool {
        self.counts.get(kind as usize).is_some_and(|count| count.load(Ordering::Relaxed) > 0)
    }

    /// Whether an address is banned.
    pub(crate) fn is_address_banned(&self, addr: IpAddr) -> bool {
        self.has_some(BanKind::Address) && {
            let now = self.now();
            self.configured.read().has_address(addr, now) || self.shared.read().has_address(addr, now)
        }
    }

    /// Whether a client of an account is banned, by its client id or its user. The account is nameless when it is the home account.
    /// `session_name`: the client id, with the mount point of its listener; a ban may be of either.
    pub(crate) fn of_client(
        &self,
        account: &AccountId,
        user: &str,
        session_name: &ByteString,
        addr: Option<IpAddr>,
    ) -> Option<BanKind> {
        let is_banned =
            |whom: Whom, now: Millis| self.configured.read().has(&whom, now) || self.shared.read().has(&whom, now);
        let now = self.now();
        let (mount_point, client_id) = client_of(session_name);
        if self.has_some(BanKind::Client) && !client_id.is_empty() {
            let plain = mount_point.map(|_| ByteString::from(client_id));
            for name in [Some(session_name.clone()), plain].into_iter().flatten() {
                let of_user = Whom::Client(account.clone(), name.clone(), Some(user.into()));
                let at = addr.map(|addr| Whom::ClientAt(account.clone(), name.clone(), user.into(), network_of(addr)));
                let of_all = Whom::Client(account.clone(), name, None);
                if [Some(of_all), Some(of_user), at].into_iter().flatten().any(|whom| is_banned(whom, now)) {
                    return Some(BanKind::Client);
                }
            }
        }
        let is_of_user = self.has_some(BanKind::User) && !user.is_empty();
        (is_of_user && is_banned(Whom::User(account.clone(), user.into()), now)).then_some(BanKind::User)
    }

    /// The same with its address.
    pub(crate) fn judge(
        &self,
        addr: Option<IpAddr>,
        account: &AccountId,
        user: &str,
        session_name: &ByteString,
    ) -> Option<BanKind> {
        if addr.is_some_and(|addr| self.is_address_banned(addr)) {
            return Some(BanKind::Address);
        }
        self.of_client(account, user, session_name, addr)
    }

    /// Somebody else has said that this one is banned, for so long from now, or for ever.
    pub(crate) fn put(&self, whom: Whom, left: Option<Duration>, by: By) {
        let now = self.now();
        let until = left.map(|left| now.saturating_add(millis(left)));
        self.enter(whom, Ban { until, by, is_ours: false }, now);
    }

    /// One more is banned. False when there is no room.
    fn enter(&self, whom: Whom, ban: Ban, now: Millis) -> bool {
        if !self.shared.write().put(whom.clone(), ban, now) {
            self.metrics.over_limit(crate::metrics::Limit::Bans);
            match ban.by {
                By::Operator => {
                    tracing::warn!(%whom, "a ban does not count here: {BANS_MAX} of operators are in force")
                }
                By::Rule => tracing::warn!(%whom, "a ban does not count here: {BY_RULES_MAX} of rules are in force"),
            }
            return false;
        }
        self.count();
        self.fresh.lock().push(whom);
        self.notify();
        true
    }

    /// Somebody else has said that this one is not banned any more.
    pub(crate) fn remove(&self, whom: &Whom) {
        self.shared.write().remove(whom);
        self.count();
        self.notify();
    }

    /// Those that somebody else knows of, after everything was read: others are over, but for those that were made here and that
    /// nobody else has said yet. Whether they are being written, were written a moment ago or cannot be, they last until their end.
    pub(crate) fn retain(&self, is_known: impl Fn(&Whom) -> bool) {
        self.shared.write().retain(is_known);
        self.count();
        self.notify();
    }

    /// Forgets those that are over.
    pub(crate) fn sweep(&self) {
        let now = self.now();
        let [configured, shared] = [&self.configured, &self.shared].map(|table| table.write().sweep(now));
        if configured || shared {
            self.count();
            self.notify();
        }
    }

    /// A client has logged in. Whoever is banned already is not counted.
    ///
    /// A client id is no proof of who somebody is. Where its user has the same name, nobody else has it, and it is counted wherever
    /// it comes from; where many may share the user, or there is none, it is counted of its address, and banned there: nobody has
    /// another one banned by taking its client id, nor as another user.
    pub(crate) fn connected(&self, account: &AccountId, user: &str, session_name: &ByteString, addr: Option<IpAddr>) {
        if self.judge(addr, account, user, session_name).is_some() {
            return;
        }
        let is_proven = !user.is_empty() && client_of(session_name).1 == user;
        let key = || match addr.filter(|_| !is_proven) {
            Some(addr) => Whom::ClientAt(account.clone(), session_name.clone(), user.into(), network_of(addr)),
            None => Whom::Client(account.clone(), session_name.clone(), Some(user.into())),
        };
        if let Some(left) = self.flapping.lock().strike(self.now(), key) {
            self.make(key(), left, BanCause::Flapping);
        }
    }

    /// Somebody at an address was refused for what it says about who it is.
    pub(crate) fn failed_login(&self, addr: IpAddr) {
        self.strike(&self.failed_logins, addr, BanCause::FailedLogins);
    }

    /// Somebody at an address has broken the protocol.
    pub(crate) fn violated(&self, addr: IpAddr) {
        self.strike(&self.violations, addr, BanCause::Violations);
    }

    /// Whoever is banned already is not counted: that it is refused is no more than what the ban says.
    fn strike(&self, strikes: &Mutex<Strikes<IpAddr>>, addr: IpAddr, cause: BanCause) {
        if self.is_address_banned(addr) {
            return;
        }
        let addr = network_of(addr);
        if let Some(left) = strikes.lock().strike(self.now(), || addr) {
            let network = Network::of(addr, if addr.is_ipv4() { 32 } else { 64 });
            self.make(Whom::Address(network), left, cause);
        }
    }

    /// Bans somebody by a rule, unless that is so already until then or for longer: no ban ends sooner for it.
    fn make(&self, whom: Whom, left: Duration, cause: BanCause) {
        let now = self.now();
        let until = now.saturating_add(millis(left));
        if [&self.configured, &self.shared].iter().any(|table| table.read().lasts_until(&whom, until)) {
            return;
        }
        if !self.enter(whom.clone(), Ban { until: Some(until), by: By::Rule, is_ours: true }, now) {
            return;
        }
        tracing::warn!(%whom, cause = cause.text(), for_s = left.as_secs(), "banned");
        self.metrics.bans.made(cause);
        let mut unwritten = self.unwritten.lock();
        if unwritten.len() < UNWRITTEN_MAX {
            unwritten.push((Made { whom, left, cause }, now));
        }
        drop(unwritten);
        // Whoever writes it may have looked before.
        self.notify();
    }

    /// Those that were made here and have to be written, with what is left of them; those that are over are left out.
    pub(crate) fn take_made(&self) -> Vec<Made> {
        let now = self.now();
        let all = std::mem::take(&mut *self.unwritten.lock());
        let left = |(made, at): (Made, Millis)| {
            let left = made.left.checked_sub(Duration::from_millis(now.saturating_sub(at)))?;
            (left >= Duration::from_secs(1)).then_some(Made { left, ..made })
        };
        all.into_iter().filter_map(left).collect()
    }

    /// Who was banned since the last look.
    pub(crate) fn take_fresh(&self) -> Fresh {
        std::mem::take(&mut *self.fresh.lock())
    }

    /// Whether any wait to be written.
    pub(crate) fn has_made(&self) -> bool {
        !self.unwritten.lock().is_empty()
    }

    /// They could not be written yet. The last of them is tried last.
    pub(crate) fn give_back(&self, made: Vec<Made>) {
        let now = self.now();
        let mut unwritten = self.unwritten.lock();
        let room = UNWRITTEN_MAX.saturating_sub(unwritten.len());
        unwritten.extend(made.into_iter().take(room).map(|made| (made, now)));
    }

    /// A client or connection was refused since it is banned.
    pub(crate) fn refused(&self, kind: BanKind) {
        self.metrics.bans.refused(kind);
    }
}

#[cfg(test)]
mod tests;
