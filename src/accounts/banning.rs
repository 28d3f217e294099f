//! What follows from bans: whoever is banned and connected is disconnected, and bans are shared with other sidecars through a
//! bucket of the home account. Without the bucket, and while NATS is away, they are those of this sidecar.

use std::sync::Arc;
use std::time::Duration;

use foldhash::HashSet;
use mqtt_access::AccountId;
use mqtt_codec::ReasonCode;
use proto_map::{BanSubject, client_of};
use tokio::sync::watch;

use super::Accounts;
use crate::account::{Control, Order};
use crate::bans::{Bans, By, Whom};
use crate::config::read_network;
use crate::network::network_of;
use crate::store::{self, BanError, BanNews};

/// Those that are banned are looked for at most so often.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Clients that are judged before others have their turn.
const AT_ONCE: usize = 256;

/// Bans that are over are forgotten so often.
const SWEEP_EVERY: Duration = Duration::from_secs(30);

/// How long listeners wait at most until it is known who is banned.
const READ_WITHIN: Duration = Duration::from_secs(5);

/// How long the bucket may take to be made before it is looked for.
const MADE_WITHIN: Duration = Duration::from_secs(2);

/// How long to wait before JetStream is asked again.
const RETRY: Duration = Duration::from_secs(2);

/// The same for the bucket, when it cannot be made.
const MAKE_AGAIN: Duration = Duration::from_secs(60);

/// Carries out what `bans` says, for as long as accounts are served. `shared`: where other sidecars say the same. What this returns
/// waits until all is known that they have said, for [`READ_WITHIN`] at most: who is let in before may be one who is banned.
pub(crate) fn keep_bans(
    accounts: &Arc<Accounts>,
    bans: &Arc<Bans>,
    shared: Option<store::Bans>,
) -> impl Future<Output = ()> + use<> {
    let tasks = accounts.tasks();
    tasks.spawn(end_banned(Arc::clone(accounts), Arc::clone(bans)));
    tasks.spawn(sweep(Arc::clone(bans)));
    let (is_read, mut read) = watch::channel(shared.is_none());
    if let Some(shared) = shared {
        tasks.spawn(follow(Arc::clone(accounts), Arc::clone(bans), shared, is_read));
    }
    async move {
        if tokio::time::timeout(READ_WITHIN, read.wait_for(|is_read| *is_read)).await.is_err() {
            tracing::warn!(
                "clients are let in before it is known who is banned: the bucket of bans cannot be read yet"
            );
        }
    }
}

async fn sweep(bans: Arc<Bans>) {
    loop {
        tokio::time::sleep(SWEEP_EVERY).await;
        bans.sweep();
    }
}

/// Ends the connections of those who are banned.
async fn end_banned(accounts: Arc<Accounts>, bans: Arc<Bans>) {
    let mut changes = bans.changes();
    while changes.changed().await.is_ok() {
        let fresh = bans.take_fresh();
        let of_client = fresh.some.iter().filter_map(|whom| match whom {
            Whom::Client(account, client_id, _) | Whom::ClientAt(account, client_id, ..) => {
                accounts.client(account, client_id)
            }
            Whom::Address(_) | Whom::User(..) => None,
        });
        of_client.for_each(|control| judge(&accounts, &bans, &control));
        let is_wide = |whom: &Whom| match whom {
            Whom::Address(_) | Whom::User(..) => true,
            Whom::Client(_, session_name, _) | Whom::ClientAt(_, session_name, ..) => {
                bans.has_mounts() && client_of(session_name).0.is_none()
            }
        };
        if fresh.is_everybody || fresh.some.iter().any(is_wide) {
            let everybody: Vec<_> = accounts.all().iter().flat_map(|account| account.clients()).collect();
            for some in everybody.chunks(AT_ONCE) {
                some.iter().for_each(|control| judge(&accounts, &bans, control));
                tokio::task::yield_now().await;
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Ends a connection whose client is banned.
fn judge(accounts: &Accounts, bans: &Bans, control: &Control) {
    let principal = control.inbox().rights.principal();
    let account = accounts.account_of_ban(&principal.account);
    let kind = bans.judge(control.remote(), &account, principal.user.owner(), &control.client_id);
    let Some(kind) = kind else { return };
    bans.refused(kind);
    let client_id = control.client_id.escape_debug().to_string();
    tracing::info!(client_id, remote = ?control.remote(), "ended: its {} is banned", kind.text());
    control.order(Order::Close(ReasonCode::AdministrativeAction));
}

/// Reads what others say, and writes what we do. A bucket that is not as it has to be may be there all the same.
async fn follow(accounts: Arc<Accounts>, bans: Arc<Bans>, shared: store::Bans, is_read: watch::Sender<bool>) {
    let (tried, mut is_tried) = watch::channel(false);
    let sharing = async {
        let _ = tokio::time::timeout(MADE_WITHIN, is_tried.wait_for(|is_tried| *is_tried)).await;
        tokio::join!(read(&accounts, &bans, &shared, &is_read), write(&bans, &shared))
    };
    tokio::join!(make(&shared, &tried), sharing);
}

/// Makes sure that the bucket is there, and as it has to be.
async fn make(shared: &store::Bans, tried: &watch::Sender<bool>) {
    let mut is_told = false;
    while let Err(error) = shared.ensure().await {
        tried.send_replace(true);
        if !std::mem::replace(&mut is_told, true) {
            tracing::warn!(%error, "the bucket of bans is not there, or not as it has to be: bans that are made here may be those of this sidecar alone; bans.shared = false says so at once");
        }
        tokio::time::sleep(MAKE_AGAIN).await;
    }
    tried.send_replace(true);
}

async fn read(accounts: &Accounts, bans: &Bans, shared: &store::Bans, is_read: &watch::Sender<bool>) {
    let mut reader = shared.follow();
    // While all of it is read: those that are there.
    let mut seen = None;
    loop {
        for news in reader.next().await {
            match news {
                BanNews::Begins => seen = Some(HashSet::default()),
                BanNews::Banned { whom: subject, left, is_by_rule } => {
                    let Some(whom) = whom(accounts, &subject) else { continue };
                    if let Some(seen) = &mut seen {
                        seen.insert(whom.clone());
                    }
                    bans.put(whom, left, if is_by_rule { By::Rule } else { By::Operator });
                }
                BanNews::Ended(subject) => {
                    let Some(whom) = whom(accounts, &subject) else { continue };
                    if let Some(seen) = &mut seen {
                        seen.remove(&whom);
                    }
                    bans.remove(&whom);
                }
                BanNews::Complete => {
                    if let Some(seen) = seen.take() {
                        bans.retain(|whom| seen.contains(whom));
                    }
                    is_read.send_replace(true);
                }
                BanNews::Missing => drop(is_read.send_replace(true)),
            }
        }
    }
}

async fn write(bans: &Bans, shared: &store::Bans) {
    let mut changes = bans.changes();
    let mut is_told = false;
    loop {
        let mut made = bans.take_made().into_iter();
        while let Some(ban) = made.next() {
            match shared.put(&subject(&ban.whom), ban.left, ban.cause.text()).await {
                Ok(()) => is_told = false,
                Err(error @ BanError::TooLong) => {
                    tracing::warn!(whom = %ban.whom, %error, "a ban is that of this sidecar alone");
                }
                Err(BanError::Unavailable(error)) => {
                    if !std::mem::replace(&mut is_told, true) {
                        tracing::warn!(%error, "bans that were made here cannot be written down yet, and count here alone");
                    }
                    // Behind the others: it may be refused for something that those have not.
                    bans.give_back(made.by_ref().chain([ban]).collect());
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
        if bans.has_made() {
            continue;
        }
        if changes.changed().await.is_err() {
            return;
        }
    }
}

/// Whom a key of the bucket is about.
fn whom(accounts: &Accounts, subject: &BanSubject) -> Option<Whom> {
    let account =
        |account: &Option<String>| accounts.account_of_ban(&AccountId::new(account.as_deref().unwrap_or_default()));
    Some(match subject {
        BanSubject::Address(text) => {
            let network = read_network(text);
            if network.is_none() {
                tracing::warn!(key = ?text, "a key in the bucket of bans is no address: write address.192.0.2.0/24, and =3A for each \":\"");
            }
            Whom::Address(network?)
        }
        BanSubject::Client { account: of, client_id, user: Some(user), address: Some(addr) } => {
            Whom::ClientAt(account(of), client_id.as_str().into(), user.as_str().into(), network_of(*addr))
        }
        BanSubject::Client { account: of, client_id, user, .. } => {
            Whom::Client(account(of), client_id.as_str().into(), user.as_deref().map(Into::into))
        }
        BanSubject::User { account: of, user } => Whom::User(account(of), user.as_str().into()),
    })
}

/// The key of a ban. The home account has no name in it.
fn subject(whom: &Whom) -> BanSubject {
    let named = |account: &AccountId| (!account.is_empty()).then(|| account.as_str().to_owned());
    match whom {
        Whom::Address(network) => {
            let is_single = matches!((network.address().is_ipv4(), network.prefix()), (true, 32));
            BanSubject::Address(if is_single { network.address().to_string() } else { network.to_string() })
        }
        Whom::Client(account, client_id, user) => BanSubject::Client {
            account: named(account),
            client_id: client_id.to_string(),
            user: user.as_deref().map(str::to_owned),
            address: None,
        },
        Whom::ClientAt(account, client_id, user, addr) => BanSubject::Client {
            account: named(account),
            client_id: client_id.to_string(),
            user: Some(user.to_string()),
            address: Some(*addr),
        },
        Whom::User(account, user) => BanSubject::User { account: named(account), user: user.to_string() },
    }
}
