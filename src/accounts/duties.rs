//! Accounts that are open although nobody is connected here: what is owed to devices that are away is kept by somebody. Each account
//! on the list is held open by one sidecar, by rendezvous over those that are alive, and by the next when that one is gone: it
//! publishes the wills of whoever was connected there, copies what sessions are owed, ends sessions in time.
//!
//! **Invariant:** an account with a session is on the list: it is put there before its first client comes in, and taken off only when
//! it has no session, by its holder, with the revision that this has seen before it looked. Whoever has it open and sees it go
//! puts it there again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use mqtt_access::AccountId;
use tokio::sync::{Semaphore, watch};

use super::room::{For, NotServed, Stay};
use super::serving::Accounts;
use crate::account::dividing;
use crate::store::{Accounts as List, Alive, Listed, NodeInfo};
use crate::tasks::Tasks;

/// Accounts that are opened for this at a time: who starts may find hundreds. Clients wait for none of them.
const OPENING_MAX: usize = 8;

/// How long the others wait for one that cannot be opened.
const OPENED_WITHIN: Duration = Duration::from_secs(10);

/// How long to wait before an account is entered again that could not be.
const AGAIN: Duration = Duration::from_secs(30);

/// How often a holder looks whether an account has no session any more.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// How long to wait before JetStream is asked again.
const RETRY: Duration = Duration::from_secs(1);

/// Holds what is ours to hold for as long as the process runs.
pub(super) async fn keep(accounts: Arc<Accounts>, list: List) {
    let membership = accounts.home().membership();
    let (mut alive, mut held, mut listed) = (membership.alive(), membership.held(), list.listed());
    let keeper = Keeper { accounts: Arc::clone(&accounts), list, opening: Arc::new(Semaphore::new(OPENING_MAX)) };
    let mut holding: BTreeMap<String, Tasks> = BTreeMap::new();
    loop {
        let ours = {
            let (alive, held) = (alive.borrow_and_update(), held.borrow_and_update());
            let node = held.as_ref().map(|held| &*held.node).filter(|_| alive.is_complete);
            node.map(|node| ours(node, &alive, &membership.nodes().occupancy().shut(), &listed.borrow_and_update()))
        };
        // Without a lease we are nobody, and what we hold we go on holding.
        if let Some(ours) = ours {
            holding.retain(|account, until| {
                let is_ours = ours.contains(account);
                if !is_ours {
                    until.cancel();
                }
                is_ours
            });
            for account in ours {
                holding.entry(account).or_insert_with_key(|account| keeper.begin(account));
            }
        }
        keeper.relist(&listed).await;
        let is_over = tokio::select! {
            changed = alive.changed() => changed.is_err(),
            changed = held.changed() => changed.is_err(),
            changed = listed.changed() => changed.is_err(),
        };
        if is_over {
            return;
        }
    }
}

/// The accounts on the list that are ours to hold. Of one that the first in its order cannot enter it is the next one that holds it, and
/// the first goes on trying.
fn ours(node: &str, alive: &Alive, shut: &BTreeSet<String>, listed: &Listed) -> BTreeSet<String> {
    let others = || alive.nodes.iter().filter(|(other, _)| *other != node);
    let is_ours = |account: &&String| {
        let is_able = |info: &NodeInfo| shut.contains(*account) || !info.shut.contains(*account);
        let able = others().filter(|(_, info)| is_able(info)).map(|(other, _)| other.as_str());
        dividing::place(account, node, able.chain([node])) == 0
    };
    listed.accounts.keys().filter(is_ours).cloned().collect()
}

/// Says of an account that it cannot be entered, until this is dropped.
struct Shut<'a> {
    keeper: &'a Keeper,
    account: &'a AccountId,
}

impl Shut<'_> {
    fn set(&self, is_shut: bool) {
        self.keeper.accounts.home().membership().nodes().occupancy().set_shut(self.account.as_str(), is_shut);
    }
}

impl Drop for Shut<'_> {
    fn drop(&mut self) {
        self.set(false);
    }
}

#[derive(Clone)]
struct Keeper {
    accounts: Arc<Accounts>,
    list: List,
    opening: Arc<Semaphore>,
}

impl Keeper {
    /// Holds an account while it is on the list, until what this returns is cancelled.
    fn begin(&self, account: &str) -> Tasks {
        let (until, keeper, id) = (Tasks::default(), self.clone(), AccountId::new(account));
        let holding = until.run(async move {
            let mut listed = keeper.list.listed();
            let is_listed = |listed: &Listed| listed.accounts.contains_key(id.as_str());
            while listed.wait_for(is_listed).await.is_ok() {
                let Some(stay) = keeper.enter(&id).await else { return };
                keeper.hold(&id, &stay, &mut listed).await;
            }
        });
        self.accounts.tasks().spawn(async move {
            holding.await;
        });
        until
    }

    /// Enters an account, however long that takes. `None`: the process ends.
    async fn enter(&self, id: &AccountId) -> Option<Stay> {
        let (mut is_told, shut) = (false, Shut { keeper: self, account: id });
        loop {
            let turn = self.opening.acquire().await;
            let entered = tokio::time::timeout(OPENED_WITHIN, self.accounts.enter(id, For::Duty)).await;
            drop(turn);
            match entered {
                Ok(Ok(stay)) => return Some(stay),
                Ok(Err(NotServed::Ending)) => return None,
                Ok(Err(why)) if !std::mem::replace(&mut is_told, true) => {
                    tracing::warn!(account = id.as_str(), "what is owed to devices of this account waits: {why}");
                }
                Ok(Err(_)) | Err(_) => {}
            }
            shut.set(true);
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Returns when the account is off the list, which it is taken off when it has no session; or is opened anew, as it is when
    /// JetStream has come: what the one before knows of sessions does not count any more.
    async fn hold(&self, id: &AccountId, stay: &Stay, listed: &mut watch::Receiver<Listed>) {
        let revision = |listed: &watch::Receiver<Listed>| listed.borrow().accounts.get(id.as_str()).copied();
        while let Some(seen) = revision(listed) {
            tokio::time::sleep(LOOK_EVERY).await;
            if stay.account().is_retiring() {
                return;
            }
            // Without JetStream nobody is owed anything; what was stored before waits for somebody who comes when it is back.
            let has_clients = stay.has_clients() && stay.account().has_jetstream();
            let has_none = !has_clients && stay.account().has_no_sessions();
            if has_none && self.list.unlist(id.as_str(), seen).await == Ok(true) {
                let is_off = |listed: &Listed| listed.accounts.get(id.as_str()) != Some(&seen);
                let _ = listed.wait_for(is_off).await;
            }
        }
    }

    /// Puts accounts on the list again that have clients here.
    async fn relist(&self, listed: &watch::Receiver<Listed>) {
        let Listed { is_complete, accounts } = listed.borrow().clone();
        let visited = if is_complete { self.accounts.visited() } else { Vec::new() };
        for id in visited.iter().filter(|id| !accounts.contains_key(id.as_str())) {
            if let Err(error) = self.list.list(id.as_str()).await {
                tracing::warn!(account = id.as_str(), %error, "the account cannot be put on the list of accounts yet");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODES: [&str; 4] = ["a", "b", "c", "d"];

    fn alive(shut: &BTreeMap<&str, &[&str]>) -> Alive {
        let info = |node: &&str| {
            let shut = shut.get(node).copied().unwrap_or_default().iter().map(ToString::to_string).collect();
            let info = NodeInfo {
                version: 0,
                node: (*node).to_owned(),
                boot: String::new(),
                since_ms: 0,
                mqtt: Vec::new(),
                seals: true,
                connections: BTreeMap::new(),
                shut,
            };
            ((*node).to_owned(), info)
        };
        Alive { is_complete: true, nodes: Arc::new(NODES.iter().map(info).collect()) }
    }

    /// Who holds an account, when these cannot enter it.
    fn holders(account: &str, shut: &[&str]) -> Vec<&'static str> {
        let listed = Listed { is_complete: true, accounts: Arc::new([(account.to_owned(), 1)].into()) };
        let all: BTreeMap<&str, &[&str]> = shut.iter().map(|node| (*node, std::slice::from_ref(&account))).collect();
        let holds = |node: &&&str| {
            let own = if shut.contains(*node) { BTreeSet::from([account.to_owned()]) } else { BTreeSet::new() };
            !ours(node, &alive(&all), &own, &listed).is_empty()
        };
        NODES.iter().filter(holds).copied().collect()
    }

    #[test]
    fn an_account_has_one_holder_and_who_cannot_enter_it_leaves_it_to_the_next_and_goes_on_trying() {
        for account in (0..50).map(|number| format!("T{number}")) {
            let first = holders(&account, &[]);
            assert_eq!(first.len(), 1, "{account}");
            let others: Vec<&str> = NODES.into_iter().filter(|node| *node != first[0]).collect();
            assert_eq!(holders(&account, &others), first, "the others do not matter");
            let two = holders(&account, &first);
            assert_eq!(two.len(), 2, "{account}");
            assert!(two.contains(&first[0]));
            let next = two.into_iter().find(|node| *node != first[0]).unwrap();
            let three = holders(&account, &[first[0], next]);
            assert!(three.len() == 2 && three.contains(&first[0]) && !three.contains(&next), "{three:?}");
            assert_eq!(holders(&account, &NODES), first, "nobody can");
        }
    }
}
