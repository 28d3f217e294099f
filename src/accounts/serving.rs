//! Who enters which account, and what opens and closes them.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use mqtt_access::{AccountId, Limit, Principal};
use parking_lot::Mutex;
use tokio::sync::watch;
use tracing::Instrument as _;

use super::pacing;
use super::rates::CommonRates;
use super::room::{For, Guest, NotServed, Place, Places, Room, Stay};
use super::users::{OfUser, Users};
use crate::account::{Account, Control};
use crate::config::CommonLimits;
use crate::metrics;
use crate::tasks::Tasks;

/// An account in which nobody has been for so long is closed.
pub(super) const IDLE: Duration = Duration::from_secs(60);

/// So long it counts that an account cannot be served: whoever comes then is refused at once.
const REFUSED_FOR: Duration = Duration::from_secs(5);

/// How long the list of accounts may take to have an account before its first client comes in.
const LISTED_WITHIN: Duration = Duration::from_secs(2);

/// How long to wait before JetStream is asked again.
const RETRY: Duration = Duration::from_secs(1);

/// Opens accounts other than the home account.
pub(crate) trait Opener: Send + Sync {
    /// Opens an account whose sidecars have their leases in the home account. What only time can mend is waited for; dropped before,
    /// it leaves nothing behind. The error says in one line what to do.
    fn open<'a>(&'a self, account: &'a AccountId, home: &'a Account) -> Opening<'a>;
}

/// An account that is being opened.
pub(crate) type Opening<'a> = Pin<Box<dyn Future<Output = Result<Arc<Account>, String>> + Send + 'a>>;

/// See the module.
pub(crate) struct Accounts {
    home: Arc<Account>,
    opener: Box<dyn Opener>,
    /// Those that may be there beside the home account.
    most: usize,
    rooms: Mutex<Rooms>,
    /// How many connections users have that have a limit.
    users: Arc<Users>,
    /// How fast clients are heard together.
    rates: CommonRates,
    /// What runs for none of them, or keeps one.
    tasks: Tasks,
}

#[derive(Default)]
struct Rooms {
    by_account: HashMap<AccountId, Arc<Room>>,
    is_ending: bool,
}

impl Accounts {
    /// Beside a home account that is open, none is. `most`: those that may be there beside it.
    pub(crate) fn new(home: Arc<Account>, opener: Box<dyn Opener>, most: usize) -> Arc<Self> {
        let (rooms, users, rates, tasks) = Default::default();
        Arc::new(Self { home, opener, most, rooms, users, rates, tasks })
    }

    /// The home account.
    pub(crate) const fn home(&self) -> &Arc<Account> {
        &self.home
    }

    /// So fast all clients of a user or of an account are heard together from now on.
    pub(crate) fn set_rates(&self, limits: CommonLimits) {
        self.rates.set(limits);
    }

    /// What runs for none of them.
    pub(crate) const fn tasks(&self) -> &Tasks {
        &self.tasks
    }

    /// Whether this names the home account: by nothing, by its public NKey, or by what the server's configuration calls it.
    pub(crate) fn is_home(&self, id: &AccountId) -> bool {
        id.as_str().is_empty() || self.home.store().account_name() == Some(id.as_str())
    }

    /// Enters an account: it stays open for as long as what this returns is there. What only time can mend is waited for.
    pub(crate) async fn enter(self: &Arc<Self>, id: &AccountId, what: For) -> Result<Stay, NotServed> {
        if self.is_home(id) {
            return Ok(Stay::at_home(Arc::clone(&self.home)));
        }
        let stay = self.guest(id, what)?.enter().await?;
        if self.rooms.lock().is_ending { Err(NotServed::Ending) } else { Ok(stay) }
    }

    /// The same for a client, which needs one of the places that its account has, and of `most_of_user` that its user has here. One
    /// that takes the place of an earlier connection of its own, which ends in a moment, gets in however many there are, and is
    /// counted as everybody is. `session_name`: the client id, with the mount point of its listener.
    pub(crate) async fn enter_as(
        self: &Arc<Self>,
        principal: &Principal,
        session_name: &str,
        most_of_user: Limit,
    ) -> Result<Stay, NotServed> {
        let entered = self.enter(&principal.account, For::Client).await;
        if matches!(entered, Err(NotServed::TooMany)) {
            self.home.refusals.refuse(metrics::Limit::Accounts, session_name);
        }
        let stay = entered?;
        let of_user = self.place_of_user(&stay, principal, session_name, most_of_user)?;
        let of_account = self.place_of_account(&stay, principal, session_name)?;
        let rates = self.rates.of(|| self.name_of(&principal.account), principal.user.owner());
        Ok(stay.with(Places { of_account, of_user, rates }))
    }

    fn place_of_account(
        &self,
        stay: &Stay,
        principal: &Principal,
        session_name: &str,
    ) -> Result<Option<Place>, NotServed> {
        let Limit::Max(most) = principal.limits.connections else { return Ok(None) };
        let name = self.name_of(&principal.account);
        let occupancy = self.home.membership().nodes().occupancy();
        let is_instead = stay.account().has_connection_of(&principal.user, session_name);
        let most = if is_instead { u64::MAX } else { most };
        let place = Place::take(occupancy, &name, self.elsewhere(&name), most);
        if place.is_none() {
            stay.account().refusals.refuse(metrics::Limit::AccountConnections, session_name);
        }
        place.map(Some).ok_or(NotServed::Full)
    }

    fn place_of_user(
        &self,
        stay: &Stay,
        principal: &Principal,
        session_name: &str,
        most: Limit,
    ) -> Result<Option<OfUser>, NotServed> {
        let Limit::Max(most) = most else { return Ok(None) };
        if principal.user.owner().is_empty() {
            // It is nobody in particular.
            return Ok(None);
        }
        let account = self.name_of(&principal.account);
        let is_instead = stay.account().has_connection_of(&principal.user, session_name);
        let of_user = self.users.enter(&account, &principal.user, most, is_instead);
        if of_user.is_none() {
            stay.account().refusals.refuse(metrics::Limit::ConnectionsPerUser, session_name);
        }
        of_user.map(Some).ok_or(NotServed::FullOfUser)
    }

    /// What bans call an account: the home account has no name there.
    pub(crate) fn account_of_ban(&self, id: &AccountId) -> AccountId {
        if self.is_home(id) { AccountId::new("") } else { id.clone() }
    }

    /// What all sidecars call an account.
    fn name_of(&self, id: &AccountId) -> AccountId {
        match self.home.store().account_name() {
            Some(name) if self.is_home(id) => AccountId::new(name),
            _ => id.clone(),
        }
    }

    /// How many clients of an account other sidecars have.
    fn elsewhere(&self, account: &AccountId) -> u64 {
        let membership = self.home.membership();
        let (alive, held) = (membership.alive(), membership.held());
        let (alive, held) = (alive.borrow(), held.borrow());
        let ours = held.as_ref().map(|held| &*held.node);
        let others = alive.nodes.iter().filter(|(node, _)| Some(&***node) != ours);
        others.filter_map(|(_, info)| info.connections.get(account.as_str())).map(|count| u64::from(*count)).sum()
    }

    /// A place in the room of an account, which is kept from now on if nobody has wanted it before.
    fn guest(self: &Arc<Self>, id: &AccountId, what: For) -> Result<Guest, NotServed> {
        let mut rooms = self.rooms.lock();
        if rooms.is_ending {
            return Err(NotServed::Ending);
        }
        if let Some(room) = rooms.by_account.get(id) {
            return Ok(room.guest(what));
        }
        if rooms.by_account.len() >= self.most {
            return Err(NotServed::TooMany);
        }
        let room = Room::new();
        let guest = room.guest(what);
        rooms.by_account.insert(id.clone(), Arc::clone(&room));
        self.tasks.spawn(Arc::clone(self).keep(id.clone(), room));
        Ok(guest)
    }

    /// Forgets a room in which nobody is. Returns whether that is so.
    fn forget(&self, id: &AccountId, room: &Room) -> bool {
        // Nobody comes in without this lock.
        let mut rooms = self.rooms.lock();
        let is_empty = room.is_empty();
        if is_empty {
            rooms.by_account.remove(id);
        }
        is_empty
    }

    /// Keeps an account as long as somebody wants it, and a while longer.
    async fn keep(self: Arc<Self>, id: AccountId, room: Arc<Room>) {
        loop {
            // What is said on the way is of this account, and not of the home.
            let opening = tracing::warn_span!("opening", account = id.as_str());
            match self.opener.open(&id, &self.home).instrument(opening).await {
                Ok(account) => {
                    if account.has_jetstream() {
                        Box::pin(self.list(&id, &account)).await;
                        tracing::info!(account = id.as_str(), "the account is open");
                    } else {
                        tracing::info!(
                            account = id.as_str(),
                            "the account is open, at QoS 0: it has no JetStream, so nothing is retained and no session outlives its connection"
                        );
                    }
                    room.open(&account);
                    let why = tokio::select! {
                        () = room.abandoned(IDLE, &account) => "nobody is in it",
                        () = account.jetstream_comes() => "it has JetStream now, and is opened with it",
                    };
                    room.shut();
                    account.retire().await;
                    account.close().await;
                    tracing::info!(account = id.as_str(), "the account is closed: {why}");
                }
                Err(why) => {
                    tracing::error!(account = id.as_str(), "clients of this account are refused: {why}");
                    room.refuse(NotServed::Refused(why.into()));
                    tokio::time::sleep(REFUSED_FOR).await;
                    room.shut();
                }
            }
            if self.forget(&id, &room) {
                return;
            }
        }
    }

    /// Puts an account on the list before anybody has a session in it. Without an answer it is gone on with, and tried again: whoever
    /// wants a session that outlasts us needs the home account as well.
    async fn list(&self, id: &AccountId, account: &Account) {
        let Some(list) = self.home.store().accounts().cloned() else { return };
        let (id, tasks) = (id.as_str().to_owned(), account.tasks());
        let (tx, mut is_listed) = watch::channel(false);
        tasks.spawn(async move {
            while let Err(error) = list.list(&id).await {
                tracing::warn!(account = id, %error, "the account cannot be put on the list of accounts yet");
                tokio::time::sleep(RETRY).await;
            }
            tx.send_replace(true);
        });
        let _ = tokio::time::timeout(LISTED_WITHIN, is_listed.wait_for(|listed| *listed)).await;
    }

    /// Those other than the home account that are entered for a client, who may be owed something when it is away.
    pub(super) fn visited(&self) -> Vec<AccountId> {
        let rooms = self.rooms.lock();
        let is_owing = |room: &Room| room.account().is_some_and(|account| account.has_jetstream());
        let visited = rooms.by_account.iter().filter(|(_, room)| room.has_clients() && is_owing(room));
        visited.map(|(id, _)| id.clone()).collect()
    }

    /// The connection of a session by its name, if its account is open; the home account has no name.
    pub(super) fn client(&self, account: &AccountId, session_name: &str) -> Option<Arc<Control>> {
        if account.is_empty() {
            return self.home.client(session_name);
        }
        let room = self.rooms.lock().by_account.get(account).cloned()?;
        room.account()?.client(session_name)
    }

    /// Those that are open.
    pub(crate) fn all(&self) -> Vec<Arc<Account>> {
        let rooms = self.rooms.lock();
        let open = rooms.by_account.values().filter_map(|room| room.account());
        std::iter::once(Arc::clone(&self.home)).chain(open).collect()
    }

    /// Lets all clients go, one after the other over this time, and gives back what is held, the lease last. Nobody enters any
    /// more. Whoever has not finished `rest` later is cut by the close.
    pub(crate) async fn drain(&self, over: Duration, rest: Duration) {
        self.rooms.lock().is_ending = true;
        let all = self.all();
        let clients = pacing::in_turn(all.iter().map(|account| account.close_door()).collect());
        let winding_down = join_all(all.iter().map(|account| account.wind_down(over + rest)));
        tokio::join!(pacing::let_go(clients, over), winding_down);
        self.home.membership().leave().await;
    }

    /// Lets those go whose listeners are gone, one after the other over this time.
    pub(crate) async fn let_go_without_listener(&self, over: Duration) {
        let of = |account: &Arc<Account>| -> Vec<_> {
            account.clients().into_iter().filter(|control| control.has_no_listener()).collect()
        };
        pacing::let_go(pacing::in_turn(self.all().iter().map(of).collect()), over).await;
    }

    /// Has those who are connected look again at the limits of their listeners. Whoever comes meanwhile looks when it does.
    pub(crate) async fn change_limits(&self) {
        /// Clients that are told before others have their turn.
        const AT_ONCE: usize = 256;
        let everybody: Vec<_> = self.all().iter().flat_map(|account| account.clients()).collect();
        for some in everybody.chunks(AT_ONCE) {
            some.iter().for_each(|control| control.change_limits());
            tokio::task::yield_now().await;
        }
    }

    /// Ends all of them.
    pub(crate) async fn close(&self) {
        self.rooms.lock().is_ending = true;
        let all = self.all();
        self.tasks.close().await;
        self.rooms.lock().by_account.clear();
        join_all(all.iter().map(|account| account.close())).await;
    }
}
