//! Which operators are trusted, and the account JWTs that count: verified when they come, never older than one that has counted.
//!
//! **Invariant:** what does not count leaves in place what does; but at its first use an account is compared with what counted before
//! the start (`memory`), and one that is older is none.
//!
//! **Invariant:** accounts get in here only when an operator of ours signed them, so strangers make nothing grow; but for those
//! that do not exist, of which a limited number is remembered for a moment.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use foldhash::HashMap;
use mqtt_access::UnixTime;
use mqtt_access::jwt::{Account, AccountRefusal, Deletion, KnownAccount, Operator, Operators};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

use super::memory::{Memory, Recalled};

/// Accounts that are known. What is beyond is refused, with a log line.
const ACCOUNTS_MAX: usize = 65_536;

/// How long it is remembered that there is no such account.
const ABSENT_FOR: Duration = Duration::from_secs(5);

/// Accounts of which that is remembered; of what is beyond it is not.
const ABSENT_MAX: usize = 4_096;

/// So long after an account was deleted a resolver that has not heard of it is not believed.
const DELETED_FOR: Duration = Duration::from_secs(60);

/// An account as it is now.
#[derive(Clone, Debug)]
pub(super) struct Current {
    pub(super) account: Arc<Account>,
    pub(super) operators: Arc<Operators>,
    /// Another one whenever either changes.
    pub(super) version: u64,
    /// It is no older than what was known before the start.
    is_settled: bool,
    /// Whoever holds this keeps the account in use.
    pub(super) in_use: InUse,
}

/// Of an account that somebody uses.
pub(super) type InUse = Arc<()>;

/// What is known of an account.
#[derive(Debug)]
pub(super) enum Lookup {
    /// It is this, and was looked up so long ago.
    Known(Current, Duration),
    /// An operator has deleted it.
    Deleted,
    /// There was none a moment ago, or none that counts.
    Absent(Option<AccountRefusal>),
    /// Nothing.
    Nothing,
}

/// Who brings an account JWT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// Somebody has pushed it, now.
    Update,
    /// It lies there.
    Stored,
}

/// Where an operator is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OperatorSource {
    /// Our file.
    File,
    /// nats-server.
    Server,
}

/// Everything that is known.
#[derive(Default)]
pub(super) struct Known {
    state: Mutex<State>,
    memory: OnceLock<Arc<dyn Memory>>,
    changes: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    of_file: Vec<Operator>,
    of_server: Vec<Operator>,
    operators: Arc<Operators>,
    accounts: HashMap<Box<str>, Entry>,
    absent: HashMap<Box<str>, (Instant, Option<AccountRefusal>)>,
    version: u64,
    /// The version with which the operators changed last.
    operators_version: u64,
    /// Pushes of accounts that were not known.
    missed: u64,
}

struct Entry {
    /// What counted last, also when it is deleted.
    known: KnownAccount,
    account: Option<Arc<Account>>,
    deleted: Option<Instant>,
    version: u64,
    /// When the resolver was heard last to have this; `None` when something newer may have been missed.
    confirmed: Option<Instant>,
    in_use: InUse,
    /// Tells the text that counted last from others.
    fingerprint: u64,
    /// The same of the last JWT of it that did not count, which is said once.
    refused: Option<u64>,
    /// It was compared with what was known before the start: so it was used.
    is_settled: bool,
    /// Why there is none, although there is a JWT.
    held_back: Option<AccountRefusal>,
}

impl Known {
    /// What was known before the start is remembered there.
    pub(super) fn remember_in(&self, memory: Arc<dyn Memory>) {
        // There is one home account.
        let _ = self.memory.set(memory);
    }

    /// An account that somebody is about to use: the first time it is compared with what was known before the start. `None`: it was
    /// issued before that, and does not count.
    pub(super) async fn settled(&self, id: &str, current: Current) -> Option<Current> {
        let Some(memory) = self.memory.get().filter(|_| !current.is_settled) else { return Some(current) };
        match memory.recall(id).await {
            Recalled::Unread => Some(current),
            Recalled::Nothing => self.settle(id, None, memory),
            Recalled::Known(before) => self.settle(id, Some(before), memory),
        }
    }

    fn settle(&self, id: &str, before: Option<KnownAccount>, memory: &Arc<dyn Memory>) -> Option<Current> {
        let mut state = self.state.lock();
        let version = state.next_version();
        let entry = state.accounts.get_mut(id)?;
        let is_first = !std::mem::replace(&mut entry.is_settled, true);
        let before = before.filter(|before| is_first && before.issued_at > entry.known.issued_at);
        match before {
            None => {
                if is_first {
                    memory.keep(id, entry.known);
                }
                let entry = state.accounts.get(id)?;
                entry.account.as_ref().map(|account| state.current(entry, account))
            }
            Some(before) => {
                let refusal = Some(AccountRefusal::Older);
                (entry.known, entry.account, entry.held_back) = (before, None, refusal);
                (entry.version, entry.refused) = (version, Some(entry.fingerprint));
                drop(state);
                self.set_absent(id, refusal);
                tracing::warn!(
                    account = id,
                    "an account JWT does not count: it was issued before the one that counted before the start, or elsewhere; push or write one that is newer"
                );
                self.changes.send_replace(version);
                None
            }
        }
    }

    /// Why an account is not there of which there is a JWT.
    pub(super) fn held_back(&self, id: &str) -> Option<AccountRefusal> {
        self.state.lock().accounts.get(id).and_then(|entry| entry.held_back)
    }

    /// Changes with everything that concerns those who are connected.
    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Whether any operator is known yet.
    pub(super) fn has_operators(&self) -> bool {
        !self.state.lock().operators.all().is_empty()
    }

    /// Changes with the operators.
    pub(super) fn operators_version(&self) -> u64 {
        self.state.lock().operators_version
    }

    /// The operators of one source are these. What either source trusts is trusted.
    pub(super) fn set_operators(&self, source: OperatorSource, operators: Vec<Operator>) {
        let mut state = self.state.lock();
        let before = match source {
            OperatorSource::File => &mut state.of_file,
            OperatorSource::Server => &mut state.of_server,
        };
        if *before == operators {
            return;
        }
        let names: Vec<&str> = operators.iter().map(Operator::name).collect();
        tracing::info!(operators = names.join(", "), source = ?source, "accounts that these operators sign are trusted");
        *before = operators;
        tell_who_is_behind(&state.of_file, &state.of_server);
        let all = state.of_file.iter().chain(&state.of_server).cloned().collect();
        state.operators = Arc::new(Operators::new(all));
        let version = state.next_version();
        state.operators_version = version;
        state.accounts.values_mut().for_each(|entry| entry.version = version);
        state.absent.clear();
        drop(state);
        self.changes.send_replace(version);
    }

    /// What is known of an account.
    pub(super) fn lookup(&self, id: &str) -> Lookup {
        let (state, now) = (self.state.lock(), Instant::now());
        if let Some(entry) = state.accounts.get(id) {
            return match (&entry.account, entry.deleted) {
                (Some(account), _) => {
                    let age = entry.confirmed.map_or(Duration::MAX, |confirmed| now - confirmed);
                    Lookup::Known(state.current(entry, account), age)
                }
                (None, Some(deleted)) if now - deleted < DELETED_FOR => Lookup::Deleted,
                (None, _) => state.absence(id, now),
            };
        }
        state.absence(id, now)
    }

    /// An account, if it is known and not deleted.
    pub(super) fn get(&self, id: &str) -> Option<Current> {
        let state = self.state.lock();
        let entry = state.accounts.get(id)?;
        entry.account.as_ref().map(|account| state.current(entry, account))
    }

    /// Somebody has the JWT of an account. It is verified here, and counts or does not.
    ///
    /// # Errors
    /// Why it does not count.
    pub(super) fn offer(&self, id: &str, text: &str, source: Source, now: UnixTime) -> Result<(), AccountRefusal> {
        let (operators, known) = {
            let mut state = self.state.lock();
            let operators = Arc::clone(&state.operators);
            let Some(entry) = state.accounts.get_mut(id) else {
                drop(state);
                return self.take(id, text, &operators, None, source, now);
            };
            if entry.account.is_some() && entry.known.is_of(text) {
                entry.confirmed = Some(Instant::now());
                return Ok(());
            }
            (operators, entry.known)
        };
        self.take(id, text, &operators, Some(known), source, now)
    }

    fn take(
        &self,
        id: &str,
        text: &str,
        operators: &Operators,
        known: Option<KnownAccount>,
        source: Source,
        now: UnixTime,
    ) -> Result<(), AccountRefusal> {
        match Account::verify_update(text, id, known.as_ref(), operators, now) {
            Ok(account) => self.put(account, fingerprint(text), source),
            Err(refusal) => {
                self.refused(id, text, refusal);
                Err(refusal)
            }
        }
    }

    fn put(&self, account: Account, fingerprint: u64, source: Source) -> Result<(), AccountRefusal> {
        let mut state = self.state.lock();
        let at = Instant::now();
        let is_new = match state.accounts.get(account.id()) {
            // Somebody was faster.
            Some(entry) if account.issued_at() < entry.known.issued_at => return Err(AccountRefusal::Older),
            Some(entry) => {
                let is_stale = entry.deleted.is_some_and(|deleted| at - deleted < DELETED_FOR);
                if is_stale && source == Source::Stored {
                    return Ok(());
                }
                false
            }
            None => true,
        };
        if is_new && state.accounts.len() >= ACCOUNTS_MAX {
            tracing::warn!(account = account.id(), "there are more accounts than can be known ({ACCOUNTS_MAX})");
            return Ok(());
        }
        let (version, known) = (state.next_version(), account.known());
        let id: Box<str> = account.id().into();
        state.absent.remove(&id);
        let (account, confirmed) = (Some(Arc::new(account)), Some(at));
        if let Some(entry) = state.accounts.get_mut(&id) {
            (entry.known, entry.account, entry.deleted, entry.held_back) = (known, account, None, None);
            (entry.version, entry.confirmed, entry.refused, entry.fingerprint) =
                (version, confirmed, None, fingerprint);
            if let Some(memory) = self.memory.get().filter(|_| entry.is_settled) {
                memory.keep(&id, known);
            }
        } else {
            let (in_use, deleted, refused, held_back) = (InUse::default(), None, None, None);
            let is_settled = false;
            let entry = Entry {
                known,
                account,
                deleted,
                version,
                confirmed,
                in_use,
                fingerprint,
                refused,
                is_settled,
                held_back,
            };
            state.accounts.insert(id, entry);
        }
        drop(state);
        if !is_new {
            self.changes.send_replace(version);
        }
        Ok(())
    }

    /// Says once what did not count.
    fn refused(&self, id: &str, text: &str, refusal: AccountRefusal) {
        let mut state = self.state.lock();
        let Some(entry) = state.accounts.get_mut(id) else {
            drop(state);
            self.set_absent(id, Some(refusal));
            return;
        };
        let (digest, is_there) = (Some(fingerprint(text)), entry.account.is_some());
        if std::mem::replace(&mut entry.refused, digest) != digest {
            let what_stays = if is_there { ", and the one before it stays" } else { "" };
            tracing::warn!(account = id, "an account JWT does not count{what_stays}: {refusal}");
        }
        drop(state);
        if !is_there {
            self.set_absent(id, Some(refusal));
        }
    }

    /// Somebody has pushed the JWT of some account. It matters where the account is known.
    pub(super) fn announce(&self, text: &str, now: UnixTime) {
        let Some(id) = Account::claimed_id(text) else { return tracing::debug!("an update is no account JWT") };
        let is_known = {
            let mut state = self.state.lock();
            state.absent.remove(&*id);
            let is_known = state.accounts.contains_key(&*id);
            state.missed += u64::from(!is_known);
            is_known
        };
        if is_known {
            // What is refused is said there.
            let _ = self.offer(&id, text, Source::Update, now);
        }
    }

    /// How many accounts were pushed that were not known then: what was asked for before may be older.
    pub(super) fn missed(&self) -> u64 {
        self.state.lock().missed
    }

    /// Somebody wants accounts deleted.
    pub(super) fn delete(&self, text: &str) {
        let mut state = self.state.lock();
        let deletion = match Deletion::verify(text, &state.operators) {
            Ok(deletion) => deletion,
            Err(refusal) => return tracing::warn!("a deletion of accounts does not count: {refusal}"),
        };
        let (version, at) = (state.next_version(), Instant::now());
        for id in deletion.accounts() {
            let Some(entry) = state.accounts.get_mut(&**id) else { continue };
            if entry.account.as_ref().is_some_and(|account| deletion.deletes(account)) {
                (entry.account, entry.deleted, entry.version) = (None, Some(at), version);
                tracing::info!(account = id, "an operator has deleted the account");
            }
        }
        drop(state);
        self.changes.send_replace(version);
    }

    /// The file of an account is not there any more.
    pub(super) fn remove(&self, id: &str) {
        let mut state = self.state.lock();
        let version = state.next_version();
        let Some(entry) = state.accounts.get_mut(id).filter(|entry| entry.account.is_some()) else { return };
        // Another file with the same one is as good.
        (entry.account, entry.deleted, entry.version) = (None, None, version);
        drop(state);
        tracing::info!(account = id, "the JWT of the account is gone, and the account with it");
        self.changes.send_replace(version);
    }

    /// There is no such account, or none that counts.
    pub(super) fn set_absent(&self, id: &str, refusal: Option<AccountRefusal>) {
        let (mut state, now) = (self.state.lock(), Instant::now());
        if state.absent.len() >= ABSENT_MAX {
            state.absent.retain(|_, (since, _)| now - *since < ABSENT_FOR);
        }
        if state.absent.len() < ABSENT_MAX {
            state.absent.insert(id.into(), (now, refusal));
        }
    }

    /// Something newer may have been missed.
    pub(super) fn doubt(&self) {
        let mut state = self.state.lock();
        state.accounts.values_mut().for_each(|entry| entry.confirmed = None);
        state.absent.clear();
    }

    /// All that are there, and those whose JWT does not count, as far as that is remembered.
    pub(super) fn heard_of(&self) -> Vec<String> {
        let state = self.state.lock();
        let there = state.accounts.iter().filter(|(_, entry)| entry.account.is_some()).map(|(id, _)| id);
        let refused = state.absent.iter().filter(|(_, (_, refusal))| refusal.is_some()).map(|(id, _)| id);
        let mut ids: Vec<String> = there.chain(refused).map(ToString::to_string).collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    /// Those that somebody uses.
    pub(super) fn in_use(&self) -> Vec<String> {
        let state = self.state.lock();
        let used = state.accounts.iter().filter(|(_, entry)| Arc::strong_count(&entry.in_use) > 1);
        used.map(|(id, _)| id.to_string()).collect()
    }
}

impl State {
    fn next_version(&mut self) -> u64 {
        self.version += 1;
        self.version
    }

    fn current(&self, entry: &Entry, account: &Arc<Account>) -> Current {
        Current {
            account: Arc::clone(account),
            operators: Arc::clone(&self.operators),
            version: entry.version,
            is_settled: entry.is_settled,
            in_use: Arc::clone(&entry.in_use),
        }
    }

    fn absence(&self, id: &str, now: Instant) -> Lookup {
        match self.absent.get(id).filter(|(since, _)| now - *since < ABSENT_FOR) {
            Some((_, refusal)) => Lookup::Absent(*refusal),
            None => Lookup::Nothing,
        }
    }
}

/// Tells two texts apart that are not made to be alike: it is about log lines.
fn fingerprint(text: &str) -> u64 {
    use std::hash::BuildHasher;
    foldhash::fast::FixedState::default().hash_one(text)
}

/// Says which of two has the older JWT of an operator.
fn tell_who_is_behind(of_file: &[Operator], of_server: &[Operator]) {
    for ours in of_file {
        match of_server.iter().find(|theirs| theirs.id() == ours.id()) {
            Some(theirs) if theirs == ours => {}
            Some(theirs) if theirs.issued_at() < ours.issued_at() => tracing::warn!(
                operator = ours.id(),
                "nats-server has an older JWT of the operator than auth.jwt.operator: what either trusts is trusted here; restart nats-server with the newer one"
            ),
            Some(_) => tracing::warn!(
                operator = ours.id(),
                "auth.jwt.operator is an older JWT of the operator than nats-server has: what either trusts is trusted here; replace the file"
            ),
            None if of_server.is_empty() => {}
            None => tracing::warn!(
                operator = ours.id(),
                "nats-server does not trust the operator of auth.jwt.operator: what either trusts is trusted here"
            ),
        }
    }
}

#[cfg(test)]
mod tests;
