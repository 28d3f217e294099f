//! One account, from when it is wanted to when it is closed: a task keeps it, and everybody else waits for what that says.

use std::sync::Arc;
use std::time::Duration;

use mqtt_access::AccountId;
use tokio::sync::watch;

use super::rates::Shared;
use super::users::OfUser;
use crate::account::Account;
use crate::store::Occupancy;

/// Why an account is not served.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotServed {
    /// It cannot be: what to do about it.
    #[error("{0}")]
    Refused(Arc<str>),
    /// As many are open as may be.
    #[error("as many accounts are open as nats.max_accounts allows")]
    TooMany,
    /// As many clients of it are connected, to whichever sidecar, as it allows.
    #[error("as many clients are connected as the account allows")]
    Full,
    /// As many clients of its user are connected here as it may have.
    #[error("the user has as many connections as it may have")]
    FullOfUser,
    /// Not any more.
    #[error("the process ends")]
    Ending,
}

/// How an account is.
#[derive(Clone)]
enum Phase {
    /// It is being opened, or closed first.
    Opening,
    Open(Arc<Account>),
    Refused(NotServed),
}

/// See the module.
pub(super) struct Room {
    phase: watch::Sender<Phase>,
    guests: watch::Sender<Guests>,
}

/// How many stay, or wait until they can.
#[derive(Clone, Copy, Debug, Default)]
struct Guests {
    clients: usize,
    duties: usize,
}

impl Guests {
    const fn are_none(self) -> bool {
        self.clients == 0 && self.duties == 0
    }

    const fn count(&mut self, what: For) -> &mut usize {
        match what {
            For::Client => &mut self.clients,
            For::Duty => &mut self.duties,
        }
    }
}

/// What an account is entered for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum For {
    /// A client that connects.
    Client,
    /// What is owed to those that are away.
    Duty,
}

/// Somebody for whom a room is kept.
pub(super) struct Guest {
    room: Arc<Room>,
    what: For,
}

/// A stay in an account, which is not closed before.
pub(crate) struct Stay {
    account: Arc<Account>,
    /// Nobody for the home account, which is always there.
    guest: Option<Guest>,
    /// Those that are limited: of others it takes no memory.
    places: Option<Box<Places>>,
}

/// The places that a client takes.
#[derive(Default)]
pub(super) struct Places {
    /// Of its account.
    pub(super) of_account: Option<Place>,
    /// Of its user.
    pub(super) of_user: Option<OfUser>,
    /// How fast it is heard, together with others.
    pub(super) rates: Vec<Shared>,
}

impl Places {
    const fn are_none(&self) -> bool {
        self.of_account.is_none() && self.of_user.is_none() && self.rates.is_empty()
    }
}

/// One of the places that an account has for clients.
pub(super) struct Place {
    occupancy: Arc<Occupancy>,
    account: AccountId,
}

impl Place {
    /// `None`: all are taken. `elsewhere`: those that other sidecars have.
    pub(super) fn take(occupancy: &Arc<Occupancy>, account: &AccountId, elsewhere: u64, most: u64) -> Option<Self> {
        let is_taken = occupancy.take(account.as_str(), elsewhere, most);
        is_taken.then(|| Self { occupancy: Arc::clone(occupancy), account: account.clone() })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.occupancy.give(self.account.as_str());
    }
}

impl Stay {
    pub(super) const fn at_home(account: Arc<Account>) -> Self {
        Self { account, guest: None, places: None }
    }

    /// The account.
    pub(crate) const fn account(&self) -> &Arc<Account> {
        &self.account
    }

    /// What bans call its account: the home account has no name there.
    pub(crate) fn account_of_ban(&self, id: &AccountId) -> AccountId {
        if self.guest.is_none() { AccountId::new("") } else { id.clone() }
    }

    /// It takes places for as long as it is there.
    pub(super) fn with(mut self, places: Places) -> Self {
        self.places = (!places.are_none()).then(|| Box::new(places));
        self
    }

    /// How fast its client is heard, together with others.
    pub(crate) fn rates(&self) -> &[Shared] {
        self.places.as_ref().map_or(&[], |places| &places.rates)
    }

    /// Whether it is entered for a client as well.
    pub(super) fn has_clients(&self) -> bool {
        self.guest.as_ref().is_some_and(|guest| guest.room.has_clients())
    }
}

impl Room {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { phase: watch::Sender::new(Phase::Opening), guests: watch::Sender::default() })
    }

    pub(super) fn guest(self: &Arc<Self>, what: For) -> Guest {
        self.guests.send_modify(|guests| *guests.count(what) += 1);
        Guest { room: Arc::clone(self), what }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.guests.borrow().are_none()
    }

    /// Whether it is entered for a client.
    pub(super) fn has_clients(&self) -> bool {
        self.guests.borrow().clients > 0
    }

    /// The account, if it is open.
    pub(super) fn account(&self) -> Option<Arc<Account>> {
        match &*self.phase.borrow() {
            Phase::Open(account) => Some(Arc::clone(account)),
            Phase::Opening | Phase::Refused(_) => None,
        }
    }

    /// Who waits comes in.
    pub(super) fn open(&self, account: &Arc<Account>) {
        self.phase.send_replace(Phase::Open(Arc::clone(account)));
    }

    /// Who comes waits.
    pub(super) fn shut(&self) {
        self.phase.send_replace(Phase::Opening);
    }

    /// Who waits or comes is refused.
    pub(super) fn refuse(&self, why: NotServed) {
        self.phase.send_replace(Phase::Refused(why));
    }

    /// Waits until nobody has been here for this long, and nothing that is due later is left to us.
    pub(super) async fn abandoned(&self, within: Duration, account: &Account) {
        let mut guests = self.guests.subscribe();
        loop {
            account.has_nothing_due().await;
            if guests.wait_for(|guests| guests.are_none()).await.is_err() {
                return;
            }
            let is_visited = guests.wait_for(|guests| !guests.are_none());
            let is_due = async {
                tokio::time::sleep(within).await;
                account.has_nothing_due().await;
            };
            tokio::select! {
                _ = is_visited => {}
                () = is_due => return,
            }
        }
    }
}

impl Guest {
    /// Waits until the account is open.
    pub(super) async fn enter(self) -> Result<Stay, NotServed> {
        let mut phase = self.room.phase.subscribe();
        let settled = phase.wait_for(|phase| !matches!(phase, Phase::Opening)).await.map(|phase| phase.clone());
        match settled {
            Ok(Phase::Open(account)) => Ok(Stay { account, guest: Some(self), places: None }),
            Ok(Phase::Refused(why)) => Err(why),
            Ok(Phase::Opening) | Err(_) => Err(NotServed::Ending),
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.room.guests.send_modify(|guests| *guests.count(self.what) -= 1);
    }
}
